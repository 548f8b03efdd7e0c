"""Connections to one lookup service: kept for the next question, bounded in number and in time.

A question goes over a connection of its own, so that a slow answer holds up nobody else. What is kept may
have been closed by the other side meanwhile: then the question is asked again over a new connection. Raises
`ServiceError`.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import TypeVar
from weakref import WeakSet

T = TypeVar("T")
CONNECTIONS = 8
"""Questions to one service at the same time; further ones wait for their turn as part of their time."""
IDLE = 10.0
"""Seconds that an unused connection is kept."""


_channels: WeakSet[Channel] = WeakSet()


class ServiceError(OSError):
    """A service that cannot be asked, does not answer in time, or says that it cannot answer."""

    def __str__(self) -> str:
        return str(self.args[0])


Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Channel:
    """`inet:host:port`, `host:port` or `unix:/path`. Raises `ValueError` for any other address."""

    def __init__(self, address: str, *, timeout: float, limit: int = 65536) -> None:
        self.address = address
        self._path = ""
        self._host, self._port = "", ""
        if address.startswith("unix:"):
            self._path = address.removeprefix("unix:")
            if not self._path.startswith("/"):
                raise ValueError(f"the name of a socket must begin with /: {address}")
        else:
            host, colon, self._port = address.removeprefix("inet:").rpartition(":")
            self._host = host.removeprefix("[").removesuffix("]")
            if not colon or not self._port or not self._host:
                raise ValueError(f"expected host:port or unix:/path, not {address!r}")
        self._timeout = timeout
        self._limit = limit
        self._idle: list[tuple[Connection, asyncio.TimerHandle]] = []
        self._turns = asyncio.Semaphore(CONNECTIONS)
        _channels.add(self)

    async def exchange(self, request: bytes, receive: Callable[[asyncio.StreamReader], Awaitable[T]]) -> T:
        """Send, and what `receive` makes of the answer. Raises `ServiceError`; needs a task to run in."""
        try:
            async with asyncio.timeout(self._timeout), self._turns:
                return await self._exchange(request, receive)
        except TimeoutError:
            raise ServiceError(f"{self.address}: Connection timed out") from None

    async def _exchange(self, request: bytes, receive: Callable[[asyncio.StreamReader], Awaitable[T]]) -> T:
        while True:
            kept = bool(self._idle)
            connection = self._reuse() if kept else await self._connect()
            try:
                connection[1].write(request)
                await connection[1].drain()
                answer = await receive(connection[0])
            except BaseException as error:
                connection[1].close()
                if isinstance(error, ServiceError) or not isinstance(error, (OSError, EOFError, ValueError)):
                    raise
                if not kept:
                    reason = "lost connection" if isinstance(error, EOFError) else error
                    raise ServiceError(f"{self.address}: {reason}") from None
            else:
                self._keep(connection)
                return answer

    async def _connect(self) -> Connection:
        try:
            if self._path:
                return await asyncio.open_unix_connection(self._path, limit=self._limit)
            return await asyncio.open_connection(self._host, self._port, limit=self._limit)
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error
            raise ServiceError(f"connect to {self.address}: {reason}") from None

    def _reuse(self) -> Connection:
        connection, timer = self._idle.pop()
        timer.cancel()
        return connection

    def _keep(self, connection: Connection) -> None:
        entry: tuple[Connection, asyncio.TimerHandle]

        def expire() -> None:
            self._idle.remove(entry)
            connection[1].close()

        entry = (connection, asyncio.get_running_loop().call_later(IDLE, expire))
        self._idle.append(entry)

    def close(self) -> None:
        """Close what is kept."""
        while self._idle:
            self._reuse()[1].close()


async def close_all() -> None:
    """Close every connection that is kept: for a program that asks, and ends."""
    for channel in list(_channels):
        channel.close()
    for _ in range(3):  # until transports have closed their sockets
        await asyncio.sleep(0)
