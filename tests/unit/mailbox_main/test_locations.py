"""Where mail lies: the layouts and places of mail_location, seen over IMAP and LMTP; and when it goes."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import pytest

from mailstack.config.dovecot.location import parse_location
from mailstack.config.dovecot.model import MailLocation
from mailstack.storage.maildir import tree
from tests.mailbox import Mailbox, running


class Imap:
    """Sends commands, gives the untagged lines."""

    def __init__(self, mailbox: Mailbox) -> None:
        self.mailbox = mailbox

    async def session(self, *commands: str) -> list[str]:
        stream = await self.mailbox.connect("imap")
        stream.write(b"a LOGIN zs secret\r\n")
        for command in commands:
            stream.write(f"b {command}\r\n".encode())
        stream.write(b"z LOGOUT\r\n")
        data = b""
        while piece := await stream.read(10):
            data += piece
        lines = data.decode().split("\r\n")
        assert not [line for line in lines if line.startswith(("b BAD", "b NO", "a NO"))], lines
        return lines


@pytest.mark.parametrize(
    ("text", "location"),
    [
        ("maildir:~/Maildir", MailLocation("~/Maildir")),
        ("maildir:/var/vmail/%d/%n/:INDEX=/var/indexes/%u", MailLocation("/var/vmail/%d/%n")),
        ("maildir:~/Maildir:LAYOUT=fs", MailLocation("~/Maildir", True)),
        ("maildir:~/mail:INBOX=~/Maildir:LAYOUT=fs", MailLocation("~/mail", True, "~/Maildir")),
        ("mbox:~/mail:INBOX=/var/mail/%u", MailLocation("~/mail/.mailstack", mbox="/var/mail/%u")),
        ("mbox:~/mail/:INDEX=/i/%u", MailLocation("/i/%u", mbox="~/mail/inbox")),
        ("maildir:~/Maildir:LAYOUT=maildir++:INDEX=MEMORY", MailLocation("~/Maildir")),
    ],
)
def test_locations(text: str, location: MailLocation) -> None:
    assert parse_location(text) == location


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("mbox:~/mail:CONTROL=/x", "unsupported option CONTROL=/x"),
        ("mdbox:~/mdbox", "mdbox is not supported: only Dovecot reads dbox"),
        ("maildir:~/x:CONTROL=/y", "unsupported option CONTROL=/y"),
        ("maildir:~/x:LAYOUT=index", "unsupported option LAYOUT=index"),
        ("maildir:~/x:DIRNAME=.mail", "unsupported option DIRNAME=.mail"),
        ("maildir:x", "the path must begin with / or ~/"),
        ("", "only maildir:PATH and mbox:PATH"),
    ],
)
def test_other_locations_are_refused_with_a_reason(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_location(text)


def test_folders_in_folders(tmp_path: Path) -> None:
    root = tmp_path / "mail/mail.test/zs"

    async def check() -> None:
        async with running(tmp_path, "mail_location = maildir:~/:LAYOUT=fs\n") as mailbox:
            imap = Imap(mailbox)
            await imap.session("CREATE Work", "CREATE Work.2026.May", 'CREATE "&AOQ-"', "SUBSCRIBE Work")
            assert (root / "Work/2026/May/cur").is_dir()
            assert not (root / "Work/2026/cur").exists()
            lines = await imap.session('LIST "" "*"', 'RENAME "Work.2026" "Old"', 'LIST "" "*"')
            listed = [line.rpartition(" ")[2] for line in lines if line.startswith("* LIST")]
            assert listed == [
                *("INBOX", "Work", "Work.2026", "Work.2026.May", "&AOQ-"),
                *("INBOX", "Old", "Old.May", "Work", "&AOQ-"),
            ]
            await imap.session("CREATE Work.Sub", "DELETE Work")
            assert tree.names(tree.MailRoot(str(root), fs=True)) == ["INBOX", "Old.May", "Work.Sub", "ä"]
            await mailbox.deliver("zs", b"Subject: 1\r\n\r\n")
            assert "* 1 EXISTS" in await imap.session("SELECT INBOX")

    asyncio.run(check())
    assert len(list(root.glob("[cn][ue][rw]/*"))) == 1


def test_an_inbox_elsewhere(tmp_path: Path) -> None:
    async def check() -> None:
        extra = f"mail_location = maildir:~/folders:INBOX={tmp_path}/spool/%n\n"
        async with running(tmp_path, extra) as mailbox:
            await mailbox.deliver("zs", b"Subject: 1\r\n\r\n")
            lines = await Imap(mailbox).session("CREATE Work", "SELECT INBOX", "COPY 1 Work", "SELECT Work")
            assert lines.count("* 1 EXISTS") == 2

    asyncio.run(check())
    assert len(list(tmp_path.glob("spool/zs/[cn][ue][rw]/*"))) == 1
    assert len(list(tmp_path.glob("mail/mail.test/zs/folders/.Work/[cn][ue][rw]/*"))) == 1


def test_what_is_too_old_or_too_much_goes_when_the_user_has_left(tmp_path: Path) -> None:
    root = tmp_path / "mail/mail.test/zs"
    blocks = (
        "namespace inbox {\n  inbox = yes\n"
        "  mailbox Trash {\n    autoexpunge = 30 d\n  }\n"
        "  mailbox Log {\n    autoexpunge_max_mails = 2\n  }\n}\n"
    )

    async def check() -> None:
        async with running(tmp_path, blocks) as mailbox:
            imap = Imap(mailbox)
            await imap.session("CREATE Trash", "CREATE Log")
            for name in ("Trash", "Log"):
                for _ in range(4):
                    await mailbox.service.store.deliver(str(root), [b"x\n"], name)
            box = await mailbox.service.store.open(str(root), "Trash")
            box.folder.saved[0] = box.folder.saved[1] = int(time.time()) - 31 * 86400
            await imap.session("NOOP")
            for _ in range(200):
                if len(os.listdir(root / ".Log/new")) == 2:
                    break
                await asyncio.sleep(0.01)
            mailbox.service.store.unpin(box)

    asyncio.run(check())
    assert len(os.listdir(root / ".Trash/new")) == 2
    assert len(os.listdir(root / ".Log/new")) == 2
