"""Proofs that a name or a type is not there: NSEC (RFC 4034 §4) or NSEC3 (RFC 5155) records of a signed zone.

A chain answers two questions, `at` (the record of a name that is in it) and `over` (the record whose gap a
name falls into); what has to be proved in which case is RFC 4035 §3.1.3 and RFC 5155 §7.2, in `Denial`'s
methods. All of them return `(owner, set)` pairs, each once.
"""

from __future__ import annotations

import hashlib
from base64 import b32hexencode
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from mailstack.dns import names
from mailstack.dns.zone import DNSKEY, DS, NSEC, NSEC3, NSEC3PARAM, Node, RRset, Zone

Pair = tuple[bytes, RRset]
Gaps = tuple[Callable[[bytes], bytes], Mapping[bytes, Node], int, frozenset[bytes]]
"""What finds the owner of the record over a name, these owners' nodes, the record's type, and the owners of
the records that are the same for all names."""
SHA1 = 1
"""The only hash algorithm of NSEC3 (RFC 5155 §11)."""


def canonical_key(name: bytes) -> bytes:
    """A key that sorts lower-case wire names in canonical order (RFC 4034 §6.1).

    Labels from the right, an octet of zero after each; octets of zero and one within a label are escaped so
    that nothing sorts before the end of a label.
    """
    found = list(names.labels(name))
    if b"\0" in name[:-1] or b"\1" in name:
        found = [label.replace(b"\1", b"\1\2").replace(b"\0", b"\1\1") for label in found]
    found.reverse()
    return b"\0".join(found) + b"\0" if found else b""


class Chain(Protocol):
    """The records that prove, in their order; `nodes` are their owners by lower-case name."""

    nodes: Mapping[bytes, Node]

    def at(self, name: bytes) -> Pair | None:
        """The record of a lower-case name; None when the chain leaves it out."""

    def over(self, name: bytes) -> Pair:
        """The record whose gap a lower-case name lies in, that is not itself in the chain."""

    def gap(self, name: bytes) -> bytes:
        """The lower-case owner of that record."""


def _having(nodes: Mapping[bytes, Node], rdtype: int) -> Iterator[tuple[bytes, bytes]]:
    """The names that have records of a type, and the data of each; of a large file, of the first one."""
    having: Callable[[int], Iterator[tuple[bytes, bytes]]] | None = getattr(nodes, "having", None)
    if having is not None:
        yield from having(rdtype)
        return
    for name, node in nodes.items():
        for rdata in node.rrsets[rdtype].rdatas if rdtype in node.rrsets else ():
            assert isinstance(rdata, bytes)
            yield name, rdata


class NsecChain:
    """The NSEC records of a zone: `nodes` by lower-case name."""

    def __init__(self, nodes: Mapping[bytes, Node]) -> None:
        ordered = sorted((canonical_key(name), name) for name, _ in _having(nodes, NSEC))
        self._keys = [key for key, _ in ordered]
        self._names = [name for _, name in ordered]
        self.nodes = nodes

    def at(self, name: bytes) -> Pair | None:
        key = canonical_key(name)
        index = bisect_right(self._keys, key) - 1
        return self._pair(index) if index >= 0 and self._keys[index] == key else None

    def over(self, name: bytes) -> Pair:
        return self._pair(bisect_right(self._keys, canonical_key(name)) - 1)

    def gap(self, name: bytes) -> bytes:
        return self._names[bisect_right(self._keys, canonical_key(name)) - 1]

    def _pair(self, index: int) -> Pair:
        node = self.nodes[self._names[index]]
        return node.owner, node.rrsets[NSEC]


@dataclass(frozen=True, slots=True)
class Hashing:
    """How names are hashed (NSEC3PARAM, RFC 5155 §4)."""

    iterations: int
    salt: bytes

    def digest(self, name: bytes) -> bytes:
        """The hash of a lower-case name (RFC 5155 §5)."""
        found = hashlib.sha1(name + self.salt, usedforsecurity=False).digest()
        for _ in range(self.iterations):
            found = hashlib.sha1(found + self.salt, usedforsecurity=False).digest()
        return found

    def owner(self, name: bytes, origin: bytes) -> bytes:
        """The name of a name's NSEC3 record, lower case."""
        return b"\x20" + b32hexencode(self.digest(name)).lower() + origin

    @classmethod
    def read(cls, rdata: bytes) -> Hashing | None:
        """Of NSEC3PARAM's data; None for a hash or flags that nobody has defined."""
        if len(rdata) < 5 or rdata[0] != SHA1 or rdata[1] != 0 or len(rdata) != 5 + rdata[4]:
            return None
        return cls(int.from_bytes(rdata[2:4], "big"), rdata[5:])


