"""Questions of ours to one other server: over UDP and TCP, from a chosen address, signed or not.

`Trouble` is all that is raised: no answer, one that is none, one that is not trusted.
"""

from __future__ import annotations

import asyncio
import os
import struct
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from mailstack.config.named.model import TsigKey
from mailstack.config.named.peers import ANYWHERE, Remote, Source
from mailstack.dns.message import AA, HEADER, OPCODE_MASK, QR, TC, Malformed, opt, skip_name
from mailstack.dns.tsig import Conversation, Untrusted
from mailstack.dns.zone import IN, SOA

NOTIFY = 4 << 11
"""The opcode, where it stands among the flags (RFC 1996)."""
PAYLOAD = 1232
CONNECT = 15.0
"""Seconds for a connection."""
MESSAGE = struct.Struct("!H")


class Trouble(Exception):  # noqa: N818 - what another server does is no error of ours
    """Why a server has not answered."""


@dataclass(frozen=True, slots=True)
class Address:
    """Whom to ask, as whom."""

    remote: Remote
    source: Source = ANYWHERE
    key: TsigKey | None = None

    @property
    def local(self) -> tuple[str, int] | None:
        """The address to send from; None: any."""
        host, port = self.source
        if not host and not port:
            return None
        return host or ("::" if ":" in self.remote.host else "0.0.0.0"), port


def question(
    origin: bytes,
    rdtype: int,
    *,
    flags: int = 0,
    answer: bytes = b"",
    authority: bytes = b"",
    edns: bool = False,
) -> bytes:
    """A message with one question of class IN and at most one record beside it."""
    ident = int.from_bytes(os.urandom(2), "big")
    head = HEADER.pack(ident, flags, 1, bool(answer), bool(authority), edns)
    record = opt(PAYLOAD, 0) if edns else b""
    return head + origin + struct.pack("!HH", rdtype, IN) + answer + authority + record


def soa_record(origin: bytes, data: bytes) -> bytes:
    """A SOA record for a message of ours, where only its serial matters."""
    return origin + struct.pack("!HHIH", SOA, IN, 0, len(data)) + data


def notify(origin: bytes, soa: bytes) -> bytes:
    """A NOTIFY message (RFC 1996 §3.7)."""
    return question(origin, SOA, flags=NOTIFY | AA, answer=soa_record(origin, soa))


def answers(wire: bytes, data: bytes) -> bool:
    """Whether `data` is an answer to our question `wire`."""
    if len(data) < 12 or data[:2] != wire[:2]:
        return False
    flags, asked = int.from_bytes(data[2:4], "big"), int.from_bytes(wire[2:4], "big")
    if not flags & QR or (flags ^ asked) & OPCODE_MASK:
        return False
    if data[4:6] == b"\0\0":
        return True  # an error, or a later message of a transfer
    try:
        end = skip_name(wire, 12)
    except Malformed:
        return False
    same = data[12:end].lower() == wire[12:end].lower() and data[end : end + 4] == wire[end : end + 4]
    return data[4:6] == b"\0\1" and same


def rcode_of(data: bytes) -> int:
    """The response code in the header."""
    return data[3] & 0xF


async def ask(
    whom: Address, wire: bytes, waits: Sequence[float], *, tcp: bool, patient: bool = False
) -> bytes:
    """The answer to a question; raises `Trouble`.

    By UDP as often as there are `waits` (seconds); by TCP when the answer is truncated, and with `tcp` when
    there was none. With `patient`, a server that is not there is asked again, too.
    """
    try:
        data = await _datagrams(whom, wire, waits, patient=patient)
    except Trouble:
        if not tcp:
            raise
        return await once(whom, wire)
    return await once(whom, wire) if int.from_bytes(data[2:4], "big") & TC else data


async def _datagrams(whom: Address, wire: bytes, waits: Sequence[float], *, patient: bool) -> bytes:
    conversation = Conversation(whom.key)
    sent = conversation.sign(wire)
    loop = asyncio.get_running_loop()
    waiter: asyncio.Future[bytes] = loop.create_future()
    try:
        transport, _ = await loop.create_datagram_endpoint(
            lambda: _Waiter(sent, waiter, patient=patient),
            remote_addr=(whom.remote.host, whom.remote.port),
            local_addr=whom.local,
        )
    except OSError as error:
        raise Trouble(error.strerror or str(error)) from error
    try:
        for wait in waits:
            transport.sendto(sent)
            done, _ = await asyncio.wait((waiter,), timeout=wait)
            if done:
                break
        else:
            raise Trouble("timed out")
        data = await waiter
        conversation.check(data)
    except (OSError, Untrusted) as error:
        raise Trouble((error.strerror if isinstance(error, OSError) else "") or str(error)) from error
    finally:
        waiter.cancel()
        transport.close()
    return data


async def once(whom: Address, wire: bytes, wait: float = CONNECT) -> bytes:
    """The answer to a question by TCP; raises `Trouble`."""
    conversation = Conversation(whom.key)
    async for data in stream(whom, conversation.sign(wire), wait):
        if answers(wire, data):
            try:
                conversation.check(data)
            except Untrusted as error:
                raise Trouble(str(error)) from error
            return data
        break
    raise Trouble("no answer")


async def stream(whom: Address, wire: bytes, idle: float) -> AsyncIterator[bytes]:
    """Send a message over a connection, and yield those that come; at most `idle` seconds for each.

    Raises `Trouble`, also when the other side closes the connection.
    """
    remote = whom.remote
    try:
        async with asyncio.timeout(CONNECT):
            reader, writer = await asyncio.open_connection(remote.host, remote.port, local_addr=whom.local)
    except TimeoutError as error:
        raise Trouble("connecting timed out") from error
    except OSError as error:
        raise Trouble(error.strerror or str(error)) from error
    try:
        writer.write(MESSAGE.pack(len(wire)) + wire)
        while True:
            async with asyncio.timeout(idle):
                (length,) = MESSAGE.unpack(await reader.readexactly(2))
                data = await reader.readexactly(length)
            yield data
    except TimeoutError as error:
        raise Trouble("timed out") from error
    except asyncio.IncompleteReadError as error:
        raise Trouble("the connection was closed in the middle") from error
    except OSError as error:
        raise Trouble(error.strerror or str(error)) from error
    finally:
        writer.transport.abort()


class _Waiter(asyncio.DatagramProtocol):
    """Takes the datagram that answers a question, on a connected socket."""

    def __init__(self, wire: bytes, waiter: asyncio.Future[bytes], *, patient: bool) -> None:
        self._wire = wire
        self._waiter = waiter
        self._patient = patient

    def datagram_received(self, data: bytes, addr: tuple[str | object, int]) -> None:
        if not self._waiter.done() and answers(self._wire, data):
            self._waiter.set_result(data)

    def error_received(self, exc: Exception) -> None:
        if not self._patient and not self._waiter.done():
            self._waiter.set_exception(exc)
