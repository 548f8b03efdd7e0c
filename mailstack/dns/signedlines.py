"""Large signed zone files, as dnssec-signzone writes them, read in bulk.

Each name has half a dozen records there, some over several lines in parentheses; dnspython takes a minute for
what named reads in two seconds. Records of hosts (A, AAAA), their proofs (NSEC, NSEC3) and signatures over
anything are found by one expression, and the sets of a name are kept packed (`mailstack.dns.packed`). All
else goes through dnspython, and `Unusual` means that the whole file has to.

Standards: RFC 1035 §5, RFC 4034 §3.2 and §4.2, RFC 5155 §3.3.
"""

from __future__ import annotations

import binascii
import calendar
import re
import socket
import struct
from collections.abc import Callable
from functools import lru_cache

import dns.exception
import dns.rdatatype
from dns.rdtypes.util import Bitmap
from dns.tokenizer import Tokenizer

from mailstack.dns import names, packed
from mailstack.dns.plainlines import (
    _HOST,
    _LENGTH,
    _NAME,
    _OCTET,
    NAME_LIMIT,
    Between,
    Gaps,
    Nodes,
    Unusual,
    absolute,
    add_line,
)
from mailstack.dns.zone import AAAA, CNAME, NSEC, NSEC3, RRSIG, A, Node, RRset

_RECORD = re.compile(
    rb"^(%(name)s|[0-9A-V]{32}\.%(name)s)?[ \t]+(?:(0|[1-9][0-9]{0,7})[ \t]+)?(?:IN[ \t]+)?"
    rb"(A[ \t]+%(octet)s(?:\.%(octet)s){3}"
    rb"|AAAA[ \t]+[0-9a-f]{1,4}:[0-9a-f:]{1,34}"
    rb"|NSEC[ \t]+%(name)s(?:[ \t]+[A-Z0-9-]+)+"
    rb"|NSEC3[ \t]+1[ \t]+[01][ \t]+[0-9]{1,5}[ \t]+(?:-|[0-9A-F]+)[ \t]+"
    rb"\([ \t]*\n?[ \t]*[0-9A-V]{32}(?:[ \t\n]+[A-Z0-9-]+)*[ \t\n]*\)"
    rb"|RRSIG[ \t]+[A-Z0-9-]+(?:[ \t]+[0-9]{1,8}){3}[ \t]+(?:"
    rb"\([ \t]*\n?[ \t]*%(times)s[ \t\n]+[A-Za-z0-9+/=\n\t ]+\)"
    rb"|%(times)s(?:[ \t]+[A-Za-z0-9+/=]+)+)"
    rb"|(?:CNAME|PTR|MX[ \t]+[0-9]{1,4}|SRV(?:[ \t]+[0-9]{1,4}){3})[ \t]+%(name)s"
    rb")[ \t]*\n(?:;[^\n]*\n)*"
    % {
        b"name": _NAME,
        b"octet": _OCTET,
        b"times": rb"[0-9]{14}[ \t]+[0-9]{14}[ \t]+[0-9]{1,5}[ \t]+" + _NAME,
    },
    re.MULTILINE,
)
_SIGNATURE = struct.Struct("!HBBIIIH")

Loose = tuple[bytes, int, bytes]
"""A name, the type that is covered, and a signature as a packed record."""


def is_signed(data: bytes) -> bool:
    """Whether a file is worth being read here."""
    return data.count(b"RRSIG", 0, 1 << 16) > 10


