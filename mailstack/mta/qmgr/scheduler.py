"""Transports and destinations: what is delivered next, and how many at once.

A transport (a line of master.cf) has destinations (nexthops), a destination has requests in order.
Destinations with work take turns, so that one with many messages does not hold up the others. At most
`window` requests of one destination and `process_limit` of one transport are under way. A request is run by a
worker task, which goes on with the next one when it is done: a task per busy slot, not per message.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from mailstack.mta.deliver.request import Agent, Request
from mailstack.net.log import Log
from mailstack.net.tasks import TaskSet

Run = Callable[["Transport", Request], Awaitable[None]]
"""Runs one request to its end, results taken; never raises."""


@dataclass(slots=True)
class Destination:
    """One nexthop of a transport."""

    nexthop: str
    window: int
    """Requests that may be under way at once; 0: any number."""
    running: int = 0
    waiting: deque[Request] = field(default_factory=deque)
    listed: bool = False
    """It is among the transport's destinations whose turn will come."""

    @property
    def has_room(self) -> bool:
        return not self.window or self.running < self.window


class Transport:
    """One way to deliver, with its agent and its limits."""

    def __init__(
        self,
        name: str,
        agent: Agent,
        log: Log,
        *,
        concurrency: int,
        recipients: int,
        process_limit: int,
    ) -> None:
        self.name = name
        self.agent = agent
        self.log = log
        self.recipient_limit = recipients
        self._concurrency = concurrency
        self._process_limit = process_limit
        self._running = 0
        self._destinations: dict[str, Destination] = {}
        self._turns: deque[Destination] = deque()

    @property
    def busy(self) -> bool:
        """Requests are under way or waiting."""
        return bool(self._destinations)

    def put(self, request: Request, tasks: TaskSet, run: Run) -> None:
        """Take a request; run it now if the limits allow, else when its turn comes."""
        destination = self._destinations.get(request.nexthop)
        if destination is None:
            destination = Destination(request.nexthop, self._concurrency)
            self._destinations[request.nexthop] = destination
        destination.waiting.append(request)
        self._list(destination)
        if not self._process_limit or self._running < self._process_limit:
            first = self._next()
            if first is not None:
                tasks.start(self._work(first, run), f"{self.name} worker")

    def _list(self, destination: Destination) -> None:
        if destination.waiting and destination.has_room and not destination.listed:
            destination.listed = True
            self._turns.append(destination)

    def _next(self) -> tuple[Destination, Request] | None:
        """The request whose turn it is, counted as running."""
        while self._turns:
            destination = self._turns.popleft()
            destination.listed = False
            if destination.waiting and destination.has_room:
                request = destination.waiting.popleft()
                destination.running += 1
                self._running += 1
                self._list(destination)
                return destination, request
        return None

    async def _work(self, first: tuple[Destination, Request], run: Run) -> None:
        turn: tuple[Destination, Request] | None = first
        while turn is not None:
            destination, request = turn
            try:
                await run(self, request)
            finally:
                self._done(destination)
            turn = self._next()

    def _done(self, destination: Destination) -> None:
        destination.running -= 1
        self._running -= 1
        if destination.waiting:
            self._list(destination)
        elif not destination.running:
            del self._destinations[destination.nexthop]
