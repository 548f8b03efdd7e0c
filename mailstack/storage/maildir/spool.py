"""A message that comes in piece by piece: in memory while it is small, on disk when it grows.

Pieces are brought into the form they have on disk (LF line ends) as they come. `publication` then says what
group commit has to do; `discard` removes what was written.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence

from mailstack.storage.durable import Publication, write_all
from mailstack.storage.maildir.delivery import make_folder
from mailstack.storage.maildir.names import suffix_of, unique_name

MEMORY_MAX = 1 << 20
"""Octets that are held in memory."""


class Spool:
    """One message on its way into the folder at `folder`."""

    __slots__ = ("_fd", "_held", "_parts", "_pending", "folder", "lines", "path", "size")

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.path = ""
        self.size = 0
        self.lines = 0
        self._fd = -1
        self._parts: list[bytes] = []
        self._pending = 0
        self._held = b""

    async def add(self, data: bytes, now: float, hostname: str) -> None:
        """Take the next octets. Raises `OSError`."""
        if self._held:
            data = self._held + data
        stripped = data.rstrip(b"\r")
        self._held = data[len(stripped) :]
        self._take(stripped.replace(b"\r\n", b"\n") if b"\r" in stripped else stripped)
        if self._pending > MEMORY_MAX:
            parts, self._parts, self._pending = self._parts, [], 0
            await asyncio.to_thread(self._write, parts, now, hostname)

    def _take(self, data: bytes) -> None:
        if data:
            self._parts.append(data)
            self._pending += len(data)
            self.size += len(data)
            self.lines += data.count(b"\n") - (data.count(b"\r\n") if b"\r" in data else 0)

    def _write(self, parts: Sequence[bytes], now: float, hostname: str) -> None:
        if self._fd < 0:
            make_folder(self.folder)
            self.path = os.path.join(self.folder, "tmp", unique_name(now, hostname))
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            self._fd = os.open(self.path, flags, 0o600)
        write_all(self._fd, parts)

    def publication(
        self, now: float, hostname: str, flags: int | None, mtime: float | None = None
    ) -> Publication:
        """The message is complete: publish it in `new/`, or with `flags` in `cur/`. Raises `OSError`."""
        if self._held:
            held, self._held = self._held, b""
            self._take(held)
        name = unique_name(now, hostname, self.size, self.size + self.lines)
        final = f"new/{name}" if flags is None else f"cur/{name}{suffix_of(flags)}"
        appending = self._fd >= 0
        if appending:
            os.close(self._fd)
            self._fd = -1
        else:
            self.path = os.path.join(self.folder, "tmp", name)
            if not os.path.isdir(os.path.dirname(self.path)):
                make_folder(self.folder)
        return Publication(self.path, f"{self.folder}/{final}", self._parts, append=appending, mtime=mtime)

    def discard(self) -> None:
        """The message will not be published."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            try:
                os.unlink(self.path)
            except OSError:
                pass
        self._parts = []
