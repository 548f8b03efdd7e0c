"""What LMTP stores, and what it answers when it cannot."""

from __future__ import annotations

import asyncio
import errno
import random
import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from mailstack.mailbox.lmtp import session as lmtp
from mailstack.mailbox.lmtp.content import Content
from mailstack.mailbox.lmtp.session import message_id, split_detail
from mailstack.mailbox.views import MailStore
from mailstack.net.stream import Stream
from mailstack.storage.maildir import subscriptions
from tests.mailbox import Mailbox, client_tls, running


class Client:
    """Sends commands, reads replies."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self._buffer = b""

    @classmethod
    async def connect(cls, mailbox: Mailbox) -> Client:
        """A client that has said LHLO."""
        client = cls(await mailbox.connect("lmtp"))
        assert (await client.reply()).startswith("220 ")
        assert (await client.say("LHLO client")).startswith("250")
        return client

    async def reply(self) -> str:
        """The last line of the next reply."""
        while True:
            while b"\r\n" not in self._buffer:
                data = await self.stream.read(5)
                if not data:
                    return ""
                self._buffer += data
            line, _, self._buffer = self._buffer.partition(b"\r\n")
            if line[3:4] != b"-":
                return line.decode()

    async def say(self, line: str) -> str:
        """Send one line, give its reply."""
        self.stream.write(line.encode() + b"\r\n")
        return await self.reply()

    async def send(self, recipients: Sequence[str], data: bytes, sender: str = "a@b.test") -> list[str]:
        """A transaction; the replies to the content, one for each recipient that was accepted."""
        assert (await self.say(f"MAIL FROM:<{sender}>")).startswith("250")
        accepted = 0
        for recipient in recipients:
            accepted += (await self.say(f"RCPT TO:<{recipient}>")).startswith("250")
        assert await self.say("DATA") == "354 OK"
        self.stream.write(data + b".\r\n")
        return [await self.reply() for _ in range(accepted)]


def files(folder: Path, user: str) -> list[bytes]:
    """What lies in a user's `new`, oldest first."""
    found = sorted((folder / "mail/mail.test" / user / "new").glob("*"), key=lambda path: path.name)
    return [path.read_bytes() for path in found]


def test_what_is_on_disk_when_the_reply_comes(tmp_path: Path) -> None:
    async def check() -> str:
        async with running(tmp_path) as mailbox:
            client = await Client.connect(mailbox)
            (reply,) = await client.send(
                ["zs+detail@mail.test"], b"Subject: x\r\nMessage-ID: <1@b>\r\n\r\n..dot\r\n"
            )
            assert re.fullmatch(r"250 2\.0\.0 <zs\+detail@mail\.test> \S+ Saved", reply)
            assert len(files(tmp_path, "zs")) == 1
            return mailbox.log()

    log = asyncio.run(check())
    (stored,) = files(tmp_path, "zs")
    assert re.fullmatch(
        rb"Return-Path: <a@b\.test>\nDelivered-To: zs@mail\.test\n"
        rb"Received: from client \(\[127\.0\.0\.1\]\)\n\tby mx\.mail\.test with LMTP\n\tid \S+\n"
        rb"\t\(envelope-from <a@b\.test>\)\n\tfor <zs\+detail@mail\.test>; \w{3}, \d+ \w{3} \d{4} [\d:]{8} [+-]\d{4}\n"
        rb"Subject: x\nMessage-ID: <1@b>\n\n\.dot\n",
        stored,
    )
    assert re.search(r"dovecot\[\d+\]: lmtp\(zs@mail\.test\)<\S+>: msgid=<1@b>: saved mail to INBOX", log)


