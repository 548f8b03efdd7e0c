"""A folder in memory with everybody who looks at it."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from mailstack.mailbox.views.files import (
    in_batch,
    link_or_copy,
    patient,
    rename,
    rename_or_copy,
    transfer_files,
    unlink,
)
from mailstack.mailbox.views.view import Change, View
from mailstack.mailbox.views.watched import WatchedMailbox
from mailstack.storage.durable import Publication
from mailstack.storage.maildir import prepare_delivery, quota
from mailstack.storage.maildir.folder import IN_NEW
from mailstack.storage.maildir.names import (
    KEYWORD_SHIFT,
    size_in_name,
    split_name,
    suffix_of,
    unique_name,
)
from mailstack.storage.maildir.tree import mbox_of

if TYPE_CHECKING:
    pass


class KeywordsFullError(Exception):
    """A folder has room for 26 keywords."""


class SharedMailbox(WatchedMailbox):
    """A folder in memory with everybody who looks at it, and what they do to it."""

    @property
    def read_only(self) -> bool:
        """Whether this is the copy of an mbox file."""
        return bool(mbox_of(self.root))

    def check_writable(self) -> None:
        """Raises `OSError` (EROFS) for the copy of an mbox file."""
        if self.read_only:
            raise OSError(errno.EROFS, "mbox files are only read")

    async def append(self, publications: Sequence[tuple[Publication, bool]]) -> list[int]:
        """Publish messages that `prepare` made; durable on return. Their UIDs.

        Raises `OSError`: none of them is there then.
        """
        files = [(os.path.basename(publication.final), in_new) for publication, in_new in publications]
        coming = [split_name(name)[0] for name, _ in files]
        # The directory's news of them can wait until they are durable.
        self._coming.update(coming)
        try:
            if len(files) == 1:
                await self.store.commit.publish(publications[0][0])
            else:
                await self._publish_all([publication for publication, _ in publications])
            try:
                return [uid for _, uid in await self.adopt_many([(0, *file, "") for file in files])]
            except OSError:
                # Whoever is told NO does it again: then the messages may not be there.
                for base, (publication, _) in zip(coming, publications, strict=True):
                    if base not in self.folder.by_base:
                        unlink(publication.final)
                raise
        except BaseException:
            self._unsure = True
            raise
        finally:
            self._coming.difference_update(coming)

    async def _publish_all(self, publications: Sequence[Publication]) -> None:
        """All at once, so that they share their flushes; all or none. Raises `OSError`."""
        publish = self.store.commit.publish
        outcomes = await asyncio.gather(*map(publish, publications), return_exceptions=True)
        failed = next((outcome for outcome in outcomes if outcome is not None), None)
        if failed is not None:
            for publication, outcome in zip(publications, outcomes, strict=True):
                if outcome is None:
                    unlink(publication.final)
            raise failed

    async def adopt(self, name: str, in_new: bool) -> int:
        """A file has just been published in this folder: give it its UID and tell the sessions."""
        async with self.lock:
            uid = await patient(lambda: self.folder.added(name, in_new))
        self.notify()
        return uid

    async def store_flags(
        self,
        uids: Iterable[int],
        change: Callable[[int], int],
        origin: View | None,
        unchanged_since: int | None = None,
        refused: list[int] | None = None,
    ) -> list[int]:
        """Set each message's flag bits to `change(bits)`. Returns the UIDs whose flags are others now.

        Messages that are gone meanwhile are left out. Those with a modification sequence above
        `unchanged_since` stay as they are and are appended to `refused`. Raises `OSError`.
        """
        self.check_writable()
        left = list(uids)
        changed: list[int] = []
        failure: OSError | None = None
        async with self.lock:
            # A file that another program has renamed meanwhile is looked for once.
            for last in (False, True):
                if unchanged_since is not None and refused is not None:
                    left = self._still_unchanged(left, unchanged_since, refused)
                left, failure = await self._set_flags(left, change, changed)
                if not left or last:
                    break
                self._report(self.folder.apply(await self._listing()))
            if changed:
                self._record(Change(changed, False, origin))
        if changed:
            self.notify()
        if failure is not None:
            raise failure
        return changed

    def _still_unchanged(self, uids: Sequence[int], limit: int, refused: list[int]) -> list[int]:
        folder = self.folder
        left: list[int] = []
        for uid in uids:
            index = folder.index(uid)
            above = index >= 0 and folder.modseqs[index] > limit
            (refused if above else left).append(uid)
        return left

    async def _set_flags(
        self, uids: Sequence[int], change: Callable[[int], int], changed: list[int]
    ) -> tuple[list[int], OSError | None]:
        """Rename files; the UIDs of those that were not found, and another failure if there was one."""
        folder = self.folder
        plan: list[tuple[int, str, int]] = []
        pairs: list[tuple[str, str]] = []
        for uid in uids:
            index = folder.index(uid)
            if index < 0:
                continue
            old = folder.flags[index] & ~IN_NEW
            new = change(old)
            if new != old:
                name = folder.renamed(index, new)
                plan.append((uid, name, new))
                pairs.append((folder.file(index), f"{folder.path}/cur/{name}"))
        outcomes = await in_batch(len(pairs), lambda: [rename(*pair) for pair in pairs])
        missing: list[int] = []
        failure: OSError | None = None
        for (uid, name, flags), outcome in zip(plan, outcomes, strict=True):
            if isinstance(outcome, FileNotFoundError):
                missing.append(uid)
            elif outcome is not None:
                failure = outcome
            elif (index := folder.index(uid)) >= 0:
                folder.set_name(index, name, flags)
                changed.append(uid)
        return missing, failure

    async def expunge(self, uids: Sequence[int]) -> None:
        """Remove messages for good. Raises `OSError` (those before the failure are gone then)."""
        self.check_writable()
        folder = self.folder
        async with self.lock:
            found = [(uid, folder.file(index)) for uid in uids if (index := folder.index(uid)) >= 0]
            counted = self.store.counting(self.root, folder.path)
            sizes = {uid: quota.file_size(path) or 0 for uid, path in found} if counted else {}
            outcomes = await in_batch(len(found), lambda: [unlink(path) for _, path in found])
            gone: list[int] = []
            failure: OSError | None = None
            for (uid, path), outcome in zip(found, outcomes, strict=True):
                if isinstance(outcome, FileNotFoundError):
                    # Another program has renamed or removed it: the next listing tells which.
                    self._unsure = True
                    outcome = await self._unlink_renamed(path)
                if outcome is None:
                    gone.append(uid)
                else:
                    failure = outcome
            self._removed(gone)
        if gone:
            self._discount(sizes.get(uid, 0) for uid in gone)
            self.notify()
        if failure is not None:
            raise failure

    def _discount(self, sizes: Iterable[int]) -> None:
        """Messages of these sizes on disk are gone from the account."""
        if self.store.counting(self.root, self.folder.path):
            each = list(sizes)
            try:
                quota.change(self.root, quota.Usage(-sum(each), -len(each)))
            except OSError as error:
                self.store.on_problem(f"{self.root}/{quota.FILE}: not updated: {error}")

    async def _unlink_renamed(self, path: str) -> OSError | None:
        base = split_name(os.path.basename(path))[0]
        for name in (await self._listing()).cur:
            if split_name(name)[0] == base:
                return unlink(f"{self.folder.path}/cur/{name}")
        return None

    def _removed(self, gone: list[int]) -> None:
        if gone:
            self.folder.forget(gone)
            self._record(Change(gone, True))
            try:
                self.folder.compact()
            except OSError as error:
                self.store.on_problem(f"{self.folder.path}: uidlist not compacted: {error}")

    async def transfer(
        self,
        uids: Sequence[int],
        target: SharedMailbox,
        move: bool,
        done: list[bool] | None = None,
        mask: int = -1,
    ) -> list[tuple[int, int]]:
        """Copy (or move) messages with flags, keywords and dates; durable on return. `done` (empty at first)
        grows with each file meanwhile. `mask`: the bits of flags that they may have.

        Returns pairs of old and new UIDs, ascending; messages that are gone are left out. A copy is all or
        nothing; a move is so for each message. Raises `OSError`, `KeywordsFullError`.
        """
        target.check_writable()
        if move:
            self.check_writable()
        to_target = await self._keyword_map(uids, target)

        def convert(flags: int) -> int:
            return to_target(flags) & mask

        if move:
            # Two locks are never held at once: moves in both directions between two mailboxes may not wait
            # for each other.
            async with self.lock:
                moved = await self._transfer(uids, target, convert, rename_or_copy, done)
            pairs = await target.adopt_many(moved)
            async with self.lock:
                self._removed([old for old, _ in pairs])
            self.notify()
            return pairs
        made = await self._transfer(uids, target, convert, link_or_copy, done)
        try:
            return await target.adopt_many(made)
        except OSError:
            for _, name, in_new, _ in made:
                if split_name(name)[0] not in target.folder.by_base:
                    unlink(f"{target.folder.path}/{'new' if in_new else 'cur'}/{name}")
            raise

    async def _transfer(
        self,
        uids: Sequence[int],
        target: SharedMailbox,
        convert: Callable[[int], int],
        operate: Callable[[str, str], None],
        done: list[bool] | None,
    ) -> list[tuple[int, str, bool, str]]:
        """The files' part: a UID and what became of it, the name in the target, if in `new/`, its GUID."""
        folder = self.folder
        now, host = self.store.clock.time(), self.store.hostname
        plan: list[tuple[int, str, bool, str]] = []
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
            plan.append((uid, name, not flags, folder.message_guid(index)))
            place = "cur" if flags else "new"
            steps.append((folder.file(index), f"{target.folder.path}/{place}/{name}"))
        undo = operate is os.link
        outcome = await in_batch(
            len(steps) * 8, lambda: transfer_files(steps, operate, undo, [] if done is None else done)
        )
        if isinstance(outcome, OSError):
            raise outcome
        if not all(outcome):
            self._unsure = True
        return [item for item, made in zip(plan, outcome, strict=True) if made]

    async def adopt_many(self, done: Sequence[tuple[int, str, bool, str]]) -> list[tuple[int, int]]:
        """Give files that now lie here their UIDs; pairs of the first column and the new UID.

        The last column is the GUID of what the file is a copy of, empty for a message of its own.
        """
        async with self.lock:
            files = [(name, in_new) for _, name, in_new, _ in done]
            guids = [guid for *_, guid in done]
            new = await patient(lambda: self.folder.added_many(files, guids))
        self.notify()
        return [(old, uid) for (old, *_), uid in zip(done, new, strict=True)]

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
        if not await patient(lambda: self.folder.keywords.add(names)):
            raise KeywordsFullError("Maximum number of different keywords exceeded")

    def prepare(
        self, data: Sequence[bytes | memoryview], flags: int, date: float | None
    ) -> tuple[Publication, bool]:
        """What `append` takes: a message without flags lies in `new/`, one with flags in `cur/`."""
        self.check_writable()
        publication = prepare_delivery(
            self.folder.path, data, self.store.clock.time(), self.store.hostname, flags=flags or None
        )
        return (replace(publication, mtime=date) if date is not None else publication), not flags


def sizes_of(box: SharedMailbox, uids: Iterable[int]) -> list[int]:
    """Octets on disk of the messages that are still there."""
    folder = box.folder
    sizes = []
    for uid in uids:
        at = folder.index(uid)
        size = quota.file_size(folder.file(at)) if at >= 0 else None
        if size is not None:
            sizes.append(size)
    return sizes
