r"""mbox files: appending one message, with the locks that Postfix takes.

A message in an mbox file is a `From sender  date` line, its text with LF line ends in which every line
that begins with `From ` has a `>` in front, and an empty line. Programs that read it agree on locks
(mailbox_delivery_lock):

| lock | what it is |
|---|---|
| dotlock | a file `mailbox.lock`, made with O_EXCL; one older than `stale_lock_time` is removed |
| fcntl | an exclusive fcntl(2) lock on the whole file |
| flock | an exclusive flock(2) lock |

`append` blocks: call it on a thread. It returns when content is on disk (and the directory entry of a
new file); when anything fails the file is cut back to where it was. Raises `MailboxError`.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from mailstack.storage.durable import fsync_directory, write_all

LOCKS = ("fcntl", "flock", "dotlock")
LONG = 64 * 1024
"""Octets of a line that are held until its end comes."""


class MailboxError(Exception):
    """A message that could not be put into a file; `dsn` is the enhanced status code (4: try again)."""

    def __init__(self, dsn: str, text: str) -> None:
        super().__init__(text)
        self.dsn = dsn


@dataclass(frozen=True, slots=True)
class Locking:
    """How mailbox files are locked; times in seconds."""

    methods: tuple[str, ...] = ("fcntl", "dotlock")
    attempts: int = 20
    delay: float = 1.0
    stale: float = 500.0


def append(
    path: str,
    parts: Iterable[bytes],
    sender: str,
    now: float,
    locking: Locking,
    *,
    limit: int = 0,
    owner: tuple[int, int] | None = None,
    must_own: int | None = None,
    any_file: bool = False,
    sleep: Callable[[float], object] = time.sleep,
) -> None:
    """Add a message with CRLF or LF line ends to the mbox file at `path`.

    `sender` may be empty. `limit`: octets that the file may have afterwards (0: any number). `owner`
    (uid, gid) is given a file that is made here; `must_own`: the uid that an existing file has to have.
    `any_file`: the file is an alias's, not a mailbox: it may be a device (`/dev/null`), and a directory
    in which nobody may make a dotlock is no hindrance.
    """
    fd, made = _open(path)
    dotlock = ""
    try:
        if made and owner is not None and (os.geteuid(), os.getegid()) != owner:
            os.fchown(fd, *owner)
        found = os.fstat(fd)
        if any_file and (stat.S_ISCHR(found.st_mode) or stat.S_ISFIFO(found.st_mode)):
            for part in (from_line(sender, now), *quoted(parts)):
                write_all(fd, (part,))
            return
        _check(found, path, must_own, any_file)
        if "dotlock" in locking.methods and _dotlock(f"{path}.lock", locking, sleep, may_fail=any_file):
            dotlock = f"{path}.lock"
        _lock(fd, locking, sleep)
        if not os.path.samestat(os.fstat(fd), os.stat(path, follow_symlinks=False)):
            raise MailboxError("4.2.0", f"destination {path} has been replaced while it was being locked")
        _write(fd, parts, sender, now, limit)
        if made:
            fsync_directory(os.path.dirname(path) or "/")
    except OSError as error:
        raise MailboxError(_status(error), f"error writing message: {error.strerror}") from None
    finally:
        os.close(fd)
        if dotlock:
            os.unlink(dotlock)


def from_line(sender: str, now: float) -> bytes:
    """The line that begins a message: `From sender  Sun Nov 22 12:05:06 2026`, local time."""
    name = "".join(char if char > " " and char != "\x7f" else "?" for char in sender) or "MAILER-DAEMON"
    return f"From {name}  {time.asctime(time.localtime(now))}\n".encode("utf-8", "surrogateescape")


def quoted(parts: Iterable[bytes]) -> Iterable[bytes]:
    """A message with LF line ends and `From ` quoted, ending in a newline and an empty line."""
    for text, starts in whole_lines(parts):
        if b"\r\n" in text:
            text = text.replace(b"\r\n", b"\n")
        if b"\nFrom " in text:
            text = text.replace(b"\nFrom ", b"\n>From ")
        yield b">" + text if starts and text.startswith(b"From ") else text
    yield b"\n"


def whole_lines(parts: Iterable[bytes]) -> Iterator[tuple[bytes, bool]]:
    """The same text in parts that end where lines end, and whether each begins where a line does.

    Only a line over `LONG` octets is cut, and never between CR and LF; a last line without an end gets one.
    """
    rest = b""
    starts = True
    for part in parts:
        text = rest + part
        end = text.rfind(b"\n") + 1
        if not end and len(text) > LONG:
            end = len(text) - 1
        rest = text[end:]
        if end:
            yield text[:end], starts
            starts = text[end - 1] == 10
    if rest:
        yield rest + b"\n", starts


def _open(path: str) -> tuple[int, bool]:
    """The file, and whether it has been made; symbolic links are not followed."""
    flags = os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        try:
            return os.open(path, flags), False
        except FileNotFoundError:
            return os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o600), True
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise MailboxError("5.2.0", "file is a symbolic link") from None
        raise MailboxError(_status(error), f"cannot open file: {error.strerror}") from None


def _check(found: os.stat_result, path: str, must_own: int | None, any_file: bool) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise MailboxError("5.2.0", f"destination {path} is not a regular file")
    if found.st_nlink > 1:
        raise MailboxError("5.2.0", f"file has {found.st_nlink} hard links")
    if any_file and found.st_mode & 0o111:
        raise MailboxError("5.7.1", "file is executable")
    if must_own is not None and found.st_uid != must_own:
        raise MailboxError("4.2.0", f"destination {path} is not owned by recipient")


def _write(fd: int, parts: Iterable[bytes], sender: str, now: float, limit: int) -> None:
    """Write and flush; on failure the file is as it was. Raises `OSError`."""
    size = start = os.lseek(fd, 0, os.SEEK_END)
    try:
        size = _put(fd, from_line(sender, now), size, limit)
        for part in quoted(parts):
            size = _put(fd, part, size, limit)
        os.fsync(fd)
    except BaseException:
        os.ftruncate(fd, start)
        raise


def _put(fd: int, part: bytes, size: int, limit: int) -> int:
    size += len(part)
    if limit and size > limit:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
    write_all(fd, (part,))
    return size


def _status(error: OSError) -> str:
    """Full disks and quotas, and what the owner may repair, are tried again; a file at its limit is not."""
    match error.errno:
        case errno.EFBIG:
            return "5.2.2"
        case errno.EDQUOT | errno.ENOSPC:
            return "4.2.2"
        case _:
            return "4.2.0"


# ---- locks


def _dotlock(path: str, locking: Locking, sleep: Callable[[float], object], *, may_fail: bool) -> bool:
    """Make the lock file; False where nobody may and `may_fail` says that this is no hindrance."""
    for attempt in range(max(1, locking.attempts)):
        if attempt:
            sleep(locking.delay)
        try:
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
            return True
        except FileExistsError:
            _break_stale(path, locking.stale)
        except OSError as error:
            if may_fail and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
                return False
            why = f"unable to create lock file {path}: {error.strerror}"
            raise MailboxError(_status(error), why) from None
    raise MailboxError("4.2.0", f"unable to create lock file {path}: {os.strerror(errno.EEXIST)}")


def _break_stale(path: str, stale: float) -> None:
    try:
        if time.time() - os.stat(path).st_ctime > stale:
            os.unlink(path)
    except OSError:
        pass  # gone by itself, or not ours to remove: the next attempt tells


def _lock(fd: int, locking: Locking, sleep: Callable[[float], object]) -> None:
    calls = [fcntl.flock] if "flock" in locking.methods else []
    if "fcntl" in locking.methods:
        calls.append(fcntl.lockf)
    for call in calls:
        for attempt in range(max(1, locking.attempts)):
            if attempt:
                sleep(locking.delay)
            try:
                call(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except (BlockingIOError, PermissionError):
                continue
        else:
            busy = os.strerror(errno.EAGAIN)
            raise MailboxError("4.2.0", f"unable to lock for exclusive access: {busy}")
