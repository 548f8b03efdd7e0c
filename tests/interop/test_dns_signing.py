"""Zones that the server signs itself: beside named with the same keys and policy, and to a validator."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import dns.message
import dns.query
import dns.rdatatype
import pytest

from tests.interop.dns_servers import WORLD, bind, configure, ours
from tests.interop.test_dns_differential import ORIGINS, Summary, ask, questions, show
from tests.ports import free_port

pytestmark = pytest.mark.real

POLICIES = {
    "default": 'dnssec-policy "default";',
    "NSEC3": 'dnssec-policy "hashed";',
    "ed25519, opt-out": 'dnssec-policy "split";',
}
BLOCKS = """
dnssec-policy "hashed" { nsec3param iterations 2 optout no salt-length 0; };
dnssec-policy "split" {
  keys { ksk lifetime unlimited algorithm ed25519; zsk lifetime unlimited algorithm ed25519; };
  nsec3param iterations 0 optout yes salt-length 0;
};
"""


def _zones(policy: str) -> str:
    return BLOCKS + WORLD.replace("type master;", f"type master; {policy} inline-signing yes;")


def _wait_for_signatures(port: int) -> None:
    """named signs after it has begun to answer."""
    end = time.monotonic() + 60
    for origin in ORIGINS:
        query = dns.message.make_query("nothing-here." + origin, "A", want_dnssec=True)
        while True:
            found = dns.query.udp(query, "127.0.0.1", port=port, timeout=5).authority
            if any(rrset.rdtype in (dns.rdatatype.NSEC, dns.rdatatype.NSEC3) for rrset in found):
                break
            assert time.monotonic() < end, f"{origin} is not signed"
            time.sleep(0.1)


@pytest.fixture(scope="module", params=POLICIES)
def servers(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[int, int, Path]]:
    """Ports of ours and of named; ours has the keys that named has made."""
    root = tmp_path_factory.mktemp("signing")
    mine, theirs = free_port(), free_port()
    options = "recursion no; allow-transfer { any; }; max-udp-size 4096;"
    zones = _zones(POLICIES[request.param])
    configure(root / "bind", theirs, options, zones)
    configure(root / "ours", mine, options, zones)
    with bind(root / "bind", theirs):
        _wait_for_signatures(theirs)
        for path in (root / "bind").glob("K*"):
            shutil.copy(path, root / "ours")
        with ours(root / "ours", mine):
            yield mine, theirs, root / "ours"


def _comparable(summary: Summary) -> Summary:
    """Without what differs from one signing to the next, and what named says of its own state."""
    rcode, flags, *sections = summary
    return (rcode, flags, *(frozenset(_tidy(line) for line in section) for section in sections))  # type: ignore[return-value]


def _tidy(line: str) -> str:
    line = re.sub(r"(RRSIG (?:\S+ ){4})\d{14} \d{14} (\d+ \S+) .*", r"\1\2", line)
    line = re.sub(r"( SOA \S+ \S+) \d+", r"\1 SERIAL", line)
    return re.sub(r" (TYPE65534|CDS|CDNSKEY)\b", "", line) if " NSEC" in line else line


def test_named_says_the_same(servers: tuple[int, int, Path]) -> None:
    mine, theirs, _ = servers
    different: list[str] = []
    asked = 0
    for name, rdtype in questions():
        if rdtype in ("ANY", "AXFR", "IXFR", "RRSIG"):
            continue  # named's own state is among the answers
        asked += 1
        here, there = (
            _comparable(ask(name, rdtype, port, want_dnssec=True, use_edns=0, payload=4096))
            for port in (mine, theirs)
        )
        if here != there:
            different.append(f"{name} {rdtype}\n   ours {show(here)}\n  named {show(there)}")
    assert asked > 300
    assert not different, f"{len(different)} of {asked}:\n" + "\n".join(different[:20])


VALIDATED = [
    ("mail.rich.test", "A", "fully validated"),
    ("alias.rich.test", "A", "fully validated"),
    ("anything.wild.rich.test", "A", "fully validated"),
    ("w.dn.rich.test", "A", "fully validated"),
    ("rich.test", "DNSKEY", "fully validated"),
    ("_imaps._tcp.rich.test", "SRV", "fully validated"),
    ("nothing-here.rich.test", "A", "negative response, fully validated"),
    ("mail.rich.test", "HINFO", "negative response, fully validated"),
    ("b.c.ent.rich.test", "A", "negative response, fully validated"),
    ("anything.wild.rich.test", "AAAA", "negative response, fully validated"),
    ("ext.rich.test", "DS", "negative response, fully validated"),
]


def test_a_validator_is_content(servers: tuple[int, int, Path]) -> None:
    mine, _, root = servers
    anchors = ""
    for path in sorted(root.glob("Krich.test.*.key")):
        flags, *_, data = path.read_text().split(" DNSKEY ")[1].split(" ", 3)
        algorithm = path.read_text().split(" DNSKEY ")[1].split()[2]
        if flags == "257":
            anchors += f'rich.test. static-key 257 3 {algorithm} "{"".join(data.split())}";\n'
    (root / "anchors").write_text(f"trust-anchors {{ {anchors} }};\n")
    for name, rdtype, wanted in VALIDATED:
        command = ["delv", "@127.0.0.1", "-p", str(mine), "-a", str(root / "anchors"), "+root=rich.test"]
        done = subprocess.run(
            [*command, name, rdtype], capture_output=True, text=True, timeout=60, check=False
        )
        if "wild" in name and rdtype == "A" and 'dnssec-policy "split";' in (root / "named.conf").read_text():
            wanted = "unsigned answer"  # RFC 5155 §6: an opt-out gap proves nothing of the name
        assert f"; {wanted}" in done.stdout, (name, rdtype, done.stdout, done.stderr)


def test_the_whole_zone_verifies(servers: tuple[int, int, Path], tmp_path: Path) -> None:
    mine, _, _ = servers
    dig = ["dig", "@127.0.0.1", "-p", str(mine), "+nocmd", "+nostats", "+nocomments", "rich.test", "AXFR"]
    records = subprocess.run(dig, capture_output=True, text=True, timeout=60, check=True).stdout.splitlines()
    assert records[0].split()[3] == records[-1].split()[3] == "SOA"
    (tmp_path / "zone").write_text("\n".join(records[:-1]) + "\n")
    done = subprocess.run(
        ["dnssec-verify", "-z", "-o", "rich.test", str(tmp_path / "zone")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