class Nsec3Chain:
    """The NSEC3 records of a zone: `nodes` by lower-case name, those of other parameters among them."""

    def __init__(self, nodes: Mapping[bytes, Node], hashing: Hashing) -> None:
        self.hashing = hashing
        salt = bytes((len(hashing.salt),)) + hashing.salt
        parameters = hashing.iterations.to_bytes(2, "big") + salt
        ordered: list[tuple[bytes, bytes]] = []
        for name, rdata in _having(nodes, NSEC3):
            if rdata[0] == SHA1 and rdata[2:].startswith(parameters):
                ordered.append((name[1:33], name))
        ordered.sort()
        self._keys = [key for key, _ in ordered]
        self._names = [name for _, name in ordered]
        self.nodes = nodes

    def __len__(self) -> int:
        return len(self._keys)

    def at(self, name: bytes) -> Pair | None:
        key = self._key(name)
        index = bisect_right(self._keys, key) - 1
        return self._pair(index) if index >= 0 and self._keys[index] == key else None

    def over(self, name: bytes) -> Pair:
        return self._pair(bisect_right(self._keys, self._key(name)) - 1)

    def gap(self, name: bytes) -> bytes:
        return self._names[bisect_right(self._keys, self._key(name)) - 1]

    def _pair(self, index: int) -> Pair:
        node = self.nodes[self._names[index]]
        return node.owner, node.rrsets[NSEC3]

    def _key(self, name: bytes) -> bytes:
        return b32hexencode(self.hashing.digest(name)).lower()


class Denial:
    """What a signed zone adds to its answers. `nodes` are its names, the empty non-terminals included."""

    def __init__(self, origin: bytes, nodes: Mapping[bytes, Node], chain: Chain, *, hashed: bool) -> None:
        self._origin = origin
        self._nodes = nodes
        self._chain = chain
        self._hashed = hashed

    def no_name(self, name: bytes) -> list[Pair]:
        """For NXDOMAIN: neither the name nor a wildcard that could stand for it is there."""
        encloser, closer = self._encloser(name)
        wildcard = b"\1*" + encloser
        if self._hashed:
            return _once([*self._closest(encloser, closer), self._chain.over(wildcard)])
        return _once([self._chain.over(name), self._chain.over(wildcard)])

    def no_type(self, name: bytes, rdtype: int) -> list[Pair]:
        """For a name that is there without the type."""
        found = self._chain.at(name)
        if found is not None:
            return [found]
        if not self._hashed:
            return [self._chain.over(name)]  # an empty non-terminal
        # Under opt-out: a delegation, or a name that is there for one only (RFC 5155 §7.2.4).
        return _once(self._nearest(name))

    def no_type_of_wildcard(self, name: bytes, source: bytes) -> list[Pair]:
        """For a name that a wildcard stands for, without the type."""
        of_wildcard = self._chain.at(source)
        found = [] if of_wildcard is None else [of_wildcard]
        if self._hashed:
            encloser, closer = self._encloser(name)
            return _once([*self._closest(encloser, closer), *found])
        return _once([*found, self._chain.over(name)])

    def wildcard(self, name: bytes) -> list[Pair]:
        """For an answer out of a wildcard: the name itself is not there."""
        return [self._chain.over(self._encloser(name)[1] if self._hashed else name)]

    def no_ds(self, cut: bytes, node: Node) -> list[Pair]:
        """For a referral to servers of a zone that is not signed."""
        return [] if DS in node.rrsets else self.no_type(cut, DS)

    def gaps(self, parent: bytes) -> Gaps | None:
        """What `no_name` is made of for names right below a lower-case name."""
        chain = self._chain
        if not self._hashed:
            return chain.gap, chain.nodes, NSEC, frozenset((chain.gap(b"\1*" + parent),))
        if (encloser := chain.at(parent)) is None:
            return None
        others = frozenset((encloser[0].lower(), chain.gap(b"\1*" + parent)))
        return chain.gap, chain.nodes, NSEC3, others

    # ---- NSEC3: the closest encloser (RFC 5155 §7.2.1)

    def _encloser(self, name: bytes) -> tuple[bytes, bytes]:
        """The longest name above that is there, and the name one label longer."""
        closer, encloser = name, names.parent(name)
        while encloser not in self._nodes:
            closer, encloser = encloser, names.parent(encloser)
        return encloser, closer

    def _closest(self, encloser: bytes, closer: bytes) -> Iterator[Pair]:
        at = self._chain.at(encloser)
        if at is None:
            yield from self._nearest(encloser)
        else:
            yield at
            yield self._chain.over(closer)

    def _nearest(self, name: bytes) -> Iterator[Pair]:
        """The same among the names that the chain has: opt-out leaves some out."""
        closer = name
        while (at := self._chain.at(name)) is None and name != self._origin:
            closer, name = name, names.parent(name)
        if at is not None:
            yield at
            yield self._chain.over(closer)


def denial_of(zone: Zone) -> Denial | None:
    """The proofs that a zone holds; None when it is not signed, or when its chain cannot be used."""
    rrsets = zone.apex.rrsets
    if DNSKEY not in rrsets:
        return None
    if NSEC in rrsets:
        return Denial(zone.origin, zone.nodes, NsecChain(zone.nodes), hashed=False)
    for rdata in rrsets[NSEC3PARAM].rdatas if NSEC3PARAM in rrsets else ():
        assert isinstance(rdata, bytes)
        hashing = Hashing.read(rdata)
        if hashing is not None and len(chain := Nsec3Chain(zone.hashes, hashing)):
            return Denial(zone.origin, zone.nodes, chain, hashed=True)
    return None


def _once(pairs: Iterable[Pair]) -> list[Pair]:
    found: dict[int, Pair] = {}
    for pair in pairs:
        found.setdefault(id(pair[1]), pair)
    return list(found.values())
