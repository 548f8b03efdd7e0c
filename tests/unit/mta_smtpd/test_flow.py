"""in_flow_delay: a message is taken more slowly while new mail waits for the queue manager."""

from __future__ import annotations

import asyncio
import os
from types import SimpleNamespace
from typing import Any, cast

import pytest

from mailstack.mta import flow
from mailstack.mta.smtpd import reception
from mailstack.mta.smtpd.reception import Transaction
from mailstack.wire.smtp.command import MailParameters


@pytest.mark.parametrize(
    ("behind", "delay", "waits"), [(False, 1.0, []), (True, 1.0, [1.0]), (True, 0.0, []), (True, 2.0, [2.0])]
)
def test_a_message_waits_only_while_others_do(
    behind: bool, delay: float, waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    enqueued: list[str] = []

    async def sleep(seconds: float) -> None:
        assert not enqueued, "the wait comes first"
        slept.append(seconds)

    async def enqueue(transaction: Transaction, origin: object, milters: object) -> None:
        enqueued.append(transaction.queue_id)

    monkeypatch.setattr(reception, "asyncio", SimpleNamespace(sleep=sleep))
    monkeypatch.setattr(Transaction, "_enqueue", enqueue)
    monkeypatch.setattr(flow, "behind", lambda: behind)
    shared: Any = SimpleNamespace(wake_qmgr=lambda queue_id: None)
    settings: Any = SimpleNamespace(in_flow_delay=delay)
    transaction = Transaction(shared, settings, "a@x.test", MailParameters(), 0.0)
    transaction.queue_id = "4A1B2C"
    reply = asyncio.run(transaction.finish(cast(Any, None), too_big=False))
    assert (reply.code, enqueued, slept) == (250, ["4A1B2C"], waits)


def test_processes_share_the_mark() -> None:
    """The queue manager is another process than smtpd."""
    assert not flow.behind()
    child = os.fork()
    if not child:
        flow.set_behind(True)
        os._exit(0)
    os.waitpid(child, 0)
    try:
        assert flow.behind()
    finally:
        flow.set_behind(False)
