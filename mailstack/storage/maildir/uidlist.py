"""`dovecot-uidlist`: which UID each file of a folder has (Dovecot 2.3, version 3; version 1 is read).

    3 V1795349041 N3 G20b0f33631da026b9d4b000083ecc375
    1 W27 S23 :1700000001.M1P1.host
    2 G1700000001.M1P1.host :1795349042.M313571P1.host,S=23,W=27

The first line holds UIDVALIDITY, the next UID and the mailbox's GUID. A record is the UID, extension fields
(a letter and its value each), and behind ` :` the file's base name. Records may be appended without touching
the first line, so the next UID is also above every UID that stands in the file; a record whose file is gone
is an expunged message. Writers hold `dovecot-uidlist.lock` (made with O_EXCL), which becomes the new file by
rename when everything is rewritten.
"""

from __future__ import annotations

import fcntl
import os
import stat
import time
from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field

FILE = "dovecot-uidlist"
OUR_MODE = 0o1600
"""Mode of a lock file that this program has made: the sticky bit says so from the first moment on."""
LOCK_STALE = 120.0
"""Seconds after which another program's lock file counts as left behind (Dovecot's own limit)."""
UID_MAX = (1 << 32) - 1


class LockBusyError(OSError):
    """Another program holds the lock just now: try again shortly."""


@dataclass(slots=True)
class UidList:
    """The file's content. `uids` ascend strictly; `problem` says what was damaged, empty when nothing was."""

    uid_validity: int
    next_uid: int
    guid: str
    uids: array[int] = field(default_factory=lambda: array("I"))
    bases: list[str] = field(default_factory=list)
    extensions: dict[int, str] = field(default_factory=dict)
    problem: str = ""


def parse(data: bytes) -> UidList | None:
    """Read the file's octets; None when not even the first line can be used.

    A record that is damaged (cut off, out of order) ends the reading: the files it and its followers named
    get new UIDs, above every number that stood there, so that no UID is used twice.
    """
    end = data.find(b"\n")
    if end < 0:
        return None
    result = _header(data[:end])
    if result is None:
        return None
    text = os.fsdecode(data[end + 1 :])
    lines = text.split("\n")
    if lines.pop():
        result.problem = "the last line is cut off"
    old = result.guid == ""
    last = 0
    uids, bases, extensions = result.uids, result.bases, result.extensions
    for number, line in enumerate(lines, 2):
        head, colon, name = line.partition(" " if old else " :")
        digits, space, extension = head.partition(" ")
        uid = int(digits) if digits.isascii() and digits.isdecimal() and len(digits) <= 10 else 0
        if not colon or not name or uid <= last or uid > UID_MAX:
            result.problem = f"line {number} is damaged: {line[:80]!r}"
            result.next_uid = max(result.next_uid, _highest(lines[number - 2 :]) + 1)
            break
        last = uid
        uids.append(uid)
        bases.append(name if name.find(":") < 0 else name[: name.find(":")])
        if space:
            extensions[uid] = extension
    result.next_uid = max(result.next_uid, last + 1)
    return result


def _header(line: bytes) -> UidList | None:
    fields = line.decode("ascii", "replace").split()
    try:
        if fields[0] == "1" and len(fields) >= 3:
            validity, next_uid, guid = int(fields[1]), int(fields[2]), ""
        elif fields[0] == "3":
            values = {item[0]: item[1:] for item in fields[1:]}
            validity, next_uid, guid = int(values["V"]), int(values["N"]), values.get("G", new_guid())
        else:
            return None
    except (ValueError, KeyError, IndexError):
        return None
    if not 0 < validity <= UID_MAX or not 0 < next_uid <= UID_MAX:
        return None
    return UidList(validity, next_uid, guid)


def _highest(lines: Iterable[str]) -> int:
    numbers = (line.partition(" ")[0] for line in lines)
    return max((int(n) for n in numbers if n.isascii() and n.isdecimal() and len(n) <= 9), default=0)


def record(uid: int, base: str, extension: str = "") -> bytes:
    """One line of the file."""
    return os.fsencode(f"{uid} {extension} :{base}\n" if extension else f"{uid} :{base}\n")


