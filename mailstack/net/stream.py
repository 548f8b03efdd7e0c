"""A connection with deadlines, back-pressure and STARTTLS, thin enough to cost little.

Invariants: every wait on the peer has a deadline in seconds; at most `READ_HIGH` octets plus one segment are
held for a reader that is slow; after `start_tls` no octet that arrived in plain text is seen again (the
command-injection hole of CVE-2011-0411).
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable, Coroutine
from typing import Any, cast

from mailstack.net.tasks import Driven, apart, current, park

READ_HIGH = 256 * 1024
"""Octets buffered for the reader before the transport is paused."""
WRITE_HIGH = 256 * 1024
"""Octets buffered for the peer before `drain` waits."""

SILENT = "the peer is silent"

PeerAddress = tuple[str, int]


class Stream(asyncio.Protocol):
    """One connection, as bytes in and bytes out. Made by `listen.serve` or `connect`."""

    __slots__ = (
        "_buffer",
        "_closed",
        "_deadline",
        "_drain_waiter",
        "_eof",
        "_error",
        "_paused_reading",
        "_paused_writing",
        "_read_waiter",
        "_reader",
        "_timeout",
        "_timer",
        "local",
        "peer",
        "shortcut",
        "transport",
    )

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.peer: PeerAddress = ("", 0)
        self.local: PeerAddress = ("", 0)
        self._buffer: list[bytes] = []
        self._eof = False
        self._closed = False
        self._error: Exception | None = None
        self._paused_reading = False
        self._paused_writing = False
        self._read_waiter: asyncio.Future[None] | None = None
        self._reader: Driven | None = None
        self._deadline = self._timeout = 0.0
        self.shortcut: Callable[[bytes], bytes] | None = None
        """Answers what has come in while `read` waits, which goes on waiting then; empty when it cannot."""
        self._timer: asyncio.TimerHandle | None = None
        self._drain_waiter: asyncio.Future[None] | None = None

    # ---- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(high=WRITE_HIGH)
        self.peer = address_of(transport.get_extra_info("peername"))
        self.local = address_of(transport.get_extra_info("sockname"))

    def data_received(self, data: bytes) -> None:
        if self.shortcut is not None and self._reader is not None and not self._paused_writing:
            answer = self.shortcut(data)
            if answer:
                self._deadline = asyncio.get_running_loop().time() + self._timeout
                self.write(answer)
                return
        self._buffer.append(data)
        self._wake_reader()
        if not self._paused_reading and self._held() > READ_HIGH and self.transport is not None:
            self._paused_reading = True
            self.transport.pause_reading()

    def eof_received(self) -> bool:
        self._eof = True
        self._wake_reader()
        # Plain TCP may stay half open so that a reply still reaches a client that has shut down its side;
        # a TLS transport has to close (asyncio ignores True there and warns).
        return self.tls is None

    def connection_lost(self, exc: Exception | None) -> None:
        self._closed = True
        self._eof = True
        self._error = exc
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._wake_reader()
        if self._drain_waiter is not None and not self._drain_waiter.done():
            self._drain_waiter.set_result(None)

    def pause_writing(self) -> None:
        self._paused_writing = True

    def resume_writing(self) -> None:
        self._paused_writing = False
        if self._drain_waiter is not None and not self._drain_waiter.done():
            self._drain_waiter.set_result(None)

    # ---- for the owner of the connection

    @property
    def tls(self) -> ssl.SSLObject | None:
        """The TLS session, or None in plain text."""
        if self.transport is None:
            return None
        return cast("ssl.SSLObject | None", self.transport.get_extra_info("ssl_object"))

    @property
    def descriptor(self) -> int:
        """The number of the socket's file descriptor; all lower ones were in use when it was accepted."""
        sock = self.transport.get_extra_info("socket") if self.transport is not None else None
        return -1 if sock is None else int(sock.fileno())

    @property
    def congested(self) -> bool:
        """`drain` would wait, or has something to say."""
        return self._paused_writing or self._closed

    @property
    def closed(self) -> bool:
        """The connection is gone in both directions."""
        return self._closed

    @property
    def readable(self) -> bool:
        """Octets, or the peer's end, can be read at once."""
        return self._eof or bool(self._buffer)

    @property
    def eof(self) -> bool:
        """The peer has closed its side, and everything it sent has been read."""
        return self._eof and not self._buffer

    def quick_ack(self) -> None:
        """Acknowledge now what has come in. For the middle of a request: a client that writes it in small
        pieces would otherwise wait for the delayed acknowledgement (40 ms) before the next one."""
        sock = self.transport.get_extra_info("socket") if self.transport is not None else None
        if sock is not None and hasattr(socket, "TCP_QUICKACK"):
            try:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
            except OSError:
                pass

    def hasten(self, timeout: float) -> None:
        """Let a `read` that waits just now wait for `timeout` seconds more at the most."""
        if self._reader is None and self._read_waiter is None:
            return
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        if deadline < self._deadline:
            self._deadline = deadline
            if self._timer is not None:
                self._timer.cancel()
            self._timer = loop.call_at(deadline, self._look_at_deadline)

    def interrupt(self) -> None:
        """Make a `read` that waits return `b""` now (its caller asks `eof` for the reason)."""
        self._wake_reader()

    async def read(self, timeout: float) -> bytes:
        """Whatever has arrived, at least one octet; `b""` once the peer has closed its side.

        Raises `TimeoutError` after `timeout` seconds without data.
        """
        if not self._buffer and not self._eof:
            loop = asyncio.get_running_loop()
            self._timeout = timeout
            self._deadline = deadline = loop.time() + timeout
            # One timer serves many reads: it looks at the deadline when it goes off, and is set anew then.
            if self._timer is not None and self._timer.when() > deadline:
                self._timer.cancel()
                self._timer = None
            if self._timer is None:
                self._timer = loop.call_at(deadline, self._look_at_deadline)
            reader = current()
            try:
                if reader is not None:
                    self._reader = reader
                    await park(reader)
                else:
                    self._read_waiter = loop.create_future()
                    await self._read_waiter
            finally:
                self._reader = self._read_waiter = None
        if not self._buffer:
            return b""
        data = self._buffer[0] if len(self._buffer) == 1 else b"".join(self._buffer)
        self._buffer.clear()
        if self._paused_reading and self.transport is not None and not self._closed:
            self._paused_reading = False
            self.transport.resume_reading()
        return data

    def write(self, data: bytes) -> None:
        """Queue octets for the peer; nothing happens on a lost connection (the next read says so)."""
        if data and not self._closed and self.transport is not None:
            self.transport.write(data)

    async def drain(self, timeout: float) -> None:
        """Wait until the peer has taken enough of what was written.

        Raises `TimeoutError` after `timeout` seconds and `ConnectionError` when the connection is lost.
        """
        if self._closed:
            raise ConnectionResetError("connection lost")
        if not self._paused_writing:
            return
        loop = asyncio.get_running_loop()
        waiter = loop.create_future()
        self._drain_waiter = waiter
        handle = loop.call_later(timeout, _expire, waiter)
        try:
            await waiter
        finally:
            handle.cancel()
            self._drain_waiter = None
        if self._closed:
            raise ConnectionResetError("connection lost")

    async def start_tls(
        self,
        context: ssl.SSLContext,
        timeout: float,
        *,
        server_side: bool,
        server_hostname: str | None = None,
    ) -> None:
        """Shake hands; afterwards everything read and written is inside TLS.

        What arrived in plain text is thrown away first. Raises `ssl.SSLError`, `ConnectionError` or
        `TimeoutError`; the connection is unusable then and has been aborted.
        """
        transport = self.transport
        if transport is None or self._closed:
            raise ConnectionResetError("connection lost")
        self._buffer.clear()
        if self._paused_reading:
            self._paused_reading = False
            transport.resume_reading()
        try:
            secured = await asyncio.get_running_loop().start_tls(
                transport,
                self,
                context,
                server_side=server_side,
                server_hostname=server_hostname,
                ssl_handshake_timeout=timeout,
            )
        except BaseException:
            transport.abort()
            raise
        if secured is None:
            raise ConnectionResetError("connection lost during the TLS handshake")
        self.transport = secured
        secured.set_write_buffer_limits(high=WRITE_HIGH)

    def close(self) -> None:
        """Send what is queued, then close."""
        if self.transport is not None:
            self.transport.close()

    def abort(self) -> None:
        """Close at once; what is queued is lost."""
        if self.transport is not None:
            self.transport.abort()

    def _look_at_deadline(self) -> None:
        self._timer = None
        if self._reader is None and (self._read_waiter is None or self._read_waiter.done()):
            return
        loop = asyncio.get_running_loop()
        if loop.time() < self._deadline:
            self._timer = loop.call_at(self._deadline, self._look_at_deadline)
        elif self._reader is not None:
            self._reader.resume(TimeoutError(SILENT))
        elif self._read_waiter is not None:
            _expire(self._read_waiter)

    def _held(self) -> int:
        return sum(map(len, self._buffer))

    def _wake_reader(self) -> None:
        if self._reader is not None:
            self._reader.resume()
        elif self._read_waiter is not None and not self._read_waiter.done():
            self._read_waiter.set_result(None)


