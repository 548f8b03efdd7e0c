"""Update messages (RFC 2136) on the server's side: who may, what is logged, what is served afterwards."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping

import dns.exception
import dns.message

from mailstack.config.named import Locality
from mailstack.config.named import Zone as ZoneConf
from mailstack.config.named.updates import permitted
from mailstack.dns import names
from mailstack.dns.authority import Authority
from mailstack.dns.clients import who as client
from mailstack.dns.message import FORMERR, NOERROR, NOTAUTH, REFUSED, Query
from mailstack.dns.results import Handed
from mailstack.dns.rights import View
from mailstack.dns.tsig import Signed
from mailstack.dns.update import Refusal, Sign, update
from mailstack.dns.zone import ANY, IN, SOA, Zone
from mailstack.net.log import Log

_UPDATE = 2
"""The section of a message that says what is to change (RFC 2136 §2)."""


class Updates:
    """Changes zones of `authority`. `changed` is told the zone's name in named.conf, and the new zone."""

    def __init__(
        self,
        authority: Authority,
        zones: Mapping[bytes, ZoneConf],
        sign: Sign | None,
        changed: Callable[[str, Zone], None],
        locality: Locality,
        log: Log,
    ) -> None:
        self._authority = authority
        self._zones = zones
        self._sign = sign
        self._changed = changed
        self._locality = locality
        self._log = log.category("update")
        self._security = log.category("update-security")

    def handed(
        self, data: bytes, query: Query, view: View, host: str, port: int, signed: Signed | None
    ) -> Handed | None:
        """The update of a secondary zone that its primaries are to have; None for all others."""
        conf = self._zones.get(query.name.lower())
        if conf is None or conf.kind != "secondary" or (query.rdtype, query.rdclass) != (SOA, IN):
            return None
        address = ipaddress.ip_address(host.partition("%")[0])
        key = signed.name if signed is not None else None
        if not conf.transfers.allow_update_forwarding.matches(address, self._locality, key):
            return None
        who = client(host, port, key)
        self._log.info(f"{who}: forwarding update for zone '{names.to_text(query.name)}/IN'")
        return Handed(query, view, 0, query.question, (), None, data=data, conf=conf)

    def rcode(
        self, data: bytes, query: Query, view: View, host: str, port: int, signed: Signed | None
    ) -> int:
        """Do what a message says; the response code. The zone section is where the question is in a query."""
        origin = query.name.lower()
        zone, conf = self._authority.zones.get(origin), self._zones.get(origin)
        if query.rdtype != SOA or query.rdclass != IN:
            return FORMERR
        who = client(host, port, signed.name if signed is not None else None)
        shown = f"{names.to_text(origin)}/IN"
        if zone is not None and conf is not None and conf.kind == "secondary":
            self._security.error(f"{who}: update forwarding '{shown}' denied")
            return REFUSED
        if zone is None or conf is None or conf.kind != "primary":
            return NOTAUTH
        if not view.update.get(origin, False) or self._sign is None:
            self._security.error(f"{who}: update '{shown}' denied")
            return REFUSED
        try:
            message = (
                signed.message if signed is not None else dns.message.from_wire(data, one_rr_per_rrset=True)
            )
            if conf.update_policy:
                _check(conf, zone, message, signed.name if signed is not None else None)
            changed = update(zone, conf, message, self._sign)
        except Refusal as refusal:
            self._log.info(f"{who}: updating zone '{shown}': update unsuccessful: {refusal}")
            return refusal.rcode
        except (dns.exception.DNSException, ValueError):
            return FORMERR
        if changed is not zone:
            self._authority.zones[origin] = changed
            self._changed(conf.name, changed)
            self._log.info(f"{who}: updating zone '{shown}': serial {changed.serial}")
        return NOERROR


def _check(conf: ZoneConf, zone: Zone, message: dns.message.Message, key: str | None) -> None:
    """Raise `Refusal` for a change that `update-policy` does not grant."""
    for record in message.sections[_UPDATE]:
        name, rdtype = record.name.to_text(True).lower(), int(record.rdtype)
        kinds = [rdtype]
        if rdtype == ANY:  # everything of the name is to go
            node = zone.nodes.get((record.name.to_wire() or names.ROOT).lower())
            kinds = list(node.rrsets) if node is not None else []
        if not all(permitted(conf.update_policy, key, name, kind) for kind in kinds):
            raise Refusal(REFUSED, "rejected by secure update")
