"""Each system call of the queue's code fails in turn; whatever was answered 250 must not be lost or torn.

A small day at the office (mail that is delivered, deferred, bounced, partly delivered, large, held and
released) is played again and again; in each play one call, one further than in the play before, fails with one
of ENOSPC, EIO, EMFILE and EINTR. Afterwards the disk is well again, the queue manager starts anew, and every
recipient of a message that was taken must have it, whole, or its sender a report.

`MAILSTACK_FAULT_ERRORS=all` tries every error at every call, instead of one after the other.
"""

from __future__ import annotations

import asyncio
import errno
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from mailstack.mta.deliver import apart
from mailstack.mta.deliver.request import Bounced, Deferred, Request, Result, Sent
from mailstack.mta.qmgr import removal
from mailstack.mta.qmgr.manager import QueueManager
from mailstack.storage import durable, flush, queue, rounds, spare
from mailstack.storage.durable import GroupCommit
from mailstack.storage.queue import QUEUES, Envelope, Recipient
from tests.unit.mta_qmgr.support import Bench, FakeAgent

CALLS = frozenset(
    (
        *(
            "open",
            "close",
            "read",
            "pread",
            "write",
            "writev",
            "pwrite",
            "lseek",
            "fstat",
            "fsync",
            "truncate",
        ),
        *("ftruncate", "utime", "rename", "unlink", "listdir", "scandir", "makedirs"),
    )
)
ERRORS = (errno.ENOSPC, errno.EIO, errno.EMFILE, errno.EINTR)
MODULES = (queue, durable, rounds, flush, spare, apart)
SMALL = b"Subject: small\r\n\r\n" + b"s" * 100 + b"\r\n"
LARGE = b"Subject: large\r\n\r\n" + (b"l" * 78 + b"\r\n") * 4000
SENDER = "zs@x.test"


class FaultyOS:
    """The module `os`, of which one call fails: the `number`th of those in `CALLS`; none for 0."""

    def __init__(self, number: int, code: int) -> None:
        self.count = 0
        self.failed = ""
        self.well = False
        self._number = number
        self._code = code
        self._lock = threading.Lock()

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        if name not in CALLS:
            return real

        def call(*args: Any, **kwargs: Any) -> Any:
            with self._lock:
                if not self.well:
                    self.count += 1
                fails = not self.well and self.count == self._number
            if not fails:
                return real(*args, **kwargs)
            self.failed = name
            if name == "close":
                real(*args)  # Linux lets go of the descriptor all the same
            raise OSError(self._code, os.strerror(self._code), *args[:1])

        return call


class ReadingAgent(FakeAgent):
    """Takes the content of what it delivers, as an agent would."""

    def __init__(self, bench: Bench) -> None:
        super().__init__()
        self._bench = bench
        self.delivered: list[tuple[str, bytes]] = []

    async def deliver(self, request: Request) -> Sequence[Result]:
        content = self._bench.queue.read_content(request.message)
        results = await super().deliver(request)
        self.delivered += [
            (result.target.address, content) for result in results if isinstance(result.outcome, Sent)
        ]
        return results


