"""A zone with changes: records come and go, and a new `Zone` is made of what is left.

`Edit` never touches the zone that it begins with; names that do not change are shared. `changes` are what was
really changed, in order, as the journal keeps it.
"""

from __future__ import annotations

import dns.rdata
import dns.rdataclass
import dns.rdatatype

from mailstack.dns import names
from mailstack.dns.journal import Change
from mailstack.dns.plainlines import Nodes
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


class _Held:
    """A set that is being changed: its records by the form in which they are compared."""

    __slots__ = ("datas", "rdtype", "ttl")

    def __init__(self, rdtype: int, ttl: int, rrset: RRset | None = None) -> None:
        self.rdtype = rdtype
        self.ttl = ttl
        datas = [flat(rdata) for rdata in rrset.rdatas] if rrset is not None else ()
        self.datas = {folded(rdtype, data): data for data in datas}

    def rrset(self) -> RRset:
        """The set as it is now."""
        return rrset_of(self.rdtype, self.ttl, list(self.datas.values()))


class _Name:
    """A name that is being changed, and its sets, of which most stay as they are."""

    __slots__ = ("owner", "sets")

    def __init__(self, owner: bytes, sets: dict[int, RRset | _Held]) -> None:
        self.owner = owner
        self.sets = sets


class Edit:
    """Changes to a zone, one after the other."""

    def __init__(self, zone: Zone, soa: RRset) -> None:
        """`soa` is the zone's own: a zone that is signed as it is served shows another serial."""
        self.origin = zone.origin
        self.signed = zone.denial is not None
        self._zone = zone
        self._soa = soa
        self._names: dict[bytes, _Name] = {}
        """Those that have been looked at in order to be changed."""

    def rrsets(self, name: bytes) -> dict[int, RRset]:
        """The sets at a lower-case name, before all changes."""
        node = self._zone.nodes.get(name)
        rrsets = {} if node is None else node.rrsets
        return {**rrsets, SOA: self._soa} if name == self.origin else rrsets

    def types(self, name: bytes) -> list[int]:
        """The types at a lower-case name now."""
        there = self._names.get(name)
        return list(self.rrsets(name) if there is None else there.sets)

    def add(self, owner: bytes, rdtype: int, ttl: int, data: bytes) -> None:
        """A record comes; all of its set get the TTL (RFC 2136 §3.4.2.2)."""
        name = owner.lower()
        types = set(self.types(name))
        others = types - _OF_SIGNING - {CNAME}
        if (rdtype == CNAME and others) or (CNAME in types and rdtype != CNAME and rdtype not in _OF_SIGNING):
            return
        if rdtype == SOA and (name != self.origin or not is_later(serial_of(data), serial_of(self.soa))):
            return
        held = self._held(name, owner, rdtype, ttl)
        if rdtype in _SINGLE:
            held.datas.clear()
        held.datas[folded(rdtype, data)] = data
        held.ttl = ttl

    def delete(self, name: bytes, rdtype: int, data: bytes) -> None:
        """A record goes, but for the SOA and the zone's last NS (§3.4.2.4)."""
        if rdtype == SOA or rdtype not in self.types(name):
            return
        held = self._held(name, name, rdtype, 0)
        if len(held.datas) == 1 and rdtype == NS and name == self.origin:
            return
        held.datas.pop(folded(rdtype, data), None)
        if not held.datas:
            del self._names[name].sets[rdtype]

    def delete_set(self, name: bytes, rdtype: int) -> None:
        """A set goes, but for the zone's SOA and NS (§3.4.2.3)."""
        if rdtype in self.types(name) and not (name == self.origin and rdtype in (SOA, NS)):
            del self._opened(name, name).sets[rdtype]

    def result(self) -> Zone:
        """The zone as it is now. Names without records are gone."""
        nodes = self._zone.nodes
        if isinstance(nodes, Nodes):  # a large file's stay as they are kept
            nodes = nodes.copied()
        else:
            nodes = {name: node for name, node in nodes.items() if node.rrsets}
        gone: list[_Name] = []
        for name, one in self._names.items():
            node = nodes[name] = Node(one.owner)
            for rdtype, held in one.sets.items():
                node.rrsets[rdtype] = held.rrset() if isinstance(held, _Held) else held
            if not one.sets:
                gone.append(one)
        for one in gone:
            self._take_out(nodes, one.owner.lower())
        nodes[self.origin].rrsets[SOA] = rrset_of(SOA, self._soa_ttl, [self.soa])
        return Zone(self.origin, nodes)

    def _take_out(self, nodes: dict[bytes, Node], name: bytes) -> None:
        """Take out a name without records unless others are below it, and those above that are like it."""
        while name != self.origin and name in nodes and not nodes[name].rrsets:
            if any(one.endswith(name) and one != name and names.is_below(one, name) for one in nodes):
                return
            del nodes[name]
            name = names.parent(name)

    @property
    def changes(self) -> tuple[Change, ...]:
        """What is different now: of each set the records that went, then those that came."""
        found: list[Change] = []
        for name, one in self._names.items():
            before = self.rrsets(name)
            for rdtype in dict.fromkeys((*before, *one.sets)):
                found += _difference(one.owner, rdtype, before.get(rdtype), one.sets.get(rdtype))
        return tuple(found)

    @property
    def soa(self) -> bytes:
        """The data of the SOA record."""
        held = self._names[self.origin].sets[SOA] if self.origin in self._names else self._soa
        return next(iter(held.datas.values())) if isinstance(held, _Held) else flat(held.rdatas[0])

    @property
    def _soa_ttl(self) -> int:
        return (self._names[self.origin].sets[SOA] if self.origin in self._names else self._soa).ttl

    def renumber(self) -> None:
        """The next serial (RFC 1982; zero is left out)."""
        data = self.soa
        serial = (serial_of(data) + 1) & 0xFFFFFFFF or 1
        owner = self._zone.apex.owner
        self.add(owner, SOA, self._soa_ttl, data[:-20] + serial.to_bytes(4, "big") + data[-16:])

    def _opened(self, name: bytes, owner: bytes) -> _Name:
        """A name that may be changed."""
        found = self._names.get(name)
        if found is None:
            node = self._zone.nodes.get(name)
            own = owner if node is None or not node.rrsets else node.owner
            found = self._names[name] = _Name(own, {**self.rrsets(name)})
        return found

    def _held(self, name: bytes, owner: bytes, rdtype: int, ttl: int) -> _Held:
        """A set that may be changed."""
        sets = self._opened(name, owner).sets
        found = sets.get(rdtype)
        if not isinstance(found, _Held):
            found = sets[rdtype] = _Held(rdtype, ttl if found is None else found.ttl, found)
        return found


def _difference(owner: bytes, rdtype: int, before: RRset | None, now: RRset | _Held | None) -> list[Change]:
    """What makes one set of another. With another TTL all of its records are others."""
    if now is before or (now is None and before is None):
        return []
    old = {} if before is None else dict.fromkeys(map(flat, before.rdatas), before.ttl)
    new = {}
    if isinstance(now, _Held):
        new = dict.fromkeys(now.datas.values(), now.ttl)
    gone = [Change(owner, rdtype, None, data, ttl) for data, ttl in old.items() if new.get(data) != ttl]
    come = [Change(owner, rdtype, ttl, data) for data, ttl in new.items() if old.get(data) != ttl]
    return [*gone, *come]


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
