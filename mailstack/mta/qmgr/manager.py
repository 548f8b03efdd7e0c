"""qmgr(8): the active queue, from a message's arrival in incoming/ to its end.

States of a message here: *known* (an id has come by datagram or from a scan) → *active* (read, its recipients
resolved, its requests at the scheduler) → settled (every recipient has a result) → removed, deferred, or
reported to its sender. New mail goes before deferred mail. The active queue is bounded by
`qmgr_message_active_limit` messages and `qmgr_message_recipient_limit` recipients; what does not fit stays on
disk and is found again by a scan.

Nothing is lost by a crash: a message leaves the disk only after its last recipient is done and every failure
has been reported by a durable message. A recipient that is delivered while others of the message are not is
crossed off at once. A failed message waits twice as long as the time before (`Limits.backoff`), and is
returned when it is older than `maximal_queue_lifetime`.

A message is delivered from where it lies; only one that takes longer than a moment is moved to active/ (see
docs/queue.md). A file that cannot be decoded is moved to corrupt/ and reported in the log.
"""

from __future__ import annotations

import asyncio
import heapq
import os
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

from mailstack.mta import lines
from mailstack.mta.deliver.local import EXPANDED, Forward
from mailstack.mta.deliver.request import Bounced, Deferred, Request, Result, Sent, Target
from mailstack.mta.qmgr.scheduler import Transport
from mailstack.mta.qmgr.settings import Configuration
from mailstack.net.clock import Clock
from mailstack.net.log import Log
from mailstack.net.tasks import TaskSet
from mailstack.storage.background import Background
from mailstack.storage.durable import GroupCommit
from mailstack.storage.queue import DamagedFile, Entry, Envelope, Message, Queue, Reason
from mailstack.wire.smtp import quote

CONTENT_CACHE = 16 * 1024 * 1024
"""Octets of content that active messages may hold in memory; the others are read when they are delivered."""
COPY = 256 * 1024
"""Octets copied at once."""
REMOVE_EVERY = 0.01
"""Seconds in which finished messages gather before they are removed together: the thread that removes them
and the event loop take the interpreter from each other."""
SETTLE_TIME = 1.0
"""Seconds after which a message that is still active is moved to active/."""
BATCH = 50
"""Messages taken up before other work gets a turn."""
DUE_LIMIT = 20_000
"""Deferred messages whose next attempt is known to the second; scans find the others."""


