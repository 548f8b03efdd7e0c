"""A zone with changes: records come and go, and a new `Zone` is made of what is left.

`Edit` never touches the zone that it begins with; names that do not change are shared. `changes` are what was
really changed, in order, as the journal keeps it.
"""

from __future__ import annotations

import dns.rdata
import dns.rdataclass
import dns.rdatatype

from mailstack.dns.journal import Change
from mailstack.dns.zone import CNAME, DNAME, MX, NS, PTR, RRSIG, SOA, Node, Rdata, RRset, Zone
from mailstack.dns.zonefile import compact

COMPACT = frozenset((NS, CNAME, SOA, PTR, MX, 18, 21, 33, 35, 36, 64, 65))
"""Types that `compact` stores in another form than their octets, or that name hosts."""
PREFIXES = {NS: 0, CNAME: 0, PTR: 0, MX: 2}
"""Octets before the name that the data of a record ends with."""
_SINGLE = frozenset((CNAME, DNAME, SOA))
_OF_SIGNING = frozenset((RRSIG, 47, 50))
"""Types that stand beside a CNAME (RFC 4034): RRSIG, NSEC, NSEC3."""


def flat(rdata: Rdata) -> bytes:
    """A record's data on the wire, uncompressed."""
    return rdata if isinstance(rdata, bytes) else rdata[0] + b"".join(rdata[1]) + rdata[2]


def folded(rdtype: int, data: bytes) -> bytes:
    """The form in which two records' data are compared (RFC 2136 §1.1.1): names in lower case."""
    kind = dns.rdatatype.RdataType.make(rdtype)
    return dns.rdata.from_wire(dns.rdataclass.IN, kind, data, 0, len(data)).to_digestable()


class Edit:
    """Changes to a zone, one after the other."""

    def __init__(self, zone: Zone, soa: RRset) -> None:
        """`soa` is the zone's own: a zone that is signed as it is served shows another serial."""
        self.origin = zone.origin
        self.signed = zone.denial is not None
        self._nodes = dict(zone.nodes)
        self._own: set[bytes] = set()
        self.changes: list[Change] = []
        self._node(zone.origin).rrsets[SOA] = soa

    def rrsets(self, name: bytes) -> dict[int, RRset]:
        """The sets at a lower-case name."""
        node = self._nodes.get(name)
        return {} if node is None else node.rrsets

    def add(self, owner: bytes, rdtype: int, ttl: int, data: bytes) -> None:
        """A record comes; one that is there already gets the TTL (RFC 2136 §3.4.2.2)."""
        name = owner.lower()
        rrsets = self.rrsets(name)
        others = rrsets.keys() - _OF_SIGNING - {CNAME}
        if (rdtype == CNAME and others) or (
            CNAME in rrsets and rdtype != CNAME and rdtype not in _OF_SIGNING
        ):
            return
        present = rrsets.get(rdtype)
        if rdtype == SOA and (name != self.origin or not is_later(serial_of(data), serial_of(self.soa))):
            return
        kept = [flat(rdata) for rdata in present.rdatas] if present is not None else []
        key = folded(rdtype, data)
        if rdtype in _SINGLE:
            kept = []
        same = [one for one in kept if folded(rdtype, one) == key]
        if same and present is not None and present.ttl == ttl and data in same:
            return
        if present is not None:
            self._gone(name, rdtype, [flat(rdata) for rdata in present.rdatas])
        wanted = [one for one in kept if one not in same] + [data]
        node = self._node(name, owner)
        node.rrsets[rdtype] = rrset_of(rdtype, ttl, wanted)
        self.changes += [Change(node.owner, rdtype, ttl, one) for one in wanted]

    def delete(self, name: bytes, rdtype: int, data: bytes) -> None:
        """A record goes, but for the SOA and the zone's last NS (§3.4.2.4)."""
        present = self.rrsets(name).get(rdtype)
        if present is None or rdtype == SOA:
            return
        key = folded(rdtype, data)
        all_of_them = [flat(rdata) for rdata in present.rdatas]
        kept = [one for one in all_of_them if folded(rdtype, one) != key]
        if len(kept) == len(all_of_them) or (name == self.origin and rdtype == NS and not kept):
            return
        self._gone(name, rdtype, [one for one in all_of_them if one not in kept])
        node = self._node(name)
        if kept:
            node.rrsets[rdtype] = rrset_of(rdtype, present.ttl, kept)
        else:
            del node.rrsets[rdtype]

    def delete_set(self, name: bytes, rdtype: int) -> None:
        """A set goes, but for the zone's SOA and NS (§3.4.2.3)."""
        present = self.rrsets(name).get(rdtype)
        if present is None or (name == self.origin and rdtype in (SOA, NS)):
            return
        self._gone(name, rdtype, [flat(rdata) for rdata in present.rdatas])
        del self._node(name).rrsets[rdtype]

    def result(self) -> Zone:
        """The zone as it is now. Names without records are gone."""
        return Zone(self.origin, {name: node for name, node in self._nodes.items() if node.rrsets})

    @property
    def soa(self) -> bytes:
        """The data of the SOA record."""
        return flat(self._nodes[self.origin].rrsets[SOA].rdatas[0])

    def renumber(self) -> None:
        """The next serial (RFC 1982; zero is left out)."""
        soa = self._nodes[self.origin].rrsets[SOA]
        data = self.soa
        serial = (serial_of(data) + 1) & 0xFFFFFFFF or 1
        self.add(
            self._nodes[self.origin].owner, SOA, soa.ttl, data[:-20] + serial.to_bytes(4, "big") + data[-16:]
        )

    def _gone(self, name: bytes, rdtype: int, datas: list[bytes]) -> None:
        node = self._nodes[name]
        ttl = node.rrsets[rdtype].ttl
        self.changes += [Change(node.owner, rdtype, None, data, ttl) for data in datas]

    def _node(self, name: bytes, owner: bytes = b"") -> Node:
        """A node that may be changed."""
        before = self._nodes.get(name)
        if name not in self._own:
            self._own.add(name)
            node = self._nodes[name] = Node(owner if before is None or not before.rrsets else before.owner)
            if before is not None:
                node.rrsets.update(before.rrsets)
        return self._nodes[name]


def serial_of(soa: bytes) -> int:
    """The serial in the data of a SOA record."""
    return int.from_bytes(soa[-20:-16], "big")


def is_later(one: int, other: int) -> bool:
    """Serial number arithmetic (RFC 1982 §3.2)."""
    return 0 < (one - other) & 0xFFFFFFFF < 0x80000000


def rrset_of(rdtype: int, ttl: int, datas: list[bytes]) -> RRset:
    """A set of records from their data on the wire, uncompressed."""
    if rdtype not in COMPACT:
        return RRset(rdtype, ttl, tuple(datas))
    before = PREFIXES.get(rdtype)
    if before is not None:  # most records: what `compact` makes of them, without reading them once more
        hosts = dict.fromkeys(data[before:] for data in datas) if rdtype in (NS, MX) else ()
        return RRset(
            rdtype, ttl, tuple((data[:before], (data[before:],), b"") for data in datas), tuple(hosts)
        )
    kind = dns.rdatatype.RdataType.make(rdtype)
    forms: list[Rdata] = []
    targets: list[bytes] = []
    for data in datas:
        form, target = compact(rdtype, dns.rdata.from_wire(dns.rdataclass.IN, kind, data, 0, len(data)))
        forms.append(form)
        if target is not None and target not in targets:
            targets.append(target)
    return RRset(rdtype, ttl, tuple(forms), tuple(targets))
