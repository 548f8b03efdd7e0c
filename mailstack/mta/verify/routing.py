"""Where probes go: as mail does, or by transports and relays of their own (address_verify_…)."""

from __future__ import annotations

from mailstack.config.postfix.main_cf import MainCf
from mailstack.mta.address_maps import OpenTable
from mailstack.mta.rewrite import Rewriter

_ROUTING = (
    "default_transport",
    "local_transport",
    "relay_transport",
    "virtual_transport",
    "relayhost",
    "transport_maps",
    "sender_dependent_relayhost_maps",
    "sender_dependent_default_transport_maps",
)
"""Parameters of routing that have a double for probes, `address_verify_` before the name."""
_KINDS = ("btree", "hash", "lmdb")


def probing_rewriter(conf: MainCf, open_table: OpenTable) -> Rewriter | None:
    """What routes probes; None: what routes mail. Raises `ConfigError`, `TableError` and `OSError`."""
    check_map(conf)
    names = [name for name in _ROUTING if conf.is_set(f"address_verify_{name}")]
    if not names:
        return None
    return Rewriter(
        conf.with_overrides({name: conf.raw(f"address_verify_{name}") for name in names}), open_table
    )


def check_map(conf: MainCf) -> None:
    """Raises `ConfigError` where address_verify_map is nothing that a cache can be kept in."""
    name = conf.str("address_verify_map")
    kind, colon, path = name.removeprefix("proxy:").partition(":")
    if name and not (kind in _KINDS and colon and path.startswith("/")):
        text = f"{name}: a cache is kept in memory (empty), or in a {', '.join(_KINDS)} file"
        raise conf.error("address_verify_map", text)