async def connect(
    host: str,
    port: int,
    timeout: float,
    *,
    tls: ssl.SSLContext | None = None,
    server_hostname: str | None = None,
    local_address: str | None = None,
) -> Stream:
    """Open a TCP connection to an address literal. Raises `OSError`, `ssl.SSLError` or `TimeoutError`.

    Names are not resolved here: a server looks them up itself and knows which address it talks to.
    """
    connecting = asyncio.get_running_loop().create_connection(
        Stream,
        host,
        port,
        ssl=tls,
        server_hostname=server_hostname if tls is not None else None,
        local_addr=(local_address, 0) if local_address else None,
    )
    return await apart(_within(timeout, connecting))


async def connect_unix(path: str, timeout: float) -> Stream:
    """Open a connection to a unix-domain stream socket. Raises `OSError` or `TimeoutError`."""
    connecting = asyncio.get_running_loop().create_unix_connection(Stream, path)
    return await apart(_within(timeout, connecting))


async def _within(
    timeout: float, connecting: Coroutine[Any, Any, tuple[asyncio.BaseTransport, Stream]]
) -> Stream:
    async with asyncio.timeout(timeout):
        return (await connecting)[1]


def _expire(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_exception(TimeoutError(SILENT))


def address_of(info: object) -> PeerAddress:
    """`("192.0.2.1", 25)` of a socket address; IPv4-mapped IPv6 addresses become IPv4, a unix socket ''."""
    if not isinstance(info, tuple):
        return ("", 0)
    host = str(info[0])
    if host.startswith("::ffff:") and "." in host:
        host = host[7:]
    return (host.partition("%")[0], int(info[1]))
