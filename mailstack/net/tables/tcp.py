"""The client of tcp_table(5): `get KEY` and `200 VALUE`, with %XX for what is not plain."""

from __future__ import annotations

import asyncio
import re

from mailstack.net.tables.channel import Channel, ServiceError

TIMEOUT = 30.0
"""Seconds for an answer; Postfix waits for 100."""
LIMIT = 4096
"""Octets of a reply line."""
_QUOTED = re.compile(rb"%([0-9A-Fa-f]{2})")


class TcpTable:
    """`host:port`. Raises `ValueError` for what is no such address."""

    def __init__(self, address: str, *, timeout: float = TIMEOUT) -> None:
        self._channel = Channel(address, timeout=timeout, limit=LIMIT)

    async def query(self, key: str) -> str | None:
        """The value of a key. Raises `ServiceError`."""
        octets = key.encode("utf-8", "surrogateescape")
        quoted = b"".join(
            b"%%%02X" % octet if octet <= 32 or octet >= 127 or octet == 37 else bytes((octet,))
            for octet in octets
        )
        line = await self._channel.exchange(b"get " + quoted + b"\n", _line)
        code, _, text = line.rstrip(b"\r\n").partition(b" ")
        value = _QUOTED.sub(lambda found: bytes((int(found[1], 16),)), text).decode(
            "utf-8", "surrogateescape"
        )
        match code:
            case b"200":
                return value
            case b"500":
                return None
            case b"400":
                raise ServiceError(f"{self._channel.address}: {value}")
        raise ServiceError(f"{self._channel.address}: malformed reply: {line[:100]!r}")

    def close(self) -> None:
        """Close what is kept."""
        self._channel.close()


async def _line(reader: asyncio.StreamReader) -> bytes:
    return await reader.readuntil(b"\n")
