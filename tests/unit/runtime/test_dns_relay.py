"""What is asked at one port is passed on to a server at another one."""

from __future__ import annotations

import asyncio

from mailstack.runtime import dns_relay
from tests.ports import free_ports


class Upstream(asyncio.DatagramProtocol):
    """Answers everything with the same octets backwards."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, peer: tuple[str, int]) -> None:
        self.transport.sendto(data[::-1], peer)  # type: ignore[attr-defined]


class Client(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.heard: asyncio.Queue[bytes] = asyncio.Queue()

    def datagram_received(self, data: bytes, _: tuple[str, int]) -> None:
        self.heard.put_nowait(data)


def test_questions_are_passed_on_by_udp_and_tcp() -> None:
    async def backwards(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write((await reader.readexactly(3))[::-1])
        writer.close()

    async def story() -> None:
        loop = asyncio.get_running_loop()
        far, near = free_ports(2)
        upstream, _ = await loop.create_datagram_endpoint(Upstream, local_addr=("127.0.0.1", far))
        server = await asyncio.start_server(backwards, "127.0.0.1", far)
        relay = await dns_relay.serve("127.0.0.1", ("127.0.0.1", far), near)
        transport, client = await loop.create_datagram_endpoint(Client, remote_addr=("127.0.0.1", near))
        for question in (b"one", b"two"):
            transport.sendto(question)
            assert await asyncio.wait_for(client.heard.get(), 30) == question[::-1]
        reader, writer = await asyncio.open_connection("127.0.0.1", near)
        writer.write(b"abc")
        assert await asyncio.wait_for(reader.read(), 30) == b"cba"
        for open_ in (writer, transport, upstream, server, *relay):
            open_.close()

    asyncio.run(story())
