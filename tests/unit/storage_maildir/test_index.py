"""The index beside a folder: what it remembers, when it is believed, and that nothing hangs on it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mailstack.storage.maildir import index
from mailstack.storage.maildir.delivery import make_folder
from mailstack.storage.maildir.folder import Folder
from mailstack.storage.maildir.listing import NO_STAMP, stamp_of
from mailstack.storage.maildir.names import FLAGGED, SEEN

YEAR_2030 = 1_893_456_000.0


def opened(path: Path, now: float = YEAR_2030) -> Folder:
    folder = Folder(str(path), lambda: now)
    folder.load(lambda: 7)
    return folder


def delivered(path: Path, *names: str) -> None:
    make_folder(str(path))
    for name in names:
        (path / "cur" / name).write_bytes(b"Subject: x\n\n")


def put_aside(folder: Folder) -> None:
    """As the owner does it once nothing has happened for a while."""
    folder.unsaved = False
    for name in ("new", "cur"):
        os.utime(f"{folder.path}/{name}", (1_000_000_000, 1_000_000_000))
    index.write(folder.path, folder.snapshot(stamp_of(folder.path)))
    index.settle(folder.path)


def columns(folder: Folder) -> list[object]:
    numbers = [folder.uids, folder.flags, folder.modseqs, folder.dates, folder.saved, folder.sizes]
    return [
        *map(list, numbers),
        folder.names,
        folder.numbers.extensions,
        folder.uid_validity,
        folder.next_uid,
        folder.guid,
        folder.highest_modseq,
        folder.recent_from,
    ]


def test_a_folder_that_has_not_changed_is_as_it_was(tmp_path: Path) -> None:
    delivered(tmp_path, "1.a:2,S", "2.b:2,", "3.c:2,Fa")
    before = opened(tmp_path)
    before.added_many([("4.copy:2,", False)], ["1.a"])
    (tmp_path / "cur" / "4.copy:2,").write_bytes(b"")
    before.set_name(1, "2.b:2,F", FLAGGED)
    os.rename(tmp_path / "cur" / "2.b:2,", tmp_path / "cur" / "2.b:2,F")
    before.date(0)
    before.sizes[2] = 99
    put_aside(before)
    after = opened(tmp_path, YEAR_2030 + 1000)
    assert columns(after) == columns(before)
    assert after.message_guid(3) == "1.a"
    assert not after.unsaved
    assert after.by_base == before.by_base


def test_others_changes_get_sequences_of_their_own(tmp_path: Path) -> None:
    delivered(tmp_path, "1.a:2,", "2.b:2,", "3.c:2,", "4.d:2,")
    before = opened(tmp_path)
    put_aside(before)
    os.rename(tmp_path / "cur" / "2.b:2,", tmp_path / "cur" / "2.b:2,S")
    os.unlink(tmp_path / "cur" / "4.d:2,")
    delivered(tmp_path, "5.e:2,")
    after = opened(tmp_path)
    assert list(after.uids) == [1, 2, 3, 5]
    assert after.modseqs[0] == before.modseqs[0] and after.modseqs[2] == before.modseqs[2]
    assert after.modseqs[1] > before.highest_modseq and after.modseqs[3] > before.highest_modseq
    assert after.highest_modseq >= max(after.modseqs)
    assert len(set(after.modseqs)) > 2


def test_a_message_that_is_gone_is_seen_in_the_highest_sequence(tmp_path: Path) -> None:
    delivered(tmp_path, "1.a:2,", "2.b:2,")
    before = opened(tmp_path)
    put_aside(before)
    os.unlink(tmp_path / "cur" / "2.b:2,")
    assert opened(tmp_path).highest_modseq > before.highest_modseq


@pytest.mark.parametrize("lost", ["the index", "what came after it", "an index of another UIDVALIDITY"])
def test_no_sequence_is_given_twice(tmp_path: Path, lost: str) -> None:
    delivered(tmp_path, "1.a:2,", "2.b:2,")
    before = opened(tmp_path)
    put_aside(before)
    # This process is killed after the change.
    os.rename(tmp_path / "cur" / "1.a:2,", tmp_path / "cur" / "1.a:2,S")
    before.set_name(0, "1.a:2,S", SEEN)
    if lost == "the index":
        (tmp_path / index.FILE).unlink()
    elif lost == "an index of another UIDVALIDITY":
        (tmp_path / "dovecot-uidlist").unlink()
    after = opened(tmp_path, YEAR_2030 + 1)
    assert min(after.modseqs) > before.highest_modseq
    assert after.highest_modseq >= max(after.modseqs)


def test_a_clock_that_was_set_back_does_not_bring_sequences_back(tmp_path: Path) -> None:
    delivered(tmp_path, "1.a:2,")
    before = opened(tmp_path)
    put_aside(before)
    before.set_name(0, "1.a:2,S", SEEN)
    after = opened(tmp_path, YEAR_2030 - 1_000_000)
    assert min(after.modseqs) > before.highest_modseq


@pytest.mark.parametrize("place", [0, 8, 10, 40, -1, "cut off", "empty"])
def test_damage_is_told_and_the_folder_read_anew(tmp_path: Path, place: int | str) -> None:
    delivered(tmp_path, "1.a:2,", "2.b:2,")
    before = opened(tmp_path)
    put_aside(before)
    file = tmp_path / index.FILE
    data = bytearray(file.read_bytes())
    if isinstance(place, int):
        data[place] ^= 0xFF
    else:
        del data[len(data) // 2 if place == "cut off" else 0 :]
    file.write_bytes(data)
    after = opened(tmp_path, YEAR_2030 + 1)
    assert (list(after.uids), after.names) == (list(before.uids), before.names)
    assert min(after.modseqs) > before.highest_modseq
    # The octet that says whether it is up to date may have any value.
    assert bool(after.problems) == (place != 8)


def test_an_index_of_unsure_times_is_no_listing(tmp_path: Path) -> None:
    delivered(tmp_path, "1.a:2,")
    before = opened(tmp_path)
    before.unsaved = False
    index.write(before.path, before.snapshot(NO_STAMP))
    index.settle(before.path)
    delivered(tmp_path, "2.b:2,")
    after = opened(tmp_path)
    assert list(after.uids) == [1, 2]
    assert after.modseqs[0] == before.modseqs[0]


def test_the_first_unseen_message_is_found_again_after_every_change(tmp_path: Path) -> None:
    for name in ("cur", "new", "tmp"):
        (tmp_path / name).mkdir()
    for number, flags in enumerate(("S", "", "S")):
        (tmp_path / "cur" / f"{number}.M1.x:2,{flags}").touch()
    folder = Folder(str(tmp_path))
    folder.load(lambda: 1)
    found = [folder.first_unseen()]
    folder.set_name(1, "1.M1.x:2,S", SEEN)
    found.append(folder.first_unseen())
    (tmp_path / "cur" / "9.M1.x:2,").touch()
    folder.added("9.M1.x:2,", False)
    found.append(folder.first_unseen())
    folder.forget([1])
    found.append(folder.first_unseen())
    assert found == [1, -1, 3, 2]
