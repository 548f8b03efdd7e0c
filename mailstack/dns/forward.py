"""Ask the forwarders about names that are not ours, and remember what they said.

Invariants: an answer counts only from the server asked, with the random id and the very question (RFC 5452);
the same question under way is asked once; no question takes longer than `DEADLINE` seconds; the cache is
bounded in entries and octets, and nothing in it outlives its TTL; a message that does not parse to its last
octet is never passed on.

Standards: RFC 2308 (negative caching), RFC 7766 (TCP after truncation), RFC 6891.
"""

from __future__ import annotations

import asyncio
import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from mailstack.dns.message import (
    CD,
    DO,
    HEADER,
    NOERROR,
    NXDOMAIN,
    OPCODE_MASK,
    QR,
    RD,
    TC,
    Malformed,
    Query,
    opt,
    skip_name,
)
from mailstack.dns.zone import OPT, SOA
from mailstack.net.clock import Clock, SystemClock
from mailstack.net.stream import connect
from mailstack.net.tasks import TaskSet

Server = tuple[str, int]

DEADLINE = 9.0
"""Seconds for one question; stubs give up after ten or less."""
TRY_TIMEOUT = 1.5
"""Seconds that one server gets for one attempt."""
PAYLOAD = 1232
ENTRY_LIMIT = 10_000
OCTET_LIMIT = 8 * 1024 * 1024
UNDERWAY_LIMIT = 1000
"""Questions under way at once (BIND's recursive-clients); more are answered SERVFAIL."""

_Key = tuple[bytes, bytes, bool, bool]


@dataclass(frozen=True, slots=True)
class Forwarded:
    """What a forwarder said: everything after the question, without its OPT record."""

    rcode: int
    authentic: bool
    """The AD bit: the forwarder has validated it."""
    body: bytes
    counts: tuple[int, int, int]
    ttls: tuple[int, ...]
    """Where in `body` the records' TTLs stand."""
    ttl: int
    """Seconds that it may be kept."""

    def aged(self, seconds: int) -> bytes:
        """The body with every TTL lowered."""
        if not seconds:
            return self.body
        body = bytearray(self.body)
        for offset in self.ttls:
            (ttl,) = struct.unpack_from("!I", body, offset)
            struct.pack_into("!I", body, offset, max(ttl - seconds, 0))
        return bytes(body)


class Forwarder:
    """Questions to upstream servers. `max_ttl` and `max_negative_ttl` are seconds."""

    def __init__(
        self, *, max_ttl: int = 604_800, max_negative_ttl: int = 10_800, clock: Clock | None = None
    ) -> None:
        self._max_ttl = max_ttl
        self._max_negative_ttl = max_negative_ttl
        self._clock: Clock = clock if clock is not None else SystemClock()
        self._cache: dict[_Key, tuple[float, Forwarded]] = {}
        self._octets = 0
        self._underway: dict[_Key, asyncio.Task[Forwarded | None]] = {}
        self._tasks = TaskSet(_unexpected)

    def cached(self, query: Query, question: bytes) -> tuple[Forwarded, int] | None:
        """An answer that is held, and its age in seconds."""
        key = _key(query, question)
        held = self._cache.get(key)
        if held is None:
            return None
        age = int(self._clock.monotonic() - held[0])
        if age >= held[1].ttl:
            del self._cache[key]
            self._octets -= len(held[1].body)
            return None
        return held[1], age

    async def ask(self, query: Query, question: bytes, servers: Sequence[Server]) -> Forwarded | None:
        """The answer to `question` (a question section); None when no server gives one in time."""
        key = _key(query, question)
        task = self._underway.get(key)
        if task is None:
            if len(self._underway) >= UNDERWAY_LIMIT:
                return None
            task = self._tasks.start(self._ask(key, query, question, servers), "forward")
            self._underway[key] = task
        await asyncio.wait((task,), timeout=DEADLINE + 1)
        if not task.done() or task.cancelled() or task.exception() is not None:
            return None
        return task.result()

    async def close(self) -> None:
        """End what is under way."""
        await self._tasks.drain(0)

    async def _ask(
        self, key: _Key, query: Query, question: bytes, servers: Sequence[Server]
    ) -> Forwarded | None:
        try:
            async with asyncio.timeout(DEADLINE):
                answer = await _ask_in_turn(query, question, servers)
        except TimeoutError:
            answer = None
        finally:
            self._underway.pop(key, None)
        if answer is not None:
            limit = self._max_ttl if answer.rcode == NOERROR and answer.counts[0] else self._max_negative_ttl
            self._remember(key, answer, limit)
        return answer

    def _remember(self, key: _Key, answer: Forwarded, limit: int) -> None:
        ttl = min(answer.ttl, limit)
        if ttl <= 0:
            return
        kept = Forwarded(answer.rcode, answer.authentic, answer.body, answer.counts, answer.ttls, ttl)
        old = self._cache.pop(key, None)
        if old is not None:
            self._octets -= len(old[1].body)
        self._octets += len(kept.body)
        self._cache[key] = (self._clock.monotonic(), kept)
        while len(self._cache) > ENTRY_LIMIT or self._octets > OCTET_LIMIT:
            oldest = next(iter(self._cache))
            self._octets -= len(self._cache.pop(oldest)[1].body)


