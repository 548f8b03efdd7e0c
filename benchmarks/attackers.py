"""Clients that mean harm to an SMTP server, each kind bounded in number and in time.

`ATTACKS` names them. An attack is a coroutine of (port, seconds, scale, tally): it does its worst against
127.0.0.1 for so long, from many addresses of 127.0.0.0/8, notes in `tally` what came of it, and leaves no
connection behind.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import cast

from mailstack.net.loop import run

Tally = Counter[str]
Attack = Callable[[int, float, float, Tally], Awaitable[None]]

CONNECTING = 200
"""Connections under way at once."""
PATIENCE = 5.0
"""Seconds that a connection may take."""
RECIPIENTS = 1000
MESSAGES = 50
"""That a storm consists of, at most."""
USER = "u0@bench.test"
STORM_DOMAIN = "storm.test"
_addresses = itertools.count()


def source_address() -> str:
    """Another address of 127.0.0.0/8 each time, none of 127.0.0.0/16, where all others are."""
    number = next(_addresses) % (200 * 250)
    return f"127.{1 + number // 250}.7.{1 + number % 250}"


class Client(asyncio.Protocol):
    """Says its lines one after the other, each when the last has been answered; then comes `begin`."""

    lines: tuple[bytes, ...] = ()

    def __init__(self, tally: Tally) -> None:
        self.tally = tally
        self.transport: asyncio.Transport | None = None
        self.gone = asyncio.get_running_loop().create_future()
        self.begun = False
        self.full = False
        self._next = 0
        self._text = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.tally["connected"] += 1

    def data_received(self, data: bytes) -> None:
        if self.begun:
            self.tally["replies"] += data.count(b"\n")
            return
        self._text += data
        if not data.endswith(b"\n"):
            return
        last = self._text.splitlines()[-1]
        self._text = b""
        if last[3:4] == b"-":
            return
        if last[:1] not in b"23":
            self.tally["turned away"] += 1
            self.close()
        elif self._next < len(self.lines):
            self._next += 1
            self.write(self.lines[self._next - 1])
        else:
            self.begun = True
            self.tally["begun"] += 1
            self.begin()

    def begin(self) -> None:
        """The lines have been said."""

    def drip(self) -> None:
        """Send one octet more."""
        self.write(b"A")

    def write(self, data: bytes) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(data)

    def close(self) -> None:
        if self.transport is not None:
            self.transport.abort()

    def pause_writing(self) -> None:
        self.full = True

    def resume_writing(self) -> None:
        self.full = False
        if self.begun:
            self.begin()

    def connection_lost(self, error: Exception | None) -> None:
        self.full = True
        self.tally["ended"] += 1
        if not self.gone.done():
            self.gone.set_result(None)


async def connect(port: int, make: Callable[[], Client], tally: Tally) -> Client | None:
    """A connection, or None when there was none in time."""
    loop = asyncio.get_running_loop()
    opening = loop.create_connection(make, "127.0.0.1", port, local_addr=(source_address(), 0))
    try:
        async with asyncio.timeout(PATIENCE):
            return (await opening)[1]
    except (OSError, TimeoutError):
        tally["no connection"] += 1
        return None


async def open_many(
    port: int, kinds: list[type[Client]], number: int, seconds: float, tally: Tally
) -> list[Client]:
    """`number` connections, of each kind in turn, or as many as can be had within `seconds`."""
    room = asyncio.Semaphore(CONNECTING)
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds

    async def one(kind: type[Client]) -> Client | None:
        async with room:
            return await connect(port, lambda: kind(tally), tally) if loop.time() < end else None

    opened = await asyncio.gather(*(one(kinds[index % len(kinds)]) for index in range(number)))
    return [client for client in opened if client is not None]


async def again_and_again(
    port: int, kinds: list[type[Client]], number: int, seconds: float, tally: Tally
) -> None:
    """`number` clients at once, each of which is replaced when it is thrown out."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds

    async def one(kind: type[Client]) -> None:
        while (left := end - loop.time()) > 0:
            client = await connect(port, lambda: kind(tally), tally)
            if client is None:
                continue
            await asyncio.wait([client.gone], timeout=left)
            client.close()

    await asyncio.gather(*(one(kinds[index % len(kinds)]) for index in range(number)))


