"""Answers to questions that nobody has asked before, made from the zone's record and a form.

Most of an answer does not depend on the name: the flags, what stands in the other sections, the OPT record.
An answer that was made in the long way (`mailstack.dns.authority`) leaves that behind as a form, and the next
name at the same place, with a record of the same size, is answered by filling it in. Nothing is kept for a
name, so that questions for the names of a large zone, each asked once, cost neither time nor memory.

A form is used for names that stand right below one name of a zone (a `Place`), in lower case, when nothing in
the other sections could be shortened by the name itself (RFC 1035 §4.1.4), for sets of one record without
names in it, and for names that are not there or do not have the type, in a signed zone with the proof that
differs (`mailstack.dns.gaps`). Everything else takes the long way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from socket import AF_INET6, inet_aton, inet_pton
from typing import Any, Final

from mailstack.dns import names, packed
from mailstack.dns.authority import Answer, Authority
from mailstack.dns.gaps import Gaps, gaps_of
from mailstack.dns.message import NOERROR, NXDOMAIN, Query
from mailstack.dns.statistics import Seen
from mailstack.dns.zone import AAAA, CNAME, IN, NS, TLSA, A, Node, Zone

TXT, SSHFP, CAA = 16, 44, 257
TYPES: Final = frozenset((A, AAAA, TXT, TLSA, SSHFP, CAA))
"""Types whose data has no names, and beside which nothing is put."""
PLACES_MOST, KINDS_MOST, FORMS_MOST = 10_000, 100, 1_000
"""Places, kinds of question in each, and forms for each of those: all begin anew when there are more."""
_WORDS: Final = {A: b"A", AAAA: b"AAAA"}
_ABSENT = -1
_ADDRESS = b"A "
_OWNER = b"\xc0\x0c"
"""The question's name, as a pointer."""

_Form = tuple[bytes, bytes, bytes]
"""Header without id, what follows the records, and the octets that the answer is counted by."""


class _Kind:
    """Questions that differ in nothing but the name."""

    __slots__ = ("at", "denied", "fixed", "forms", "hosts", "packed", "plain", "rdtype", "signed", "word")

    def __init__(self, query: Query, zone: Zone) -> None:
        self.rdtype = query.rdtype
        self.word = _WORDS.get(query.rdtype, b"")
        """The type in a line (`mailstack.dns.plainlines`)."""
        self.signed = query.do and zone.denial is not None
        self.fixed = _OWNER + query.rdtype.to_bytes(2, "big") + IN.to_bytes(2, "big")
        self.packed: bytes = self.fixed + getattr(zone.nodes, "ttl", 0).to_bytes(4, "big")
        self.plain = self.packed + b"\0\4" if self.word == b"A" and not self.signed else b""
        """An address record of the zone's TTL, up to the address; empty where another type is wanted."""
        self.forms: dict[tuple[int, int, int], _Form] = {}
        """By the end of the question, how many records are answered, and their octets."""
        self.hosts: dict[int, _Form] = {}
        """Those for address records of the zone's TTL that are still lines."""
        self.at: dict[int, int] = {}
        """By the end of the question, where the proof begins that a name falls into a gap. For names that are
        there without the type the end is below zero, here and in the next one."""
        self.denied: dict[tuple[int, int], tuple[bytes, _Form]] = {}
        """By the end of the question and the octets of that proof: what stands before it, and the form."""


class _Place:
    """The names right below one name of a zone."""

    __slots__ = ("avoid", "gaps", "get", "kinds", "star", "zone")

    def __init__(self, zone: Zone, name: bytes, avoid: frozenset[bytes], gaps: Gaps | None) -> None:
        self.zone = zone
        self.star: Node | None = zone.nodes.get(b"\1*" + name)
        self.get: Callable[[bytes], Any] = dict.get.__get__(zone.nodes)  # lines stay lines
        self.avoid = avoid
        self.gaps = gaps
        self.kinds: dict[bytes, _Kind] = {}


