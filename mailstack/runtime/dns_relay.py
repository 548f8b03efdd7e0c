"""Pass on what is asked at port 53 to a name server at another port, unchanged, and its answers back.

resolv.conf(5) has no word for a port. Nothing is kept: an answer is always the server's.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import cast

PORT = 53
PATIENCE = 10.0
"""Seconds for an answer: libc asks again after five."""
MOST = 512
"""Questions at once; whoever asks more is not heard, and asks again."""
Address = tuple[str, int]


class _Answer(asyncio.DatagramProtocol):
    """The other side of one question."""

    def __init__(self, answer: asyncio.Future[bytes]) -> None:
        self.answer = answer

    def datagram_received(self, data: bytes, _: Address) -> None:
        if not self.answer.done():
            self.answer.set_result(data)

    def error_received(self, error: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)


class _Questions(asyncio.DatagramProtocol):
    """The port that is asked."""

    def __init__(self, server: Address) -> None:
        self.server = server
        self.tasks: set[asyncio.Task[None]] = set()
        self.transport: asyncio.DatagramTransport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, client: Address) -> None:
        if len(self.tasks) < MOST:
            task = asyncio.create_task(self._pass_on(data, client))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)

    async def _pass_on(self, data: bytes, client: Address) -> None:
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[bytes] = loop.create_future()
        with contextlib.suppress(OSError, TimeoutError):  # the client asks again
            transport, _ = await loop.create_datagram_endpoint(
                lambda: _Answer(answer), remote_addr=self.server
            )
            try:
                transport.sendto(data)
                self.transport.sendto(await asyncio.wait_for(answer, PATIENCE), client)
            finally:
                transport.close()


async def serve(
    address: str, server: Address, port: int = PORT
) -> tuple[asyncio.DatagramTransport, asyncio.Server]:
    """Take questions at `address`, by UDP and TCP, until what it returns is closed. Raises `OSError`."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection(*server)
        except OSError:
            writer.close()
            return
        there = asyncio.create_task(_copy(reader, far_writer))
        try:
            await _copy(far_reader, writer)
        finally:
            there.cancel()
            far_writer.close()
            writer.close()

    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(lambda: _Questions(server), local_addr=(address, port))
    return transport, await asyncio.start_server(connected, address, port)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.write_eof()
