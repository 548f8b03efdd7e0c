"""What another server's answer says: its sets, and what they are to the question.

`read` walks a message to its last octet and expands its names; `judge` says what it is: an answer, an alias,
a denial, or nothing to go by. Whatever is not sound is `Malformed`, and nothing of it is used.

Standards: RFC 1035 §4.1, RFC 2308 §2, RFC 3597 §4, RFC 2181 §5 (one TTL for a set), RFC 6672 (DNAME).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from mailstack.dns import names
from mailstack.dns.cache import Entry
from mailstack.dns.message import (
    AD,
    COOKIE,
    HEADER,
    NOERROR,
    NXDOMAIN,
    OPCODE_MASK,
    QR,
    TC,
    Malformed,
    skip_name,
)
from mailstack.dns.zone import (
    AAAA,
    AFSDB,
    ANY,
    CNAME,
    DNAME,
    IN,
    KX,
    MX,
    NS,
    NSEC,
    NSEC3,
    OPT,
    PTR,
    RRSIG,
    RT,
    SOA,
    SRV,
    TSIG,
    A,
    Rdata,
    RRset,
)

_FIXED = struct.Struct("!HHIH")
_MD, _MF, _MB, _MG, _MR, _MINFO, _RP, _PX = 3, 4, 7, 8, 9, 14, 17, 26
NAMES = {
    **dict.fromkeys((NS, CNAME, PTR, _MD, _MF, _MB, _MG, _MR), (0, 1)),
    MX: (2, 1),
    **dict.fromkeys((SOA, _MINFO), (0, 2)),
}
"""Types whose names are compressed in our answers as well: octets before them, and how many there are."""
EXPANDED = {
    **dict.fromkeys((DNAME, NSEC), (0, 1)),
    **dict.fromkeys((AFSDB, RT, KX), (2, 1)),
    SRV: (6, 1),
    RRSIG: (18, 1),
    _RP: (0, 2),
    _PX: (2, 2),
}
"""Types whose names may come compressed, and never go out so."""
RECORD_LIMIT = 10_000

Sets = dict[tuple[bytes, int, int], tuple[bytes, int, list[Rdata]]]
"""By lower-case owner, type and type covered: the owner, the shortest TTL, the records."""


@dataclass(slots=True)
class Received:
    """One answer."""

    flags: int
    rcode: int
    edns: bool = False
    cookie: bytes = b""
    """The whole option: ours and the server's."""
    answer: Sets = field(default_factory=dict)
    authority: Sets = field(default_factory=dict)
    additional: Sets = field(default_factory=dict)

    @property
    def truncated(self) -> bool:
        return bool(self.flags & TC)


def matches(wire: bytes, data: bytes) -> bool:
    """`data` answers the query `wire`: id, QR, opcode, and the question octet by octet but for case."""
    if len(data) < 12 or data[:2] != wire[:2]:
        return False
    flags = int.from_bytes(data[2:4], "big")
    if not flags & QR or flags & OPCODE_MASK:
        return False
    if data[4:6] == b"\0\0":
        return bool(flags & 0xF) and data[6:10] == b"\0\0\0\0"  # an error that repeats no question
    if data[4:6] != b"\0\1":
        return False
    end = skip_name(wire, 12) + 4
    return (
        data[12 : end - 4].lower() == wire[12 : end - 4].lower()
        and data[end - 4 : end] == wire[end - 4 : end]
    )


def read(data: bytes) -> Received:
    """All of a message. Raises `Malformed`."""
    if len(data) < HEADER.size:
        raise Malformed
    _, flags, questions, *counts = HEADER.unpack_from(data)
    if questions > 1 or sum(counts) > RECORD_LIMIT:
        raise Malformed
    position = 12
    if questions:
        position = skip_name(data, 12) + 4
    said = Received(flags, flags & 0xF)
    for count, sets in zip(counts, (said.answer, said.authority, said.additional), strict=True):
        for _ in range(count):
            position = _record(data, position, said, sets)
    if position != len(data):
        raise Malformed
    return said


