"""Flush all files of a batch with one system call: syncfs(2), where it is sound and quick.

`fsync` on each of ten files costs ten journal commits' worth of waiting and system time; `syncfs` on their
filesystem costs one. Two things speak against it, and both are looked at: before Linux 5.8 it did not report
write errors, so it is not used there; and it writes what other programs have left dirty on the same
filesystem, so after a call that took longer than `TOO_SLOW` seconds it is left alone for `PAUSE` seconds.
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable
from functools import cache

TOO_SLOW = 0.1
PAUSE = 30.0
JOURNALS = ("ext3", "ext4", "xfs")
_SINCE = (5, 8)
"""Linux reports write errors through syncfs from here on (commit 735e4ae5ba28)."""


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
def names_follow(device: int, mounts: str = "/proc/self/mountinfo") -> bool:
    """Whether flushing a file of that filesystem flushes a rename of it that came before, too.

    The rename changes the file as well as its folder, and these write both to their journal together.
    """
    try:
        with open(mounts, encoding="ascii", errors="replace") as lines:
            for line in lines:
                mount, _, kind = line.partition(" - ")
                if mount.split()[2] == f"{os.major(device)}:{os.minor(device)}":
                    return kind.split()[0] in JOURNALS
    except (OSError, IndexError):
        pass
    return False


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
