"""Messages on the wire: parse a query, render an answer with name compression.

`parse` accepts what a server has to understand and raises `Malformed` for everything else; it never reads
past the datagram. `render` fills a message up to a limit: answer and authority records that do not fit set TC
(RFC 2181 §9), and clients with EDNS get whole sets; additional sets that do not fit are left out silently,
IPv6 addresses first, glue that a referral needs sets TC (RFC 9471).

Standards: RFC 1035 §4, RFC 6891 (EDNS).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace

from mailstack.dns.zone import OPT, TSIG, A, RRset

HEADER = struct.Struct("!6H")
QR, AA, TC, RD, RA, AD, CD = 0x8000, 0x0400, 0x0200, 0x0100, 0x0080, 0x0020, 0x0010
OPCODE_MASK = 0x7800
UPDATE, NOTIFY = 5 << 11, 4 << 11
"""Opcodes (RFC 2136, RFC 1996), where they stand among the flags."""
NOERROR, FORMERR, SERVFAIL, NXDOMAIN, NOTIMP, REFUSED, NOTAUTH, BADVERS, BADCOOKIE = (
    0,
    1,
    2,
    3,
    4,
    5,
    9,
    16,
    23,
)
DO = 0x8000
NSID = 3
"""EDNS option code (RFC 5001)."""
COOKIE = 10
"""EDNS option code (RFC 7873)."""
SUBNET = 8
"""EDNS option code (RFC 7871)."""
EXPIRE = 9
"""EDNS option code (RFC 7314)."""
KEEPALIVE = 11
"""EDNS option code (RFC 7828)."""
KEY_TAG = 14
"""EDNS option code (RFC 8145)."""
EXTENDED_ERROR = 15
"""EDNS option code (RFC 8914)."""
PROHIBITED = 18
"""Extended error: the client may not ask that (RFC 8914 §4.19)."""
RECORD_LIMIT = 100
"""Records that a query may carry; nobody sends more than a few. Updates have as many as there is room for."""

_FIXED = struct.Struct("!HHIH")

Section = Sequence[tuple[bytes, RRset]]
"""Sets with the owner name (wire form) that they are answered under."""


class Malformed(Exception):  # noqa: N818 - a condition of the peer's making, not an error of ours
    """Not a query that can be understood: answered FORMERR."""


@dataclass(frozen=True, slots=True)
class Edns:
    """A query's OPT record."""

    payload: int
    """Octets that the client takes over UDP; at least 512."""
    version: int
    flags: int
    options: tuple[tuple[int, bytes], ...]

    def option(self, code: int) -> bytes | None:
        """The data of an option, None when it is not there."""
        return next((data for number, data in self.options if number == code), None)


@dataclass(frozen=True, slots=True)
class Query:
    """A parsed query. `name` has the client's case; `question` is the question section as it came."""

    id: int
    flags: int
    name: bytes
    rdtype: int
    rdclass: int
    question: bytes
    edns: Edns | None
    signed: bool
    """A TSIG record is there."""
    cookie: bytes = b""
    """The cookie to send back."""
    subnet: bytes = b""
    """The client's subnet to send back."""
    known: bool = False
    """The client has shown a cookie of ours."""
    extra: bytes = b""
    """Further EDNS options to send back, encoded."""

    @property
    def do(self) -> bool:
        """DNSSEC records are wanted (RFC 3225)."""
        return self.edns is not None and bool(self.edns.flags & DO)


def parse(data: bytes) -> Query:
    """A query with exactly one question. The caller has looked at QR and opcode. Raises `Malformed`."""
    ident, flags, questions, answers, authorities, additionals = HEADER.unpack_from(data)
    records = answers + authorities + additionals
    if questions != 1 or (records > RECORD_LIMIT and flags & OPCODE_MASK != UPDATE):
        raise Malformed
    end = skip_name(data, 12)
    if len(data) < end + 4 or end - 12 > 255:
        raise Malformed
    name = data[12:end]
    rdtype, rdclass = struct.unpack_from("!HH", data, end)
    edns: Edns | None = None
    signed = False
    position = end + 4
    for index in range(records):
        start = position
        position = skip_name(data, position, compressed=True)
        if len(data) < position + 10:
            raise Malformed
        kind, payload, ttl, length = _FIXED.unpack_from(data, position)
        position += 10
        if len(data) < position + length:
            raise Malformed
        if kind == OPT:
            if edns is not None or index < answers + authorities or data[start] != 0:
                raise Malformed
            options = _options(data[position : position + length])
            edns = Edns(max(payload, 512), ttl >> 16 & 0xFF, ttl & 0xFFFF, options)
        elif kind == TSIG:
            if index != records - 1:
                raise Malformed
            signed = True
        position += length
    return Query(ident, flags, name, rdtype, rdclass, data[12 : end + 4], edns, signed)


