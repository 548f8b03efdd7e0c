"""The plain lines of large zone files, read in bulk: `host A 192.0.2.1`, `d 300 IN MX 10 host`.

dnspython takes some 100 microseconds and a kilobyte for a record. Lines of the common types in their
simplest spelling are found by one expression and kept as they stand until somebody asks for the name
(`Nodes`); what lies between them goes through dnspython. Whatever is out of the
ordinary raises `Unusual`: the file as a whole is then read by dnspython, which knows the error, its file and
its line.

Standards: RFC 1035 §5.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Iterator
from typing import Any

from mailstack.dns import names, packed
from mailstack.dns.zone import AAAA, CNAME, MX, PTR, SRV, A, Node, Rdata, RRset

_LABEL = rb"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_NAME = rb"%s(?:\.%s)*\.?" % (_LABEL, _LABEL)
_OCTET = rb"(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_NUMBER = rb"(?:[1-9][0-9]{0,3}|0)"
_LINE = re.compile(
    rb"^(%(name)s)?[ \t]+(?:([1-9][0-9]{0,7})[ \t]+)?(?:IN[ \t]+)?"
    rb"(A[ \t]+%(octet)s(?:\.%(octet)s){3}"
    rb"|(?:CNAME|PTR)[ \t]+%(name)s"
    rb"|MX[ \t]+%(number)s[ \t]+%(name)s"
    rb"|SRV[ \t]+%(number)s[ \t]+%(number)s[ \t]+%(number)s[ \t]+%(name)s"
    rb"|AAAA[ \t]+[0-9a-f]{1,4}:[0-9a-f:]{1,34}"
    rb")[ \t]*\n" % {b"name": _NAME, b"octet": _OCTET, b"number": _NUMBER},
    re.MULTILINE,
)
_HOST = re.compile(_LABEL)
_TYPES = {b"A": A, b"AAAA": AAAA, b"CNAME": CNAME, b"PTR": PTR, b"MX": MX, b"SRV": SRV}
_LENGTH = [bytes((size,)) for size in range(64)]
NAME_LIMIT = 180
"""Octets of the longest name, as it stands, that is plain: with an origin it may get too long."""
GAPS_LEAST = 100
GAPS_SHARE = 10_000
"""Gaps between lines: more than `GAPS_LEAST`, and more than one for so many octets, are not worth
the trouble. A file that dnssec-signzone has made has one behind every line."""


class Unusual(Exception):  # noqa: N818 - a kind of file, not an error
    """Not a file of plain lines: to be read as a whole."""


class Nodes(dict[bytes, Any]):
    """A zone's names, of which most are kept as their line until they are asked for.

    A value is a `Node`, the octets `[TTL ]TYPE DATA`, or packed sets, which the methods never let out. Names
    with such a value are lower case, no wildcards and no delegations; those with a line have one record.
    """

    def __init__(self, origin: bytes, ttl: int) -> None:
        super().__init__()
        self.origin = origin
        """Of the names in the lines; lower case."""
        self.ttl = ttl
        """Seconds, where a line has none."""
        self.hashes: Nodes
        """The names of NSEC3 records of a signed file."""

    def __getattr__(self, name: str) -> Nodes:
        if name != "hashes":
            raise AttributeError(name)
        self.hashes = Nodes(self.origin, self.ttl)
        return self.hashes

    def __getitem__(self, name: bytes) -> Node:
        value: Node | bytes = super().__getitem__(name)
        return self._made(name, value) if isinstance(value, bytes) else value

    def get(self, name: bytes, default: Any = None) -> Any:
        value = super().get(name)
        if value is None:
            return default
        return self._made(name, value) if isinstance(value, bytes) else value

    def pop(self, name: bytes, *default: Any) -> Any:
        self.get(name)
        return super().pop(name, *default)

    def __iter__(self) -> Iterator[bytes]:  # so that dict(nodes) asks for each
        return super().__iter__()

    def values(self) -> Any:
        self._make_all()
        return super().values()

    def items(self) -> Any:
        self._make_all()
        return super().items()

    def keep(self, name: bytes, line: bytes) -> None:
        """Take a name with its line."""
        super().__setitem__(name, line)

    def copied(self) -> Nodes:
        """The same names, kept as they are; those of NSEC3 records are not among them."""
        other = Nodes(self.origin, self.ttl)
        dict.update(other, iter(super().items()))
        return other

    def kept(self) -> Iterator[tuple[bytes, bytes]]:
        """The names that are still lines."""
        for name, value in super().items():
            if isinstance(value, bytes) and not packed.is_packed(value):
                yield name, value

    def having(self, rdtype: int) -> Iterator[tuple[bytes, bytes]]:
        """The names that have records of a type which no line has, and the data of their first one."""
        for name, value in super().items():
            if isinstance(value, bytes):
                place = packed.find(value, rdtype) if packed.is_packed(value) else None
                if place is not None:
                    yield name, packed.first_data(value, place)
            elif rdtype in value.rrsets:
                yield name, value.rrsets[rdtype].rdatas[0]

    def special(self) -> Iterator[tuple[bytes, Node]]:
        """The names that are no lines: all that may matter to others."""
        for name, value in list(super().items()):
            if not isinstance(value, bytes):
                yield name, value

    def has_address(self, name: bytes) -> bool:
        """Whether the name has an address, and is no `Node`."""
        value = super().get(name)
        if isinstance(value, bytes) and packed.is_packed(value):
            return any(packed.find(value, kind) is not None for kind in (A, AAAA))
        return isinstance(value, bytes) and _kind(value) in (b"A", b"AAAA")

    def peek(self, name: bytes) -> Node:
        """The node of a name that is there; made anew, not kept, where it is a line or packed."""
        value: Node | bytes = super().__getitem__(name)
        return self._node(name, value) if isinstance(value, bytes) else value

    def _node(self, name: bytes, line: bytes) -> Node:
        if packed.is_packed(line):
            return packed.node_of(name, line)
        node = Node(name)
        add_line(node, line, self.origin, self.ttl)
        return node

    def _made(self, name: bytes, line: bytes) -> Node:
        node = self._node(name, line)
        super().__setitem__(name, node)
        return node

    def _make_all(self) -> None:
        for name, value in list(super().items()):
            if isinstance(value, bytes):
                self._made(name, value)


def _kind(line: bytes) -> bytes:
    words = line.split(None, 2)
    return words[1] if words[0][0] < 0x3A else words[0]


def type_of(line: bytes) -> int:
    """The type of a line's record."""
    return _TYPES[_kind(line)]


