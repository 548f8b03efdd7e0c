"""A DNS compliance report on our server and on the real named: the columns and the verdicts of ISC's genreport.

Each test is a query to a zone's apex and what may be said of the answer (genreport.c of DNS-Compliance-Testing);
`report` gives the same tags. Over IPv4 and IPv6, for a zone that is signed and one that is not, all has to be ok,
and with the same remarks as for named.
"""

from __future__ import annotations

import hashlib
import hmac
import socket
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass

import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rdatatype
import pytest

from tests.interop.dns_servers import WORLD, bind, configure, ours
from tests.ports import free_port

pytestmark = pytest.mark.real

AA, TC, RD, RA, Z, AD, CD, DO = 0x400, 0x200, 0x100, 0x80, 0x40, 0x20, 0x10, 0x8000
CLIENT = bytes(range(1, 9))
NSID, ECS, EXPIRE = b"\0\3\0\0", b"\0\x08\0\4\0\1\0\0", b"\0\x09\0\0"
COOKIE, ECHO = b"\0\x0a\0\x08" + CLIENT, b"\0\x64\0\0"
SOA, DNSKEY, RRSIG, TSIG = 6, 48, 46, 250
NOTIMP, NOTAUTH, BADVERS, BADCOOKIE = 4, 9, 16, 23


@dataclass(frozen=True)
class Case:
    """One column: the query's flags and opcode, its OPT record (`size` 0: none), and how it is sent."""

    options: bytes = b""
    size: int = 0
    eflags: int = 0
    version: int = 0
    flags: int = 0
    opcode: int = 0
    kind: int = SOA
    tcp: bool = False
    ignore: bool = False
    """The answer is taken as it is when it is truncated."""
    key: bool = False
    """Signed with the key whose name is the root's and whose secret is zeros."""


CASES = {
    "dns": Case(), "aa": Case(flags=AA), "ad": Case(flags=AD), "cd": Case(flags=CD), "ra": Case(flags=RA),
    "rd": Case(flags=RD), "tc": Case(flags=TC), "zflag": Case(flags=Z), "opcode": Case(opcode=15, kind=0),
    "opcodeflg": Case(opcode=15, kind=0, flags=AA | TC | RD | RA | Z | AD | CD), "type666": Case(kind=666),
    "tcp": Case(tcp=True), "edns": Case(size=4096), "edns1": Case(size=4096, version=1),
    "edns@512": Case(size=512, kind=DNSKEY, ignore=True), "ednsopt": Case(ECHO, 4096),
    "edns@512 do": Case(size=512, eflags=DO, kind=DNSKEY, ignore=True),
    "edns1opt": Case(ECHO, 4096, version=1), "do": Case(size=4096, eflags=DO),
    "docd": Case(size=4096, eflags=DO, flags=CD), "edns1do": Case(size=4096, eflags=DO, version=1),
    "ednsflags": Case(size=4096, eflags=0x80), "optlist": Case(NSID + ECS + EXPIRE + COOKIE, 4096),
    "ednsnsid": Case(NSID, 4096), "ednscookie": Case(COOKIE, 4096), "ednsexpire": Case(EXPIRE, 4096),
    "ednssubnet": Case(ECS, 4096), "edns1nsid": Case(NSID, 4096, version=1),
    "edns1cookie": Case(COOKIE, 4096, version=1), "edns1expire": Case(EXPIRE, 4096, version=1),
    "edns1subnet": Case(ECS, 4096, version=1), "ednstcp": Case(size=512, eflags=DO, tcp=True, kind=DNSKEY),
    "bind11": Case(COOKIE, 4096, DO), "dig11": Case(COOKIE, 4096, flags=RD | AD), "dnswkk": Case(key=True),
    # Every type that has a column of its own.
    **{f"type {kind}": Case(kind=kind) for kind in (
        *range(1, 53), 53, 55, *range(59, 63), 99, *range(104, 110), *range(256, 260), 32769, 1000)
       if kind not in (40, 41, 54)},
}  # fmt: skip
"""genreport's columns, but for ping."""
Server = tuple[str, int]