@pytest.mark.parametrize(
    ("extra", "head"),
    [
        ("lmtp_add_received_header = no\n", b"Return-Path: <>\nDelivered-To: zs@mail.test\nSubject"),
        (
            "lmtp_add_received_header = no\nlmtp_hdr_delivery_address = original\n",
            b"Return-Path: <>\nDelivered-To: ZS-list@mail.test\nSubject",
        ),
        (
            "lmtp_add_received_header = no\nprotocol lmtp {\n  lmtp_hdr_delivery_address = none\n}\n",
            b"Return-Path: <>\nSubject",
        ),
    ],
)
def test_header_settings(tmp_path: Path, extra: str, head: bytes) -> None:
    async def check() -> None:
        async with running(tmp_path, extra + "recipient_delimiter = -+\n") as mailbox:
            client = await Client.connect(mailbox)
            assert len(await client.send(["ZS-list@mail.test"], b"Subject: x\r\n\r\n", "")) == 1

    asyncio.run(check())
    assert files(tmp_path, "zs")[0].startswith(head)


@pytest.mark.parametrize(
    ("number", "reply"),
    [
        (errno.ENOSPC, "452 4.2.2 <zs@mail.test> Disk is full"),
        (errno.EDQUOT, "452 4.2.2 <zs@mail.test> Quota exceeded (mailbox for user is full)"),
        (errno.EIO, "451 4.3.0 <zs@mail.test> Temporary internal error"),
    ],
)
def test_one_recipient_s_failure_is_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, reply: str
) -> None:
    deliver = MailStore.deliver

    async def failing(store: MailStore, root: str, data: Sequence[bytes | memoryview]) -> None:
        if root.endswith("/zs"):
            raise OSError(number, "it fails")
        await deliver(store, root, data)

    monkeypatch.setattr(MailStore, "deliver", failing)

    async def check() -> str:
        async with running(tmp_path) as mailbox:
            client = await Client.connect(mailbox)
            replies = await client.send(["zs@mail.test", "support@mail.test"], b"Subject: x\r\n\r\n")
            assert replies[0] == reply
            assert replies[1].startswith("250 2.0.0 <support@mail.test>")
            return mailbox.log()

    assert "save to INBOX failed" in asyncio.run(check())
    assert len(files(tmp_path, "support")) == 1


def test_users_that_cannot_be_looked_up_are_a_temporary_failure(tmp_path: Path) -> None:
    async def check() -> None:
        async with running(tmp_path) as mailbox:
            client = await Client.connect(mailbox)
            (tmp_path / "users").unlink()
            await client.say("MAIL FROM:<>")
            assert (
                await client.say("RCPT TO:<zs@mail.test>")
                == "451 4.3.0 <zs@mail.test> Temporary internal error"
            )

    asyncio.run(check())


def test_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lmtp, "MESSAGE_LIMIT", 1000)
    monkeypatch.setattr(lmtp, "RECIPIENTS_LIMIT", 2)

    async def check() -> None:
        async with running(tmp_path) as mailbox:
            client = await Client.connect(mailbox)
            assert await client.send(["zs@mail.test"], b"x" * 1100 + b"\r\n") == [
                "552 5.3.4 <zs@mail.test> Message is too big"
            ]
            await client.say("MAIL FROM:<>")
            said = [await client.say("RCPT TO:<zs@mail.test>") for _ in range(3)]
            assert said == ["250 2.1.5 OK", "250 2.1.5 OK", "452 4.5.3 Too many recipients"]

    asyncio.run(check())
    assert files(tmp_path, "zs") == []


def test_a_silent_client_is_sent_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lmtp, "IDLE_TIMEOUT", 0.01)

    async def check() -> None:
        async with running(tmp_path) as mailbox:
            client = Client(await mailbox.connect("lmtp"))
            await client.reply()
            assert await client.reply() == "421 4.4.2 Disconnected for inactivity"

    asyncio.run(check())


def test_shutdown_lets_a_message_end(tmp_path: Path) -> None:
    async def check() -> None:
        async with running(tmp_path) as mailbox:
            idle, busy = await Client.connect(mailbox), await Client.connect(mailbox)
            await busy.say("MAIL FROM:<>")
            await busy.say("RCPT TO:<zs@mail.test>")
            for session in list(mailbox.service.sessions):
                session.shutdown()
            assert await idle.reply() == "421 4.3.2 Shutting down"
            assert await busy.say("DATA") == "354 OK"
            assert (await busy.say("Subject: x\r\n\r\n.")).startswith("250 2.0.0")
            assert await busy.reply() == "421 4.3.2 Shutting down"
            assert await busy.reply() == ""

    asyncio.run(check())


