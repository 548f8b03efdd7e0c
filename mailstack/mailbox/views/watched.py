"""A folder in memory, and what others do to it: other programs' files, the uidlist they write.

`WatchedMailbox` follows the directories and keeps the log from which each session's view is moved forward.
What sessions do themselves is in `shared`.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from mailstack.mailbox.views.files import patient, unlink
from mailstack.mailbox.views.view import Change, View
from mailstack.storage.maildir import cache as cache_file
from mailstack.storage.maildir import index
from mailstack.storage.maildir.cache import MessageCache
from mailstack.storage.maildir.folder import IN_NEW, Delta, Folder
from mailstack.storage.maildir.listing import (
    GRANULARITY,
    NO_STAMP,
    FolderGoneError,
    Listing,
    read_listing,
    stamp_of,
)
from mailstack.storage.maildir.message import open_message
from mailstack.storage.maildir.names import split_name
from mailstack.wire.mime.lines import wire_size

if TYPE_CHECKING:
    from mailstack.mailbox.views.store import MailStore

LOG_LIMIT = 1024
"""Entries of a mailbox's log before its older half is merged."""


class WatchedMailbox:
    """See the module."""

    def __init__(self, store: MailStore, root: str, folder: Folder) -> None:
        self.store = store
        self.root = root
        self.folder = folder
        self.views: list[View] = []
        self.lock = asyncio.Lock()
        self.log: list[Change] = []
        self.log_start = 0
        self.gone = False
        self.pins = 0
        self.saving: asyncio.TimerHandle | None = None
        self._cache: asyncio.Future[MessageCache] | None = None
        self._events: list[tuple[str, bool, bool]] = []
        self._unsure = False
        self._coming: set[str] = set()
        """Base names of files that this process is about to publish and to adopt."""
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
        self.forget_cache()
        self.notify()

    def notify(self) -> None:
        """Something has changed: wake the sessions that idle, and put the index aside before long."""
        if self.folder.unsaved and self.saving is None:
            self.store.save_soon(self)
        for view in self.views:
            if view.wake is not None:
                view.wake()

    def _event(self, name: str, come: bool, in_new: bool) -> None:
        if not name:
            self._unsure = True
        else:
            base = split_name(name)[0]
            uid = self.folder.by_base.get(base)
            if uid is None and (not come or base in self._coming):
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
        if not self.has_news():
            return
        async with self.lock:
            if self.gone:
                raise FolderGoneError(f"{self.folder.path}: deleted")
            try:
                await self._refresh()
            except FolderGoneError:
                self.store.dropped(self)
                raise

    def has_news(self) -> bool:
        if self._events or self._unsure:
            return True
        if self.watched:
            return self.folder.list_changed()
        return self.folder.is_stale()

    async def _refresh(self) -> None:
        folder = self.folder
        events, self._events = self._events, []
        if self.watched and not self._unsure and not folder.list_changed():
            delta = await patient(lambda: folder.apply_events(events))
        else:
            self._unsure = False
            if not self.watched:
                self.start_watching()
                self.store.watcher.poll()
                self._events.clear()
            listing = await self._listing()
            delta = await patient(lambda: folder.apply(listing))
        self._unsure = delta.left_out
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
            self._record(Change(delta.changed, False))
        if delta.removed:
            self._record(Change(delta.removed, True))
        if delta:
            self.notify()

    def _record(self, change: Change) -> None:
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
        flags = Change(tuple({uid for entry in old if not entry.removed for uid in entry.uids}), False)
        gone = Change(tuple({uid for entry in old if entry.removed for uid in entry.uids}), True)
        self.log = [flags, gone, *rest]
        self.log_start = end - 2
        for view in self.views:
            view.rewind(end, self.log_start)

    async def cache(self) -> MessageCache:
        """What is known of the messages without looking at them; read at the first call."""
        if self._cache is None:
            folder = self.folder
            uids = set(folder.uids)
            self._cache = asyncio.get_running_loop().run_in_executor(
                None, MessageCache.load, folder.path, folder.uid_validity, uids
            )
        cache = await asyncio.shield(self._cache)
        if cache.problem:
            self.store.on_problem(cache.problem)
            cache.problem = ""
        return cache

    def forget_cache(self) -> None:
        """Write what is left of it; the mailbox leaves memory, or is renamed."""
        if self._cache is not None:
            self._cache.add_done_callback(lambda loaded: loaded.result().close())
            self._cache = None

    def snapshot(self) -> index.Snapshot:
        """The folder for its index. Whoever writes it answers for changes from now on."""
        folder = self.folder
        stamp = stamp_of(folder.path)
        self.store.watcher.poll()
        settled = self.watched and not self.has_news() and max(stamp) < time.time_ns() - GRANULARITY
        folder.unsaved = False
        return folder.snapshot(stamp if settled else NO_STAMP)

    def look_again(self) -> None:
        """A file was not where it should be: read the directories now. Raises `OSError`."""
        delta = self.folder.apply(read_listing(self.folder.path))
        self._report(delta)

    async def reread(self) -> None:
        """Believe only what the files of the folder say: index and cache are removed. Raises `OSError`.

        Modification sequences and save dates stand nowhere else and stay.
        """
        folder = self.folder
        async with self.lock:
            if self.gone:
                raise FolderGoneError(f"{folder.path}: deleted")
            self.forget_cache()
            for name in (index.FILE, cache_file.FILE):
                unlink(f"{folder.path}/{name}")
            listing = await self._listing()
            delta = await patient(lambda: folder.apply(listing))
            delta.changed += folder.forget_derived()
            self._report(delta)
            folder.unsaved = True

    def wire_size(self, index: int) -> int:
        """A message's size with CRLF line ends, in octets (RFC822.SIZE). Raises `FileNotFoundError`."""
        folder = self.folder
        size = folder.size_in_name(index, "W")
        if size is None:
            size = folder.sizes[index]
            if size < 0:
                size = folder.sizes[index] = wire_size(open_message(folder.file(index)))
        return size
