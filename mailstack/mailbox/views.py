"""The process's open mailboxes, shared by IMAP sessions, POP3 and LMTP, and each session's own view of one.

`MailStore` is made once per process. It holds one `SharedMailbox` per folder, however many sessions use it,
and keeps some that nobody uses just now. `deliver` is LMTP's entry: durable, and seen at once by idlers.

Sequence numbers are a session's own affair (RFC 3501 §2.3.1.2): a `View` is an array of UIDs, which all
sessions that are up to date share, and how many of them the session has been told of. Removing messages makes
another array; a session goes on with its old one until the protocol lets it hear of the removal. What happened
since stands in the mailbox's log, which each view reads at its own pace.

Everything runs in the event loop's thread but the disk work handed to threads, which gets copies of what it
needs. `SharedMailbox.lock` orders changes; it is never held while waiting for a client.
"""

from __future__ import annotations

import asyncio
import os
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from mailstack.net.clock import Clock
from mailstack.storage.durable import GroupCommit, Publication, fsync_directory
from mailstack.storage.maildir import prepare_delivery, tree
from mailstack.storage.maildir.delivery import make_folder
from mailstack.storage.maildir.folder import (
    IN_NEW,
    Delta,
    Folder,
    FolderGoneError,
    Listing,
    read_listing,
)
from mailstack.storage.maildir.names import (
    KEYWORD_SHIFT,
    size_in_name,
    split_name,
    suffix_of,
    unique_name,
)
from mailstack.storage.maildir.uidlist import LockBusyError, next_uid_validity
from mailstack.storage.maildir.watch import Watcher

T = TypeVar("T")

INLINE = 32
"""File operations that are done on the event loop's thread; more go to another thread."""
LOG_LIMIT = 1024
"""Entries of a mailbox's log before its older half is merged."""
LOCK_WAIT = 10.0
"""Seconds to wait for another program's lock."""
UNUSED_MAILBOXES = 128
"""Mailboxes kept in memory although no session uses them."""
UNUSED_MESSAGES = 100_000
"""Messages in those mailboxes altogether, at the most."""


@dataclass(frozen=True, slots=True)
class _Change:
    """One log entry: messages removed, or their flags changed by the view `origin` (None: somebody else)."""

    uids: Sequence[int]
    removed: bool
    origin: View | None = None


@dataclass(slots=True)
class Updates:
    """What a session has to tell its client. Sequence numbers; `expunged` is to be sent as it stands (falling)."""

    expunged: list[int] = field(default_factory=list)
    exists: int | None = None
    flags: list[int] = field(default_factory=list)


