"""NOTIFY: what other programs do is told as well, and a session that does not listen costs nothing more."""

from __future__ import annotations

import asyncio
import os
import re
from pathlib import Path

import pytest

from mailstack.mailbox.views import notices, watched_account
from mailstack.mailbox.views.notices import Notices
from mailstack.net.stream import Stream
from mailstack.storage.maildir import metadata, subscriptions, tree
from tests.mailbox import Mailbox, running

EVERYTHING = (
    b"(personal (MessageNew MessageExpunge MailboxName SubscriptionChange MailboxMetadataChange"
    b" ServerMetadataChange))"
)


class Client:
    """Says lines, hears lines."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._buffer = b""

    async def line(self) -> str:
        while b"\r\n" not in self._buffer:
            data = await self._stream.read(10)
            assert data, self._buffer
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\r\n")
        return line.decode()

    async def ask(self, command: bytes) -> list[str]:
        """All that comes up to the tagged answer, and that."""
        self._stream.write(b"t " + command + b"\r\n")
        lines = [await self.line()]
        while not lines[-1].startswith("t "):
            lines.append(await self.line())
        return lines


async def logged_in(mailbox: Mailbox) -> Client:
    client = Client(await mailbox.connect("imap"))
    await client.line()
    await client.ask(b"LOGIN zs secret")
    return client


def drop(folder: str, name: str) -> None:
    """Another program delivers a message."""
    with open(f"{folder}/tmp/{name}", "wb") as file:
        file.write(b"Subject: x\n\n")
    os.rename(f"{folder}/tmp/{name}", f"{folder}/new/{name}")


@pytest.mark.parametrize("layout", ["", ":LAYOUT=fs"], ids=["maildir++", "fs"])
def test_what_other_programs_do_is_told(tmp_path: Path, layout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watched_account, "AGAIN", 0.05)

    async def check() -> None:
        extra = f"mail_location = maildir:~/mail{layout}:INBOX=~/inbox\n"
        async with running(tmp_path, extra) as mailbox:
            client = await logged_in(mailbox)
            user = mailbox.service.lookup("zs@mail.test")
            assert user is not None
            root = user.mail_root
            dot = tree.separator_of(root)
            tree.create(root, "Work")
            tree.create(root, f"Work{dot}Sub")
            assert (await client.ask(b"NOTIFY SET " + EVERYTHING))[-1] == "t OK NOTIFY completed."
            for name in ("INBOX", "Work", f"Work{dot}Sub"):
                drop(tree.path_of(root, name), "1.a.b")
                told = rf"\* STATUS {name} \(MESSAGES 1 UIDNEXT 2 UNSEEN 1\)"
                assert re.fullmatch(told, await client.line())
                metadata.change(tree.path_of(root, name), {"/private/comment": b"x"})
                assert await client.line() == f"* METADATA {name} /private/comment"
            metadata.change(root, {"/private/x": b"x"}, metadata.SERVER_FILE)
            assert await client.line() == '* METADATA "" /private/x'
            subscriptions.change(root, "Work", subscribed=True)
            assert await client.line() == f'* LIST (\\Subscribed) "{dot}" Work'
            tree.rename(root, "Work", "Office")
            told_names = {await client.line(), await client.line()}
            assert told_names == {
                f'* LIST () "{dot}" Office ("OLDNAME" (Work))',
                f'* LIST () "{dot}" Office{dot}Sub ("OLDNAME" (Work{dot}Sub))',
            }
            drop(tree.path_of(root, f"Office{dot}Sub"), "2.a.b")
            assert await client.line() == f"* STATUS Office{dot}Sub (MESSAGES 2 UIDNEXT 3 UNSEEN 2)"
            # A mailbox in the making is none yet.
            path = tree.path_of(root, f"Office{dot}New")
            os.mkdir(path)
            assert (await client.ask(b"NOOP"))[:-1] == []
            for part in ("tmp", "new", "cur"):
                os.mkdir(f"{path}/{part}")
            assert await client.line() == f'* LIST () "{dot}" Office{dot}New'
            drop(path, "1.a.b")
            assert (await client.line()).startswith(f"* STATUS Office{dot}New (MESSAGES 1 UIDNEXT 2 ")

    asyncio.run(check())


NAMESPACES = """\
mail_plugins = acl
protocol imap {
  mail_plugins = $mail_plugins imap_acl
}
plugin {
  acl = vfile
  acl_anyone = allow
  acl_shared_dict = file:SHARED
}
namespace inbox {
  inbox = yes
  separator = /
}
namespace public {
  type = public
  prefix = Public/
  separator = /
  location = maildir:~/../public
  subscriptions = no
}
namespace shared {
  type = shared
  prefix = shared/%%n/
  separator = /
  location = maildir:%%h
  list = children
  subscriptions = no
}
"""


def test_other_namespaces_are_told_of_as_far_as_they_may_be_read(tmp_path: Path) -> None:
    public = tmp_path / "mail/mail.test/public"
    public.mkdir(parents=True)
    (public / "dovecot-acl").write_text("user=zs@mail.test lrwstipekxa\n")

    async def check() -> None:
        async with running(tmp_path, NAMESPACES.replace("SHARED", f"{tmp_path}/shared")) as mailbox:
            other = Client(await mailbox.connect("imap"))
            await other.line()
            await other.ask(b'LOGIN support "s e cret"')
            await other.ask(b"CREATE Work")
            await other.ask(b"SETACL Work zs@mail.test lr")
            client = await logged_in(mailbox)
            for name in (b"News", b"Secret"):
                await client.ask(b"CREATE Public/" + name)
            (public / ".Secret/dovecot-acl").write_text("user=zs@mail.test l\n")
            user = mailbox.service.lookup("zs@mail.test")
            assert user is not None
            root = user.mail_root
            groups = b"(subtree (Public shared) (MessageNew MessageExpunge)) (personal (MailboxName))"
            assert await client.ask(b"NOTIFY SET " + groups) == ["t OK NOTIFY completed."]
            # Of Secret nothing is told; Other is not personal.
            drop(str(public / ".Secret"), "1.a.b")
            drop(str(public / ".News"), "1.a.b")
            assert await client.line() == "* STATUS Public/News (MESSAGES 1 UIDNEXT 2 UNSEEN 1)"
            await other.ask(b"APPEND Work {3+}\r\nabc")
            assert await client.line() == "* STATUS shared/support/Work (MESSAGES 1 UIDNEXT 2 UNSEEN 1)"
            tree.create(root, "Public/Other")
            tree.create(root, "Mine")
            assert await client.line() == '* LIST () "/" Mine'
            drop(str(public / ".Other"), "1.a.b")
            assert (await client.line()).startswith("* STATUS Public/Other (MESSAGES 1 UIDNEXT 2 ")

    asyncio.run(check())


def test_more_than_can_be_watched_is_refused_or_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notices, "MAILBOXES_MAX", 2)

    async def check() -> None:
        async with running(tmp_path) as mailbox:
            client = await logged_in(mailbox)
            wanted = b"NOTIFY SET (personal (MessageNew MessageExpunge))"
            await client.ask(b"CREATE A")
            await client.ask(b"CREATE B")
            refused = await client.ask(wanted)
            assert refused == ["t NO [NOTIFICATIONOVERFLOW] Cannot watch these mailboxes: too many mailboxes"]
            names = b" ".join(b"n%d" % number for number in range(101))
            refused = await client.ask(b"NOTIFY SET (mailboxes (%b) (MailboxName))" % names)
            assert refused == ["t NO [NOTIFICATIONOVERFLOW] Too many mailbox names"]
            await client.ask(b"DELETE B")
            assert await client.ask(wanted) == ["t OK NOTIFY completed."]
            told = await client.ask(b"CREATE C")
            assert told[0] == "* OK [NOTIFICATIONOVERFLOW] No more notifications: too many mailboxes"
            assert not mailbox.service.store.notices.watched
            assert len(await client.ask(b"APPEND A {3+}\r\nabc")) == 1

    asyncio.run(check())


def test_who_does_not_listen_costs_no_more_than_the_names(tmp_path: Path) -> None:
    root = str(tmp_path / "mail")
    tree.create(root, "INBOX")
    tree.create(root, "Work")
    wakes = []

    async def check() -> None:
        watched = Notices()
        notice = watched.open(root, lambda: wakes.append(True))
        notice.follow(list(notice.names()), ["Work"])
        for number in range(1000):
            drop(f"{root}/.Work", f"{number}.a.b")
            metadata.change(f"{root}/.Work", {"/private/x": b"%d" % number})
            if not number % 100:
                tree.create(root, f"M{number}")
        watched.poll()
        assert (notice.boxes, notice.entries, notice.mailboxes) == ({"Work"}, {"Work"}, True)
        assert len(notice.names()) == 12
        notice.close()
        assert not watched.watched
        watched.close()

    asyncio.run(check())
    assert not wakes


def test_a_session_that_ends_leaves_no_watch(tmp_path: Path) -> None:
    async def check() -> None:
        async with running(tmp_path) as mailbox:
            client = await logged_in(mailbox)
            for groups in (EVERYTHING, b"(subscribed (MessageNew MessageExpunge)) " + EVERYTHING):
                await client.ask(b"NOTIFY SET " + groups)
            assert mailbox.service.store.notices.watched
            await client.ask(b"LOGOUT")
            assert await mailbox.streams[-1].read(10) == b""
            assert not mailbox.service.store.notices.watched

    asyncio.run(check())
