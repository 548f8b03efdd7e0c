"""The sets of one name as octets: small, quick to make, and ready to be answered.

A mark (`MARK`, or `UPPER` where the first label of the owner is in capitals), then for each set its type, how
many records and signatures there are and their octets, then these: records as they stand in an answer, with a
pointer to the question (RFC 1035 §4.1.4) for an owner. A large signed zone is kept like this
(`mailstack.dns.signedlines`) until somebody wants a `Node`.
"""

from __future__ import annotations

import struct
from collections.abc import Container, Iterator, Sequence
from typing import Final

from mailstack.dns.zone import RRSIG, Node, RRset

MARK: Final = b"\0"
UPPER: Final = b"\1"
OWNER: Final = b"\xc0\x0c"
_SET = struct.Struct("!HBBHH")
_FIXED = struct.Struct("!2sHHIH")
MOST: Final = 255
"""Records, or signatures, of a set."""

Place = tuple[int, int, int, int, int]
"""Records, signatures; where the records begin, where they end, where the signatures end."""


def is_packed(value: object) -> bool:
    """Whether what stands for a name is octets of this kind."""
    return type(value) is bytes and value[0] < 2


def record(rdtype: int, ttl: int, rdata: bytes) -> bytes:
    """One record (class IN)."""
    return _FIXED.pack(OWNER, rdtype, 1, ttl, len(rdata)) + rdata


def pack_set(rdtype: int, records: Sequence[bytes], signatures: Sequence[bytes]) -> bytes:
    """One set, of `record`s. Raises `ValueError` when there is no room for so many."""
    first, second = b"".join(records), b"".join(signatures)
    if max(len(records), len(signatures)) > MOST or max(len(first), len(second)) > 0xFFFF:
        raise ValueError("too many records")
    return _SET.pack(rdtype, len(records), len(signatures), len(first), len(second)) + first + second


def find(value: bytes, rdtype: int) -> Place | None:
    """Where a set is; None when the name has none."""
    position = 1
    while position < len(value):
        kind, records, signatures, octets, more = _SET.unpack_from(value, position)
        position += 8
        end = position + octets
        if kind == rdtype:
            return records, signatures, position, end, end + more
        position = end + more
    return None


def types(value: bytes) -> Iterator[int]:
    """The types of the sets."""
    position = 1
    while position < len(value):
        kind, _, _, octets, more = _SET.unpack_from(value, position)
        position += 8 + octets + more
        yield kind


def unsigned(value: bytes, but: Container[int]) -> bytes:
    """The same sets without signatures, and without the types in `but`."""
    found = [value[:1]]
    position = 1
    while position < len(value):
        kind, records, _, octets, more = _SET.unpack_from(value, position)
        position += 8
        if kind not in but:
            found += (_SET.pack(kind, records, 0, octets, 0), value[position : position + octets])
        position += octets + more
    return b"".join(found)


def signature_of(value: bytes, rdtype: int) -> RRset | None:
    """The signatures over a set; None when there are none."""
    place = find(value, rdtype)
    return None if place is None or not place[1] else _rrset(RRSIG, value[place[3] : place[4]])


def first_data(value: bytes, place: Place) -> bytes:
    """The data of a set's first record."""
    start = place[2]
    return value[start + 12 : start + 12 + int.from_bytes(value[start + 10 : start + 12], "big")]


def node_of(name: bytes, value: bytes) -> Node:
    """The node; `name` is lower case."""
    owner = name
    if value[:1] == UPPER:
        end = 1 + name[0]
        owner = name[:end].upper() + name[end:]
    node = Node(owner)
    position = 1
    while position < len(value):
        kind, _, _, octets, more = _SET.unpack_from(value, position)
        position += 8
        node.rrsets[kind] = _rrset(kind, value[position : position + octets])
        position += octets
        if more:
            node.rrsets[kind].signature = _rrset(RRSIG, value[position : position + more])
        position += more
    return node


def _rrset(kind: int, octets: bytes) -> RRset:
    position, ttl = 0, 0
    rdatas: list[bytes] = []
    while position < len(octets):
        _, _, _, ttl, length = _FIXED.unpack_from(octets, position)
        position += 12 + length
        rdatas.append(octets[position - length : position])
    return RRset(kind, ttl, tuple(rdatas))
