"""What an EDNS compliance reporter asks, put to our server and to the real named side by side.

The questions are those of ISC's EDNS compliance tester and of RFC 8906 §8, in every combination that an
operator's report has a column for, and a few that only a broken client sends.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterator

import pytest

from tests.interop.dns_servers import WORLD, bind, configure, ours
from tests.ports import free_port

pytestmark = pytest.mark.real

SOA, A, TXT, DNSKEY, ANY, TYPE1000 = 6, 1, 16, 48, 255, 1000
RD, RA, Z, AD, CD, AA, TC = 0x0100, 0x0080, 0x0040, 0x0020, 0x0010, 0x0400, 0x0200
DO = 0x8000
CLIENT = b"\1\2\3\4\5\6\7\x08"
NSID, SUBNET, EXPIRE, COOKIE, KEEPALIVE, PADDING, CHAIN, EDE = 3, 8, 9, 10, 11, 12, 13, 15


def wire(name: str) -> bytes:
    return b"".join(bytes((len(label),)) + label.encode() for label in name.split(".") if label) + b"\0"


def opt(
    version: int = 0, payload: int = 4096, flags: int = 0, options: list[tuple[int, bytes]] | None = None
) -> bytes:
    data = b"".join(struct.pack("!HH", code, len(text)) + text for code, text in options or [])
    return b"\0" + struct.pack("!HHBBHH", 41, payload, 0, version, flags, len(data)) + data


def ask(
    name: str = "rich.test", kind: int = SOA, flags: int = 0, edns: bytes = b"", *, opcode: int = 0,
    rdclass: int = 1, more: bytes = b"", records: tuple[int, int] = (0, 0),
) -> bytes:  # fmt: skip
    question = wire(name) + struct.pack("!HH", kind, rdclass)
    additional = records[1] + (1 if edns else 0)
    return (
        struct.pack("!6H", 0x4D53, opcode << 11 | flags, 1, 0, records[0], additional)
        + question
        + edns
        + more
    )


OPTIONS = [(NSID, b""), (SUBNET, b"\0\0\0\0"), (EXPIRE, b""), (COOKIE, CLIENT)]
TABLE: dict[str, bytes] = {
    "dns": ask(),
    "aa": ask(flags=AA),
    "ad": ask(flags=AD),
    "cd": ask(flags=CD),
    "ra": ask(flags=RA),
    "rd": ask(flags=RD),
    "tc": ask(flags=TC),
    "z": ask(flags=Z),
    "every flag": ask(flags=AA | TC | RD | RA | Z | AD | CD),
    "every flag with EDNS": ask(flags=AA | TC | RD | RA | Z | AD | CD, edns=opt(flags=0xFFFF)),
    "unknown type": ask(kind=TYPE1000),
    **{f"opcode {number}": ask(opcode=number) for number in (1, 2, 3, 4, 6, 7, 14, 15)},
    "opcode 15 with EDNS": ask(opcode=15, edns=opt()),
    "opcode 2 with every flag": ask(opcode=2, flags=AA | TC | RD | RA | Z | AD | CD, edns=opt(flags=0xFFFF)),
    "opcode 7, no question": struct.pack("!6H", 0x4D53, 7 << 11, 0, 0, 0, 0),
    "edns": ask(edns=opt()),
    "edns1": ask(edns=opt(version=1)),
    "edns100": ask(edns=opt(version=100, flags=DO)),
    "edns1opt": ask(edns=opt(version=1, options=[(100, b"")])),
    "edns1flags": ask(edns=opt(version=1, flags=0x0040)),
    "edns1 cookie": ask(edns=opt(version=1, options=[(COOKIE, CLIENT)])),
    "edns1 nsid": ask(edns=opt(version=1, options=[(NSID, b"")])),
    "edns1 unknown class": ask(edns=opt(version=1), rdclass=7),
    "edns1 elsewhere": ask("elsewhere.example", edns=opt(version=1)),
    "edns@512": ask(kind=DNSKEY, edns=opt(payload=512, flags=DO)),
    "edns@512 large": ask("big.rich.test", TXT, edns=opt(payload=512)),
    "edns@0": ask(edns=opt(payload=0)),
    "edns@1232 large": ask("big.rich.test", TXT, edns=opt(payload=1232)),
    "edns@65535 any": ask(kind=ANY, edns=opt(payload=65535, flags=DO)),
    "ednsopt": ask(edns=opt(options=[(100, b"")])),
    "ednsopt of text": ask(edns=opt(options=[(65001, b"x" * 300)])),
    "ednsflags": ask(edns=opt(flags=0x0040)),
    "ednstcp": ask(edns=opt(payload=512)),
    "do": ask(edns=opt(flags=DO)),
    "docookie": ask(edns=opt(flags=DO, options=[(COOKIE, CLIENT)])),
    "cookie": ask(edns=opt(options=[(COOKIE, CLIENT)])),
    "cookie with an unknown one": ask(edns=opt(options=[(COOKIE, CLIENT + b"y" * 16)])),
    "cookie of 40": ask(edns=opt(options=[(COOKIE, CLIENT + b"y" * 32)])),
    "optlist": ask(edns=opt(options=OPTIONS)),
    "optlist do": ask(edns=opt(flags=DO, options=[*OPTIONS, (PADDING, b"\0" * 20), (CHAIN, b"\0")])),
    "nsid": ask(edns=opt(options=[(NSID, b"")])),
    "nsid with data": ask(edns=opt(options=[(NSID, b"abc")])),
    "nsid twice": ask(edns=opt(options=[(NSID, b""), (NSID, b"")])),
    "expire": ask(edns=opt(options=[(EXPIRE, b"")])),
    "expire of another type": ask(kind=A, edns=opt(options=[(EXPIRE, b"")])),
    "expire with data": ask(edns=opt(options=[(EXPIRE, b"\0\0\0\1")])),
    "expire elsewhere": ask("mail.rich.test", edns=opt(options=[(EXPIRE, b"")])),
    "keepalive": ask(edns=opt(options=[(KEEPALIVE, b"")])),
    "keepalive with data": ask(edns=opt(options=[(KEEPALIVE, b"\0\x10")])),
    "padding": ask(edns=opt(options=[(PADDING, b"\0" * 64)])),
    "padding none": ask(edns=opt(options=[(PADDING, b"")])),
    "chain": ask(edns=opt(options=[(CHAIN, wire("test"))])),
    "key tag": ask(kind=DNSKEY, edns=opt(options=[(14, b"\0\1")])),
    "key tag odd": ask(kind=DNSKEY, edns=opt(options=[(14, b"\0\1\2")])),
    "ede": ask(edns=opt(options=[(EDE, b"\0\1")])),
    "dau": ask(edns=opt(options=[(5, b"\x0d"), (6, b"\2"), (7, b"\1")])),
    "llq and ul": ask(edns=opt(options=[(1, b"\0" * 18), (2, b"\0" * 4)])),
    **{
        f"option {code} of {size}": ask("mail.rich.test", A, edns=opt(options=[(code, bytes(size))]))
        for code, size in ((1, 4), (9, 1), (14, 0), (15, 0), (15, 1), (16, 0), (16, 2), (17, 4), (18, 1), (19, 3))
    },
    **{f"edns1 opcode {number}": ask(opcode=number, edns=opt(version=1)) for number in (2, 4, 5, 6)},
    "nxname": ask(kind=128),
    "nxname elsewhere": ask("elsewhere.example", 128, flags=RD, edns=opt(flags=DO)),
    "aliases without end": ask("loop1.rich.test", A, edns=opt()),
    "aliases without end, no EDNS": ask("loop1.rich.test", A),
    "subnet": ask(edns=opt(options=[(SUBNET, b"\0\1\x18\0\xc0\0\2")])),
    "subnet six": ask(edns=opt(options=[(SUBNET, b"\0\2\x20\0\x20\1\x0d\xb8")])),
    "subnet none": ask(edns=opt(options=[(SUBNET, b"\0\1\0\0")])),
    "subnet with scope": ask(edns=opt(options=[(SUBNET, b"\0\1\x18\x18\xc0\0\2")])),
    "subnet too long": ask(edns=opt(options=[(SUBNET, b"\0\1\x18\0\xc0\0\2\1")])),
    "subnet of bits": ask(edns=opt(options=[(SUBNET, b"\0\1\x17\0\xc0\0\3")])),
    "subnet of no family": ask(edns=opt(options=[(SUBNET, b"\0\7\x18\0\xc0\0\2")])),
    "subnet short": ask(edns=opt(options=[(SUBNET, b"\0\1")])),
    "subnet twice": ask(edns=opt(options=[(SUBNET, b"\0\1\0\0"), (SUBNET, b"\0\1\0\0")])),
    "cookie short": ask(edns=opt(options=[(COOKIE, b"abc")])),
    "cookie of 9": ask(edns=opt(options=[(COOKIE, CLIENT + b"1")])),
    "cookie of 41": ask(edns=opt(options=[(COOKIE, CLIENT + b"y" * 33)])),
    "cookie twice": ask(edns=opt(options=[(COOKIE, CLIENT), (COOKIE, CLIENT[::-1])])),
    "bignum": ask("nowhere.rich.test", TYPE1000, edns=opt(payload=65535, flags=DO)),
    "signed": ask(kind=DNSKEY, edns=opt(flags=DO, payload=4096)),
    "nxdomain do": ask("nowhere.rich.test", A, edns=opt(flags=DO)),
    "elsewhere": ask("elsewhere.example", A),
    "elsewhere edns": ask("elsewhere.example", A, edns=opt(options=OPTIONS)),
    "elsewhere rd ad": ask("elsewhere.example", A, flags=RD | AD, edns=opt(flags=DO)),
    "delegation": ask("x.sub.rich.test", A, edns=opt(flags=DO)),
    "two opt records": ask(edns=opt(), more=opt(), records=(0, 1)),
    "opt with a name": ask(more=wire("x") + opt()[1:], records=(0, 1)),
    "opt in authority": ask(more=opt(), records=(1, 0)),
    "opt cut short": ask(edns=opt(options=[(NSID, b"")])[:-1]),
    "option longer than opt": ask(edns=b"\0" + struct.pack("!HHIHHH", 41, 4096, 0, 4, 100, 9)),
    "option half a header": ask(edns=b"\0" + struct.pack("!HHIHH", 41, 4096, 0, 2, 100)),
    "extended rcode in a query": ask(edns=b"\0" + struct.pack("!HHIH", 41, 4096, 0x01000000, 0)),
    "rcode in a query": ask(flags=5, edns=opt()),
    "trailing octets": ask(edns=opt()) + b"xyz",
    "answer record": struct.pack("!6H", 0x4D53, 0, 1, 1, 0, 0) + wire("rich.test") + b"\0\6\0\1"
                     + wire("rich.test") + b"\0\1\0\1" + b"\0\0\0\0\0\4\x7f\0\0\1",
    "class any": ask(rdclass=255, edns=opt()),
    "class none": ask(rdclass=254, edns=opt()),
    "class chaos": ask("version.bind", TXT, rdclass=3, edns=opt()),
    "class chaos plain": ask("version.bind", TXT, rdclass=3),
    "class chaos type": ask("version.bind", A, rdclass=3, edns=opt(options=OPTIONS)),
    "class chaos name": ask("nonsense.bind", TXT, rdclass=3, edns=opt(flags=DO)),
    "class chaos server": ask("id.server", TXT, rdclass=3, edns=opt()),
    "class chaos authors": ask("authors.bind", TXT, rdclass=3),
    "class chaos soa": ask("version.bind", SOA, rdclass=3, edns=opt()),
    "class chaos ns": ask("bind", 2, rdclass=3),
    "class hesiod": ask(rdclass=4, edns=opt()),
    **{f"class {number}": ask(rdclass=number, edns=opt()) for number in (0, 2, 5, 100, 253, 65280, 65535)},
    **{f"class {number} of a mail exchanger": ask(rdclass=number, kind=15) for number in (0, 2, 4, 5)},
    **{
        f"opcode {opcode} of class {number}": ask(opcode=opcode, rdclass=number, edns=opt())
        for opcode in (4, 5) for number in (1, 4, 254, 255)
    },
    "update refused": ask(opcode=5, edns=opt(options=OPTIONS)),
    "update elsewhere": ask("elsewhere.example", opcode=5, edns=opt()),
    "update below": ask("mail.rich.test", opcode=5, edns=opt()),
    "update of no soa": ask(kind=A, opcode=5),
    "notify elsewhere": ask("elsewhere.example", opcode=4, edns=opt()),
    "notify of no soa": ask(kind=A, opcode=4, flags=AA),
    "not for this client": ask("www.other.test", A, edns=opt(options=OPTIONS)),
    "not for this client, plain": ask("www.other.test", A),
    "transfer refused": ask(kind=252, edns=opt(options=OPTIONS)),
    "transfer elsewhere": ask("elsewhere.example", 252, edns=opt()),
    "transfer below": ask("mail.rich.test", 252),
    "soa with rd 512": ask(flags=RD, edns=opt(payload=512)),
    "ns 512": ask(kind=2, edns=opt(payload=512)),
    "mx 512": ask(kind=15, edns=opt(payload=512)),
    "mx 513": ask(kind=15, edns=opt(payload=513)),
    "delegation 512": ask("x.sub.rich.test", A, edns=opt(payload=512)),
    "chain 512": ask("chain1.rich.test", A, edns=opt(payload=512)),
    "large plain": ask("big.rich.test", TXT),
    "many plain": ask("many.rich.test", 15),
    "meta tsig": ask(kind=250), "meta opt": ask(kind=41, edns=opt()), "meta tkey": ask(kind=249, edns=opt()),
    "mailb": ask(kind=253, edns=opt()), "type 0": ask(kind=0, edns=opt()), "null": ask(kind=10, edns=opt()),
    "no question": struct.pack("!6H", 0x4D53, 0, 0, 0, 0, 0),
    "no question edns": struct.pack("!6H", 0x4D53, 0, 0, 0, 0, 1) + opt(),
    "no question cookie": struct.pack("!6H", 0x4D53, 0, 0, 0, 0, 1) + opt(options=[(COOKIE, CLIENT)]),
    "two questions": struct.pack("!6H", 0x4D53, 0, 2, 0, 0, 0) + (wire("rich.test") + b"\0\6\0\1") * 2,
    "header": struct.pack("!6H", 0x4D53, 0, 1, 0, 0, 0),
    "header ten": struct.pack("!5H", 0x4D53, 0, 1, 0, 0),
    "a response": ask(flags=0x8000),
}  # fmt: skip


def odd(opcode: int, flags: int, questions: int, form: str) -> bytes:
    """A message with so many questions whose end is in order, or not."""
    body = (wire("rich.test") + b"\0\6\0\1") * questions
    edns = {"edns": opt(), "edns cut": opt()[:-3]}.get(form, b"")
    answers = 1 if form == "a record too few" else 0
    head = struct.pack("!6H", 0x4D53, opcode << 11 | flags, questions, answers, 0, 1 if edns else 0)
    return head + (body[:-3] if form == "cut" else body) + edns + (b"xyz" if form == "more" else b"")


ODD = {
    f"odd: opcode {opcode}, {count} questions, flags {flags:x}, {form}": odd(opcode, flags, count, form)
    for opcode in (0, 1, 4, 5, 15)
    for count in (0, 1, 2)
    for flags in (0, AA | TC | RD | RA | Z | AD | CD)
    for form in ("plain", "edns", "edns cut", "cut", "a record too few", "more")
}
TABLE |= ODD
TCP_ONLY = [*ODD, *(name for name in TABLE if name.startswith("class chaos"))]
"""named answers three of the latter in a second over UDP, and drops the others."""
UDP_ONLY = ["header ten"]
_OPT = "named sends no OPT record here, which RFC 6891 §7 wants in every answer to EDNS"
DIFFER: dict[str, str] = {
    "subnet with scope": _OPT,
    **{f"opcode {opcode} of class {rdclass}": _OPT for opcode in (4, 5) for rdclass in (254, 255)},
}
"""What differs from named, and why."""


def udp(port: int, message: bytes) -> bytes | None:
    """The answer to a datagram; None when a question sent after it is answered first (or alone)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(30)
        sock.connect(("127.0.0.1", port))
        sock.send(message)
        sock.send(b"\xff\xff" + ask("mail.rich.test", A)[2:])
        found = [sock.recv(65536)]
        if found[0][:2] == b"\xff\xff":
            sock.settimeout(0.3)  # named's threads may answer the second question first
            try:
                found.append(sock.recv(65536))
            except TimeoutError:
                return None
        return next((data for data in found if data[:2] != b"\xff\xff"), None)