def targets_of(line: bytes, origin: bytes) -> tuple[int, bytes] | None:
    """The type and the host of a line with MX or SRV."""
    words = line.split()
    kind = type_of(line)
    return (kind, absolute(words[-1], origin)) if kind in (MX, SRV) else None


def absolute(text: bytes, origin: bytes) -> bytes:
    """The wire form of a plain name."""
    if text.endswith(b"."):
        text, origin = text[:-1], names.ROOT
    return b"".join([_LENGTH[len(label)] + label for label in text.split(b".")]) + origin


def add_line(node: Node, line: bytes, origin: bytes, ttl: int) -> None:
    """Put a line's record into a node. Raises `Unusual` where dnspython has to decide what it means."""
    words = line.split()
    if words[0][0] < 0x3A:
        ttl = int(words.pop(0))
    kind = _TYPES[words[0]]
    rdata, target = _data(kind, words, origin)
    rrset = node.rrsets.get(kind)
    if rrset is None:
        if node.rrsets and (kind == CNAME or CNAME in node.rrsets):
            raise Unusual
        node.rrsets[kind] = RRset(kind, ttl, (rdata,), () if target is None else (target,))
        return
    if kind == CNAME or rrset.ttl != ttl or rdata in rrset.rdatas:
        raise Unusual
    rrset.rdatas += (rdata,)
    if target is not None and target not in rrset.targets:
        rrset.targets += (target,)


