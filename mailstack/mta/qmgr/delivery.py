"""The active queue: messages with their requests at the scheduler, and the results that come back."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence

from mailstack.mta import lines
from mailstack.mta.deliver.request import Bounced, Deferred, Request, Result, Sent
from mailstack.mta.lookup import Pending, settled
from mailstack.mta.qmgr.active import Active, expanded, softened
from mailstack.mta.qmgr.assign import Assigned, assign, in_turns
from mailstack.mta.qmgr.ending import Ending
from mailstack.mta.qmgr.intake import Found, Site
from mailstack.mta.qmgr.scheduler import Transport
from mailstack.mta.verify import MTA, PROBE, is_probe
from mailstack.storage.queue import Message, NotOurs

CONTENT_CACHE = 16 * 1024 * 1024
"""Octets of content that active messages may hold in memory; the others are read when they are delivered."""
WARNED = 1_000
"""Destinations for which it is known when they were last warned of."""
PORTION = 2_000
"""Recipients of one message whose ways are looked up at once."""
IN_TURN = 100
"""Requests of one message that the scheduler has: mail waits behind no more of each other message."""
MANY_REQUESTS = 10
"""Requests of one message after which it lets others go first."""
PREPARING = frozenset(("lmtp", "smtp", "virtual"))
"""Agents that begin before a message is ours, and wait for that themselves before anybody can see it."""


class Delivery(Ending):
    """How messages get into the active queue, and through it."""

    # ---- in

    def _activate(self, message: Message, found: Found) -> None:
        entry = Active(message, self._clock.monotonic(), forced=found.forced)
        try:
            requests = self._requests(entry, list(message.pending))
        except Pending:
            self.active[message.queue_id] = entry  # nobody else takes it up meanwhile
            self._tasks.start(self._activate_later(entry, found), f"route {message.queue_id}")
            return
        self._begin(entry, found, requests)

    async def _activate_later(self, entry: Active, found: Found) -> None:
        """Go on with a message whose ways a slow table knows."""
        message = entry.message
        try:
            requests = await settled(lambda: self._requests(entry, list(message.pending)))
        finally:
            del self.active[message.queue_id]
        self._begin(entry, found, requests)

    def _begin(self, entry: Active, found: Found, requests: Assigned) -> None:
        message = entry.message
        if len(self.active) * 2 > self.configuration.limits.active_messages and not entry.forced:
            site = self._crowded(requests)
            if site is not None:
                self._set_aside(message, site, found)
                return
        envelope = message.envelope
        self.active[message.queue_id] = entry
        if message.acceptance is None:
            self._note(entry)
        if message.content is not None:
            if self._cached + len(message.content) > CONTENT_CACHE:
                message.content = None
            else:
                self._cached += len(message.content)
        if envelope.attributes and envelope.attributes.get(PROBE) == MTA:
            self._probes += 1
            if self._probes > self.configuration.limits.probes:
                requests = self._too_many(requests)
        if not requests:
            # Crossed off before a crash, and not removed.
            self._finish(entry)
            return
        self._schedule(entry, requests)

    def _note(self, entry: Active) -> None:
        message, envelope = entry.message, entry.message.envelope
        sender = self.configuration.limits.show(envelope.sender)
        self._log.info(
            f"{message.queue_id}: from=<{sender}>, size={envelope.size}, "
            f"nrcpt={len(message.pending)} (queue active)"
        )

    def _too_many(self, requests: Assigned) -> Assigned:
        """address_verify_pending_request_limit: the address stays unknown for now."""
        retry = self.configuration.transports.get("retry")
        for _, request in requests:
            request.nexthop = request.destination = "4.3.2 Too many address verification requests"
        return [(retry, request) for _, request in requests]

    def _crowded(self, requests: Assigned) -> Site | None:
        """A destination of a message, where every one of them has more than its share."""
        sites = [(transport.name, request.destination) for transport, request in requests]
        return sites[0] if sites and not any(map(self._has_share, sites)) else None

    def _set_aside(self, message: Message, site: Site, found: Found) -> None:
        """Leave a message on disk until its destination has caught up."""
        limits, now = self.configuration.limits, self._clock.monotonic()
        if limits.clog_warning and now >= self._warned.get(site[1], 0.0):
            if len(self._warned) >= WARNED:
                self._warned.clear()
            self._warned[site[1]] = now + limits.clog_warning
            load = self.configuration.transports.get(site[0]).load(site[1])
            share = f"{load} of {len(self.active)} active queue entries"
            self._log.warning(f"mail for {site[1]} is using up {share}")
        self._leave(message, site, found)

    def _leave(self, message: Message, site: Site, found: Found) -> None:
        """Leave a message on disk until there is room for it."""
        limits = self.configuration.limits
        if not self._intake.set_aside(site, found) and message.queue != "deferred":
            self._postpone(message, {}, message.attempts, limits.minimal_backoff)

    # ---- requests

    def _requests(self, entry: Active, pending: list[int]) -> Assigned:
        """The requests of a message.

        Recipients that would exceed `qmgr_message_recipient_limit` are left for later, in `entry.todo`.
        """
        configuration = self.configuration
        limits = configuration.limits
        rest: list[int] = []
        if len(pending) > limits.recipient_minimum:
            # Half of the room that is left: nobody takes all of it.
            room = min(PORTION, (limits.active_recipients - self._recipients) // 2)
            room = max(room, limits.recipient_minimum)
            pending, rest = pending[:room], pending[room:]
        requests = assign(configuration, entry.message, pending, entry.entered, forced=entry.forced)
        entry.recipients, entry.todo = len(pending), rest
        return requests

    def _schedule(self, entry: Active, requests: Assigned) -> None:
        self._recipients += entry.recipients
        if requests[0][1].message is not entry.message:
            entry.own += [request.message for _, request in requests]
        entry.waiting += len(requests)
        entry.few = min(IN_TURN, len(requests)) // 2
        if len(requests) > MANY_REQUESTS:
            for _, request in requests:
                request.many = True
        if len(requests) > IN_TURN:
            requests = in_turns(requests)
            entry.backlog = deque(requests[IN_TURN:])
            del requests[IN_TURN:]
        for transport, request in requests:
            transport.put(request, self._tasks, self._run)

    def _schedule_rest(self, entry: Active) -> None:
        """The recipients that there was no room for, while the last ones of those before are under way."""
        self._recipients -= entry.recipients
        todo, entry.recipients, entry.todo = entry.todo, 0, []
        try:
            self._schedule(entry, self._requests(entry, todo))
        except Pending:
            entry.waiting += 1  # until the others are there
            self._tasks.start(self._schedule_later(entry, todo), f"route {entry.message.queue_id}")

    async def _schedule_later(self, entry: Active, todo: list[int]) -> None:
        requests = await settled(lambda: self._requests(entry, todo))
        entry.waiting -= 1
        self._schedule(entry, requests)

    # ---- results

    async def _run(self, transport: Transport, request: Request) -> None:
        """Let the agent deliver a request and take its results."""
        request.started = self._clock.monotonic()
        if request.message.acceptance is None:
            await self._deliver(transport, request)
            return
        try:
            if request.refused is not None or transport.agent.daemon not in PREPARING:
                await request.message.ours()
            await self._deliver(transport, request)
        except NotOurs:
            self._abandon(self.active[request.message.queue_id])

    async def _deliver(self, transport: Transport, request: Request) -> None:
        if request.refused is not None:
            retry = self.configuration.transports.get("retry")
            self._settle(retry, request, request.all(request.refused))
            return
        try:
            results = await transport.agent.deliver(request)
        except (asyncio.CancelledError, NotOurs):
            # A stop that could not wait: the recipients stay pending, as after a crash.
            raise
        except Exception as error:
            transport.log.exception(f"{request.message.queue_id}: delivery to {request.nexthop}", error)
            results = request.all(Deferred("unexpected failure of the delivery agent", "4.3.0"))
        if request.message.acceptance is not None:
            await request.message.ours()
        self._settle(transport, request, results)

    def _settle(self, transport: Transport, request: Request, results: Sequence[Result]) -> None:
        """Take the results of a request: log them, and go on when they are the message's last."""
        entry = self.active[request.message.queue_id]
        limits = self.configuration.limits
        now = self._clock.monotonic()
        before = max(0.0, self._clock.time() - entry.message.envelope.arrival - (now - entry.entered))
        probe = is_probe(entry.message)
        for result in results:
            stages = (
                before,
                request.started - request.entered,
                result.connect,
                max(0.0, now - request.started - result.connect),
            )
            if limits.soft_bounce and isinstance(result.outcome, Bounced) and not probe:
                result = softened(result)
            transport.log.info(
                lines.delivery(
                    entry.message.queue_id,
                    result,
                    stages,
                    limits.digits,
                    limits.show,
                    self._take_probe(entry, result) if probe else "",
                )
            )
            if probe:
                continue
            match result.outcome:
                case Sent(action=action):
                    index = result.target.index
                    entry.done.append(index)
                    if (action and "SUCCESS" in entry.message.envelope.recipients[index].notify) or (
                        limits.confirm_cleared and self._was_late(entry.message, index)
                    ):
                        entry.confirmed.append(result)
                case Deferred():
                    entry.deferred.append(result)
                case Bounced():
                    entry.bounced.append(result)
        entry.waiting -= 1
        if entry.waiting or entry.todo or entry.deferred or entry.bounced:
            self._cross_off(entry)
        if entry.backlog:
            transport, request = entry.backlog.popleft()
            transport.put(request, self._tasks, self._run)
        elif entry.todo and entry.waiting <= entry.few:
            self._schedule_rest(entry)
        if entry.waiting:
            return
        if entry.bounced or entry.deferred or entry.confirmed or expanded(entry.message):
            self._tasks.start(self._report(entry), f"report on {entry.message.queue_id}")
        else:
            self._finish(entry)

    # ---- a message that is being flushed

    def _accept(self, entry: Active, ours: bool) -> None:
        """A message that was expected is ours, or never will be."""
        acceptance = entry.message.acceptance
        if acceptance is not None and acceptance.ours is None:
            acceptance.tell(ours)
            if ours:
                self._note(entry)

    def _abandon(self, entry: Active) -> None:
        """A request of a message that has not become ours is over."""
        entry.waiting -= 1
        if not entry.waiting:
            self._release(entry)