def tcp(port: int, message: bytes) -> bytes | None:
    """The answer on a connection of its own; None when it is closed instead, or the next one is answered."""
    after = b"\xff\xff" + ask("mail.rich.test", A)[2:]
    with socket.create_connection(("127.0.0.1", port), 30) as sock:
        try:
            for one in (message, after):
                sock.sendall(struct.pack("!H", len(one)) + one)
            data = b""
            while len(data) < 2 or len(data) < 2 + int.from_bytes(data[:2], "big"):
                more = sock.recv(65536)
                if not more:
                    return None
                data += more
        except ConnectionError:
            return None
    answer = data[2 : 2 + int.from_bytes(data[:2], "big")]
    return None if answer[:2] == b"\xff\xff" else answer


def summary(data: bytes | None) -> list[str]:
    """What a reporter looks at: flags, rcode, section counts, and OPT with its options."""
    if data is None:
        return ["no answer"]
    ident, flags, *counts = struct.unpack_from("!6H", data)
    position = 12
    lines: list[str] = []
    for section, count in zip("QNUX", counts, strict=True):
        for _ in range(count):
            position, line = record(data, position, question=section == "Q")
            lines.append(f"{section} {line}")
    assert position == len(data)
    return [f"id {ident:x} flags {flags:04x} counts {counts}", *sorted(lines)]


