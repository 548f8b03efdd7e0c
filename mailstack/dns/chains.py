"""The records that prove, of a zone that is signed while it is served: NSEC or NSEC3, made when wanted.

Names are read as they are kept (`mailstack.dns.plainlines.Nodes`): a large zone stays lines and packed sets.
A record that has been made stands in the zone with its signature: NSEC beside the other sets of its name,
NSEC3 in `Zone.hashes`.

Standards: RFC 4034 §4, RFC 5155 §7.1.
"""

from __future__ import annotations

import struct
from base64 import b32hexencode
from bisect import bisect_right
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from mailstack.dns import names, packed
from mailstack.dns.denial import SHA1, Hashing, Pair, canonical_key
from mailstack.dns.plainlines import type_of
from mailstack.dns.zone import DS, NS, NSEC, NSEC3, RRSIG, Node, RRset, Zone

if TYPE_CHECKING:
    from mailstack.dns.signing import Signer

_OPT_OUT: Final = 1


class Nsec:
    """NSEC records, in canonical order."""

    def __init__(self, signer: Signer) -> None:
        self._signer = signer
        zone = signer.zone
        self._ttl = zone.negative_soa.ttl
        ordered = sorted(
            (canonical_key(name), name)
            for name, value in dict.items(zone.nodes)
            if _has_sets(value) and not is_occluded(zone, name)
        )
        self._keys = [key for key, _ in ordered]
        self._names = [name for _, name in ordered]
        self.nodes: Mapping[bytes, Node] = zone.nodes

    def __len__(self) -> int:
        return len(self._names)

    def at(self, name: bytes) -> Pair | None:
        index = self.index(name)
        return None if index is None else self._pair(index)

    def over(self, name: bytes) -> Pair:
        return self._pair(bisect_right(self._keys, canonical_key(name)) - 1)

    def gap(self, name: bytes) -> bytes:
        return self._names[bisect_right(self._keys, canonical_key(name)) - 1]

    def index(self, name: bytes) -> int | None:
        """The number of the record of a lower-case name."""
        key = canonical_key(name)
        index = bisect_right(self._keys, key) - 1
        return index if index >= 0 and self._keys[index] == key else None

    def make_all(self) -> None:
        """Make every record, for a transfer."""
        for index in range(len(self._names)):
            self._pair(index)

    def record(self, index: int) -> tuple[bytes, RRset]:
        """The lower-case owner of a record, and the record without signature; the zone is left as it is."""
        zone, name = self._signer.zone, self._names[index]
        following = self._names[(index + 1) % len(self._names)]
        value = dict.get(zone.nodes, following)
        owner = value.owner if isinstance(value, Node) else following
        types = {*_types(zone, name), NSEC, RRSIG}
        return name, RRset(NSEC, self._ttl, (owner + bitmap(types),))

    def _pair(self, index: int) -> Pair:
        node = self._signer.zone.nodes[self._names[index]]
        rrset = node.rrsets.get(NSEC)
        if rrset is None:
            rrset = node.rrsets[NSEC] = self.record(index)[1]
        self._signer.signature(self._names[index], rrset)
        return node.owner, rrset


class Nsec3:
    """NSEC3 records, in the order of the hashes."""

    def __init__(self, signer: Signer, hashing: Hashing, *, optout: bool) -> None:
        self._signer = signer
        self._hashing = hashing
        self._flags = _OPT_OUT if optout else 0
        zone = signer.zone
        self._ttl = zone.negative_soa.ttl
        ordered = sorted((hashing.digest(name), name) for name in _hashed_names(zone, optout=optout))
        self._hashes = [digest for digest, _ in ordered]
        self._names = [name for _, name in ordered]
        self.nodes: Mapping[bytes, Node] = zone.hashes

    def __len__(self) -> int:
        return len(self._names)

    def at(self, name: bytes) -> Pair | None:
        digest = self._hashing.digest(name)
        index = bisect_right(self._hashes, digest) - 1
        return self._pair(index) if index >= 0 and self._hashes[index] == digest else None

    def over(self, name: bytes) -> Pair:
        return self._pair(bisect_right(self._hashes, self._hashing.digest(name)) - 1)

    def gap(self, name: bytes) -> bytes:
        return self.owner(bisect_right(self._hashes, self._hashing.digest(name)) - 1)

    def make_all(self) -> None:
        """Make every record, for a transfer."""
        for index in range(len(self._names)):
            self._pair(index)

    def record(self, index: int) -> tuple[bytes, RRset]:
        """The lower-case owner of a record, and the record without signature; the zone is left as it is."""
        zone, hashing, name = self._signer.zone, self._hashing, self._names[index]
        types = set(_types(zone, name))
        if types and (name not in zone.cuts or DS in types):
            types.add(RRSIG)
        following = self._hashes[(index + 1) % len(self._hashes)]
        data = struct.pack("!BBHB", SHA1, self._flags, hashing.iterations, len(hashing.salt)) + hashing.salt
        data += bytes((len(following),)) + following + bitmap(types)
        return self.owner(index), RRset(NSEC3, self._ttl, (data,))

    def owner(self, index: int) -> bytes:
        """The lower-case owner of a record."""
        return b"\x20" + b32hexencode(self._hashes[index]).lower() + self._signer.zone.origin

    def _pair(self, index: int) -> Pair:
        zone = self._signer.zone
        node: Node | None = zone.hashes.get(self.owner(index))
        if node is None:
            key, rrset = self.record(index)
            node = zone.hashes[key] = Node(key[:33] + zone.apex.owner)
            node.rrsets[NSEC3] = rrset
            self._signer.signature(key, rrset)
        return node.owner, node.rrsets[NSEC3]


def is_occluded(zone: Zone, name: bytes) -> bool:
    """Whether a lower-case name of the zone lies below a delegation or a DNAME."""
    if not zone.cuts and not zone.dnames:
        return False
    while len(name) > len(zone.origin):
        name = names.parent(name)
        if name in zone.cuts or name in zone.dnames:
            return True
    return False


def _has_sets(value: Any) -> bool:
    """Whether what stands for a name has data; False for an empty non-terminal."""
    return isinstance(value, bytes) or bool(value.rrsets)


def _hashed_names(zone: Zone, *, optout: bool) -> set[bytes]:
    """The names that get an NSEC3 record: all with data, and the empty ones above them (RFC 5155 §7.1)."""
    found: set[bytes] = set()
    for name, value in dict.items(zone.nodes):
        if not _has_sets(value) or is_occluded(zone, name):
            continue
        if optout and name in zone.cuts and DS not in zone.nodes[name].rrsets:
            continue
        while name not in found:
            found.add(name)
            if name == zone.origin:
                break
            name = names.parent(name)
    return found


def _types(zone: Zone, name: bytes) -> set[int]:
    """The types that the zone speaks for at a name; beside what is its own, NS at a delegation."""
    value: Any = dict.get(zone.nodes, name)
    if isinstance(value, bytes):
        types = set(packed.types(value)) if packed.is_packed(value) else {type_of(value)}
    else:
        types = set(value.rrsets)
    return types & {NS, DS, NSEC} if name in zone.cuts else types


def bitmap(types: set[int]) -> bytes:
    """Types in the form of NSEC (RFC 4034 §4.1.2)."""
    windows: dict[int, bytearray] = {}
    for rdtype in sorted(types):
        window = windows.setdefault(rdtype >> 8, bytearray())
        octet, bit = divmod(rdtype & 0xFF, 8)
        window.extend(bytes(octet + 1 - len(window)))
        window[octet] |= 0x80 >> bit
    return b"".join(bytes((number, len(window))) + bytes(window) for number, window in windows.items())