def query(case: Case, zone: str) -> bytes:
    """The message; those of opcode 15 are a header only."""
    name = dns.name.from_text(zone).to_wire()
    assert name is not None
    flags, extra = case.opcode << 11 | case.flags, 1 if case.size else 0
    if case.opcode:
        return struct.pack("!6H", 0x4D53, flags, 0, 0, 0, 0)
    wire = struct.pack("!6H", 0x4D53, flags, 1, 0, 0, extra) + name + struct.pack("!HH", case.kind, 1)
    if case.size:
        wire += b"\0" + struct.pack("!HHHHH", 41, case.size, case.version, case.eflags, len(case.options))
        wire += case.options
    if case.key:
        wire = wire[:10] + b"\0\1" + wire[12:] + _tsig(wire)
    return wire


def _tsig(wire: bytes) -> bytes:
    head = b"\x0bhmac-sha256\0" + struct.pack("!HIH", 0, int(time.time()), 300)
    variables = b"\0" + b"\0\xff\0\0\0\0" + head + bytes(4)
    mac = hmac.new(bytes(32), wire + variables, hashlib.sha256).digest()
    rdata = head + b"\0\x20" + mac + wire[:2] + bytes(4)
    return b"\0" + struct.pack("!HHIH", TSIG, 255, 0, len(rdata)) + rdata


def ask(server: Server, case: Case, zone: str) -> bytes:
    """The answer, over TCP when it is truncated there."""
    wire, family = query(case, zone), socket.AF_INET6 if ":" in server[0] else socket.AF_INET
    if not case.tcp:
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.settimeout(10)
            for _ in range(3):
                try:
                    sock.sendto(wire, server)
                    data = sock.recv(65536)
                    break
                except TimeoutError:
                    continue
            else:
                raise AssertionError(f"no answer to {case}")
        if case.ignore or not data[2] & 2:
            return data
    with socket.create_connection(server, 30) as stream, stream.makefile("rwb") as file:
        file.write(len(wire).to_bytes(2, "big") + wire)
        file.flush()
        return file.read(int.from_bytes(file.read(2), "big"))


