"""A loss of power may take the end of a uidlist; no UID that somebody has seen is given again."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest

from mailstack.mailbox.views import MailStore
from mailstack.net.clock import SystemClock
from mailstack.storage.durable import GroupCommit
from mailstack.storage.maildir import index, numbers, uidlist
from mailstack.storage.maildir.folder import Folder
from mailstack.storage.maildir.listing import NO_STAMP


def put(path: Path, name: str) -> str:
    for part in ("cur", "new", "tmp"):
        (path / part).mkdir(parents=True, exist_ok=True)
    (path / "cur" / name).write_text(f"Subject: {name}\n\n")
    return name


def opened(path: Path) -> Folder:
    folder = Folder(str(path))
    folder.load(lambda: 1_700_000_000)
    return folder


@pytest.mark.parametrize("indexed", [False, True])
@pytest.mark.parametrize("power", [False, True])
def test_no_uid_comes_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, power: bool, indexed: bool
) -> None:
    """The process ends without a word; with `power`, what has not been flushed goes with it."""
    folder = opened(tmp_path)
    folder.added(put(tmp_path, "1.M1.x:2,"), False)
    if indexed:
        index.write(str(tmp_path), folder.snapshot(NO_STAMP))
    shutil.copy(tmp_path / uidlist.FILE, tmp_path / "flushed")
    assert folder.added(put(tmp_path, "2.M1.x:2,"), False) == 2
    (tmp_path / "cur/2.M1.x:2,").unlink()  # seen, and expunged
    if power:
        shutil.move(tmp_path / "flushed", tmp_path / uidlist.FILE)
        monkeypatch.setattr(numbers, "_boot_id", lambda: b"another")
    again = opened(tmp_path)
    assert (again.uid_validity, list(again.uids)) == (1_700_000_000, [1])
    assert again.next_uid == (2 + numbers.AHEAD - 1 if power else 3)
    assert again.added(put(tmp_path, "3.M1.x:2,"), False) == again.uids[-1] > 2
    assert list(opened(tmp_path).uids) == list(again.uids)
    assert not again.problems or power


def test_many_uids_are_taken_with_one_flush(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numbers, "AHEAD", 10)
    folder = opened(tmp_path)
    taken = []
    for number in range(25):
        folder.added(put(tmp_path, f"{number}.M1.x:2,"), False)
        taken.append(folder.numbers.ahead)
    assert sorted(set(taken)) == [11, 21, 31]


def test_a_mailbox_that_is_closed_has_taken_none(tmp_path: Path) -> None:
    async def main() -> None:
        commit = GroupCommit()
        store = MailStore(commit, SystemClock(), "host")
        put(tmp_path, "1.M1.x:2,")
        box = await store.open(str(tmp_path))
        assert (tmp_path / numbers.AHEAD_FILE).exists()
        store.unpin(box)
        store.close()
        commit.close()
        assert not (tmp_path / numbers.AHEAD_FILE).exists()

    asyncio.run(main())
