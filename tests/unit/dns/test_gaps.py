"""Signed denials made by form are those that are made in the long way."""

from __future__ import annotations

import random
from base64 import b32hexencode, b64encode
from collections import defaultdict
from itertools import product
from pathlib import Path

import dns.message
import pytest

from mailstack.dns import names, signedlines, zonefile
from mailstack.dns.authority import Authority
from mailstack.dns.denial import Hashing, canonical_key
from mailstack.dns.direct import Direct
from mailstack.dns.message import AA, QR, opt, parse, render
from mailstack.dns.statistics import Seen

ORIGIN = names.from_text("signed.test")
HASHING = Hashing(1, b"\xab\xcd")
KEY = b64encode(bytes(64)).decode()
HEAD = f"""$TTL 3600
$ORIGIN signed.test.
@ IN SOA ns hostmaster 1 3600 600 86400 300
@ NS ns
@ DNSKEY 257 3 13 {KEY}
ns A 192.0.2.1
"""
ASKED = ("h5", "h50", "h501", "h77x", "zz", "a", "ns0", "m", "H5", "x.h3", "b", "y.b", "*", "h3", "h4")


def zone_text(proof: str, *, wild: bool) -> str:
    """A zone with a chain; the signatures are none, but differ from each other."""
    chance = random.Random(proof)
    signed = ["", "ns", "sub.b", *(f"h{number}" for number in range(0, 100, 3)), *["*.b"] * wild]
    lines = [f"h{number} A 192.0.2.{number}" for number in range(0, 100, 3)] + ["sub.b A 192.0.2.200"]
    lines += ["*.b A 192.0.2.201"] * wild

    def signature(covers: str) -> str:
        key = b64encode(chance.randbytes(64)).decode()
        return f"RRSIG {covers} 13 2 300 20261223042521 20261123042521 1 signed.test. {key}"

    lines.append(f"@ 3600 {signature('SOA')}")
    full = [names.from_text(f"{name}.signed.test".lstrip(".")) for name in signed]
    if proof == "NSEC":
        ordered = sorted(full, key=canonical_key)
        for one, following in zip(ordered, [*ordered[1:], ordered[0]], strict=True):
            owner = names.to_text(one) + "."
            lines.append(f"{owner} 300 NSEC {names.to_text(following)}. A RRSIG NSEC")
            lines.append(f"{owner} 300 {signature('NSEC')}")
    else:
        lines.append("@ 0 NSEC3PARAM 1 0 1 ABCD")
        full.append(names.from_text("b.signed.test"))
        hashes = sorted(b32hexencode(HASHING.digest(one)).decode() for one in full)
        for digest, later in zip(hashes, [*hashes[1:], hashes[0]], strict=True):
            lines.append(f"{digest} 300 NSEC3 1 0 1 ABCD ( {later} A RRSIG )")
            lines.append(f"{digest} 300 {signature('NSEC3')}")
    return HEAD + "\n".join(lines) + "\n"


def long_way(authority: Authority, direct: Direct, data: bytes, limit: int) -> bytes:
    query = parse(data)
    found = authority.answer(query.name, query.rdtype, recursive=False, tcp=False, do=True)
    assert found is not None
    wire = render(
        query,
        QR | AA | found.rcode,
        found.answer,
        found.authority,
        found.additional,
        limit=limit,
        opt_record=opt(1232, 0, 0x8000),
    )
    direct.learn(data, query, found, wire)
    return wire


@pytest.mark.parametrize("proof", ["NSEC", "NSEC3"])
@pytest.mark.parametrize("packed", [True, False], ids=["packed", "nodes"])
@pytest.mark.parametrize(("wild", "limit"), [(False, 1232), (False, 400), (True, 1232)])
def test_same_denials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, proof: str, packed: bool, wild: bool, limit: int
) -> None:
    path = tmp_path / "zone"
    path.write_text(zone_text(proof, wild=wild))
    monkeypatch.setattr(zonefile, "LARGE", 0 if packed else 1 << 40)
    monkeypatch.setattr(signedlines, "is_signed", lambda _: True)
    zone, _ = zonefile.load_zone("signed.test", str(path))
    assert zone.denial is not None
    authority = Authority([zone])
    direct = Direct(authority)
    seen: Seen = defaultdict(int)
    made = denied = without = 0
    asked = [*ASKED, *(f"h{number}" for number in range(100)), *(f"n{number}" for number in range(60))] * 2
    for name, rdtype in product(asked, ("A", "AAAA", "TXT")):
        query = dns.message.make_query(f"{name}.signed.test", rdtype, want_dnssec=True, flags=0).to_wire()
        answer = direct.answer(query, seen)
        expected = long_way(authority, direct, query, limit)
        if answer is not None:
            made += 1
            denied += answer[3] & 0xF == 3
            without += answer[3] & 0xF == 0 and answer[6:8] == b"\0\0"
            assert answer == expected, (name, rdtype)
    assert sum(seen.values()) == made
    if limit > 512:  # what has no room for its proof has no form
        assert denied == 0 if wild else denied > 100
        assert without > 100 if proof == "NSEC" and not wild else without == 0
