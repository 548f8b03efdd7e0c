"""Connections that wait to be accepted, taken in batches when there are many; and those that wait for TLS.

The event loop accepts one connection in a turn, and makes a session of it; that is right as long as few wait.
A client that connects and goes away as fast as it can puts thousands into the listening socket's queue,
all of them gone before their turn, and every other client waits behind them. `Backlog` empties that queue:
who has gone costs a few system calls and no session, and the others begin at once.

`BeginsWithTLS` is a connection whose session is there before the handshake, so that the session can count it,
hurry it and tell of it; until the client's first octet it costs a socket and no TLS.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable

from mailstack.net.stream import SILENT, PeerAddress, Stream, address_of
from mailstack.net.tasks import apart

LOOK_EVERY = 8
"""Connections that the event loop has accepted between two looks at what waits behind them."""
BATCH = 128
"""Connections that are taken before others get a turn, and how many of them may begin a session."""
BEGINNERS = 16

Gone = Callable[[socket.socket, PeerAddress], None]
"""Told of a connection whose client has gone without a word, and of its address; then it is closed."""


def has_gone(connection: socket.socket) -> bool:
    """Whether the client has closed its side, and everything that it has sent has been read."""
    try:
        return not connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError:
        return True  # reset


class Backlog:
    """What waits behind a listening socket. `begin`: make a session of one; `gone`: as `Gone` has it."""

    def __init__(self, sock: socket.socket, begin: Callable[[socket.socket], None], gone: Gone) -> None:
        self._sock = sock
        self._begin = begin
        self._gone = gone
        self._accepted = 0
        self._scheduled = False
        self._closed = False

    def accepted(self) -> None:
        """The event loop has accepted a connection; there may be more."""
        self._accepted += 1
        if self._accepted >= LOOK_EVERY and not self._scheduled:
            self._schedule()

    def close(self) -> None:
        """Take nothing more: the socket is about to be closed."""
        self._closed = True

    def _schedule(self) -> None:
        self._accepted = 0
        self._scheduled = True
        asyncio.get_running_loop().call_soon(self._look)

    def _look(self) -> None:
        self._scheduled = False
        if not self._closed and self._take():
            self._schedule()

    def _take(self) -> bool:
        """Take a batch; whether there may be more."""
        beginners = 0
        for _ in range(BATCH):
            try:
                connection, address = self._sock.accept()
            except ConnectionAbortedError:
                continue
            except OSError:
                return False  # nothing is there; or no descriptor is left, which the event loop sees to
            if has_gone(connection):
                try:
                    self._gone(connection, address_of(address))
                finally:
                    connection.close()
                continue
            self._begin(connection)
            beginners += 1
            if beginners == BEGINNERS:
                break
        return True


class BeginsWithTLS(Stream):
    """An accepted connection that has not been made a transport: `start_tls`, as a server, does that.

    Before it nothing can be read, and what is written is lost.
    """

    __slots__ = ("_expiry", "_handshake", "_hello", "_late", "_sock")

    def __init__(self, sock: socket.socket, peer: object) -> None:
        super().__init__()
        sock.setblocking(False)
        self._sock: socket.socket | None = sock
        self._hello: asyncio.Future[None] | None = None
        self._handshake: asyncio.Task[object] | None = None
        self._expiry: asyncio.TimerHandle | None = None
        self._late = False
        self.peer = address_of(peer)
        self.local = address_of(sock.getsockname())

    @property
    def descriptor(self) -> int:
        return self._sock.fileno() if self._sock is not None else super().descriptor

    async def start_tls(
        self,
        context: ssl.SSLContext,
        timeout: float,
        *,
        server_side: bool = True,
        server_hostname: str | None = None,
    ) -> None:
        """Wait for the client's first octet, and shake hands. Raises what `Stream.start_tls` does."""
        if self._sock is None:
            await super().start_tls(
                context, timeout, server_side=server_side, server_hostname=server_hostname
            )
            return
        loop = asyncio.get_running_loop()
        self._expiry = loop.call_later(timeout, self._expire)
        try:
            await self._first_octet(self._sock)
            await apart(self._shake_hands(self._sock, context, timeout))
        except BaseException as error:
            self.abort()
            if self._late and isinstance(error, asyncio.CancelledError):
                raise TimeoutError(SILENT) from None
            raise
        finally:
            self._expiry.cancel()
            self._expiry = None

    async def _first_octet(self, sock: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        self._hello = hello = loop.create_future()
        loop.add_reader(sock, _heard, hello)
        try:
            await hello
        finally:
            self._hello = None
            loop.remove_reader(sock)
        if has_gone(sock):
            raise ConnectionResetError("connection lost")

    async def _shake_hands(self, sock: socket.socket, context: ssl.SSLContext, timeout: float) -> None:
        self._handshake = asyncio.current_task()
        self._sock = None  # it is the event loop's
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: self, sock, ssl=context, ssl_handshake_timeout=timeout + 1
            )
        finally:
            self._handshake = None

    def _expire(self) -> None:
        self._late = True
        for waiting in (self._hello, self._handshake):
            if waiting is not None:
                waiting.cancel()

    def hasten(self, timeout: float) -> None:
        """Let the handshake, or a `read`, that goes on just now take `timeout` seconds more at the most."""
        if self._expiry is None:
            super().hasten(timeout)
            return
        loop = asyncio.get_running_loop()
        if loop.time() + timeout < self._expiry.when():
            self._expiry.cancel()
            self._expiry = loop.call_later(timeout, self._expire)

    def close(self) -> None:
        self._drop()
        super().close()

    def abort(self) -> None:
        self._drop()
        super().abort()

    def _drop(self) -> None:
        if self._hello is not None:
            if not self._hello.done():
                self._hello.set_exception(ConnectionResetError("connection lost"))
        elif self._sock is not None:
            self._sock.close()
            self._sock = None


def _heard(hello: asyncio.Future[None]) -> None:
    if not hello.done():
        hello.set_result(None)
