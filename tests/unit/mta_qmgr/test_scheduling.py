"""The queue manager under load: turns, dead destinations, pauses, shares of the active queue."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from mailstack.mta import flow
from mailstack.mta.deliver.request import Deferred, Request, Result, Sent
from mailstack.mta.qmgr import scheduler
from mailstack.mta.qmgr.delivery import IN_TURN
from mailstack.storage.queue import Envelope, Recipient
from mailstack.storage.queue_file import encode_envelope, encode_header
from tests.unit.mta_qmgr.support import Bench, bench_test

SENT = Sent("250 2.0.0 Ok")


def addresses(bench: Bench) -> list[str]:
    """Whom the agent has been given, in order."""
    return [target.address for request in bench.agent.requests for target in request.targets]


async def fill(bench: Bench, count: int, domain: str) -> list[str]:
    """Messages to a domain, known to the queue manager."""
    ids = [await bench.put(f"{number}@{domain}") for number in range(count)]
    for queue_id in ids:
        bench.manager.new_mail(queue_id)
    return ids


def drop(bench: Bench, recipient: str) -> str:
    """A message in incoming/ that nobody has waited for the disk for."""
    records = encode_envelope(Envelope("a@x.test", (Recipient(recipient),), bench.clock.time()))
    queue_id = bench.queue.new_id(bench.clock.time())
    Path(bench.queue.path("incoming", queue_id)).write_bytes(encode_header(0, records) + records)
    return queue_id


async def turns() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def test_a_destination_begins_slowly_and_speeds_up(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        bench.agent.default = SENT
        bench.agent.gate = asyncio.Event()
        await fill(bench, 40, "one.test")
        await turns()
        assert bench.agent.peak == 2
        bench.agent.gate.set()
        await bench.settle()
        assert bench.where() == {}
        assert bench.agent.peak <= 7

    bench_test(
        tmp_path,
        test,
        main_cf="initial_destination_concurrency = 2\nfake_destination_concurrency_limit = 7\n",
    )


def test_growth_reaches_the_limit(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        bench.agent.default = SENT
        await fill(bench, 30, "one.test")
        await bench.settle()  # each success widens the window
        bench.agent.gate = asyncio.Event()
        bench.agent.peak = 0
        await fill(bench, 30, "one.test")
        await turns()
        assert bench.agent.peak == 5, "an idle destination begins anew"
        gate = bench.agent.gate
        bench.agent.gate = None
        gate.set()
        await bench.settle()
        assert bench.where() == {}

    bench_test(tmp_path, test)


def test_destinations_take_turns(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        bench.agent.default = SENT
        bench.agent.gate = asyncio.Event()
        await fill(bench, 5, "a.test")
        await fill(bench, 2, "b.test")
        bench.agent.gate.set()
        await bench.settle()
        assert addresses(bench) == [
            "0@a.test", "1@a.test", "0@b.test", "2@a.test", "1@b.test", "3@a.test", "4@a.test",
        ]  # fmt: skip

    bench_test(tmp_path, test, maxproc="1")


def test_a_dead_destination_costs_no_attempt(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        bench.agent.default = SENT
        bench.agent.down = {"dead.test"}
        ids = await fill(bench, 50, "dead.test")
        bench.manager.new_mail(await bench.put("a@alive.test"))
        await bench.settle()
        assert bench.where() == dict.fromkeys(ids, "deferred")
        tries = [request for request in bench.agent.requests if request.nexthop == "dead.test"]
        assert len(tries) <= 9, "five to begin with, and those that began before the fourth had failed"
        last = bench.lines(f"{ids[-1]}: to=")
        assert len(last) == 1
        assert last[0].endswith(
            "to=<49@dead.test>, relay=none, delay=0, delays=0/0/0/0, dsn=4.4.1, status=deferred "
            "(delivery temporarily suspended: connect to dead.test: Connection refused)"
        )
        reason = bench.queue.read("deferred", ids[-1]).reasons[0]
        assert reason.text.startswith("delivery temporarily suspended: connect to dead.test")
        # While it is dead, new mail is deferred without an attempt.
        bench.agent.requests.clear()
        bench.clock.advance(299)
        bench.manager.tick()
        late = await bench.put("late@dead.test")
        bench.manager.new_mail(late)
        await bench.settle()
        assert bench.agent.requests == []
        assert bench.where()[late] == "deferred"
        # After minimal_backoff_time it gets another chance.
        bench.clock.advance(301)
        bench.manager.tick()
        bench.agent.down = set()
        bench.manager.scan_deferred()
        await bench.settle()
        assert bench.where() == {}

    bench_test(tmp_path, test)


def test_a_flush_tries_dead_destinations_again(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        bench.agent.default = SENT
        bench.agent.down = {"dead.test"}
        one, two = await fill(bench, 2, "dead.test")
        await bench.settle()
        await fill(bench, 3, "dead.test")
        await bench.settle()
        bench.agent.down = set()
        bench.agent.requests.clear()
        bench.manager.deliver_now(one)
        await bench.settle()
        assert addresses(bench) == ["0@dead.test"]
        assert two in bench.where()
        bench.manager.scan_deferred(ignore_time=True)
        await bench.settle()
        assert bench.where() == {}

    bench_test(tmp_path, test)


def test_one_success_brings_a_destination_back(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        bench.agent.default = SENT
        bench.agent.gate = asyncio.Event()
        await fill(bench, 2, "odd.test")
        await turns()
        bad, _ = bench.agent.requests
        # The first finds the site dead, while the second, already under way, gets through.
        bad.site_failure = Deferred("connect to odd.test: timeout", "4.4.1")
        bench.agent.gate.set()
        await bench.settle()
        bench.agent.requests.clear()
        await fill(bench, 1, "odd.test")
        await bench.settle()
        assert len(bench.agent.requests) == 1
        assert bench.where() == {}

    bench_test(
        tmp_path,
        test,
        main_cf="initial_destination_concurrency = 2\n"
        "fake_destination_concurrency_negative_feedback = 0\n"
        "fake_destination_concurrency_failed_cohort_limit = 0\n",
    )


def test_only_so_many_dead_destinations_are_remembered(tmp_path: Path) -> None:
    limit, scheduler.DEAD_LIMIT = scheduler.DEAD_LIMIT, 3

    async def test(bench: Bench) -> None:
        bench.agent.default = SENT
        bench.agent.down = {f"{n}.test" for n in range(5)}
        for domain in sorted(bench.agent.down):
            bench.manager.new_mail(await bench.put(f"a@{domain}"))
            await bench.settle()
        bench.agent.requests.clear()
        for domain in sorted(bench.agent.down, reverse=True):
            bench.manager.new_mail(await bench.put(f"b@{domain}"))
        await bench.settle()
        assert [request.nexthop for request in bench.agent.requests] == ["1.test", "0.test"]

    try:
        bench_test(tmp_path, test, main_cf="initial_destination_concurrency = 1\n")
    finally:
        scheduler.DEAD_LIMIT = limit


def test_rate_delay(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        bench.agent.default = SENT
        await fill(bench, 3, "slow.test")
        await fill(bench, 1, "other.test")
        await turns()
        assert addresses(bench) == ["0@slow.test", "0@other.test"]
        assert bench.manager.tick() == 1.0
        bench.clock.advance(9.5)
        assert bench.manager.tick() == 0.5
        await turns()
        assert len(bench.agent.requests) == 2
        for count in (3, 4):
            bench.clock.advance(10)
            bench.manager.tick()
            await turns()
            assert len(bench.agent.requests) == count
        await bench.settle()
        assert bench.where() == {}
        # The pause outlives the last message.
        await fill(bench, 1, "slow.test")
        await turns()
        assert len(bench.agent.requests) == 4
        bench.clock.advance(10)
        bench.manager.tick()
        await bench.settle()
        assert bench.where() == {}

    bench_test(tmp_path, test, main_cf="fake_destination_rate_delay = 10s\n")


def test_transport_rate_delay(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        bench.agent.default = SENT
        await fill(bench, 2, "slow.test")
        await fill(bench, 1, "other.test")
        await turns()
        assert addresses(bench) == ["0@slow.test"]
        for count in (2, 3):
            assert 0 < bench.manager.tick() <= 10.0
            await turns()
            assert len(bench.agent.requests) == count - 1
            bench.clock.advance(10)
            bench.manager.tick()
            await turns()
            assert len(bench.agent.requests) == count
        await bench.settle()
        assert bench.where() == {}

    bench_test(tmp_path, test, main_cf="fake_transport_rate_delay = 10s\n")


def test_a_reload_does_not_stop_what_is_paused(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        bench.agent.default = SENT
        await fill(bench, 3, "slow.test")
        await turns()
        bench.configure()
        for count in (2, 3):
            bench.clock.advance(10)
            bench.manager.tick()
            await turns()
            assert len(bench.agent.requests) == count
        await bench.settle()
        assert bench.where() == {}

    bench_test(tmp_path, test, main_cf="fake_destination_rate_delay = 10s\n")


def test_single_recipients_have_limits_of_their_own(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        bench.agent.default = SENT
        bench.agent.gate = asyncio.Event()
        bench.manager.new_mail(await bench.put("a@x1.test", "a+ext@x1.test", "A@x1.test", "b@x1.test"))
        await turns()
        assert sorted(addresses(bench)) == ["a+ext@x1.test", "a@x1.test", "b@x1.test"]
        bench.agent.gate.set()
        await bench.settle()
        assert bench.where() == {}

    bench_test(
        tmp_path,
        test,
        main_cf="fake_destination_recipient_limit = 1\nfake_destination_concurrency_limit = 2\n",
    )


def test_recipients_beyond_the_limit_come_later(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        bench.agent.default = SENT
        bench.agent.outcomes["3@many.test"] = Deferred("later", "4.2.0")
        queue_id = await bench.put(*(f"{number}@many.test" for number in range(10)))
        bench.manager.new_mail(queue_id)
        await bench.settle()
        assert [len(request.targets) for request in bench.agent.requests] == [4, 4, 2]
        assert bench.where() == {queue_id: "deferred"}
        assert list(bench.queue.read("deferred", queue_id).pending) == [3]

    bench_test(
        tmp_path, test, main_cf="qmgr_message_recipient_limit = 3\nqmgr_message_recipient_minimum = 4\n"
    )


@pytest.mark.parametrize("together", [1, 2], ids=["each recipient a destination", "one destination"])
def test_a_mailing_list_leaves_turns_to_others(tmp_path: Path, together: int) -> None:
    """A message with 6,000 recipients for one server, and then one with a single recipient there."""

    async def test(bench: Bench) -> None:
        bench.agent.default = SENT
        bench.agent.gate = asyncio.Event()
        many = await bench.put(*(f"{number}@list.test" for number in range(6000)))
        bench.manager.new_mail(many)
        other = await bench.put(*(f"{number}@list.test" for number in range(20)))
        bench.manager.new_mail(other)
        single = await bench.put("one@list.test")
        bench.manager.new_mail(single)
        await asyncio.sleep(0)
        assert bench.manager._recipients <= 2000 + 20 + 1
        bench.agent.gate.set()
        await bench.settle()
        assert bench.where() == {}
        delivered = [request.message.queue_id for request in bench.agent.requests]
        assert delivered.count(many) * together == 6000
        assert delivered.index(single) <= IN_TURN + 20 and delivered.index(other) <= IN_TURN + 1
        assert len(set(addresses(bench))) == 6001 and len(addresses(bench)) == 6021

    bench_test(tmp_path, test, main_cf=f"fake_destination_recipient_limit = {together}\n")


@pytest.mark.parametrize("limit", ["destination_concurrency_limit", "process_limit"])
def test_small_messages_go_past_those_with_many_recipients(tmp_path: Path, limit: str) -> None:
    """One delivery at a time, to one destination or in the whole transport: four of five are small messages."""

    async def test(bench: Bench) -> None:
        bench.agent.default = SENT
        bench.agent.gate = asyncio.Event()
        transport = bench.manager.configuration.transports.get("fake")
        if limit == "process_limit":
            transport._process_limit = 1
        sites = ["list.test"] if limit != "process_limit" else [f"l{number}.test" for number in range(30)]
        many = await bench.put(*(f"{number}@{sites[number % len(sites)]}" for number in range(60)))
        bench.manager.new_mail(many)
        await turns()
        small = [await bench.put(f"s@{'list' if len(sites) == 1 else number}.test") for number in range(8)]
        for queue_id in small:
            bench.manager.new_mail(queue_id)
        await turns()
        bench.agent.gate.set()
        await bench.settle()
        order = [request.message.queue_id for request in bench.agent.requests]
        assert order[:11] == [many, *small[:4], many, *small[4:], many]
        assert order[11:] == [many] * (len(order) - 11) and bench.where() == {}

    bench_test(
        tmp_path,
        test,
        main_cf="fake_destination_recipient_limit = 2\nfake_initial_destination_concurrency = 1\n"
        "fake_destination_concurrency_limit = 1\n",
    )


def test_a_slow_recipient_does_not_hold_up_the_rest_of_a_list(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        bench.agent.default = SENT
        gate = asyncio.Event()
        deliver = bench.agent.deliver

        async def slow(request: Request) -> Sequence[Result]:
            if any(target.address == "7@list7.test" for target in request.targets):
                await gate.wait()
            return await deliver(request)

        bench.agent.deliver = slow  # type: ignore[method-assign]
        many = await bench.put(*(f"{number}@list{number}.test" for number in range(5000)))
        bench.manager.new_mail(many)
        async with asyncio.timeout(30):
            while len(bench.agent.requests) < 4999:  # noqa: ASYNC110 - what the agent sees
                await asyncio.sleep(0.001)
        await turns()
        assert list(bench.queue.read("incoming", many).pending) == [7]
        gate.set()
        await bench.settle()
        assert bench.where() == {}

    bench_test(tmp_path, test)


def test_new_and_deferred_mail_take_turns_while_there_is_room(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        bench.agent.default = SENT
        for _ in range(3):
            late = await bench.put("a@o.test", sender="old@x.test")
            bench.queue.defer(bench.queue.read("incoming", late), {}, bench.clock.time() - 1)
        for _ in range(3):
            await bench.put("a@o.test", sender="new@x.test")
        bench.manager.scan_incoming()
        bench.manager.scan_deferred()
        await bench.settle()
        active = [line.partition("from=<")[2][:3] for line in bench.lines("queue active")]
        assert active == ["new", "old"] * 3

    bench_test(tmp_path, test)


def test_a_storm_for_one_destination_leaves_room_for_others(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        bench.agent.default = SENT
        bench.agent.gate = asyncio.Event()
        storm = await fill(bench, 60, "slow.test")
        bench.manager._take_up(1000)
        await turns()
        assert len(bench.manager.active) == 21, "half of the active queue, and the last one"
        assert len(bench.lines("warning: mail for slow.test is using up 21 of 21 active queue entries")) == 1
        for number in range(10):
            bench.manager.new_mail(await bench.put(f"{number}@other{number}.test"))
        await turns()
        assert [address for address in addresses(bench) if "other" in address] == [
            f"{number}@other{number}.test" for number in range(10)
        ]
        bench.agent.gate.set()
        await bench.settle()
        assert bench.where() == {}
        assert len(addresses(bench)) == len(storm) + 10

    bench_test(tmp_path, test, main_cf="qmgr_message_active_limit = 40\n")


def test_twenty_thousand_messages_for_a_slow_destination(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        bench.agent.default = SENT
        bench.agent.gate = asyncio.Event()
        for number in range(20_000):
            bench.manager.new_mail(drop(bench, f"{number}@slow.test"))
        bench.manager._take_up(50_000)
        await turns()
        assert bench.agent.running == 5
        assert len(bench.manager.active) <= 10_001
        # Each message for somebody else is with its agent at once.
        for number in range(50):
            address = f"{number}@other{number % 10}.test"
            bench.manager.new_mail(await bench.put(address))
            await turns()
            assert addresses(bench)[-1] == address
        gate, bench.agent.gate = bench.agent.gate, None
        gate.set()
        await bench.settle()
        assert bench.where() == {}
        assert len(bench.agent.requests) == 20_050

    bench_test(tmp_path, test)


def test_a_crowd_beyond_what_is_remembered_is_deferred(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        bench.agent.default = SENT
        bench.agent.gate = asyncio.Event()
        bench.manager._intake.set_aside = lambda site, found: False  # type: ignore[method-assign]
        await fill(bench, 10, "slow.test")
        bench.manager._take_up(1000)
        assert sorted(bench.where().values()) == ["deferred"] * 7 + ["incoming"] * 3
        bench.agent.gate.set()
        await bench.settle()
        bench.clock.advance(301)
        bench.manager.tick()
        for _ in range(5):
            bench.manager.scan_deferred()
            await bench.settle()
        assert bench.where() == {}
        assert len(addresses(bench)) == 10

    bench_test(tmp_path, test, main_cf="qmgr_message_active_limit = 4\nqmgr_clog_warn_time = 0\n")


def test_smtpd_is_told_when_new_mail_waits(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        bench.agent.default = SENT
        bench.agent.gate = asyncio.Event()
        await fill(bench, 2, "a.test")
        assert not flow.behind()
        for number in range(3):
            await fill(bench, 1, f"{number}.test")
        assert flow.behind()
        bench.agent.gate.set()
        await bench.settle()
        assert not flow.behind()
        assert bench.where() == {}

    bench_test(tmp_path, test, main_cf="qmgr_message_active_limit = 2\ndefault_process_limit = 3\n")


def test_unreasonable_feedback_is_reported_and_not_used(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        bench.agent.default = SENT
        name = "fake_destination_concurrency_negative_feedback"
        assert len(bench.lines(f"{name}: ignoring malformed or unreasonable feedback: 7$")) == 1

    bench_test(tmp_path, test, main_cf="fake_destination_concurrency_negative_feedback = 7\n")
