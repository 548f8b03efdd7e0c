"""Zone files read in bulk say the same as through dnspython, errors included."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from mailstack.config.errors import ConfigError
from mailstack.dns import plainlines, zonefile
from mailstack.dns.plainlines import Nodes

ZONES = Path(__file__).parent / "zones"

HEAD = """$TTL 3600
@ IN SOA ns hostmaster (
    1 3600 600 86400 300 )  ; ns A 192.0.2.1
@ NS ns
ns A 192.0.2.1
"""
PIECES = (
    "host{n} A 192.0.2.{o}",
    "host{n} 300 IN A 192.0.2.{o}",
    "host{n} IN 300 A 192.0.2.{o}",
    "HOST{n} AAAA 2001:db8::{o}",
    "host{n} AAAA 2001:db8::{o}",
    "d{n} MX 10 host{n}",
    "d{n} MX 10 d{n}",
    "d{n} MX {o} host{n}.plain.test.",
    "d{n} IN MX 10 mail.elsewhere.test.",
    " A 192.0.2.{o}",
    "\tMX 10 gone",
    "alias{n} CNAME host{n}",
    "_sip._tcp.d{n} SRV 0 0 5060 host{n}",
    "a.b{n}.c.d{n} PTR host{n}",
    "host{n}.plain.test. A 192.0.2.{o}",
    'd{n} TXT "text ; {o}" ( "two"\n  "lines" )',
    "sub{n} NS ns.sub{n}\nns.sub{n} A 192.0.2.{o}",
    "*.w{n} A 192.0.2.{o}",
    "; host{n} A 192.0.2.{o}",
    "$TTL {o}",
    "$GENERATE 1-3 g{n}-$ A 192.0.2.$",
    "",
)
RARE = (
    "host{n} A 192.0.2.256",
    "host{n} AAAA 2001:db8::1::2",
    "$ORIGIN sub{n}",
    "host{n} A 192.0.2.1 (",
    "elsewhere.test. A 192.0.2.{o}",
    "under_score A 192.0.2.{o}",
    "alias{n} CNAME other",
    "host{n} MX 70000 host",
    "x{n} BOGUS y",
    "host{n} A",
    ")",
    "host{n} A 192.0.2.{o}\r",
)


def read(path: Path, large: int, monkeypatch: pytest.MonkeyPatch) -> object:
    """A zone's sets by name, or its error."""
    monkeypatch.setattr(zonefile, "LARGE", large)
    try:
        zone, odd = zonefile.load_zone("plain.test", str(path))
    except ConfigError as error:
        return str(error)
    sets = {
        name: (
            node.owner,
            {kind: (x.ttl, sorted(x.rdatas, key=repr), x.targets) for kind, x in node.rrsets.items()},
        )
        for name, node in zone.nodes.items()
    }
    return sets, sorted(odd), zone.cuts, zone.dnames, zone.wild, zone.serial


def test_large_files_say_what_small_ones_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chance = random.Random(7)
    path = tmp_path / "zone"
    plain = errors = 0
    for _ in range(200):
        pieces = [chance.choice(PIECES) for _ in range(chance.randrange(1, 14))]
        if chance.random() < 0.2:
            pieces.append(chance.choice(RARE))
            chance.shuffle(pieces)
        lines = [piece.format(n=chance.randrange(12), o=chance.randrange(9)) for piece in pieces]
        path.write_text(HEAD + "\n".join(lines) + "\n")
        whole = read(path, 1 << 40, monkeypatch)
        assert read(path, 0, monkeypatch) == whole, path.read_text()
        errors += isinstance(whole, str)
        if not isinstance(whole, str):
            zone, _ = zonefile.load_zone("plain.test", str(path))
            plain += isinstance(zone.nodes, Nodes)
    assert plain > 80
    assert errors > 10


@pytest.mark.parametrize("name", sorted(path.name for path in ZONES.glob("*.zone")))
def test_the_test_zones(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    origin = {"rich.zone": "rich.test", "rev.zone": "2.0.192.in-addr.arpa"}.get(name, "plain.test")
    found = []
    for large in (1 << 40, 0):
        monkeypatch.setattr(zonefile, "LARGE", large)
        try:
            zone, odd = zonefile.load_zone(origin, str(ZONES / name))
        except ConfigError as error:
            found.append(str(error))
        else:
            found.append(
                repr(sorted((owner, x.rdtype, x.ttl, x.rdatas) for owner, x in zone.records())) + repr(odd)
            )
    assert found[0] == found[1]


def test_names_that_nobody_asks_for_stay_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zonefile, "LARGE", 0)
    path = tmp_path / "zone"
    path.write_text(HEAD + "".join(f"host{number} A 192.0.2.7\n" for number in range(50)))
    zone, _ = zonefile.load_zone("plain.test", str(path))
    nodes = zone.nodes
    assert isinstance(nodes, Nodes)
    assert nodes[b"\6host10" + zone.origin].rrsets[1].rdatas == (b"\xc0\0\2\7",)
    assert len(list(nodes.kept())) == 49  # all hosts but one
    assert len(nodes) == 52
    assert len(dict(nodes)) == 52
    assert not list(nodes.kept())


def test_a_file_with_more_gaps_than_lines_is_left_to_dnspython() -> None:
    data = b"a A 192.0.2.1\n; gap\n" * (plainlines.GAPS_LEAST + 10)
    with pytest.raises(plainlines.Unusual):
        plainlines.read(data, lambda _, last: (b"\4test\0", 1, b"\4test\0"))
