"""Signed zone files read in bulk say the same as through dnspython, errors included."""

from __future__ import annotations

import base64
import random
from pathlib import Path

import pytest

from mailstack.config.errors import ConfigError
from mailstack.dns import packed, signedlines, zonefile
from mailstack.dns.plainlines import Nodes
from mailstack.dns.zone import NSEC, NSEC3, A

HEAD = """; dnssec_signzone version 9.18
signed.test.\t\t3600\tIN SOA\tns.signed.test. hostmaster.signed.test. (
\t\t\t\t\t1          ; serial
\t\t\t\t\t3600 600 86400 300
\t\t\t\t\t)
{soa_signature}\t\t\t3600\tNS\tns.signed.test.
\t\t\t300\tNSEC\tns.signed.test. NS SOA RRSIG NSEC DNSKEY
\t\t\t0\tNSEC3PARAM 1 0 0 -
\t\t\t3600\tDNSKEY\t257 3 13 (
\t\t\t\t\tdJ4jEgXFtQnr2Y5tyxtCSsvjqr77mPAUZNBe06vMP/v7
\t\t\t\t\toBDefjbxeGKnrX1j+xizNRGga84rSpaYVXLLRccvFA==
\t\t\t\t\t) ; KSK
ns.signed.test.\t3600\tIN A\t192.0.2.1
"""
HASH = "0P9MHAVEQVM6T7VBL5LOP2U3T2RP3TOM"
BODIES = (
    "A\t192.0.2.{o}",
    "A 192.0.2.{o}",
    "AAAA\t2001:db8::{o}",
    "NSEC\thost{n}.signed.test. A RRSIG NSEC",
    "NSEC\thost{n}.signed.test. A TYPE65400 CAA",
    "MX\t10 host{n}.signed.test.",
    "CNAME\thost{n}.signed.test.",
    'TXT\t"a ; b"',
    "NS\tns.elsewhere.test.",
    "DS\t1 13 2 AABB ( CC )",
)
RARE = (
    "A\t192.0.2.256",
    "AAAA\t2001:db8::1::2",
    "NSEC\thost{n}.signed.test. NOTYPE",
    "RRSIG\tA 13 3 3600 20261223042521 20261123042521 1 signed.test. A===",
    "RRSIG\tA 300 3 3600 20261223042521 20261123042521 1 signed.test. AAAA",
    "RRSIG\tA 13 3 3600 20261323042521 20261123042521 1 signed.test. AAAA",
    "RRSIG\tNOTYPE 13 3 3600 20261223042521 20261123042521 1 signed.test. AAAA",
    "RRSIG\tA 13 3 3600 ( 20261223042521 20261123042521 1 signed.test. AAAA",
    f"NSEC3\t1 0 0 - ( {HASH} A )",
    "BOGUS\tx",
)
OWNERS = (
    "host{n}.signed.test.",
    "host{n}.signed.test.",
    "a.b{n}.signed.test.",
    "d{n}",
    "_x.d{n}.signed.test.",
    "*.d{n}.signed.test.",
    "Mixed{n}.signed.test.",
    HASH[:31] + "{h}.signed.test.",
)


def signature(covers: str, style: str, chance: random.Random) -> str:
    key = base64.b64encode(chance.randbytes(64)).decode()
    times = "20261223042521 20261123042521 26419 signed.test."
    if style == "full":
        return f"RRSIG\t{covers} 13 3 3600 {times} {key[:44]} {key[44:]}\n; resign=20261223042521"
    return f"RRSIG\t{covers} 13 3 3600 (\n\t\t\t\t\t{times}\n\t\t\t\t\t{key[:44]}\n\t\t\t\t\t{key[44:]} )"


def text(chance: random.Random, *, rare: bool) -> str:
    """Owners, each with some sets and the signatures over them, as dnssec-signzone writes them."""
    style = chance.choice(("full", "short"))
    soa = f"\t\t\t3600\t{signature('SOA', style, chance)}\n" * chance.randrange(2)
    lines = [HEAD.format(soa_signature=soa)]
    for owner in chance.sample(OWNERS, chance.randrange(1, 5)):
        numbers = {"n": chance.randrange(5), "o": chance.randrange(9), "h": chance.choice("0AV")}
        shown = owner.format(**numbers)
        hashed = owner.startswith(HASH[:31])
        wanted = chance.sample(BODIES, chance.randrange(1, 3))
        if hashed:
            wanted = [f"NSEC3\t1 0 0 - (\n\t\t\t\t\t{HASH}\n\t\t\t\t\tA RRSIG )"]
        elif rare and chance.random() < 0.3:
            wanted.append(chance.choice(RARE))
        bodies: list[str] = []
        for body in wanted:
            ttl = "" if chance.random() < 0.02 else chance.choice(("300", "3600"))
            bodies.append(f"\t{ttl}\tIN {body.format(**numbers)}")
            covers = body.split()[0]
            signed = covers != "RRSIG" and chance.random() < 0.9
            bodies += [f"\t{ttl}\t{signature(covers, style, chance)}"] * signed
        for index, body in enumerate(bodies):
            lines.append((shown if index == 0 or style == "full" else "\t\t") + body)
    return "\n".join(lines) + "\n"


def read(path: Path, large: int, monkeypatch: pytest.MonkeyPatch) -> object:
    """A zone's records with their signatures, or its error."""
    monkeypatch.setattr(zonefile, "LARGE", large)
    try:
        zone, odd = zonefile.load_zone("signed.test", str(path))
    except ConfigError as error:
        return str(error)
    sets = sorted(
        (owner, x.rdtype, x.ttl, tuple(sorted(x.rdatas, key=repr)), x.targets) for owner, x in zone.records()
    )
    return sets, sorted(odd), zone.cuts, zone.wild, set(zone.nodes), set(zone.hashes), zone.denial is None


def test_large_files_say_what_small_ones_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signedlines, "is_signed", lambda _: True)
    chance = random.Random(11)
    path = tmp_path / "zone"
    kept = errors = 0
    for number in range(150):
        path.write_text(text(chance, rare=number % 4 == 0))
        whole = read(path, 1 << 40, monkeypatch)
        assert read(path, 0, monkeypatch) == whole, path.read_text()
        errors += isinstance(whole, str)
        if not isinstance(whole, str):
            zone, _ = zonefile.load_zone("signed.test", str(path))
            kept += isinstance(zone.nodes, Nodes)
    assert kept > 40
    assert errors > 10


def test_names_that_nobody_asks_for_stay_packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zonefile, "LARGE", 0)
    chance = random.Random(1)
    path = tmp_path / "zone"
    blocks = [
        f"h{n}.signed.test. 3600 IN A 192.0.2.1\n\t\t3600 {signature('A', 'short', chance)}\n"
        f"\t\t300 NSEC h{n + 1}.signed.test. A RRSIG NSEC\n\t\t300 {signature('NSEC', 'short', chance)}\n"
        for n in range(60)
    ]
    path.write_text(HEAD.format(soa_signature="") + "".join(blocks))
    zone, _ = zonefile.load_zone("signed.test", str(path))
    assert isinstance(zone.nodes, Nodes)
    assert zone.denial is not None
    name = b"\3h33\6signed\4test\0"
    value = dict.get(zone.nodes, name)
    assert isinstance(value, bytes)
    assert packed.find(value, NSEC3) is None
    assert packed.find(value, A) is not None
    proof = zone.denial.no_type(name, 16)
    assert [(owner, rrset.rdtype) for owner, rrset in proof] == [(name, NSEC)]
    assert sum(isinstance(dict.get(zone.nodes, one), bytes) for one in zone.nodes) > 55
