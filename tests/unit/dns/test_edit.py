"""Changes to a zone whose names are kept as lines are changes to the same zone with a node for each."""

from __future__ import annotations

import random
import socket
from pathlib import Path

import pytest

from mailstack.dns import names, zonefile
from mailstack.dns.edit import Edit, flat
from mailstack.dns.plainlines import Nodes
from mailstack.dns.zone import Zone

HEAD = "$TTL 3600\n@ SOA ns hostmaster 1 3600 600 86400 300\n@ NS ns\nns A 192.0.2.1\nsub NS ns.sub\n"
HEAD += "ns.sub A 192.0.2.2\nMixed A 192.0.2.4\n*.w A 192.0.2.5\n"
OWNERS = [
    *(f"{above}{number}" for number in range(6) for above in ("h", "x.h", "x.y.e", "e", "a.b.h")),
    *("w", "q.w", "*.w", "Mixed", "d.mixed", "sub", "b.h1", "y.e2"),
]


def shown(zone: Zone) -> list[object]:
    """Every name, every set; and what a zone knows of its names."""
    sets = [
        (owner, one.rdtype, one.ttl, sorted(map(flat, one.rdatas)), one.targets)
        for owner, one in zone.records()
    ]
    return [sorted(sets), sorted(zone.nodes), zone.cuts, zone.wild, zone.serial]


def changed(zone: Zone, chance: random.Random) -> Zone:
    edit = Edit(zone, zone.soa)
    for _ in range(chance.randrange(1, 5)):
        name = names.from_text(f"{chance.choice(OWNERS)}.edit.test")
        data = socket.inet_aton(f"192.0.2.{chance.randrange(4)}")
        match chance.randrange(4):
            case 0:
                edit.add(name, 1, 300, data)
            case 1:
                edit.add(name, 16, 300, b"\1x")
            case 2:
                edit.delete(name.lower(), 1, data)
            case _:
                edit.delete_set(name.lower(), chance.choice((1, 16)))
    edit.renumber()
    return edit.result()


@pytest.mark.parametrize("seed", range(5))
def test_lines_stay_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    hosts = [f"{owner} A 192.0.2.{index % 4}\n" for index, owner in enumerate(OWNERS[:24])]
    (tmp_path / "zone").write_text(HEAD + "".join(hosts))
    found: list[Zone] = []
    for large in (0, 1 << 40):
        monkeypatch.setattr(zonefile, "LARGE", large)
        found.append(zonefile.load_zone("edit.test", str(tmp_path / "zone"))[0])
    kept, plain = found
    first, second = random.Random(seed), random.Random(seed)
    for _ in range(40):
        kept, plain = changed(kept, first), changed(plain, second)
        assert isinstance(kept.nodes, Nodes)
        assert any(isinstance(value, bytes) for value in dict.values(kept.nodes))
        kept.nodes, lazily = kept.nodes.copied(), kept.nodes
        assert shown(kept) == shown(plain)
        kept.nodes = lazily
    assert not isinstance(plain.nodes, Nodes)