def header(uid_validity: int, next_uid: int, guid: str) -> bytes:
    """The first line of the file."""
    return f"3 V{uid_validity} N{next_uid} G{guid}\n".encode("ascii")


def new_guid() -> str:
    """128 random bits as Dovecot prints them."""
    return os.urandom(16).hex()


def _flock(fd: int, *, or_unknown: bool = False) -> bool:
    """Take the lock; `or_unknown` is the answer of a filesystem without such locks."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return or_unknown
    return True


class Lock:
    """A dot lock: `<path>.lock`, made with O_EXCL. Its file may replace the locked one by `replace`.

    Other programs leave a lock behind when they are killed, and it counts for `LOCK_STALE` seconds. Ours say
    by their mode whose they are, and hold a flock(2), which ends with the process: one that nobody holds is
    taken over at once.
    """

    __slots__ = ("_fd", "_path", "_target")

    def __init__(self, path: str) -> None:
        self._target = path
        self._path = path + ".lock"
        try:
            self._fd = self._open()
        except FileExistsError:
            if not self._remove_abandoned():
                raise LockBusyError(f"{self._path} is held by another program") from None
            try:
                self._fd = self._open()
            except FileExistsError:
                raise LockBusyError(f"{self._path} is held by another program") from None

    def _open(self) -> int:
        fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, OUR_MODE)
        try:
            # It may have been taken for an abandoned one in the moment before.
            if not _flock(fd, or_unknown=True) or not os.fstat(fd).st_nlink:
                raise LockBusyError(f"{self._path} is held by another program")
        except OSError:
            os.close(fd)
            raise
        return fd

    def _remove_abandoned(self) -> bool:
        """Remove the lock file when it is old, or of a process of ours that is gone."""
        try:
            fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return True
        except OSError:
            return False
        try:
            status = os.fstat(fd)
            ours = stat.S_IMODE(status.st_mode) == OUR_MODE
            if not ours and time.time() - status.st_mtime < LOCK_STALE:
                return False
            if not _flock(fd) or not os.fstat(fd).st_nlink:
                return False  # it is held, or somebody else has just removed it
            os.unlink(self._path)
            return True
        finally:
            os.close(fd)

    def __enter__(self) -> Lock:
        return self

    def __exit__(self, *_: object) -> None:
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            try:
                os.close(fd)
            finally:
                try:
                    os.unlink(self._path)
                except FileNotFoundError:
                    pass

    def replace(self, data: bytes) -> None:
        """Make `data` the locked file's whole content, atomically, and release the lock. Raises `OSError`."""
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]
        os.fdatasync(self._fd)
        os.rename(self._path, self._target)
        fd, self._fd = self._fd, -1
        try:
            os.fchmod(fd, 0o600)
        finally:
            os.close(fd)


# ---- UIDVALIDITY of new mailboxes


def next_uid_validity(root: str, now: float) -> int:
    """A UIDVALIDITY that no mailbox of the account had before: the time, or one above the last one.

    The last one stands in `dovecot-uidvalidity` and, race-free, in the name of `dovecot-uidvalidity.<hex>`,
    as Dovecot keeps it. Raises `OSError`.
    """
    prefix = "dovecot-uidvalidity"
    last, marker = 0, ""
    for name in os.listdir(root):
        digits = name[len(prefix) + 1 :]
        if name.startswith(prefix + ".") and len(digits) == 8:
            try:
                value = int(digits, 16)
            except ValueError:
                continue
            if value > last:
                last, marker = value, name
    value = min(max(last + 1, int(now)), UID_MAX)
    new = f"{root}/{prefix}.{value:08x}"
    if marker:
        try:
            os.rename(f"{root}/{marker}", new)
        except FileNotFoundError:
            marker = ""
    if not marker:
        os.close(os.open(new, os.O_WRONLY | os.O_CREAT, 0o444))
    with open(f"{root}/{prefix}", "w", encoding="ascii") as file:
        file.write(f"{value:08x}")
    return value
