"""IMAP dialogues against the service, each whole and octet by octet."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.dialogs.play import play
from tests.mailbox import USERS, client_tls, running

HERE = Path(__file__).parent
MESSAGES = (
    b"Subject: one\r\nFrom: Ann <ann@mail.test>\r\nDate: Wed, 1 Jan 2020 10:00:00 +0000\r\n\r\nfirst\r\n",
    b"Subject: two\n\nline 1\nline 2\n",
)
EXTRA = {
    "namespaces": """\
namespace inbox {
  inbox = yes
  prefix = INBOX.
  mailbox Trash {
    auto = subscribe
    special_use = \\Trash
    comment = Rubbish
  }
}
namespace archive {
  prefix = Archive.
  location = maildir:~/../archive
}
namespace old {
  prefix = old.
  location = maildir:~/../old
  hidden = yes
  list = no
}
namespace off {
  prefix = off.
  location = maildir:~/../off
  disabled = yes
}
""",
    "acl": """\
mail_plugins = acl
protocol imap {
  mail_plugins = $mail_plugins imap_acl
}
plugin {
  acl = vfile
  acl_anyone = allow
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
""",
    "tls": "disable_plaintext_auth = yes\n",
    "urlauth": "imap_urlauth_host = mail.test\nimap_urlauth_port = 1143\n",
}
"""Lines of dovecot.conf that a dialogue needs."""
MORE_USERS = """\
no@mail.test:{PLAIN}x::::::nologin
why@mail.test:{PLAIN}x::::::nologin reason=Ask-Ann
there@mail.test:{PLAIN}x::::::nologin host=other.test port=143 proxy=n
fred@mail.test:{PLAIN}x::::::nologin host=other.test port=1143 destuser=fred.2 reason=Moved
here@mail.test:{PLAIN}x::::::host=other.test
"""


@pytest.mark.parametrize("bytewise", [False, True], ids=["whole", "bytewise"])
@pytest.mark.parametrize("path", sorted((HERE / "imap").glob("*.txt")), ids=lambda path: path.stem)
def test_imap(tmp_path: Path, path: Path, bytewise: bool) -> None:
    async def check() -> None:
        tls = path.stem == "tls"
        extra = EXTRA.get(path.stem, "")
        if path.stem == "acl":
            public = tmp_path / "mail/mail.test/public"
            public.mkdir(parents=True)
            (public / "dovecot-acl").write_text("user=zs@mail.test lrwstipekxa\n")
        async with running(tmp_path, extra, USERS + MORE_USERS, tls=tls) as mailbox:
            for message in MESSAGES:
                await mailbox.deliver("zs@mail.test", message)
            context = client_tls(tmp_path) if tls else None
            await play(path, lambda: mailbox.connect("imap"), bytewise=bytewise, tls=context)

    asyncio.run(check())
