"""Each system call of the Maildir's code fails in turn, and each of its files is cut off at every octet.

A client's morning (append, deliver, flag, name a keyword, copy, move, expunge, idle) is played again and again;
in each play one call, one further than in the play before, fails with ENOSPC, EIO or EMFILE. What was answered
OK must be so afterwards, when the process starts anew on a disk that is well.
"""

from __future__ import annotations

import asyncio
import builtins
import errno
import os
import shutil
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mailstack.mailbox.views import MailStore, SharedMailbox, View, files, shared, store
from mailstack.net.clock import SystemClock
from mailstack.storage import durable, flush, rounds
from mailstack.storage.durable import GroupCommit
from mailstack.storage.maildir import (
    columns,
    delivery,
    folder,
    index,
    keywords,
    listing,
    numbers,
    subscriptions,
    tree,
    uidlist,
)
from mailstack.storage.maildir.folder import IN_NEW, Folder
from mailstack.storage.maildir.names import FLAGGED, SEEN

CALLS = frozenset(
    (
        *("open", "close", "write", "writev", "pwrite", "fstat", "stat", "fsync", "fdatasync", "ftruncate"),
        *("rename", "unlink", "link", "listdir", "mkdir", "fchmod"),
    )
)
ERRORS = (errno.ENOSPC, errno.EIO, errno.EMFILE)
MODULES = (
    *(durable, rounds, flush, delivery, folder, columns, index, keywords, listing, numbers, uidlist),
    *(files, shared, store, tree),
)