def report(server: Server, case: Case, zone: str) -> str:
    """The tags of a column."""
    data = ask(server, case, zone)
    tags: list[str] = []
    flags, *counts = struct.unpack_from("!5H", data, 2)
    sections = ("question", "answer", "authority", "additional")
    if case.opcode:
        found = [f"non-empty-{name}-section" for name, count in zip(sections, counts, strict=True) if count]
        assert found or len(data) == 12
        message = None
        tags += found
    else:
        message = dns.message.from_wire(data, ignore_trailing=False, keyring=False)
        assert message.question[0].name == dns.name.from_text(zone)
        assert message.question[0].rdtype == case.kind
    rcode = int(message.rcode()) if message is not None else flags & 15
    seen = {rrset.rdtype for rrset in message.answer} if message is not None else set()
    opt = message is not None and message.edns >= 0
    eflags = message.ednsflags if message is not None else 0
    options = {int(one.otype): one.to_wire() or b"" for one in message.options} if message is not None else {}
    cookie = options.get(10, b"")
    told = f"rcode{rcode}"
    if flags >> 11 & 15 != case.opcode:
        tags.append(f"opcode{flags >> 11 & 15}")
    if case.version == 0:
        cookied = COOKIE in case.options and rcode == BADCOOKIE and len(cookie) >= 16
        if rcode != (NOTIMP if case.opcode else 0) and not cookied and not (case.key and rcode == NOTAUTH):
            tags.append(told)
    elif rcode != BADVERS:
        tags.append(told)
    tags += _of_tsig(message) if case.key else []
    wrong = {
        "version-not-zero": opt and message is not None and message.edns != 0,
        "noopt": not opt and case.size > 0,
        "opt": opt and not case.size,
        "nosoa": case.kind == SOA and not case.version and not case.ignore and SOA not in seen and not rcode,
        "soa": SOA in seen and (case.version > 0 or rcode != 0),
        "echoed": 100 in options,
        "nodo": opt and case.eflags & DO and not eflags & DO and RRSIG in seen,
        "nocd": opt and case.eflags & DO and case.flags & CD and not flags & CD and RRSIG in seen,
        "noaa": not flags & AA and not case.version and not rcode and not case.opcode,
        "aa": flags & AA and case.opcode,
        "ra": flags & RA and case.opcode,
        "rd": flags & RD and (case.opcode or not case.flags & RD),
        "nord": not flags & RD and case.flags & RD and not case.opcode,
        "ad": flags & AD and (case.opcode or not (case.flags & AD or case.eflags & DO)),
        "cd": flags & CD and (case.opcode or not case.flags & CD),
        "z": flags & Z,
        "mbz": eflags & 0x7FFF,
        "toobig": case.ignore and len(data) > case.size,
        "cookie-mismatch": COOKIE in case.options and cookie and cookie[:8] != CLIENT,
    }
    tags += [tag for tag, is_so in wrong.items() if is_so] or ([] if tags else ["ok"])
    remarks = {"nsid": options.get(3), "expire": len(options.get(9, b"")) == 4, "cookie": 16 <= len(cookie) <= 40,
               "subnet": 8 in options, "signed": RRSIG in seen, "truncated": flags & TC}  # fmt: skip
    return ",".join(tags + [remark for remark, is_so in remarks.items() if is_so])


def _of_tsig(message: dns.message.Message | None) -> list[str]:
    if message is None or not message.had_tsig or message.tsig is None:
        return ["notsig"]
    (tsig,) = message.tsig
    wrong = {
        "tsig-wrong-key": message.tsig.name != dns.name.root,
        "tsig-wrong-alg": str(tsig.algorithm) != "hmac-sha256.",
        "tsig-bad-class": int(message.tsig.rdclass) != 255,
        "tsig-bad-ttl": message.tsig.ttl != 0,
        "tsig-bad-fudge": tsig.fudge == 0,
        "tsig-bad-time": abs(tsig.time_signed - time.time()) > 300,
        "badkey": tsig.error == 17,
    }
    return [tag for tag, is_so in wrong.items() if is_so]


@pytest.fixture(scope="module")
def ports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, int]]:
    root, mine, theirs = tmp_path_factory.mktemp("compliance"), free_port(), free_port()
    world = WORLD.replace(
        '"other.test" { type master;',
        '"other.test" { type master; dnssec-policy default; inline-signing yes;',
    )
    for name, port in (("ours", mine), ("bind", theirs)):
        options = f'recursion no; server-id "id-7"; listen-on-v6 port {port} {{ ::1; }};'
        configure(root / name, port, options, world)
    with ours(root / "ours", mine), bind(root / "bind", theirs):
        deadline = time.monotonic() + 60
        for port in (mine, theirs):  # named signs, and even loads, after it has begun to answer
            while "signed" not in report(("127.0.0.1", port), CASES["do"], "other.test"):
                assert time.monotonic() < deadline
                time.sleep(0.05)
        yield mine, theirs


@pytest.mark.parametrize("zone", ["rich.test", "other.test"], ids=["unsigned", "signed"])
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_all_ok(ports: tuple[int, int], host: str, zone: str) -> None:
    mine, theirs = ports
    wrong = []
    for name, case in CASES.items():
        got, expected = (report((host, port), case, zone) for port in (mine, theirs))
        fine = got.split(",")[0] == ("badkey" if case.key else "ok")
        if got != expected or not fine:
            wrong.append(f"{name}: ours {got}, named {expected}")
    assert not wrong, "\n".join(wrong)
