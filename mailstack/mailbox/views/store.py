"""All mailboxes of the process: opened once, kept for the next session, told of deliveries."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable, Sequence

from mailstack.mailbox.views.files import LOCK_WAIT
from mailstack.mailbox.views.notices import Notices
from mailstack.mailbox.views.shared import SharedMailbox
from mailstack.mailbox.views.watched import WatchedMailbox
from mailstack.net.clock import Clock
from mailstack.storage.durable import GroupCommit
from mailstack.storage.maildir import from_mbox, index, prepare_delivery, tree
from mailstack.storage.maildir.delivery import is_folder, make_folder
from mailstack.storage.maildir.folder import Folder
from mailstack.storage.maildir.listing import FolderGoneError
from mailstack.storage.maildir.uidlist import LockBusyError, next_uid_validity
from mailstack.storage.maildir.watch import Watcher

UNUSED_MAILBOXES = 128
"""Mailboxes kept in memory although no session uses them."""
UNUSED_MESSAGES = 100_000
"""Messages in those mailboxes altogether, at the most."""
SAVE_DELAY, SAVE_RATE = 1.0, 2000.0
"""Seconds from a change until the index is written, and the messages that make it one second more."""
SAVE_INLINE = 1000
"""Messages in a mailbox up to which its index is written on the event loop's thread."""


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
        self.counting: Callable[[str, str], bool] = lambda root, path: False
        """Whether what goes from a folder of an account is written down in `maildirsize`."""
        self.notices = Notices()
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
        """Put aside what is to be found again, and end the watching."""
        for box in self._open.values():
            self._leave(box)
        self.notices.close()
        if self._watcher is not None:
            if self._watcher.fileno >= 0:
                asyncio.get_running_loop().remove_reader(self._watcher.fileno)
            self._watcher.close()

    async def deliver(self, root: str, data: Sequence[bytes | memoryview], mailbox: str = tree.INBOX) -> str:
        """Put a message into a mailbox of the account at `root`: durable on return; the file's name.

        Raises `OSError`.
        """
        root, mailbox = tree.located(root, mailbox)
        path = tree.path_of(root, mailbox)
        publication = prepare_delivery(path, data, self.clock.time(), self.hostname)
        await self.commit.publish(publication)
        name = os.path.basename(publication.final)
        await self.delivered(path, name)
        return name

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
        root, name = tree.located(root, name)
        path = tree.path_of(root, name)
        if (mbox := tree.mbox_of(root)) and not from_mbox.is_current(mbox, path):
            await asyncio.to_thread(from_mbox.update, mbox, path)
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
            if not is_folder(path):
                raise FileNotFoundError(path) from None
            return await self.open(root, name)
        except BaseException:
            self.unpin(box)
            raise
        return box

    async def reindex(self, root: str, name: str) -> int:
        """Remove the mailbox's index and cache, and write the index anew from what lies on disk.

        Sessions in it go on; the cache fills again when they ask. How many messages there are. Raises as
        `open`.
        """
        box = await self.open(root, name)
        try:
            await box.reread()
            if box.saving is not None:
                box.saving.cancel()
                box.saving = None
            if (work := self._saving(box)) is not None:
                await asyncio.to_thread(index.write, *work)
                self._saved(box, None)
            return len(box.folder.uids)
        finally:
            self.unpin(box)

    def unpin(self, box: SharedMailbox) -> None:
        """The opposite of `open`. Views keep a mailbox by themselves."""
        box.pins -= 1
        box.release()

    async def _load(self, root: str, path: str) -> SharedMailbox:
        if tree.is_always(root, path):
            make_folder(path)
            os.makedirs(root, 0o700, exist_ok=True)
        elif not is_folder(path):
            raise FileNotFoundError(path)
        loading = self._loading[path] = asyncio.get_running_loop().create_future()
        box = SharedMailbox(self, root, Folder(path, self.clock.time))
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
                    box.folder = Folder(path, self.clock.time)
            self._open[path] = box
            if box.folder.unsaved:
                self.save_soon(box)
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

    def unused(self, box: WatchedMailbox) -> None:
        """Nobody uses the mailbox now: keep it for the next session, within limits."""
        if box.gone or self._open.get(box.folder.path) is not box:
            return
        box.log_start = box.log_end + 1
        box.log.clear()
        self._open[box.folder.path] = self._open.pop(box.folder.path)  # the newest last
        idle = [other for other in self._open.values() if not other.views and not other.pins]
        messages = sum(len(other.folder.uids) for other in idle)
        for other in idle:
            if len(idle) <= UNUSED_MAILBOXES and messages <= UNUSED_MESSAGES:
                break
            if other is box and messages <= UNUSED_MESSAGES * 4:
                break
            idle = idle[1:]
            messages -= len(other.folder.uids)
            self._leave(other)
            other.stop_watching()
            del self._open[other.folder.path]

    # ---- indexes

    def save_soon(self, box: WatchedMailbox) -> None:
        """Write the mailbox's index after a while, and then what has changed until now with it."""
        delay = SAVE_DELAY + len(box.folder.uids) / SAVE_RATE
        box.saving = asyncio.get_running_loop().call_later(delay, self._save, box)

    def _save(self, box: WatchedMailbox) -> None:
        if len(box.folder.uids) < SAVE_INLINE:
            self._save_now(box)
            return
        box.saving = None
        if (work := self._saving(box)) is not None:
            writing = asyncio.get_running_loop().run_in_executor(None, index.write, *work)
            writing.add_done_callback(lambda done: self._saved(box, done.exception()))

    def _leave(self, box: WatchedMailbox) -> None:
        """The mailbox leaves memory."""
        self._save_now(box)
        box.forget_cache()
        try:
            box.folder.numbers.release()
        except OSError as error:
            self.on_problem(f"{box.folder.path}: {error}")

    def _save_now(self, box: WatchedMailbox) -> None:
        if box.saving is not None:
            box.saving.cancel()
            box.saving = None
        if (work := self._saving(box)) is not None:
            failure = None
            try:
                index.write(*work)
            except OSError as error:
                failure = error
            self._saved(box, failure)

    def _saving(self, box: WatchedMailbox) -> tuple[str, index.Snapshot] | None:
        """What to write where; None when there is nothing to write."""
        if box.gone or not box.folder.unsaved:
            return None
        try:
            return box.folder.path, box.snapshot()
        except OSError:
            return None  # it is being deleted by another program

    def _saved(self, box: WatchedMailbox, failure: BaseException | None) -> None:
        path = box.folder.path
        try:
            if failure is not None:
                raise failure
            if not box.folder.unsaved:
                index.settle(path)
        except OSError as error:
            # It is only a cache: the next change has it written again.
            if not box.gone and os.path.isdir(path):
                self.on_problem(f"{path}/{index.FILE}: not written: {error}")

    def dropped(self, box: WatchedMailbox) -> None:
        """The mailbox is no more (deleted by us or by another program)."""
        if self._open.get(box.folder.path) is box:
            del self._open[box.folder.path]
        box.die()

    def deleted(self, path: str) -> None:
        """The folder at `path` has been deleted by this process."""
        box = self._open.get(path)
        if box is not None:
            self.dropped(box)

    def renamed(self, pairs: Iterable[tuple[str, str]], root: str = "") -> None:
        """Folders have been renamed by this process: sessions in them stay in them. `root`: that of the new
        ones."""
        for old, new in pairs:
            box = self._open.pop(old, None)
            if box is not None:
                box.forget_cache()
                box.folder.move_to(new)
                box.root = root or box.root
                self._open[new] = box
