"""Which UID each file of one folder has: `dovecot-uidlist` as this process knows it.

Other programs write the file too. Whoever finds that it has changed (`changed`) reads it again before
anything else; nothing is appended to a file that has not been read.

Where the disk is full or read-only, a mailbox without a file of its own is numbered in memory (`in_memory`),
under a UIDVALIDITY of its own; in one that has a file, new messages are not shown until they can be written
down: no UID that a client has seen ever means another message.

A loss of power may take the end of the file, which is not flushed with every message. Therefore UIDs are
taken ahead, `AHEAD` at a time: `mailstack.uids` says up to which ones, and is flushed. Who finds it after
another start of the machine goes on behind those; who closes the mailbox flushes the uidlist and removes it.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

from mailstack.storage.durable import fsync_directory
from mailstack.storage.maildir import uidlist
from mailstack.storage.maildir.listing import FolderGoneError

CANNOT_WRITE = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM))
"""Errors that may last, and do not keep anybody from reading."""
AHEAD_FILE = "mailstack.uids"
AHEAD = 1000
"""UIDs that are taken ahead at once."""
GAP = 100_000
"""UIDs that are passed over when a file is repaired of which nobody in this process has seen the end."""
REWRITE_STALE = 200
"""Records of expunged messages that may stand in the uidlist before it is rewritten."""

ListStamp = tuple[int, int, int]
"""The file's inode, size and modification time (ns)."""


@cache
def _boot_id() -> bytes:
    """Of this start of the machine; empty where nothing tells."""
    try:
        with open("/proc/sys/kernel/random/boot_id", "rb") as file:
            return file.read().strip()
    except OSError:
        return b""


@dataclass(frozen=True, slots=True)
class Before:
    """What was known of a uidlist. `rows`: UID -> base name of the messages there were; `present`: whether
    there is a file of that base name."""

    uid_validity: int
    next_uid: int
    guid: str
    extensions: dict[int, str]
    rows: Callable[[], dict[int, str]]
    present: Callable[[str], bool]

    def is_missing_in(self, parsed: uidlist.UidList) -> bool:
        """Whether the file has lost its end: numbers never fall, and whoever takes a record out of the list
        has removed the message before."""
        if parsed.next_uid < self.next_uid:
            return True
        listed = set(parsed.bases)
        return any(base not in listed and self.present(base) for base in self.rows().values())