class Direct:
    """The forms of one configuration and one transport, for clients that all have the same rights."""

    def __init__(self, authority: Authority) -> None:
        self._authority = authority
        self._places: dict[bytes, _Place] = {}

    def clear(self) -> None:
        """The zones have changed."""
        self._places.clear()

    def answer(self, data: bytes, seen: Seen) -> bytes | None:
        """The answer to a query, counted in `seen`; None when it has to be found in the long way."""
        end = data.find(0, 12) + 1
        name = data[12:end]
        if not name:
            return None
        place = self._places.get(name[1 + name[0] :])
        if place is None:
            return None
        kind = place.kinds.get(data[2:12] + data[end:])
        if kind is None:
            return None
        value = place.get(name)
        if type(value) is bytes and kind.plain and value.startswith(_ADDRESS) and name not in place.avoid:
            # The most common record of all, without more calls than needed.
            form = kind.hosts.get(end)
            if form is not None:
                head, rest, counted = form
                seen[counted] += 1
                address = inet_aton(value[2:].decode())
                return b"".join((data[:2], head, data[12 : end + 4], kind.plain, address, rest))
        if value is None and kind.signed:
            return _denied(place, kind, data, name, value, seen)
        found = _records(place, kind, name, value)
        if found is None:
            return _denied(place, kind, data, name, value, seen) if kind.signed else None
        count, records = found
        form = kind.forms.get((end, count, len(records)))
        if form is None:
            return None
        head, rest, counted = form
        seen[counted] += 1
        return b"".join((data[:2], head, data[12 : end + 4], records, rest))

    def learn(self, data: bytes, query: Query, found: Answer, wire: bytes) -> None:
        """Take the form of an answer that was made in the long way, if it has one."""
        name, zone = query.name, found.zone
        if query.rdtype not in TYPES or zone is None or not name[0]:
            return
        parent = name[1 + name[0] :]
        place = self._places.get(parent)
        if place is None:
            place = self._new_place(parent, zone)
            if place is None:
                return
            if len(self._places) >= PLACES_MOST:
                self._places.clear()
            self._places[parent] = place
        key = data[2:12] + data[12 + len(name) :]
        kind = place.kinds.get(key)
        if kind is None:
            if len(place.kinds) >= KINDS_MOST:
                place.kinds.clear()
            kind = place.kinds[key] = _Kind(query, zone)
        value = place.get(name)
        made = None if value is None and kind.signed else _records(place, kind, name, value)
        if made is None:
            if kind.signed:
                _learn_denied(place, kind, query, value, wire)
            return
        count, records = made
        begin = 12 + len(query.question)
        after = begin + len(records)
        if wire[begin:after] != records or int.from_bytes(wire[6:8], "big") != max(count, 0):
            return
        if len(kind.forms) >= FORMS_MOST:
            kind.forms.clear()
            kind.hosts.clear()
        form = (wire[2:12], wire[after:], wire[2:])
        kind.forms[12 + len(name), count, len(records)] = form
        if count == 1 and kind.plain and records.startswith(kind.plain):
            kind.hosts[12 + len(name)] = form

    def _new_place(self, parent: bytes, zone: Zone) -> _Place | None:
        authority = self._authority
        if parent not in zone.nodes or authority.zone_of(parent) is not zone:
            return None
        if authority.breaks_below(zone, parent):
            return None
        avoid = set(authority.zones)
        for other in _told(zone):
            while names.is_below(other, zone.origin) and other != zone.origin:
                avoid.add(other)
                other = names.parent(other)
        shadowed = frozenset(avoid)
        return _Place(zone, parent, shadowed, gaps_of(zone, parent, shadowed))


def _told(zone: Zone) -> Iterator[bytes]:
    """The names in the other sections of a zone's answers, in lower case."""
    for rrset in (zone.soa, zone.apex.rrsets[NS]):
        for rdata in rrset.rdatas:
            if isinstance(rdata, tuple):
                yield from (name.lower() for name in rdata[1])


def _denied(place: _Place, kind: _Kind, data: bytes, name: bytes, value: Any, seen: Seen) -> bytes | None:
    """The answer with a proof that there is no such name, or none of the type at it."""
    end = 12 + len(name)
    which = end if value is None else -end
    at = kind.at.get(which)
    proof = None if at is None else _proof(place, kind, name, value, at)
    if proof is None:
        return None
    found = kind.denied.get((which, len(proof)))
    if found is None:
        return None
    before, (head, rest, counted) = found
    seen[counted] += 1
    return b"".join((data[:2], head, data[12 : end + 4], before, proof, rest))


def _proof(place: _Place, kind: _Kind, name: bytes, value: Any, at: int) -> bytes | None:
    """The part of the proof that depends on the name, as it stands `at` octets into the answer."""
    if place.gaps is None:
        return None
    if value is not None:
        return place.gaps.own(name, value, kind.rdtype)
    return place.gaps.proof(name, at) if _is_plain(place, name) else None


