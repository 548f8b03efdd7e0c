"""Updates on disk: whole ones are read back, cut-off ones are cut off, others are named."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NoReturn

import dns.message
import dns.update
import pytest

from mailstack.config.errors import ConfigError
from mailstack.config.named import Zone as ZoneConf
from mailstack.dns.journal import Change, Entry, Journal
from mailstack.dns.signing import sign
from mailstack.dns.update import Refusal, replayed, update
from mailstack.dns.zone import Zone
from mailstack.dns.zonefile import load_zone
from mailstack.net.log import Log
from tests.unit.dns.world import ZONES, configuration

ENTRIES = [
    Entry(7, 8, (Change(b"\1a\4test\0", 1, 60, bytes(4)), Change(b"\1b\4test\0", 16, None, b"\1x"))),
    Entry(8, 9, (Change(b"\1a\4test\0", 10, 60, b""),)),
    Entry(9, 4_294_967_295, (Change(b"\1c\4test\0", 65_280, 0, bytes(300)),)),
]


def journal(folder: Path) -> Journal:
    found = Journal(folder / "zone.journal", "test")
    for entry in ENTRIES:
        found.append(entry)
    return found


def test_what_was_appended_is_read(tmp_path: Path) -> None:
    assert Journal(tmp_path / "zone.journal", "test").read() == []
    assert journal(tmp_path).read() == ENTRIES


def test_cut_off_anywhere(tmp_path: Path) -> None:
    data = journal(tmp_path).path.read_bytes()
    for size in range(len(data)):
        found = Journal(tmp_path / "zone.journal", "test")
        found.path.write_bytes(data[:size])
        whole = len(found.read())
        assert whole < 3
        assert found.read() == ENTRIES[:whole]
        found.append(Entry(1, 2, ()))
        assert found.read() == [*ENTRIES[:whole], Entry(1, 2, ())]


def test_damage_before_the_end_is_named(tmp_path: Path) -> None:
    found = journal(tmp_path)
    data = found.path.read_bytes()
    found.path.write_bytes(data.replace(b"00000000", b"00000001", 1))
    with pytest.raises(ConfigError, match="damaged before its end") as error:
        found.read()
    assert str(error.value).startswith(f"{found.path}:2:")
    found.path.write_bytes(b"something else\n" + data)
    with pytest.raises(ConfigError, match="no journal of the zone"):
        found.read()


@pytest.mark.parametrize("call", ["write", "fsync"])
def test_a_full_disk_leaves_the_journal_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    found = journal(tmp_path)

    def full(*_: object) -> NoReturn:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, call, full)
        with pytest.raises(OSError, match="No space"):
            found.append(ENTRIES[0])
    assert found.read() == ENTRIES


def zone(folder: Path) -> tuple[Zone, ZoneConf]:
    (folder / "other.zone").write_bytes((ZONES / "other.zone").read_bytes())
    conf = next(conf for conf in configuration(folder).zones if conf.name == "other.test")
    conf = type(conf)(
        **{name: getattr(conf, name) for name in conf.__slots__} | {"file": str(folder / "other.zone")}
    )
    return load_zone("other.test", conf.file)[0], conf


def change(name: str) -> dns.update.UpdateMessage:
    message = dns.update.UpdateMessage("other.test")
    message.add(name, 60, "A", "192.0.2.1")
    found = dns.message.from_wire(message.to_wire(), one_rr_per_rrset=True)
    assert isinstance(found, dns.update.UpdateMessage)
    return found


def quiet() -> Log:
    return Log("named", "test", os.open(os.devnull, os.O_WRONLY))


def test_a_zone_file_and_its_journal(tmp_path: Path) -> None:
    served, conf = zone(tmp_path)
    for name in ("one", "two"):
        served = update(served, conf, change(name), sign)
    assert served.serial == 9
    again = replayed(zone(tmp_path)[0], conf, quiet())
    assert again.serial == 9
    assert set(again.nodes) == set(served.nodes)
    # Somebody has edited the file, and gone on from where it was.
    text = (ZONES / "other.zone").read_text()
    Path(conf.file).write_text(text.replace("hostmaster 7 ", "hostmaster 8 "))
    half = replayed(load_zone("other.test", conf.file)[0], conf, quiet())
    assert half.serial == 9
    assert b"\3one\5other\4test\0" not in half.nodes
    # To a serial that no update has led to.
    Path(conf.file).write_text(text.replace("hostmaster 7 ", "hostmaster 5 "))
    with pytest.raises(ConfigError, match="serial 5 is not among those"):
        replayed(load_zone("other.test", conf.file)[0], conf, quiet())
    Path(conf.file).write_text(text.replace("hostmaster 7 ", "hostmaster 2026112300 "))
    newer = replayed(load_zone("other.test", conf.file)[0], conf, quiet())
    assert newer.serial == 2026112300
    assert sorted(path.name for path in tmp_path.glob("*.journal*")) == ["other.zone.journal.old"]


def test_an_update_that_cannot_be_kept_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    served, conf = zone(tmp_path)

    def full(*_: object) -> NoReturn:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(Refusal, match="No space") as refusal:
        update(served, conf, change("one"), sign)
    assert refusal.value.rcode == 2
    assert replayed(zone(tmp_path)[0], conf, quiet()).serial == 7
