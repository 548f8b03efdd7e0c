"""Messages prepared while they are being flushed: nobody sees anything of one before it is ours."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from mailstack.mta.deliver.request import Deferred, Sent
from mailstack.mta.qmgr.manager import OVERDUE
from tests.unit.mta_qmgr.support import Bench, bench_test

VIRTUAL = """\
virtual_mailbox_domains = v.test
virtual_mailbox_base = {root}
virtual_mailbox_maps = static:mail/
"""


async def reach(condition: Callable[[], object]) -> None:
    """Let things happen until that is so."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.001)


async def prepared(bench: Bench) -> str:
    """A message whose file stands in the Maildir's tmp/."""
    queue_id = await bench.put("zs@v.test")
    bench.manager.expect(queue_id)
    folder = bench.root / "mail" / "tmp"
    await reach(lambda: folder.exists() and os.listdir(folder))
    return queue_id


def mail(bench: Bench) -> dict[str, int]:
    return {name: len(os.listdir(bench.root / "mail" / name)) for name in ("tmp", "new", "cur")}


def test_it_waits_for_the_word(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        queue_id = await prepared(bench)
        bench.clock.advance(OVERDUE - 1)
        bench.manager.tick()
        for _ in range(20):
            await asyncio.sleep(0.001)
        assert mail(bench) == {"tmp": 1, "new": 0, "cur": 0}
        assert bench.where() == {queue_id: "incoming"}
        assert bench.lines() == []
        bench.manager.expect(queue_id)  # told twice
        bench.manager.new_mail(queue_id)
        bench.manager.new_mail(queue_id)
        await bench.settle()
        assert mail(bench) == {"tmp": 0, "new": 1, "cur": 0}
        assert bench.where() == {}
        first, second, third = bench.lines()
        assert first.endswith("nrcpt=1 (queue active)")
        assert "status=sent (delivered to maildir)" in second
        assert third == f"{queue_id}: removed"

    bench_test(tmp_path, test, main_cf=VIRTUAL.format(root=tmp_path))


@pytest.mark.parametrize("kept", [True, False])
def test_the_word_does_not_come(tmp_path: Path, kept: bool) -> None:
    """Its taker has died, and it is found as any other; or could not flush it, and has taken it back."""

    async def test(bench: Bench) -> None:
        queue_id = await prepared(bench)
        if not kept:
            os.unlink(bench.queue.path("incoming", queue_id))
        bench.clock.advance(OVERDUE)
        bench.manager.tick()
        await bench.settle()
        assert mail(bench) == {"tmp": 0, "new": int(kept), "cur": 0}
        assert bench.where() == {} and not bench.manager.active
        assert bool(bench.lines()) is kept

    bench_test(tmp_path, test, main_cf=VIRTUAL.format(root=tmp_path))


def test_it_stays_for_the_next_time(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        queue_id = await prepared(bench)
        bench.manager.stop()
        await bench.settle()
        assert mail(bench) == {"tmp": 0, "new": 0, "cur": 0}
        assert bench.where() == {queue_id: "incoming"}
        assert bench.lines() == []

    bench_test(tmp_path, test, main_cf=VIRTUAL.format(root=tmp_path))


@pytest.mark.parametrize("outcome", [Sent("ok"), Deferred("busy", "4.2.0")])
def test_other_agents_begin_later(tmp_path: Path, outcome: Sent | Deferred) -> None:
    async def test(bench: Bench) -> None:
        bench.agent.default = outcome
        queue_id = await bench.put("a@far.test", "zs@x.test")
        bench.manager.expect(queue_id)
        for _ in range(20):
            await asyncio.sleep(0.001)
        assert not bench.agent.requests
        bench.manager.new_mail(queue_id)
        await bench.settle()
        assert len(bench.agent.requests) == 2
        assert bench.where() == ({} if isinstance(outcome, Sent) else {queue_id: "deferred"})

    bench_test(tmp_path, test)


def test_results_wait_too(tmp_path: Path) -> None:
    """An agent that has failed before the message was ours defers nothing."""

    async def test(bench: Bench) -> None:
        bench.agent.daemon = "lmtp"
        bench.agent.default = Deferred("busy", "4.2.0")
        queue_id = await bench.put("a@far.test")
        bench.manager.expect(queue_id)
        await reach(lambda: bench.agent.requests)
        for _ in range(20):
            await asyncio.sleep(0.001)
        assert bench.where() == {queue_id: "incoming"}
        bench.manager.new_mail(queue_id)
        await bench.settle()
        assert bench.where() == {queue_id: "deferred"}

    bench_test(tmp_path, test)
