"""The clients that wait for forwarders: at most `recursive-clients` questions of theirs.

When there are more, one of those makes room who have most: of the address with most questions, the port with
most, its oldest question. Whoever is that himself gets room only when his oldest one has waited for
`PATIENCE`: a flood from one socket ends before it costs much, and its questions have some time for answers.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

PATIENCE = 1.0
"""Seconds that a question may wait before a later one from the same address and port takes its place."""


@dataclass(slots=True, eq=False)
class Turn:
    """One client's wait. `over` is done when it has lost its place."""

    host: str
    port: int
    since: float
    over: asyncio.Future[None]


@dataclass(slots=True)
class _Host:
    count: int = 0
    ports: dict[int, dict[Turn, None]] = field(default_factory=dict)
    """Its questions by port, the oldest first."""


class Waiting:
    """Who waits, `most` at a time."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._hosts: dict[str, _Host] = {}
        self.count = 0

    def enter(self, host: str, port: int, now: float) -> Turn | None:
        """A place, `now` being seconds of any clock; None for who has most of them already."""
        if self.count >= self._most and not self._make_room(host, port, now):
            return None
        turn = Turn(host, port, now, asyncio.get_running_loop().create_future())
        mine = self._hosts.get(host)
        if mine is None:
            mine = self._hosts[host] = _Host()
        mine.ports.setdefault(port, {})[turn] = None
        mine.count += 1
        self.count += 1
        return turn

    def leave(self, turn: Turn) -> None:
        """The wait is over; also of one that has lost its place."""
        mine = self._hosts.get(turn.host)
        turns = None if mine is None else mine.ports.get(turn.port)
        if mine is None or turns is None or turn not in turns:
            return
        del turns[turn]
        mine.count -= 1
        self.count -= 1
        if not turns:
            del mine.ports[turn.port]
        if not mine.count:
            del self._hosts[turn.host]

    def _make_room(self, host: str, port: int, now: float) -> bool:
        most = max(self._hosts.values(), key=lambda one: one.count)
        turns = max(most.ports.values(), key=len)
        oldest = next(iter(turns))
        if (oldest.host, oldest.port) == (host, port) and now - oldest.since < PATIENCE:
            return False
        self.leave(oldest)
        if not oldest.over.done():
            oldest.over.set_result(None)
        return True
