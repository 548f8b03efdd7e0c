"""Dynamic updates and TSIG: nsupdate, dig and dnspython against ours and against named."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import dns.message
import dns.query
import dns.rcode
import dns.tsigkeyring
import dns.update
import pytest

from tests.interop.dns_servers import bind, configure, ours
from tests.ports import free_port

pytestmark = pytest.mark.real

SECRET = "c2VjcmV0IG9mIHRoZSB0ZXN0cw=="
KEYS = "".join(
    f'key "{name}" {{ algorithm {name}; secret "{SECRET}"; }};\n'
    for name in ("hmac-md5", "hmac-sha1", "hmac-sha224", "hmac-sha256", "hmac-sha384", "hmac-sha512")
)
ZONES = f"""{KEYS}
zone "other.test" {{
  type master; file "zones/other.zone"; allow-update {{ key hmac-sha256; key hmac-md5; }};
  allow-transfer {{ key hmac-sha256; }};
}};
zone "rich.test" {{ type master; file "zones/rich.zone"; allow-update {{ 127.0.0.1; }}; allow-transfer {{ any; }}; }};
zone "child.other.test" {{ type master; file "zones/child.zone"; allow-query {{ key hmac-sha1; }}; }};
"""
SCRIPTS = {
    "a record comes": "add new.rich.test 300 A 192.0.2.200",
    "a record comes twice": "add new.rich.test 300 A 192.0.2.200\nadd new.rich.test 600 A 192.0.2.200",
    "a record more": "add mail.rich.test 60 A 192.0.2.201",
    "another case": "add MAIL.Rich.Test 3600 MX 10 MAIL.rich.test.",
    "a record goes": "del many.rich.test MX 10 h1.rich.test.",
    "a set goes": "del many.rich.test MX",
    "a name goes": "del mail.rich.test",
    "nothing goes": "del nowhere.rich.test A",
    "the apex goes": "del rich.test",
    "the apex's NS": "del rich.test NS",
    "all NS but one": "del rich.test NS ns1.rich.test.\ndel rich.test NS ns2.rich.test.\ndel rich.test NS ns.other.test.",
    "the SOA goes": "del rich.test SOA",
    "a later SOA": "add rich.test 3600 SOA ns1.rich.test. h.rich.test. 2030010101 1 2 3 4",
    "an earlier SOA": "add rich.test 3600 SOA ns1.rich.test. h.rich.test. 1999010101 1 2 3 4",
    "a CNAME beside data": "add mail.rich.test 60 CNAME elsewhere.test.",
    "data beside a CNAME": "add alias.rich.test 60 A 192.0.2.9",
    "another CNAME": "add alias.rich.test 60 CNAME other.rich.test.",
    "a wildcard": "add *.new.rich.test 60 TXT hello",
    "a delegation": "add cut.rich.test 60 NS ns1.rich.test.\nadd below.cut.rich.test 60 A 192.0.2.1",
    "a DNAME": "add dn2.rich.test 60 DNAME target.rich.test.",
    "an unknown type": "add unknown.rich.test 60 TYPE65400 \\# 4 01020304",
    "an odd owner": "add bad_name.rich.test 60 A 192.0.2.1",
    "outside": "add www.elsewhere.test 60 A 192.0.2.1",
    "an RRSIG": "del rich.test RRSIG",
    "yxdomain": "prereq yxdomain mail.rich.test\nadd ok1.rich.test 60 A 192.0.2.1",
    "yxdomain, not": "prereq yxdomain nowhere.rich.test\nadd no1.rich.test 60 A 192.0.2.1",
    "nxdomain": "prereq nxdomain nowhere.rich.test\nadd ok2.rich.test 60 A 192.0.2.1",
    "nxdomain, not": "prereq nxdomain mail.rich.test\nadd no2.rich.test 60 A 192.0.2.1",
    "yxrrset": "prereq yxrrset mail.rich.test A\nadd ok3.rich.test 60 A 192.0.2.1",
    "yxrrset, not": "prereq yxrrset mail.rich.test CAA\nadd no3.rich.test 60 A 192.0.2.1",
    "nxrrset": "prereq nxrrset mail.rich.test CAA\nadd ok4.rich.test 60 A 192.0.2.1",
    "nxrrset, not": "prereq nxrrset mail.rich.test A\nadd no4.rich.test 60 A 192.0.2.1",
    "a set's value": "prereq yxrrset ns2.rich.test A 192.0.2.3\nadd ok5.rich.test 60 A 192.0.2.1",
    "a set's value, not": "prereq yxrrset rich.test NS ns1.rich.test.\nadd no5.rich.test 60 A 192.0.2.1",
    "a name server without an address": "add rich.test 3600 NS ns9.rich.test.",
    "a name server with one": "add ns9.rich.test 60 A 192.0.2.99\nadd rich.test 3600 NS ns9.rich.test.",
    "a name server's address goes": "del ns9.rich.test",
    "a name server that is an alias": "add rich.test 3600 NS alias.rich.test.",
    "a name server elsewhere": "add rich.test 3600 NS ns.elsewhere.example.",
    "an empty non-terminal": "prereq nxdomain c.ent.rich.test\nadd ok6.rich.test 60 A 192.0.2.1",
}


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, int]]:
    root = tmp_path_factory.mktemp("update")
    mine, theirs = free_port(), free_port()
    for name, port in (("ours", mine), ("bind", theirs)):
        configure(root / name, port, "recursion no; allow-query { any; };", ZONES)
    with ours(root / "ours", mine), bind(root / "bind", theirs):
        yield mine, theirs


def nsupdate(port: int, script: str, *options: str) -> str:
    """What nsupdate says: nothing when all is well."""
    text = f"server 127.0.0.1 {port}\nzone rich.test\n{script}\nsend\n"
    done = subprocess.run(
        ["nsupdate", *options], input=text, capture_output=True, text=True, timeout=30, check=False
    )
    return done.stdout + done.stderr


def transferred(port: int, zone: str = "rich.test", *options: str) -> list[str]:
    dig = ["dig", "@127.0.0.1", "-p", str(port), "+onesoa", "+nocmd", "+nostats", "+nocomments", *options]
    done = subprocess.run([*dig, zone, "AXFR"], capture_output=True, text=True, timeout=30, check=True)
    return sorted(
        re.sub(r"\s+", " ", line).lower()  # named keeps the case of a set, ours that of a name
        for line in done.stdout.splitlines()
        if line and line[0] != ";" and " TSIG " not in line.replace("\t", " ")
    )


def test_named_does_the_same(servers: tuple[int, int]) -> None:
    mine, theirs = servers
    for name, script in SCRIPTS.items():
        assert (name, nsupdate(mine, script)) == (name, nsupdate(theirs, script))
        here, there = transferred(mine), transferred(theirs)
        assert len(here) > 50
        assert (name, here) == (name, there)


@pytest.mark.parametrize(
    "algorithm", ["hmac-md5", "hmac-sha1", "hmac-sha224", "hmac-sha256", "hmac-sha384", "hmac-sha512"]
)
def test_keys(servers: tuple[int, int], algorithm: str) -> None:
    for port in servers:
        dig = [
            "dig",
            "@127.0.0.1",
            "-p",
            str(port),
            "-y",
            f"{algorithm}:{algorithm}:{SECRET}",
            "+norec",
            "rich.test",
            "MX",
        ]
        said = subprocess.run(dig, capture_output=True, text=True, timeout=30, check=True).stdout
        assert "status: NOERROR" in said
        assert f"{algorithm}" in said.partition("TSIG PSEUDOSECTION")[2]
        assert "NOERROR 0" in said.partition("TSIG PSEUDOSECTION")[2]
        assert "WARNING" not in said


@pytest.mark.parametrize(
    ("name", "secret", "options"),
    [
        ("hmac-sha256", "d3Jvbmc=", []),
        ("unknown", SECRET, []),
        ("hmac-sha256", SECRET, ["+fuzztime=1000000000"]),
    ],
    ids=["another secret", "another key", "another time"],
)
def test_signatures_that_do_not_hold(
    servers: tuple[int, int], name: str, secret: str, options: list[str]
) -> None:
    said = []
    for port in servers:
        dig = [
            "dig",
            "@127.0.0.1",
            "-p",
            str(port),
            "-y",
            f"hmac-sha256:{name}:{secret}",
            *options,
            "www.other.test",
        ]
        text = subprocess.run(dig, capture_output=True, text=True, timeout=30, check=False).stdout
        tsig = [line.split() for line in text.splitlines() if "\tTSIG\t" in line]
        status = re.findall(r"status: (\w+)", text)
        said.append(
            (
                status,
                [(line[0], line[4], line[-2]) for line in tsig],
                re.findall(r";; (\w+.*failure.*)", text),
            )
        )
    assert said[0] == said[1]
    assert said[0][0] == ["NOTAUTH"]


def test_rights_by_key(servers: tuple[int, int]) -> None:
    outcome = []
    for port in servers:
        script = "zone other.test\nadd key.other.test 60 A 192.0.2.7"
        found = [nsupdate(port, script)]
        found += [
            nsupdate(port, script, "-y", f"{key}:{key}:{SECRET}") for key in ("hmac-sha1", "hmac-sha256")
        ]
        for key in ("hmac-sha1", "hmac-sha256"):
            lines = transferred(port, "other.test", "-y", f"{key}:{key}:{SECRET}")
            found.append("\n".join(lines))
        dig = ["dig", "@127.0.0.1", "-p", str(port), "+short", "child.other.test", "SOA"]
        for options in ([], ["-y", f"hmac-sha1:hmac-sha1:{SECRET}"]):
            found.append(
                subprocess.run(
                    [*dig, *options], capture_output=True, text=True, timeout=30, check=True
                ).stdout
            )
        outcome.append(found)
    assert outcome[0] == outcome[1]
    assert "REFUSED" in outcome[0][0]
    assert outcome[0][2] == ""
    assert "192.0.2.7" in outcome[0][4]


def test_a_zone_that_is_signed_as_it_is_served(tmp_path: Path) -> None:
    port = free_port()
    zones = ZONES.replace('file "zones/rich.zone";', 'file "zones/rich.zone"; dnssec-policy default;')
    root = configure(tmp_path, port, "recursion no;", zones)
    with ours(root, port):
        script = "add new.rich.test 300 A 192.0.2.200\ndel many.rich.test MX\nadd cut.rich.test 60 NS ns1.rich.test."
        assert nsupdate(port, script) == ""
        after = transferred(port)
        assert nsupdate(port, "add rich.test 60 DNSKEY 257 3 13 AAAA") == ""
    assert any(line.startswith("new.rich.test. 300 in a ") for line in after)
    assert not any(line.startswith("many.rich.test. 3600 in mx") for line in after)
    with ours(root, port):
        dig = [
            "dig",
            "@127.0.0.1",
            "-p",
            str(port),
            "+onesoa",
            "+nocmd",
            "+nostats",
            "+nocomments",
            "rich.test",
            "AXFR",
        ]
        again = subprocess.run(dig, capture_output=True, text=True, timeout=30, check=True).stdout
    assert "192.0.2.200" in again
    (tmp_path / "whole").write_text(again)
    verify = ["dnssec-verify", "-z", "-o", "rich.test", str(tmp_path / "whole")]
    done = subprocess.run(verify, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_an_update_of_many_records(servers: tuple[int, int]) -> None:
    """More than a query may have, and as many of one set as named allows."""
    for port in servers:
        before = transferred(port)
        update = dns.update.UpdateMessage("rich.test")
        for number in range(1500):
            update.add(f"n{number}.many", 60, "A", "192.0.2.9")
        for number in range(90):
            update.add("one.many", 60, "TXT", f"text {number}")
        assert dns.query.tcp(update, "127.0.0.1", port=port, timeout=60).rcode() == dns.rcode.NOERROR
        assert len(transferred(port)) == len(before) + 1590
        gone = dns.update.UpdateMessage("rich.test")
        gone.delete("one.many", "TXT")
        for number in range(1500):
            gone.delete(f"n{number}.many")
        assert dns.query.tcp(gone, "127.0.0.1", port=port, timeout=60).rcode() == dns.rcode.NOERROR
        assert len(transferred(port)) == len(before)


@pytest.mark.parametrize("options", [[], ["-3", "-"]], ids=["NSEC", "NSEC3"])
def test_a_zone_whose_file_is_signed(tmp_path: Path, options: list[str]) -> None:
    """Without its keys nothing can be changed, and its proofs stay."""
    mine, theirs = free_port(), free_port()
    zone = 'zone "rich.test" { type primary; file "zones/rich.zone.signed"; allow-update { any; }; };'
    configure(tmp_path / "ours", mine, "recursion no;", zone)
    home = tmp_path / "ours" / "zones"
    for kind in (["-f", "KSK"], []):
        keygen = ["dnssec-keygen", "-q", "-K", str(tmp_path), "-a", "13", *kind, "rich.test"]
        subprocess.run(keygen, capture_output=True, timeout=60, check=True)
    sign = ["dnssec-signzone", "-q", "-S", "-K", str(tmp_path), "-o", "rich.test", *options, "rich.zone"]
    subprocess.run(sign, cwd=home, capture_output=True, timeout=60, check=True)
    shutil.copytree(home, tmp_path / "bind" / "zones")
    configure(tmp_path / "bind", theirs, "recursion no;", zone)
    said = []
    with ours(tmp_path / "ours", mine), bind(tmp_path / "bind", theirs):
        for port in (mine, theirs):
            for _ in range(300):  # named answers before it has loaded
                if dns.query.tcp(dns.message.make_query("rich.test", "SOA"), "127.0.0.1", port=port).answer:
                    break
                time.sleep(0.1)
            found = [
                nsupdate(port, script)
                for script in (
                    "add new.rich.test 60 A 192.0.2.1",
                    "del mail.rich.test A",
                    "del rich.test DNSKEY",
                    "del nowhere.rich.test",
                    "del mail.rich.test NSEC",
                )
            ]
            query = dns.message.make_query("nothere.rich.test", "A", want_dnssec=True)
            answer = dns.query.tcp(query, "127.0.0.1", port=port, timeout=30)
            said.append(
                (found, sorted(line for rrset in answer.authority for line in rrset.to_text().splitlines()))
            )
    assert said[0] == said[1]
    assert "SERVFAIL" in said[0][0][0]
    assert len(said[0][1]) >= 6


def test_a_signed_transfer_of_many_messages(tmp_path: Path) -> None:
    port = free_port()
    root = configure(tmp_path, port, "recursion no;", ZONES)
    zone = root / "zones" / "other.zone"
    zone.write_text(zone.read_text() + "$GENERATE 1-20000 g$ A 192.0.2.1\n")
    keyring = dns.tsigkeyring.from_text({"hmac-sha256": ("hmac-sha256", SECRET)})
    with ours(root, port):
        transfer = dns.query.xfr(
            "127.0.0.1", "other.test", port=port, keyring=keyring, keyname="hmac-sha256", relativize=False
        )
        records = [str(rdata) for message in transfer for rrset in message.answer for rdata in rrset]
    assert records.count("192.0.2.1") == 20000
