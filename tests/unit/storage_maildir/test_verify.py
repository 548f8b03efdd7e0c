"""What a look through a folder's files finds, and what it takes for granted."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from mailstack.storage.maildir import index, verify
from mailstack.storage.maildir.cache import FILE as CACHE
from mailstack.storage.maildir.cache import Kind, MessageCache
from mailstack.storage.maildir.delivery import make_folder
from mailstack.storage.maildir.folder import Folder
from mailstack.storage.maildir.listing import stamp_of
from mailstack.storage.maildir.uidlist import FILE as UIDLIST

MESSAGE = b"Subject: a\n\nbody\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A folder with three messages, an index and a cache."""
    folder = tmp_path / "box"
    make_folder(str(folder))
    (folder / "dovecot-keywords").write_text("0 work\n")
    for number, suffix in ((1, ":2,S"), (2, ":2,Fa"), (3, ":2,")):
        name = f"170000000{number}.M1P1.host,S={len(MESSAGE)},W={len(MESSAGE) + 3}{suffix}"
        (folder / "cur" / name).write_bytes(MESSAGE)
    read = Folder(str(folder), lambda: 1.0)
    read.load(lambda: 1234)
    index.write(str(folder), read.snapshot(stamp_of(str(folder))))
    index.settle(str(folder))
    cache = MessageCache.load(str(folder), 1234, {1, 2, 3})
    cache.add(Kind.ENVELOPE, 1, b"x")
    cache.close()
    return folder


def message(path: Path, uid: int) -> Path:
    """The file of a message."""
    return next((path / "cur").glob(f"170000000{uid}.*"))


def texts(path: Path) -> list[tuple[int, str]]:
    return [(finding.uid, finding.text) for finding in verify.findings(str(path))]


def test_nothing_is_wrong_and_nothing_is_changed(path: Path) -> None:
    before = {file: (file.stat().st_mtime_ns, file.stat().st_size) for file in path.rglob("*")}
    assert texts(path) == []
    assert {file: (file.stat().st_mtime_ns, file.stat().st_size) for file in path.rglob("*")} == before
    (path / "new" / "1700000009.M1P1.host").write_bytes(MESSAGE)
    assert texts(path) == [], "what has just been delivered has no UID yet"


def damage_index(path: Path) -> None:
    data = (path / index.FILE).read_bytes()
    (path / index.FILE).write_bytes(data[:-1] + b"?")


def another_flag(path: Path) -> None:
    """As if the index had been written with a flag that the name does not have."""
    known = index.read(str(path))
    assert known is not None
    known.flags[2] |= 2
    index.write(str(path), known)
    index.settle(str(path))


def cut(path: Path) -> None:
    (path / UIDLIST).write_bytes((path / UIDLIST).read_bytes() + b"9 :cut")


def flip(path: Path) -> None:
    data = (path / CACHE).read_bytes()
    (path / CACHE).write_bytes(data[:-1] + b"?")


@pytest.mark.parametrize(
    ("harm", "uid", "words"),
    [
        (
            lambda path: message(path, 2).write_bytes(MESSAGE + b"\n"),
            2,
            "its name says S=17, it has 18 octets",
        ),
        (
            lambda path: message(path, 2).write_bytes(b"Subject: a\n\nbod\n\n"),
            2,
            "its name says W=20, it has 21",
        ),
        (lambda path: (path / "dovecot-keywords").unlink(), 2, "what the letter a means"),
        (
            lambda path: os.link(message(path, 1), path / "new" / message(path, 1).name[:-4]),
            1,
            "2 files have",
        ),
        (
            lambda path: (path / "cur" / "1700000007.x:2,S").write_bytes(MESSAGE),
            0,
            f"has no UID in {UIDLIST}",
        ),
        (lambda path: (path / UIDLIST).write_bytes(b"nonsense\n"), 0, "its first line cannot be used"),
        (cut, 0, "the last line is cut off"),
        (damage_index, 0, "mailstack.index: its checksum is wrong"),
        (another_flag, 3, "mailstack.index: its flags are not those of"),
        (flip, 0, "mailstack.cache: damaged at the record of message 1"),
        (lambda path: (path / CACHE).write_bytes(b"nonsense nonsense"), 0, "mailstack.cache: not a cache"),
    ],
)
def test_what_is_wrong(harm: Callable[[Path], object], uid: int, words: str, path: Path) -> None:
    harm(path)
    found = texts(path)
    assert any(words in text and number == uid for number, text in found), found


def test_what_is_over_at_the_second_look_was_a_change_under_way(path: Path) -> None:
    stray = path / "cur" / "1700000007.x:2,S"
    stray.write_bytes(MESSAGE)
    assert verify.lasting(str(path), stray.unlink) == []
    stray.write_bytes(MESSAGE)
    assert [finding.uid for finding in verify.lasting(str(path), lambda: None)] == [0]
