"""The client of socketmap_table(5): netstrings with `NAME KEY` and `OK VALUE`."""

from __future__ import annotations

import asyncio

from mailstack.net.tables.channel import Channel, ServiceError

TIMEOUT = 30.0
"""Seconds for an answer; Postfix waits for 100."""
LIMIT = 100_000
"""Characters of a reply, without what makes a netstring of it."""


class Socketmap:
    """`inet:host:port:name` or `unix:/path:name`. Raises `ValueError` for any other address."""

    def __init__(self, address: str, *, timeout: float = TIMEOUT) -> None:
        where, _, self._name = address.rpartition(":")
        if not where.startswith(("inet:", "unix:")) or not self._name:
            raise ValueError(f"expected inet:host:port:name or unix:/path:name, not {address!r}")
        self._channel = Channel(where, timeout=timeout)

    async def query(self, key: str) -> str | None:
        """The value of a key. Raises `ServiceError`."""
        request = f"{self._name} {key}".encode("utf-8", "surrogateescape")
        reply = await self._channel.exchange(b"%d:%b," % (len(request), request), _netstring)
        status, _, rest = reply.partition(b" ")
        text = rest.decode("utf-8", "surrogateescape")
        match status:
            case b"OK":
                return text
            case b"NOTFOUND":
                return None
            case b"TEMP" | b"TIMEOUT" | b"PERM":
                word = {b"TEMP": "temporary", b"TIMEOUT": "timeout", b"PERM": "permanent"}[status]
                raise ServiceError(
                    f"{self._channel.address} map {self._name} {word} error: {text or 'no reason given'}"
                )
        raise ServiceError(f"{self._channel.address} map {self._name}: bad reply: {reply[:100]!r}")

    def close(self) -> None:
        """Close what is kept."""
        self._channel.close()


async def _netstring(reader: asyncio.StreamReader) -> bytes:
    digits = b""
    while (octet := await reader.readexactly(1)) != b":":
        digits += octet
        if not digits.isdigit() or int(digits) > LIMIT:
            raise ServiceError(f"bad netstring length: {digits!r}")
    reply = await reader.readexactly(int(digits or b"0") + 1)
    if reply[-1:] != b",":
        raise ServiceError("a netstring without its comma")
    return reply[:-1]