def test_starttls_forgets_what_was_said_before(tmp_path: Path) -> None:
    async def check() -> None:
        async with running(tmp_path, tls=True) as mailbox:
            client = await Client.connect(mailbox)
            assert await client.say("STARTTLS") == "220 2.0.0 Begin TLS negotiation now."
            await client.stream.start_tls(
                client_tls(tmp_path), 5, server_side=False, server_hostname="localhost"
            )
            assert await client.say("MAIL FROM:<>") == "503 5.5.1 Error: send HELO/EHLO first"
            await client.say("LHLO again")
            await client.send(["zs@mail.test"], b"Subject: x\r\n\r\n", "")

    asyncio.run(check())
    assert b"\t(using TLSv1.3)\n\tby mx.mail.test with LMTPS\n" in files(tmp_path, "zs")[0]


def test_noise_ends_no_more_than_its_own_session(tmp_path: Path) -> None:
    words = [
        b"LHLO x\r\n",
        b"MAIL FROM:<a@b>\r\n",
        b"RCPT TO:<zs>\r\n",
        b"DATA\r\n",
        b".\r\n",
        b"\0\xff",
        b"\n",
        b"\r",
    ]
    chance = random.Random(7)

    async def check() -> str:
        async with running(tmp_path) as mailbox:
            for _ in range(40):
                stream = await mailbox.connect("lmtp")
                stream.write(b"".join(chance.choices(words, k=30)) + chance.randbytes(50))
                assert stream.transport is not None
                stream.transport.write_eof()
                while await stream.read(5):
                    pass
                stream.close()
            client = await Client.connect(mailbox)
            assert (await client.send(["zs@mail.test"], b"\r\n"))[0].startswith("250")
            return mailbox.log()

    assert "error:" not in asyncio.run(check())


@pytest.mark.parametrize(
    ("address", "delimiters", "bare"),
    [
        ("zs+list@mail.test", "+", "zs@mail.test"),
        ("zs+a+b@mail.test", "+", "zs@mail.test"),
        ("zs-a+b@mail.test", "+-", "zs@mail.test"),
        ("+zs@mail.test", "+", "+zs@mail.test"),
        ("zs@mail.test", "+", "zs@mail.test"),
        ("zs+x", "+", "zs"),
        ("zs+x@mail.test", "", "zs+x@mail.test"),
    ],
)
def test_details(address: str, delimiters: str, bare: str) -> None:
    assert split_detail(address, delimiters)[0] == bare


@pytest.mark.parametrize(
    ("head", "shown"),
    [
        (b"Message-Id: <a@b>\r\n\r\n", "<a@b>"),
        (b"X: y\r\nMESSAGE-ID:\r\n <a@b> \r\n\r\n", "<a@b>"),
        (b"X: y\r\n\r\nMessage-ID: <in the body>\r\n", "unspecified"),
        (b"", "unspecified"),
        (b"Message-ID:\r\n\r\n", "unspecified"),
    ],
)
def test_the_message_id_for_the_log(head: bytes, shown: str) -> None:
    assert message_id(head) == shown


