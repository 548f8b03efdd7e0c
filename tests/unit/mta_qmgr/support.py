"""A queue manager on a real queue folder, with a configuration in text, a hand-moved clock and caught log lines."""

from __future__ import annotations

import asyncio
import email
import email.message
import os
import re
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from mailstack.mta.deliver.request import Deferred, Outcome, Request, Result
from mailstack.mta.qmgr.manager import QueueManager
from mailstack.mta.qmgr.settings import load
from mailstack.net.clock import ManualClock
from mailstack.net.log import Log
from mailstack.net.tasks import TaskSet
from mailstack.storage.durable import GroupCommit
from mailstack.storage.queue import Envelope, Queue, Recipient

MAIN_CF = """\
compatibility_level = 3.6
myhostname = mail.x.test
mydomain = x.test
myorigin = $mydomain
mydestination = $myhostname, $mydomain
queue_directory = {root}/queue
alias_maps = hash:{root}/aliases
mailbox_transport = fake:box
relay_domains = relay.test
default_transport = fake
recipient_delimiter = +
"""
MASTER_CF = """\
fake unix - - n - {maxproc} discard
local unix - n n - - local
relay unix - - n - - discard
virtual unix - n n - - virtual
error unix - - n - - error
retry unix - - n - - error
"""
CONTENT = b"Subject: hello\r\nTo: somebody\r\n\r\nBody.\r\n"


class FakeAgent:
    """Answers as it is told: per address an outcome, or one for every address."""

    daemon = "fake"

    def __init__(self) -> None:
        self.default: Outcome | None = None
        self.outcomes: dict[str, Outcome] = {}
        self.requests: list[Request] = []
        self.gate: asyncio.Event | None = None
        self.running = 0
        self.peak = 0
        self.broken = False
        self.down: set[str] = set()
        """Nexthops that nobody can connect to."""

    async def deliver(self, request: Request) -> Sequence[Result]:
        self.requests.append(request)
        self.running += 1
        self.peak = max(self.peak, self.running)
        try:
            if self.gate is not None:
                await self.gate.wait()
            if self.broken:
                raise RuntimeError("a fault of the agent's own")
            if request.nexthop in self.down:
                request.site_failure = Deferred(f"connect to {request.nexthop}: Connection refused", "4.4.1")
                return request.all(request.site_failure)
            results = []
            for target in request.targets:
                outcome = self.outcomes.get(target.address, self.default)
                assert outcome is not None
                results.append(Result(target, outcome, "fake[192.0.2.1]:24"))
            return results
        finally:
            self.running -= 1

    async def close(self) -> None:
        pass


class Bench:
    """Everything that a test needs."""

    def __init__(self, root: Path, *, main_cf: str = "", aliases: str = "", maxproc: str = "-") -> None:
        self.root = root
        self.clock = ManualClock()
        self.log_path = root / "log"
        self._fd = os.open(self.log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self.log = Log("postfix/qmgr", "mail", self._fd)
        (root / "aliases").write_text(aliases)
        (root / "cf").mkdir()
        (root / "cf" / "main.cf").write_text(MAIN_CF.format(root=root) + main_cf)
        (root / "cf" / "master.cf").write_text(MASTER_CF.format(maxproc=maxproc))
        (root / "cf" / "mailstack.toml").write_text('[resolver]\nnameservers = ["127.0.0.1:9"]\n')
        self.queue = Queue(str(root / "queue"))
        self.queue.create()
        self.commit = GroupCommit()
        self.faults: list[BaseException] = []
        self.tasks = TaskSet(lambda name, error: self.faults.append(error))
        self.manager = QueueManager(self.queue, self.commit, self.clock, self.log, self.tasks)
        self.agent = FakeAgent()
        self.configure()

    def configure(self) -> None:
        """Read the configuration files (again)."""
        configuration = load(
            self.root / "cf",
            self.queue,
            self.commit,
            self.clock,
            self.log,
            self.manager.forward,
            self.manager.new_mail,
        )
        configuration.transports.get("fake").agent = self.agent
        self.manager.configure(configuration)

    async def put(
        self,
        *recipients: str,
        sender: str = "zs@x.test",
        content: bytes = CONTENT,
        notify: str = "",
        ret: str = "",
    ) -> str:
        """A message in incoming/."""
        envelope = Envelope(
            sender, tuple(Recipient(to, notify=notify) for to in recipients), self.clock.time(), ret=ret
        )
        return await self.queue.enqueue(envelope, (content,), self.commit)

    async def settle(self) -> None:
        """Let the queue manager work until nothing moves."""
        quiet = 0
        while quiet < 3:
            while self.manager._take_up(10):
                pass
            if len(self.tasks):
                quiet = 0
                await asyncio.sleep(0.001)
            else:
                quiet += 1
                await asyncio.sleep(0)

    def where(self) -> dict[str, str]:
        """queue id → queue of everything that is left."""
        found = {}
        for name in ("incoming", "active", "deferred", "hold", "corrupt"):
            for entry in self.queue.scan(name):
                found[entry.queue_id] = name
        return found

    def lines(self, pattern: str = "") -> list[str]:
        """Log lines without their time stamps, that match."""
        lines = [line.split(": ", 1)[1] for line in self.log_path.read_text().splitlines()]
        return [line for line in lines if re.search(pattern, line)]

    def message(self, queue_id: str, queue: str = "incoming") -> email.message.Message:
        """A queued message, parsed."""
        return email.message_from_bytes(self.queue.read_content(self.queue.read(queue, queue_id)))

    def close(self) -> None:
        self.commit.close()
        os.close(self._fd)


def bench_test(root: Path, test: Callable[[Bench], Awaitable[None]], **options: str) -> None:
    """Run `test` on a new bench; a fault in a background task fails it."""

    async def main() -> None:
        bench = Bench(root, **options)
        try:
            await test(bench)
        finally:
            bench.manager.stop()
            await bench.tasks.drain(0)
            bench.close()
        assert bench.faults == []

    asyncio.run(main())