class View:
    """One session's view of a mailbox. Close it, or the mailbox stays in memory."""

    __slots__ = ("_flags_at", "_gone_at", "box", "count", "readonly", "recents", "uids", "wake")

    def __init__(self, box: SharedMailbox, readonly: bool) -> None:
        self.box = box
        self.readonly = readonly
        self.uids = box.folder.uids
        self.count = len(self.uids)
        self.recents: tuple[tuple[int, int], ...] = ()
        self.wake: Callable[[], None] | None = None
        self._flags_at = self._gone_at = box.log_end
        box.views.append(self)
        self._claim()

    def close(self) -> None:
        """The session has left the mailbox."""
        if self in self.box.views:
            self.box.views.remove(self)
            self.box.release()

    # ---- numbers

    def uid(self, number: int) -> int:
        """The UID of a sequence number in 1..count."""
        return self.uids[number - 1]

    def number(self, uid: int) -> int:
        """The sequence number of a UID, or 0."""
        at = bisect_left(self.uids, uid, 0, self.count)
        return at + 1 if at < self.count and self.uids[at] == uid else 0

    def is_recent(self, uid: int) -> bool:
        """Whether this session shows the message as \\Recent."""
        if self.readonly and uid >= self.box.folder.recent_from:
            return True
        return any(low <= uid < high for low, high in self.recents)

    def recent_count(self) -> int:
        """How many messages the session shows as \\Recent."""
        total = sum(
            bisect_left(self.uids, high, 0, self.count) - bisect_left(self.uids, low, 0, self.count)
            for low, high in self.recents
        )
        if self.readonly:
            total += self.count - bisect_left(self.uids, self.box.folder.recent_from, 0, self.count)
        return total

    def _claim(self) -> None:
        """Messages that no session has shown as recent are recent in this one, and in no other."""
        folder = self.box.folder
        if not self.readonly and folder.next_uid > folder.recent_from:
            if self.recents and self.recents[-1][1] == folder.recent_from:
                self.recents = (*self.recents[:-1], (self.recents[-1][0], folder.next_uid))
            else:
                self.recents = (*self.recents, (folder.recent_from, folder.next_uid))
            folder.recent_from = folder.next_uid
            folder.move_new()

    # ---- what has happened

    @property
    def behind(self) -> bool:
        """Whether `sync` would have something to say."""
        box = self.box
        return (
            self._flags_at != box.log_end
            or self._gone_at != box.log_end
            or self.uids is not box.folder.uids
            or self.count != len(self.uids)
        )

    def sync(self, expunge: bool) -> Updates:
        """Move the view forward. Without `expunge` no message leaves the view, and so none is added while
        removals are pending (the numbers of the new ones could not be told)."""
        updates = Updates()
        box = self.box
        if not self.behind:
            return updates
        changed = {
            uid
            for entry in box.log[max(0, self._flags_at - box.log_start) :]
            if not entry.removed and entry.origin is not self
            for uid in entry.uids
        }
        removed = {
            uid
            for entry in box.log[max(0, self._gone_at - box.log_start) :]
            if entry.removed
            for uid in entry.uids
        }
        self._flags_at = box.log_end
        changed -= removed
        if removed and not expunge:
            updates.flags = sorted(number for uid in changed if (number := self.number(uid)))
            return updates
        updates.expunged = sorted((number for uid in removed if (number := self.number(uid))), reverse=True)
        self._gone_at = box.log_end
        told = self.count - len(updates.expunged)
        self.uids = box.folder.uids
        self.count = len(self.uids)
        updates.flags = sorted(number for uid in changed if 0 < (number := self.number(uid)) <= told)
        if self.count != told:
            updates.exists = self.count
            self._claim()
        return updates

    def rewind(self, before: int, start: int) -> None:
        """The log's entries before number `before` now begin at number `start`."""
        if self._flags_at < before:
            self._flags_at = start
        if self._gone_at < before:
            self._gone_at = start