def test_a_big_message_goes_by_way_of_the_disk(tmp_path: Path) -> None:
    body = b"".join(b"%09d\r\n" % number for number in range(300_000))

    async def check() -> None:
        async with running(tmp_path) as mailbox:
            client = await Client.connect(mailbox)
            replies = await client.send(["zs@mail.test", "support@mail.test"], b"Subject: big\r\n\r\n" + body)
            assert [reply[:9] for reply in replies] == ["250 2.0.0", "250 2.0.0"]
            assert (await client.send(["zs@mail.test"], b"Subject: small\r\n\r\n"))[0].startswith("250")

    asyncio.run(check())
    small = b"Subject: small\n\n"
    for user in ("zs", "support"):
        (path,) = [
            path for path in tmp_path.glob(f"mail/mail.test/{user}/new/*") if path.stat().st_size > 1000
        ]
        stored = path.read_bytes()
        assert stored.endswith(b"\n\n" + body.replace(b"\r\n", b"\n"))
        assert path.name.endswith(f",S={len(stored)},W={len(stored) + stored.count(10)}")
        assert not list(tmp_path.glob(f"mail/mail.test/{user}/tmp/*"))
    assert any(message.endswith(small) for message in files(tmp_path, "zs"))


def test_a_disk_that_fills_up_during_a_big_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(content: Content, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Content, "_write", full)

    async def check() -> None:
        async with running(tmp_path) as mailbox:
            client = await Client.connect(mailbox)
            replies = await client.send(["zs@mail.test", "support@mail.test"], b"x" * 70 * 40_000 + b"\r\n")
            assert replies == [
                "452 4.2.2 <zs@mail.test> Disk is full",
                "452 4.2.2 <support@mail.test> Disk is full",
            ]

    asyncio.run(check())
    assert not [path for path in tmp_path.glob("mail/**/*") if path.is_file()]


def test_a_detail_that_names_a_mailbox(tmp_path: Path) -> None:
    root = tmp_path / "mail/mail.test/zs"

    async def check() -> str:
        extra = (
            "lmtp_save_to_detail_mailbox = yes\n"
            "namespace inbox {\n  inbox = yes\n  mailbox Junk {\n    auto = create\n  }\n}\n"
        )
        async with running(tmp_path, extra) as mailbox:
            (root / ".Work.2026" / "cur").mkdir(parents=True)
            (root / ".Work.2026" / "new").mkdir()
            (root / ".Work.2026" / "tmp").mkdir()
            stream = await mailbox.connect("lmtp")
            details = ("Work.2026", "none", "Junk", "inbox", "..", "")
            rcpt = "".join(f"RCPT TO:<zs+{detail}@mail.test>\r\n" for detail in details)
            stream.write(f"LHLO x\r\nMAIL FROM:<a@b.test>\r\n{rcpt}DATA\r\n".encode())
            stream.write(b"Subject: x\r\n\r\n.\r\nQUIT\r\n")
            data = b""
            while piece := await stream.read(5):
                data += piece
            assert data.count(b" Saved\r\n") == len(details), data
            return mailbox.log()

    log = asyncio.run(check())
    assert len(list((root / ".Work.2026/new").iterdir())) == 1
    assert len(list((root / ".Junk/new").iterdir())) == 1
    assert len(list((root / "new").iterdir())) == 4
    assert "saved mail to Work.2026" in log


def test_a_detail_makes_its_mailbox_where_it_may(tmp_path: Path) -> None:
    root = tmp_path / "mail/mail.test/zs"

    async def check() -> None:
        extra = "".join(
            f"{name} = yes\n"
            for name in ("lmtp_save_to_detail_mailbox", "lda_mailbox_autocreate", "lda_mailbox_autosubscribe")
        )
        async with running(tmp_path, extra) as mailbox:
            stream = await mailbox.connect("lmtp")
            stream.write(b"LHLO x\r\nMAIL FROM:<a@b.test>\r\nRCPT TO:<zs+Lists@mail.test>\r\n")
            stream.write(b"DATA\r\nSubject: x\r\n\r\n.\r\nQUIT\r\n")
            while await stream.read(5):
                pass

    asyncio.run(check())
    assert len(list((root / ".Lists/new").iterdir())) == 1
    assert subscriptions.read(str(root)) == ["Lists"]


