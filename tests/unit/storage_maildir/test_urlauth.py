"""The key beside a mailbox that signs URLs of its messages."""

from __future__ import annotations

from pathlib import Path

import pytest

from mailstack.storage.maildir import urlauth


def test_a_key_is_made_once_and_for_its_owner_only(tmp_path: Path) -> None:
    folder = str(tmp_path)
    assert urlauth.read(folder) is None
    key = urlauth.made(folder)
    assert len(key) == urlauth.SIZE
    assert urlauth.made(folder) == urlauth.read(folder) == key
    assert (tmp_path / urlauth.FILE).stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == [urlauth.FILE]
    urlauth.remove(folder)
    urlauth.remove(folder)
    assert urlauth.read(folder) is None
    assert urlauth.made(folder) != key


@pytest.mark.parametrize("damage", [b"", b"V\t1\n", b"V\t1\n00ff\n", b"V\t2\n", b"V\t1\nzz\n"])
def test_a_damaged_key_is_none_and_made_anew(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / urlauth.FILE).write_bytes(damage)
    assert urlauth.read(str(tmp_path)) is None
    assert urlauth.made(str(tmp_path)) == urlauth.read(str(tmp_path))


def test_a_key_that_is_cut_off_is_none(tmp_path: Path) -> None:
    urlauth.made(str(tmp_path))
    path = tmp_path / urlauth.FILE
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        assert urlauth.read(str(tmp_path)) is None
