"""Emptied files of a queue, kept to be written again.

A queue makes and removes a file for each message. Where ext4 looks for a free inode it passes over every one
that was freed within the last minute, so that at a thousand messages a second making a file becomes the
dearest thing that happens to one. A file that is emptied and used again never frees its inode.
"""

from __future__ import annotations

import os
import time

LIMIT = 256
"""Files that are kept at the most."""
_LOOK_AGAIN = 0.2
"""Seconds between two looks at how many there are."""


class SpareFiles:
    """The spare files in one folder; several processes may take and give at once."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._names: list[str] = []
        self._count = 0
        self._next_count = 0.0
        self._next_look = 0.0

    def take(self, target: str) -> bool:
        """Move an empty file to `target`; False where there is none, or it cannot be had."""
        try:
            if not self._names and not self._look():
                return False
            while self._names:
                try:
                    os.rename(f"{self._directory}/{self._names.pop()}", target)
                except FileNotFoundError:
                    continue  # another process was faster
                return True
        except OSError:
            pass  # a new file is dearer, and as good; if the disk is at fault, making it will tell
        return False

    def give(self, path: str) -> bool:
        """Empty a file and keep it; False where there are enough, and the file is left. Raises `OSError`."""
        now = time.monotonic()
        if now >= self._next_count:
            self._next_count = now + _LOOK_AGAIN
            self._count = len(os.listdir(self._directory))
        if self._count >= LIMIT:
            return False
        os.truncate(path, 0)  # before others can take it
        os.rename(path, f"{self._directory}/{os.path.basename(path)}")
        self._count += 1
        return True

    def clear(self) -> None:
        """Remove them all. Raises `OSError`."""
        for name in os.listdir(self._directory):
            os.unlink(f"{self._directory}/{name}")

    def _look(self) -> bool:
        now = time.monotonic()
        if now < self._next_look:
            return False
        self._next_look = now + _LOOK_AGAIN
        # Two processes begin at different ends, so that they seldom want the same file.
        self._names = sorted(os.listdir(self._directory), reverse=bool(os.getpid() & 1))
        return bool(self._names)