def without_question(data: bytes) -> Query | None:
    """A query with EDNS and no question, such as one for a cookie (RFC 7873 §5.4); None for others.

    Raises `Malformed`.
    """
    if data[4:6] != b"\0\0":
        return None
    query = parse(data[:4] + b"\0\1" + data[6:12] + bytes(5) + data[12:])
    return None if query.edns is None else replace(query, question=b"")


def subnet_echo(option: bytes) -> bytes:
    """The client-subnet option of an answer that is the same for all subnets (RFC 7871 §7.2.1).

    Raises `Malformed` for one that a client must not send (§6).
    """
    if len(option) < 4 or option[3] != 0:
        raise Malformed
    family, prefix, address = int.from_bytes(option[:2], "big"), option[2], option[4:]
    longest = {0: 0, 1: 32, 2: 128}.get(family, -1)
    if prefix > longest or len(address) != (prefix + 7) // 8:
        raise Malformed
    if prefix % 8 and address[-1] & 0xFF >> prefix % 8:
        raise Malformed
    return option


def question_of(data: bytes) -> bytes:
    """The question section if there is exactly one that can be read, else nothing (for error answers)."""
    if len(data) < 12 or data[4:6] != b"\0\1":
        return b""
    try:
        end = skip_name(data, 12)
    except Malformed:
        return b""
    return data[12 : end + 4] if len(data) >= end + 4 and end - 12 <= 255 else b""


def error(data: bytes, rcode: int, *, recursion: bool = False) -> bytes:
    """An answer without records to a message of at least a header."""
    ident, flags = struct.unpack_from("!HH", data)
    question = question_of(data)
    flags = QR | flags & (OPCODE_MASK | RD | CD) | (RA if recursion else 0) | rcode
    return HEADER.pack(ident, flags, 1 if question else 0, 0, 0, 0) + question


def malformed(data: bytes, *, recursion: bool = False) -> bytes:
    """The answer to a message of at least a header that `parse` does not understand.

    As named has it: flags come back with a query only, and one without a question that has an opcode which
    nobody knows is understood: it may mean anything.
    """
    ident, flags = struct.unpack_from("!HH", data)
    opcode = flags & OPCODE_MASK
    if not opcode:
        return error(data, FORMERR, recursion=recursion)
    rcode, question = FORMERR, b""
    if opcode in (UPDATE, NOTIFY):
        # The zone section of an update comes back even if another follows.
        several = opcode == UPDATE and data[4:6] > b"\0\1"
        question = question_of(data[:4] + b"\0\1" + data[6:] if several else data)
    elif data[4:6] == b"\0\0":
        try:
            parse(data[:4] + b"\0\1" + data[6:12] + bytes(5) + data[12:])
            rcode = NOTIMP
        except Malformed:
            pass
    return HEADER.pack(ident, QR | opcode | rcode, 1 if question else 0, 0, 0, 0) + question


def opt(payload: int, rcode: int, flags: int = 0, options: bytes = b"") -> bytes:
    """An OPT record (RFC 6891 §6.1); the upper bits of `rcode` travel in it."""
    return b"\0" + _FIXED.pack(OPT, payload, rcode >> 4 << 24 | flags, len(options)) + options


def render(
    query: Query,
    flags: int,
    answer: Section,
    authority: Section,
    additional: Section,
    *,
    limit: int,
    opt_record: bytes = b"",
    glue: int = 0,
) -> bytes:
    """The whole message, at most `limit` octets. The first `glue` sets of `additional` are needed."""
    room = limit - len(opt_record)
    buffer = bytearray(12)
    buffer += query.question
    table: dict[bytes, int] = {}
    _note_suffixes(table, query.name, 12)
    counts = [0, 0, 0]
    truncated = False
    whole = query.edns is not None
    for index, section in enumerate((answer, authority)):
        for owner, rrset in section:
            added = _add_rrset(buffer, table, owner, rrset, room, whole=whole)
            counts[index] += added
            if added < len(rrset.rdatas):
                truncated = True
                break
        if truncated:
            break
    if additional and not truncated:
        counts[2], truncated = _add_additional(buffer, table, additional, room, glue)
    if truncated:
        flags |= TC
    buffer += opt_record
    HEADER.pack_into(
        buffer,
        0,
        query.id,
        flags & 0xFFFF,
        1 if query.question else 0,
        counts[0],
        counts[1],
        counts[2] + (1 if opt_record else 0),
    )
    return bytes(buffer)


def _add_additional(
    buffer: bytearray, table: dict[bytes, int], section: Section, room: int, glue: int
) -> tuple[int, bool]:
    """Append the sets that have room, IPv4 addresses first if not all have; how many records, and whether a
    set is missing that is needed."""
    start, names_before = len(buffer), len(table)
    count = 0
    left_out = False
    for number, (owner, rrset) in enumerate(section):
        added = _add_rrset(buffer, table, owner, rrset, room, whole=True)
        count += added
        if not added:
            if number < glue:
                return count, True
            left_out = True
    if not left_out:
        return count, False
    del buffer[start:]
    _forget(table, names_before)
    count = 0
    for owner, rrset in (*section[:glue], *sorted(section[glue:], key=lambda pair: pair[1].rdtype != A)):
        count += _add_rrset(buffer, table, owner, rrset, room, whole=True)
    return count, False


def _add_rrset(
    buffer: bytearray, table: dict[bytes, int], owner: bytes, rrset: RRset, room: int, *, whole: bool
) -> int:
    """Append records until `room` is used up; return how many. With `whole`, all or none are counted."""
    start = len(buffer)
    names_before = len(table)
    added = 0
    head = struct.pack("!HHI", rrset.rdtype, 1, rrset.ttl)
    for rdata in rrset.rdatas:
        mark = len(buffer)
        names_mark = len(table)
        _add_name(buffer, table, owner)
        buffer += head
        if isinstance(rdata, bytes):
            buffer += len(rdata).to_bytes(2, "big")
            buffer += rdata
        else:
            length_at = len(buffer)
            buffer += b"\0\0"
            buffer += rdata[0]
            for name in rdata[1]:
                _add_name(buffer, table, name)
            buffer += rdata[2]
            buffer[length_at : length_at + 2] = (len(buffer) - length_at - 2).to_bytes(2, "big")
        if len(buffer) > room:
            del buffer[mark:]
            _forget(table, names_mark)
            break
        added += 1
    if whole and added < len(rrset.rdatas):
        del buffer[start:]
        _forget(table, names_before)
        return 0
    return added


def _add_name(buffer: bytearray, table: dict[bytes, int], name: bytes) -> None:
    """Append a name, its longest known suffix as a pointer (RFC 1035 §4.1.4); its case is kept."""
    base = len(buffer)
    position = 0
    while name[position]:
        suffix = name[position:]
        offset = table.get(suffix)
        if offset is not None:
            buffer += name[:position]
            buffer += (0xC000 | offset).to_bytes(2, "big")
            return
        if base + position < 0x4000:
            table[suffix] = base + position
        position += 1 + name[position]
    buffer += name


def _note_suffixes(table: dict[bytes, int], name: bytes, base: int) -> None:
    position = 0
    while name[position]:
        table[name[position:]] = base + position
        position += 1 + name[position]


def _forget(table: dict[bytes, int], size: int) -> None:
    """Drop the newest names: they were part of a record that has been taken back."""
    while len(table) > size:
        table.popitem()


def skip_name(data: bytes, position: int, *, compressed: bool = False) -> int:
    """The position after a name. A question's name has no pointers: there is nothing it could point at."""
    size = len(data)
    while position < size:
        length = data[position]
        if length == 0:
            return position + 1
        if length >= 0xC0:
            if compressed and position + 1 < size and (length & 0x3F) << 8 | data[position + 1] < position:
                return position + 2
            raise Malformed
        if length > 63:
            raise Malformed
        position += 1 + length
    raise Malformed


def _options(data: bytes) -> tuple[tuple[int, bytes], ...]:
    found: list[tuple[int, bytes]] = []
    position = 0
    while position < len(data):
        if len(data) < position + 4:
            raise Malformed
        code, length = struct.unpack_from("!HH", data, position)
        position += 4
        if len(data) < position + length:
            raise Malformed
        found.append((code, data[position : position + length]))
        position += length
    return tuple(found)