class SharedMailbox:
    """A folder in memory with everybody who looks at it."""

    def __init__(self, store: MailStore, root: str, folder: Folder) -> None:
        self.store = store
        self.root = root
        self.folder = folder
        self.views: list[View] = []
        self.lock = asyncio.Lock()
        self.log: list[_Change] = []
        self.log_start = 0
        self.gone = False
        self.pins = 0
        self._events: list[tuple[str, bool, bool]] = []
        self._unsure = False
        self._handles: tuple[int | None, int | None] = (None, None)

    @property
    def log_end(self) -> int:
        """The number that the log's next entry will get."""
        return self.log_start + len(self.log)

    # ---- life

    def start_watching(self) -> None:
        """Ask for news from the directories; before the first listing, so that nothing is missed."""
        watch = self.store.watcher.watch
        path = self.folder.path
        self._handles = (
            watch(f"{path}/new", lambda name, come: self._event(name, come, True)),
            watch(f"{path}/cur", lambda name, come: self._event(name, come, False)),
        )

    def stop_watching(self) -> None:
        for handle in self._handles:
            if handle is not None:
                self.store.watcher.forget(handle)
        self._handles = (None, None)

    @property
    def watched(self) -> bool:
        return None not in self._handles

    def release(self) -> None:
        """Somebody has ended using the mailbox."""
        if not self.views and not self.pins:
            self.store.unused(self)

    def die(self) -> None:
        """The mailbox has been deleted: its sessions must go."""
        self.gone = True
        self.stop_watching()
        self.notify()

    def notify(self) -> None:
        """Wake the sessions that idle."""
        for view in self.views:
            if view.wake is not None:
                view.wake()

    def _event(self, name: str, come: bool, in_new: bool) -> None:
        if not name:
            self._unsure = True
        else:
            base = split_name(name)[0]
            uid = self.folder.by_base.get(base)
            if uid is None and not come:
                return
            if uid is not None:
                index = self.folder.index(uid)
                same = self.folder.names[index] == name
                same = same and bool(self.folder.flags[index] & IN_NEW) == in_new
                if same == come:
                    return
            self._events.append((name, come, in_new))
        self.notify()

    # ---- news

    async def refresh(self) -> None:
        """Take in what other programs have done until now. Raises `OSError`, `FolderGoneError`."""
        self.store.watcher.poll()
        if self.gone:
            raise FolderGoneError(f"{self.folder.path}: deleted")
        if not self._has_news():
            return
        async with self.lock:
            if self.gone:
                raise FolderGoneError(f"{self.folder.path}: deleted")
            try:
                await self._refresh()
            except FolderGoneError:
                self.store.dropped(self)
                raise

    def _has_news(self) -> bool:
        if self._events or self._unsure:
            return True
        if self.watched:
            return self.folder.list_changed()
        return self.folder.is_stale()

    async def _refresh(self) -> None:
        folder = self.folder
        events, self._events = self._events, []
        if self.watched and not self._unsure and not folder.list_changed():
            delta = await _patient(lambda: folder.apply_events(events))
        else:
            self._unsure = False
            if not self.watched:
                self.start_watching()
                self.store.watcher.poll()
                self._events.clear()
            listing = await self._listing()
            delta = await _patient(lambda: folder.apply(listing))
        self._report(delta)

    async def _listing(self) -> Listing:
        if len(self.folder.uids) < 1000:
            return read_listing(self.folder.path)
        return await asyncio.to_thread(read_listing, self.folder.path)

    def _report(self, delta: Delta) -> None:
        for problem in self.folder.problems:
            self.store.on_problem(problem)
        self.folder.problems.clear()
        if delta.changed:
            self._record(_Change(delta.changed, False))
        if delta.removed:
            self._record(_Change(delta.removed, True))
        if delta:
            self.notify()

    def _record(self, change: _Change) -> None:
        if not self.views:
            self.log_start = self.log_end + 1
            self.log.clear()
            return
        self.log.append(change)
        if len(self.log) > LOG_LIMIT:
            self._merge_log()

    def _merge_log(self) -> None:
        """Merge the older half into two entries; views within it start from its beginning again, which only
        repeats news about flags."""
        half = len(self.log) // 2
        old, rest = self.log[:half], self.log[half:]
        end = self.log_start + half
        flags = _Change(tuple({uid for entry in old if not entry.removed for uid in entry.uids}), False)
        gone = _Change(tuple({uid for entry in old if entry.removed for uid in entry.uids}), True)
        self.log = [flags, gone, *rest]
        self.log_start = end - 2
        for view in self.views:
            view.rewind(end, self.log_start)

    # ---- changes

    async def append(self, publication: Publication, in_new: bool) -> int:
        """Publish a message that `prepare` made; durable on return. Its UID. Raises `OSError`."""
        await self.store.commit.publish(publication)
        return await self.adopt(os.path.basename(publication.final), in_new)

    async def adopt(self, name: str, in_new: bool) -> int:
        """A file has just been published in this folder: give it its UID and tell the sessions."""
        async with self.lock:
            uid = await _patient(lambda: self.folder.added(name, in_new))
        self.notify()
        return uid

    async def store_flags(
        self, uids: Iterable[int], change: Callable[[int], int], origin: View | None
    ) -> list[int]:
        """Set each message's flag bits to `change(bits)`. Returns the UIDs whose flags are others now.

        Messages that are gone meanwhile are left out. Raises `OSError`.
        """
        folder = self.folder
        async with self.lock:
            plan: list[tuple[int, str, str, int]] = []
            for uid in uids:
                index = folder.index(uid)
                if index < 0:
                    continue
                old = folder.flags[index] & ~IN_NEW
                new = change(old)
                if new != old:
                    plan.append((uid, folder.file(index), folder.renamed(index, new), new))
            cur = f"{folder.path}/cur/"
            pairs = [(source, cur + name) for _, source, name, _ in plan]
            outcomes = await _in_batch(len(pairs), lambda: [_rename(*pair) for pair in pairs])
            changed = []
            failure: OSError | None = None
            for (uid, _, name, flags), outcome in zip(plan, outcomes, strict=True):
                if outcome is None:
                    index = folder.index(uid)
                    if index >= 0:
                        folder.set_name(index, name, flags)
                        changed.append(uid)
                elif isinstance(outcome, FileNotFoundError):
                    self._unsure = True
                else:
                    failure = outcome
            if changed:
                self._record(_Change(changed, False, origin))
        if changed:
            self.notify()
        if failure is not None:
            raise failure
        return changed

    async def expunge(self, uids: Sequence[int]) -> None:
        """Remove messages for good. Raises `OSError` (those before the failure are gone then)."""
        folder = self.folder
        async with self.lock:
            found = [(uid, folder.file(index)) for uid in uids if (index := folder.index(uid)) >= 0]
            outcomes = await _in_batch(len(found), lambda: [_unlink(path) for _, path in found])
            gone: list[int] = []
            failure: OSError | None = None
            for (uid, path), outcome in zip(found, outcomes, strict=True):
                if isinstance(outcome, FileNotFoundError) and os.path.exists(f"{folder.path}/cur"):
                    # Another program has renamed or removed it: the next listing tells which.
                    self._unsure = True
                    outcome = await self._unlink_renamed(path)
                if outcome is None:
                    gone.append(uid)
                else:
                    failure = outcome
            self._removed(gone)
        if gone:
            self.notify()
        if failure is not None:
            raise failure

    async def _unlink_renamed(self, path: str) -> OSError | None:
        base = split_name(os.path.basename(path))[0]
        for name in (await self._listing()).cur:
            if split_name(name)[0] == base:
                return _unlink(f"{self.folder.path}/cur/{name}")
        return None

    def _removed(self, gone: list[int]) -> None:
        if gone:
            self.folder.forget(gone)
            self._record(_Change(gone, True))
            try:
                self.folder.compact()
            except OSError as error:
                self.store.on_problem(f"{self.folder.path}: uidlist not compacted: {error}")

    async def transfer(self, uids: Sequence[int], target: SharedMailbox, move: bool) -> list[tuple[int, int]]:
        """Copy (or move) messages with flags, keywords and dates; durable on return.

        Returns pairs of old and new UIDs, ascending; messages that are gone are left out. A copy is all or
        nothing; a move is so for each message. Raises `OSError`, `KeywordsFullError`.
        """
        convert = await self._keyword_map(uids, target)
        if move:
            # Two locks are never held at once: moves in both directions between two mailboxes may not wait
            # for each other.
            async with self.lock:
                done = await self._transfer(uids, target, convert, os.rename)
            pairs = await target.adopt_many(done)
            async with self.lock:
                self._removed([old for old, _ in pairs])
            self.notify()
            return pairs
        return await target.adopt_many(await self._transfer(uids, target, convert, os.link))

    async def _transfer(
        self,
        uids: Sequence[int],
        target: SharedMailbox,
        convert: Callable[[int], int],
        operate: Callable[[str, str], None],
    ) -> list[tuple[int, str, bool]]:
        """The files' part: pairs of a UID and what became of it, the name in the target and if in `new/`."""
        folder = self.folder
        now, host = self.store.clock.time(), self.store.hostname
        plan: list[tuple[int, str, bool]] = []
        steps: list[tuple[str, str]] = []
        for uid in uids:
            index = folder.index(uid)
            if index < 0:
                continue
            flags = convert(folder.flags[index] & ~IN_NEW)
            old = folder.names[index]
            name = unique_name(now, host, size_in_name(old, "S"), size_in_name(old, "W"))
            if flags:
                name += suffix_of(flags)
            plan.append((uid, name, not flags))
            place = "cur" if flags else "new"
            steps.append((folder.file(index), f"{target.folder.path}/{place}/{name}"))
        undo = operate is os.link
        outcome = await _in_batch(len(steps) * 8, lambda: _transfer_files(steps, operate, undo))
        if isinstance(outcome, OSError):
            raise outcome
        if not all(outcome):
            self._unsure = True
        return [item for item, made in zip(plan, outcome, strict=True) if made]

    async def adopt_many(self, done: Sequence[tuple[int, str, bool]]) -> list[tuple[int, int]]:
        """Give files that now lie here their UIDs; pairs of the first column and the new UID."""
        async with self.lock:
            files = [(name, in_new) for _, name, in_new in done]
            new = await _patient(lambda: self.folder.added_many(files))
        self.notify()
        return [(old, uid) for (old, _, _), uid in zip(done, new, strict=True)]

    async def _keyword_map(self, uids: Sequence[int], target: SharedMailbox) -> Callable[[int], int]:
        folder = self.folder
        used = 0
        for uid in uids:
            index = folder.index(uid)
            if index >= 0:
                used |= folder.flags[index] & ~IN_NEW
        names = folder.keywords.of(used)
        if not names or target is self:
            return lambda flags: flags
        await target.add_keywords(names)
        table = [(folder.keywords.bit(name) or 0, target.folder.keywords.bit(name) or 0) for name in names]
        system = (1 << KEYWORD_SHIFT) - 1

        def convert(flags: int) -> int:
            return (flags & system) | sum(theirs for ours, theirs in table if flags & ours)

        return convert

    async def add_keywords(self, names: list[str]) -> None:
        """Make letters for keywords. Raises `KeywordsFullError`, `OSError`."""
        if not await _patient(lambda: self.folder.keywords.add(names)):
            raise KeywordsFullError("Maximum number of different keywords exceeded")

    def prepare(
        self, data: Sequence[bytes | memoryview], flags: int, date: float | None
    ) -> tuple[Publication, bool]:
        """What `append` takes: a message without flags lies in `new/`, one with flags in `cur/`."""
        publication = prepare_delivery(
            self.folder.path, data, self.store.clock.time(), self.store.hostname, flags=flags or None
        )
        return (replace(publication, mtime=date) if date is not None else publication), not flags