@dataclass(slots=True)
class Active:
    """A message in the active queue."""

    message: Message
    entered: float
    recipients: int
    """How many it counts for."""
    waiting: int = 0
    """Requests that have not come back."""
    done: list[int] = field(default_factory=list)
    """Recipients delivered and not yet crossed off on disk."""
    deferred: list[Result] = field(default_factory=list)
    bounced: list[Result] = field(default_factory=list)
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
        self._known: deque[str] = deque()
        self._incoming: Iterator[str] | None = None
        self._deferred: Iterator[Entry] | None = None
        self._ignore_time = False
        self._only_domain = ""
        self._due: list[tuple[float, str]] = []
        self._recipients = 0
        self._cached = 0
        self._stopping = False
        self._finished: list[Active] = []
        self._removing = False
        self._background = Background("remove")
        self._wanted = asyncio.Event()
        self._current: Configuration | None = None

    # ---- control

    @property
    def configuration(self) -> Configuration:
        assert self._current is not None, "configure() comes first"
        return self._current

    def configure(self, configuration: Configuration) -> Configuration | None:
        """Use another configuration from the next message on; return the one before."""
        before, self._current = self._current, configuration
        return before

    def recover(self) -> None:
        """Take up what an earlier process has left: active/ goes back to incoming/, and all is scanned."""
        for queue_id in self.queue.names("active"):
            self.queue.move(queue_id, "active", "incoming")
        self.scan_incoming()
        self.scan_deferred()

    def new_mail(self, queue_id: str) -> None:
        """A message has arrived in incoming/."""
        if self._known or not self._admit_now(queue_id):
            self._known.append(queue_id)
            self._wanted.set()

    def scan_incoming(self) -> None:
        """Look for mail in incoming/ that nobody has told us of."""
        if self._incoming is None:
            self._incoming = iter(self.queue.names("incoming"))
            self._wanted.set()

    def scan_deferred(self, *, ignore_time: bool = False, domain: str = "") -> None:
        """Look for deferred mail whose time has come; with `ignore_time`, for all, or all of a domain."""
        if self._deferred is None or ignore_time:
            self._deferred = self.queue.scan("deferred")
            self._ignore_time = ignore_time
            self._only_domain = domain.lower()
            self._wanted.set()

    def stop(self) -> None:
        """Take up nothing more."""
        self._stopping = True
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
        for _ in range(count):
            if not self._has_room():
                return False
            if not self._next():
                return False
        return True

    def _has_room(self) -> bool:
        limits = self.configuration.limits
        return len(self.active) < limits.active_messages and self._recipients < limits.active_recipients

    def _next(self) -> bool:
        """One step: known mail, then incoming/, then deferred mail that is due, then deferred/."""
        if self._known:
            self._admit("incoming", self._known.popleft())
            return True
        if self._incoming is not None:
            queue_id = next(self._incoming, None)
            if queue_id is None:
                self._incoming = None
            else:
                self._admit("incoming", queue_id)
            return True
        now = self._clock.time()
        if self._due and self._due[0][0] <= now:
            self._admit("deferred", heapq.heappop(self._due)[1])
            return True
        if self._deferred is not None:
            entry = next(self._deferred, None)
            if entry is None:
                self._deferred, self._ignore_time, self._only_domain = None, False, ""
            elif self._ignore_time or entry.mtime <= now:
                self._admit("deferred", entry.queue_id)
            return True
        return False

    def _admit_now(self, queue_id: str) -> bool:
        if self._stopping or not self._has_room():
            return False
        self._admit("incoming", queue_id)
        return True

    def _admit(self, queue_name: str, queue_id: str) -> None:
        """Read a message and make it active. Problems are logged, never raised."""
        if queue_id in self.active:
            return
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
            if message.mtime > self._clock.time() and not self._ignore_time:
                return
            if self._only_domain and not _mentions(message, self._only_domain):
                return
        self._activate(message)

    def _corrupt(self, queue_name: str, queue_id: str, reason: str) -> None:
        self._log.warning(f"{queue_id}: damaged queue file in {queue_name}: {reason}; saved in corrupt")
        try:
            self.queue.move(queue_id, queue_name, "corrupt")
        except OSError as error:
            self._log.warning(f"{queue_id}: move to corrupt: {error.strerror or error}")

    def _activate(self, message: Message) -> None:
        envelope = message.envelope
        count = len(message.pending)
        entry = Active(message, self._clock.monotonic(), count)
        self.active[message.queue_id] = entry
        self._recipients += count
        if message.content is not None:
            if self._cached + len(message.content) > CONTENT_CACHE:
                message.content = None
            else:
                self._cached += len(message.content)
        self._log.info(
            f"{message.queue_id}: from=<{quote(envelope.sender)}>, size={envelope.size}, "
            f"nrcpt={count} (queue active)"
        )
        if not count:
            # Crossed off before a crash, and not removed.
            self._finish(entry)
            return
        requests = self._resolve(entry)
        entry.waiting = len(requests)
        for transport, request in requests:
            transport.put(request, self._tasks, self._run)

    def _resolve(self, entry: Active) -> list[tuple[Transport, Request]]:
        """The requests of a message: recipients that go the same way, up to the transport's limit each."""
        message, configuration = entry.message, self.configuration
        groups: dict[tuple[str, str], list[Target]] = {}
        for index in message.pending:
            route = configuration.router.route(message.envelope, message.envelope.recipients[index])
            if route.transport in configuration.limits.defer_transports and not self._ignore_time:
                route = route._replace(transport="retry", nexthop="4.3.2 deferred transport")
            target = Target(index, route.address, route.original)
            groups.setdefault((route.transport, route.nexthop), []).append(target)
        requests = []
        for (name, nexthop), targets in groups.items():
            transport = configuration.transports.get(name)
            limit = transport.recipient_limit or len(targets)
            requests += [
                (transport, Request(message, nexthop, targets[start : start + limit], entry.entered))
                for start in range(0, len(targets), limit)
            ]
        return requests

    # ---- delivery

    async def _run(self, transport: Transport, request: Request) -> None:
        """Let the agent deliver a request and take its results."""
        request.started = self._clock.monotonic()
        try:
            results = await transport.agent.deliver(request)
        except asyncio.CancelledError:
            # A stop that could not wait: the recipients stay pending, as after a crash.
            raise
        except Exception as error:
            transport.log.exception(f"{request.message.queue_id}: delivery to {request.nexthop}", error)
            results = request.all(Deferred("unexpected failure of the delivery agent", "4.3.0"))
        self._settle(transport, request, results)

    def _settle(self, transport: Transport, request: Request, results: Sequence[Result]) -> None:
        """Take the results of a request: log them, and go on when they are the message's last."""
        entry = self.active[request.message.queue_id]
        limits = self.configuration.limits
        now = self._clock.monotonic()
        before = max(0.0, self._clock.time() - entry.message.envelope.arrival - (now - entry.entered))
        for result in results:
            stages = (
                before,
                request.started - request.entered,
                result.connect,
                max(0.0, now - request.started - result.connect),
            )
            if limits.soft_bounce and isinstance(result.outcome, Bounced):
                result = _softened(result)
            transport.log.info(lines.delivery(entry.message.queue_id, result, stages, limits.digits))
            match result.outcome:
                case Sent():
                    entry.done.append(result.target.index)
                case Deferred():
                    entry.deferred.append(result)
                case Bounced():
                    entry.bounced.append(result)
        entry.waiting -= 1
        if entry.waiting or entry.deferred or entry.bounced:
            self._cross_off(entry)
        if entry.waiting:
            return
        if entry.bounced or entry.deferred:
            self._tasks.start(self._fail(entry), f"failure of {entry.message.queue_id}")
        else:
            self._finish(entry)

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
        self._finished.append(entry)
        if not self._removing:
            self._removing = True
            self._tasks.start(self._remove(), "remove")

    async def _remove(self) -> None:
        """Remove finished messages, on a thread: an unlink waits while the filesystem writes its journal."""
        try:
            while self._finished:
                await asyncio.sleep(REMOVE_EVERY)
                batch, self._finished = self._finished, []
                errors = await self._background.do(partial(self._unlink, [entry.message for entry in batch]))
                for entry, error in zip(batch, errors, strict=True):
                    name = entry.message.queue_id
                    if error is None:
                        self._log.info(f"{name}: removed")
                    else:
                        self._log.warning(f"{name}: remove: {error.strerror or error}")
                    self._release(entry)
        finally:
            self._removing = False

    def _unlink(self, messages: Sequence[Message]) -> list[OSError | None]:
        """What went wrong with each."""
        errors: list[OSError | None] = []
        for message in messages:
            try:
                self.queue.remove(message.queue, message.queue_id)
            except OSError as error:
                errors.append(error)
            else:
                errors.append(None)
        return errors

    def _release(self, entry: Active) -> None:
        message = entry.message
        del self.active[message.queue_id]
        self._recipients -= entry.recipients
        if message.content is not None:
            self._cached -= len(message.content)
        if not self._wanted.is_set() and (self._known or self._incoming or self._deferred or self._due):
            self._wanted.set()

    async def _fail(self, entry: Active) -> None:
        """Some recipients have failed: report those that failed for good, defer the others."""
        message, limits = entry.message, self.configuration.limits
        age = self._clock.time() - message.envelope.arrival
        lifetime = limits.lifetime if message.envelope.sender else limits.bounce_lifetime
        if entry.deferred and age >= lifetime:
            sender = quote(message.envelope.sender)
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
        if entry.deferred:
            self._defer(entry)
            self._release(entry)
        else:
            self._finish(entry)

    def _defer(self, entry: Active) -> None:
        message = entry.message
        now = self._clock.time()
        reasons = {
            result.target.index: Reason(now, result.outcome.dsn, result.outcome.text)
            for result in entry.deferred
        }
        next_attempt = now + self.configuration.limits.backoff(message.attempts + 1)
        try:
            self.queue.defer(message, reasons, next_attempt)
        except OSError as error:
            self._log.warning(f"{message.queue_id}: defer: {error.strerror or error}")
        if len(self._due) < DUE_LIMIT:
            heapq.heappush(self._due, (next_attempt, message.queue_id))

    # ---- now and then

    def tick(self) -> None:
        """Every second: move what takes long to active/, and take up what has become due."""
        settled = self._clock.monotonic() - SETTLE_TIME
        for entry in self.active.values():
            if entry.entered > settled:
                break  # the newest come last
            if entry.message.queue != "active" and not entry.finished:
                self._move_to_active(entry.message)
        if self._due and self._due[0][0] <= self._clock.time():
            self._wanted.set()

    def _move_to_active(self, message: Message) -> None:
        try:
            self.queue.move(message.queue_id, message.queue, "active")
            message.queue = "active"
        except OSError as error:
            self._log.warning(f"{message.queue_id}: move to active: {error.strerror or error}")

    # ---- mail made here

    async def forward(self, message: Message, address: str, forward: Forward) -> str:
        """An alias's addresses get a message of their own; return its id. Raises `OSError`."""
        envelope = message.envelope
        now = self._clock.time()
        queue_id = self.queue.new_id(now)
        copy = Envelope(
            envelope.sender if forward.sender is None else forward.sender,
            self.configuration.cleanup.recipients([(target, address) for target in forward.addresses]),
            now,
            queue_id=queue_id,
            client_name=envelope.client_name,
            client_address=envelope.client_address,
            helo_name=envelope.helo_name,
            protocol=envelope.protocol,
            sasl_method=envelope.sasl_method,
            sasl_username=envelope.sasl_username,
            body=envelope.body,
            smtputf8=envelope.smtputf8,
            ret=envelope.ret,
            envid=envelope.envid,
            attributes={**envelope.attributes, EXPANDED: "yes"},
        )
        head = f"Delivered-To: {address}\r\n".encode("utf-8", "surrogateescape")
        if message.content is not None:
            await self.queue.enqueue(copy, (head, message.content), self._commit)
        else:
            await self._copy(message, copy, head)
        self.new_mail(queue_id)
        return queue_id

    async def _copy(self, message: Message, envelope: Envelope, head: bytes) -> None:
        """Put a large message into the queue again, piece by piece. Raises `OSError`."""
        spool = self.queue.spool(envelope.arrival, queue_id=envelope.queue_id)
        try:
            spool.append((head,))
            with os.fdopen(self.queue.open_content(message), "rb") as file:
                left = message.envelope.size
                while left > 0 and (part := file.read(min(left, COPY))):
                    spool.append((part,))
                    left -= len(part)
        except OSError:
            spool.abort()
            raise
        await spool.commit(envelope, self._commit)


def _mentions(message: Message, domain: str) -> bool:
    """Whether a pending recipient is of `domain` (ETRN)."""
    recipients = message.envelope.recipients
    return any(recipients[index].address.lower().endswith(f"@{domain}") for index in message.pending)


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
