"""The copy of a secondary zone: kept, found again, left as it was when it cannot be written."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import NoReturn

import pytest

from mailstack.config.named import Zone as ZoneConf
from mailstack.config.named import load
from mailstack.dns.backup import Backup, lines
from mailstack.dns.ixfr import differences, patched
from mailstack.dns.journal import Entry
from mailstack.dns.zone import Zone
from mailstack.dns.zonefile import load_zone
from mailstack.net.log import Log

HEAD = "$TTL 60\n@ SOA ns.t. h.t. {} 1 2 3 4\n@ NS elsewhere.\n"


def configured(folder: Path) -> ZoneConf:
    (folder / "named.conf").write_text('zone t { type slave; file "copy"; masters { 192.0.2.1; }; };')
    return load(folder / "named.conf").zones[0]


def made(folder: Path, serial: int, text: str) -> Zone:
    (folder / "t.zone").write_text(HEAD.format(serial) + text)
    return load_zone("t", str(folder / "t.zone"))[0]


def quiet() -> Log:
    return Log("named", "test", os.open(os.devnull, os.O_WRONLY))


def test_what_is_kept_is_found_again(tmp_path: Path) -> None:
    conf = configured(tmp_path)
    backup = Backup(conf, quiet())
    assert backup.load() is None
    first = made(tmp_path, 1, "a A 192.0.2.1\n")
    backup.replace(first, None)
    os.utime(conf.file, (1000, 1000))
    found = Backup(conf, quiet()).load()
    assert found is not None
    assert (list(lines(found[0])), found[1]) == (list(lines(first)), 1000)
    backup.current()
    found = Backup(conf, quiet()).load()
    assert found is not None and time.time() - found[1] < 600
    # Steps, with and without the file that they lead to.
    held = Path(conf.file).read_bytes()
    second = made(tmp_path, 2, "b TXT x\n*.w MX 1 a\n")
    steps = [Entry(1, 2, differences(first, second))]
    backup.follow(patched(first, steps[0].changes, strict=True), steps)
    for content in (Path(conf.file).read_bytes(), held):
        Path(conf.file).write_bytes(content)
        found = Backup(conf, quiet()).load()
        assert found is not None and sorted(lines(found[0])) == sorted(lines(second))
    # A whole zone of a serial that the journal knows: the journal does not go on with it.
    backup.replace(made(tmp_path, 1, "other A 192.0.2.9\n"), None)
    found = Backup(conf, quiet()).load()
    assert found is not None and found[0].serial == 1
    assert b"\5other\1t\0" in found[0].nodes


@pytest.mark.parametrize("how", ["full", "stopping"])
def test_what_cannot_be_written_leaves_what_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    conf = configured(tmp_path)
    backup = Backup(conf, quiet())
    backup.replace(made(tmp_path, 1, ""), None)
    held = Path(conf.file).read_bytes()

    def full(*_: object) -> NoReturn:
        raise OSError(28, "No space left on device")

    if how == "full":
        monkeypatch.setattr(os, "fsync", full)
    else:
        backup.abandoned = True
    backup.replace(made(tmp_path, 2, ""), None)
    assert Path(conf.file).read_bytes() == held
    assert sorted(path.name for path in tmp_path.glob("copy*")) == ["copy"]


@pytest.mark.parametrize("content", [b"", b"\0\0\0\2\0\0\0\1" * 9, b"nonsense", b"\xff" * 3000])
def test_a_copy_that_is_none(tmp_path: Path, content: bytes) -> None:
    conf = configured(tmp_path)
    Path(conf.file).write_bytes(content)
    assert Backup(conf, quiet()).load() is None