def _learn_denied(place: _Place, kind: _Kind, query: Query, value: Any, wire: bytes) -> None:
    name, begin = query.name, 12 + len(query.question)
    rcode, answers = wire[3] & 0xF, wire[6:8]
    if place.gaps is None or rcode != (NXDOMAIN if value is None else NOERROR) or answers != b"\0\0":
        return
    if value is None:
        at = place.gaps.place(name, wire, begin) if _is_plain(place, name) else None
    else:
        own = place.gaps.own(name, value, kind.rdtype)
        at = None if own is None or (found := wire.find(own, begin)) < 0 else found
    proof = None if at is None else _proof(place, kind, name, value, at)
    if at is None or proof is None or wire[at : at + len(proof)] != proof:
        return
    if len(kind.denied) >= FORMS_MOST:
        kind.denied.clear()
    end = 12 + len(name)
    which = end if value is None else -end
    kind.at[which] = at
    kind.denied[which, len(proof)] = (wire[begin:at], (wire[2:12], wire[at + len(proof) :], wire[2:]))


def _is_plain(place: _Place, name: bytes) -> bool:
    """Whether a name that is not there is one, in lower case: its first length may be none."""
    return name not in place.avoid and name[0] <= 63 and len(name) <= 255 and name == name.lower()


def _records(place: _Place, kind: _Kind, name: bytes, value: Any) -> tuple[int, bytes] | None:
    """How many records a name answers that stands for `value` in its zone, and their octets.

    `_ABSENT` when there is no such name; None when it takes the long way.
    """
    if name in place.avoid:
        return None
    if type(value) is bytes:
        if value[0] < 2:
            return _from_packed(kind, value)
        if not kind.signed or place.zone.signer is None:
            return _from_line(kind, value)
        value = place.zone.nodes[name]  # to be signed
    if value is None:
        # A length that is none, or too long a name: the query is malformed.
        if kind.signed or not _is_plain(place, name):
            return None
        # The name above is there, so that no other wildcard counts (RFC 4592 §3.3.1).
        star = place.star
        return (_ABSENT, b"") if star is None else _from_node(place.zone, kind, star.owner, star)
    return _from_node(place.zone, kind, name, value)


def _from_line(kind: _Kind, line: bytes) -> tuple[int, bytes] | None:
    start, words = kind.packed, line.split()
    if line[0] < 0x3A:
        start = kind.fixed + int(words[0]).to_bytes(4, "big")
        del words[0]
    word = words[0]
    if word != kind.word:
        return None if word == b"CNAME" or kind.signed else (0, b"")
    if word == b"A":
        return 1, start + b"\0\4" + inet_aton(words[1].decode())
    return 1, start + b"\0\20" + inet_pton(AF_INET6, words[1].decode())


def _from_packed(kind: _Kind, value: bytes) -> tuple[int, bytes] | None:
    at = packed.find(value, kind.rdtype)
    if at is None:
        return None if kind.signed else (0, b"")
    records, signatures, start, end, last = at
    if records != 1 or (kind.signed and not signatures):
        return None
    return (1 + signatures, value[start:last]) if kind.signed else (1, value[start:end])


def _from_node(zone: Zone, kind: _Kind, name: bytes, node: Node) -> tuple[int, bytes] | None:
    rrsets = node.rrsets
    if node.owner != name or CNAME in rrsets or NS in rrsets:
        return None
    rrset = rrsets.get(kind.rdtype)
    if rrset is None:
        return None if kind.signed else (0, b"")
    if len(rrset.rdatas) != 1:
        return None
    rdata = rrset.rdatas[0]
    assert isinstance(rdata, bytes)
    found = kind.fixed + rrset.ttl.to_bytes(4, "big") + len(rdata).to_bytes(2, "big") + rdata
    if not kind.signed:
        return 1, found
    signature = zone.signature(name, rrset)
    if signature is None:
        return None
    fixed = _OWNER + b"\0\x2e\0\1" + signature.ttl.to_bytes(4, "big")
    for rdata in signature.rdatas:
        assert isinstance(rdata, bytes)
        found += fixed + len(rdata).to_bytes(2, "big") + rdata
    return 1 + len(signature.rdatas), found
