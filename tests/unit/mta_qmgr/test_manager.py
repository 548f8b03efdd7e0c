"""The queue manager: what becomes of a message, on disk and in the log."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from mailstack.mta.deliver.request import Bounced, Deferred, Sent
from mailstack.mta.qmgr.settings import Limits
from mailstack.wire.smtp import quote
from tests.unit.mta_qmgr.support import CONTENT, Bench, bench_test

SENT = Sent("250 2.0.0 Ok")
LATER = Deferred("host fake[192.0.2.1] said: 450 4.2.0 busy (in reply to RCPT TO command)", "4.2.0")
NEVER = Bounced("host fake[192.0.2.1] said: 550 5.1.1 unknown (in reply to RCPT TO command)", "5.1.1")


def test_a_message_is_delivered_and_gone(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        bench.agent.default = SENT
        queue_id = await bench.put("zs@x.test", "out@other.test")
        bench.clock.advance(0.5)
        bench.manager.new_mail(queue_id)
        await bench.settle()
        assert bench.where() == {}
        assert bench.lines() == [
            f"{queue_id}: from=<zs@x.test>, size={len(CONTENT)}, nrcpt=2 (queue active)",
            (
                f"{queue_id}: to=<zs@x.test>, relay=fake[192.0.2.1]:24, delay=0.5, delays=0.5/0/0/0, "
                "dsn=2.0.0, status=sent (250 2.0.0 Ok)"
            ),
            (
                f"{queue_id}: to=<out@other.test>, relay=fake[192.0.2.1]:24, delay=0.5, delays=0.5/0/0/0, "
                "dsn=2.0.0, status=sent (250 2.0.0 Ok)"
            ),
            f"{queue_id}: removed",
        ]
        assert [(request.nexthop, len(request.targets)) for request in bench.agent.requests] == [
            ("box", 1),
            ("other.test", 1),
        ]

    bench_test(tmp_path, test)


def test_deferral_doubles_and_expiry_returns(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        bench.agent.default = LATER
        queue_id = await bench.put("out@other.test")
        bench.manager.new_mail(queue_id)
        await bench.settle()
        waits = []
        for _ in range(7):
            assert bench.where() == {queue_id: "deferred"}
            message = bench.queue.read("deferred", queue_id)
            assert message.reasons[0].text == LATER.text
            waits.append(message.mtime - bench.clock.time())
            bench.manager.scan_deferred()
            await bench.settle()
            assert len(bench.agent.requests) == len(waits), "tried too early"
            bench.clock.advance(waits[-1] + 0.1)
            bench.manager.scan_deferred()
            await bench.settle()
        assert waits == pytest.approx([300, 600, 1200, 2400, 4000, 4000, 4000], abs=0.2)
        bench.agent.requests.clear()
        bench.clock.advance(5 * 86400)
        bench.agent.outcomes["zs@x.test"] = SENT
        bench.manager.scan_deferred()
        await bench.settle()
        assert bench.where() == {}
        assert bench.lines(f"{queue_id}: from=.*expired") == [
            f"{queue_id}: from=<zs@x.test>, status=expired, returned to sender"
        ]
        assert len(bench.lines(f"{queue_id}: sender non-delivery notification: ")) == 1
        assert len(bench.lines(r"from=<>, size=\d+, nrcpt=1 \(queue active\)")) == 1

    bench_test(tmp_path, test)


def test_recipients_have_fates_of_their_own(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        bench.agent.outcomes = {"a@o.test": SENT, "b@o.test": LATER, "c@o.test": NEVER, "zs@x.test": SENT}
        queue_id = await bench.put("a@o.test", "b@o.test", "c@o.test")
        bench.manager.new_mail(queue_id)
        await bench.settle()
        assert bench.where() == {queue_id: "deferred"}
        message = bench.queue.read("deferred", queue_id)
        assert list(message.pending) == [1]
        assert [request.targets[0].address for request in bench.agent.requests] == ["a@o.test", "zs@x.test"]
        # The next attempt concerns the one that is left.
        bench.agent.outcomes["b@o.test"] = SENT
        bench.manager.scan_deferred(ignore_time=True)
        await bench.settle()
        assert bench.where() == {}
        assert [target.address for target in bench.agent.requests[-1].targets] == ["b@o.test"]

    bench_test(tmp_path, test)


def test_mail_of_the_null_sender_is_not_bounced(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        bench.agent.default = NEVER
        for sender in ("", "double-bounce@mail.x.test"):
            bench.manager.new_mail(await bench.put("out@o.test", sender=sender))
        await bench.settle()
        assert bench.where() == {}
        assert bench.lines("notification:") == []
        assert len(bench.lines("warning: .*: undeliverable postmaster notification discarded")) == 1

    bench_test(tmp_path, test)


def test_double_bounces_reach_the_postmaster_when_asked_for(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        bench.agent.outcomes = {"out@o.test": NEVER, "postmaster@x.test": SENT}
        bench.manager.new_mail(await bench.put("out@o.test", sender=""))
        await bench.settle()
        assert bench.where() == {}
        assert len(bench.lines("postmaster non-delivery notification: ")) == 1
        assert len(bench.lines("from=<double-bounce@mail.x.test>")) == 1

    bench_test(tmp_path, test, main_cf="notify_classes = 2bounce\n")


def test_notify_never_is_silent(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        bench.agent.default = NEVER
        bench.manager.new_mail(await bench.put("out@o.test", notify="NEVER"))
        await bench.settle()
        assert bench.where() == {}
        assert bench.lines("notification:") == []

    bench_test(tmp_path, test)


def test_soft_bounce_keeps_the_mail(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        bench.agent.default = NEVER
        queue_id = await bench.put("out@o.test")
        bench.manager.new_mail(queue_id)
        await bench.settle()
        assert bench.where() == {queue_id: "deferred"}
        assert len(bench.lines(r"dsn=4\.1\.1, status=deferred")) == 1

    bench_test(tmp_path, test, main_cf="soft_bounce = yes\n")


def test_aliases(tmp_path: Path) -> None:
    aliases = (
        "postmaster: zs\nteam: zs, ls+x, out@other.test\nowner-team: boss\nself: self, ls\n"
        "loop: pool\npool: loop\ncommand: |/bin/cat\nnested: team, zs\n"
    )

    async def test(bench: Bench) -> None:
        bench.agent.default = SENT

        async def deliver(address: str) -> list[tuple[str, str]]:
            bench.agent.requests.clear()
            bench.manager.new_mail(await bench.put(address))
            await bench.settle()
            assert bench.where() == {}
            return sorted(
                (target.address, request.message.envelope.sender)
                for request in bench.agent.requests
                for target in request.targets
            )

        assert await deliver("Postmaster@x.test") == [("zs@x.test", "zs@x.test")]
        assert len(bench.lines("to=<zs@x.test>, orig_to=<Postmaster@x.test>")) == 1
        assert await deliver("postmaster+ext@mail.x.test") == [("zs@x.test", "zs@x.test")]
        assert await deliver("team@x.test") == [
            ("ls+x@x.test", "owner-team@x.test"),
            ("out@other.test", "owner-team@x.test"),
            ("zs@x.test", "owner-team@x.test"),
        ]
        assert len(bench.lines(r"to=<team@x.test>, relay=local, .*status=sent \(forwarded as ")) == 1
        assert await deliver("self@x.test") == [("ls@x.test", "zs@x.test"), ("self@x.test", "zs@x.test")]
        assert await deliver("loop@x.test") == [("zs@x.test", "")]  # a report
        assert len(bench.lines(r"to=<loop@x.test>, .*dsn=5\.4\.6, .*\(alias database loop for loop\)")) == 1
        assert await deliver("nested@x.test") == [
            ("ls+x@x.test", "owner-team@x.test"),
            ("out@other.test", "owner-team@x.test"),
            ("zs@x.test", "owner-team@x.test"),
        ]
        await deliver("command@x.test")
        assert len(bench.lines(r"dsn=5\.7\.1, status=bounced \(mail to command is restricted\)")) == 1
        assert await deliver("nobody@x.test") == [("nobody@x.test", "zs@x.test")]

    bench_test(tmp_path, test, aliases=aliases, main_cf="allow_mail_to_commands =\n")


def test_without_mailbox_transport_a_user_is_unknown(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        bench.agent.default = SENT
        bench.manager.new_mail(await bench.put("zs@x.test", sender="a@other.test"))
        await bench.settle()
        assert len(bench.lines(r'relay=local, .*dsn=5\.1\.1, status=bounced \(unknown user: "zs"\)')) == 1

    bench_test(tmp_path, test, main_cf="mailbox_transport =\n")


def test_relocated_users_and_unknown_transports(tmp_path: Path) -> None:
    (tmp_path / "moved").write_text("old@x.test new@elsewhere.test\n")
    (tmp_path / "ways").write_text("odd.test nosuch:\nsilent.test discard:thrown away\n")

    async def test(bench: Bench) -> None:
        bench.agent.default = SENT
        for address in ("old@x.test", "a@odd.test", "a@silent.test"):
            bench.manager.new_mail(await bench.put(address))
        await bench.settle()
        assert len(bench.lines(r"status=bounced \(User has moved to new@elsewhere.test\)")) == 1
        assert len(bench.lines(r"dsn=4\.3\.0, status=deferred \(mail transport unavailable\)")) == 1
        assert len(bench.lines(r"to=<a@silent.test>, relay=none, .*status=sent \(thrown away\)")) == 1
        assert list(bench.where().values()) == ["deferred"]

    bench_test(
        tmp_path,
        test,
        main_cf=f"relocated_maps = texthash:{tmp_path}/moved\ntransport_maps = texthash:{tmp_path}/ways\n",
    )


def test_damaged_files_are_kept_aside_and_reported(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        bench.agent.default = SENT
        queue_id = await bench.put("zs@x.test")
        path = bench.queue.path("incoming", queue_id)
        os.truncate(path, os.stat(path).st_size - 5)
        bench.manager.recover()
        await bench.settle()
        assert bench.where() == {queue_id: "corrupt"}
        assert len(bench.lines(f"warning: {queue_id}: damaged queue file in incoming: ")) == 1

    bench_test(tmp_path, test)


def test_what_a_crash_leaves_is_taken_up(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        bench.agent.default = SENT
        waiting = await bench.put("a@o.test")
        working = await bench.put("b@o.test", "c@o.test")
        finished = await bench.put("d@o.test")
        bench.queue.move(working, "incoming", "active")
        message = bench.queue.read("active", working)
        bench.queue.mark_done(message, [0])
        bench.queue.mark_done(bench.queue.read("incoming", finished), [0])
        bench.manager.recover()
        await bench.settle()
        assert bench.where() == {}
        delivered = {t.address for request in bench.agent.requests for t in request.targets}
        assert delivered == {"a@o.test", "c@o.test"}
        assert len(bench.lines(f"{waiting}: removed")) == 1

    bench_test(tmp_path, test)


def test_the_active_queue_is_bounded_and_new_mail_goes_first(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        bench.agent.default = SENT
        late = await bench.put("late@o.test")
        bench.queue.defer(bench.queue.read("incoming", late), {}, bench.clock.time() - 1)
        bench.agent.gate = asyncio.Event()
        ids = [await bench.put(f"{n}@{n}.test") for n in range(4)]
        bench.manager.scan_deferred()
        bench.manager.new_mail(ids[0])
        bench.manager.new_mail(ids[1])
        bench.manager.new_mail(ids[2])
        bench.manager._take_up(100)
        await asyncio.sleep(0)
        assert list(bench.manager.active) == ids[:2]
        bench.agent.gate.set()
        bench.manager.scan_incoming()
        await bench.settle()
        assert bench.where() == {}
        order = [request.targets[0].address for request in bench.agent.requests]
        assert order[:3] == ["0@0.test", "1@1.test", "2@2.test"]
        assert set(order[3:]) == {"3@3.test", "late@o.test"}

    bench_test(tmp_path, test, main_cf="qmgr_message_active_limit = 2\n")


def test_many_recipients_wait_for_room_and_others_go_past_them(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        bench.agent.default = SENT
        bench.agent.gate = asyncio.Event()
        storm = [await bench.put(*(f"{n}@{m}.storm.test" for n in range(4))) for m in range(4)]
        for queue_id in storm:
            bench.manager.new_mail(queue_id)
        few = await bench.put("a@quick.test", "b@quick.test")
        bench.manager.new_mail(few)
        assert list(bench.manager.active) == [*storm[:3], few], (
            "the fourth has to wait, two recipients do not"
        )
        assert bench.manager._recipients == 10
        bench.agent.gate.set()
        bench.manager._wanted.set()
        await bench.settle()
        assert bench.where() == {}
        assert sum(len(request.targets) for request in bench.agent.requests) == 18

    limits = "qmgr_message_recipient_limit = 8\nqmgr_message_recipient_minimum = 2\n"
    bench_test(tmp_path, test, main_cf=limits)


def test_slow_messages_move_to_active_and_end_there(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        bench.agent.default = SENT
        bench.agent.gate = asyncio.Event()
        queue_id = await bench.put("a@o.test")
        bench.manager.new_mail(queue_id)
        await asyncio.sleep(0)
        bench.manager.tick()
        assert bench.where() == {queue_id: "incoming"}
        bench.clock.advance(2)
        bench.manager.tick()
        assert bench.where() == {queue_id: "active"}
        bench.agent.gate.set()
        await bench.settle()
        assert bench.where() == {}

    bench_test(tmp_path, test)


def test_concurrency_limits(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        bench.agent.default = SENT
        bench.agent.gate = asyncio.Event()
        for n in range(6):
            bench.manager.new_mail(await bench.put(f"{n}@one.test"))
        bench.manager.new_mail(await bench.put("x@two.test"))
        for _ in range(5):
            await asyncio.sleep(0)
        assert bench.agent.peak == 3, "two for one.test, one for two.test"
        bench.agent.gate.set()
        await bench.settle()
        assert bench.where() == {}
        assert bench.agent.peak == 3

    bench_test(tmp_path, test, main_cf="fake_destination_concurrency_limit = 2\n")


def test_process_and_recipient_limits(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        bench.agent.default = SENT
        for n in range(6):
            bench.manager.new_mail(await bench.put(f"a@{n}.test"))
        bench.manager.new_mail(await bench.put(*(f"{n}@many.test" for n in range(5))))
        await bench.settle()
        assert bench.where() == {}
        assert bench.agent.peak == 1
        sizes = [len(r.targets) for r in bench.agent.requests if r.nexthop == "many.test"]
        assert sizes == [2, 2, 1]

    bench_test(tmp_path, test, main_cf="fake_destination_recipient_limit = 2\n", maxproc="1")


def test_a_fault_of_an_agent_defers(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        bench.agent.broken = True
        queue_id = await bench.put("a@o.test")
        bench.manager.new_mail(queue_id)
        await bench.settle()
        assert bench.where() == {queue_id: "deferred"}
        assert len(bench.lines("RuntimeError: a fault of the agent's own")) >= 1

    bench_test(tmp_path, test)


def test_flush_for_one_domain(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        bench.agent.default = LATER
        one, two = await bench.put("a@one.test"), await bench.put("a@two.test")
        bench.manager.new_mail(one)
        bench.manager.new_mail(two)
        await bench.settle()
        bench.agent.default = SENT
        bench.manager.scan_deferred(ignore_time=True, domain="One.test")
        await bench.settle()
        assert bench.where() == {two: "deferred"}
        bench.manager.scan_deferred(ignore_time=True)
        await bench.settle()
        assert bench.where() == {}

    bench_test(tmp_path, test)


def test_unknown_ids_are_harmless(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        bench.manager.new_mail("0123456789ABC")
        await bench.settle()
        assert bench.lines() == []

    bench_test(tmp_path, test)


def test_backoff() -> None:
    limits = Limits(1, 1, 1, 1, 1, 1, 10, 100, 1, 1, 0, False, 2, False, quote, frozenset(), 1)
    assert [limits.backoff(attempts) for attempts in (1, 2, 3, 4, 5, 50, 5000)] == [
        10,
        20,
        40,
        80,
        100,
        100,
        100,
    ]
