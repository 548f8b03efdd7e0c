"""smtpd and the queue manager with tables that answer late: mail goes through, and other mail does not wait."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from mailstack.mta.deliver.request import Sent
from mailstack.mta.lookup import opener
from mailstack.net.tables.channel import close_all
from tests.unit.mta_lookup import services
from tests.unit.mta_qmgr.support import Bench
from tests.unit.mta_smtpd import serving
from tests.unit.mta_smtpd.test_session import Client


def test_smtpd_waits_for_one_recipient_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "open_table", opener())

    async def main() -> None:
        async with services.running(services.tcp) as service:
            service.stored = {
                "slow@dgtlinux.com": "exists",
                "fast@dgtlinux.com": "exists",
                "ali@dgtlinux.com": "zs@dgtlinux.com, fast@dgtlinux.com",
                "spam@x.test": "REJECT no%20spam",
            }
            service.held["slow@dgtlinux.com"] = asyncio.Event()
            extra = (
                f"local_recipient_maps = tcp:{service.address}\n"
                f"virtual_alias_maps = tcp:{service.address}\n"
                f"smtpd_sender_restrictions = check_sender_access tcp:{service.address}\n"
            )
            async with serving.running(tmp_path, extra) as smtpd:
                waiting, other = [Client(await smtpd.connect()) for _ in range(2)]
                for client in (waiting, other):
                    assert (await client.reply()).startswith("220 ")
                    assert await client.say("HELO x", "MAIL FROM:<a@x.test>") == "250 2.1.0 Ok"
                waiting.stream.write(b"RCPT TO:<slow@dgtlinux.com>\r\n")
                await service.question.wait()
                assert await other.say("RCPT TO:<fast@dgtlinux.com>") == "250 2.1.5 Ok"
                reply = await other.say("RCPT TO:<none@dgtlinux.com>")
                assert reply.startswith("550 5.1.1 <none@dgtlinux.com>: Recipient address rejected")
                assert await other.say("RCPT TO:<ali@dgtlinux.com>") == "250 2.1.5 Ok"
                assert (await other.say("DATA")).startswith("354 ")
                other.stream.write(b"Subject: x\r\n\r\nbody\r\n.\r\n")
                assert (await other.reply()).startswith("250 2.0.0 Ok: queued as ")
                [message] = smtpd.messages()
                recipients = {recipient.address for recipient in message.envelope.recipients}
                assert recipients == {"exists@dgtlinux.com", "zs@dgtlinux.com"}
                reply = await other.say("MAIL FROM:<spam@x.test>", "RCPT TO:<fast@dgtlinux.com>")
                assert reply.endswith("<spam@x.test>: Sender address rejected: no spam")
                service.held["slow@dgtlinux.com"].set()
                assert await waiting.reply() == "250 2.1.5 Ok"
                await close_all()

    asyncio.run(main())


def test_headers_of_a_large_message_wait_for_their_maps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "open_table", opener())
    content = b"From: ali@dgtlinux.com\r\n\r\n" + (b"x" * 78 + b"\r\n") * 10_000

    async def main() -> None:
        async with services.running(services.tcp) as service:
            service.stored = {"ali@dgtlinux.com": "zs@dgtlinux.com"}
            extra = f"canonical_maps = tcp:{service.address}\nlocal_recipient_maps =\n"
            async with serving.running(tmp_path, extra + "message_size_limit = 0\n") as smtpd:
                client = Client(await smtpd.connect())
                assert (await client.reply()).startswith("220 ")
                lines = ("HELO x", "MAIL FROM:<a@x.test>", "RCPT TO:<ali@dgtlinux.com>", "DATA")
                assert (await client.say(*lines)).startswith("354 ")
                client.stream.write(content + b".\r\n")
                assert (await client.reply()).startswith("250 2.0.0 Ok: queued as ")
                [message] = smtpd.messages()
                assert [one.address for one in message.envelope.recipients] == ["zs@dgtlinux.com"]
                head, _, body = smtpd.content(message).partition(b"\r\n\r\n")
                assert b"From: zs@dgtlinux.com" in head and content.endswith(b"\r\n" + body)
                await close_all()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("setting", "stored", "dialog"),
    [
        ("smtpd_milter_maps = tcp:{}", {"127.0.0.1": "DISABLE"}, {"EHLO x": "250-"}),
        ("smtpd_authorized_xclient_hosts = tcp:{}", {"localhost": "x"}, {"EHLO x": "250-"}),
        (
            "smtpd_authorized_xforward_hosts = tcp:127.0.0.1:1",
            {},
            {"EHLO x": "250-", "XFORWARD ADDR=::1": "550 "},
        ),
        ("smtpd_authorized_verp_clients = tcp:{}", {"localhost": "x"}, {"EHLO x": "250-"}),
        # Nobody manages a queue here: 458 is what a domain is told that the table has.
        (
            "relay_domains = tcp:{}",
            {"r.test": "x"},
            {"EHLO x": "250-", "ETRN r.test": "458 ", "NOOP": "250 "},
        ),
        (
            "relay_domains = tcp:{}",
            {"x.test": "x"},
            {"EHLO x": "250-", "ETRN r.test": "459 ", "NOOP": "250 "},
        ),
        ("relay_domains = tcp:127.0.0.1:1", {}, {"EHLO x": "250-", "ETRN r.test": "458 ", "NOOP": "250 "}),
    ],
)
def test_sessions_wait_for_what_concerns_the_client(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    setting: str,
    stored: dict[str, str],
    dialog: dict[str, str],
) -> None:
    monkeypatch.setattr(serving, "open_table", opener())

    async def main() -> None:
        async with services.running(services.tcp) as service:
            service.stored = {"none": "x", **stored}
            async with serving.running(tmp_path, setting.format(service.address) + "\n") as smtpd:
                client = Client(await smtpd.connect())
                assert (await client.reply()).startswith("220 ")
                for line, reply in dialog.items():
                    assert (await client.say(line)).startswith(reply), line
                await close_all()

    asyncio.run(main())


def test_the_queue_manager_routes_other_mail_meanwhile(tmp_path: Path) -> None:
    async def main() -> None:
        async with services.running(services.tcp) as service:
            service.stored = {"slow@a.test": "fake:[far.test]", "fast@b.test": "fake:[near.test]", "off": "x"}
            service.held["slow@a.test"] = asyncio.Event()
            bench = Bench(tmp_path, main_cf=f"transport_maps = tcp:{service.address}\n")
            bench.agent.default = Sent("250 2.0.0 Ok")
            try:
                slow, fast = await bench.put("slow@a.test"), await bench.put("fast@b.test")
                bench.manager.new_mail(slow)
                bench.manager.new_mail(fast)
                while bench.manager._take_up(10):
                    pass
                bench.manager.new_mail(slow)  # told of it twice
                async with asyncio.timeout(10):
                    while [request.nexthop for request in bench.agent.requests] != ["[near.test]"]:  # noqa: ASYNC110
                        await asyncio.sleep(0)
                    while fast in bench.where():  # noqa: ASYNC110
                        await asyncio.sleep(0)
                assert set(bench.where()) == {slow}
                service.held["slow@a.test"].set()
                await bench.settle()
                assert bench.where() == {}
                assert [request.nexthop for request in bench.agent.requests] == ["[near.test]", "[far.test]"]
                assert len(bench.lines(r"nrcpt=1 \(queue active\)")) == 2
                assert bench.faults == []
            finally:
                bench.manager.stop()
                await bench.tasks.drain(0)
                bench.close()
                await close_all()

    asyncio.run(main())


def test_a_service_that_is_down_defers(tmp_path: Path) -> None:
    async def main() -> None:
        bench = Bench(tmp_path, main_cf="transport_maps = tcp:127.0.0.1:1\n")
        try:
            queue_id = await bench.put("zs@far.test")
            bench.manager.new_mail(queue_id)
            await bench.settle()
            assert bench.where() == {queue_id: "deferred"}
            [reason] = bench.queue.read("deferred", queue_id).reasons.values()
            assert "query error: connect to 127.0.0.1:1: Connection refused" in reason.text
        finally:
            bench.manager.stop()
            await bench.tasks.drain(0)
            bench.close()

    asyncio.run(main())