def _record(data: bytes, position: int, said: Received, sets: Sets) -> int:
    """One record into its set; the position after it."""
    owner, position = name_at(data, position)
    if len(data) < position + 10:
        raise Malformed
    kind, rdclass, ttl, length = _FIXED.unpack_from(data, position)
    position += 10
    end: int = position + length
    if len(data) < end:
        raise Malformed
    if kind == OPT:
        if said.edns or sets is not said.additional or owner != names.ROOT:
            raise Malformed
        said.edns = True
        said.rcode |= ttl >> 24 << 4
        said.cookie = _cookie(data, position, end)
        return end
    if kind == TSIG:
        return end
    if rdclass != IN:
        raise Malformed
    covered = int.from_bytes(data[position : position + 2], "big") if kind == RRSIG else 0
    rdata = _rdata(data, position, end, kind)
    key = (owner.lower(), kind, covered)
    held = sets.get(key)
    if held is None:
        sets[key] = (owner, ttl, [rdata])
    else:
        if rdata not in held[2]:
            held[2].append(rdata)
        if ttl < held[1]:
            sets[key] = (held[0], ttl, held[2])
    return end


def _cookie(data: bytes, position: int, end: int) -> bytes:
    """The data of a cookie option; nothing when there is none."""
    while position + 4 <= end:
        code, length = struct.unpack_from("!HH", data, position)
        position += 4
        if code == COOKIE and position + length <= end:
            return data[position : position + length]
        position += length
    return b""


def _rdata(data: bytes, position: int, end: int, kind: int) -> Rdata:
    if (kind == A and end - position != 4) or (kind == AAAA and end - position != 16):
        raise Malformed
    shape = NAMES.get(kind) or EXPANDED.get(kind)
    if shape is None:
        return data[position:end]
    before, count = shape
    found: list[bytes] = []
    at = position + before
    for _ in range(count):
        name, at = name_at(data, at)
        found.append(name)
    if at > end or (kind == SOA and end - at != 20) or (kind in (CNAME, NS, MX, DNAME, SRV) and at != end):
        raise Malformed
    head, tail = data[position : position + before], data[at:end]
    if kind in NAMES:
        return head, tuple(found), tail
    return head + b"".join(found) + tail


def name_at(data: bytes, position: int) -> tuple[bytes, int]:
    """A name without compression, and the position after it. Raises `Malformed`."""
    parts: list[bytes] = []
    after, size, total = -1, len(data), 0
    while True:
        if position >= size:
            raise Malformed
        length = data[position]
        if length == 0:
            parts.append(b"\0")
            break
        if length >= 0xC0:
            if position + 1 >= size:
                raise Malformed
            target = (length & 0x3F) << 8 | data[position + 1]
            if after < 0:
                after = position + 2
            if target >= position:
                raise Malformed
            position = target
            continue
        if length > 63:
            raise Malformed
        end = position + 1 + length
        total += 1 + length
        if end > size or total > 254:
            raise Malformed
        parts.append(data[position:end])
        position = end
    return b"".join(parts), after if after >= 0 else position + 1


# ---- what it is to the question


@dataclass(frozen=True, slots=True)
class Verdict:
    """What answers the question, each with its type (0: no type has anything), and what came beside it."""

    entries: list[tuple[Entry, int]]
    beside: list[Entry]