class FaultyOS:
    """The module `os`, and `open`, of which one call fails: the `number`th of those in `CALLS`, or of those of
    one name; none for 0."""

    def __init__(self, number: int, code: int, only: str = "") -> None:
        self.count = 0
        self.failed = ""
        self.well = False
        self._number = number
        self._code = code
        self._only = only
        self._lock = threading.Lock()

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        return self._failing(name, real) if name in CALLS else real

    def file(self, *args: Any, **kwargs: Any) -> Any:
        return self._failing("open", builtins.open)(*args, **kwargs)

    def _failing(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            with self._lock:
                counts = not self.well and self._only in ("", name)
                self.count += counts
                fails = counts and self.count == self._number
            if not fails:
                return real(*args, **kwargs)
            self.failed = name
            if name == "close":
                real(*args)  # Linux lets go of the descriptor all the same
            raise OSError(self._code, os.strerror(self._code), *args[:1])

        return call


class Morning:
    """One play. `promised`: where each message must be, with its UID and flags; `never`: where it may not be."""

    def __init__(self, root: Path) -> None:
        self.root = str(root / "mail")
        self.problems: list[str] = []
        self.promised: dict[tuple[str, str], tuple[int, int]] = {}
        self.never: set[tuple[str, str]] = set()
        self.uids: dict[tuple[str, int], str] = {}
        self.sequences: dict[str, int] = {}
        self._begin()

    def _begin(self) -> None:
        self.commit = GroupCommit()
        self.store = MailStore(self.commit, SystemClock(), "host", self.problems.append)

    def end(self) -> None:
        self.store.close()
        self.commit.close()

    async def play(self) -> None:
        store = self.store
        try:
            inbox, kept = await store.open(self.root), None
        except OSError:
            return
        view = View(inbox, False)
        try:
            kept = await store.open(self.root, "Kept")
        except OSError:
            pass
        await self._append(inbox, "one", SEEN)
        await self._append(inbox, "two", 0)
        await self._append(inbox, "three", FLAGGED)
        try:
            await store.deliver(self.root, [_content("four")])
            self.promised["INBOX", "four"] = (0, 0)
        except OSError:
            pass
        await self._try(inbox.refresh())
        view.sync(True)
        await self._keyword(inbox, "one")
        await self._flag(inbox, "two")
        if kept is not None:
            await self._transfer(inbox, kept, "one", move=False)
            await self._transfer(inbox, kept, "two", move=True)
        if ("INBOX", "three") in self.promised:
            uid, _ = self.promised.pop(("INBOX", "three"))
            if await self._try(inbox.expunge([uid])):
                self.never.add(("INBOX", "three"))
        await self._append(inbox, "five", 0)
        view.sync(True)
        view.close()
        for box in filter(None, (inbox, kept)):
            self.sequences[box.folder.path] = box.folder.highest_modseq
            store.unpin(box)

    async def _try(self, work: Any) -> bool:
        try:
            await work
        except OSError:
            return False
        return True

    async def _append(self, box: SharedMailbox, name: str, flags: int) -> None:
        try:
            (uid,) = await box.append([box.prepare([_content(name)], flags, None)])
        except OSError:
            self.never.add(("INBOX", name))  # the client does it again: it must not be there twice
            return
        self.promised["INBOX", name] = (uid, flags)
        self.uids[box.folder.path, uid] = name

    async def _flag(self, box: SharedMailbox, name: str) -> None:
        if ("INBOX", name) in self.promised:
            uid, old = self.promised["INBOX", name]
            if await self._try(box.store_flags([uid], lambda flags: flags | FLAGGED, None)):
                self.promised["INBOX", name] = (uid, old | FLAGGED)
            else:
                self.promised["INBOX", name] = (uid, -1)

    async def _keyword(self, box: SharedMailbox, name: str) -> None:
        if ("INBOX", name) not in self.promised or not await self._try(box.add_keywords(["$K"])):
            return
        uid, old = self.promised["INBOX", name]
        bit = box.folder.keywords.bit("$K")
        assert bit is not None
        done = await self._try(box.store_flags([uid], lambda flags: flags | bit, None))
        self.promised["INBOX", name] = (uid, old | bit if done else -1)

    async def _transfer(self, source: SharedMailbox, target: SharedMailbox, name: str, *, move: bool) -> None:
        if ("INBOX", name) not in self.promised:
            return
        uid, flags = self.promised["INBOX", name]
        try:
            pairs = await source.transfer([uid], target, move)
        except OSError:
            if move:
                del self.promised["INBOX", name]
                self.promised["anywhere", name] = (0, -1)
            else:
                self.never.add(("Kept", name))
            return
        self.promised["Kept", name] = (pairs[0][1], flags)
        self.uids[target.folder.path, pairs[0][1]] = name
        if move:
            del self.promised["INBOX", name]
            self.never.add(("INBOX", name))

    async def check(self, where: str) -> None:
        """The process has ended; another one looks at what is there."""
        self._begin()
        found: dict[tuple[str, str], tuple[int, int]] = {}
        times: Counter[tuple[str, str]] = Counter()
        for box_name in ("INBOX", "Kept"):
            box = await self.store.open(self.root, box_name)
            it = box.folder
            assert it.highest_modseq >= self.sequences.get(it.path, 0), where
            for at, uid in enumerate(it.uids):
                name = _name(it.file(at))
                assert self.uids.setdefault((it.path, uid), name) == name, f"UID {uid} twice at {where}"
                found[box_name, name] = (uid, it.flags[at] & ~IN_NEW)
                times[box_name, name] += 1
            self.store.unpin(box)
        self.end()
        assert not times or max(times.values()) == 1, f"{times} at {where}"
        for (box_name, name), (uid, flags) in self.promised.items():
            if box_name == "anywhere":
                assert times["INBOX", name] + times["Kept", name] == 1, f"{name} lost at {where}"
                continue
            assert (box_name, name) in found, f"{name} lost at {where}"
            assert uid in (0, found[box_name, name][0]), f"{name} has another UID at {where}"
            assert flags in (-1, found[box_name, name][1]), f"{name} has other flags at {where}"
        again = self.never & found.keys()
        assert not again, f"{again} came back at {where}"
        assert not os.listdir(f"{self.root}/tmp"), where


def _content(name: str) -> bytes:
    return b"Subject: %b\n\nx\n" % name.encode()


def play(root: Path, number: int, code: int, monkeypatch: pytest.MonkeyPatch, only: str = "") -> FaultyOS:
    faulty = FaultyOS(number, code, only)
    where = ""

    async def main() -> None:
        nonlocal where
        morning = Morning(root)
        for name in (".", ".Kept"):
            for part in ("cur", "new", "tmp"):
                os.makedirs(f"{morning.root}/{name}/{part}")
        for module in MODULES:
            monkeypatch.setattr(module, "os", faulty)
            monkeypatch.setattr(module, "open", faulty.file, raising=False)
        await morning.play()
        morning.end()
        faulty.well = True
        where = f"call {number} ({faulty.failed}) with {errno.errorcode[code]}"
        await morning.check(where)

    asyncio.run(main())
    monkeypatch.undo()
    return faulty


@pytest.mark.timeout(300)
def test_nothing_is_lost_when_a_call_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quiet = tmp_path / "quiet"
    quiet.mkdir()
    total = play(quiet, 0, errno.EIO, monkeypatch).count
    assert total > 100
    failed: Counter[str] = Counter()
    everything = os.environ.get("MAILSTACK_FAULT_ERRORS") == "all"
    for number in range(1, total + 1):
        for code in ERRORS if everything else (ERRORS[number % len(ERRORS)],):
            root = tmp_path / f"{number}-{code}"
            root.mkdir()
            failed[play(root, number, code, monkeypatch).failed] += 1
            shutil.rmtree(root)
    # No two mornings make all calls in the same order: what has been passed over comes now.
    wanted = {"open", "close", "write", "rename", "unlink", "fsync", "fdatasync", "link", "stat"}
    for name in sorted(wanted - failed.keys()):
        root = tmp_path / name
        root.mkdir()
        failed[play(root, 1, errno.EIO, monkeypatch, name).failed] += 1
    print(f"{total} calls: {dict(failed)}")
    assert wanted <= set(failed)


def _name(path: str) -> str:
    with open(path) as file:
        return file.readline().rstrip().removeprefix("Subject: ")


def _mailbox(root: Path) -> Path:
    """A mailbox with five messages, of which two are gone, a copy and two keywords; its index is written."""
    path = root / "mail"
    for part in ("cur", "new", "tmp"):
        (path / part).mkdir(parents=True)
    made = Folder(str(path))
    made.load(lambda: 1_700_000_000)
    made.keywords.add(["$One", "$Two"])
    for number in range(1, 6):
        name = f"{1_700_000_100 - number}.M{number}.host:2,ab"
        (path / "cur" / name).write_text(f"Subject: {number}\n\n")
        made.added_many([(name, False)], ["guid"] if number == 3 else [])
    for uid in (4, 5):
        os.unlink(made.file(made.index(uid)))
        made.forget([uid])
    index.write(str(path), made.snapshot(listing.NO_STAMP))
    return path


def _seen(path: Path) -> tuple[Folder, list[tuple[int, str, list[str], str]]]:
    it = Folder(str(path))
    it.load(lambda: 5)
    rows = [
        (uid, _name(it.file(at)), it.keywords.of(it.flags[at]), it.message_guid(at))
        for at, uid in enumerate(it.uids)
    ]
    return it, rows


@pytest.mark.parametrize("name", [uidlist.FILE, keywords.FILE, index.FILE])
def test_a_file_cut_off_at_any_octet_is_repaired(tmp_path: Path, name: str) -> None:
    path = _mailbox(tmp_path)
    kept = {part: (path / part).read_bytes() for part in (uidlist.FILE, keywords.FILE, index.FILE)}
    before, rows = _seen(path)
    for length in range(len(kept[name])):
        for part, data in kept.items():
            (path / part).write_bytes(data)
        with open(path / name, "r+b") as file:
            file.truncate(length)
        it, found = _seen(path)
        assert found == rows, f"{name} cut off behind octet {length}"
        assert (it.uid_validity, it.guid) == (before.uid_validity, before.guid), length
        assert it.next_uid >= before.next_uid and it.highest_modseq >= before.highest_modseq, length
        assert it.problems, f"{name} cut off behind octet {length}: nothing is said"
        again, found = _seen(path)
        assert found == rows and (again.problems == [] or name == index.FILE), length


def test_a_uidlist_cut_off_under_a_process_that_knows_it_is_repaired(tmp_path: Path) -> None:
    path = _mailbox(tmp_path)
    data = (path / uidlist.FILE).read_bytes()
    for length in range(len(data)):
        (path / uidlist.FILE).write_bytes(data)
        it, rows = _seen(path)
        os.truncate(path / uidlist.FILE, length)
        name = f"1700001000.M{length}.host:2,"
        (path / "cur" / name).write_text("Subject: new\n\n")
        assert it.added(name, False) == it.next_uid - 1 > 5
        other, found = _seen(path)
        assert found[: len(rows)] == rows and found[-1][:2] == (it.next_uid - 1, "new"), length
        assert other.next_uid == it.next_uid, length
        (path / "cur" / name).unlink()


def test_a_uidlist_cut_off_without_an_index_gives_no_number_again(tmp_path: Path) -> None:
    path = _mailbox(tmp_path)
    data = (path / uidlist.FILE).read_bytes()
    _, rows = _seen(path)
    for length in range(data.index(b"\n") + 1, len(data)):
        if data[length - 1 : length] == b"\n":
            continue  # nothing tells that there has been more
        (path / uidlist.FILE).write_bytes(data[:length])
        (path / index.FILE).unlink(missing_ok=True)
        _, found = _seen(path)
        kept = {uid: name for uid, name, *_ in rows}
        assert {name for _, name, *_ in found} == set(kept.values())
        assert all(kept.get(uid, name) == name for uid, name, *_ in found), length


def test_subscriptions_cut_off_at_any_octet_hold_no_half_name(tmp_path: Path) -> None:
    names = ["Archive", "Lists.python", "Übermut"]
    for name in names:
        subscriptions.change(str(tmp_path), name, True)
    data = (tmp_path / subscriptions.FILE).read_bytes()
    for length in range(len(data)):
        (tmp_path / subscriptions.FILE).write_bytes(data[:length])
        found = subscriptions.read(str(tmp_path))
        assert found == names[: len(found)], length
        subscriptions.change(str(tmp_path), "New", True)
        assert subscriptions.read(str(tmp_path)) == [*found, "New"]
