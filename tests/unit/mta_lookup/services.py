"""Lookup services to ask: small servers of tcp_table(5), socketmap_table(5) and memcached's protocol."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Service:
    """A server at `address` that notes each connection and each question."""

    def __init__(
        self, handler: Callable[[Service, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
    ) -> None:
        self._handler = handler
        self.address = ""
        self.connections = 0
        self.asked: list[str] = []
        self.held: dict[str, asyncio.Event] = {}
        """Keys whose answer waits for an event."""
        self.question = asyncio.Event()
        self.stored: dict[str, str] = {}

    async def answer(self, key: str) -> str | None:
        """What is stored; in a service without anything a key in capitals, and nothing for `no…`."""
        self.asked.append(key)
        self.question.set()
        if key in self.held:
            await self.held[key].wait()
        if self.stored:
            return self.stored.get(key)
        return None if key.startswith("no") else key.upper()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            await self._handler(self, reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def running(handler: object, path: str = "") -> AsyncIterator[Service]:
    service = Service(handler)  # type: ignore[arg-type]
    if path:
        server = await asyncio.start_unix_server(service.serve, path)
        service.address = f"unix:{path}"
    else:
        server = await asyncio.start_server(service.serve, "127.0.0.1", 0)
        service.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield service
    finally:
        server.close()
        for _ in range(3):
            await asyncio.sleep(0)


async def tcp(service: Service, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while line := await reader.readline():
        word, _, key = line.decode().rstrip("\n").partition(" ")
        assert word == "get"
        if key == "bad%20key":
            writer.write(b"400 no%20such%20luck\n")
        elif key == "garbage":
            writer.write(b"whatever\n")
        elif key == "hang%20up":
            return
        else:
            value = await service.answer(key)
            writer.write(b"500 not%20found\n" if value is None else f"200 {value}\n".encode())
        await writer.drain()


async def once(service: Service, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """As `tcp`, but closes after each answer."""
    line = (await reader.readline()).decode()
    writer.write(f"200 {await service.answer(line.split()[1])}\n".encode())


async def socketmap(service: Service, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        size = int((await reader.readuntil(b":"))[:-1])
        request = (await reader.readexactly(size + 1))[:-1].decode()
        name, _, key = request.partition(" ")
        if key.startswith(("TEMP", "PERM", "TIMEOUT")):
            reply = key
        elif key == "long":
            writer.write(b"200000:")
            return
        else:
            value = await service.answer(key)
            reply = "NOTFOUND " if value is None else f"OK {name}={value}"
        writer.write(b"%d:%b," % (len(reply.encode()), reply.encode()))
        await writer.drain()


async def memcached(service: Service, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while line := (await reader.readline()).decode().rstrip("\r\n"):
        match line.split(" "):
            case ["get", key]:
                service.asked.append(key)
                if key in service.stored:
                    value = service.stored[key]
                    writer.write(f"VALUE {key} 0 {len(value)}\r\n{value}\r\n".encode())
                writer.write(b"END\r\n")
            case ["set", key, flags, ttl, size]:
                value = (await reader.readexactly(int(size) + 2))[:-2].decode()
                service.stored[key] = value
                service.asked.append(f"set {key} {flags} {ttl}")
                writer.write(b"STORED\r\n")
            case _:
                writer.write(b"ERROR\r\n")
        await writer.drain()
