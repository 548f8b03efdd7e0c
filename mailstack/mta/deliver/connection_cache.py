"""Connections that are kept for the next delivery, in place of scache(8).

A destination's connections are kept while it has mail one after the other (`smtp_connection_cache_on_demand`,
as qmgr(8) decides it: a delivery that begins less than `BACK_TO_BACK` seconds after one has ended keeps its
connection, and so do those that follow, until nothing is under way), or always, where
`smtp_connection_cache_destinations` names it. An idle one is closed after the time limit; one that has been
used for longer than the reuse limits allow is closed at the end of its delivery.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from mailstack.mta.deliver.session import Session
from mailstack.net.clock import Clock

BACK_TO_BACK = 1.0
"""Seconds between the end of a delivery and the start of the next that make them follow each other."""
REMEMBERED = 1000
"""Destinations whose last delivery is remembered."""


class ConnectionCache:
    """Idle sessions by destination, last used first, closed when they have been idle too long.

    `count_limit`: deliveries over one connection at the most; 0: any number.
    """

    def __init__(self, clock: Clock, idle_limit: float, age_limit: float, count_limit: int = 0) -> None:
        self._clock = clock
        self._idle_limit = idle_limit
        self._age_limit = age_limit
        self._count_limit = count_limit
        self._idle: dict[str, list[Session]] = {}
        self._sweep: asyncio.TimerHandle | None = None

    def take(self, destination: str) -> Session | None:
        """A session to use again, or None."""
        sessions = self._idle.get(destination)
        while sessions:
            session = sessions.pop()
            if session.usable:
                return session
            session.stream.close()
        return None

    def give(self, destination: str, session: Session) -> None:
        """Keep a session for the next delivery, or close it."""
        now = self._clock.monotonic()
        worn = now - session.opened >= self._age_limit
        worn = worn or bool(self._count_limit and session.uses >= self._count_limit)
        if not session.usable or not self._idle_limit or worn:
            session.say_goodbye()
            return
        session.idle_since = now
        self._idle.setdefault(destination, []).append(session)
        if self._sweep is None:
            self._sweep = asyncio.get_running_loop().call_later(self._idle_limit, self._expire)

    def _expire(self) -> None:
        """Close what has been idle for too long."""
        self._sweep = None
        limit = self._clock.monotonic() - self._idle_limit
        expired: list[Session] = []
        for destination, sessions in list(self._idle.items()):
            expired += [session for session in sessions if session.idle_since <= limit]
            self._idle[destination] = [session for session in sessions if session.idle_since > limit]
            if not self._idle[destination]:
                del self._idle[destination]
        for session in expired:
            session.say_goodbye()
        if self._idle:
            self._sweep = asyncio.get_running_loop().call_later(self._idle_limit, self._expire)

    def close(self) -> None:
        """Close every idle session."""
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        for sessions in self._idle.values():
            for session in sessions:
                session.say_goodbye()
        self._idle.clear()


class Demand:
    """Which destinations' connections are worth keeping.

    `always` is told a destination (lower case, without brackets and port) and says whether it was named.
    """

    def __init__(self, clock: Clock, *, on_demand: bool, always: Callable[[str], bool] | None) -> None:
        self._clock = clock
        self._on_demand = on_demand
        self._always = always
        self._running: dict[str, int] = {}
        self._ended: dict[str, float] = {}
        self._busy: set[str] = set()

    def begin(self, destination: str) -> None:
        """A delivery begins."""
        running = self._running.get(destination, 0)
        self._running[destination] = running + 1
        if self._on_demand:
            recent = self._clock.monotonic() - self._ended.get(destination, -BACK_TO_BACK) < BACK_TO_BACK
            if recent:
                self._busy.add(destination)
            elif not running:
                self._busy.discard(destination)

    def end(self, destination: str) -> None:
        """It has ended."""
        left = self._running[destination] - 1
        if left:
            self._running[destination] = left
        else:
            del self._running[destination]
        if self._on_demand:
            self._ended.pop(destination, None)
            if len(self._ended) >= REMEMBERED:
                oldest = next(iter(self._ended))
                del self._ended[oldest]
                self._busy.discard(oldest)
            self._ended[destination] = self._clock.monotonic()

    def wants(self, destination: str, domain: str) -> bool:
        """Whether a connection of this destination is to be kept."""
        return destination in self._busy or (self._always is not None and self._always(domain))
