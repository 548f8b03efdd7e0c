"""Connections from a proxy that says first whom it stands for (the PROXY protocol, see `wire.proxy`)."""

from __future__ import annotations

import asyncio
import socket
import ssl

from mailstack.net.accept import BeginsWithTLS
from mailstack.net.stream import SILENT
from mailstack.net.tasks import apart
from mailstack.wire.proxy import SIGNATURE, V1_LIMIT, V2_LIMIT, ProxyError, ProxyHeader, parse_header

_FIXED = 16


class BehindProxy(BeginsWithTLS):
    """An accepted connection, nothing of which has been read: `identify`, then `begin`.

    Not an octet behind the header is taken, as it may belong to a TLS handshake.
    """

    __slots__ = ("_client", "_server")

    def __init__(self, sock: socket.socket, peer: object) -> None:
        super().__init__(sock, peer)
        self._client = self.peer
        self._server = self.local

    async def identify(self, timeout: float) -> None:
        """Read the header; `peer` and `local` are what it says from then on.

        Raises `ProxyError`, `TimeoutError` after `timeout` seconds, `ConnectionError`.
        """
        assert self._sock is not None
        try:
            header = await apart(_within(timeout, self._sock))
        except BaseException:
            self.abort()
            raise
        if not header.local:
            self._client = (header.client, int(header.client_port))
            self._server = (header.server, int(header.server_port))
        self._rename()

    async def begin(self, tls: ssl.SSLContext | None, timeout: float) -> None:
        """Let octets through, with `tls` after a handshake. Raises what `start_tls` does."""
        if tls is not None:
            await self.start_tls(tls, timeout, server_side=True)
            return
        sock, self._sock = self._sock, None
        assert sock is not None
        await apart(asyncio.get_running_loop().connect_accepted_socket(lambda: self, sock))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._rename()

    def _rename(self) -> None:
        self.peer, self.local = self._client, self._server


async def _within(timeout: float, sock: socket.socket) -> ProxyHeader:
    try:
        async with asyncio.timeout(timeout):
            return await _header(sock)
    except TimeoutError:
        raise TimeoutError(SILENT) from None


async def _header(sock: socket.socket) -> ProxyHeader:
    data = await _read(sock, b"", len(SIGNATURE))
    if data == SIGNATURE:
        data = await _read(sock, data, _FIXED)
        size = _FIXED + int.from_bytes(data[14:16], "big")
        if size > V2_LIMIT:
            raise ProxyError("protocol header too long")
        data = await _read(sock, data, size)
    else:
        while not data.endswith(b"\n") and len(data) < V1_LIMIT:
            if not b"PROXY ".startswith(data[:6]):
                break
            data = await _read(sock, data, len(data) + 1)
    header = parse_header(data)
    if header is None or header.length != len(data):
        raise ProxyError("protocol header too long")
    return header


async def _read(sock: socket.socket, data: bytes, count: int) -> bytes:
    """`data` with what comes behind it, `count` octets together."""
    loop = asyncio.get_running_loop()
    while len(data) < count:
        more = await loop.sock_recv(sock, count - len(data))
        if not more:
            raise ConnectionResetError("the proxy has closed the connection")
        data += more
    return data
