"""Where probes go: as mail does, or by transports and relays of their own (address_verify_…)."""

from __future__ import annotations

from mailstack.config.postfix.main_cf import MainCf
from mailstack.mta.address_maps import OpenTable
from mailstack.mta.rewrite import Rewriter

_ROUTING = (
    "address_verify_default_transport",
    "address_verify_local_transport",
    "address_verify_relay_transport",
    "address_verify_virtual_transport",
    "address_verify_relayhost",
    "address_verify_transport_maps",
    "address_verify_sender_dependent_relayhost_maps",
    "address_verify_sender_dependent_default_transport_maps",
)
"""What routes probes in place of the parameter of the same name without `address_verify_`."""
_KINDS = ("btree", "hash", "lmdb")


def probing_rewriter(conf: MainCf, open_table: OpenTable) -> Rewriter | None:
    """What routes probes; None: what routes mail. Raises `ConfigError`, `TableError` and `OSError`."""
    check_map(conf)
    given = {name.removeprefix("address_verify_"): conf.raw(name) for name in _ROUTING if conf.is_set(name)}
    return Rewriter(conf.with_overrides(given), open_table) if given else None


def check_map(conf: MainCf) -> None:
    """Raises `ConfigError` where address_verify_map is nothing that a cache can be kept in."""
    name = conf.str("address_verify_map")
    kind, colon, path = name.removeprefix("proxy:").partition(":")
    if name and not (kind in _KINDS and colon and path.startswith("/")):
        text = f"{name}: a cache is kept in memory (empty), or in a {', '.join(_KINDS)} file"
        raise conf.error("address_verify_map", text)
