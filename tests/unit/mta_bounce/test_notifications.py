"""Non-delivery notifications: structure and fields of RFC 3464, Postfix's words."""

from __future__ import annotations

import asyncio
from email.message import Message
from pathlib import Path

import pytest

from mailstack.mta.deliver.request import Bounced
from tests.unit.mta_qmgr.support import CONTENT, Bench, bench_test

CHECKED = "internal_mail_filter_classes = bounce\n"
NEVER = Bounced(
    "host fake[192.0.2.1] said: 550 5.1.1 <b@o.test>: Recipient address rejected: User unknown in table "
    "(in reply to RCPT TO command)",
    "5.1.1",
)


async def bounced(bench: Bench, **options: object) -> tuple[str, str]:
    """Bounce a message; (its id, the notification's id)."""
    bench.agent.default = NEVER
    queue_id = await bench.put("a@o.test", "b@o.test", **options)  # type: ignore[arg-type]
    bench.manager.new_mail(queue_id)
    bench.manager.stop()  # the notification is to stay in incoming
    while len(bench.tasks):  # noqa: ASYNC110
        await asyncio.sleep(0.001)
    [notification] = bench.where()
    return queue_id, notification


def parts(message: Message) -> list[Message]:
    payload = message.get_payload()
    assert isinstance(payload, list)
    return [part for part in payload if isinstance(part, Message)]


def test_the_notification(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        queue_id, notification = await bounced(bench)
        stored = bench.queue.read("incoming", notification)
        assert stored.envelope.sender == ""
        assert [recipient.address for recipient in stored.envelope.recipients] == ["zs@x.test"]
        raw = bench.queue.read_content(stored)
        assert b"\n" not in raw.replace(b"\r\n", b"")
        message = bench.message(notification)
        assert message["From"] == "Mail Delivery System <MAILER-DAEMON@x.test>"
        assert message["To"] == "zs@x.test"
        assert message["Subject"] == "Undelivered Mail Returned to Sender"
        assert message["Auto-Submitted"] == "auto-replied"
        assert message["Message-Id"].endswith(f".{notification}@mail.x.test>")
        assert message["Received"].startswith("by mail.x.test (Postfix)")
        assert message.get_content_type() == "multipart/report"
        assert message.get_param("report-type") == "delivery-status"
        text, status, original = parts(message)
        assert text["Content-Description"] == "Notification"
        body = str(text.get_payload())
        assert "This is the mail system at host mail.x.test." in body
        assert "<a@o.test>: host fake[192.0.2.1] said: 550 5.1.1" in body
        per_message, first, second = parts(status)
        assert per_message["Reporting-MTA"] == "dns; mail.x.test"
        assert per_message["X-Postfix-Queue-ID"] == queue_id
        assert per_message["X-Postfix-Sender"] == "rfc822; zs@x.test"
        assert per_message["Arrival-Date"]
        assert first["Final-Recipient"] == "rfc822; a@o.test"
        assert second["Final-Recipient"] == "rfc822; b@o.test"
        assert (first["Action"], first["Status"]) == ("failed", "5.1.1")
        assert "X-Postfix; host fake[192.0.2.1] said: 550 5.1.1" in first["Diagnostic-Code"]
        assert original.get_content_type() == "message/rfc822"
        assert CONTENT in raw
        assert bench.lines("notification: ") == [
            f"{queue_id}: sender non-delivery notification: {notification}"
        ]
        assert bench.lines("message-id=") == [f"{notification}: message-id={message['Message-Id']}"]

    bench_test(tmp_path, test)


def test_large_originals_come_back_as_headers(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        _, notification = await bounced(bench, content=CONTENT + b"secret body\r\n" * 10_000)
        raw = bench.queue.read_content(bench.queue.read("incoming", notification))
        assert b"Content-Type: text/rfc822-headers" in raw
        assert b"Subject: hello\r\nTo: somebody\r\n" in raw
        assert b"secret body" not in raw

    bench_test(tmp_path, test)


def test_ret_hdrs(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        _, notification = await bounced(bench, ret="HDRS")
        raw = bench.queue.read_content(bench.queue.read("incoming", notification))
        assert b"Content-Description: Undelivered Message Headers" in raw
        assert b"Body." not in raw

    bench_test(tmp_path, test)


def test_eight_bit_originals_are_declared(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        _, notification = await bounced(bench, content=CONTENT + "grün\r\n".encode())
        stored = bench.queue.read("incoming", notification)
        assert stored.envelope.body == "8bitmime"
        message = bench.message(notification)
        assert message["Content-Transfer-Encoding"] == "8bit"

    bench_test(tmp_path, test)


def test_a_notification_that_cannot_be_queued_is_tried_again(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        bench.agent.default = NEVER
        queue_id = await bench.put("a@o.test")
        (tmp_path / "queue" / "tmp").rmdir()
        bench.manager.new_mail(queue_id)
        await bench.settle()
        assert bench.where() == {queue_id: "deferred"}
        (tmp_path / "queue" / "tmp").mkdir()
        bench.manager.scan_deferred(ignore_time=True)
        bench.agent.outcomes["zs@x.test"] = Bounced("no", "5.0.0")
        await bench.settle()
        assert bench.where() == {}
        assert len(bench.lines("sender non-delivery notification")) == 1

    bench_test(tmp_path, test)


@pytest.mark.parametrize(
    "main_cf",
    [
        "virtual_alias_domains =\nvirtual_alias_maps = tcp:127.0.0.1:1\n",
        "virtual_alias_maps = inline:{ {zs@x.test = ,} }\n",
        "recipient_canonical_maps = inline:{ {zs@x.test = b@x.test}, {b@x.test = zs@x.test} }\n",
        "virtual_alias_maps = inline:{ {b@x.test = ,} }\nheader_checks = static:{BCC b@x.test}\n" + CHECKED,
    ],
)
def test_a_sender_whom_no_table_can_tell_of_is_told_later(tmp_path: Path, main_cf: str) -> None:
    async def test(bench: Bench) -> None:
        bench.agent.default = NEVER
        queue_id = await bench.put("a@o.test")
        bench.manager.new_mail(queue_id)
        await bench.settle()
        assert bench.where() == {queue_id: "deferred"}
        assert bench.lines(f"warning: {queue_id}: bounce: ")

    bench_test(tmp_path, test, main_cf=main_cf)
