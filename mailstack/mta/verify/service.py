"""verify(8) in the queue manager: answers smtpd's questions about addresses, and sends the probes for them.

A question comes as a datagram `verify NUMBER ADDRESS` and is answered with `NUMBER STATUS TEXT` (ADDRESS and
TEXT in hexadecimal digits, STATUS a `Status`, or -1 where the cache cannot be read). What is known is said at
once; who has been told that a probe is under way gets a second answer when it comes back.

A probe is a message in the queue like any other, to the address alone and without a body. Logs, as cleanup
does, `ID: message-id=<…>`, and for an address that virtual aliases make several of `status=deliverable
(aliased to multiple recipients)`: they are not asked one by one.

Files are read and written on a thread. A cache that cannot be opened is a warning, and memory takes its
place.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from mailstack.config.postfix.main_cf import MainCf
from mailstack.mta import lines
from mailstack.mta.cleanup import AliasExpansionError, Cleanup, mail_date
from mailstack.mta.cleanup.maps import MapError
from mailstack.mta.deliver.request import Deferred, Outcome, Result, Sent, Target
from mailstack.mta.lookup import settled
from mailstack.mta.rewrite import Rewriter
from mailstack.mta.verify import MTA, PROBE
from mailstack.mta.verify.cache import Answer, Cache, Status, Times
from mailstack.mta.verify.sender import ProbeSender
from mailstack.mta.verify.store import MemoryStore, open_store
from mailstack.net.clock import Clock
from mailstack.net.log import Log
from mailstack.net.tasks import TaskSet
from mailstack.storage.background import Background
from mailstack.storage.durable import GroupCommit
from mailstack.storage.queue import Envelope, Message, Queue
from mailstack.storage.tables import TableError

T = TypeVar("T")
Reply = Callable[[bytes], None]
TEXT = 1000
"""Octets of a text that smtpd is told."""
WAITING = 10_000
"""Questions that wait for a second answer at the most."""
CLEAN_LOOK = 60.0
"""Seconds between two looks whether the cache is due for cleaning."""


class Verification:
    """The service; one per queue manager, made with the first question or the first result."""

    def __init__(
        self,
        queue: Queue,
        commit: GroupCommit,
        clock: Clock,
        log: Log,
        tasks: TaskSet,
        wake: Callable[[str], None],
    ) -> None:
        self._queue = queue
        self._commit = commit
        self._clock = clock
        self._log = log
        self._cleanup_log = log
        self._tasks = tasks
        self._wake = wake
        self._thread = Background("verify")
        self._map: str | None = None
        self._cache = Cache(MemoryStore(), Times(0, 0, 0, 0, negative_cache=True))
        self._in_memory = True
        self._interval = 0.0
        self._next_look = 0.0
        self._cleaning = False
        self._waiting: dict[str, list[tuple[str, Reply]]] = {}

    def configure(self, conf: MainCf, cleanup: Cleanup, rewriter: Rewriter) -> None:
        """Use this configuration from now on; the cache stays open where its name stays.

        Raises `ConfigError`.
        """
        name = conf.str("syslog_name")
        self._log = self._log.child(f"{name}/verify")
        self._cleanup_log = self._log.child(f"{name}/cleanup")
        self._cleanup = cleanup
        self._rewriter = rewriter
        self._sender = ProbeSender(conf, rewriter)
        self._host = conf.str("myhostname")
        self._mail_name = conf.str("mail_name")
        self._digits = conf.int("delay_logging_resolution_limit")
        self._interval = conf.time("address_verify_cache_cleanup_interval")
        self._cache.times = Times.read(conf)
        wanted = conf.str("address_verify_map")
        if wanted != self._map:
            self._open(wanted, conf.size("lmdb_map_size"))

    def _open(self, wanted: str, lmdb_size: int) -> None:
        """Open another cache."""
        self._map = wanted
        self._in_memory = not wanted

        def work() -> None:
            before, store = self._cache.store, MemoryStore()
            try:
                before.close()
                self._cache.store = open_store(wanted, lmdb_size)
            except (OSError, TableError) as error:
                reason = (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
                self._log.warning(f"address_verify_map: open {wanted}: {reason}; the cache is kept in memory")
                self._cache.store = store

        if self._in_memory:
            work()
        else:
            self._tasks.start(self._thread.do(work), "open verify cache")

    async def _do(self, work: Callable[[], T]) -> T | OSError | TableError:
        """The result of work with the cache, or why it cannot be done."""

        def guarded() -> T | OSError | TableError:
            try:
                return work()
            except (OSError, TableError) as error:
                return error

        if self._in_memory:
            return guarded()
        return await self._thread.do(guarded)

    # ---- questions

    def request(self, number: str, address: str, reply: Reply) -> None:
        """A question has come (`address` in hexadecimal digits)."""
        try:
            asked = bytes.fromhex(address).decode("utf-8", "surrogateescape")
        except ValueError:
            return
        if number.isalnum() and asked:
            self._tasks.start(self._answer(number, asked, reply), "verify")

    async def _answer(self, number: str, address: str, reply: Reply) -> None:
        now = int(self._clock.time())
        found = await self._do(lambda: self._cache.ask(address, now))
        if isinstance(found, Exception):
            self._log.warning(f"{address}: {found}")
            reply(f"{number} -1 -".encode())
            return
        answer, wanted = found
        if answer.status is Status.TODO and len(self._waiting) < WAITING:
            self._waiting.setdefault(address, []).append((number, reply))
        reply(_encoded(number, answer))
        if wanted:
            try:
                await self._probe(address)
            except (OSError, TableError, AliasExpansionError, MapError) as error:
                self._log.warning(f"probe of {address}: {error}")

    # ---- probes

    async def _probe(self, address: str) -> None:
        """Send a probe. Raises `OSError`, and what rewriting raises."""
        now = self._clock.time()
        cleanup, complete = self._cleanup, self._rewriter.complete
        sender = self._sender.at(now)
        recipients = await settled(lambda: cleanup.recipients([(complete(address), address)]))
        queue_id = self._queue.new_id(now)
        if len(recipients) != 1:
            target = Target(0, complete(address), address)
            result = Result(target, Sent("aliased to multiple recipients"))
            line = lines.delivery(queue_id, result, (0.0, 0.0, 0.0, 0.0), self._digits, status="deliverable")
            self._cleanup_log.info(line)
            await self.update((address, target.address), result.outcome)
            return
        stamp = mail_date(now)
        received = f"Received: by {self._host} ({self._mail_name})\r\n\tid {queue_id}; {stamp}\r\n"
        cleaned = cleanup.headers(
            b"", received=received.encode(), queue_id=queue_id, sender=sender, local=True, now=now
        )
        envelope = Envelope(sender, recipients, now, queue_id=queue_id, attributes={PROBE: MTA})
        self._cleanup_log.info(f"{queue_id}: message-id={cleaned.message_id or '<>'}")
        await self._queue.enqueue(envelope, cleaned.parts, self._commit)
        self._wake(queue_id)

    def status(self, outcome: Outcome) -> str:
        """What the log says that an address is."""
        if isinstance(outcome, Sent):
            return "deliverable"
        return "undeliverable" if self._cache.times.negative_cache else "undeliverable-but-not-cached"

    def result(self, message: Message, result: Result) -> None:
        """A probe's recipient has a result."""
        recipient = message.envelope.recipients[result.target.index]
        names = dict.fromkeys((recipient.original or recipient.address, recipient.address))
        self._tasks.start(self.update(tuple(names), result.outcome), f"verify {message.queue_id}")

    async def update(self, addresses: tuple[str, ...], outcome: Outcome) -> None:
        """Remember what has been found out of an address, under all of its names, and tell who waits."""
        status = Status.BOUNCE
        if isinstance(outcome, Sent):
            status = Status.OK
        elif isinstance(outcome, Deferred):
            status = Status.DEFER
        now, text = int(self._clock.time()), outcome.text
        for address in addresses:
            failed = await self._do(lambda name=address: self._cache.update(name, status, text, now))  # type: ignore[misc]
            if isinstance(failed, Exception):
                self._log.warning(f"{address}: {failed}")
            waiting = self._waiting.pop(address, [])
            if status is Status.OK or self._cache.times.negative_cache:
                for number, reply in waiting:
                    reply(_encoded(number, Answer(status, text)))

    # ---- now and then

    def tick(self) -> None:
        """Clean the cache when `address_verify_cache_cleanup_interval` has passed since the last time."""
        now = self._clock.monotonic()
        if not self._interval or self._cleaning or now < self._next_look:
            return
        self._next_look = now + CLEAN_LOOK
        self._cleaning = True
        self._tasks.start(self._clean(), "clean verify cache")

    async def _clean(self) -> None:
        now, interval = int(self._clock.time()), self._interval

        def work() -> tuple[int, int] | None:
            cache = self._cache
            last = cache.cleaned()
            if now - last < interval:
                return None
            return cache.clean(now)

        try:
            found = await self._do(work)
            if isinstance(found, Exception):
                self._log.warning(f"cache cleanup: {found}")
            elif found is not None and any(found):
                kept, dropped = found
                name = self._map or "memory"
                self._log.info(f"cache {name} full cleanup: retained={kept} dropped={dropped} entries")
        finally:
            self._cleaning = False

    async def close(self) -> None:
        """Let go of the cache's file."""
        await self._do(lambda: self._cache.store.close())
        self._thread.close()


def _encoded(number: str, answer: Answer) -> bytes:
    text = answer.text.encode("utf-8", "surrogateescape")[:TEXT].hex() or "-"
    return f"{number} {answer.status:d} {text}".encode()
