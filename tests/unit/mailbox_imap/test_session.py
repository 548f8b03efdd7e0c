"""Sessions at their limits: time, size, full disks, clients that vanish or never read."""

from __future__ import annotations

import asyncio
import errno
import os
import re
import zlib
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from mailstack.mailbox.imap.service import ImapSettings, MailboxSetting
from mailstack.net.stream import Stream
from mailstack.storage.durable import Publication
from tests.mailbox import Mailbox, running


def serve(
    folder: Path,
    check: Callable[[Mailbox], Awaitable[None]],
    change: Callable[[ImapSettings], ImapSettings] = lambda settings: settings,
) -> None:
    """Run a check against the service, with other settings for its IMAP sessions."""

    async def run() -> None:
        async with running(folder) as mailbox:
            mailbox.service.settings = change(mailbox.service.settings)
            await check(mailbox)

    asyncio.run(run())


class Client:
    """One connection, logged in as zs."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.got = b""

    @classmethod
    async def open(cls, mailbox: Mailbox) -> Client:
        client = cls(await mailbox.connect("imap"))
        assert "OK" in await client.ask(b"LOGIN zs secret")
        return client

    async def ask(self, command: bytes) -> str:
        """Everything up to the tagged answer."""
        self.stream.write(b"t " + command + b"\r\n")
        return await self.until(rb"(?:\A|\r\n)t [^\r\n]*\r\n")

    async def until(self, pattern: bytes) -> str:
        while (found := re.search(pattern, self.got)) is None:
            data = await self.stream.read(10)
            assert data, f"closed after {self.got[-500:]!r}"
            self.got += data
        text, self.got = self.got[: found.end()], self.got[found.end() :]
        return text.decode("latin-1")

    async def rest(self) -> str:
        while data := await self.stream.read(10):
            self.got += data
        return self.got.decode("latin-1")


def test_time_is_limited_before_and_after_the_login(tmp_path: Path) -> None:
    async def check(mailbox: Mailbox) -> None:
        silent = Client(await mailbox.connect("imap"))
        assert "* BYE Disconnected: Inactivity during authentication." in await silent.rest()
        client = await Client.open(mailbox)
        assert "* BYE Disconnected for inactivity." in await client.rest()
        client = await Client.open(mailbox)
        client.stream.write(b"a IDLE\r\n")
        assert "* BYE Disconnected for inactivity." in await client.rest()

    serve(tmp_path, check, lambda settings: replace(settings, login_timeout=0.2, idle_timeout=0.3))


def test_an_idler_hears_that_the_server_lives(tmp_path: Path) -> None:
    async def check(mailbox: Mailbox) -> None:
        client = await Client.open(mailbox)
        client.stream.write(b"a IDLE\r\n")
        await client.until(rb"\* OK Still here\r\n")

    serve(tmp_path, check, lambda settings: replace(settings, idle_notify_interval=0.05))


def test_nonsense_and_wrong_passwords_end_the_connection(tmp_path: Path) -> None:
    async def check(mailbox: Mailbox) -> None:
        client = Client(await mailbox.connect("imap"))
        client.stream.write(b"GET / HTTP/1.1\r\n" * 30)
        text = await client.rest()
        assert text.count(" BAD ") == 20
        assert text.endswith("* BYE Too many invalid IMAP commands.\r\n")
        client = Client(await mailbox.connect("imap"))
        client.stream.write(b"a LOGIN zs wrong\r\n" * 5)
        text = await client.rest()
        assert text.count("AUTHENTICATIONFAILED") == 2
        assert "* BYE Too many authentication failures." in text

    serve(tmp_path, check, lambda settings: replace(settings, failures_limit=3))


def test_a_large_message_comes_in_and_goes_out_in_pieces(tmp_path: Path) -> None:
    body = b"0123456789" * 7 + b"\r\n"
    message = b"Content-Type: text/x\r\n\r\n" + body * 60_000

    async def check(mailbox: Mailbox) -> None:
        client = await Client.open(mailbox)
        client.stream.write(b"a APPEND INBOX (\\Draft) {%d}\r\n" % len(message))
        await client.until(rb"\+ OK\r\n")
        client.stream.write(message + b"\r\n")
        await client.until(rb"a OK \[APPENDUID \d+ 1\].*\r\n")
        await client.ask(b"SELECT INBOX")
        for item, text in [
            (b"BODY.PEEK[]", message),
            (b"BODY.PEEK[1]", body * 60_000),
            (b"BODY.PEEK[TEXT]<71.3>", b"\n01"),
            (b"BODY.PEEK[]<1000000.2000000>", message[1_000_000:3_000_000]),
            (b"BODY.PEEK[HEADER]", message[:24]),
        ]:
            client.stream.write(b"a FETCH 1 " + item + b"\r\n")
            head = await client.until(rb"\{\d+\}\r\n")
            assert head.endswith(f" {{{len(text)}}}\r\n")
            rest = await client.until(rb"\r\na OK .*\r\n")
            assert rest.encode("latin-1") == text + b")\r\na OK Fetch completed.\r\n"
        assert f"RFC822.SIZE {len(message)}" in await client.ask(b"FETCH 1 RFC822.SIZE")
        assert "SEARCH 1\r\n" in await client.ask(b"SEARCH BODY 9012")

    serve(tmp_path, check)
    (name,) = (tmp_path / "mail" / "mail.test" / "zs" / "cur").iterdir()
    assert name.read_bytes() == message.replace(b"\r\n", b"\n")


def test_a_message_that_never_ends_leaves_nothing(tmp_path: Path) -> None:
    async def check(mailbox: Mailbox) -> None:
        client = await Client.open(mailbox)
        client.stream.write(b"a APPEND INBOX {9000000+}\r\n" + b"x" * 3_000_000)
        other = await Client.open(mailbox)
        tmp = tmp_path / "mail" / "mail.test" / "zs" / "tmp"
        while not os.listdir(tmp):
            assert "OK" in await other.ask(b"NOOP")
        client.stream.abort()
        while os.listdir(tmp):
            assert "OK" in await other.ask(b"NOOP")
        assert "MESSAGES 0" in await other.ask(b"STATUS INBOX (MESSAGES)")

    serve(tmp_path, check)


def test_a_client_that_never_reads_does_not_stop_others(tmp_path: Path) -> None:
    async def check(mailbox: Mailbox) -> None:
        await mailbox.deliver("zs@mail.test", b"x" * 5_000_000)
        greedy = await Client.open(mailbox)
        await greedy.ask(b"SELECT INBOX")
        assert greedy.stream.transport is not None
        greedy.stream.transport.pause_reading()
        greedy.stream.write(b"a FETCH 1 BODY.PEEK[]\r\n" * 50)
        other = await Client.open(mailbox)
        for _ in range(20):
            assert "OK" in await other.ask(b"STATUS INBOX (MESSAGES)")
        before = len(mailbox.servers["imap"].sessions)
        while len(mailbox.servers["imap"].sessions) == before:
            assert "OK" in await other.ask(b"NOOP")
            await asyncio.sleep(0)

    serve(tmp_path, check, lambda settings: replace(settings, write_timeout=0.3))


def test_a_full_disk_is_told_and_the_session_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def full(item: Publication) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", item.temporary)

    async def check(mailbox: Mailbox) -> None:
        client = await Client.open(mailbox)
        monkeypatch.setattr(mailbox.service.store.commit, "publish", full)
        assert "NO [OVERQUOTA]" in await client.ask(b"APPEND INBOX {3+}\r\nabc")
        monkeypatch.undo()
        assert "OK [APPENDUID" in await client.ask(b"APPEND INBOX {3+}\r\nabc")

    serve(tmp_path, check)


def test_an_error_of_ours_is_logged_and_the_session_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def check(mailbox: Mailbox) -> None:
        client = await Client.open(mailbox)
        monkeypatch.setattr("mailstack.mailbox.imap.list.tree.names", lambda root: 1 / 0)
        assert "NO [SERVERBUG]" in await client.ask(b'LIST "" *')
        monkeypatch.undo()
        assert "OK" in await client.ask(b'LIST "" *')
        assert "ZeroDivisionError" in mailbox.log()

    serve(tmp_path, check)


def test_sessions_append_at_once_and_every_message_has_its_own_uid(tmp_path: Path) -> None:
    async def check(mailbox: Mailbox) -> None:
        clients = [await Client.open(mailbox) for _ in range(4)]

        async def append(client: Client) -> list[str]:
            return [await client.ask(b"APPEND INBOX {3+}\r\nabc") for _ in range(10)]

        answers = await asyncio.gather(*map(append, clients))
        uids = [re.search(r"APPENDUID \d+ (\d+)", text) for texts in answers for text in texts]
        assert sorted(int(found[1]) for found in uids if found) == list(range(1, 41))

    serve(tmp_path, check)


def test_mailboxes_of_the_configuration_are_made_and_marked(tmp_path: Path) -> None:
    async def check(mailbox: Mailbox) -> None:
        client = await Client.open(mailbox)
        assert '(\\HasNoChildren \\Sent) "." Sent' in await client.ask(b'LIST (SPECIAL-USE) "" *')
        listed = await client.ask(b'LSUB "" *')
        assert "Sent" in listed
        assert "Made" not in listed
        assert "Made" in await client.ask(b'LIST "" *')
        assert "Never" not in await client.ask(b'LIST "" *')

    mailboxes = (
        MailboxSetting("Sent", ("\\Sent",), "subscribe"),
        MailboxSetting("Made", (), "create"),
        MailboxSetting("Never", ("\\Junk",), "no"),
    )
    serve(tmp_path, check, lambda settings: replace(settings, mailboxes=mailboxes))


def test_a_line_end_in_a_mailbox_name_does_not_end_a_reply(tmp_path: Path) -> None:
    async def check(mailbox: Mailbox) -> None:
        client = await Client.open(mailbox)
        # The names hold "\r\nt OK forged" and a NUL, in modified UTF-7.
        for name in (b"&AA0ACg-t OK forged", b"&AAA-"):
            for command in (b"SELECT", b"DELETE", b"CREATE", b"SUBSCRIBE", b"STATUS"):
                items = b" (MESSAGES)" if command == b"STATUS" else b""
                text = await client.ask(b'%b "%b"%b' % (command, name, items))
                assert text.startswith("t NO ") and "\0" not in text, text
        assert "t OK NOOP" in await client.ask(b"NOOP")

    serve(tmp_path, check)


def test_a_compressed_connection_ends_with_the_first_octet_that_is_none(tmp_path: Path) -> None:
    async def check(mailbox: Mailbox) -> None:
        client = await Client.open(mailbox)
        assert "t NO" in await client.ask(b"COMPRESS LZW")
        assert "t OK" in await client.ask(b"COMPRESS DEFLATE")
        said, heard = zlib.compressobj(6, zlib.DEFLATED, -15), zlib.decompressobj(-15)

        async def ask(command: bytes) -> bytes:
            client.stream.write(said.compress(b"t " + command + b"\r\n") + said.flush(zlib.Z_SYNC_FLUSH))
            answer = b""
            while not re.search(rb"(?:\A|\n)t [^\n]*\n", answer):
                answer += heard.decompress(await client.stream.read(10))
            return answer

        assert b"COMPRESS" not in await ask(b"CAPABILITY")
        assert b"[COMPRESSIONACTIVE]" in await ask(b"COMPRESS DEFLATE")
        big = b"Subject: x\r\n\r\n" + b"y" * 400_000
        assert b"APPENDUID" in await ask(b"APPEND INBOX {%d+}\r\n%b" % (len(big), big))
        await ask(b"SELECT INBOX")
        assert big in await ask(b"FETCH * BODY[]")
        client.stream.write(b"\xff\xff\xff\xff not deflated")
        assert b"BYE Cannot decompress" in heard.decompress((await client.rest()).encode("latin-1"))

    serve(tmp_path, check)
