"""Namespaces and ACLs command by command against the real Dovecot, each on its own copy of the same mailboxes.

LIST and LSUB are compared as sets of lines (Dovecot's order is that of its index), completion texts only where
they say that something has been ignored; the response codes that we add and UIDVALIDITY are left out.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import pytest

from tests.interop import dovecot_imap
from tests.mailbox import running

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not os.path.exists(dovecot_imap.BINARY), reason="dovecot-imapd is missing"),
]

NAMESPACES = """\
namespace inbox {{
  inbox = yes
  prefix = INBOX/
  separator = /
  mailbox Trash {{
    auto = subscribe
    special_use = \\Trash
  }}
}}
namespace archive {{
  prefix = Archive/
  separator = /
  location = maildir:{mail}/%u/archive
}}
namespace old {{
  prefix = old/
  separator = /
  location = maildir:{mail}/%u/old
  hidden = yes
  list = no
}}
namespace own {{
  prefix = Own/
  separator = /
  location = maildir:{mail}/%u/own
  subscriptions = no
  list = children
}}
"""
ACLS = """\
mail_attribute_dict = file:{mail}/attributes
mail_plugins = acl
protocol imap {{
  mail_plugins = $mail_plugins imap_acl
}}
plugin {{
  acl = vfile
  acl_shared_dict = file:{mail}/shared.db
}}
namespace inbox {{
  inbox = yes
  separator = /
}}
namespace public {{
  type = public
  prefix = Public/
  separator = /
  location = maildir:{mail}/public
  subscriptions = no
}}
namespace shared {{
  type = shared
  prefix = shared/%%u/
  separator = /
  location = maildir:{mail}/%%u/mail
  subscriptions = no
  list = children
}}
"""
OURS = """\
protocols = imap
ssl = no
disable_plaintext_auth = no
auth_failure_delay = 0
passdb {{
  driver = passwd-file
  args = users
}}
userdb {{
  driver = static
  args = home={mail}/%u
}}
mail_location = maildir:{mail}/%u/mail
"""
FOLDERS = {
    "none": None,
    "all": "anyone lrwstipekxa\n",
    "look": "anyone l\n",
    "read": "anyone lr\n",
    "seen": "anyone lrs\n",
    "write": "anyone lrw\n",
    "mark": "anyone lrt\n",
    "expunge": "anyone lre\n",
    "insert": "anyone lri\n",
    "drop": "anyone li\n",
    "hidden": "anyone r\n",
    "override": "anyone lr\nuser=bob s\n",
    "less": "anyone lrwst\n-user=bob w\n",
    "less2": "anyone lr\n-anyone r\nuser=bob r\n",
    "make": "anyone lrk\n",
    "remove": "anyone lrxwet\n",
    "admin": "anyone la\n",
    "login": "authenticated lr\n",
    "group": "group=x lr\n",
    "owner": "owner lr\n",
    "named": "anyone l :read write-seen\n",
    "above.below": "anyone lr\n",
}
GLOBAL_LINES = """\
# all users
Public/read user=bob lrs
Public/all -user=bob i
Public/less* owner lra
Public/n* anyone l
Public/n* anyone :read
"Public/ad?in" user=bob lr
Mine anyone lra
Shut -owner w
INBOX* group=x l
"""
"""The global file."""
GLOBAL_FILES = {
    "acls/Public/read": "user=bob lrs\n",
    "acls/Public/all": "-user=bob i\n",
    "acls/Public/above/.DEFAULT": "anyone lr\n",
    "acls/Mine": "anyone lra\n",
    "acls/Shut/.DEFAULT": "-owner w\n",
}
"""The same in a directory."""
GLOBALS = [
    b'LIST "" *',
    *(b"MYRIGHTS Public/" + name.replace(".", "/").encode() for name in FOLDERS),
    b"GETACL Public/read",
    b"GETACL INBOX",
    b"GETACL Public/all",
    b"GETACL Public/admin",
    *(b"CREATE " + name for name in (b"Mine", b"Mine/x", b"Shut", b"Shut/x", b"Public/all/x", b"Public/nnn")),
    *(b"MYRIGHTS " + name for name in (b"Mine", b"Mine/x", b"Shut", b"Shut/x", b"Public/all/x", b"Public")),
    *(b"GETACL " + name for name in (b"Mine", b"Shut", b"Mine/x", b"Shut/x")),
    b"SETACL Shut #owner lrw",
    b"SETACL Shut owner lrwa",
    b"SETACL Mine alice lr",
    b"GETACL Mine",
    b"GETACL Shut",
    b"MYRIGHTS Shut",
    b"SETACL Mine owner lrwstipekxa",
    b"MYRIGHTS Mine",
    b"DELETEACL Shut #owner",
    b"SELECT Shut",
    b"DELETE Mine",
    b"RENAME Shut Mine/z",
    b'LIST "" *',
]
_APPEND = b"APPEND %b (\\Seen \\Deleted work) {8+}\r\na: b\r\n\r\n"
NAMES = [
    b"NAMESPACE",
    *(
        b'LIST "" ' + each
        for each in (b"*", b"%", b'""', b"INBOX/%", b"Archive/%", b"Archive", b"old/*", b"Own/*")
    ),
    b'LIST "INBOX/" ""',
    b'LIST "Archive/" ""',
    *(b"CREATE " + each for each in (b"INBOX/Work", b"INBOX/Work/A", b"Foo", b"inbox/low", b"INBOX/a.b")),
    *(
        b"CREATE " + each
        for each in (b"Archive/2020", b"Archive/2020/Jan", b"old/x", b"Own/y", b"INBOX/Work")
    ),
    *(
        b'LIST "" ' + each
        for each in (b"*", b"%", b'"*/%"', b"INBOX*", b"inbox/%", b"Archive/%", b"old/*", b"Own/*")
    ),
    b'LIST "Archive/" *',
    b'LIST "" INBOX/INBOX',
    *(
        b"SUBSCRIBE " + each
        for each in (b"INBOX/Work", b"Archive/2020", b"Archive/none", b"Foo", b"old/x", b"Own/y")
    ),
    b'LSUB "" *',
    b'LSUB "" %',
    b'LSUB "" Archive/%',
    b'LIST (SUBSCRIBED) "" *',
    b'LIST "" * RETURN (CHILDREN SUBSCRIBED STATUS (MESSAGES))',
    *(b"STATUS %b (MESSAGES)" % each for each in (b"Archive/2020", b"Foo", b"INBOX/INBOX", b"Own/none")),
    b"SELECT Foo",
    b"SELECT Archive/none",
    _APPEND % b"Foo",
    _APPEND % b"Archive/none",
    _APPEND % b"Archive/2020",
    b"SELECT Archive/2020",
    b"FETCH 1 FLAGS",
    b"COPY 1 Foo",
    b"COPY 1 INBOX/Work",
    b"MOVE 1 Own/y",
    b"STATUS INBOX/Work (MESSAGES)",
    b"RENAME INBOX/Work Archive/Work",
    b"RENAME Archive/2020 Archive/2021",
    b"RENAME Archive/2021 Foo",
    b"RENAME Archive/2021 INBOX/Old",
    b"DELETE Foo",
    b"DELETE Archive/none",
    b"DELETE Own/y",
    b"UNSELECT",
    b"STATUS Archive (MESSAGES)",
    b"CREATE Archive",
    b"CREATE Archive/INBOX",
    _APPEND % b"Archive",
    b'LIST "" Archive*',
    b"STATUS Archive (MESSAGES)",
    b"STATUS Archive/INBOX (MESSAGES)",
    b"DELETE Archive",
    b"UNSUBSCRIBE Archive/2020",
    b"UNSUBSCRIBE Archive/none",
    b'LIST "" *',
    b'LSUB "" *',
]
RIGHTS = [
    b"NAMESPACE",
    b'LIST "" *',
    b'LIST "" %',
    b'LIST "" Public/%',
    *(b"MYRIGHTS Public/" + name.replace(".", "/").encode() for name in [*FOLDERS, "above", "nowhere"]),
    *(b"SELECT Public/" + name.replace(".", "/").encode() for name in FOLDERS),
    *(b"STATUS Public/%b (MESSAGES)" % name for name in (b"look", b"none", b"hidden", b"read", b"drop")),
    b"SELECT Public/read",
    b"STORE 1 +FLAGS (\\Seen)",
    b"EXPUNGE",
    *(b"COPY 1 Public/" + name for name in (b"look", b"none", b"insert", b"drop", b"all")),
    b"MOVE 1 INBOX",
    *(
        _APPEND % name
        for name in (b"Public/look", b"Public/none", b"Public/insert", b"Public/drop", b"Public/mark")
    ),
    b"SELECT Public/insert",
    b"FETCH 1:* FLAGS",
    b"SELECT Public/write",
    b"STORE 1 +FLAGS (\\Seen)",
    b"STORE 1 +FLAGS (\\Flagged \\Deleted)",
    b"STORE 1 FLAGS (work)",
    b"STORE 2 -FLAGS (\\Deleted \\Answered)",
    b"FETCH 1:* FLAGS",
    b"SELECT Public/seen",
    b"STORE 1 FLAGS (\\Seen \\Flagged)",
    b"FETCH 1:* FLAGS",
    b"SELECT Public/mark",
    b"STORE 1:2 +FLAGS.SILENT (\\Deleted)",
    b"STORE 1:2 +FLAGS (\\Seen)",
    b"FETCH 1:* FLAGS",
    b"EXPUNGE",
    b"UID EXPUNGE 1:*",
    b"CLOSE",
    b"SELECT Public/expunge",
    b"EXPUNGE",
    b"CLOSE",
    *(
        b"GETACL " + name
        for name in (b"INBOX", b"Public/read", b"Public/none", b"Public/all", b"Public/admin")
    ),
    *(b"LISTRIGHTS %b bob" % name for name in (b"INBOX", b"Public/all")),
    *(b"CREATE Public/" + name for name in (b"new", b"look/x", b"make/x", b"all/x", b"none/x", b"nowhere/x")),
    b"MYRIGHTS Public/make/x",
    b"GETACL Public/all/x",
    *(b"DELETE Public/" + name for name in (b"none", b"look", b"hidden", b"make/x", b"remove")),
    b"RENAME Public/look Public/all/look",
    b"RENAME Public/all/x Public/all/y",
    b"RENAME Public/none Public/all/n",
    b"RENAME Public/all/y Public/n",
    b"RENAME Public/all/y Public/make/y",
    b"RENAME Public/make/y Mine",
    b"CREATE Mine",
    b"RENAME Mine Public/all/mine",
    *(b"SUBSCRIBE Public/" + name for name in (b"look", b"none", b"hidden")),
    b'LSUB "" *',
    b'LIST (SUBSCRIBED) "" *',
    b"GETACL Mine",
    b"SETACL Mine alice lrwst",
    b"SETACL Mine anyone l",
    b"SETACL Mine authenticated +s",
    b"SETACL Mine -alice r",
    b"GETACL Mine",
    b"DELETEACL Mine -alice",
    b"SETACL Mine owner lr",
    b"GETACL Mine",
    b"SETACL Mine bob l",
    b"MYRIGHTS Mine",
    b"GETACL Mine",
    b"DELETE Mine",
    b"DELETEACL Mine bob",
    b"SETACL Mine owner lrwstipekxa",
    b"SETACL Mine $x lr",
    b"SETACL Mine #x lr",
    b"SETACL Mine carol z",
    b"SETACL Mine alice +te",
    b"SETACL Mine alice -w",
    b'SETACL Mine nobody ""',
    b"SETACL Mine carol cd",
    b"GETACL Mine",
    b'SETACL Mine carol ""',
    b"GETACL Mine",
    b"DELETEACL Mine carol",
    b"DELETEACL Mine carol",
    b"GETACL Mine",
    b"SETACL Public/read alice lr",
    b"SETACL Public/none alice lr",
    b"SETACL Public/admin alice lr",
    b"GETACL Public/admin",
    b"SETACL INBOX alice lr",
    b"MYRIGHTS Public",
    b"DELETEACL Nowhere bob",
    b"GETACL Nowhere",
    b"MYRIGHTS Nowhere",
]
SHARED = [
    b"NAMESPACE",
    *(b'LIST "" ' + each for each in (b"*", b"%", b"shared/*", b"shared/%", b"shared/bob/%", b"shared/bob")),
    b"SELECT shared/bob/Mine",
    b"MYRIGHTS shared/bob/Mine",
    b"GETACL shared/bob/Mine",
    b"SELECT shared/bob",
    b"MYRIGHTS shared/bob",
    b"SELECT shared/nobody/x",
    b"SELECT shared/bob/none",
    b"CREATE shared/bob/x",
    b"SUBSCRIBE shared/bob/Mine",
    b"SUBSCRIBE shared/bob",
    b'LSUB "" *',
    b"STATUS shared/bob/INBOX (MESSAGES)",
    b"CREATE shared/x",
    b"CREATE shared",
    b"DELETE shared/bob/Mine",
    _APPEND % b"shared/bob/Mine",
    b"RENAME shared/bob/Mine X",
]


def lay_out(mail: Path, more: Mapping[str, str]) -> None:
    """The public folders, each with three messages of which one is marked, and the files named."""
    for path, content in more.items():
        (mail / path).parent.mkdir(parents=True, exist_ok=True)
        (mail / path).write_text(content)
    for name, text in FOLDERS.items():
        folder = mail / "public" / f".{name}"
        for place in ("cur", "new", "tmp"):
            (folder / place).mkdir(parents=True)
        for number in range(3):
            flags = "T" if number == 0 else "R" if number == 1 else ""
            (folder / "cur" / f"{1700000000 + number}.M{number}P1.host:2,{flags}").write_text(
                "Subject: x\n\nb\n"
            )
        if text is not None:
            (folder / "dovecot-acl").write_text(text)


def theirs(root: Path, extra: str, sessions: Sequence[tuple[str, list[bytes]]]) -> list[bytes]:
    text = (root / "dovecot.conf").read_text()
    head = re.sub(r"(?m)^(mail_location|namespace|  inbox|\}).*\n", "", text)
    mail = root / "mail"
    (root / "dovecot.conf").write_text(
        head + f"mail_location = maildir:{mail}/%u/mail\n" + extra.format(mail=mail)
    )
    return [answer for user, commands in sessions for answer in dovecot_imap.ask(root, commands, user)]


async def ours(folder: Path, extra: str, sessions: Sequence[tuple[str, list[bytes]]]) -> list[bytes]:
    mail = folder / "mail"
    users = "".join(f"{user}:{{PLAIN}}x::::::\n" for user in ("alice", "bob"))
    answers = []
    async with running(
        folder, OURS.format(mail=mail) + extra.format(mail=mail), users, whole=True
    ) as mailbox:
        for user, commands in sessions:
            stream = await mailbox.connect("imap")
            got = b""
            for number, command in enumerate([b"LOGIN %b x" % user.encode(), *commands]):
                stream.write(b"t%d %b\r\n" % (number, command))
                end = re.compile(rb"(?:\A|\r\n)t%d [^\r\n]*\r\n" % number)
                while (found := end.search(got)) is None:
                    data = await stream.read(10)
                    assert data, command
                    got += data
                if number:
                    answers.append(got[: found.end()])
                got = got[found.end() :]
    return answers


_MORE = ("\\HasChildren", "\\HasNoChildren", "\\Trash")
"""Told here in any case, in Dovecot only when asked for."""


def normal(command: bytes, answer: bytes) -> list[str]:
    lines = []
    for line in answer.decode().splitlines():
        if line == '* LIST (\\Noselect \\HasChildren) "/" Public/above' and command.endswith(b"*"):
            continue  # Dovecot with ACLs does not show what is only above others
        if re.match(
            r"\* OK \[(UID|HIGHEST|MAILBOXID|CLOSED|UNSEEN)|\* \d+ RECENT|\* FLAGS|\* OK .*Idle", line
        ):
            continue
        line = re.sub(r" \\Recent|\\Recent ?", "", line)
        line = re.sub(r"(COPYUID|APPENDUID) \d+", r"\1 1", line)
        if b"SUBSCRIBED" in command:
            found = re.match(r"\* LIST \((.*?)\)", line)
            words = sorted(word for word in (found[1] if found else "").split() if word not in _MORE)
            line = line if found is None else " ".join(words) + line[found.end() :]
        tagged = re.match(r"t\d+ (OK|NO|BAD) (.*)", line)
        if tagged is None:
            lines.append(line)
            continue
        kept = re.search(
            r"\[(NOPERM|TRYCREATE|READ-ONLY|READ-WRITE|COPYUID|APPENDUID)|gnored: P|without", tagged[2]
        )
        lines.append(f"{tagged[1]} {kept[0] if kept else ''}")
    return sorted(lines) if command.startswith((b"LIST", b"LSUB", b"NAMESPACE")) else lines


def files(mail: Path) -> dict[str, str]:
    """What both keep of subscriptions, of ACLs and of who sees whose mailboxes; order counts for nothing."""
    names = ("dovecot-acl", "subscriptions", "shared.db")
    return {
        str(path.relative_to(mail)): "\n".join(sorted(line for line in path.read_text().split("\n") if line))
        for name in names
        for path in mail.rglob(name)
    }


def differences(
    tmp_path: Path,
    extra: str,
    sessions: Sequence[tuple[str, list[bytes]]],
    more: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, tuple[object, object]]:
    """What differs after the same commands; `more`: files that are there, by their paths."""
    with dovecot_imap.maildir() as root:
        lay_out(root / "mail", more)
        expected = theirs(root, extra, sessions)
        stored = files(root / "mail")
    lay_out(tmp_path / "mail", more)
    answers = asyncio.run(ours(tmp_path, extra, sessions))
    mine = files(tmp_path / "mail")
    found: dict[str, tuple[object, object]] = {
        path: (stored.get(path), mine.get(path))
        for path in stored.keys() | mine.keys()
        if stored.get(path) != mine.get(path)
    }
    commands = [command for _, several in sessions for command in several]
    for number, (command, one, other) in enumerate(zip(commands, expected, answers, strict=True)):
        left, right = normal(command, one), normal(command, other)
        if left != right:
            found[f"{number} {command.decode()}"] = (left, right)
    return found


def test_namespaces_are_dovecots(tmp_path: Path) -> None:
    assert differences(tmp_path, NAMESPACES, [("bob", NAMES)]) == {}


def test_acls_are_dovecots(tmp_path: Path) -> None:
    assert differences(tmp_path, ACLS, [("bob", RIGHTS), ("alice", SHARED)]) == {}


@pytest.mark.parametrize("files", [{"acls": GLOBAL_LINES}, GLOBAL_FILES], ids=["file", "directory"])
def test_global_acls_are_dovecots(tmp_path: Path, files: dict[str, str]) -> None:
    extra = ACLS.replace("acl = vfile", "acl = vfile:{mail}/acls")
    assert differences(tmp_path, extra, [("bob", GLOBALS)], files) == {}
