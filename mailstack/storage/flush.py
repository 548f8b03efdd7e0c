"""Flush all files of a batch at once.

`write_out` has the contents of files written, which is all that must have happened before they are renamed;
one `fsync` then makes contents and names safe, on the filesystems that `names_follow` knows.

Else one system call does, syncfs(2), where it is sound and quick. `fsync` on each of ten files costs ten
journal commits' worth of waiting and system time; `syncfs` on their filesystem costs one. Two things speak
against it, and both are looked at: before Linux 5.8 it did not report write errors, so it is not used there;
and it writes what other programs have left dirty on the same filesystem, so after a call that took longer
than `TOO_SLOW` seconds it is left alone for `PAUSE` seconds.
"""

from __future__ import annotations

import errno
import os
import re
import sys
import time
from collections.abc import Callable, Sequence
from functools import cache

TOO_SLOW = 0.1
PAUSE = 30.0
_START, _WHOLE = 2, 1 | 2 | 4
"""Flags of sync_file_range(2): begin to write; and wait for what is being written, before and after."""
JOURNALS = ("ext3", "ext4", "xfs")
_SINCE = (5, 8)
"""Linux reports write errors through syncfs from here on (commit 735e4ae5ba28)."""


def fsync_directory(path: str) -> None:
    """Flush a directory's entries. Raises `OSError`."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


class FilesystemFlush:
    """Remembers whether flushing a whole filesystem is a good idea just now. One per thread."""

    def __init__(self, syncfs: Callable[[int], int] | None = None) -> None:
        self._syncfs = syncfs
        self._available = syncfs is not None or _reports_errors()
        self._not_before = 0.0

    def flush(self, fd: int) -> bool:
        """True: all that was written on this file's filesystem is on disk. False: it may not be.

        `fd` was opened before any of what matters was written: an error since then is reported to it. False
        also stands for such an error; only a file's own `fsync` says which file has lost data.
        """
        if not self._available or time.monotonic() < self._not_before:
            return False
        if self._syncfs is None:
            self._syncfs = _load()
            if self._syncfs is None:
                self._available = False
                return False
        started = time.monotonic()
        done = self._syncfs(fd) == 0
        now = time.monotonic()
        if now - started > TOO_SLOW:
            self._not_before = now + PAUSE
        return done


@cache
def names_follow(device: int, root: str = "/") -> bool:
    """Whether flushing a file of that filesystem flushes the renames that came before, of other files, too.

    A rename changes a file as well as its folder, and these write all changes to their journal in order. An
    ext4 may be without one (`mke2fs -O ^has_journal`), and then has no mode for data among its options; where
    they cannot be read it counts as such. `root`: above proc/ and sys/.
    """
    number = f"{os.major(device)}:{os.minor(device)}"
    try:
        with open(f"{root}/proc/self/mountinfo", encoding="ascii", errors="replace") as lines:
            for line in lines:
                mount, _, source = line.partition(" - ")
                if mount.split()[2] == number:
                    kind = source.split()[0]
                    return kind in JOURNALS and (kind == "xfs" or _has_journal(root, number))
    except (OSError, IndexError):
        pass
    return False


def _has_journal(root: str, number: str) -> bool:
    """Whether an ext4 has a journal. Raises `OSError`."""
    name = os.path.basename(os.readlink(f"{root}/sys/dev/block/{number}"))
    with open(f"{root}/proc/fs/ext4/{name}/options", encoding="ascii", errors="replace") as lines:
        return any(line.startswith("data=") for line in lines)


@cache
def _writer() -> Callable[[int, int, int, int], int] | None:
    """The C library's sync_file_range (descriptor, offset, octets, flags), or None."""
    if sys.platform != "linux":
        return None
    import ctypes  # costs some milliseconds: not before the first file

    try:
        function = ctypes.CDLL(None, use_errno=True).sync_file_range
    except (AttributeError, OSError):
        return None
    function.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
    function.restype = ctypes.c_int

    def write(fd: int, offset: int, octets: int, flags: int) -> int:
        return ctypes.get_errno() if function(fd, offset, octets, flags) else 0

    return write


def write_out(fds: Sequence[int]) -> dict[int, OSError] | None:
    """Have the contents of these files written to the device; which has failed, by its descriptor.

    None: not here, nothing has been done. A device may keep it in memory of its own until the next flush. A
    file's journal entries say that its blocks are filled when this returns: whoever finds what is written to
    the journal later, finds the content.
    """
    write = _writer()
    if write is None:
        return None
    errors: dict[int, OSError] = {}
    # All are on their way before the first is waited for.
    for flags in (_START, _WHOLE) if len(fds) > 1 else (_WHOLE,):
        for fd in fds:
            if number := write(fd, 0, 0, flags):
                if number in (errno.ENOSYS, errno.EPERM):
                    return None
                errors.setdefault(fd, OSError(number, os.strerror(number)))
    return errors


def _reports_errors() -> bool:
    if sys.platform != "linux":
        return False
    found = re.match(r"(\d+)\.(\d+)", os.uname().release)
    return found is not None and (int(found[1]), int(found[2])) >= _SINCE


def _load() -> Callable[[int], int] | None:
    """The C library's function (it lets other threads run meanwhile), or None."""
    import ctypes  # costs some milliseconds: not before the first batch

    try:
        function = ctypes.CDLL(None).syncfs
    except (AttributeError, OSError):
        return None
    function.argtypes = (ctypes.c_int,)
    function.restype = ctypes.c_int

    def syncfs(fd: int) -> int:
        return int(function(fd))

    return syncfs
