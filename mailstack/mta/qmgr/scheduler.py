"""Transports and destinations: what is delivered next, and how many at once.

A transport (a line of master.cf) has destinations (nexthops; single recipients where a delivery has only
one), a destination has requests in order. Destinations with work take turns, so that one with many messages
does not hold up the others. At most a window of requests of one destination (`concurrency`), and
`process_limit` of one transport, are under way. A request is run by a worker task, which goes on with the
next one when it is done: a task per busy slot, not per message.

Requests of messages with many (`Request.many`) let others go first, as Postfix's preemption has it: a
destination has lanes for both, and so have the turns of the destinations; when `FIRST` others have gone past
those with many, it is theirs. And of all of these that could begin, in whatever transport, one does in each
round of the event loop: a hundred deliveries to hosts that are quick would else be in every round, and all
that is short behind them.

A destination that is dead costs no delivery attempt: what waits for it, and what comes while it is dead, is
given back at once with `Request.refused` set, a few at a time. Its name is remembered for
`minimal_backoff_time`; a transport remembers at most `DEAD_LIMIT` of them and forgets the oldest first.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from mailstack.mta.address_maps import split_extension
from mailstack.mta.deliver.request import Agent, Deferred, Request
from mailstack.mta.qmgr.concurrency import Policy, Window
from mailstack.net.clock import Clock
from mailstack.net.log import Log
from mailstack.net.tasks import TaskSet, Turns

T = TypeVar("T")
Run = Callable[["Transport", Request], Awaitable[None]]
"""Runs one request to its end, results taken; never raises."""

DEAD_LIMIT = 5_000
"""Dead destinations of one transport that are remembered."""
GIVE_BACK = 20
"""Requests given back before other work gets a turn."""
FIRST = 4
"""Requests of small messages that go past one of a message with many."""

_rounds = Turns()
"""Turns for requests of messages with many to begin."""


class Lanes(Generic[T]):
    """What waits in order: small ones first, but one of the many after `FIRST` of them."""

    __slots__ = ("_many", "_passed", "_small")

    def __init__(self) -> None:
        self._small: deque[T] = deque()
        self._many: deque[T] | None = None
        self._passed = 0

    def __len__(self) -> int:
        return len(self._small) + (len(self._many) if self._many else 0)

    def append(self, item: T, *, many: bool) -> None:
        if not many:
            self._small.append(item)
        elif self._many is None:
            self._many = deque((item,))
        else:
            self._many.append(item)

    @property
    def many_next(self) -> bool:
        """Whether `popleft` would give one of the many."""
        return bool(self._many) and (not self._small or self._passed >= FIRST)

    def popleft(self) -> T:
        if not self._many:
            return self._small.popleft()
        if self.many_next:
            self._passed = 0
            return self._many.popleft()
        self._passed += 1
        return self._small.popleft()


@dataclass(slots=True)
class Destination:
    """One nexthop of a transport."""

    name: str
    window: Window
    running: int = 0
    waiting: Lanes[Request] = field(default_factory=Lanes)
    listed: bool = False
    """It is among the transport's destinations whose turn will come."""
    hurried: bool = False
    """It is in the lane of those with small messages there."""
    until: float = 0.0
    """When it may be used again (monotonic seconds); 0: now."""
    dead: Deferred | None = None
    """Why it is dead."""
    returning: bool = False
    """What waits for it is being given back."""