class KeywordsFullError(Exception):
    """A folder has room for 26 keywords."""


class MailStore:
    """All mailboxes of the process. `on_problem` gets a line for the log about damage that was repaired."""

    def __init__(
        self,
        commit: GroupCommit,
        clock: Clock,
        hostname: str,
        on_problem: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.commit = commit
        self.clock = clock
        self.hostname = hostname
        self.on_problem = on_problem
        self._watcher: Watcher | None = None
        self._open: dict[str, SharedMailbox] = {}
        self._loading: dict[str, asyncio.Future[None]] = {}

    @property
    def watcher(self) -> Watcher:
        """Made at first use (from within the event loop)."""
        if self._watcher is None:
            self._watcher = Watcher()
            if self._watcher.fileno >= 0:
                asyncio.get_running_loop().add_reader(self._watcher.fileno, self._watcher.poll)
        return self._watcher

    def close(self) -> None:
        """End the watching."""
        if self._watcher is not None:
            if self._watcher.fileno >= 0:
                asyncio.get_running_loop().remove_reader(self._watcher.fileno)
            self._watcher.close()

    async def deliver(self, root: str, data: Sequence[bytes | memoryview], mailbox: str = tree.INBOX) -> None:
        """Put a message into a mailbox of the account at `root`: durable on return. Raises `OSError`."""
        path = tree.path_of(root, mailbox)
        publication = prepare_delivery(path, data, self.clock.time(), self.hostname)
        await self.commit.publish(publication)
        await self.delivered(path, os.path.basename(publication.final))

    async def delivered(self, path: str, name: str) -> None:
        """A file `name` has been published in `path`/new by this process: tell who has the folder open."""
        box = self._open.get(path)
        if box is not None and box.views:
            try:
                await box.adopt(name, True)
            except OSError as error:
                self.on_problem(f"{path}: not yet in the uidlist: {error}")

    async def open(self, root: str, name: str = tree.INBOX) -> SharedMailbox:
        """The mailbox, up to date and pinned in memory until `unpin`.

        Raises `FileNotFoundError` (no such mailbox), `OSError`.
        """
        path = tree.path_of(root, name)
        while (loading := self._loading.get(path)) is not None:
            await asyncio.shield(loading)
        box = self._open.get(path)
        if box is None:
            box = await self._load(root, path)
        box.pins += 1
        try:
            await box.refresh()
        except FolderGoneError:
            self.unpin(box)
            if not os.path.isdir(f"{path}/cur"):
                raise FileNotFoundError(path) from None
            return await self.open(root, name)
        except BaseException:
            self.unpin(box)
            raise
        return box

    def unpin(self, box: SharedMailbox) -> None:
        """The opposite of `open`. Views keep a mailbox by themselves."""
        box.pins -= 1
        box.release()

    async def _load(self, root: str, path: str) -> SharedMailbox:
        if path == root:
            make_folder(root)
        elif not os.path.isdir(f"{path}/cur"):
            raise FileNotFoundError(path)
        loading = self._loading[path] = asyncio.get_running_loop().create_future()
        box = SharedMailbox(self, root, Folder(path))
        try:
            box.start_watching()
            deadline = self.clock.monotonic() + LOCK_WAIT

            def validity() -> int:
                return next_uid_validity(root, self.clock.time())

            while True:
                try:
                    if len(os.listdir(f"{path}/cur")) < 500:
                        box.folder.load(validity)
                    else:
                        await asyncio.to_thread(box.folder.load, validity)
                    break
                except LockBusyError:
                    if self.clock.monotonic() > deadline:
                        raise
                    await asyncio.sleep(0.02)
                    box.folder = Folder(path)
            self._open[path] = box
            for problem in box.folder.problems:
                self.on_problem(problem)
            box.folder.problems.clear()
        except BaseException:
            box.stop_watching()
            raise
        finally:
            del self._loading[path]
            loading.set_result(None)
        return box

    def unused(self, box: SharedMailbox) -> None:
        """Nobody uses the mailbox now: keep it for the next session, within limits."""
        if box.gone or self._open.get(box.folder.path) is not box:
            return
        box.log_start = box.log_end + 1
        box.log.clear()
        del self._open[box.folder.path]
        self._open[box.folder.path] = box  # the newest last
        idle = [other for other in self._open.values() if not other.views and not other.pins]
        messages = sum(len(other.folder.uids) for other in idle)
        for other in idle:
            if len(idle) <= UNUSED_MAILBOXES and messages <= UNUSED_MESSAGES:
                break
            if other is box and messages <= UNUSED_MESSAGES * 4:
                break
            idle = idle[1:]
            messages -= len(other.folder.uids)
            other.stop_watching()
            del self._open[other.folder.path]

    def dropped(self, box: SharedMailbox) -> None:
        """The mailbox is no more (deleted by us or by another program)."""
        if self._open.get(box.folder.path) is box:
            del self._open[box.folder.path]
        box.die()

    def deleted(self, path: str) -> None:
        """The folder at `path` has been deleted by this process."""
        box = self._open.get(path)
        if box is not None:
            self.dropped(box)

    def renamed(self, pairs: Iterable[tuple[str, str]]) -> None:
        """Folders have been renamed by this process: sessions in them stay in them."""
        for old, new in pairs:
            box = self._open.pop(old, None)
            if box is not None:
                box.folder.move_to(new)
                self._open[new] = box


async def _patient(work: Callable[[], T]) -> T:
    """Do something that takes another program's lock, waiting up to `LOCK_WAIT` seconds for it."""
    deadline = asyncio.get_running_loop().time() + LOCK_WAIT
    while True:
        try:
            return work()
        except LockBusyError:
            if asyncio.get_running_loop().time() > deadline:
                raise
            await asyncio.sleep(0.02)


async def _in_batch(count: int, work: Callable[[], T]) -> T:
    """Run disk work here when it is little, else in a thread."""
    if count <= INLINE:
        return work()
    return await asyncio.to_thread(work)


def _rename(source: str, target: str) -> OSError | None:
    try:
        os.rename(source, target)
    except OSError as error:
        return error
    return None


def _unlink(path: str) -> OSError | None:
    try:
        os.unlink(path)
    except OSError as error:
        return error
    return None


def _transfer_files(
    steps: list[tuple[str, str]], operate: Callable[[str, str], None], undo: bool
) -> list[bool] | OSError:
    """Link or rename each file, then flush the target's directories; False for a source that is gone."""
    done: list[bool] = []
    try:
        for source, final in steps:
            try:
                operate(source, final)
                done.append(True)
            except FileNotFoundError:
                if not os.path.isdir(os.path.dirname(final)):
                    raise
                done.append(False)
        for directory in {os.path.dirname(final) for _, final in steps}:
            fsync_directory(directory)
    except OSError as error:
        if undo:
            for (_, final), made in zip(steps, done, strict=False):
                if made:
                    _unlink(final)
            return error
        if not any(done):
            return error
        done += [False] * (len(steps) - len(done))
    return done
