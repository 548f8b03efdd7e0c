"""Answers out of the cache, ready to be sent again: all that changes is how long they still hold.

A kept answer is right until the first of its sets expires, or is due to be asked for anew; until then its
TTLs count down by whole seconds of the wall clock. Everything else that it depends on is in the key: the
query's octets, the transport, and the client's rights (`View`).
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable

from mailstack.dns.message import HEADER, Malformed, skip_name
from mailstack.dns.statistics import Seen
from mailstack.dns.zone import OPT

_TTL = struct.Struct("!I")
OVERHEAD = 450
"""Octets that one takes beside its text and key: numbers, objects, places in dictionaries."""
SIZE = 2048
"""Octets of the largest answer that is kept."""


class Ready:
    """One answer without its id as it was in second `made`, good before second `until`.

    Where the order of its records changes there are `most` of them, and the first one knows the others.
    """

    __slots__ = (
        "_made",
        "_offsets",
        "_second",
        "_template",
        "cyclic",
        "hits",
        "most",
        "others",
        "tail",
        "turn",
        "until",
    )

    def __init__(self, tail: bytes, made: int, until: int, most: int = 1, *, cyclic: bool = False) -> None:
        self._template = tail
        self._offsets = offsets(tail)
        self._made = self._second = made
        self.tail = tail
        """The answer as it was last given."""
        self.until = until
        self.most = most
        self.cyclic = cyclic
        self.turn = 0
        self.others: list[Ready] | None = None
        self.hits = 0
        """How often it was given over IPv4, and, in the upper half, over IPv6; not yet counted."""

    def take(self, now: int) -> bytes | None:
        """The answer as it is in second `now`; None when it has to be made (anew)."""
        if now == self._second and self.most == 1:
            return self.tail
        if not self._made <= now < self.until:  # the clock may be set back, too
            return None
        if self.most == 1:
            return self._at(now)
        others = self.others
        if others is None or len(others) + 1 < self.most:
            return None
        self.turn = (self.turn + 1 if self.cyclic else random.randrange(self.most)) % self.most  # noqa: S311
        return others[self.turn - 1]._at(now) if self.turn else self._at(now)

    def _at(self, now: int) -> bytes:
        if now != self._second:
            buffer = bytearray(self._template)
            passed = now - self._made
            numbers = self._offsets
            for index in range(0, len(numbers), 2):
                _TTL.pack_into(buffer, numbers[index], max(numbers[index + 1] - passed, 0))
            self.tail, self._second = bytes(buffer), now
        return self.tail

    @property
    def octets(self) -> int:
        """What it takes, without its key."""
        return 2 * len(self._template) + OVERHEAD + 24 * len(self._offsets)


IPV6 = 1 << 32
"""What one answer over IPv6 adds to `Ready.hits`."""


class Shelf:
    """The ready answers of one kind of client by one transport, by query without id; in `limit` octets."""

    __slots__ = ("_octets", "answers", "limit")

    def __init__(self, limit: int = 0) -> None:
        self.limit = limit
        self._octets = 0
        self.answers: dict[bytes, Ready] = {}

    def put(self, key: bytes, ready: Ready, count: Callable[[], object]) -> None:
        """Keep one more order of an answer. `count` is called before some are dropped for want of room."""
        if self._octets + ready.octets + len(key) > self.limit:
            count()
            self._make_room()
        held = self.answers.get(key)
        self._octets += ready.octets
        if held is not None and held.until == ready.until and self.variants(key, held.until) < held.most:
            if held.others is None:
                held.others = []
            held.others.append(ready)
            return
        if held is not None:
            ready.hits = held.hits
            self._octets -= self._size(key, held)
        self._octets += len(key)
        self.answers[key] = ready

    def _size(self, key: bytes, held: Ready) -> int:
        return len(key) + held.octets + sum(other.octets for other in held.others or ())

    def _make_room(self) -> None:
        """Drop a quarter, those first that were made first."""
        for key in list(self.answers)[: len(self.answers) // 4 + 1]:
            self._octets -= self._size(key, self.answers.pop(key))

    def variants(self, key: bytes, until: int) -> int:
        """How many orders of the answer that is good before `until` there are."""
        held = self.answers.get(key)
        if held is None or held.until != until:
            return 0
        return 1 + len(held.others or ())

    def given(self) -> tuple[Seen, Seen]:
        """How often each was given over IPv4 and IPv6, once."""
        seen: tuple[Seen, Seen] = ({}, {})
        for ready in self.answers.values():
            if ready.hits:
                for index, times in enumerate((ready.hits % IPV6, ready.hits // IPV6)):
                    if times:
                        seen[index][ready.tail] = seen[index].get(ready.tail, 0) + times
                ready.hits = 0
        return seen

    def forget(self) -> None:
        """Drop them all; those that were given must have been counted."""
        self.answers.clear()
        self._octets = 0


def offsets(tail: bytes) -> tuple[int, ...]:
    """Where the TTLs of an answer without id stand, each followed by what it is."""
    wire = b"\0\0" + tail
    _, _, questions, *counts = HEADER.unpack_from(wire)
    position = 12
    found: list[int] = []
    try:
        for _ in range(questions):
            position = skip_name(wire, position) + 4
        for _ in range(sum(counts)):
            position = skip_name(wire, position, compressed=True)
            kind, _, ttl, length = struct.unpack_from("!HHIH", wire, position)
            if kind != OPT:
                found += (position + 2, ttl)  # +4, less the id
            position += 10 + length
    except (Malformed, struct.error):
        raise AssertionError("an answer of ours that cannot be read") from None
    return tuple(found)