# ---- many


class Mute(Client):
    """Never says anything."""

    def data_received(self, data: bytes) -> None:
        self.tally["begun"] += not self.begun
        self.begun = True


class Deaf(Mute):
    """Does not even take the banner."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        cast(asyncio.Transport, transport).pause_reading()


class Polite(Client):
    """Says EHLO, and no more."""

    lines = (b"EHLO held.test\r\n",)


async def hold(port: int, seconds: float, scale: float, tally: Tally) -> None:
    """10,000 connections that are only there."""
    end = asyncio.get_running_loop().time() + seconds
    clients = await open_many(port, [Deaf, Mute, Polite], int(10_000 * scale), seconds / 2, tally)
    await asyncio.sleep(max(1.0, end - asyncio.get_running_loop().time()))
    tally["held at the end"] = sum(not client.gone.done() for client in clients)
    for client in clients:
        client.close()


# ---- slow


class SlowCommand(Client):
    lines = (b"EHLO slow.test\r\n",)


class SlowData(Client):
    lines = (b"EHLO slow.test\r\n", b"MAIL FROM:<>\r\n", f"RCPT TO:<{USER}>\r\n".encode(), b"DATA\r\n")


class SlowChunk(Client):
    lines = (
        b"EHLO slow.test\r\n",
        b"MAIL FROM:<>\r\n",
        f"RCPT TO:<{USER}>\r\nBDAT 100000 LAST\r\n".encode(),
    )


class SlowTLS(Client):
    lines = (b"EHLO slow.test\r\n", b"STARTTLS\r\n")
    sent = 0
    hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500)

    def drip(self) -> None:
        """The beginning of a ClientHello."""
        self.sent += 1
        self.write(self.hello[self.sent - 1 : self.sent])


class SlowAuth(Client):
    lines = (b"EHLO slow.test\r\n", b"AUTH PLAIN\r\n")


async def slow(port: int, seconds: float, scale: float, tally: Tally) -> None:
    """2,500 clients that send an octet a second: in a command, DATA, BDAT, a TLS handshake, or AUTH."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    kinds = [SlowCommand, SlowData, SlowChunk, SlowTLS, SlowAuth]
    opening = asyncio.create_task(open_many(port, kinds, int(2_500 * scale), seconds / 2, tally))
    clients: list[Client] = []
    while loop.time() < end or not opening.done():
        await asyncio.sleep(1)
        if opening.done():
            clients = opening.result()
        for client in clients:
            if client.begun:
                client.drip()
                tally["octets"] += 1
    tally["held at the end"] = sum(not client.gone.done() for client in clients)
    for client in clients:
        client.close()


# ---- floods


class Flood(Client):
    """Sends the same block as fast as it is taken; takes the replies."""

    lines: tuple[bytes, ...] = (b"EHLO flood.test\r\n",)
    block = b""

    def begin(self) -> None:
        while not self.full and self.transport is not None and not self.transport.is_closing():
            self.tally["octets"] += len(self.block)
            self.transport.write(self.block)


class Commands(Flood):
    block = b"RSET\r\nNOOP\r\nVRFY u0@bench.test\r\n" * 1000


class Envelopes(Flood):
    block = b"MAIL FROM:<>\r\n" + f"RCPT TO:<{USER}>\r\n".encode() * RECIPIENTS + b"RSET\r\n"


class Chunks(Flood):
    lines = (b"EHLO flood.test\r\n", b"MAIL FROM:<>\r\n", f"RCPT TO:<{USER}>\r\n".encode())
    block = b"BDAT 1\r\nx" * 4000


