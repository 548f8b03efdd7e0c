"""Questions, probes and results, in a queue manager with an agent that answers as it is told."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest

from mailstack.mta.deliver.request import Bounced, Deferred, Sent
from mailstack.mta.verify import MTA, PROBE, USER
from mailstack.mta.verify.cache import Status
from mailstack.storage.queue import Envelope, Recipient
from tests.unit.mta_qmgr.support import Bench, bench_test

MEMORY = "address_verify_map =\n"
YES = Sent("250 2.1.5 Ok", "2.1.5")
NO = Bounced("host fake[192.0.2.1] said: 550 5.1.1 unknown (in reply to RCPT TO command)", "5.1.1")
LATER = Deferred("host fake[192.0.2.1] said: 450 4.2.0 busy (in reply to RCPT TO command)", "4.2.0")
BUSY = "Address verification in progress"


async def ask(bench: Bench, address: str) -> list[tuple[Status, str]]:
    """All that is answered to one question, while the queue manager works."""
    found: list[bytes] = []
    bench.manager.verification().request("1f", address.encode().hex(), found.append)
    await bench.settle()
    answers = []
    for answer in found:
        number, status, text = answer.decode().split()
        assert number == "1f"
        answers.append((Status(int(status)), bytes.fromhex(text).decode()))
    return answers


@pytest.mark.parametrize(
    ("outcome", "status", "words"),
    [
        (YES, Status.OK, "dsn=2.1.5, status=deliverable"),
        (NO, Status.BOUNCE, "dsn=5.1.1, status=undeliverable"),
        (LATER, Status.DEFER, "dsn=4.2.0, status=undeliverable"),
    ],
)
def test_a_probe_is_one_message_and_leaves_nothing_but_its_result(
    tmp_path: Path, outcome: Sent | Bounced | Deferred, status: Status, words: str
) -> None:
    async def test(bench: Bench) -> None:
        bench.agent.default = outcome
        assert await ask(bench, "a@far.test") == [(Status.TODO, BUSY), (status, outcome.text)]
        assert await ask(bench, "a@far.test") == [(status, outcome.text)]
        [request] = bench.agent.requests
        assert request.message.envelope.sender == "double-bounce@x.test"
        assert bench.where() == {}, "no notification, nothing deferred"
        [line] = bench.lines(r"to=<a@far.test>")
        assert f"{words} ({outcome.text})" in line
        [queue_id] = [line.split(":")[0] for line in bench.lines("removed")]
        assert bench.lines(f"{queue_id}: message-id=<.*@mail.x.test>")

    bench_test(tmp_path, test, main_cf=MEMORY + "soft_bounce = yes\n")


def test_several_names_and_several_recipients(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        bench.agent.default = YES
        assert (await ask(bench, "one@x.test"))[-1] == (Status.OK, "250 2.1.5 Ok")
        assert await ask(bench, "b@far.test") == [(Status.OK, "250 2.1.5 Ok")], "known by its other name"
        assert (await ask(bench, "all@x.test"))[-1] == (Status.OK, "aliased to multiple recipients")
        assert len(bench.agent.requests) == 1
        [line] = bench.lines("aliased to multiple")
        assert "to=<all@x.test>, relay=none, delay=0, delays=0/0/0/0, dsn=2.0.0, status=deliverable" in line

    virtual = "virtual_alias_maps = inline:{ one@x.test=b@far.test, {all@x.test=b@far.test, c@far.test} }\n"
    bench_test(tmp_path, test, main_cf=MEMORY + virtual)


def test_failures_that_are_not_cached(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        bench.agent.default = NO
        for _ in range(2):
            assert await ask(bench, "a@far.test") == [(Status.TODO, BUSY)]
        assert len(bench.agent.requests) == 2
        assert len(bench.lines("status=undeliverable-but-not-cached")) == 2

    bench_test(tmp_path, test, main_cf=MEMORY + "address_verify_negative_cache = no\n")


def test_probes_have_ways_of_their_own_and_a_limit(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        bench.agent.default = YES
        bench.agent.gate = asyncio.Event()
        answers: list[bytes] = []
        for name in "abc":
            bench.manager.verification().request(name, f"{name}@far.test".encode().hex(), answers.append)
        for _ in range(200):
            await asyncio.sleep(0.001)
            if len(bench.agent.requests) == 2 and bench.lines("Too many"):
                break
        bench.agent.gate.set()
        await bench.settle()
        assert {request.nexthop for request in bench.agent.requests} == {"probes.test"}
        [line] = bench.lines("Too many address verification requests")
        assert "relay=none" in line and "dsn=4.3.2, status=undeliverable" in line
        bench.manager.new_mail(await bench.put("a@far.test"))
        await bench.settle()
        assert bench.agent.requests[-1].nexthop == "far.test", "mail goes where it went"

    limits = "address_verify_default_transport = fake:probes.test\naddress_verify_pending_request_limit = 2\n"
    bench_test(tmp_path, test, main_cf=MEMORY + limits)


def test_a_cache_in_a_file_goes_on_after_a_restart_and_a_reload(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        bench.agent.default = YES
        if not (bench.root / "data").exists():
            (bench.root / "data").mkdir()
        assert (await ask(bench, "a@far.test"))[-1][0] is Status.OK
        bench.configure()
        assert await ask(bench, "a@far.test") == [(Status.OK, "250 2.1.5 Ok")]
        await bench.manager.close()
        bench.manager._verification = None
        assert await ask(bench, "a@far.test") == [(Status.OK, "250 2.1.5 Ok")]
        assert len(bench.agent.requests) == 1
        bench.clock.advance(32 * 86400)
        bench.manager.tick()
        await bench.settle()
        assert bench.lines("full cleanup: retained=0 dropped=1 entries")
        await bench.manager.close()

    bench_test(tmp_path, test, main_cf=f"data_directory = {tmp_path}/data\n")


def test_a_cache_that_cannot_be_opened_is_kept_in_memory(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        bench.agent.default = YES
        await ask(bench, "a@far.test")
        assert await ask(bench, "a@far.test") == [(Status.OK, "250 2.1.5 Ok")]
        [line] = bench.lines("address_verify_map")
        assert "No such file or directory; the cache is kept in memory" in line
        await bench.manager.close()

    bench_test(tmp_path, test, main_cf=f"address_verify_map = btree:{tmp_path}/missing/cache\n")


def test_a_map_that_is_no_cache_is_a_configuration_error(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        pass

    with pytest.raises(Exception, match="a cache is kept in memory"):
        bench_test(tmp_path, test, main_cf="address_verify_map = cdb:/tmp/x\n")


def test_what_would_become_of_a_message_is_reported(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        bench.agent.outcomes = {"a@far.test": YES, "b@far.test": NO, "me@x.test": LATER}
        envelope = Envelope(
            "me@x.test",
            (Recipient("a@far.test"), Recipient("b@far.test")),
            bench.clock.time(),
            attributes={PROBE: USER},
        )
        queue_id = await bench.queue.enqueue(envelope, (b"Subject: probe\r\n\r\n",), bench.commit)
        bench.manager.new_mail(queue_id)
        await bench.settle()
        [(report, queue)] = bench.where().items()
        message = bench.message(report, queue)
        assert message["Subject"] == "Mail Delivery Status Report"
        text = message.as_string()
        assert "Enclosed is the mail delivery report that you requested." in text
        assert re.findall(r"Action: (.*)\nStatus: (.*)", text) == [
            ("deliverable", "2.1.5"),
            ("undeliverable", "5.1.1"),
        ]

    bench_test(tmp_path, test, main_cf=MEMORY)


def test_probes_that_a_dead_queue_manager_has_left_are_asked_again(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        bench.agent.default = NO
        envelope = Envelope(
            "double-bounce@x.test", (Recipient("a@far.test"),), bench.clock.time(), attributes={PROBE: MTA}
        )
        await bench.queue.enqueue(envelope, (b"Subject: probe\r\n\r\n",), bench.commit)
        bench.manager.recover()
        await bench.settle()
        assert await ask(bench, "a@far.test") == [(Status.BOUNCE, NO.text)]
        assert bench.where() == {}

    bench_test(tmp_path, test, main_cf=MEMORY)
