"""NOTIFY and URLAUTH with the real Dovecot and with our service: who listens hears the same lines.

What is compared: the untagged lines that one client gets for what another one does, without numbers that are each
server's own (UIDVALIDITY, modification sequences, \\Recent). Dovecot tells some of them only with the next
command, so the listener says NOOP until it has heard as much as is due.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from mailstack.net.stream import Stream
from tests.interop import dovecot_imap
from tests.mailbox import running

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(shutil.which("dovecot") is None, reason="dovecot-imapd is missing"),
]

PATIENCE = 100
"""How often NOOP is said, with a tenth of a second between."""
SETTINGS = """\
mailbox_list_index = yes
mail_attribute_dict = file:%h/dovecot-attributes
imap_urlauth_host = mail.test
"""
GROUPS = (
    b"NOTIFY SET (selected (MessageNew (UID BODY.PEEK[HEADER.FIELDS (SUBJECT)]) MessageExpunge FlagChange))"
    b" (personal (MessageNew MessageExpunge FlagChange MailboxName SubscriptionChange))"
)
STEPS = (
    # What is done, and how many lines it is worth to the listener.
    (b"APPEND Work {18+}\r\nSubject: hello\r\n\r\n", 1),
    (b"APPEND Work {18+}\r\nSubject: again\r\n\r\n", 1),
    (b"SELECT Work", 0),
    (b"STORE 1 +FLAGS (\\Seen)", 1),
    (b"STORE 1 -FLAGS (\\Seen)", 1),
    (b"STORE 1 +FLAGS (\\Deleted)", 1),
    (b"EXPUNGE", 1),
    (b"CREATE New", 1),
    (b"RENAME New Newer", 1),
    (b"SUBSCRIBE Newer", 1),
    (b"UNSUBSCRIBE Newer", 1),
    (b"DELETE Newer", 1),
    (b"APPEND INBOX {18+}\r\nSubject: three\r\n\r\n", 2),
    (b"COPY 1 INBOX", 2),
    (b"SELECT INBOX", 0),
    (b"STORE 1 +FLAGS (\\Flagged)", 1),
    (b"STORE 1 +FLAGS (\\Deleted)", 1),
    (b"EXPUNGE", 1),
)
REFUSED = (
    b"NOTIFY",
    b"NOTIFY NONE",
    b"NOTIFY SET",
    b"NOTIFY SET STATUS",
    b"NOTIFY SET (foo (MessageNew))",
    b"NOTIFY SET (inboxes NONE)",
    b"NOTIFY SET (inboxes (FlagChange))",
    b"NOTIFY SET (selected NONE)",
    b"NOTIFY SET (selected (MessageNew))",
    b"NOTIFY SET (selected (FlagChange))",
    b"NOTIFY SET (selected (MailboxName))",
    b"NOTIFY SET (selected (MessageNew (UID FLAGS) MessageExpunge))",
    b"NOTIFY SET (selected-delayed (MessageNew MessageExpunge)) (selected (MessageNew MessageExpunge))",
    b'NOTIFY SET (subtree "A" (MessageNew MessageExpunge)) (mailboxes ("B" C) (MailboxName))',
    b'NOTIFY SET (subtree ("A" B) (MessageNew MessageExpunge)) (mailboxes "B" (MailboxName))',
    b"NOTIFY SET (mailboxes () (MailboxName))",
    b"NOTIFY SET (personal (MessageNew (UID) MessageExpunge))",
    b"NOTIFY SET (personal ())",
    b"NOTIFY SET (personal (MessageNew MessageNew MessageExpunge))",
    b"NOTIFY SET (mailboxes (%b) (MailboxName))" % b" ".join(b"n%d" % number for number in range(101)),
)
RUMPS = (
    b"imap://{user}@mail.test/INBOX/;UID=1;URLAUTH=anonymous",
    b"imap://{user}@mail.test/INBOX/;UID=1/;SECTION=TEXT;URLAUTH=authuser",
    b"imap://{user}@mail.test/INBOX/;UID=1/;SECTION=TEXT/;PARTIAL=1.3;URLAUTH=user+{user}",
    b"imap://{user}@mail.test/INBOX/;UID=1/;SECTION=HEADER;EXPIRE=2099-01-01T00:00:00Z;URLAUTH=user+bob",
    b"imap://{user}@mail.test/INBOX/;UID=1;URLAUTH=submit+{user}",
)
URLS = (
    b'GENURLAUTH "imap://{user}@mail.test/INBOX/;UID=1;URLAUTH=anonymous" FOO',
    b'GENURLAUTH "imap://other@mail.test/INBOX/;UID=1;URLAUTH=anonymous" INTERNAL',
    b'GENURLAUTH "imap://{user}@other.test/INBOX/;UID=1;URLAUTH=anonymous" INTERNAL',
    b'GENURLAUTH "imap://{user}@mail.test:1143/INBOX/;UID=1;URLAUTH=anonymous" INTERNAL',
    b'GENURLAUTH "imap://{user}@mail.test/INBOX/;UID=1" INTERNAL',
    b'GENURLAUTH "imap://{user}@mail.test/INBOX/;UID=9;URLAUTH=anonymous" INTERNAL',
    b'GENURLAUTH "imap://mail.test/INBOX/;UID=1;URLAUTH=anonymous" INTERNAL',
    b'GENURLAUTH "/INBOX/;UID=1;URLAUTH=anonymous" INTERNAL',
    b"URLFETCH",
    b'URLFETCH ("{url}" FOO)',
    b'URLFETCH ("{url}" BINARY BODY)',
    b'URLFETCH ("{url}")',
    b'URLFETCH ("{url}" BODY BODYPARTSTRUCTURE)',
    b'URLFETCH ("{url}" BINARY)',
    b"RESETKEY nosuch",
    b"RESETKEY INBOX FOO",
    b"RESETKEY INBOX INTERNAL",
    b'URLFETCH "{url}"',
    b"RESETKEY",
)


class Client:
    """One connection to either server, logged in."""

    def __init__(self, read: Callable[[], Awaitable[bytes]], write: Callable[[bytes], None]) -> None:
        self._read = read
        self._write = write
        self._buffer = b""

    async def line(self) -> bytes:
        """A line, with the literals in it."""
        line = b""
        while True:
            while b"\r\n" not in self._buffer:
                await self._more()
            part, _, self._buffer = self._buffer.partition(b"\r\n")
            line += part
            found = re.search(rb"\{(\d+)\}\Z", part)
            if found is None:
                return line
            while len(self._buffer) < int(found[1]):
                await self._more()
            line += b"\r\n" + self._buffer[: int(found[1])]
            self._buffer = self._buffer[int(found[1]) :]

    async def _more(self) -> None:
        data = await asyncio.wait_for(self._read(), 20)
        assert data, self._buffer
        self._buffer += data

    async def ask(self, command: bytes) -> list[bytes]:
        """All up to the tagged answer, and that."""
        self._write(b"t " + command + b"\r\n")
        lines = [await self.line()]
        while not lines[-1].startswith(b"t "):
            lines.append(await self.line())
        return lines


Connect = Callable[[], Awaitable[Client]]


def told(lines: list[bytes]) -> list[bytes]:
    """What is compared of untagged lines."""
    shown = []
    for line in lines:
        line = re.sub(rb"(UIDVALIDITY|HIGHESTMODSEQ|MODSEQ) \(?\d+\)?", rb"\1", line)
        line = line.replace(b" \\Recent", b"").replace(b"\\Recent", b"")
        if line.startswith(b"* ") and not line.endswith(b" RECENT"):
            shown.append(line)
    return shown


def answered(line: bytes) -> bytes:
    """What is compared of a tagged line: without times and the last full stop."""
    line = re.sub(rb" \(\d+\.\d+ \+ .* secs\)\.?\Z", b"", line)
    return re.sub(rb"\[NONEXISTENT\] ", b"", line).rstrip(b".")


async def heard(connect: Connect) -> list[tuple[bytes, list[bytes]]]:
    """What each step is worth to the listener."""
    listener, doer = await connect(), await connect()
    for command in (b"CREATE Work", b"STATUS Work (MESSAGES UNSEEN)", b"STATUS INBOX (MESSAGES)"):
        await listener.ask(command)
    await listener.ask(GROUPS.replace(b"SET", b"SET STATUS"))
    await listener.ask(b"SELECT INBOX")
    results = []
    for command, count in STEPS:
        assert (await doer.ask(command))[-1].startswith(b"t OK"), command
        lines: list[bytes] = []
        for _ in range(PATIENCE):
            lines += told(await listener.ask(b"NOOP"))
            if len(lines) >= count:
                break
            await asyncio.sleep(0.1)
        results.append((command, lines))
    return results


async def replies(connect: Connect) -> list[tuple[bytes, bytes]]:
    client = await connect()
    await client.ask(b"SELECT INBOX")
    return [(command[:100], answered((await client.ask(command))[-1])) for command in REFUSED]


async def urls(connect: Connect, user: bytes) -> list[list[bytes]]:
    """What URLs give, without their signatures."""
    client = await connect()
    message = b"Subject: hi\r\nContent-Transfer-Encoding: base64\r\nMIME-Version: 1.0\r\n\r\nYWJj\r\n"
    await client.ask(b"APPEND INBOX {%d+}\r\n%b" % (len(message), message))
    await client.ask(b"SELECT INBOX")
    results = []
    signed = []
    for rump in RUMPS:
        lines = await client.ask(b'GENURLAUTH "%b" INTERNAL' % rump.replace(b"{user}", user))
        found = re.search(rb'GENURLAUTH "?([^" ]+)"?', lines[0])
        assert found is not None, lines
        signed.append(found[1])
        results.append(lines)
        results.append(await client.ask(b'URLFETCH "%b"' % found[1]))
    commands = [command.replace(b"{user}", user).replace(b"{url}", signed[1]) for command in URLS]
    results += [await client.ask(command) for command in commands]
    shown = []
    for lines in results:
        each = [re.sub(rb":internal:[0-9a-f]+", b":internal:", line).replace(user, b"U") for line in lines]
        each = [re.sub(rb'(GENURLAUTH|URLFETCH) "([^"]+)"', rb"\1 \2", line) for line in each]
        each = [re.sub(rb"for user [^ ]+", b"for user U", line) for line in each]
        shown.append([answered(line) for line in each])
    return shown


async def dovecot(root: Path, work: Callable[[Connect], Awaitable[object]]) -> object:
    """Do something with the real one's imap processes."""
    (root / "dovecot.conf").write_text((root / "dovecot.conf").read_text() + SETTINGS)
    if os.getuid() == 0:
        for path in (root, root / "run", root / "mail", *(root / "mail").rglob("*")):
            os.chown(path, dovecot_imap.NOBODY, dovecot_imap.NOBODY)
    processes = []

    async def connect() -> Client:
        process = await asyncio.create_subprocess_exec(
            *(dovecot_imap.BINARY, "-c", str(root / "dovecot.conf")),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env={"USER": "zs", "HOME": str(root)},
        )
        processes.append(process)
        assert process.stdin is not None
        assert process.stdout is not None
        output = process.stdout
        client = Client(lambda: output.read(65536), process.stdin.write)
        assert (await client.line()).startswith(b"* PREAUTH")
        return client

    try:
        return await work(connect)
    finally:
        for process in processes:
            assert process.stdin is not None
            process.stdin.close()
            await process.wait()


