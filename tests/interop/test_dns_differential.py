"""Question by question, our server and the real named on the same zones."""

from __future__ import annotations

import shutil
import socket
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import dns.flags
import dns.message
import dns.name
import dns.query
import dns.rcode
import dns.rdatatype
import dns.rrset
import dns.zone
import pytest

from mailstack.dns.zonefile import LARGE
from tests.interop.dns_servers import ZONES, bind, configure, ours
from tests.ports import free_port

pytestmark = pytest.mark.real

ORIGINS = {
    "rich.test": "rich.zone",
    "other.test": "other.zone",
    "child.other.test": "child.zone",
    "2.0.192.in-addr.arpa": "rev.zone",
}
TYPES = ("A", "AAAA", "NS", "SOA", "MX", "TXT", "CNAME", "SRV", "PTR", "DS", "ANY", "TYPE65400")
FLAGS = dns.flags.QR | dns.flags.AA | dns.flags.TC | dns.flags.RD | dns.flags.RA | dns.flags.AD
ODD = [
    ("rich.test", "AXFR"),
    ("rich.test", "IXFR"),
    ("rich.test", "MAILA"),
    ("rich.test", "MAILB"),
    ("rich.test", "TYPE0"),
    ("rich.test", "OPT"),
    ("rich.test", "TSIG"),
    ("rich.test", "NSEC"),
    ("rich.test", "RRSIG"),
    ("rich.test", "DNSKEY"),
    ("elsewhere.example", "A"),
    (".", "NS"),
    ("test", "NS"),
]

Summary = tuple[str, str, frozenset[str], frozenset[str], frozenset[str]]


def questions() -> Iterator[tuple[str, str]]:
    """Every name of the zones with every type; names beside, below and above; what is nobody's."""
    seen: set[tuple[str, str]] = set()
    for origin, file in ORIGINS.items():
        zone = dns.zone.from_file(str(ZONES / file), origin=origin, relativize=False)
        for name in sorted(zone.nodes):
            text = name.to_text()
            variants = [text, "nx." + text]
            if len(name.labels) > len(zone.origin.labels if zone.origin else ()):
                variants.append("zz" + text if not text.startswith("*") else "a.b." + name.parent().to_text())
                variants.append(name.parent().to_text())
            numbered = text.startswith(("h", "1")) and text[1:2].isdigit()
            for variant in variants:
                for rdtype in TYPES if not numbered else ("A", "PTR"):
                    if (variant, rdtype) not in seen:
                        seen.add((variant, rdtype))
                        yield variant, rdtype
    yield from ODD


def ask(name: str, rdtype: str, port: int, **options: object) -> Summary:
    rd = bool(options.pop("rd", True))
    query = dns.message.make_query(name, rdtype, **options)  # type: ignore[arg-type]
    if not rd:
        query.flags &= ~dns.flags.RD
    response = dns.query.udp(query, "127.0.0.1", port=port, timeout=3)
    truncated = bool(response.flags & dns.flags.TC)
    full = len(response.wire or b"") > max(512, query.payload) - 60
    return (
        dns.rcode.to_text(response.rcode()),
        dns.flags.to_text(dns.flags.Flag(response.flags & FLAGS)),
        # What part of a truncated answer is there is nobody's business: the client asks again over TCP.
        frozenset() if truncated else flat(response.answer),
        frozenset() if truncated else flat(response.authority),
        # Nor which addresses were left out for want of room.
        frozenset() if truncated or full else flat(response.additional),
    )


def flat(section: list[dns.rrset.RRset]) -> frozenset[str]:
    """One line per record, owner in lower case."""
    return frozenset(
        f"{str(rrset.name).lower()} {rrset.ttl} {dns.rdatatype.to_text(rrset.rdtype)} {rdata}"
        for rrset in section
        for rdata in rrset
    )


@pytest.fixture(scope="module")
def ports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, int]]:
    """Ports of ours and of named, both serving the same zones."""
    root = tmp_path_factory.mktemp("differential")
    mine, theirs = free_port(), free_port()
    options = "recursion no; allow-transfer { none; };"
    with (
        ours(configure(root / "ours", mine, options), mine),
        bind(configure(root / "bind", theirs, options), theirs),
    ):
        yield mine, theirs


