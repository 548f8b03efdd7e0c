"""LIST, METADATA and QUOTA command by command against the real Dovecot, each on a Maildir of its own.

Completion texts are not compared; METADATA values are literals there and quoted strings here; LIST is compared as
a set of lines, since Dovecot's order is that of its index.
"""

from __future__ import annotations

import asyncio
import os
import re
from pathlib import Path

import pytest

from mailstack.storage.maildir import quota
from mailstack.storage.maildir.quota import Usage, parse_rules
from tests.interop import dovecot_imap
from tests.mailbox import running
from tests.unit.mailbox_imap.test_session import Client

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not os.path.exists(dovecot_imap.BINARY), reason="dovecot-imapd is missing"),
]

PLUGIN = """\
mail_server_comment = Mail for all
mail_server_admin = mailto:postmaster@mail.test
plugin {
  quota = maildir:User quota
  quota_rule = *:storage=1M:messages=4
  quota_rule2 = Trash:messages=+100%%
}
"""
DOVECOT = """\
mail_plugins = quota
mail_attribute_dict = file:{root}/mail/dovecot-attributes
protocol imap {{
  mail_plugins = quota imap_quota
  imap_metadata = yes
}}
"""
_APPEND = b"APPEND %b {10+}\r\na: b\r\n\r\nhi"
COMMANDS = [
    *(b"CREATE " + name for name in (b"Work", b"Work.2026.May", b"Alone", b"Deep.er", b"Trash")),
    *(b"SUBSCRIBE " + name for name in (b"Work.2026.May", b"Alone", b"INBOX")),
    b'LIST "" *',
    b'LIST "" %',
    b'LIST "" Work.%',
    b'LIST "" *May',
    b"LIST Work. *",
    b'LIST "" (INBOX Al* Work.%)',
    b'LIST (SUBSCRIBED) "" *',
    b'LIST (SUBSCRIBED) "" %',
    b'LIST (SUBSCRIBED RECURSIVEMATCH) "" %',
    b'LIST (SUBSCRIBED RECURSIVEMATCH) "" *',
    b'LIST (SUBSCRIBED RECURSIVEMATCH) "" (Work Work.2026.May)',
    b'LIST (SUBSCRIBED REMOTE) "" * RETURN (CHILDREN)',
    b'LIST (RECURSIVEMATCH) "" *',
    b'LIST (NOTHING) "" *',
    b'LIST "" * RETURN (SUBSCRIBED CHILDREN)',
    b'LIST "" (Alone INBOX) RETURN (STATUS (MESSAGES UNSEEN))',
    b'LIST "" "" RETURN (CHILDREN)',
    b'LSUB "" *',
    b'LSUB "" %',
    b"GETMETADATA INBOX /private/comment",
    b'SETMETADATA INBOX (/private/comment "My comment" /shared/comment "Shared" /private/vendor/x/y "foo")',
    b"GETMETADATA INBOX (/private/comment /private/nope)",
    b"GETMETADATA (DEPTH 1) INBOX /private",
    b"GETMETADATA (DEPTH infinity) INBOX (/private/vendor /shared)",
    b"GETMETADATA (MAXSIZE 5) INBOX (/private/comment /private/vendor/x/y)",
    b"GETMETADATA (DEPTH 2) INBOX (/private/comment)",
    b"GETMETADATA Absent /private/comment",
    b'SETMETADATA Absent (/private/comment "x")',
    b'SETMETADATA INBOX (/other/comment "x")',
    b'SETMETADATA INBOX (/private/comment/ "x")',
    b'SETMETADATA "" (/shared/comment "x")',
    b"GETMETADATA INBOX comment",
    b'GETMETADATA "" (/shared/comment /shared/admin)',
    b"SETMETADATA INBOX (/private/comment NIL)",
    b"GETMETADATA INBOX /private/comment",
    b"RENAME Alone Other",
    b"GETQUOTAROOT INBOX",
    b'GETQUOTA "User quota"',
    b"GETQUOTA nothing",
    b'SETQUOTA "User quota" (STORAGE 512)',
    *[_APPEND % b"INBOX"] * 3,
    b"GETQUOTAROOT INBOX",
    b"SELECT INBOX",
    b"COPY 1:2 INBOX",
    b"COPY 1 INBOX",
    _APPEND % b"INBOX",
    _APPEND % b"Trash",
    b"MOVE 1 Trash",
    b"COPY 1 Trash",
    b"STORE 1 +FLAGS (\\Deleted)",
    b"EXPUNGE",
    b'GETQUOTA "User quota"',
    b"DELETE Trash",
    b'GETQUOTA "User quota"',
    _APPEND % b"INBOX",
]


def shown(command: bytes, answer: str) -> list[str]:
    """The untagged answers of these commands as a set, then OK, NO or BAD with its response code."""
    while literal := re.search(r"\{(\d+)\}\r\n", answer):
        end = literal.end() + int(literal[1])
        answer = f'{answer[: literal.start()]}"{answer[literal.end() : end]}"{answer[end:]}'
    if b"CHILDREN" not in command and re.search(rb"LIST \(|RETURN|\(INBOX", command):
        answer = re.sub(r" ?\\Has(No)?Children", "", answer)  # we tell it always (RFC 5258 §4 allows it)
    answer = answer.replace('"CHILDINFO"', "CHILDINFO")
    lines = answer.split("\r\n")[:-1]
    kept = [line for line in lines[:-1] if re.match(r"\* (LIST|LSUB|STATUS|METADATA|QUOTA)", line)]
    found = re.match(r"\S+ (OK|NO|BAD)(?: \[(OVERQUOTA|METADATA [^]]*)\])?", lines[-1])
    assert found is not None, lines[-1]
    return [*sorted(kept), found[1], found[2] or ""]


def test_the_same_answers(tmp_path: Path) -> None:
    async def ours() -> list[str]:
        async with running(tmp_path, PLUGIN) as mailbox:
            client = await Client.open(mailbox)
            return [await client.ask(command) for command in COMMANDS]

    with dovecot_imap.maildir() as root:
        config = root / "dovecot.conf"
        config.write_text(config.read_text() + DOVECOT.format(root=root) + PLUGIN)
        theirs = [answer.decode() for answer in dovecot_imap.ask(root, COMMANDS)]
        mine = asyncio.run(ours())
        different = {
            command.decode(): (shown(command, one), shown(command, other))
            for command, one, other in zip(COMMANDS, mine, theirs, strict=True)
            if shown(command, one) != shown(command, other)
        }
        assert not different, "\n".join(
            f"{key}\n  {first}\n  {second}" for key, (first, second) in different.items()
        )
        # What Dovecot has written down says the same to us as counting does.
        limits = parse_rules("User quota", ["*:storage=1M:messages=4"])
        written = quota.usage(str(root / "mail"), limits)
        assert written == quota.recount(str(root / "mail"), limits) != Usage()
