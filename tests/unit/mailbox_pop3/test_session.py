"""POP3 against mailboxes that change, big messages, limits; what the dialogues do not show."""

from __future__ import annotations

import asyncio
import os
import poplib
import random
import re
from pathlib import Path

import pytest

from mailstack.mailbox.pop3 import session as pop3
from mailstack.net.stream import Stream
from tests.mailbox import Mailbox, client_tls, running


def stored(folder: Path) -> list[Path]:
    """The message files of zs, in the order of their delivery: the names count microseconds without zeros."""
    return sorted(
        folder.glob("mail/mail.test/zs/*/*,S=*"),
        key=lambda path: [int(number) for number in re.findall(r"\d+", path.name)[:4]],
    )


class Client:
    """Sends lines, reads answers."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self._buffer = b""

    @classmethod
    async def login(cls, mailbox: Mailbox, user: str = "zs", password: str = "secret") -> Client:
        """A client in the TRANSACTION state."""
        client = cls(await mailbox.connect("pop3"))
        await client.line()
        assert await client.say(f"USER {user}") == "+OK"
        assert await client.say(f"PASS {password}") == "+OK Logged in."
        return client

    async def line(self) -> str:
        """The next line; empty once the server has closed."""
        while b"\r\n" not in self._buffer:
            data = await self.stream.read(5)
            if not data:
                return ""
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\r\n")
        return line.decode()

    async def say(self, line: str) -> str:
        """Send a line, give the first line of the answer."""
        self.stream.write(line.encode() + b"\r\n")
        return await self.line()

    async def lines(self, line: str) -> list[str]:
        """Send a line, give the lines behind `+OK` up to the dot."""
        assert (await self.say(line)).startswith("+OK")
        found: list[str] = []
        while (text := await self.line()) != ".":
            found.append(text)
        return found


def test_a_message_that_another_program_renames_or_removes(tmp_path: Path) -> None:
    async def check() -> None:
        async with running(tmp_path) as mailbox:
            for number in (1, 2):
                await mailbox.deliver("zs", f"Subject: {number}\r\n\r\n".encode())
            client = await Client.login(mailbox)
            paths = stored(tmp_path)
            os.rename(
                paths[0], tmp_path / "mail/mail.test/zs/cur" / (paths[0].name.partition(":")[0] + ":2,F")
            )
            os.unlink(paths[1])
            assert await client.lines("RETR 1") == ["Subject: 1", ""]
            assert await client.say("RETR 2") == "-ERR [SYS/TEMP] Message is gone."
            assert await client.say("DELE 2") == "+OK Marked to be deleted."
            assert await client.say("QUIT") == "+OK Logging out, messages deleted."

    asyncio.run(check())


def test_what_comes_during_a_session_is_the_next_one_s(tmp_path: Path) -> None:
    async def check() -> None:
        async with running(tmp_path) as mailbox:
            await mailbox.deliver("zs", b"Subject: 1\r\n\r\n")
            client = await Client.login(mailbox)
            await mailbox.deliver("zs", b"Subject: 2\r\n\r\n")
            assert len(await client.lines("LIST")) == 1
            assert await client.say("RETR 2") == "-ERR There's no message 2."
            await client.say("QUIT")
            client = await Client.login(mailbox)
            assert len(await client.lines("UIDL")) == 2

    asyncio.run(check())


def test_unique_ids_are_dovecot_s_and_stay(tmp_path: Path) -> None:
    async def check() -> list[list[str]]:
        seen = []
        for _ in range(2):
            async with running(tmp_path) as mailbox:
                await mailbox.deliver("zs", b"Subject: x\r\n\r\n")
                client = await Client.login(mailbox)
                seen.append(await client.lines("UIDL"))
                await client.say("QUIT")
        return seen

    first, second = asyncio.run(check())
    assert second[0] == first[0]
    head = (tmp_path / "mail/mail.test/zs/dovecot-uidlist").read_text().split("\n")[0]
    validity = re.search(r"\bV(\d+)", head)
    assert validity is not None
    assert first == [f"1 00000001{int(validity[1]):08x}"]


def test_sizes_are_octets_on_the_wire_also_where_the_name_does_not_say(tmp_path: Path) -> None:
    async def check() -> None:
        async with running(tmp_path) as mailbox:
            await mailbox.deliver("zs", b"Subject: 1\r\n\r\n")
            (tmp_path / "mail/mail.test/zs/new/1.dropped.here").write_bytes(b"Subject: 22\n\nbody\n")
            client = await Client.login(mailbox)
            sizes = sorted(line.split()[1] for line in await client.lines("LIST"))
            assert sizes == ["14", "21"]
            assert await client.say("STAT") == "+OK 2 35"

    asyncio.run(check())


@pytest.mark.parametrize(("extra", "letter"), [("", "S"), ("pop3_no_flag_updates = yes\n", "")])
def test_fetching_marks_as_seen(tmp_path: Path, extra: str, letter: str) -> None:
    async def check() -> None:
        async with running(tmp_path, extra) as mailbox:
            await mailbox.deliver("zs", b"Subject: 1\r\n\r\n")
            client = await Client.login(mailbox)
            await client.lines("TOP 1 0")
            await client.lines("RETR 1")
            await client.say("QUIT")
            while await client.line():
                pass

    asyncio.run(check())
    (path,) = stored(tmp_path)
    assert path.name.partition(":2,")[2] == letter


def test_a_big_message_comes_whole(tmp_path: Path) -> None:
    body = b"".join(b".%07d\r\n" % number for number in range(400_000))

    async def check() -> bytes:
        async with running(tmp_path) as mailbox:
            await mailbox.deliver("zs", b"Subject: big\r\n\r\n" + body)
            client = await Client.login(mailbox)
            client.stream.write(b"RETR 1\r\n")
            received = b""
            while not received.endswith(b"\r\n.\r\n"):
                received += await client.stream.read(5)
            return received

    received = asyncio.run(check())
    first, _, text = received.partition(b"\r\n")
    assert first == b"+OK %d octets" % (len(body) + 16)
    assert text[:-3].replace(b"\r\n..", b"\r\n.") == b"Subject: big\r\n\r\n" + body


def test_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pop3, "FAILURES_LIMIT", 2)

    async def check() -> str:
        async with running(tmp_path, "mail_max_userip_connections = 1\n") as mailbox:
            first = await Client.login(mailbox)
            second = Client(await mailbox.connect("pop3"))
            await second.line()
            await second.say("USER zs")
            assert (
                await second.say("PASS secret")
                == "-ERR [IN-USE] Maximum number of connections from user+IP exceeded."
            )
            assert await second.say("PASS wrong") == "-ERR [AUTH] Authentication failed."
            assert await second.line() == "-ERR Too many failed logins."
            assert await second.line() == ""
            await first.say("QUIT")
            while await first.line():
                pass
            await Client.login(mailbox)
            return mailbox.log()

    log = asyncio.run(check())
    assert "pop3-login: Maximum number of connections from user+IP exceeded" in log
    assert re.search(
        r"pop3-login: Disconnected: Connection closed \(auth failed, 2 attempts in 0 secs\): user=<zs>, method=PLAIN, "
        r"rip=127\.0\.0\.1, lip=127\.0\.0\.1, session=<\S+>",
        log,
    )
    assert re.search(
        r"pop3-login: Login: user=<zs@mail\.test>, method=PLAIN, rip=127\.0\.0\.1, lip=127\.0\.0\.1, mpid=\d+, "
        r"session=<\S+>",
        log,
    )
    assert re.search(
        r"pop3\(zs@mail\.test\)<\d+><\S+>: Disconnected: Logged out top=0/0, retr=0/0, del=0/0", log
    )


def test_a_silent_client_is_sent_away_and_deletes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pop3, "IDLE_TIMEOUT", 0.01)

    async def check() -> None:
        async with running(tmp_path) as mailbox:
            await mailbox.deliver("zs", b"Subject: 1\r\n\r\n")
            client = Client(await mailbox.connect("pop3"))
            client.stream.write(b"USER zs\r\nPASS secret\r\nDELE 1\r\n")
            said = [await client.line() for _ in range(5)]
            assert said[3:] == ["+OK Marked to be deleted.", "-ERR Disconnected for inactivity."]
            assert await client.line() == ""

    asyncio.run(check())
    assert len(stored(tmp_path)) == 1


def test_shutdown_says_goodbye(tmp_path: Path) -> None:
    async def check() -> None:
        async with running(tmp_path) as mailbox:
            client = await Client.login(mailbox)
            for session in list(mailbox.service.sessions):
                session.shutdown()
            assert await client.line() == "-ERR [SYS/TEMP] Server shutting down."
            assert await client.line() == ""

    asyncio.run(check())


def test_poplib_over_tls(tmp_path: Path) -> None:
    def fetch(port: int, tls_port: int) -> list[bytes]:
        context = client_tls(tmp_path)
        client = poplib.POP3("localhost", port, timeout=10)
        client.stls(context)
        client.user("zs")
        client.pass_("secret")
        assert client.stat() == (1, 23)
        client.quit()
        secure = poplib.POP3_SSL("localhost", tls_port, context=context, timeout=10)
        assert "STLS" not in secure.capa()
        secure.user("zs")
        secure.pass_("secret")
        lines = secure.retr(1)[1]
        secure.dele(1)
        secure.quit()
        return lines

    async def check() -> None:
        async with running(tmp_path, "login_log_format_elements = %u %k\n", tls=True) as mailbox:
            await mailbox.deliver("zs", b"Subject: x\r\n\r\nbody\r\n.\r\n")
            lines = await asyncio.to_thread(fetch, mailbox.port("pop3"), mailbox.port("pop3s"))
            assert lines == [b"Subject: x", b"", b"body", b"."]
            assert re.search(
                r"Login: zs@mail\.test, TLSv1\.3 with cipher TLS_\S+ \((\d+)/\1 bits\)\n", mailbox.log()
            )

    asyncio.run(check())
    assert not stored(tmp_path)


def test_noise_ends_no_more_than_its_own_session(tmp_path: Path) -> None:
    words = [
        b"USER zs\r\n",
        b"PASS secret\r\n",
        b"AUTH LOGIN\r\n",
        b"RETR 1\r\n",
        b"LIST\r\n",
        b"\0\xff",
        b"\n",
        b"*\r\n",
    ]
    chance = random.Random(7)

    async def check() -> str:
        async with running(tmp_path) as mailbox:
            await mailbox.deliver("zs", b"Subject: x\r\n\r\n")
            for _ in range(40):
                stream = await mailbox.connect("pop3")
                stream.write(b"".join(chance.choices(words, k=30)) + chance.randbytes(50))
                assert stream.transport is not None
                stream.transport.write_eof()
                while await stream.read(5):
                    pass
                stream.close()
            await Client.login(mailbox)
            return mailbox.log()

    assert "error:" not in asyncio.run(check())


def test_after_quit_the_next_may_log_in(tmp_path: Path) -> None:
    """Whoever has read QUIT's reply finds the mailbox free, however much of it has to be measured."""

    async def main() -> None:
        async with running(tmp_path) as mailbox:
            await mailbox.deliver("zs", b"Subject: x\r\n\r\nbody\r\n")
            for _ in range(10):
                client = await Client.login(mailbox)
                assert await client.say("QUIT") == "+OK Logging out."

    asyncio.run(main())