@pytest.mark.parametrize(
    "options",
    [
        {"use_edns": 0, "payload": 1232},
        {"use_edns": 0, "payload": 1232, "rd": False},
        {"use_edns": False},
        {"use_edns": 0, "payload": 600, "want_dnssec": True},
    ],
    ids=["edns", "not recursive", "plain", "do"],
)
def test_same_answers(ports: tuple[int, int], options: dict[str, object]) -> None:
    mine, theirs = ports
    different: list[str] = []
    asked = 0
    for name, rdtype in questions():
        asked += 1
        here, there = ask(name, rdtype, mine, **options), ask(name, rdtype, theirs, **options)
        if here != there:
            different.append(f"{name} {rdtype}\n   ours {show(here)}\n  named {show(there)}")
    assert asked > 300
    assert not different, f"{len(different)} of {asked}:\n" + "\n".join(different[:20])


MORE = Path(__file__).parent / "zones"
WAYS: tuple[dict[str, object], ...] = (
    {"use_edns": 0, "payload": 1232},
    {"use_edns": 0, "payload": 1232, "want_dnssec": True, "rd": False},
    {"use_edns": False},
)


def questions_about(origin: str, port: int) -> Iterator[tuple[str, str]]:
    """Every name of a zone as it stands, in capitals and with one more label; its types and common ones."""
    transfer = dns.query.xfr("127.0.0.1", origin, port=port, relativize=False)
    zone = dns.zone.from_xfr(transfer, relativize=False)
    for name in sorted(zone.nodes):
        types = {dns.rdatatype.to_text(rdataset.rdtype) for rdataset in zone.nodes[name]}
        types |= {"A", "MX", "TXT", "NS", "CNAME", "ANY", "DS", "SOA"}
        text = name.to_text()
        for variant in (text, text.upper(), "nx." + text):
            if len(variant) < 254:
                for rdtype in sorted(types):
                    yield variant, rdtype


def test_more_zones(tmp_path: Path) -> None:
    """Every type, names that are hard to read, wildcards, delegations, aliases, directives of master files."""
    zones = ""
    for path in sorted(MORE.glob("*.zone")):
        zones += (
            f'zone "{path.stem}.test" {{ type master; file "zones/{path.name}"; check-names ignore; }};\n'
        )
    mine, theirs = free_port(), free_port()
    for folder in ("ours", "bind"):
        shutil.copytree(MORE, tmp_path / folder / "zones")
    options = "recursion no; allow-transfer { any; };"
    different: list[str] = []
    asked = 0
    with (
        ours(configure(tmp_path / "ours", mine, options, zones), mine),
        bind(configure(tmp_path / "bind", theirs, options, zones), theirs),
    ):
        for path in MORE.glob("*.zone"):
            for name, rdtype in questions_about(f"{path.stem}.test", theirs):
                way = WAYS[asked % len(WAYS)]
                asked += 1
                here, there = ask(name, rdtype, mine, **way), ask(name, rdtype, theirs, **way)
                if here != there:
                    different.append(f"{name} {rdtype} {way}\n   ours {show(here)}\n  named {show(there)}")
    assert asked > 4000
    assert not different, f"{len(different)} of {asked}:\n" + "\n".join(different[:20])


def raw(
    *options: tuple[int, bytes],
    question: bool = True,
    version: int = 0,
    flags: int = 0,
    header: int = 0,
    rdclass: int = 1,
    tail: bytes = b"",
) -> bytes:
    """A query for mail.rich.test A, octet by octet."""
    data = b"".join(struct.pack("!HH", code, len(value)) + value for code, value in options)
    opt = b"\0" + struct.pack("!HHIH", 41, 1232, version << 16 | flags, len(data)) + data
    asked = b"\4mail\4rich\4test\0" + struct.pack("!HH", 1, rdclass) if question else b""
    return struct.pack("!6H", 4711, header, int(question), 0, 0, 1) + asked + opt + tail


ODD_MESSAGES = {
    "a cookie": raw((10, bytes(8))),
    "too short a cookie": raw((10, bytes(7))),
    "too long a cookie": raw((10, bytes(41))),
    "no server's cookie": raw((10, bytes(24))),
    "two cookies": raw((10, bytes(8)), (10, bytes(8))),
    "a cookie without question": raw((10, bytes(8)), question=False),
    "no question": raw(question=False),
    "EDNS version 1": raw(version=1),
    "EDNS version 1, an option": raw((100, b""), version=1),
    "EDNS version 1, a cookie": raw((10, bytes(8)), version=1),
    "an unknown option": raw((100, b"")),
    "an unknown flag": raw(flags=0x80),
    "DO": raw(flags=0x8000),
    "NSID": raw((3, b"")),
    "a subnet": raw((8, b"\0\1\x18\0\xc0\0\2")),
    "a subnet of IPv6": raw((8, b"\0\2\x20\0\x20\1\x0d\xb8")),
    "no subnet": raw((8, b"\0\1\0\0")),
    "a subnet too long": raw((8, b"\0\1\x21\0\xc0\0\2\1\0")),
    "a subnet with too many bits": raw((8, b"\0\1\x17\0\xc0\0\3")),
    "a subnet of another family": raw((8, b"\0\3\x18\0\xc0\0\2")),
    "EXPIRE": raw((9, b"")),
    "several options": raw((3, b""), (8, b"\0\1\0\0"), (9, b""), (10, bytes(8))),
    "keepalive over UDP": raw((11, b"")),
    "padding": raw((12, bytes(10))),
    "octets behind the end": raw(tail=b"x"),
    "the Z bit": raw(header=0x40),
    "AD": raw(header=0x20),
    "CD": raw(header=0x10),
    "opcode IQUERY": raw(header=0x0800),
    "opcode STATUS": raw(header=0x1000),
    "opcode 15": raw(header=0x7800),
    "class NONE": raw(rdclass=254),
}


