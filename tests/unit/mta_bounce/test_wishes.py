"""Who is told what: NOTIFY, delays, copies for the postmaster (RFC 3461 §4.1, notify_classes)."""

from __future__ import annotations

import asyncio
from email.message import Message
from pathlib import Path

import pytest

from mailstack.mta.deliver.request import Bounced, Deferred, Outcome, Sent
from mailstack.mta.dsn import REPLACED, forwarded, without_success
from mailstack.storage.queue import Envelope, Recipient
from tests.unit.mta_qmgr.support import CONTENT, Bench, bench_test

GOOD = Sent("250 2.0.0 Ok", "2.0.0", "relayed")
NO = Bounced("host h said: 550 5.1.1 no", "5.1.1")
LATER = Deferred("host h said: 450 4.2.0 later", "4.2.0")


async def deliver(bench: Bench, *recipients: Recipient, sender: str = "zs@x.test", **fields: object) -> str:
    """Deliver one message once; its notifications stay in incoming/. Returns its id."""
    envelope = Envelope(sender, recipients, bench.clock.time(), **fields)  # type: ignore[arg-type]
    queue_id = await bench.queue.enqueue(envelope, (CONTENT,), bench.commit)
    bench.manager.new_mail(queue_id)
    await work(bench)
    return queue_id


async def work(bench: Bench) -> None:
    """Let what is active end, and take up nothing more."""
    bench.manager.stop()
    while len(bench.tasks):  # noqa: ASYNC110
        await asyncio.sleep(0.001)
    bench.manager._stopping = False


def reports(bench: Bench) -> list[tuple[str, str, list[tuple[str, str]]]]:
    """(receiver, subject, [(final recipient, action)]) of every notification, oldest first."""
    found = []
    for queue_id, queue in sorted(bench.where().items()):
        if queue != "incoming":
            continue
        message = bench.message(queue_id)
        status = parts(message)[1]
        recipients = [
            (str(part["Final-Recipient"]).removeprefix("rfc822; "), str(part["Action"]))
            for part in parts(status)[1:]
        ]
        found.append((str(message["To"]), str(message["Subject"]), recipients))
    return found


def parts(message: Message) -> list[Message]:
    payload = message.get_payload()
    assert isinstance(payload, list)
    return [part for part in payload if isinstance(part, Message)]


FAILURE, DELAY, SUCCESS = (
    "Undelivered Mail Returned to Sender",
    "Delayed Mail (still being retried)",
    "Successful Mail Delivery Report",
)
WISHES: list[tuple[Outcome, str, list[str]]] = [
    (GOOD, "", []),
    (GOOD, "FAILURE,DELAY", []),
    (GOOD, "NEVER", []),
    (GOOD, "SUCCESS", [SUCCESS]),
    (Sent("250 Ok", "2.0.0", ""), "SUCCESS", []),  # the next server will tell
    (NO, "", [FAILURE]),
    (NO, "SUCCESS", []),
    (NO, "DELAY", []),
    (NO, "NEVER", []),
    (NO, "SUCCESS,FAILURE", [FAILURE]),
]


@pytest.mark.parametrize(("outcome", "notify", "subjects"), WISHES)
def test_notify(tmp_path: Path, outcome: Outcome, notify: str, subjects: list[str]) -> None:
    async def test(bench: Bench) -> None:
        bench.agent.default = outcome
        await deliver(bench, Recipient("a@o.test", notify=notify))
        assert [subject for _, subject, _ in reports(bench)] == subjects

    bench_test(tmp_path, test)


