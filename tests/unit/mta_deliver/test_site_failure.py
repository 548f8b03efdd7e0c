"""What counts against a site, and what only against a message: the queue manager slows down for the first."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from mailstack.mta.deliver.delivery import Delivery
from mailstack.mta.deliver.lmtp import LMTPAgent
from mailstack.mta.deliver.request import Bounced, Deferred, Result, Sent
from mailstack.net.clock import SystemClock
from mailstack.net.log import Log
from mailstack.storage.queue import Queue
from tests.unit.mta_deliver.support import QUIET, Names, Peer, configuration, listening, request

REFUSED = Deferred("connect to box.test: Connection refused", "4.4.1")
BUSY = Deferred("host box.test said: 450 busy", "4.2.0")


@pytest.mark.parametrize(
    ("peer", "there", "dsn"),
    [
        (Peer(lmtp=True), False, "4.4.1"),
        (Peer(lmtp=True, hang_up_after="LHLO"), True, "4.4.2"),
        (Peer(lmtp=True, hang_up_after="MAIL"), True, "4.4.2"),
        (Peer(lmtp=True, replies={"LHLO": "421 4.3.2 not now"}), True, "4.3.2"),
        (Peer(lmtp=True, replies={"RCPT": "450 4.2.0 busy"}), True, None),
        (Peer(lmtp=True, replies={"RCPT": "550 5.1.1 unknown"}), True, None),
        (Peer(lmtp=True, replies={"MAIL": "451 4.3.0 not this one"}), True, None),
        (Peer(lmtp=True), True, None),
    ],
)
def test_lmtp(peer: Peer, there: bool, dsn: str | None, tmp_path: Path) -> None:
    async def main() -> Deferred | None:
        queue = Queue(str(tmp_path / "queue"))
        queue.create()
        agent = LMTPAgent(configuration(), queue, Names({}, {}), SystemClock(), QUIET)
        async with listening(peer):
            one = await request(queue, f"inet:127.0.0.{1 if there else 2}:{peer.port}", "a@x.test")
            await agent.deliver(one)
            await agent.close()
        return one.site_failure

    failure = asyncio.run(main())
    assert (failure.dsn if failure is not None else None) == dsn


def test_smtp(tmp_path: Path) -> None:
    """Several hosts stand for a site: it is out of order when none of them has said anything of a recipient."""

    async def main() -> None:
        queue = Queue(str(tmp_path / "queue"))
        queue.create()
        one = await request(queue, "to.test", "a@x.test", "b@x.test")
        first, second = one.targets
        log = Log("postfix/smtp", "mail", sink)

        unreachable = Delivery(one, log)
        unreachable.note(REFUSED)
        assert unreachable.site_failure == REFUSED

        answered = Delivery(one, log)
        answered.note(REFUSED)
        answered.take([Result(first, Sent("250")), Result(second, BUSY)])
        answered.note(REFUSED)
        assert answered.site_failure is None

        refused = Delivery(one, log)
        refused.note(Bounced("no such domain", "5.4.4"))
        assert refused.site_failure is None

    sink = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT)
    asyncio.run(main())
    os.close(sink)