class Office:
    """One play."""

    def __init__(self, root: Path) -> None:
        self.bench = Bench(root, main_cf="minimal_backoff_time = 10s\nmaximal_backoff_time = 20s\n")
        # A file whose time could not be set has the machine's own.
        self.bench.clock.advance(time.time() + 60 - self.bench.clock.time())
        self.agent = ReadingAgent(self.bench)
        self.accepted: list[tuple[str, bytes]] = []
        self._restart_agent()

    def _restart_agent(self) -> None:
        self.bench.agent = self.agent
        self.bench.configure()

    async def take(self, content: bytes, *recipients: str) -> str:
        """What smtpd does with a message; remembered when it was answered 250."""
        bench = self.bench
        envelope = Envelope(SENDER, tuple(map(Recipient, recipients)), bench.clock.time())
        try:
            if len(content) < 100_000:
                queue_id = await bench.queue.enqueue(envelope, (content,), bench.commit)
            else:
                spool = bench.queue.spool(bench.clock.time())
                try:
                    for start in range(0, len(content), 100_000):
                        spool.append((content[start : start + 100_000],))
                except OSError:
                    spool.abort()
                    raise
                queue_id = await spool.commit(envelope, bench.commit)
        except OSError:
            return ""
        self.accepted += [(recipient, content) for recipient in recipients]
        bench.manager.new_mail(queue_id)
        return queue_id

    async def day(self) -> None:
        """Everything that happens to mail. Faults show as log lines, never as exceptions."""
        bench, agent = self.bench, self.agent
        agent.default = Sent("250 Ok")
        agent.outcomes = {
            "later@o.test": Deferred("busy", "4.2.0"),
            "never@o.test": Bounced("unknown", "5.1.1"),
        }
        await self.take(SMALL, "good@o.test")
        await self.take(LARGE, "large@o.test")
        await self.take(SMALL, "good@o.test", "later@o.test", "never@p.test", "never@o.test")
        await self.take(LARGE, "later@o.test")
        await bench.settle()
        held = await self.take(SMALL, "held@o.test")
        bench.clock.advance(2)
        bench.manager.tick()
        await self.try_again()
        self.administrate(held, "hold")
        agent.outcomes.clear()
        await self.try_again()
        self.administrate(held, "deferred")
        await self.take(SMALL, "last@o.test")
        await self.try_again()

    def administrate(self, queue_id: str, target: str) -> None:
        try:
            where = self.bench.queue.find(queue_id) if queue_id else None
            if where is not None:
                self.bench.queue.move(queue_id, where, target)
        except OSError:
            pass

    async def try_again(self) -> None:
        """The clockwork: some time passes, and both queues are looked through."""
        bench = self.bench
        bench.clock.advance(30)
        bench.manager.scan_incoming()
        bench.manager.scan_deferred()
        bench.manager.tick()
        await bench.settle()

    def illegal(self) -> list[str]:
        """What is not as docs/queue.md says: an id in two folders, a file that is neither whole nor empty."""
        queue, found = self.bench.queue, []
        entries = [(name, entry.queue_id) for name in QUEUES for entry in queue.scan(name)]
        ids = Counter(queue_id for _, queue_id in entries)
        for name, queue_id in entries:
            if ids[queue_id] > 1 or name == "corrupt":
                found.append(f"{queue_id} in {name}")
            if os.stat(queue.path(name, queue_id)).st_size:
                queue.read(name, queue_id)
        return found

    async def restart(self) -> None:
        """The queue manager goes on from what is on disk."""
        bench = self.bench
        bench.manager.stop()
        await bench.tasks.drain(0)
        bench.commit.close()
        bench.commit = GroupCommit()
        bench.manager = QueueManager(bench.queue, bench.commit, bench.clock, bench.log, bench.tasks)
        self._restart_agent()
        bench.queue.clear_temporary()
        for entry in list(bench.queue.scan("hold")):
            bench.queue.move(entry.queue_id, "hold", "incoming")
        bench.manager.recover()
        for _ in range(4):
            await self.try_again()


def play(root: Path, number: int, code: int, monkeypatch: pytest.MonkeyPatch) -> FaultyOS:
    """One day with one fault, and its end; the checks are here."""
    faulty = FaultyOS(number, code)
    office: Office
    illegal: list[str] = []

    async def main() -> None:
        nonlocal office
        office = Office(root)
        for module in MODULES:
            monkeypatch.setattr(module, "os", faulty)
        await office.day()
        faulty.well = True
        illegal.extend(office.illegal())
        await office.restart()
        office.bench.manager.stop()
        await office.bench.tasks.drain(0)
        office.bench.close()

    asyncio.run(main())
    monkeypatch.undo()
    bench, where = office.bench, f"call {number} ({faulty.failed}) with {errno.errorcode[code]}"
    assert bench.faults == [] and illegal == [], where
    assert bench.where() == {}, where
    assert not list((root / "queue" / "tmp").iterdir()), where
    reports = [content for address, content in office.agent.delivered if address == SENDER]
    delivered = Counter(entry for entry in office.agent.delivered if entry[0] != SENDER)
    for recipient, content in office.accepted:
        reported = any(recipient.encode() in report for report in reports)
        assert delivered[recipient, content] or reported, f"{recipient} has been lost at {where}"
    for address, content in delivered:
        assert content in (SMALL, LARGE), f"a torn message for {address} at {where}"
    return faulty


@pytest.mark.timeout(600)
def test_nothing_is_lost_when_a_call_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(removal, "RETRY", 0.001)
    monkeypatch.setattr(removal, "REMOVE_EVERY", 0.0)
    retry, every = removal.RETRY, removal.REMOVE_EVERY
    runs: list[Callable[[int], tuple[int, ...]]] = [lambda n: (ERRORS[n % len(ERRORS)],), lambda n: ERRORS]
    errors = runs[os.environ.get("MAILSTACK_FAULT_ERRORS") == "all"]
    quiet = tmp_path / "quiet"
    quiet.mkdir()
    total = play(quiet, 0, errno.EIO, monkeypatch).count
    assert total > 100
    failed: Counter[str] = Counter()
    for number in range(1, total + 1):
        for code in errors(number):
            removal.RETRY, removal.REMOVE_EVERY = retry, every
            root = tmp_path / f"{number}-{code}"
            root.mkdir()
            failed[play(root, number, code, monkeypatch).failed] += 1
    print(f"{total} calls, {sum(failed.values())} plays: {dict(failed)}")
    assert {"open", "close", "writev", "pwrite", "rename", "truncate", "utime", "fsync"} <= set(failed)
