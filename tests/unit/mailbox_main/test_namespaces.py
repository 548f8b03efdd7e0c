"""Several namespaces and ACLs, as far as they concern more than IMAP's words: deliveries, quotas, groups."""

from __future__ import annotations

import asyncio
import errno
import os
from pathlib import Path

import pytest

from mailstack.mailbox.views.files import link_or_copy, rename_or_copy
from mailstack.storage.maildir import acl, tree
from tests.mailbox import running
from tests.unit.mailbox_imap.test_session import Client

NAMESPACES = """\
namespace inbox {
  inbox = yes
  prefix = INBOX.
}
namespace archive {
  prefix = Archive.
  location = maildir:~/../archive
}
"""
QUOTA = """\
plugin {
  quota = maildir:User quota
  quota_rule = *:messages=2
}
"""
ACL = """\
mail_plugins = acl
lmtp_save_to_detail_mailbox = yes
plugin {
  acl = vfile
}
namespace inbox {
  inbox = yes
}
"""


def test_the_quota_is_the_inbox_namespaces(tmp_path: Path) -> None:
    async def check() -> None:
        async with running(tmp_path, NAMESPACES + QUOTA) as mailbox:
            client = await Client.open(mailbox)
            for name in (b"INBOX", b"INBOX.New"):
                answer = await client.ask(b"GETQUOTAROOT " + name)
                assert '"User quota" (MESSAGE 0 2)' in answer
            assert await client.ask(b"GETQUOTAROOT Archive.x") == (
                "* QUOTAROOT Archive.x\r\nt OK Getquotaroot completed.\r\n"
            )
            await client.ask(b"CREATE Archive.x")
            message = b" {8+}\r\na: b\r\n\r\n"
            for _ in range(3):
                assert "t OK" in await client.ask(b"APPEND Archive.x" + message)
            assert "3 EXISTS" in await client.ask(b"SELECT Archive.x")
            assert "t OK" in await client.ask(b"COPY 1:2 INBOX")
            assert "t NO [OVERQUOTA]" in await client.ask(b"COPY 3 INBOX")
            assert "t NO [OVERQUOTA]" in await client.ask(b"MOVE 3 INBOX")
            assert "t NO [OVERQUOTA]" in await client.ask(b"APPEND INBOX" + message)
            assert "2 EXISTS" in await client.ask(b"SELECT INBOX")
            assert "t OK" in await client.ask(b"MOVE 1 Archive.x")
            assert "(MESSAGE 1 2)" in await client.ask(b"GETQUOTAROOT INBOX")

    asyncio.run(check())


@pytest.mark.parametrize(
    ("text", "folder"),
    [
        (None, ".List"),
        ("owner lrp\n", ".List"),
        ("owner lrwstiekxa\n", ""),
        ("-user=zs@mail.test p\n", ""),
        ("no such line\n", ""),
    ],
)
def test_lmtp_puts_mail_where_its_user_has_the_right_p(tmp_path: Path, text: str | None, folder: str) -> None:
    root = tmp_path / "mail/mail.test/zs"

    async def check() -> None:
        async with running(tmp_path, ACL) as mailbox:
            tree.create(str(root), "List")
            if text is not None:
                (root / ".List/dovecot-acl").write_text(text)
            stream = await mailbox.connect("lmtp")
            stream.write(
                b"LHLO x\r\nMAIL FROM:<a@b.test>\r\nRCPT TO:<zs+List@mail.test>\r\nDATA\r\n"
                b"Subject: x\r\n\r\nhi\r\n.\r\nQUIT\r\n"
            )
            got = b""
            while b"Saved" not in got:
                data = await stream.read(10)
                assert data, got
                got += data

    asyncio.run(check())
    assert len(os.listdir(root / folder / "new")) == 1


def test_groups_come_from_the_userdb_else_from_the_plugin(tmp_path: Path) -> None:
    users = "zs@mail.test:{PLAIN}x::::::\nann@mail.test:{PLAIN}x::::::userdb_acl_groups=a,b\n"
    extra = ACL + "plugin {\n  acl_groups = c\n}\n"
    extra += "userdb {\n  driver = passwd-file\n  args = users\n  default_fields = home=/srv/%n\n}\n"

    async def check() -> None:
        text = (
            "protocols = imap lmtp\nssl = no\nmail_location = maildir:~/\n"
            "passdb {\n  driver = passwd-file\n  args = users\n}\n" + extra
        )
        async with running(tmp_path, text, users, whole=True) as mailbox:
            for name, groups in (("zs@mail.test", ("c",)), ("ann@mail.test", ("a", "b"))):
                user = mailbox.service.lookup(name)
                assert user is not None
                guard = acl.guard_of(user.mail_root)
                assert guard is not None
                assert guard.groups == groups

    asyncio.run(check())


@pytest.mark.parametrize(("operate", "stays"), [(link_or_copy, True), (rename_or_copy, False)])
def test_a_message_goes_to_another_file_system_as_a_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, operate: object, stays: bool
) -> None:
    def other(source: str, target: str) -> None:
        if os.path.dirname(source) != str(tmp_path / "to/tmp"):
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        real(source, target)

    real = os.rename
    for name in ("from", "to/cur", "to/tmp"):
        (tmp_path / name).mkdir(parents=True)
    source, target = tmp_path / "from/1", tmp_path / "to/cur/2"
    source.write_bytes(b"x\n")
    os.utime(source, (1, 1_600_000_000))
    monkeypatch.setattr(os, "link", other)
    monkeypatch.setattr(os, "rename", other)
    assert callable(operate)
    operate(str(source), str(target))
    assert target.read_bytes() == b"x\n"
    assert target.stat().st_mtime == 1_600_000_000
    assert source.exists() == stays
    assert os.listdir(tmp_path / "to/tmp") == []
