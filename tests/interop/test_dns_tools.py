"""Other people's clients against our server: kdig and knsupdate, drill and ldns, host, dnsperf, dnspython."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import dns.asyncquery
import dns.asyncresolver
import dns.message
import dns.resolver
import pytest

from mailstack.net import loop
from tests.interop.conftest import need
from tests.interop.dns_servers import WORLD, configure, ours
from tests.ports import free_port

pytestmark = pytest.mark.real

SECRET = "c2VjcmV0IG9mIHRoZSB0ZXN0cw=="
WHERE = "127.0.0.1"


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A server with a zone that may be changed and transferred with a key, and one that is signed."""
    chosen = free_port()
    world = WORLD.replace(
        '"rich.test" { type master;',
        '"rich.test" { type master; allow-update { key k; }; allow-transfer { key k; };',
    ).replace(
        '"other.test" { type master;',
        '"other.test" { type master; dnssec-policy default; allow-transfer { key k; };',
    )
    root = configure(
        tmp_path_factory.mktemp("tools"),
        chosen,
        f'recursion no; server-id "id-7"; listen-on-v6 port {chosen} {{ ::1; }};',
        f'key k {{ algorithm hmac-sha256; secret "{SECRET}"; }};{world}',
    )
    with ours(root, chosen):
        yield chosen


def run(*command: str, given: str = "", status: int = 0) -> str:
    """What a program says. It has to end with `status`."""
    tool = need(command[0])
    done = subprocess.run(
        [tool, *command[1:]], input=given, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        ("rich.test MX", ["status: NOERROR", "Flags: qr aa", r"MX\s+10 mail.rich.test."]),
        ("rich.test MX +tcp +padding=128", [r"MX\s+10 mail.rich.test.", r"\(TCP\)"]),
        ("nothere.rich.test A", ["status: NXDOMAIN", r"SOA\s+ns1.rich.test."]),
        ("x.sub.rich.test A", ["status: NOERROR", "ANSWER: 0;", r"sub.rich.test.\s+\d+\s+IN\s+NS"]),
        ("-x 192.0.2.4", [r"PTR\s+mail.rich.test."]),
        ("rich.test SOA +edns=1", ["status: BADVERS", "Version: 0"]),
        ("rich.test SOA +nsid +cookie", [r'NSID: 69642D37 "id-7"', "COOKIE: [0-9A-F]{48}"]),
        ("rich.test SOA +subnet=192.0.2.0/24", ["CLIENT-SUBNET: 192.0.2.0/24/0"]),
        ("big.rich.test TXT +noedns +ignore", ["Flags: qr aa tc"]),
        ("www.other.test A +dnssec", ["flags: do", r"RRSIG\s+A 13 3"]),
        ("elsewhere.example A", ["status: REFUSED"]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("host", [WHERE, "::1"])
def test_kdig(port: int, host: str, arguments: str, wanted: list[str]) -> None:
    said = run("kdig", f"@{host}", "-p", str(port), "+time=30", "+retry=0", "+norec", *arguments.split())
    for one in wanted:
        assert re.search(one, said), said
    assert "WARNING" not in said


def test_kdig_transfers_and_knsupdate_changes(port: int) -> None:
    key = ["-y", f"hmac-sha256:k:{SECRET}"]
    whole = ["kdig", f"@{WHERE}", "-p", str(port), "+time=30", *key, "rich.test"]
    before = run(*whole, "AXFR")
    script = (
        f"server {WHERE} {port}\nzone rich.test.\norigin rich.test.\nadd knot 60 A 192.0.2.77\nsend\nquit\n"
    )
    run("knsupdate", "-v", *key, given=script)
    after = run(*whole, "AXFR")
    serial = re.findall(r"SOA\s+\S+ \S+ (\d+)", before)[0]
    step = run(*whole, f"IXFR={serial}")
    assert "192.0.2.77" in after and "192.0.2.77" not in before
    assert len(re.findall(r"\sSOA\s", step)) == 4 and "192.0.2.77" in step
    refused = run("kdig", f"@{WHERE}", "-p", str(port), "+time=30", "rich.test", "AXFR", status=1)
    assert "192.0.2" not in refused


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["rich.test", "MX"], [r"MX\s+10 mail.rich.test.", "rcode: NOERROR"]),
        (["-t", "rich.test", "MX"], [r"MX\s+10 mail.rich.test."]),
        (["-x", "192.0.2.4"], [r"PTR\s+mail.rich.test."]),
        (["-D", "www.other.test", "A"], [r"RRSIG\s+A 13 3", "flags: do"]),
        (["-D", "nothere.other.test", "A"], ["rcode: NXDOMAIN", r"NSEC\s", r"RRSIG\s+NSEC"]),
        (["-a", "big.rich.test", "TXT"], [r"TXT\s"]),
    ],
)
def test_drill(port: int, arguments: list[str], wanted: list[str]) -> None:
    said = run("drill", "-p", str(port), arguments[0], *arguments[1:], f"@{WHERE}")
    for one in wanted:
        assert re.search(one, said), said


