"""What dovecot.conf and mailstack.toml change about POP3."""

from __future__ import annotations

import asyncio
from pathlib import Path

from mailstack.config.dovecot import load
from tests.mailbox import running
from tests.unit.mailbox_pop3.test_session import Client, stored


def test_messages_get_a_keyword_in_place_of_being_removed(tmp_path: Path) -> None:
    async def check() -> None:
        async with running(tmp_path, 'pop3_deleted_flag = "$POP3Deleted"\n') as mailbox:
            for number in (1, 2):
                await mailbox.deliver("zs", f"Subject: {number}\r\n\r\n".encode())
            client = await Client.login(mailbox)
            await client.say("DELE 1")
            assert await client.say("QUIT") == "+OK Logging out, messages deleted."
            assert len(stored(tmp_path)) == 2
            client = await Client.login(mailbox)
            assert await client.lines("RETR 1") == ["Subject: 2", ""]
            assert (await client.say("STAT")).startswith("+OK 1 ")

    asyncio.run(check())
    assert (tmp_path / "mail/mail.test/zs/dovecot-keywords").read_text() == "0 $POP3Deleted\n"


def test_workarounds_for_old_clients(tmp_path: Path) -> None:
    async def check() -> None:
        extra = "pop3_client_workarounds = outlook-no-nuls oe-ns-eoh\npop3_enable_last = yes\n"
        async with running(tmp_path, extra) as mailbox:
            await mailbox.deliver("zs", b"Subject: all header\r\n")
            await mailbox.deliver("zs", b"Subject: 2\r\n\r\na\0b\r\n")
            client = await Client.login(mailbox)
            assert await client.say("LAST") == "+OK 0"
            assert await client.lines("RETR 1") == ["Subject: all header", ""]
            client.stream.write(b"RETR 2\r\n")
            data = b""
            while not data.endswith(b"\r\n.\r\n"):
                data += await client.stream.read(5)
            assert data.endswith(b"\r\na\x80b\r\n.\r\n")
            assert await client.say("LAST") == "+OK 2"
            assert await client.say("RSET") == "+OK"
            assert await client.say("LAST") == "+OK 0"

    asyncio.run(check())


def test_a_login_that_comes_too_soon(tmp_path: Path) -> None:
    (tmp_path / "mailstack.toml").write_text("[pop3]\nlogin_delay = 3600\n")

    async def check() -> None:
        async with running(tmp_path) as mailbox:
            client = await Client.login(mailbox)
            assert "LOGIN-DELAY 3600" in await client.lines("CAPA")
            await client.say("QUIT")
            client = Client(await mailbox.connect("pop3"))
            await client.line()
            await client.say("USER zs")
            assert (await client.say("PASS secret")).startswith("-ERR [LOGIN-DELAY] ")
            await client.say("USER support")
            assert await client.say("PASS s e cret") == "+OK Logged in."

    asyncio.run(check())


def test_the_line_in_the_log_has_the_form_that_was_asked_for(tmp_path: Path) -> None:
    async def check() -> str:
        async with running(tmp_path, "pop3_logout_format = %d of %m, %s octets, %r/%b, %i in\n") as mailbox:
            await mailbox.deliver("zs", b"Subject: 1\n\n12345\n")
            client = await Client.login(mailbox)
            await client.lines("RETR 1")
            await client.say("DELE 1")
            await client.say("QUIT")
            assert await client.line() == ""
            return mailbox.log()

    assert "Disconnected: Logged out 1 of 1, 21 octets, 1/21, 22 in\n" in asyncio.run(check())


def test_ids_that_came_with_the_mailbox_are_kept(tmp_path: Path) -> None:
    root = tmp_path / "mail/mail.test/zs"
    for name in ("cur", "new", "tmp"):
        (root / name).mkdir(parents=True)
    (root / "cur" / "1.host:2,").write_text("Subject: 1\n\n")
    (root / "cur" / "2.host:2,").write_text("Subject: 2\n\n")
    (root / "dovecot-uidlist").write_text(f"3 V7 N3 G{'0' * 32}\n1 Pold.id-1 :1.host\n2 :2.host\n")

    async def check() -> None:
        async with running(tmp_path) as mailbox:
            client = await Client.login(mailbox)
            assert await client.lines("UIDL") == ["1 old.id-1", "2 0000000200000007"]
            assert await client.say("UIDL 1") == "+OK 1 old.id-1"

    asyncio.run(check())


def test_expire_says_when_the_inbox_is_emptied(tmp_path: Path) -> None:
    async def check() -> None:
        block = "namespace inbox {\n  inbox = yes\n  mailbox INBOX {\n    autoexpunge = 30 d\n  }\n}\n"
        async with running(tmp_path, block) as mailbox:
            client = await Client.login(mailbox)
            assert "EXPIRE 30" in await client.lines("CAPA")

    asyncio.run(check())


def test_the_flag_needs_a_name(tmp_path: Path) -> None:
    (tmp_path / "dovecot.conf").write_text("ssl = no\npop3_delete_type = flag\n")
    try:
        load(tmp_path)
    except Exception as error:
        assert "pop3_delete_type = flag needs pop3_deleted_flag" in str(error)
    else:
        raise AssertionError("accepted")
