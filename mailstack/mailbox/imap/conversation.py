"""Octets to and from an IMAP client: replies gathered, commands read, DEFLATE (RFC 4978) in between."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from mailstack.mailbox.imap.errors import Disconnect
from mailstack.mailbox.imap.service import ImapService
from mailstack.net.stream import Stream
from mailstack.wire.imap.deflate import CompressionError, Deflate
from mailstack.wire.imap.server import BadCommand, ClientLine, ServerConnection

if TYPE_CHECKING:
    from mailstack.mailbox.imap.append import Appending

FLUSH = 1 << 16
"""Octets of replies that are gathered before they are sent."""
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class Conversation:
    """The lower half of a `Session`: one connection, and the parser of what comes in."""

    __slots__ = (
        *("__weakref__", "_out", "_pending", "append", "connection", "deflate"),
        *("received", "sent", "service", "stream", "woken"),
    )

    def __init__(self, stream: Stream, service: ImapService) -> None:
        self.stream = stream
        self.service = service
        self.connection = ServerConnection(service.settings.line_limit)
        self.append: Appending | None = None
        self.deflate: Deflate | None = None
        self.received = self.sent = 0
        """Octets since the login, without compression."""
        self.woken = False
        self._out: list[bytes] = []
        self._pending = 0

    # ---- output

    def send(self, data: bytes) -> None:
        """Queue octets, line end included."""
        self._out.append(data)
        self._pending += len(data)

    def line(self, text: str) -> None:
        """Queue one line. Control characters become `?`: a mailbox's name may hold a line end (in UTF-7)."""
        if not text.isprintable():
            text = _CONTROL.sub("?", text)
        self.send(text.encode("utf-8", "replace") + b"\r\n")

    @property
    def full(self) -> bool:
        """Enough is queued for `flush` to be worth it."""
        return self._pending >= FLUSH

    async def flush(self) -> None:
        """Hand the queue to the client; waits while the client is slow. Raises `ConnectionError`."""
        self.push()
        try:
            await self.stream.drain(self.service.settings.write_timeout)
        except TimeoutError:
            self.stream.abort()
            raise

    def push(self) -> None:
        if self._out:
            data = self._out[0] if len(self._out) == 1 else b"".join(self._out)
            self.sent += len(data)
            self.stream.write(data if self.deflate is None else self.deflate.send(data))
            self._out.clear()
            self._pending = 0

    def bye(self, text: str) -> None:
        """Say good-bye; the caller closes."""
        self.line(f"* BYE {text}")
        self.push()

    # ---- input

    @property
    def secured(self) -> bool:
        """Inside TLS."""
        return self.stream.tls is not None

    async def read(self, timeout: float) -> bool:
        """Wait for octets and give them to the parser; False when woken by `interrupt` instead.

        Raises `ConnectionResetError` when the client is gone, `TimeoutError`.
        """
        self._stay()
        data = b""
        if self.deflate is None or not self.deflate.held:
            data = await self.stream.read(timeout)
            if not data:
                if self.stream.eof:
                    raise ConnectionResetError("the client has closed the connection")
                self._stay()
                return False
        if self.deflate is not None:
            try:
                data = self.deflate.receive(data)
            except CompressionError as error:
                raise Disconnect(f"Cannot decompress: {error}") from None
        self.received += len(data)
        self.connection.receive_data(data)
        return True

    def awaken(self) -> None:
        """Something has happened in the mailbox while the client idles."""
        self.woken = True
        self.stream.interrupt()

    def _stay(self) -> None:
        """Raises `Disconnect` when the process is about to end; a message that comes in is still stored."""
        if self.service.stopping and self.append is None:
            raise Disconnect("Server shutting down.")

    async def client_line(self, timeout: float) -> bytes:
        """The next line after AUTHENTICATE or IDLE. Raises `Disconnect` for an endless one."""
        while True:
            event = self.connection.next_event()
            if isinstance(event, ClientLine):
                return event.data
            if isinstance(event, BadCommand):
                raise Disconnect("Input buffer full, aborting")
            await self.flush()
            await self.read(timeout)
