"""Steps between zones: what is found is what makes one of the other, in IXFR's order, from a journal."""

from __future__ import annotations

import zlib
from itertools import pairwise
from pathlib import Path

import pytest

from mailstack.dns import names
from mailstack.dns.edit import flat, serial_of
from mailstack.dns.ixfr import Unfit, differences, patched, sequences, singles
from mailstack.dns.journal import Change, Entry, Journal
from mailstack.dns.zone import SOA, Zone
from mailstack.dns.zonefile import load_zone

HEAD = "$TTL 60\n@ SOA ns.t. h.t. {serial} 1 2 3 4\n@ NS ns\nns A 192.0.2.1\n"
STEPS = [
    "a.b.c A 192.0.2.2\n",
    "a.b.c A 192.0.2.2\na.b.c A 192.0.2.3\nx CNAME a.b.c\n",
    "a.b.c 90 A 192.0.2.3\nx MX 1 a.b.c\n* TXT hi\n",
    "cut NS ns.cut\nns.cut AAAA ::1\nq RRSIG A 13 2 60 20300101000000 20200101000000 1 t. AAAA\nq A 192.0.2.9\n",
    "",
]


def made(folder: Path, serial: int, text: str) -> Zone:
    path = folder / "t.zone"
    path.write_text(HEAD.format(serial=serial) + text)
    return load_zone("t", str(path))[0]


def content(zone: Zone) -> list[tuple[bytes, int, int, object]]:
    return sorted(
        ((owner, rrset.rdtype, rrset.ttl, rrset.rdatas[0]) for owner, rrset in singles(zone)), key=repr
    )


def test_from_one_zone_to_the_next(tmp_path: Path) -> None:
    versions = [made(tmp_path, 1 + number, text) for number, text in enumerate(STEPS)]
    journal = Journal(tmp_path / "journal", "t")
    for before, after in pairwise(versions):
        changes = differences(before, after)
        found = patched(before, changes, strict=True)
        assert content(found) == content(after)
        assert found.nodes.keys() == after.nodes.keys(), "with the names between"
        assert (found.serial, found.cuts, found.wild) == (after.serial, after.cuts, after.wild)
        journal.append(Entry(before.serial, after.serial, changes))
    entries = journal.since(2, 5)
    assert entries is not None and [(one.before, one.after) for one in entries] == [(2, 3), (3, 4), (4, 5)]
    assert journal.since(2, 6) is None
    assert journal.since(7, 5) is None
    steps = sequences(entries)
    assert steps is not None
    soas = [flat(rrset.rdatas[0]) for _, rrset in steps if rrset.rdtype == SOA]
    assert [serial_of(soa) for soa in soas] == [2, 3, 3, 4, 4, 5]


def test_what_is_not_there_does_not_go(tmp_path: Path) -> None:
    zone = made(tmp_path, 1, "x MX 1 Host.t.\n")
    name = names.from_text("x.t")
    patched(zone, [Change(name, 15, None, b"\0\1" + names.from_text("hOST.t"), 60)], strict=True)
    with pytest.raises(Unfit, match=r"x\.t type 15"):
        patched(zone, [Change(name, 15, None, b"\0\2" + names.from_text("host.t"), 60)], strict=True)
    with pytest.raises(Unfit, match="no SOA"):
        patched(zone, [Change(zone.origin, 6, None, zone_soa(zone), 60)])
    assert content(zone) == content(made(tmp_path, 1, "x MX 1 Host.t.\n"))


def zone_soa(zone: Zone) -> bytes:
    rdata = zone.soa.rdatas[0]
    assert isinstance(rdata, tuple)
    return b"".join(rdata[1]) + rdata[2]


def test_a_journal_is_shortened_but_for_what_is_needed(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal", "t")
    for serial in range(10):
        journal.append(Entry(serial, serial + 1, (Change(b"\1t\0", 16, 60, bytes(100)),)))
    size = journal.size()
    journal.shorten(size, None)
    assert len(journal.read()) == 10
    journal.shorten(size // 2, 2)
    assert [entry.before for entry in journal.read()] == list(range(2, 10))
    journal.shorten(size // 2, None)
    assert [entry.before for entry in journal.read()] == list(range(6, 10))
    journal.shorten(1, None)
    assert not journal.path.exists()


def test_a_journal_of_an_earlier_version(tmp_path: Path) -> None:
    """It brings the zone to where it was; nobody can be told what went, for its TTL is not there."""
    path = tmp_path / "journal"
    steps = ["- 017400 16 .\n", "+ 017400 60 16 .\n"]
    heads = [
        f"update {1 + number} {2 + number} 1 {zlib.crc32(step.encode()):08x}\n"
        for number, step in enumerate(steps)
    ]
    path.write_text("mailstack journal t\n" + heads[0] + steps[0] + heads[1] + steps[1])
    entries = Journal(path, "t").read()
    assert [(one.before, one.after, one.changes[0].was) for one in entries] == [(1, 2, None), (2, 3, None)]
    assert Journal(path, "t").since(1, 3) == entries
    assert sequences(entries) is None
