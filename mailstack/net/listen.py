"""Listening sockets and the sessions behind them.

Sockets are bound by plain functions (so that a master process can bind and its children accept) and served by
`Server`, which counts sessions, refuses those over a limit in the protocol's own words, and drains.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path

from mailstack.net.accept import BEGINNERS, Backlog, BeginsWithTLS, Gone
from mailstack.net.memory import Trimmer
from mailstack.net.stream import Stream
from mailstack.net.tasks import TaskSet

BACKLOG = 4096
"""Connections that may wait to be accepted, as far as the system lets them (net.core.somaxconn); the client
of one that is too many tries again after a second."""
PAUSE = 0.1
"""Seconds without an accept when the process has no descriptor left."""
Handler = Callable[[Stream], Awaitable[None]]
"""Runs one session from greeting to close; the stream is closed after it returns or raises."""


def bind_tcp(host: str, port: int, *, backlog: int = BACKLOG) -> socket.socket:
    """A listening TCP socket on an address literal. An empty host or `*` is IPv4's any, `::` IPv6's only.

    Raises `OSError` whose text names address and port.
    """
    host = "0.0.0.0" if host in ("", "*") else host
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((host, port))
        sock.listen(backlog)
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        raise OSError(error.errno, f"bind {host} port {port}: {error.strerror}") from error
    return sock


def has_ipv6() -> bool:
    """Whether an IPv6 socket can be bound on this machine at all (containers often have none)."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind(("::1", 0))
    except OSError as error:
        return error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)
    return True


def bind_unix(path: Path, mode: int = 0o600, *, backlog: int = BACKLOG) -> socket.socket:
    """A listening unix-domain socket; a stale socket file of an earlier process is replaced.

    Raises `OSError`, also when another process answers on the path.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if path.is_socket():
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                probe.settimeout(1)
                try:
                    probe.connect(str(path))
                except OSError:
                    path.unlink(missing_ok=True)
                else:
                    raise OSError(errno.EADDRINUSE, "another process answers on it")
        path.parent.mkdir(parents=True, exist_ok=True)
        sock.bind(str(path))
        path.chmod(mode)
        sock.listen(backlog)
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        raise OSError(error.errno, f"bind {path}: {error.strerror or error}") from error
    return sock


class Server:
    """Accepts on one socket and runs `handler` for each connection as a task of `tasks`.

    `limit` sessions run at once; one more is sent `refusal` and closed. `tls` shakes hands before the handler
    sees the stream (implicit TLS: ports 465, 993, 995); with `tls_first` the handler gets a `BeginsWithTLS`,
    and does it itself (`begins` makes something else of it, say a `BehindProxy`). With `gone` clients that go
    before their turn have no session (`accept.Backlog`).
    """

    def __init__(
        self,
        sock: socket.socket,
        handler: Handler,
        tasks: TaskSet,
        *,
        name: str,
        tls: ssl.SSLContext | None = None,
        handshake_timeout: float = 30.0,
        limit: int = 100_000,
        refusal: bytes = b"",
        tls_first: bool = False,
        begins: Callable[[socket.socket, object], Stream] = BeginsWithTLS,
        gone: Gone | None = None,
        backlog: int = BACKLOG,
    ) -> None:
        self.sock = sock
        self.name = name
        self.sessions: set[Stream] = set()
        self._handler = handler
        self._tasks = tasks
        self._tls = tls
        self._handshake_timeout = handshake_timeout
        self._limit = limit
        self._refusal = refusal
        self._tls_first = tls_first
        self._begins = begins
        self._listen = backlog
        self._backlog = Backlog(sock, self._begin, gone) if gone is not None else None
        self._server: asyncio.Server | None = None
        self._pause: asyncio.TimerHandle | None = None
        self._trimmer = Trimmer()

    async def start(self) -> None:
        """Begin to accept."""
        loop = asyncio.get_running_loop()
        if self._tls_first:
            loop.add_reader(self.sock, self._accept)
            return
        if self.sock.family == socket.AF_UNIX:
            self._server = await loop.create_unix_server(self._made, sock=self.sock)
            return
        # The event loop shakes hands itself: a handler that did so after the accept could lose a ClientHello
        # that came with the connection.
        self._server = await loop.create_server(
            self._made,
            sock=self.sock,
            backlog=self._listen,
            ssl=self._tls,
            ssl_handshake_timeout=self._handshake_timeout if self._tls is not None else None,
        )

    def replace_tls(self, tls: ssl.SSLContext) -> None:
        """Shake hands with another certificate from the next connection on (reload)."""
        if self._tls is None:
            raise ValueError(f"{self.name} does not begin with TLS")

        def replaced(connection: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> int | None:
            connection.context = tls
            chosen: int | None = tls.sni_callback(connection, name or "", tls) if tls.sni_callback else None
            return chosen

        self._tls.sni_callback = replaced

    def stop(self) -> None:
        """Accept no more; sessions go on."""
        if self._backlog is not None:
            self._backlog.close()
        if self._tls_first and self.sock.fileno() >= 0:
            if self._pause is not None:
                self._pause.cancel()
            asyncio.get_running_loop().remove_reader(self.sock)
            self.sock.close()
        if self._server is not None:
            self._server.close()
            self._server = None

    def _made(self) -> Stream:
        if self._backlog is not None:
            self._backlog.accepted()
        return _Accepted(self)

    def _begin(self, connection: socket.socket) -> None:
        """Have the event loop serve a connection that it has not accepted itself."""
        connection.setblocking(False)
        self._tasks.drive(self._adopt(connection), f"{self.name} accept")

    async def _adopt(self, connection: socket.socket) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(lambda: _Accepted(self), connection)
        except OSError:
            pass  # it is gone already

    def _accept(self) -> None:
        """Take what waits on a port whose sessions shake hands themselves."""
        for _ in range(BEGINNERS):
            try:
                connection, address = self.sock.accept()
            except ConnectionAbortedError:
                continue
            except BlockingIOError:
                return
            except OSError:  # no descriptor is left: those that there are have to end first
                loop = asyncio.get_running_loop()
                loop.remove_reader(self.sock)
                self._pause = loop.call_later(PAUSE, loop.add_reader, self.sock, self._accept)
                return
            self.accepted(self._begins(connection, address))

    def accepted(self, stream: Stream) -> None:
        """A connection has been accepted (called by the transport)."""
        if len(self.sessions) >= self._limit:
            stream.write(self._refusal)
            stream.close()
            return
        self.sessions.add(stream)
        self._tasks.drive(self._session(stream), self.name)

    async def _session(self, stream: Stream) -> None:
        try:
            await self._handler(stream)
        finally:
            self.sessions.discard(stream)
            stream.close()
            self._trimmer.ended()


class _Accepted(Stream):
    """A stream that reports itself to its server once it is connected."""

    __slots__ = ("_server",)

    def __init__(self, server: Server) -> None:
        super().__init__()
        self._server = server

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._server.accepted(self)