async def ours(folder: Path, work: Callable[[Connect], Awaitable[object]]) -> object:
    async with running(folder, "imap_urlauth_host = mail.test\n") as mailbox:

        async def connect() -> Client:
            stream: Stream = await mailbox.connect("imap")
            client = Client(lambda: stream.read(20), stream.write)
            await client.line()
            assert (await client.ask(b"LOGIN zs secret"))[-1].startswith(b"t OK")
            return client

        return await work(connect)


def test_the_listener_hears_the_same(tmp_path: Path) -> None:
    with dovecot_imap.maildir() as root:
        theirs = asyncio.run(dovecot(root, heard))
    assert asyncio.run(ours(tmp_path, heard)) == theirs


def test_what_cannot_be_asked_for_is_the_same(tmp_path: Path) -> None:
    with dovecot_imap.maildir() as root:
        theirs = asyncio.run(dovecot(root, replies))
    assert asyncio.run(ours(tmp_path, replies)) == theirs


def test_urls_give_the_same(tmp_path: Path) -> None:
    with dovecot_imap.maildir() as root:
        theirs = asyncio.run(dovecot(root, lambda connect: urls(connect, b"zs")))
    assert asyncio.run(ours(tmp_path, lambda connect: urls(connect, b"zs%40mail.test"))) == theirs