class Transport:
    """One way to deliver, with its agent and its limits."""

    def __init__(
        self,
        name: str,
        agent: Agent,
        log: Log,
        clock: Clock,
        *,
        policy: Policy,
        recipients: int,
        process_limit: int,
        single: bool = True,
        delimiters: str = "",
    ) -> None:
        self.name = name
        self.agent = agent
        self.log = log
        self.recipient_limit = recipients
        self.single = recipients == 1 and single
        """Each recipient is a destination of its own; else each nexthop is."""
        self._delimiters = delimiters
        self._clock = clock
        self._policy = policy
        self._process_limit = process_limit
        if policy.transport_delay:
            self._process_limit = 1
        self._until = 0.0
        """When the next delivery may begin (transport_delay; monotonic seconds)."""
        self._running = 0
        self._destinations: dict[str, Destination] = {}
        self._turns: Lanes[Destination] = Lanes()
        self._paused: deque[Destination] = deque()
        """Those with a rate delay, in the order in which it ends."""
        self._dead: dict[str, Destination] = {}
        """In the order in which they died."""

    @property
    def busy(self) -> bool:
        """Requests are under way or waiting."""
        return any(place.running or place.waiting for place in self._destinations.values())

    def recipient(self, nexthop: str, address: str) -> str:
        """Whose share a delivery counts for, where each has one recipient (`single`)."""
        local, _, domain = address.rpartition("@")
        user = split_extension(local, self._delimiters)[0]
        return f"{user}@{domain if nexthop == address else nexthop}".lower()

    def load(self, name: str) -> int:
        """Requests that a destination has, waiting and under way."""
        destination = self._destinations.get(name)
        return 0 if destination is None else len(destination.waiting) + destination.running

    def put(self, request: Request, tasks: TaskSet, run: Run) -> None:
        """Take a request; run it now if the limits allow, else when its turn comes."""
        name = request.destination
        destination = self._destinations.get(name)
        if destination is None:
            destination = self._destinations[name] = Destination(name, Window(self._policy))
        if (
            not destination.running
            and not destination.waiting
            and not destination.until
            and not self._until
            and not self._turns
            and not (self._process_limit and self._running >= self._process_limit)
        ):  # nearly all mail
            destination.running = 1
            self._running += 1
            tasks.start(self._work((destination, request), tasks, run), f"{self.name} worker")
            return
        destination.waiting.append(request, many=request.many)
        if destination.dead is not None:
            self._give_back(destination, tasks, run)
            return
        self._list(destination)
        if not self._process_limit or self._running < self._process_limit:
            first = self._next()
            if first is not None:
                tasks.start(self._work(first, tasks, run), f"{self.name} worker")

    def _list(self, destination: Destination) -> None:
        if destination.running >= destination.window.size or destination.until or not destination.waiting:
            return
        many = destination.waiting.many_next
        # One that waits in the lane of the many changes lanes when a small message comes; what is left of it
        # there is one turn more.
        if not destination.listed or not (many or destination.hurried):
            destination.listed, destination.hurried = True, not many
            self._turns.append(destination, many=many)

    def _next(self) -> tuple[Destination, Request] | None:
        """The request whose turn it is, counted as running."""
        if self._until and self._clock.monotonic() < self._until:
            return None
        while self._turns:
            destination = self._turns.popleft()
            destination.listed = False
            waiting = destination.waiting
            if waiting and destination.running < destination.window.size and not destination.until:
                request = waiting.popleft()
                destination.running += 1
                self._running += 1
                if waiting:
                    self._list(destination)
                return destination, request
        return None

    async def _work(self, first: tuple[Destination, Request], tasks: TaskSet, run: Run) -> None:
        turn: tuple[Destination, Request] | None = first
        while turn is not None:
            destination, request = turn
            try:
                if request.many:
                    await _rounds.take()
                await run(self, request)
            finally:
                self._done(destination, request, tasks, run)
            turn = self._next()
            # A window that has grown takes more than the request that this worker goes on with.
            if turn is not None and self._turns:
                self._fill(tasks, run)

    def _fill(self, tasks: TaskSet, run: Run) -> None:
        """Start workers for what may be delivered now."""
        while not self._process_limit or self._running < self._process_limit:
            first = self._next()
            if first is None:
                return
            tasks.start(self._work(first, tasks, run), f"{self.name} worker")

    def _done(self, destination: Destination, request: Request, tasks: TaskSet, run: Run) -> None:
        window = destination.window
        if request.site_failure is None:
            if destination.dead is not None:
                self._revive(destination)  # somebody has got through after all
            else:
                window.succeeded(destination.running)
        elif destination.dead is None and window.failed():
            self._bury(destination, request.site_failure, tasks, run)
        destination.running -= 1
        self._running -= 1
        if self._policy.transport_delay:
            self._until = self._clock.monotonic() + self._policy.transport_delay
        if self._policy.rate_delay and destination.dead is None:
            destination.until = self._clock.monotonic() + self._policy.rate_delay
            self._paused.append(destination)
        elif destination.waiting:
            self._list(destination)
        else:
            self._forget(destination)

    def _forget(self, destination: Destination) -> None:
        """Nothing is left of a destination without requests."""
        idle = not destination.waiting and not destination.running and not destination.returning
        if idle and not destination.until and self._destinations.get(destination.name) is destination:
            del self._destinations[destination.name]

    # ---- dead destinations

    def _bury(self, destination: Destination, why: Deferred, tasks: TaskSet, run: Run) -> None:
        """A destination is dead: it is left alone for a while."""
        destination.dead = Deferred(f"delivery temporarily suspended: {why.text}", why.dsn)
        destination.until = self._clock.monotonic() + self._policy.dead_time
        self._dead[destination.name] = destination
        if len(self._dead) > DEAD_LIMIT:
            oldest = next(iter(self._dead.values()))
            self._revive(oldest)
            self._forget(oldest)
        self._give_back(destination, tasks, run)

    def _revive(self, destination: Destination) -> None:
        del self._dead[destination.name]
        destination.dead = None
        destination.until = 0.0
        destination.window.restart(destination.running)

    def _give_back(self, destination: Destination, tasks: TaskSet, run: Run) -> None:
        if destination.waiting and not destination.returning:
            destination.returning = True
            tasks.start(self._return(destination, tasks, run), f"{self.name} suspended")

    async def _return(self, destination: Destination, tasks: TaskSet, run: Run) -> None:
        """Give back what waits for a dead destination."""
        try:
            while destination.waiting and destination.dead is not None:
                for _ in range(min(GIVE_BACK, len(destination.waiting))):
                    request = destination.waiting.popleft()
                    request.refused = destination.dead
                    await run(self, request)
                await asyncio.sleep(0)
        finally:
            destination.returning = False
        self._list(destination)
        self._forget(destination)
        self._fill(tasks, run)

    # ---- time

    def tick(self, tasks: TaskSet, run: Run) -> float:
        """Go on with destinations whose pause is over; seconds until the next one's (infinite: none)."""
        if not self._paused and not self._dead and not self._until:
            return float("inf")
        now = self._clock.monotonic()
        while self._paused and self._paused[0].until <= now:
            destination = self._paused.popleft()
            destination.until = 0.0
            self._list(destination)
            self._forget(destination)
        for destination in list(self._dead.values()):
            if destination.until > now:
                break
            self._revive(destination)
            self._list(destination)
            self._forget(destination)
        self._fill(tasks, run)
        if self._until <= now:
            self._until = 0.0
        first = [self._paused[0].until] if self._paused else []
        first += [self._until] * bool(self._until)
        first += [destination.until for destination in list(self._dead.values())[:1]]
        return min((until - now for until in first), default=float("inf"))

    def revive(self) -> None:
        """Forget that destinations are dead (the administrator wants everything to be tried)."""
        for destination in list(self._dead.values()):
            self._revive(destination)
            self._list(destination)
            self._forget(destination)
