"""qmgr(8): the active queue, from a message's arrival in incoming/ to its end.

States of a message here: *found* (`intake`) → *active* (read, its recipients resolved, its requests at the
scheduler) → settled (every recipient has a result) → removed, deferred, or reported to its sender. The active
queue is bounded by `qmgr_message_active_limit` messages and `qmgr_message_recipient_limit` recipients (of a
message with more, some after the others); what does not fit stays on disk and is found again by a scan.
Messages with at most `qmgr_message_recipient_minimum` recipients are let in whatever the others have. No
destination gets more of it than is left for the others.

Nothing is lost by a crash (see `ending`). A recipient that is delivered while others of the message are not
is crossed off at once.

A message is delivered from where it lies; only one that takes longer than a moment is moved to active/ (see
docs/queue.md). A file that cannot be decoded is moved to corrupt/ and reported in the log.
"""

from __future__ import annotations

import asyncio
import os

from mailstack.mta import flow, lines
from mailstack.mta.deliver.local import Forward
from mailstack.mta.lookup import Pending
from mailstack.mta.qmgr import copies
from mailstack.mta.qmgr.active import Active, mentions
from mailstack.mta.qmgr.delivery import Delivery
from mailstack.mta.qmgr.ending import MANY
from mailstack.mta.qmgr.intake import NOT_NOW, Found
from mailstack.mta.qmgr.settings import Configuration
from mailstack.storage.queue import Acceptance, DamagedFile, Message

SETTLE_TIME = 1.0
"""Seconds after which a message that is still active is moved to active/."""
BATCH = 50
"""Messages taken up before other work gets a turn."""
HEADERS = 64 * 1024
"""Octets in which the Message-ID: of a forwarded message is looked for."""
PAUSE = 1.0
"""Seconds between two calls of `tick` at the most."""
OVERDUE = 5.0
"""Seconds that a message which is being flushed is waited for."""


class QueueManager(Delivery):
    """The queue manager; one per queue. Everything runs on one event loop."""

    # ---- control

    def configure(self, configuration: Configuration) -> Configuration | None:
        """Use another configuration from the next message on; return the one before."""
        before, self._current = self._current, configuration
        if before is not None:
            self._retired.append(before.transports)
        if self._verification is not None:
            self._verification.configure(configuration.conf, configuration.cleanup, configuration.rewriter)
        return before

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
            if found.domain and not mentions(message, found.domain):
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