def test_one_report_for_each_kind(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        bench.agent.outcomes = {"good@o.test": GOOD, "bad@o.test": NO}
        attributes = {REPLACED: "alias@x.test\trfc822;orig@y.test"}
        queue_id = await deliver(
            bench,
            Recipient("good@o.test", notify="SUCCESS,FAILURE"),
            Recipient("bad@o.test", notify="SUCCESS,FAILURE"),
            envid="my id",
            attributes=attributes,
        )
        assert reports(bench) == [
            ("zs@x.test", FAILURE, [("bad@o.test", "failed")]),
            ("zs@x.test", SUCCESS, [("alias@x.test", "expanded"), ("good@o.test", "relayed")]),
        ]
        _, name = sorted(bench.where())
        raw = bench.queue.read_content(bench.queue.read("incoming", name)).decode()
        assert "Original-Envelope-Id: my id\r\n" in raw
        assert "Original-Recipient: rfc822;orig@y.test\r\n" in raw
        assert "Remote-MTA: dns; fake\r\nDiagnostic-Code: smtp; 250 2.0.0 Ok\r\n" in raw
        assert "Content-Type: text/rfc822-headers\r\n" in raw and "Body." not in raw
        assert bench.lines("sender delivery status notification: ") == [
            f"{queue_id}: sender delivery status notification: {name}"
        ]

    bench_test(tmp_path, test)


def test_what_was_expanded_is_told_once(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        bench.agent.default = LATER
        await deliver(bench, Recipient("a@o.test"), attributes={REPLACED: "alias@x.test\trfc822;b@c"})
        assert len(reports(bench)) == 1
        bench.manager.scan_deferred(ignore_time=True)
        while bench.manager._take_up(10):
            pass
        await work(bench)
        assert len(bench.lines("status=deferred")) >= 2
        assert len(bench.lines("sender delivery status notification")) == 1

    bench_test(tmp_path, test)


def attempt(bench: Bench, queue_id: str) -> None:
    """Take up one deferred message, and nothing else."""
    from mailstack.mta.qmgr.intake import Found

    bench.manager._admit(Found("deferred", queue_id, forced=True))


def test_a_delay_is_told_once(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        bench.agent.default = LATER
        queue_id = await deliver(
            bench,
            Recipient("a@o.test"),
            Recipient("b@o.test", notify="FAILURE"),
            Recipient("c@o.test", notify="DELAY"),
        )
        for hours, count in ((1, 0), (2, 0), (2, 2), (2, 2), (24, 2)):
            bench.clock.advance(hours * 3600)
            attempt(bench, queue_id)
            await work(bench)
            assert len(reports(bench)) == count, hours
        late = [("a@o.test", "delayed"), ("c@o.test", "delayed")]
        everybody = [late[0], ("b@o.test", "delayed"), late[1]]
        assert reports(bench) == [
            ("zs@x.test", DELAY, late),
            ("delays@o.test", "Postmaster Warning: Delayed Mail", everybody),
        ]
        text = parts(bench.message(min(name for name, queue in bench.where().items() if queue == "incoming")))
        assert "for more than 4 hour(s)" in str(text[0].get_payload())
        assert "Will-Retry-Until: " in str(text[1])

    bench_test(
        tmp_path,
        test,
        main_cf="delay_warning_time = 4h\nnotify_classes = delay\ndelay_notice_recipient = delays@o.test\n",
    )


COPIES: list[tuple[str, str, list[str]]] = [
    ("resource", "zs@x.test", ["zs@x.test"]),
    ("bounce", "zs@x.test", ["zs@x.test", "copies@o.test"]),
    ("2bounce", "zs@x.test", ["zs@x.test"]),
    ("resource", "", []),
    ("2bounce", "", ["double@o.test"]),
    ("bounce", "", ["double@o.test"]),
    ("bounce 2bounce", "double-bounce@mail.x.test", []),
]


@pytest.mark.parametrize(("classes", "sender", "receivers"), COPIES)
def test_copies_for_the_postmaster(tmp_path: Path, classes: str, sender: str, receivers: list[str]) -> None:
    async def test(bench: Bench) -> None:
        bench.agent.default = NO
        await deliver(bench, Recipient("a@o.test"), sender=sender)
        assert [receiver for receiver, _, _ in reports(bench)] == receivers
        for name in bench.where():
            envelope = bench.queue.read("incoming", name).envelope
            to_postmaster = envelope.recipients[0].address != "zs@x.test"
            assert envelope.sender == ("double-bounce@mail.x.test" if to_postmaster else "")
        discarded = len(bench.lines("undeliverable postmaster notification discarded"))
        assert discarded == (1 if sender.startswith("double") else 0)

    main_cf = (
        f"notify_classes = {classes}\nbounce_notice_recipient = copies@o.test\n"
        "2bounce_notice_recipient = double@o.test\n"
    )
    bench_test(tmp_path, test, main_cf=main_cf)


def test_smtputf8_has_types_of_its_own(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        bench.agent.default = NO
        await deliver(bench, Recipient("ü@o.test", orcpt="utf-8;ü@x"), smtputf8=True, ret="HDRS")
        [name] = bench.where()
        stored = bench.queue.read("incoming", name)
        assert stored.envelope.smtputf8
        raw = bench.queue.read_content(stored).decode()
        assert "Content-Type: message/global-delivery-status\r\nContent-Transfer-Encoding: 8bit\r\n" in raw
        assert "Content-Type: message/global-headers\r\n" in raw
        assert "Final-Recipient: utf-8; ü@o.test\r\nOriginal-Recipient: utf-8;ü@x\r\n" in raw

    bench_test(tmp_path, test)


@pytest.mark.parametrize(
    ("notify", "left"), [("", ""), ("SUCCESS", "NEVER"), ("NEVER", "NEVER"), ("SUCCESS,DELAY", "DELAY")]
)
def test_what_an_alias_hands_on(notify: str, left: str) -> None:
    assert without_success(notify) == left
    envelope = Envelope("a@b", (Recipient("list@x", notify=notify, orcpt="rfc822;l@x"),), 0.0)
    members = (Recipient("m@y"),)
    assert forwarded(envelope, "list@x", members, owned=False) == (Recipient("m@y", "", left, "rfc822;l@x"),)
    assert forwarded(envelope, "list@x", members, owned=True) == (Recipient("m@y", "", left),)
    assert forwarded(envelope, "other@x", members, owned=True) == members