class _Owner:
    """The records of one name, as they come."""

    __slots__ = ("name", "odd", "others", "sets", "signatures", "upper")

    def __init__(self, name: bytes, *, upper: bool) -> None:
        self.name = name
        self.upper = upper
        self.odd = False
        """A name that dnspython has read, and that is none of a host in lower case."""
        self.sets: dict[int, list[bytes]] = {}
        self.signatures: dict[int, list[bytes]] = {}
        self.others: list[bytes] = []
        """Lines for `plainlines.add_line`."""

    def add(self, text: bytes, ttl: int, origin: bytes) -> None:
        """Take a record. Raises `Unusual`."""
        words = text.replace(b"(", b" ").replace(b")", b" ").split()
        kind = words[0]
        if kind == b"RRSIG":
            covers, rdata = _signature(words, origin)
            self.signatures.setdefault(covers, []).append(packed.record(RRSIG, ttl, rdata))
            return
        if kind == b"A":
            rdtype, rdata = A, socket.inet_aton(words[1].decode())
        elif kind == b"AAAA":
            try:
                rdtype, rdata = AAAA, socket.inet_pton(socket.AF_INET6, words[1].decode())
            except OSError:
                raise Unusual from None
        elif kind == b"NSEC":
            rdtype, rdata = NSEC, absolute(words[1], origin) + _types(b" ".join(words[2:]))
        elif kind == b"NSEC3":
            rdtype, rdata = NSEC3, _nsec3(words)
        else:
            self.others.append(b"%d %s" % (ttl, text))
            return
        found = packed.record(rdtype, ttl, rdata)
        before = self.sets.setdefault(rdtype, [])
        if before and (rdtype in (NSEC, NSEC3) or before[0][6:10] != found[6:10] or found in before):
            raise Unusual
        before.append(found)

    def put(self, nodes: Nodes, loose: list[Loose], origin: bytes) -> None:
        """Take the name into the zone. Raises `Unusual`."""
        for covers in [covers for covers in self.signatures if covers not in self.sets or self.others]:
            loose += [(self.name.lower(), covers, one) for one in self.signatures.pop(covers)]
        if not self.sets and not self.others:
            return
        hashed = NSEC3 in self.sets
        into = nodes.hashes if hashed else nodes
        if (
            self.name.lower() in into
            or (hashed and (len(self.sets) > 1 or self.others))
            or self.upper is not hashed
        ):
            raise Unusual
        if self.odd and (self.others or A in self.sets or AAAA in self.sets):
            raise Unusual  # such a name may not have them, or may
        mark = packed.UPPER if self.upper else packed.MARK
        try:
            value = mark + b"".join(
                packed.pack_set(rdtype, records, self.signatures.get(rdtype, ()))
                for rdtype, records in self.sets.items()
            )
        except ValueError:
            raise Unusual from None
        if not self.others and not self.odd:
            into.keep(self.name, value)
            return
        node = Node(self.name)
        for line in self.others:
            add_line(node, line, origin, 0)
        more = packed.node_of(self.name, value).rrsets
        if CNAME in node.rrsets and more.keys() - {NSEC}:
            raise Unusual
        node.rrsets.update(more)
        into[self.name.lower()] = node


def read(data: bytes, between: Between) -> tuple[Nodes, set[bytes], list[Loose]]:
    """The names of the file, the names above them, and signatures over what is not among them.

    Raises `Unusual`.
    """
    nodes: Nodes | None = None
    above: dict[bytes, bytes] = {}
    parents: set[bytes] = set()
    loose: list[Loose] = []
    owner: _Owner | None = None
    last, done, ttl = b"", 0, 0
    gaps, origin = Gaps(len(data), between), b""
    for match in _RECORD.finditer(data):
        start = match.start()
        if start != done:
            ttl, last = gaps.read(data[done:start], last)
            nodes, origin, above = gaps.nodes, gaps.origin, gaps.above
        if nodes is None:
            raise Unusual  # no SOA before the first record
        done = match.end()
        written, own, text = match.groups()
        if written is not None:
            upper = written[:1] != written[:1].lower() or (len(written) > 32 and written[:32].isupper())
            last = _wire(written.lower() if upper else written, origin, above, None if upper else parents)
            if owner is None or owner.name != last:
                if owner is not None:
                    owner.put(nodes, loose, origin)
                owner = _Owner(last, upper=upper)
        elif owner is None or owner.name != last:
            if not names.is_below(last.lower(), origin):
                raise Unusual
            if owner is not None:
                owner.put(nodes, loose, origin)
            owner = _Owner(last, upper=False)
            owner.odd = not all(map(_HOST.fullmatch, names.labels(last)))
        if own is None and ttl < 0:
            raise Unusual
        owner.add(text, ttl if own is None else int(own), origin)
    if nodes is None or owner is None:
        raise Unusual
    owner.put(nodes, loose, origin)
    if done != len(data):
        between(data[done:], last)
    return nodes, parents, loose