def test_ldns_verifies_the_signed_zone(port: int, tmp_path: Path) -> None:
    key = ["-y", f"hmac-sha256:k:{SECRET}"]
    whole = run("kdig", f"@{WHERE}", "-p", str(port), "+time=30", *key, "other.test", "AXFR")
    (tmp_path / "whole").write_text(re.sub(r".*\sTSIG\s.*\n", "", whole))
    assert "Zone is verified and complete" in run("ldns-verify-zone", str(tmp_path / "whole"))


def test_host(port: int) -> None:
    said = run("host", "-p", str(port), "-W", "30", "mail.rich.test", WHERE)
    assert "mail.rich.test has address 192.0.2.4" in said
    assert "mail.rich.test has IPv6 address" in said
    assert "domain name pointer mail.rich.test." in run("host", "-p", str(port), "192.0.2.4", WHERE)
    assert "ANSWER SECTION" in run("host", "-p", str(port), "-a", "mail.rich.test", WHERE)


@pytest.mark.parametrize("mode", ["udp", "tcp"])
def test_dnsperf(port: int, tmp_path: Path, mode: str) -> None:
    questions = tmp_path / "questions"
    questions.write_text("rich.test MX\nmail.rich.test A\nnothere.rich.test A\nwww.other.test A\n")
    load = ["-d", str(questions), "-n", "250", "-m", mode, "-t", "60", "-q", "20", "-c", "4", "-D", "-e"]
    said = run("dnsperf", "-s", WHERE, "-p", str(port), *load)
    assert re.search(r"Queries sent:\s+1000", said), said
    assert re.search(r"Queries completed:\s+1000 \(100", said), said
    assert re.search(r"NOERROR 750 \(75.00%\), NXDOMAIN 250", said), said


def test_dnspython(port: int) -> None:
    resolver = dns.resolver.Resolver(configure=False)
    resolver.nameservers, resolver.port, resolver.lifetime = [WHERE], port, 60
    assert resolver.resolve("rich.test", "MX")[0].preference == 10
    assert {str(one) for one in resolver.resolve_name("mail.rich.test").addresses()} == {
        "192.0.2.4",
        "2001:db8::4",
    }
    assert str(resolver.resolve_address("192.0.2.4")[0]) == "mail.rich.test."
    with pytest.raises(dns.resolver.NXDOMAIN):
        resolver.resolve("nothere.rich.test", "A")
    with pytest.raises(dns.resolver.NoAnswer):
        resolver.resolve("mail.rich.test", "CAA")

    async def together() -> tuple[str, bool, int]:
        there = dns.asyncresolver.Resolver(configure=False)
        there.nameservers, there.port, there.lifetime = [WHERE], port, 60
        found = await there.resolve("alias.rich.test", "A")
        query = dns.message.make_query("big.rich.test", "TXT", payload=512, use_edns=0)
        answer, by_tcp = await dns.asyncquery.udp_with_fallback(query, WHERE, port=port, timeout=60)
        return str(found.canonical_name), by_tcp, len(answer.answer[0])

    assert loop.run(together(), None) == ("mail.rich.test.", True, 3)