@pytest.mark.parametrize("name", ODD_MESSAGES)
def test_same_answers_to_odd_messages(ports: tuple[int, int], name: str) -> None:
    mine, theirs = (exchange(port, ODD_MESSAGES[name]) for port in ports)
    assert mine == theirs


def exchange(port: int, message: bytes) -> tuple[object, ...]:
    """What an answer says of itself; options by code and length."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(5)
        client.sendto(message, ("127.0.0.1", port))
        answer = dns.message.from_wire(client.recv(4096))
    options = sorted((int(option.otype), len(option.to_wire() or b"")) for option in answer.options)
    sections = [len(section) for section in answer.sections]
    return (answer.rcode(), answer.flags, answer.edns, answer.ednsflags, answer.payload, options, *sections)


SIGNED = {
    "NSEC": [],
    "NSEC3": ["-3", "beef", "-H", "3"],
    "NSEC3, opt-out": ["-3", "-", "-A"],
    "NSEC, large": ["-O", "full"],
    "NSEC3, opt-out, large": ["-3", "-", "-A"],
}
"""Options of dnssec-signzone. Large files are read in another way."""


@pytest.fixture(scope="module", params=SIGNED)
def signed(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[int, int]]:
    """The same with zones that dnssec-signzone has signed, one way after the other."""
    root = tmp_path_factory.mktemp("signed")
    mine, theirs = free_port(), free_port()
    options = "recursion no; allow-transfer { none; }; max-udp-size 4096;"
    configure(root / "ours", mine, options)
    for origin, file in ORIGINS.items():
        sign(root / "ours" / "zones", origin, file, SIGNED[request.param])
        if "large" in request.param:
            with open(root / "ours" / "zones" / file, "a", encoding="ascii") as zone:
                zone.write("; a comment\n" * (LARGE // 10))
    configure(root / "bind", theirs, options)
    shutil.copytree(root / "ours" / "zones", root / "bind" / "zones", dirs_exist_ok=True)
    with ours(root / "ours", mine), bind(root / "bind", theirs):
        yield mine, theirs


def sign(folder: Path, origin: str, file: str, options: list[str]) -> None:
    """Sign a zone file in its place, with a key of its own."""
    key = ["dnssec-keygen", "-q", "-K", str(folder), "-a", "ECDSAP256SHA256", "-f", "KSK", origin]
    subprocess.run(key, check=True, capture_output=True)
    command = ["dnssec-signzone", "-S", "-z", "-K", str(folder), "-d", str(folder), "-o", origin, *options]
    subprocess.run([*command, "-f", file + ".signed", file], check=True, capture_output=True, cwd=folder)
    (folder / (file + ".signed")).replace(folder / file)


@pytest.mark.parametrize("dnssec", [True, False], ids=["do", "plain"])
def test_same_answers_from_signed_zones(signed: tuple[int, int], *, dnssec: bool) -> None:
    different: list[str] = []
    asked = 0
    kinds = ("DNSKEY", "NSEC", "RRSIG", "NSEC3PARAM")
    for name, rdtype in [*questions(), *((origin, kind) for origin in ORIGINS for kind in kinds)]:
        asked += 1
        here, there = (
            ask(name, rdtype, port, want_dnssec=dnssec, rd=asked % 2 == 0, use_edns=0, payload=4096)
            for port in signed
        )
        if here != there:
            different.append(f"{name} {rdtype}\n   ours {show(here)}\n  named {show(there)}")
    assert asked > 300
    assert not different, f"{len(different)} of {asked}:\n" + "\n".join(different[:20])


def show(summary: Summary) -> str:
    rcode, flags, *sections = summary
    return f"{rcode} {flags} " + " | ".join("; ".join(sorted(section)) for section in sections)
