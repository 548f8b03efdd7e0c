"""The content of one message while it comes in: in memory while it is small, on disk when it is not.

A message over `SPOOL_FROM` octets goes into a nameless temporary file on the first recipient's filesystem,
with LF line ends, and from there by the kernel into each recipient's Maildir; it is never in memory as a
whole. A failure to write is kept and raised when the message is to be delivered, so that the client gets it
as the reply to its message.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Iterator
from itertools import chain
from typing import IO

from mailstack.mailbox.views import MailStore
from mailstack.storage.durable import Publication
from mailstack.storage.maildir.delivery import make_folder
from mailstack.storage.maildir.names import unique_name
from mailstack.storage.mbox import Locking, MailboxError, append

SPOOL_FROM = 1 << 20
"""Octets that are held in memory at the most."""
_COPY = 1 << 20


class Content:
    """One message's octets. `close` it when it is done with."""

    __slots__ = ("_error", "_lines", "_parts", "_size", "_spool", "_tail", "head")

    def __init__(self) -> None:
        self.head = b""
        """The first octets, for the log."""
        self._parts: list[bytes] = []
        self._size = 0
        self._spool: IO[bytes] | None = None
        self._tail = b""
        self._lines = 0
        self._error: OSError | None = None

    @property
    def size(self) -> int:
        """Octets so far: with CRLF while they are in memory, with LF when they are on disk."""
        return self._size

    def add(self, data: bytes, folder: str) -> None:
        """More content, lines ending in CRLF, cut anywhere; `folder`: where to make the temporary file."""
        if not self.head:
            self.head = data[:16384]
        if self._error is not None:
            return
        if self._spool is None:
            self._parts.append(data)
            self._size += len(data)
            if self._size <= SPOOL_FROM:
                return
        try:
            if self._spool is None:
                import tempfile  # with the first big message: it costs start-up time

                make_folder(folder)
                self._spool = tempfile.TemporaryFile(dir=f"{folder}/tmp", buffering=0)  # noqa: SIM115
                data = b"".join(self._parts)
                self._parts.clear()
                self._size = 0
            self._write(data)
        except OSError as error:
            self._error = error
            self._parts.clear()

    async def deliver(self, store: MailStore, folder: str, header: bytes) -> str:
        """Put `header` and the content into the Maildir `folder`, durable on return; the file's name.

        Raises `OSError`.
        """
        if self._error is not None:
            raise OSError(self._error.errno, self._error.strerror)
        if self._spool is None:
            return await store.deliver(folder, [header, *self._parts])
        now = store.clock.time()
        name = unique_name(now, store.hostname)
        header = header.replace(b"\r\n", b"\n")
        size = len(header) + self._size
        lines = header.count(b"\n") + self._lines
        final = f"{name},S={size},W={size + lines}"
        await asyncio.to_thread(self._copy, folder, name, header)
        publication = Publication(_temporary(folder, name), f"{folder}/new/{final}", [], append=True)
        await store.commit.publish(publication)
        await store.delivered(folder, final)
        return final

    async def append(self, mbox: str, sender: str, header: bytes, now: float) -> None:
        """Put `header` and the content into an mbox file, durable on return. Raises `OSError`."""
        if self._error is not None:
            raise OSError(self._error.errno, self._error.strerror)
        try:
            await asyncio.to_thread(append, mbox, chain((header,), self._pieces()), sender, now, Locking())
        except MailboxError as error:
            raise OSError(errno.ENOSPC if error.dsn == "4.2.2" else errno.EIO, str(error)) from None

    def _pieces(self) -> Iterator[bytes]:
        """The content, from wherever it is."""
        yield from self._parts
        if self._spool is not None:
            for at in range(0, self._size, _COPY):
                yield os.pread(self._spool.fileno(), min(_COPY, self._size - at), at)

    def close(self) -> None:
        """Let the temporary file go."""
        if self._spool is not None:
            self._spool.close()

    def _write(self, data: bytes) -> None:
        assert self._spool is not None
        data = self._tail + data
        self._tail = b"\r" if data.endswith(b"\r") else b""
        data = data[: len(data) - len(self._tail)].replace(b"\r\n", b"\n")
        view = memoryview(data)
        while view:
            view = view[self._spool.write(view) :]
        self._size += len(data)
        self._lines += data.count(b"\n")

    def _copy(self, root: str, name: str, header: bytes) -> None:
        """Write header and content to `root`/tmp/`name` (runs in a thread)."""
        assert self._spool is not None
        make_folder(root)
        path = _temporary(root, name)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, header)
            at = 0
            while at < self._size:
                at += os.sendfile(fd, self._spool.fileno(), at, _COPY)
        except OSError:
            os.unlink(path)
            raise
        finally:
            os.close(fd)


def _temporary(root: str, name: str) -> str:
    return os.path.join(root, "tmp", name)