def attach(nodes: Nodes, loose: list[Loose]) -> None:
    """Put signatures beside what they are over, wherever that has come from. Raises `Unusual`."""
    found: dict[tuple[bytes, int], list[bytes]] = {}
    for name, covers, signature in loose:
        found.setdefault((name, covers), []).append(signature)
    for (name, covers), signatures in found.items():
        node = nodes.get(name)
        rrset: RRset | None = None if node is None else node.rrsets.get(covers)
        if rrset is None:
            continue  # one over nothing says nothing
        if rrset.signature is not None:
            raise Unusual
        value = packed.MARK + packed.pack_set(RRSIG, signatures, ())
        rrset.signature = packed.node_of(name, value).rrsets[RRSIG]


def _wire(written: bytes, origin: bytes, above: dict[bytes, bytes], parents: set[bytes] | None) -> bytes:
    """The wire form of an owner. The names above it are noted in `parents`. Raises `Unusual`."""
    if len(written) > NAME_LIMIT:
        raise Unusual
    label, dot, rest = written.partition(b".")
    if dot and not rest:
        raise Unusual  # a top-level name
    suffix = above.get(rest)
    if suffix is None:
        suffix = above[rest] = absolute(rest, origin)
    if not names.is_below(suffix, origin):
        name = _LENGTH[len(label)] + label + suffix
        if name == origin:
            return name
        raise Unusual
    if parents is not None:
        parents.add(suffix)
    return _LENGTH[len(label)] + label + suffix


def _signature(words: list[bytes], origin: bytes) -> tuple[int, bytes]:
    """The type covered and the data of RRSIG."""
    _, covered, algorithm, labels, ttl, expiration, inception, tag, signer = words[:9]
    covers = _type(covered)
    try:
        head = _SIGNATURE.pack(
            covers, int(algorithm), int(labels), int(ttl), _time(expiration), _time(inception), int(tag)
        )
        return covers, head + _signer(signer, origin) + binascii.a2b_base64(b"".join(words[9:]))
    except (struct.error, binascii.Error, ValueError):
        raise Unusual from None


def _nsec3(words: list[bytes]) -> bytes:
    try:
        salt = b"" if words[4] == b"-" else bytes.fromhex(words[4].decode())
        head = struct.pack("!BBHB", 1, int(words[2]), int(words[3]), len(salt)) + salt
        following = int(words[5], 32).to_bytes(20, "big")  # the digits of base32hex are Python's
    except (struct.error, ValueError):
        raise Unusual from None
    return head + bytes((len(following),)) + following + _types(b" ".join(words[6:]))


def _cached(make: Callable[[bytes], object], text: bytes) -> object:
    try:
        return make(text)
    except (dns.exception.DNSException, ValueError, UnicodeError):
        raise Unusual from None


@lru_cache(256)
def _type(text: bytes) -> int:
    found = _cached(lambda text: int(dns.rdatatype.from_text(text.decode())), text)
    assert isinstance(found, int)
    return found


@lru_cache(4096)
def _time(text: bytes) -> int:
    parts = (text[:4], *(text[index : index + 2] for index in range(4, 14, 2)))
    return calendar.timegm((*map(int, parts), 0, 0, 0))


@lru_cache(256)
def _signer(text: bytes, origin: bytes) -> bytes:
    return absolute(text, origin)


@lru_cache(4096)
def _types(text: bytes) -> bytes:
    """A bitmap of types (RFC 4034 §4.1.2)."""

    def encode(text: bytes) -> bytes:
        windows = Bitmap.from_text(Tokenizer(text.decode())).windows
        return b"".join(bytes((window, len(bits))) + bits for window, bits in windows)

    found = _cached(encode, text)
    assert isinstance(found, bytes)
    return found
