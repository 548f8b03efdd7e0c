"""Quotas: what IMAP and LMTP refuse, and that `maildirsize` stays true whatever happens to the mailbox."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from mailstack.storage.maildir import quota
from mailstack.storage.maildir.quota import RuleError, Usage, parse_rules
from tests.mailbox import CONFIG, USERS, Mailbox, running
from tests.unit.mailbox_imap.test_session import Client
from tests.unit.mailbox_lmtp.test_session import Client as Lmtp

PLUGIN = """\
plugin {{
  quota = maildir:User quota
  quota_rule = *:{}
  quota_rule2 = Trash:storage=+100%%
  quota_grace = 0
}}
"""
MESSAGE = b"a: b\r\n\r\nhi"
APPEND = b"APPEND %b {10+}\r\n" + MESSAGE
FULL = "NO [OVERQUOTA] Quota exceeded (mailbox for user is full)"


def serve(
    folder: Path, rule: str, check: Callable[[Mailbox, Client, Path], Awaitable[None]], more: str = ""
) -> None:
    config = CONFIG.replace(
        "driver = static\n  args = home=", "driver = passwd-file\n  args = users\n  default_fields = home="
    )

    async def run() -> None:
        config_text = config.replace("home=mail", f"home={folder}/mail") + PLUGIN.format(rule) + more
        async with running(folder, config_text, whole=True) as mailbox:
            found = mailbox.service.lookup("zs@mail.test")
            assert found is not None
            await check(mailbox, await Client.open(mailbox), Path(found.mail_root))

    asyncio.run(run())


async def used(client: Client) -> str:
    answer = await client.ask(b"GETQUOTAROOT INBOX")
    return answer.split('* QUOTA "User quota" ')[1].split("\r\n")[0]


def test_messages_are_counted_as_they_come_and_go(tmp_path: Path) -> None:
    async def check(mailbox: Mailbox, client: Client, root: Path) -> None:
        assert "QUOTA QUOTA=RES-STORAGE QUOTA=RES-MESSAGE" in await client.ask(b"CAPABILITY")
        for _ in range(4):
            assert "OK" in await client.ask(APPEND % b"INBOX")
        assert await used(client) == "(STORAGE 1 1024 MESSAGE 4 5)"
        await client.ask(b"SELECT INBOX")
        assert FULL in await client.ask(b"COPY 1:2 INBOX")
        assert "OK" in await client.ask(b"COPY 1 INBOX")
        assert FULL in await client.ask(APPEND % b"INBOX")
        assert "OK" in await client.ask(b"CREATE Other")
        assert "OK" in await client.ask(b"MOVE 1 Other")  # it is in the account as before
        assert await used(client) == "(STORAGE 1 1024 MESSAGE 5 5)"
        assert "OK" in await client.ask(b"STORE 1 +FLAGS (\\Deleted)")
        assert "DELETED-STORAGE 10" in await client.ask(b"STATUS INBOX (DELETED-STORAGE)")
        assert "OK" in await client.ask(b"EXPUNGE")
        written = quota.usage(str(root), parse_rules("", ["*:storage=1M:messages=5"]))
        assert written == Usage(4 * 8, 4)
        assert (root / "maildirsize").read_text().endswith("-8 -1\n")
        assert "OK" in await client.ask(b"DELETE Other")
        assert await used(client) == "(STORAGE 1 1024 MESSAGE 3 5)"
        assert "NO [NOPERM]" in await client.ask(b'SETQUOTA "User quota" (STORAGE 512)')
        assert "NO Quota root doesn't exist" in await client.ask(b"GETQUOTA nothing")

    serve(tmp_path, "storage=1M:messages=5", check)


def test_what_other_programs_do_is_seen(tmp_path: Path) -> None:
    async def check(mailbox: Mailbox, client: Client, root: Path) -> None:
        for _ in range(2):
            assert "OK" in await client.ask(APPEND % b"INBOX")
        assert FULL in await client.ask(APPEND % b"INBOX")
        next((root / "new").iterdir()).unlink()  # as rm does: nothing is written down
        assert "OK" in await client.ask(APPEND % b"INBOX")
        (root / "new" / "1.foreign").write_bytes(b"x" * 2000)
        assert await used(client) == "(MESSAGE 3 2)"
        (root / "maildirsize").write_bytes(b"2C\n1 ")  # cut off
        assert await used(client) == "(MESSAGE 3 2)"

    serve(tmp_path, "messages=2", check)


def test_a_mailbox_may_have_room_of_its_own(tmp_path: Path) -> None:
    async def check(mailbox: Mailbox, client: Client, root: Path) -> None:
        assert "OK" in await client.ask(b"CREATE Trash")
        for name, reply in (("INBOX", "OK"), ("INBOX", FULL), ("Trash", "OK"), ("Trash", FULL)):
            assert reply in await client.ask(APPEND % name.encode())

    serve(tmp_path, "bytes=10", check)


@pytest.mark.parametrize(("more", "reply"), [("", "552 5.2.2"), ("quota_full_tempfail = yes\n", "452 4.2.2")])
def test_lmtp_refuses_for_the_one_who_is_full(tmp_path: Path, more: str, reply: str) -> None:
    users = USERS.replace("s e cret::::::", "s e cret::::::userdb_quota_rule=*:messages=9")

    async def check(mailbox: Mailbox, client: Client, root: Path) -> None:
        lmtp = await Lmtp.connect(mailbox)
        both = ["zs@mail.test", "support@mail.test"]
        assert [text[:3] for text in await lmtp.send(both, b"a: b\r\n\r\nx\r\n")] == ["250", "250"]
        replies = await lmtp.send(both, b"a: b\r\n\r\nx\r\n")
        assert replies[0] == f"{reply} <zs@mail.test> Quota exceeded (mailbox for user is full)"
        assert replies[1].startswith("250")

    (tmp_path / "users").write_text(users)
    serve(tmp_path, "messages=1", check, more)


@pytest.mark.parametrize("rule", ["storage=1M", "*:storage=much", "*:color=1", "*:messages=1M"])
def test_a_rule_that_cannot_be_read(rule: str) -> None:
    with pytest.raises(RuleError):
        parse_rules("", [rule])


def test_a_mailbox_that_is_ignored(tmp_path: Path) -> None:
    """What is in it does not count, whatever way it comes and goes; it is never full."""

    async def check(mailbox: Mailbox, client: Client, root: Path) -> None:
        for command in (b"CREATE Junk", b"CREATE Junk2", APPEND % b"INBOX", APPEND % b"INBOX"):
            assert "OK" in await client.ask(command)
        for _ in range(3):
            assert "OK" in await client.ask(APPEND % b"Junk")
        assert await used(client) == "(MESSAGE 2 2)"
        for command, reply, messages in (
            (APPEND % b"INBOX", FULL, 2),
            (b"SELECT INBOX", "OK", 2),
            (b"COPY 1 Junk", "OK", 2),
            (b"MOVE 1 Junk", "OK", 1),
            (b"SELECT Junk", "OK", 1),
            (b"COPY 1:2 Junk2", FULL, 1),
            (b"MOVE 1 INBOX", "OK", 2),
            (b"STORE 1:2 +FLAGS (\\Deleted)", "OK", 2),
            (b"EXPUNGE", "OK", 2),
        ):
            assert reply in await client.ask(command), command
            # As it is written down, and counted anew.
            assert quota.usage(str(root), parse_rules("User quota", rules)).messages == messages, command
            assert await used(client) == f"(MESSAGE {messages} 2)"
        lmtp = await Lmtp.connect(mailbox)
        assert "552 5.2.2" in (await lmtp.send(["zs@mail.test"], MESSAGE + b"\r\n"))[0]
        assert "250" in (await lmtp.send(["zs+Junk@mail.test"], MESSAGE + b"\r\n"))[0]
        assert quota.usage(str(root), parse_rules("User quota", rules)).messages == 2

    rules = ["*:messages=2", "Trash:storage=+100%", "Junk:ignore"]
    more = "plugin {\n  quota_rule3 = Junk:ignore\n}\nlmtp_save_to_detail_mailbox = yes\n"
    serve(tmp_path, "messages=2", check, more)
