"""Answers out of the cache, ready to be sent again: all that changes is how long they still hold.

A kept answer is right until the first of its sets expires, or is due to be asked for anew; until then its
TTLs count down by whole seconds of the wall clock. Everything else that it depends on is in the key: the
query's octets, the transport, and the client's rights (`View`).
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from dataclasses import dataclass, field

from mailstack.dns.message import HEADER, Malformed, skip_name
from mailstack.dns.statistics import Seen
from mailstack.dns.zone import OPT

_TTL = struct.Struct("!I")
OVERHEAD = 700
"""Octets that one takes beside its text: key, numbers, places in dictionaries."""
SIZE = 2048
"""Octets of the largest answer that is kept."""


class Aging:
    """One answer without its id, as it was in second `made`."""

    __slots__ = ("_made", "_offsets", "_second", "_tail", "_template")

    def __init__(self, tail: bytes, made: int) -> None:
        self._template = self._tail = tail
        self._offsets = offsets(tail)
        self._made = self._second = made

    def at(self, now: int) -> bytes:
        """The answer as it is in second `now`."""
        if now != self._second:
            buffer = bytearray(self._template)
            passed = now - self._made
            for offset, ttl in self._offsets:
                _TTL.pack_into(buffer, offset, max(ttl - passed, 0))
            self._tail, self._second = bytes(buffer), now
        return self._tail

    @property
    def tail(self) -> bytes:
        """The answer as it was last given."""
        return self._tail

    @property
    def octets(self) -> int:
        """What it takes."""
        return 2 * len(self._template) + OVERHEAD + 120 * len(self._offsets)


@dataclass(slots=True)
class Ready:
    """An answer, good before second `until`, in `most` orders of its records."""

    until: int
    most: int
    cyclic: bool
    variants: list[Aging] = field(default_factory=list)
    hits: list[int] = field(default_factory=lambda: [0, 0])
    """How often it was given over IPv4 and IPv6, and not yet counted."""
    turn: int = 0

    def take(self, now: int) -> bytes | None:
        """The answer as it is in second `now`; None when it has to be made (anew)."""
        if now >= self.until or len(self.variants) < self.most:
            return None
        if self.most == 1:
            return self.variants[0].at(now)
        if self.cyclic:
            self.turn = (self.turn + 1) % self.most
            return self.variants[self.turn].at(now)
        return random.choice(self.variants).at(now)  # noqa: S311 - no secret is made


class Shelf:
    """The ready answers of one kind of client by one transport, by query without id; in `limit` octets."""

    __slots__ = ("_octets", "answers", "limit")

    def __init__(self, limit: int = 0) -> None:
        self.limit = limit
        self._octets = 0
        self.answers: dict[bytes, Ready] = {}

    def put(self, key: bytes, ready: Ready, tail: bytes, now: int, count: Callable[[], object]) -> None:
        """Keep one more order of an answer. `count` is called before all are dropped for want of room."""
        one = Aging(tail, now)
        if self._octets + one.octets > self.limit:
            count()
            self.forget()
        held = self.answers.get(key)
        if held is None or held.until != ready.until or len(held.variants) >= held.most:
            if held is not None:
                self._octets -= sum(old.octets for old in held.variants)
                ready.hits = held.hits
            self.answers[key] = held = ready
        held.variants.append(one)
        self._octets += one.octets

    def variants(self, key: bytes, until: int) -> int:
        """How many orders of the answer that is good before `until` there are."""
        held = self.answers.get(key)
        return len(held.variants) if held is not None and held.until == until else 0

    def given(self, ipv6: int) -> Seen:
        """How often each was given over IPv4 (0) or IPv6 (1), once."""
        seen: Seen = {}
        for ready in self.answers.values():
            if ready.hits[ipv6]:
                tail = ready.variants[0].tail
                seen[tail] = seen.get(tail, 0) + ready.hits[ipv6]
                ready.hits[ipv6] = 0
        return seen

    def forget(self) -> None:
        """Drop them all; those that were given must have been counted."""
        self.answers.clear()
        self._octets = 0


def offsets(tail: bytes) -> list[tuple[int, int]]:
    """Where the TTLs of an answer without id stand, and what they are."""
    wire = b"\0\0" + tail
    _, _, questions, *counts = HEADER.unpack_from(wire)
    position = 12
    found: list[tuple[int, int]] = []
    try:
        for _ in range(questions):
            position = skip_name(wire, position) + 4
        for _ in range(sum(counts)):
            position = skip_name(wire, position, compressed=True)
            kind, _, ttl, length = struct.unpack_from("!HHIH", wire, position)
            if kind != OPT:
                found.append((position + 2, ttl))  # +4, less the id
            position += 10 + length
    except (Malformed, struct.error):
        raise AssertionError("an answer of ours that cannot be read") from None
    return found
