"""qmgr(8): the active queue, from a message's arrival in incoming/ to its end.

States of a message here: *found* (`intake`) → *active* (read, its recipients resolved, its requests at the
scheduler) → settled (every recipient has a result) → removed, deferred, or reported to its sender. The active
queue is bounded by `qmgr_message_active_limit` messages and `qmgr_message_recipient_limit` recipients (of a
message with more, some after the others); what does not fit stays on disk and is found again by a scan.
Messages with at most `qmgr_message_recipient_minimum` recipients are let in whatever the others have. No
destination gets more of it than is left for the others.

Nothing is lost by a crash: a message leaves the disk only after its last recipient is done and every failure
has been reported by a durable message. A recipient that is delivered while others of the message are not is
crossed off at once. A failed message waits twice as long as the time before (`Limits.backoff`), and is
returned when it is older than `maximal_queue_lifetime`.

A message is delivered from where it lies; only one that takes longer than a moment is moved to active/ (see
docs/queue.md). A file that cannot be decoded is moved to corrupt/ and reported in the log.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mailstack.mta import flow, lines
from mailstack.mta.deliver.local import Forward
from mailstack.mta.deliver.request import Bounced, Deferred, Request, Result, Sent
from mailstack.mta.dsn import REPLACED
from mailstack.mta.lookup import Pending, settled
from mailstack.mta.qmgr import copies
from mailstack.mta.qmgr.assign import Assigned, assign, in_turns
from mailstack.mta.qmgr.intake import NOT_NOW, Found, Intake, Site
from mailstack.mta.qmgr.removal import Removal
from mailstack.mta.qmgr.scheduler import Transport
from mailstack.mta.qmgr.settings import Configuration
from mailstack.mta.qmgr.transports import Transports
from mailstack.mta.verify import MTA, PROBE, is_probe
from mailstack.net.clock import Clock
from mailstack.net.log import Log
from mailstack.net.tasks import TaskSet
from mailstack.storage.durable import GroupCommit
from mailstack.storage.queue import Acceptance, DamagedFile, Message, NotOurs, Queue, Reason

if TYPE_CHECKING:
    from mailstack.mta.verify.service import Verification

CONTENT_CACHE = 16 * 1024 * 1024
"""Octets of content that active messages may hold in memory; the others are read when they are delivered."""
SETTLE_TIME = 1.0
"""Seconds after which a message that is still active is moved to active/."""
BATCH = 50
"""Messages taken up before other work gets a turn."""
HEADERS = 64 * 1024
"""Octets in which the Message-ID: of a forwarded message is looked for."""
WARNED = 1_000
"""Destinations for which it is known when they were last warned of."""
PAUSE = 1.0
"""Seconds between two calls of `tick` at the most."""
PORTION = 2_000
"""Recipients of one message whose ways are looked up at once."""
IN_TURN = 100
"""Requests of one message that the scheduler has: mail waits behind no more of each other message."""
PREPARING = frozenset(("lmtp", "smtp", "virtual"))
"""Agents that begin before a message is ours, and wait for that themselves before anybody can see it."""
OVERDUE = 5.0
"""Seconds that a message which is being flushed is waited for."""
MANY_REQUESTS = 10
"""Requests of one message after which it lets others go first."""
MANY: Site = ("", "")
"""For whom messages with many recipients are set aside while too many recipients are active."""


@dataclass(slots=True)
class Active:
    """A message in the active queue."""

    message: Message
    entered: float
    recipients: int = 0
    """How many it counts for."""
    todo: list[int] = field(default_factory=list)
    """Recipients whose turn comes after those."""
    forced: bool = False
    """Somebody wants it to be tried now."""
    waiting: int = 0
    """Requests that have not come back."""
    backlog: deque[tuple[Transport, Request]] | None = None
    """Those of them that the scheduler has not been given yet, of a message with many."""
    few: int = 0
    """How many are left when the next recipients are taken."""
    done: list[int] = field(default_factory=list)
    """Recipients delivered and not yet crossed off on disk."""
    deferred: list[Result] = field(default_factory=list)
    bounced: list[Result] = field(default_factory=list)
    confirmed: list[Result] = field(default_factory=list)
    """Delivered, and the sender is to be told (NOTIFY=SUCCESS)."""
    own: list[Message] = field(default_factory=list)
    """The message as each recipient gets it, where they differ (VERP)."""
    finished: bool = False
    """Nothing is left to do but to remove the file."""


class QueueManager:
    """The queue manager; one per queue. Everything runs on one event loop."""

    def __init__(self, queue: Queue, commit: GroupCommit, clock: Clock, log: Log, tasks: TaskSet) -> None:
        self.queue = queue
        self.active: dict[str, Active] = {}
        self._commit = commit
        self._clock = clock
        self._log = log
        self._tasks = tasks
        self._intake = Intake(queue, self._has_share)
        self._warned: dict[str, float] = {}
        self._recipients = 0
        self._cached = 0
        self._stopping = False
        self._removal = Removal(queue, log, tasks, self._removed)
        self._wanted = asyncio.Event()
        self._current: Configuration | None = None
        self._retired: list[Transports] = []
        self._verification: Verification | None = None
        self._probes = 0
        """Questions among the active messages."""

    # ---- control

    @property
    def configuration(self) -> Configuration:
        assert self._current is not None, "configure() comes first"
        return self._current

    def configure(self, configuration: Configuration) -> Configuration | None:
        """Use another configuration from the next message on; return the one before."""
        before, self._current = self._current, configuration
        if before is not None:
            self._retired.append(before.transports)
        if self._verification is not None:
            self._verification.configure(configuration.conf, configuration.cleanup, configuration.rewriter)
        return before

    def verification(self) -> Verification:
        """verify(8), which is there from its first use on."""
        if self._verification is None:
            from mailstack.mta.verify.service import Verification  # most stacks never ask

            made = Verification(self.queue, self._commit, self._clock, self._log, self._tasks, self.new_mail)
            current = self.configuration
            made.configure(current.conf, current.cleanup, current.rewriter)
            self._verification = made
        return self._verification

    async def close(self) -> None:
        """Let go of files. Call it after the last delivery."""
        if self._verification is not None:
            await self._verification.close()

    def recover(self) -> None:
        """Take up what an earlier process has left: active/ goes back to incoming/, and all is scanned."""
        for queue_id in self.queue.names("active"):
            self.queue.move(queue_id, "active", "incoming")
        self.scan_incoming()
        self.scan_deferred()

    def new_mail(self, queue_id: str) -> None:
        """A message has arrived in incoming/."""
        intake = self._intake
        entry = self.active.get(queue_id)
        if entry is not None:
            self._accept(entry, True)
        elif intake.known or self._stopping or not self._has_room():
            intake.known.append(queue_id)
            if len(intake.known) == self.configuration.limits.in_flow:
                flow.set_behind(True)
            self._wanted.set()
        else:
            self._admit(Found("incoming", queue_id))

    def expect(self, queue_id: str) -> None:
        """A message is being flushed in incoming/: prepare its delivery, if nothing else is to be done first.

        `new_mail` follows when it is ours. What cannot be prepared at once is left until then.
        """
        limits = self.configuration.limits
        if self._intake.known or self._stopping or queue_id in self.active:
            return
        if len(self.active) * 2 >= limits.active_messages:
            return
        try:
            message = self.queue.read("incoming", queue_id)
            if len(message.pending) > limits.recipient_minimum:
                return
            message.acceptance = Acceptance()
            entry = Active(message, self._clock.monotonic())
            requests = self._requests(entry, list(message.pending))
        except (DamagedFile, OSError, Pending):
            return
        self._begin(entry, Found("incoming", queue_id), requests)

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

    def scan_incoming(self) -> None:
        """Look for mail in incoming/ that nobody has told us of."""
        try:
            begun = self._intake.scan_incoming()
        except OSError as error:
            self._log.warning(f"scan {error.filename}: {error.strerror or error}")
            return
        if begun:
            self._wanted.set()

    def scan_deferred(self, *, ignore_time: bool = False, domain: str = "") -> None:
        """Look for deferred mail whose time has come; with `ignore_time`, for all, or all of a domain.

        Who asks for that also wants dead destinations to be tried again.
        """
        if ignore_time:
            self.configuration.transports.revive()
        if self._intake.scan_deferred(forced=ignore_time, domain=domain):
            self._wanted.set()

    def deliver_now(self, queue_id: str) -> None:
        """Try one deferred message now, whatever its time and the state of its destination."""
        self.configuration.transports.revive()
        self._intake.ask(queue_id)
        self._wanted.set()

    def stop(self) -> None:
        """Take up nothing more."""
        self._stopping = True
        for entry in self.active.values():
            self._accept(entry, False)
        self._wanted.set()

    # ---- taking up

    async def run(self) -> None:
        """Take up messages as there is room, until `stop`."""
        while not self._stopping:
            await self._wanted.wait()
            self._wanted.clear()
            while not self._stopping and self._take_up(BATCH):  # noqa: ASYNC110 - lets others run
                await asyncio.sleep(0)

    def _take_up(self, count: int) -> bool:
        """Take up some messages; False when there is no room or nothing left."""
        intake = self._intake
        more = True
        for _ in range(count):
            if not self._has_room():
                intake.full()
                more = False
                break
            try:
                found = intake.next(self._clock.time())
            except OSError as error:
                # That look is over; the next one finds what this one has not.
                self._log.warning(f"scan {error.filename}: {error.strerror or error}")
                continue
            if found is None:
                more = False
                break
            if found.queue_id not in self.active and found is not NOT_NOW:
                self._admit(found)
        if flow.behind() and len(intake.known) < self.configuration.limits.in_flow:
            flow.set_behind(False)
        return more

    def _has_room(self) -> bool:
        return len(self.active) < self.configuration.limits.active_messages

    def _has_room_for_many(self) -> bool:
        """Whether messages with many recipients may become active."""
        return self._recipients < self.configuration.limits.active_recipients

    def _admit(self, found: Found) -> None:
        """Read a message that is not active, and make it so. Problems are logged, never raised."""
        queue_name, queue_id = found.queue, found.queue_id
        try:
            message = self.queue.read(queue_name, queue_id)
        except FileNotFoundError:
            return  # somebody else has finished or moved it
        except DamagedFile as error:
            self._corrupt(queue_name, queue_id, str(error))
            return
        except OSError as error:
            self._log.warning(f"{queue_id}: open {queue_name}: {error.strerror or error}")
            return
        if queue_name == "deferred":
            if message.mtime > self._clock.time() and not found.forced:
                return
            if found.domain and not _mentions(message, found.domain):
                return
        if len(message.pending) > self.configuration.limits.recipient_minimum and not (
            self._has_room_for_many() or found.forced
        ):
            self._leave(message, MANY, found)
            return
        self._activate(message, found)

    def _corrupt(self, queue_name: str, queue_id: str, reason: str) -> None:
        self._log.warning(f"{queue_id}: damaged queue file in {queue_name}: {reason}; saved in corrupt")
        try:
            self.queue.move(queue_id, queue_name, "corrupt")
        except OSError as error:
            self._log.warning(f"{queue_id}: move to corrupt: {error.strerror or error}")

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

    # ---- shares of the active queue

    def _has_share(self, site: Site) -> bool:
        """Whether a destination has no more of the active queue than is left for the others."""
        if site is MANY:
            return self._has_room_for_many()
        transport, destination = site
        load = self.configuration.transports.get(transport).load(destination)
        return load <= self.configuration.limits.active_messages - len(self.active)

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

    # ---- delivery

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
                result = _softened(result)
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
        if entry.bounced or entry.deferred or entry.confirmed or _expanded(entry.message):
            self._tasks.start(self._report(entry), f"report on {entry.message.queue_id}")
        else:
            self._finish(entry)

    def _take_probe(self, entry: Active, result: Result) -> str:
        """Take what has been found out of an address; return the log's word for it."""
        if entry.message.envelope.attributes[PROBE] == MTA:
            verification = self.verification()
            verification.result(entry.message, result)
            return verification.status(result.outcome)
        entry.confirmed.append(result)
        return "deliverable" if isinstance(result.outcome, Sent) else "undeliverable"

    def _cross_off(self, entry: Active) -> None:
        """Write down who has been delivered, for others are not."""
        done, entry.done = entry.done, []
        if not done:
            return
        try:
            self.queue.mark_done(entry.message, done)
        except OSError as error:
            self._log.warning(f"{entry.message.queue_id}: cross off recipients: {error.strerror or error}")

    # ---- the end

    def _finish(self, entry: Active) -> None:
        """Every recipient is done: remove the message."""
        entry.finished = True
        self._removal.add(entry.message)

    def _removed(self, queue_id: str) -> None:
        self._release(self.active[queue_id])

    def _release(self, entry: Active) -> None:
        message = entry.message
        del self.active[message.queue_id]
        self._recipients -= entry.recipients
        if message.envelope.attributes and message.envelope.attributes.get(PROBE) == MTA:
            self._probes -= 1
        if message.content is not None:
            self._cached -= len(message.content)
        if not self._wanted.is_set() and self._intake.waiting:
            self._wanted.set()

    async def _report(self, entry: Active) -> None:
        """Tell the sender: of those that failed for good, are late, or were delivered where he wants to know
        (RFC 3461); defer what has failed for now."""
        message, limits = entry.message, self.configuration.limits
        now = self._clock.time()
        age = now - message.envelope.arrival
        lifetime = limits.lifetime if message.envelope.sender else limits.bounce_lifetime
        if entry.deferred and age >= lifetime:
            sender = limits.show(message.envelope.sender)
            self._log.info(f"{message.queue_id}: from=<{sender}>, status=expired, returned to sender")
            entry.bounced += entry.deferred
            entry.deferred = []
        if entry.bounced:
            try:
                await self.configuration.bouncer.send(message, entry.bounced)
                self.queue.mark_done(message, [result.target.index for result in entry.bounced])
            except OSError as error:
                # They stay pending: the report is tried again with the next attempt.
                self._log.warning(f"{message.queue_id}: bounce: {error.strerror or error}")
                entry.deferred += entry.bounced
        await self._notify(entry, now)
        if entry.deferred:
            self._defer(entry, now)
            self._release(entry)
        else:
            self._finish(entry)

    async def _notify(self, entry: Active, now: float) -> None:
        """Notifications other than failures; one that cannot be queued is lost, with a warning."""
        message, bouncer = entry.message, self.configuration.bouncer
        try:
            if entry.deferred and self._late(message, now):
                await bouncer.warn(message, entry.deferred)
            expanded = _expanded(message)
            if is_probe(message):
                await bouncer.verified(message, entry.confirmed)
            elif entry.confirmed or expanded:
                await bouncer.confirm(message, entry.confirmed, expanded)
        except OSError as error:
            self._log.warning(f"{message.queue_id}: notification: {error.strerror or error}")

    def _was_late(self, message: Message, index: int) -> bool:
        """Whether the sender has been warned of the delay of a recipient that is delivered now."""
        envelope, reason = message.envelope, message.reasons.get(index)
        limit = self.configuration.limits.warning_time
        if not limit or not envelope.sender or reason is None:
            return False
        notify = envelope.recipients[index].notify
        return reason.time - envelope.arrival >= limit and (not notify or "DELAY" in notify)

    def _late(self, message: Message, now: float) -> bool:
        """Whether `delay_warning_time` has passed, and had not at the attempt before."""
        limit = self.configuration.limits.warning_time
        if not limit or now - message.envelope.arrival < limit:
            return False
        before = max((reason.time for reason in message.reasons.values()), default=0.0)
        return before - message.envelope.arrival < limit

    def _defer(self, entry: Active, now: float) -> None:
        message = entry.message
        reasons = {
            result.target.index: Reason(now, result.outcome.dsn, result.outcome.text)
            for result in entry.deferred
        }
        self._postpone(
            message, reasons, message.attempts + 1, self.configuration.limits.backoff(message.attempts + 1)
        )

    def _postpone(self, message: Message, reasons: dict[int, Reason], attempts: int, seconds: float) -> None:
        """Move a message to deferred/ for so many seconds."""
        next_attempt = self._clock.time() + seconds
        try:
            self.queue.defer(message, reasons, next_attempt, attempts)
        except FileNotFoundError:
            return  # the administrator has taken it away
        except OSError as error:
            self._log.warning(f"{message.queue_id}: defer: {error.strerror or error}")
        self._intake.note_due(next_attempt, message.queue_id)

    # ---- now and then

    def tick(self) -> float:
        """Now and then: move what takes long to active/, take up what has become due, end pauses.

        Returns the seconds after which to call it again, at most `PAUSE`.
        """
        settled = self._clock.monotonic() - SETTLE_TIME
        overdue = settled + SETTLE_TIME - OVERDUE
        for entry in self.active.values():
            if entry.entered > settled:
                break  # the newest come last
            if entry.message.queue != "active" and not entry.finished:
                acceptance = entry.message.acceptance
                if acceptance is None or acceptance.ours is not None:
                    self._move_to_active(entry)
                elif entry.entered <= overdue:
                    # Whoever was taking it is gone, or slow: it is as if it had been found by a look.
                    path = self.queue.path("incoming", entry.message.queue_id)
                    self._accept(entry, os.path.lexists(path))
        if self._intake.is_due(self._clock.time()):
            self._wanted.set()
        # What waits under an earlier configuration is still delivered under it, after its pauses.
        self._retired = [transports for transports in self._retired if transports.busy]
        used = (self.configuration.transports, *self._retired)
        if self._verification is not None:
            self._verification.tick()
        return min(PAUSE, *(transports.tick(self._tasks, self._run) for transports in used))

    def _move_to_active(self, entry: Active) -> None:
        message = entry.message
        try:
            self.queue.move(message.queue_id, message.queue, "active")
            message.queue = "active"
            for own in entry.own:
                own.queue = "active"
        except OSError as error:
            self._log.warning(f"{message.queue_id}: move to active: {error.strerror or error}")

    # ---- mail made here

    async def forward(self, message: Message, address: str, forward: Forward) -> str:
        """An alias's addresses get a message of their own; return its id. Raises `OSError`."""
        cleanup, now = self.configuration.cleanup, self._clock.time()
        queue_id = await copies.forward(self.queue, self._commit, cleanup, message, address, forward, now)
        self._log.child(f"{self.configuration.conf.str('syslog_name')}/cleanup").info(
            f"{queue_id}: message-id={lines.message_id(self.queue.read_content(message, HEADERS))}"
        )
        self.new_mail(queue_id)
        return queue_id


def _mentions(message: Message, domain: str) -> bool:
    """Whether a pending recipient is of `domain` (ETRN)."""
    recipients = message.envelope.recipients
    return any(recipients[index].address.lower().endswith(f"@{domain}") for index in message.pending)


def _expanded(message: Message) -> str:
    """The recipients that aliases have replaced and whose sender is to be told so, once: cleanup's record."""
    attributes = message.envelope.attributes
    return attributes.get(REPLACED, "") if attributes and not message.attempts else ""


def _softened(result: Result) -> Result:
    """soft_bounce: what failed for good has failed for now."""
    outcome = Deferred(result.outcome.text, "4" + result.outcome.dsn[1:])
    return Result(
        result.target,
        outcome,
        result.relay,
        result.connect,
        result.uses,
        result.remote_mta,
        result.diagnostic,
    )