def _key(query: Query, question: bytes) -> _Key:
    return question[:-4].lower(), question[-4:], query.do, bool(query.flags & CD)


async def _ask_in_turn(query: Query, question: bytes, servers: Sequence[Server]) -> Forwarded | None:
    """Two rounds over the servers; the first one that answers usably wins."""
    last: Forwarded | None = None
    for _ in range(2):
        for server in servers:
            try:
                async with asyncio.timeout(TRY_TIMEOUT):
                    answer = await _exchange(query, question, server)
            except (OSError, TimeoutError, Malformed):
                continue
            if answer.rcode in (NOERROR, NXDOMAIN):
                return answer
            last = answer
        if last is not None:
            return None  # every server that spoke failed to answer: the client gets SERVFAIL
    return None


async def _exchange(query: Query, question: bytes, server: Server) -> Forwarded:
    """One question to one server. Raises `OSError` or `Malformed`."""
    ident = int.from_bytes(os.urandom(2), "big")
    wire = HEADER.pack(ident, RD | query.flags & CD, 1, 0, 0, 1) + question
    wire += opt(PAYLOAD, 0, DO if query.do else 0)
    loop = asyncio.get_running_loop()
    waiter: asyncio.Future[bytes] = loop.create_future()
    transport, _ = await loop.create_datagram_endpoint(lambda: _Waiter(wire, waiter), remote_addr=server)
    try:
        transport.sendto(wire)
        data = await waiter
    finally:
        transport.close()
    if data[2] & TC >> 8:
        data = await _exchange_tcp(wire, server)
        if not matches(wire, data):
            raise Malformed
    return read(data, len(question))


async def _exchange_tcp(wire: bytes, server: Server) -> bytes:
    stream = await connect(server[0], server[1], TRY_TIMEOUT)
    try:
        stream.write(len(wire).to_bytes(2, "big") + wire)
        data = b""
        while len(data) < 2 or len(data) < 2 + int.from_bytes(data[:2], "big"):
            more = await stream.read(TRY_TIMEOUT)
            if not more:
                raise ConnectionResetError("connection closed before the answer")
            data += more
    finally:
        stream.close()
    return data[2 : 2 + int.from_bytes(data[:2], "big")]


class _Waiter(asyncio.DatagramProtocol):
    """Takes the one datagram that answers the question, on a connected socket."""

    def __init__(self, wire: bytes, waiter: asyncio.Future[bytes]) -> None:
        self._wire = wire
        self._waiter = waiter

    def datagram_received(self, data: bytes, addr: tuple[str | object, int]) -> None:
        if not self._waiter.done() and matches(self._wire, data):
            self._waiter.set_result(data)

    def error_received(self, exc: Exception) -> None:
        if not self._waiter.done():
            self._waiter.set_exception(exc)


def matches(wire: bytes, data: bytes) -> bool:
    """`data` answers the query `wire`: id, QR, opcode, and the question octet by octet but for case."""
    if len(data) < 12 or data[:2] != wire[:2]:
        return False
    flags = int.from_bytes(data[2:4], "big")
    if not flags & QR or flags & OPCODE_MASK or data[4:6] != b"\0\1":
        return False
    end = skip_name(wire, 12) + 4
    return (
        data[12 : end - 4].lower() == wire[12 : end - 4].lower()
        and data[end - 4 : end] == wire[end - 4 : end]
    )


def read(data: bytes, question_size: int) -> Forwarded:
    """Walk a whole message; raises `Malformed` when it is not sound.

    The OPT record has to come last but for nothing: names after it could point past the octets taken out.
    """
    _, flags, _, answers, authorities, additionals = HEADER.unpack_from(data)
    start = 12 + question_size
    position, end = start, len(data)
    ttls: list[int] = []
    shortest, negative = 1 << 31, -1
    total = answers + authorities + additionals
    rcode = flags & 0xF
    for index in range(total):
        head = position
        position = skip_name(data, position, compressed=True)
        if len(data) < position + 10:
            raise Malformed
        kind, _, ttl, length = struct.unpack_from("!HHIH", data, position)
        if len(data) < position + 10 + length:
            raise Malformed
        if kind == OPT:
            if index != total - 1:
                raise Malformed
            rcode |= ttl >> 24 << 4
            additionals -= 1
            end = head
        else:
            ttls.append(position + 4 - start)
            shortest = min(shortest, ttl if ttl < 1 << 31 else 0)
            if kind == SOA and answers <= index < answers + authorities and length >= 22:
                minimum = int.from_bytes(data[position + 10 + length - 4 : position + 10 + length], "big")
                negative = min(ttl, minimum)
        position += 10 + length
    if position != len(data):
        raise Malformed
    ttl = shortest if answers and rcode == NOERROR else max(negative, 0)
    body = data[start : min(end, len(data))]
    return Forwarded(rcode, bool(flags & 0x20), body, (answers, authorities, additionals), tuple(ttls), ttl)


def _unexpected(name: str, error: BaseException) -> None:
    """Whoever waits for the question answers SERVFAIL."""
