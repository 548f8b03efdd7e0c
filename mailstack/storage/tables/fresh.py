"""Which files tables have been read from, and whether one of them has changed since.

Each table looks at its own file once in `CHECK_INTERVAL`. That alone would let two tables of one process
know different versions of a file for a second: smtpd(8) would take a recipient by the new aliases, and
cleanup(8) would not find it in the old ones. So whoever sees a change tells all others (`version`), and who
is about to say for good that there is no such thing looks first (`look_again`).
"""

from __future__ import annotations

import os
import time

CHECK_INTERVAL = 1.0
"""Seconds between two looks at a file's modification time."""
Stamp = tuple[int, int, int, int]
"""Modification and change of status in nanoseconds since the epoch, octets, inode."""
GONE: Stamp = (0, 0, 0, 0)


class _Files:
    """What is known of this process's files; `version` counts the versions of them that were seen."""

    __slots__ = ("_seen", "_when", "version")

    def __init__(self) -> None:
        self._seen: dict[str, Stamp] = {}
        self._when = 0.0
        self.version = 0

    def note(self, path: str, stamp: Stamp) -> None:
        """Somebody has looked at a file, and found this version."""
        if self._seen.get(path) != stamp:
            self._seen[path] = stamp
            self._when = time.monotonic()
            self.version += 1

    def changed_lately(self) -> bool:
        """Whether other processes may not have seen yet what this one has."""
        return time.monotonic() - self._when < 2 * CHECK_INTERVAL

    def look_again(self) -> bool:
        """Look at every file now; whether one has changed."""
        before = self.version
        for path, stamp in list(self._seen.items()):
            now = stamp_of(path)
            if now != stamp:
                self.note(path, now)
        return self.version != before


files = _Files()
look_again = files.look_again


def stamp_of(path: str) -> Stamp:
    """What tells one version of a file from another; `GONE` when there is none to be seen."""
    try:
        return stamp(os.stat(path))
    except OSError:
        return GONE


def stamp(status: os.stat_result) -> Stamp:
    """The same of a file that has been looked at.

    With the time of its last change of status, which nobody can set: archives bring times in whole seconds.
    """
    return status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino
