"""The part of a signed denial that depends on the name, found and written without its sections.

Of the records that prove that a name right below another one is not there (RFC 4035 §3.1.3.2, RFC 5155
§7.2.2), one pair changes with the name: the NSEC or NSEC3 record whose gap it falls into, and its signature.
The others speak of the name above and of the wildcard below that. Of a name that is there without the type
that is asked for, its own NSEC record says so (RFC 4035 §3.1.3.1). `mailstack.dns.direct` fills this pair
into a form.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mailstack.dns import packed
from mailstack.dns.zone import CNAME, DNAME, NS, NSEC, RRSIG, Zone

HEADER = 12
POINTER = 0xC000
_NOT_HERE = frozenset((CNAME, DNAME, NS))
REACH = 0x4000
"""How far into a message a pointer may point."""


class Gaps:
    """The gaps that names right below one name fall into. `avoid` are owners of other records."""

    __slots__ = ("_avoid", "_base", "_find", "_get", "_rdtype")

    def __init__(
        self, find: Callable[[bytes], bytes], nodes: Any, rdtype: int, base: bytes, avoid: frozenset[bytes]
    ) -> None:
        self._find = find
        self._get: Callable[[bytes], Any] = dict.get.__get__(nodes)  # packed sets stay packed
        self._rdtype = rdtype
        self._base = base
        """What an owner is right below: a suffix of every question."""
        self._avoid = avoid

    def proof(self, name: bytes, at: int) -> bytes | None:
        """The two records as they stand `at` octets into the answer; None when they take the long way."""
        found = self._records(name)
        if found is None:
            return None
        owner, first, second = found
        return owner + first + (POINTER | at).to_bytes(2, "big") + second

    def own(self, name: bytes, value: Any, rdtype: int) -> bytes | None:
        """The NSEC record of a name without a type, and its signature, as they stand in the answer.

        `value` is what stands for the name in the zone. None when it takes the long way.
        """
        if self._rdtype != NSEC or name in self._avoid:
            return None
        if packed.is_packed(value):
            found = packed.find(value, NSEC)
            if found is None or found[:2] != (1, 1) or packed.find(value, rdtype) is not None:
                return None
            return bytes(value[found[2] : found[4]])
        rrsets = getattr(value, "rrsets", {})
        rrset = rrsets.get(NSEC)
        if (
            rrset is None
            or rrset.signature is None
            or value.owner != name
            or not _NOT_HERE.isdisjoint(rrsets)
        ):
            return None
        if rdtype in rrsets or len(rrset.rdatas) != 1 or len(rrset.signature.rdatas) != 1:
            return None
        signature = packed.record(RRSIG, rrset.signature.ttl, rrset.signature.rdatas[0])
        return packed.record(NSEC, rrset.ttl, rrset.rdatas[0]) + signature

    def place(self, name: bytes, wire: bytes, start: int) -> int | None:
        """Where an answer that was made in the long way has them."""
        found = self._records(name)
        at = -1 if found is None else wire.find(found[0] + found[1], start)
        return at if 0 <= at < REACH else None

    def _records(self, name: bytes) -> tuple[bytes, bytes, bytes] | None:
        """The owner as it is compressed, the record behind its owner, and the signature behind its own."""
        holder = self._find(name)
        if holder in self._avoid or holder[1 + holder[0] :] != self._base:
            return None
        value = self._get(holder)
        label = holder[: 1 + holder[0]]
        if packed.is_packed(value):
            found = packed.find(value, self._rdtype)
            if found is None or found[:2] != (1, 1):
                return None
            _, _, start, end, last = found
            if value.startswith(packed.UPPER):
                label = label.upper()
            first, second = value[start + 2 : end], value[end + 2 : last]
        else:
            rrset = getattr(value, "rrsets", {}).get(self._rdtype)
            if rrset is None or rrset.signature is None or value.owner[len(label) :] != self._base:
                return None
            if len(rrset.rdatas) != 1 or len(rrset.signature.rdatas) != 1:
                return None
            label = value.owner[: len(label)]
            first = packed.record(self._rdtype, rrset.ttl, rrset.rdatas[0])[2:]
            second = packed.record(RRSIG, rrset.signature.ttl, rrset.signature.rdatas[0])[2:]
        suffix = POINTER | HEADER + len(name) - len(self._base)
        return label + suffix.to_bytes(2, "big"), first, second


def gaps_of(zone: Zone, parent: bytes, avoid: frozenset[bytes]) -> Gaps | None:
    """The gaps below a lower-case name; None where a denial has another form each time."""
    denial = zone.denial
    if denial is None or zone.wild:
        return None
    found = denial.gaps(parent)
    if found is None:
        return None
    find, nodes, rdtype, others = found
    base = zone.origin if nodes is zone.hashes else parent
    return Gaps(find, nodes, rdtype, base, avoid | others)