def test_no_more_messages_at_once_for_a_user_than_allowed(tmp_path: Path) -> None:
    async def check() -> None:
        async with running(tmp_path, "lmtp_user_concurrency_limit = 1\n") as mailbox:
            first, second = await mailbox.connect("lmtp"), await mailbox.connect("lmtp")

            async def rcpt(stream: Stream, user: str) -> bytes:
                stream.write(f"LHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<{user}@mail.test>\r\nNOOP\r\n".encode())
                data = b""
                while not data.endswith(b"250 2.0.0 OK\r\n"):
                    data += await stream.read(5)
                return data.splitlines()[-2]

            assert await rcpt(first, "zs") == b"250 2.1.5 OK"
            assert await rcpt(second, "zs") == (
                b"451 4.3.0 <zs@mail.test> Too many concurrent deliveries for user"
            )
            assert await rcpt(second, "support") == b"250 2.1.5 OK"
            first.write(b"RSET\r\n")
            await first.read(5)
            assert await rcpt(second, "zs") == b"250 2.1.5 OK"

    asyncio.run(check())


QUOTA = "plugin {\n  quota = maildir:User quota\n  quota_rule = *:messages=3\n}\n"


def test_recipients_without_room_are_refused_at_rcpt(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path, QUOTA + "lmtp_rcpt_check_quota = yes\n") as mailbox:
            for _ in range(3):
                await mailbox.deliver("zs", b"Subject: x\r\n\r\nbody\r\n")
            client = await Client.connect(mailbox)
            await client.say("MAIL FROM:<a@b.test>")
            full = "552 5.2.2 <zs@mail.test> Quota exceeded (mailbox for user is full)"
            assert await client.say("RCPT TO:<zs@mail.test>") == full
            assert (await client.say("RCPT TO:<support@mail.test>")).startswith("250")

    asyncio.run(main())


def test_messages_that_come_together_do_not_pass_the_limit(tmp_path: Path) -> None:
    """Twelve sessions at once, with room for three messages."""

    async def main() -> None:
        async with running(tmp_path, QUOTA) as mailbox:
            clients = [await Client.connect(mailbox) for _ in range(12)]
            message = b"Subject: x\r\n\r\nbody\r\n"
            replies = await asyncio.gather(*(client.send(["zs@mail.test"], message) for client in clients))
            codes = sorted(reply[0][:3] for reply in replies)
            assert codes == ["250"] * 3 + ["552"] * 9
            assert len(files(tmp_path, "zs")) == 3

    asyncio.run(main())


def test_what_protocol_lmtp_says_of_names(tmp_path: Path) -> None:
    section = (
        "protocol lmtp {\n  hostname = in.mail.test\n  login_greeting = Hello\n"
        "  auth_username_format = %Ln@mail.test\n}\n"
    )

    async def check() -> None:
        async with running(tmp_path, section) as mailbox:
            client = Client(await mailbox.connect("lmtp"))
            assert await client.reply() == "220 in.mail.test Hello"
            await client.say("LHLO x")
            (reply,) = await client.send(["ZS@elsewhere.test"], b"Subject: x\r\n\r\n")
            assert reply.startswith("250 ")
            (stored,) = files(tmp_path, "zs")
            assert b"by in.mail.test with LMTP" in stored
            assert b"Delivered-To: zs@mail.test" in stored
            assert (await (await mailbox.connect("pop3")).read(5)).startswith(b"+OK Welcome to mail.test")

    asyncio.run(check())


def test_clients_beyond_process_limit_wait(tmp_path: Path) -> None:
    async def check() -> None:
        async with running(tmp_path, "service lmtp {\n  process_limit = 2\n}\n") as mailbox:
            clients = [await Client.connect(mailbox) for _ in range(2)]
            third, fourth = [Client(await mailbox.connect("lmtp")) for _ in range(2)]
            asked = asyncio.create_task(third.reply())
            assert (await clients[1].send(["zs@mail.test"], b"\r\n"))[0].startswith("250 ")
            assert not asked.done()
            await clients[0].say("QUIT")
            assert (await asked).startswith("220 ")
            await third.say("QUIT")
            assert (await fourth.reply()).startswith("220 ")
            assert "service(lmtp): process_limit (2) reached" in mailbox.log()

    asyncio.run(check())
