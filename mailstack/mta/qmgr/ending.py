"""The end of a message whose recipients have results: it is removed, deferred, or returned to its sender.

A failed message waits twice as long as the time before (`Limits.backoff`), and is returned when it is older
than `maximal_queue_lifetime`. Nothing is lost by a crash: a message leaves the disk only after its last
recipient is done and every failure has been reported by a durable message.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from mailstack.mta.deliver.request import Result, Sent
from mailstack.mta.qmgr.active import Active, expanded
from mailstack.mta.qmgr.intake import Intake, Site
from mailstack.mta.qmgr.removal import Removal
from mailstack.mta.qmgr.settings import Configuration
from mailstack.mta.qmgr.transports import Transports
from mailstack.mta.verify import MTA, PROBE, is_probe
from mailstack.net.clock import Clock
from mailstack.net.log import Log
from mailstack.net.tasks import TaskSet
from mailstack.storage.durable import GroupCommit
from mailstack.storage.queue import Message, Queue, Reason

if TYPE_CHECKING:
    from mailstack.mta.verify.service import Verification

MANY: Site = ("", "")
"""For whom messages with many recipients are set aside while too many recipients are active."""


class Ending:
    """The state of a queue manager, and how messages leave its active queue."""

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

    @property
    def configuration(self) -> Configuration:
        assert self._current is not None, "configure() comes first"
        return self._current

    def verification(self) -> Verification:
        """verify(8), which is there from its first use on."""
        if self._verification is None:
            from mailstack.mta.verify.service import Verification  # most stacks never ask

            made = Verification(self.queue, self._commit, self._clock, self._log, self._tasks, self.new_mail)
            current = self.configuration
            made.configure(current.conf, current.cleanup, current.rewriter)
            self._verification = made
        return self._verification

    def new_mail(self, queue_id: str) -> None:
        """A message has arrived in incoming/."""
        raise NotImplementedError

    # ---- shares of the active queue

    def _has_share(self, site: Site) -> bool:
        """Whether a destination has no more of the active queue than is left for the others."""
        if site is MANY:
            return self._has_room_for_many()
        transport, destination = site
        load = self.configuration.transports.get(transport).load(destination)
        return load <= self.configuration.limits.active_messages - len(self.active)

    def _has_room_for_many(self) -> bool:
        """Whether messages with many recipients may become active."""
        return self._recipients < self.configuration.limits.active_recipients

    # ---- one recipient

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

    # ---- the message

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
            replaced = expanded(message)
            if is_probe(message):
                await bouncer.verified(message, entry.confirmed)
            elif entry.confirmed or replaced:
                await bouncer.confirm(message, entry.confirmed, replaced)
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