def judge(said: Received, name: bytes, rdtype: int) -> Verdict | None:
    """What an answer is to a question; None when it is nothing to go by: a referral, or something else."""
    lower = name.lower()
    authentic = bool(said.flags & AD)
    found: list[tuple[Entry, int]] = []
    if rdtype == ANY:
        kinds = [kind for owner, kind, _ in said.answer if owner == lower and kind != RRSIG]
        found = [(_entry(said, lower, kind, authentic), kind) for kind in kinds]
    elif (lower, rdtype, 0) in said.answer and rdtype != RRSIG:
        found = [(_entry(said, lower, rdtype, authentic), rdtype)]
    elif rdtype == RRSIG:
        for (owner, kind, _), (shown, ttl, rdatas) in said.answer.items():
            if owner == lower and kind == RRSIG:
                found.append((Entry(shown, RRset(RRSIG, ttl, tuple(rdatas)), 0, authentic=authentic), RRSIG))
    if not found and (lower, CNAME, 0) in said.answer and not _above(said, lower):
        found = [(_entry(said, lower, CNAME, authentic), CNAME)]
    if not found and (above := _above(said, lower)):
        found = [(_entry(said, above, DNAME, authentic), DNAME)]
    if found:
        if said.rcode == NXDOMAIN and found[0][1] not in (CNAME, DNAME):
            return None  # there is no such name, and this is its address: one of the two is wrong
        return Verdict(found, _beside(said, found))
    if said.answer or said.rcode not in (NOERROR, NXDOMAIN):
        return None
    denial = _denial(said, name, lower, authentic)
    return None if denial is None else Verdict([(denial, 0 if said.rcode == NXDOMAIN else rdtype)], [])


def _above(said: Received, lower: bytes) -> bytes | None:
    """The owner of a DNAME record that holds the name."""
    for owner, kind, _ in said.answer:
        if kind == DNAME and owner != lower and names.is_below(lower, owner):
            return owner
    return None


def _entry(said: Received, lower: bytes, kind: int, authentic: bool) -> Entry:
    owner, ttl, rdatas = said.answer[lower, kind, 0]
    signature = said.answer.get((lower, RRSIG, kind))
    over = None
    if signature is not None:
        ttl = min(ttl, signature[1])
        over = RRset(RRSIG, ttl, tuple(signature[2]))
    return Entry(
        owner, RRset(kind, ttl, tuple(rdatas), _targets(kind, rdatas), over), ttl, authentic=authentic
    )


def _targets(kind: int, rdatas: list[Rdata]) -> tuple[bytes, ...]:
    """The hosts whose addresses stand beside a set."""
    found: list[bytes] = []
    for rdata in rdatas:
        target = b""
        if kind in (NS, MX):
            target = rdata[1][0] if isinstance(rdata, tuple) else b""
        elif kind in (SRV, AFSDB, RT, KX) and isinstance(rdata, bytes):
            target = rdata[6 if kind == SRV else 2 :]
        if len(target) > 1 and target not in found:
            found.append(target)
    return tuple(found)


def _beside(said: Received, found: list[tuple[Entry, int]]) -> list[Entry]:
    """The addresses of the hosts that an answer names."""
    wanted = {
        target.lower() for entry, _ in found if entry.rrset is not None for target in entry.rrset.targets
    }
    beside = []
    for (owner, kind, _), (shown, ttl, rdatas) in said.additional.items():
        if owner in wanted and kind in (A, AAAA):
            beside.append(Entry(shown, RRset(kind, ttl, tuple(rdatas)), ttl, extra=True))
    return beside


def _denial(said: Received, name: bytes, lower: bytes, authentic: bool) -> Entry | None:
    """A negative answer (RFC 2308 §2); None for a referral. Without SOA it is not kept."""
    shown: list[tuple[bytes, RRset]] = []
    ttl = -1
    for (owner, kind, _), (case, own, rdatas) in said.authority.items():
        if kind == NS:
            if not any(key[1] == SOA for key in said.authority) and said.rcode == NOERROR:
                return None
        elif kind in (SOA, NSEC, NSEC3):
            if kind == SOA:
                if not names.is_below(lower, owner):
                    continue
                tail = rdatas[0][2] if isinstance(rdatas[0], tuple) else b""
                own = min(own, int.from_bytes(tail[16:20], "big"))
            signature = said.authority.get((owner, RRSIG, kind))
            over = None if signature is None else RRset(RRSIG, own, tuple(signature[2]))
            ttl = own if ttl < 0 else min(ttl, own)
            shown.append((case, RRset(kind, own, tuple(rdatas), (), over)))
    if not any(rrset.rdtype == SOA for _, rrset in shown):
        shown, ttl = [], 0
    return Entry(name, None, max(ttl, 0), rcode=said.rcode, authority=shown, authentic=authentic)
