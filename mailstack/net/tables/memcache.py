"""The client of memcache_table(5): memcached's text protocol, `get` and `set`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from mailstack.net.tables.channel import Channel, ServiceError

T = TypeVar("T")
KEY_LIMIT = 250
"""Octets of a key that memcached takes."""


class Memcache:
    """One server. Raises `ValueError` for an address that is none."""

    def __init__(
        self, address: str, *, timeout: float, tries: int, pause: float, line: int, data: int
    ) -> None:
        self._channel = Channel(address, timeout=timeout, limit=line)
        self._tries = tries
        self._pause = pause
        self._data = data

    async def get(self, key: str) -> str | None:
        """The value of a key; None also for a key that no server can hold. Raises `ServiceError`."""
        octets = key.encode("utf-8", "surrogateescape")
        if not _valid(octets):
            return None
        value = await self._try(b"get %b\r\n" % octets, self._value)
        return None if value is None else value.decode("utf-8", "surrogateescape")

    async def set(self, key: str, value: str, *, flags: int, ttl: int) -> None:
        """Store a value. Raises `ServiceError`."""
        octets, data = (text.encode("utf-8", "surrogateescape") for text in (key, value))
        if not _valid(octets) or len(data) > self._data:
            return
        reply = await self._try(
            b"set %b %d %d %d\r\n%b\r\n" % (octets, flags, ttl, len(data), data), self._line
        )
        if reply != b"STORED":
            raise ServiceError(f"{self._channel.address}: update failed: {reply[:100]!r}")

    async def _try(self, request: bytes, receive: Callable[[asyncio.StreamReader], Awaitable[T]]) -> T:
        """Ask up to `max_try` times; a server that takes no connection is not asked again."""
        for left in range(self._tries - 1, -1, -1):
            try:
                return await self._channel.exchange(request, receive)
            except ServiceError as error:
                if not left or str(error).startswith("connect to "):
                    raise
            await asyncio.sleep(self._pause)
        raise AssertionError("max_try is at least 1")

    async def _line(self, reader: asyncio.StreamReader) -> bytes:
        return (await reader.readuntil(b"\r\n"))[:-2]

    async def _value(self, reader: asyncio.StreamReader) -> bytes | None:
        words = (await self._line(reader)).split(b" ")
        if words == [b"END"]:
            return None
        if len(words) < 4 or words[0] != b"VALUE" or not words[3].isdigit():
            raise ServiceError(f"{self._channel.address}: bad reply: {b' '.join(words)[:100]!r}")
        if int(words[3]) > self._data:
            raise ServiceError(
                f"{self._channel.address}: a value of {int(words[3])} octets is over data_size_limit"
            )
        value = (await reader.readexactly(int(words[3]) + 2))[:-2]
        if await self._line(reader) != b"END":
            raise ServiceError(f"{self._channel.address}: a value without its END")
        return value

    def close(self) -> None:
        """Close what is kept."""
        self._channel.close()


def _valid(key: bytes) -> bool:
    return 0 < len(key) <= KEY_LIMIT and all(33 <= octet != 127 for octet in key)