class Unread(Flood):
    """Never reads a reply."""

    block = Envelopes.block

    def begin(self) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.transport.pause_reading()
        super().begin()


async def flood(port: int, seconds: float, scale: float, tally: Tally) -> None:
    """40 clients that pipeline without end: idle commands, envelopes, one-octet chunks; some never read."""
    await again_and_again(
        port, [Commands, Envelopes, Chunks, Unread], max(4, int(40 * scale)), seconds, tally
    )


# ---- recipients


class Storm(Client):
    """Messages with 1,000 recipients, one after the other."""

    lines = (b"EHLO storm.test\r\n",)
    envelope = b""
    content = b"Subject: storm\r\n\r\n" + (b"x" * 78 + b"\r\n") * 50 + b".\r\n"

    def __init__(self, tally: Tally) -> None:
        super().__init__(tally)
        self._sent = False

    def begin(self) -> None:
        if not self.full and not self._sent:
            self._sent = True
            self._next_message()

    def _next_message(self) -> None:
        if self.tally["wanted"] > 0:
            self.tally["wanted"] -= 1
            self.write(self.envelope)

    def data_received(self, data: bytes) -> None:
        if not self.begun:
            super().data_received(data)
            return
        self.tally["replies"] += data.count(b"\n")
        if b"354 " in data:
            self.write(self.content)
        if b" queued as " in data:
            self.tally["messages"] += 1
            self._next_message()


class OneDomain(Storm):
    envelope = b"MAIL FROM:<>\r\n%bDATA\r\n" % b"".join(
        f"RCPT TO:<u{number}@{STORM_DOMAIN}>\r\n".encode() for number in range(RECIPIENTS)
    )


class ManyDomains(Storm):
    envelope = b"MAIL FROM:<>\r\n%bDATA\r\n" % b"".join(
        f"RCPT TO:<u@d{number}.{STORM_DOMAIN}>\r\n".encode() for number in range(RECIPIENTS)
    )


async def recipients(port: int, seconds: float, scale: float, tally: Tally) -> None:
    """4 clients that send 50 messages to 1,000 recipients each: of one domain, or of a thousand."""
    tally["wanted"] = max(1, int(MESSAGES * scale))
    await again_and_again(port, [OneDomain, ManyDomains], max(2, int(4 * scale)), seconds, tally)


# ---- junk


class Octets(Flood):
    lines = ()
    block = os.urandom(64 * 1024)


class EndlessLine(Flood):
    block = b"A" * 64 * 1024


class EndlessContent(Flood):
    """A line without end in DATA."""

    lines = SlowData.lines
    block = b"A" * 64 * 1024


async def junk(port: int, seconds: float, scale: float, tally: Tally) -> None:
    """30 clients that send octets at random, or lines without end, as a command and as content."""
    await again_and_again(
        port, [Octets, EndlessLine, EndlessContent], max(3, int(30 * scale)), seconds, tally
    )


# ---- churn


class Gone(Client):
    """Closes at once."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.close()


class GoneAfterBanner(Client):
    def data_received(self, data: bytes) -> None:
        self.close()


async def churn(port: int, seconds: float, scale: float, tally: Tally) -> None:
    """100 clients that connect and close as fast as they can, half of them after the banner."""
    await again_and_again(port, [Gone, GoneAfterBanner], max(2, int(100 * scale)), seconds, tally)


ATTACKS: dict[str, Attack] = {
    "hold": hold,
    "slow": slow,
    "flood": flood,
    "recipients": recipients,
    "junk": junk,
    "churn": churn,
}


def attack(name: str, port: int, seconds: float, scale: float = 1.0) -> Tally:
    """Do it, in this process; what came of it."""
    tally: Tally = Counter()

    async def whole() -> None:
        await ATTACKS[name](port, seconds, scale, tally)
        await asyncio.sleep(0.1)

    run(whole())
    return tally