class Numbers:
    """See the module. `reserved` are UIDs of files (by base name) that nobody has seen yet; `stale` counts
    records of messages that are gone; `extensions` are a record's further fields, as they stand."""

    __slots__ = (
        "ahead",
        "extensions",
        "guid",
        "in_memory",
        "next_uid",
        "path",
        "problems",
        "reserved",
        "stale",
        "stamp",
        "uid_validity",
        "unwritten",
    )

    def __init__(self, folder: str, problems: list[str]) -> None:
        """`problems` gets a line about each damage."""
        self.path = f"{folder}/{uidlist.FILE}"
        self.problems = problems
        self.uid_validity = 0
        self.next_uid = 1
        self.guid = ""
        self.extensions: dict[int, str] = {}
        self.reserved: dict[str, int] = {}
        self.stale = 0
        self.stamp: ListStamp | None = None
        self.in_memory = False
        self.ahead = 0
        """The first UID that has not been taken ahead."""
        self.unwritten = 0
        """The error with which the file could not be written last."""

    def begin(self, new_validity: Callable[[], int], now: float) -> None:
        """The folder is new, or its file cannot be used: number it from 1 on. Raises `OSError`."""
        self.guid = uidlist.new_guid()
        try:
            self.uid_validity = new_validity()
            self.rewrite({})
        except OSError as error:
            if not self.cannot_write(error):
                raise
            self.uid_validity = self.uid_validity or int(now)
            self.stamp = self.on_disk()
            self.in_memory = True

    def cannot_write(self, error: OSError) -> bool:
        """Whether that may last; it is said once then."""
        if error.errno not in CANNOT_WRITE:
            return False
        if error.errno != self.unwritten:
            self.unwritten = error.errno
            self.problems.append(f"{self.path}: not written: {os.strerror(error.errno)}")
        return True

    def settle(self, rows: Callable[[], dict[int, str]]) -> None:
        """Write down what is only in memory, where that is possible now. Raises `OSError`."""
        if self.in_memory:
            try:
                self.rewrite(rows())
            except OSError as error:
                if not self.cannot_write(error):
                    raise

    def on_disk(self) -> ListStamp | None:
        """The file's stamp now; None when there is none."""
        try:
            status = os.stat(self.path)
        except FileNotFoundError:
            return None
        return (status.st_ino, status.st_size, status.st_mtime_ns)

    def changed(self) -> bool:
        """Whether another program has written the file since it was read (one `stat` call)."""
        return self.on_disk() != self.stamp

    def read(self, known: int, before: Before | None = None) -> bool:
        """Take over what the file says; False when there is none to use. `known`: messages that we know.

        A file that is damaged or has lost its end is repaired from `before`, what was known of it last.
        Raises `OSError`, `LockBusyError` (it is damaged, and being repaired by another program),
        `FolderGoneError` when UIDVALIDITY is another.
        """
        stamp = self.on_disk()
        try:
            with open(self.path, "rb") as file:
                data = file.read()
        except FileNotFoundError:
            return False
        parsed = uidlist.parse(data)
        if parsed is None and before is not None:
            parsed = uidlist.UidList(before.uid_validity, 1, before.guid, problem="line 1 is damaged")
        if parsed is None:
            self.problems.append(f"{self.path}: damaged, made anew with another UIDVALIDITY")
            return False
        if self.uid_validity not in (0, parsed.uid_validity):
            raise FolderGoneError(f"{os.path.dirname(self.path)}: UIDVALIDITY has changed")
        if before is not None and before.uid_validity != parsed.uid_validity:
            before = None
        if not parsed.problem and before is not None and before.is_missing_in(parsed):
            parsed.problem = "records are missing at its end"
        self.uid_validity = parsed.uid_validity
        self.guid = parsed.guid or self.guid or uidlist.new_guid()
        self.extensions = parsed.extensions
        self.reserved = dict(zip(parsed.bases, parsed.uids, strict=True))
        self.next_uid = max(self.next_uid, parsed.next_uid)
        lost = self.stamp is None and self.may_have_lost()
        if lost:
            parsed.problem = parsed.problem or "its end may have been lost with the power"
            self.next_uid = min(self.ahead, uidlist.UID_MAX)
        if parsed.problem:
            self._repair(parsed, before, 0 if lost else GAP)
        else:
            self.stamp = stamp
        self.stale = max(0, len(self.reserved) - known)
        return True

    def _repair(self, parsed: uidlist.UidList, before: Before | None, gap: int) -> None:
        """Put back what stood there. UIDs that may have been given since `before` are not given again.

        Without it so many (`gap`) are passed over.
        """
        self.problems.append(f"{self.path}: {parsed.problem}; repaired")
        if before is not None:
            taken = set(parsed.uids)
            for uid, base in before.rows().items():
                if uid not in taken and base not in self.reserved:
                    self.reserved[base] = uid
                    if uid in before.extensions:
                        self.extensions[uid] = before.extensions[uid]
            self.next_uid = max(self.next_uid, before.next_uid)
        if self.stamp is None:
            self.next_uid = min(self.next_uid + gap, uidlist.UID_MAX)
        self.rewrite({uid: base for base, uid in self.reserved.items()})

    def append(self, records: Sequence[tuple[int, str, str]]) -> None:
        """Write records (UID, base name, extension fields) behind the last line and step `next_uid`.

        Raises `OSError`, `LockBusyError`.
        """
        if self.in_memory:
            raise OSError(self.unwritten, os.strerror(self.unwritten), self.path)
        if records[-1][0] >= self.ahead:
            try:
                self._take_ahead(records[-1][0] + AHEAD)
            except OSError as error:
                if error.errno not in CANNOT_WRITE:
                    raise
        with uidlist.Lock(self.path):
            if self.changed():
                raise uidlist.LockBusyError(f"{self.path} has just been changed by another program")
            fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
            try:
                data = b"".join([uidlist.record(*record) for record in records])
                before = os.fstat(fd).st_size
                if os.write(fd, data) != len(data):
                    os.ftruncate(fd, before)
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self.path)
                status = os.fstat(fd)
            finally:
                os.close(fd)
        # Not before the end: after any failure the file counts as changed and is read again.
        self.stamp = (status.st_ino, status.st_size, status.st_mtime_ns)
        self.unwritten = 0
        self.next_uid = records[-1][0] + 1
        self.extensions.update((uid, extension) for uid, _, extension in records if extension)

    def _take_ahead(self, ahead: int) -> None:
        """Have it on disk that UIDs below this one may have been given. Raises `OSError`."""
        path = f"{os.path.dirname(self.path)}/{AHEAD_FILE}"
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            # Numbers of one length: what is written over is never longer than what comes.
            os.write(fd, b"%010d %010d %b\n" % (self.uid_validity, ahead, _boot_id().ljust(36)))
            os.fsync(fd)
        finally:
            os.close(fd)
        if not self.ahead:
            fsync_directory(os.path.dirname(self.path))
        self.ahead = ahead

    def may_have_lost(self) -> bool:
        """Whether the machine has been started anew since UIDs were taken ahead that may have been given.

        Raises `OSError`.
        """
        try:
            with open(f"{os.path.dirname(self.path)}/{AHEAD_FILE}", "rb") as file:
                validity, ahead, boot = file.read(200).split(maxsplit=2)
            if int(validity) != self.uid_validity:
                return False
            self.ahead = int(ahead)
        except (FileNotFoundError, ValueError):
            return False
        return boot.strip() != _boot_id() and self.next_uid < self.ahead

    def release(self) -> None:
        """Nobody needs the folder just now: no UIDs are taken ahead. Raises `OSError`."""
        if self.ahead:
            self.ahead = 0
            try:
                fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    os.fdatasync(fd)
                finally:
                    os.close(fd)
                os.unlink(f"{os.path.dirname(self.path)}/{AHEAD_FILE}")
            except FileNotFoundError:
                pass

    def rewrite(self, rows: dict[int, str]) -> None:
        """Make the file hold just these: UID -> base name. Raises `OSError`, `LockBusyError`."""
        data = [uidlist.header(self.uid_validity, self.next_uid, self.guid)]
        data += [uidlist.record(uid, rows[uid], self.extensions.get(uid, "")) for uid in sorted(rows)]
        with uidlist.Lock(self.path) as lock:
            lock.replace(b"".join(data))
        self.in_memory, self.unwritten = False, 0
        self.stamp = self.on_disk()
        self.stale = 0

    def wasteful(self, known: int) -> bool:
        """Whether too much of the file is about messages that are gone, and nobody else has written it."""
        return self.stale > max(REWRITE_STALE, known) and not self.changed()