def record(data: bytes, position: int, *, question: bool) -> tuple[int, str]:
    while data[position]:
        if data[position] >= 0xC0:
            position += 1
            break
        position += 1 + data[position]
    position += 1
    kind, rdclass = struct.unpack_from("!HH", data, position)
    if question:
        return position + 4, f"type {kind} class {rdclass}"
    ttl, length = struct.unpack_from("!IH", data, position + 4)
    start = position + 10
    if kind != 41:
        return start + length, f"type {kind} class {rdclass} ttl {ttl}"
    shown = []
    at = start
    while at < start + length:
        code, size = struct.unpack_from("!HH", data, at)
        text = data[at + 4 : at + 4 + size]
        # A server's cookie is its secret's; the client's part is the client's.
        shown.append(f"{code}:{size}:{(text[:8] if code == COOKIE else text).hex()}")
        at += 4 + size
    return start + length, f"OPT payload {rdclass} ttl {ttl:08x} options {sorted(shown)}"


@pytest.fixture(scope="module")
def ports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, int]]:
    root, mine, theirs = tmp_path_factory.mktemp("edns"), free_port(), free_port()
    options = 'allow-transfer { none; }; recursion no; version "9"; hostname "h.test"; server-id "id-7"; tcp-idle-timeout 300;'
    world = WORLD.replace(
        '"other.test" { type master;', '"other.test" { type master; allow-query { 127.0.0.9; };'
    )
    with (
        ours(configure(root / "ours", mine, options, world), mine),
        bind(configure(root / "bind", theirs, options, world), theirs),
    ):
        deadline = time.monotonic() + 30
        while summary(tcp(theirs, TABLE["dns"]))[0] != summary(tcp(mine, TABLE["dns"]))[0]:
            assert time.monotonic() < deadline  # named answers before it has its zones
        yield mine, theirs


@pytest.mark.parametrize("transport", [udp, tcp])
def test_answers_are_as_nameds(ports: tuple[int, int], transport: object) -> None:
    assert callable(transport)
    mine, theirs = ports
    left_out = {*DIFFER, *(TCP_ONLY if transport is udp else UDP_ONLY)}
    wrong = []
    for name in TABLE:
        if name in left_out:
            continue
        # Twice: the second answer of ours is a prepared one.
        got = [summary(transport(mine, TABLE[name])) for _ in range(2)]
        expected = summary(transport(theirs, TABLE[name]))
        if got != [expected, expected]:
            wrong.append((name, got, expected))
    told = "\n".join(
        f"{name}:\n  ours  {got[0]}\n  again {got[1]}\n  named {expected}" for name, got, expected in wrong
    )
    assert not wrong, told