def _data(kind: int, words: list[bytes], origin: bytes) -> tuple[Rdata, bytes | None]:
    if kind == A:
        return bytes(map(int, words[1].split(b"."))), None
    if kind == AAAA:
        return socket.inet_pton(socket.AF_INET6, words[1].decode()), None
    target = absolute(words[-1], origin)
    if kind in (CNAME, PTR):
        return (b"", (target,), b""), None
    numbers = b"".join(int(word).to_bytes(2, "big") for word in words[1:-1])
    return ((numbers, (target,), b""), target) if kind == MX else (numbers + target, target)


Between = Callable[[bytes, bytes], tuple[bytes, int, bytes]]
"""Reads the octets between plain lines, after the owner in the last of them (wire; empty when there is none).
Returns origin (wire), default TTL (negative: there is none, records have to say) and the last owner, in the
file's case. Raises `Unusual`."""


class Gaps:
    """What lies between the plain lines of a file of `size` octets, and what it says of those behind it."""

    def __init__(self, size: int, between: Between) -> None:
        self._between = between
        self._left = GAPS_LEAST + size // GAPS_SHARE
        self.nodes: Nodes | None = None
        """The names of the file: from the first gap on, which has the SOA."""
        self.origin = b""
        self.above: dict[bytes, bytes] = {}
        """Names that others lie below: text -> wire, as far as that is known for this origin."""

    def read(self, octets: bytes, last: bytes) -> tuple[int, bytes]:
        """Read one behind the owner `last`: default TTL, owner, as `Between` has them. Raises `Unusual`."""
        if not self._left:
            raise Unusual
        self._left -= 1
        origin, ttl, last = self._between(octets, last)
        if self.nodes is None:
            self.nodes = Nodes(origin, max(ttl, 0))
        if origin != self.origin:
            if origin != self.nodes.origin or origin != origin.lower():
                raise Unusual
            self.origin, self.above = origin, {b"": origin}
        return ttl, last


def read(data: bytes, between: Between) -> tuple[Nodes, set[bytes]]:
    """The names of the plain lines, and the names above them. Raises `Unusual`."""
    nodes: Nodes | None = None
    above: dict[bytes, bytes] = {}
    parents: set[bytes] = set()
    last, done, ttl = b"", 0, 0
    gaps, origin = Gaps(len(data), between), b""
    for match in _LINE.finditer(data):
        start = match.start()
        if start != done:
            ttl, last = gaps.read(data[done:start], last)
            nodes, origin, above = gaps.nodes, gaps.origin, gaps.above
        if nodes is None:
            raise Unusual  # no SOA before the first record
        done = match.end()
        owner, own, line = match.groups()
        if owner is None:
            name = last
            if not names.is_below(name, origin) or not all(map(_HOST.fullmatch, names.labels(name))):
                raise Unusual
        elif len(owner) > NAME_LIMIT:
            raise Unusual
        else:
            label, dot, rest = owner.partition(b".")
            if dot and not rest:
                raise Unusual  # a top-level name
            suffix = above.get(rest)
            if suffix is None:
                suffix = above[rest] = absolute(rest, origin)
                if not names.is_below(suffix, origin):
                    raise Unusual
                parents.add(suffix)
            last = name = _LENGTH[len(label)] + label + suffix
        if own is not None:
            line = own + b" " + line
        elif ttl < 0:
            raise Unusual
        elif ttl != nodes.ttl:
            line = b"%d %s" % (ttl, line)
        if b":" in line:
            try:
                socket.inet_pton(socket.AF_INET6, line.split()[-1].decode())
            except OSError:
                raise Unusual from None
        if name in nodes:
            add_line(nodes[name], line, origin, ttl)
        else:
            nodes.keep(name, line)
    if nodes is None:
        raise Unusual
    if done != len(data):
        between(data[done:], last)
    return nodes, parents
