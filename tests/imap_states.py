"""A client that believes what it is told, for tests of what several sessions on one mailbox are told.

Each `Client` keeps the mailbox as its session has described it: the UID and the flags behind every sequence
number. An answer that contradicts what was said before is an `AssertionError`: EXISTS that shrinks, EXPUNGE in the
answer to FETCH, STORE or SEARCH (RFC 3501 §7.4.1), a number whose UID is another one, UIDs out of order, a UID of
two messages. `agree` says in the end whether all sessions have been told of everything.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from random import Random

_FETCH = re.compile(rb"\* (\d+) FETCH \((.*)\)\r\n\Z", re.DOTALL)
_UID = re.compile(rb"UID (\d+)")
_FLAGS = re.compile(rb"FLAGS \(([^)]*)\)")
_SUBJECT = re.compile(rb"Subject: (\d+)")
_LITERAL = re.compile(rb"\{(\d+)\}\r\n\Z")
QUIET = ("FETCH", "STORE", "SEARCH", "SORT", "THREAD")
"""Commands in whose answers no message may go."""
SECONDS = 60


class Message:
    """What a session has said of one message."""

    __slots__ = ("flags", "uid")

    def __init__(self) -> None:
        self.uid = 0
        self.flags: frozenset[bytes] | None = None


class Client:
    """One session that has logged in. `subjects` is shared: which message has which UID."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, subjects: dict[int, bytes]
    ) -> None:
        self.messages: list[Message] = []
        self.log: list[bytes] = []
        self._reader = reader
        self._writer = writer
        self._subjects = subjects
        self._tag = 0

    @classmethod
    async def login(cls, port: int, user: str, password: str, subjects: dict[int, bytes]) -> Client:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
        await reader.readline()
        client = cls(reader, writer, subjects)
        await client.command(f"LOGIN {user} {password}")
        return client

    async def close(self) -> None:
        self._writer.close()

    async def command(self, *texts: str) -> list[bytes]:
        """Send commands, all at once, and take in what is answered; the tagged lines."""
        first = self._tag + 1
        for text in texts:
            self._tag += 1
            self._send(b"%d %b\r\n" % (self._tag, text.encode()))
        return [await self._answer(first + at, text) for at, text in enumerate(texts)]

    async def idle(self, seconds: float) -> None:
        """IDLE until nothing has come for a moment."""
        self._tag += 1
        self._send(b"%d IDLE\r\n" % self._tag)
        while True:
            try:
                line = await asyncio.wait_for(self._reader.readline(), seconds)
            except TimeoutError:
                break
            self.log.append(line)
            self._untagged(line, "IDLE")
        self._send(b"DONE\r\n")
        await self._answer(self._tag, "IDLE")

    def _send(self, data: bytes) -> None:
        self.log.append(data)
        self._writer.write(data)

    async def _answer(self, tag: int, text: str) -> bytes:
        words = text.split(" ", 1)
        name = words[0] if words[0] != "UID" else text
        if words[0] in ("SELECT", "EXAMINE"):
            self.messages.clear()
        while True:
            line = await asyncio.wait_for(self._reader.readline(), SECONDS)
            while found := _LITERAL.search(line):
                line += await self._reader.readexactly(int(found[1])) + await self._reader.readline()
            self.log.append(line)
            assert line.endswith(b"\r\n"), "the connection has ended"
            if line.startswith(b"%d " % tag):
                return line
            self._untagged(line, name)

    def _untagged(self, line: bytes, name: str) -> None:
        if line.startswith(b"+") and name == "IDLE":
            return
        assert line.startswith(b"* "), line
        words = line.split()
        if len(words) > 2 and words[2] == b"EXISTS":
            number = int(words[1])
            assert number >= len(self.messages), f"{line!r}, and there were {len(self.messages)}"
            self.messages += [Message() for _ in range(number - len(self.messages))]
        elif len(words) > 2 and words[2] == b"EXPUNGE":
            assert name not in QUIET, f"{line!r} in the answer to {name}"
            self._at(int(words[1]))
            del self.messages[int(words[1]) - 1]
        elif len(words) > 2 and words[2] == b"FETCH":
            self._fetched(line)
        elif words[1] == b"SEARCH" and name == "SEARCH":
            for word in words[2:]:
                self._at(int(word))

    def _at(self, number: int) -> Message:
        assert 1 <= number <= len(self.messages), f"message {number} of {len(self.messages)}"
        return self.messages[number - 1]

    def _fetched(self, line: bytes) -> None:
        found = _FETCH.fullmatch(line)
        assert found is not None, line
        number = int(found[1])
        message = self._at(number)
        if flags := _FLAGS.search(found[2]):
            message.flags = frozenset(flags[1].split()) - {b"\\Recent"}
        if uid := _UID.search(found[2]):
            value = int(uid[1])
            assert message.uid in (0, value), f"{line!r}, and {number} had UID {message.uid}"
            message.uid = value
            before = [one.uid for one in self.messages[: number - 1] if one.uid]
            behind = [one.uid for one in self.messages[number:] if one.uid]
            assert not before or before[-1] < value, f"{line!r} behind UID {before[-1]}"
            assert not behind or value < behind[0], f"{line!r} before UID {behind[0]}"
            if subject := _SUBJECT.search(found[2]):
                known = self._subjects.setdefault(value, subject[1])
                assert known == subject[1], f"UID {value} is that of two messages"


async def play(client: Client, random: Random, steps: int, name: str) -> None:
    """Do `steps` things at random with the mailbox that is selected."""
    await client.command("SELECT INBOX", "FETCH 1:* (UID FLAGS)")
    for step in range(steps):
        count = len(client.messages)
        one = random.randint(1, count) if count else 0
        some = f"{one}:{random.randint(one, min(count, one + 3))}" if count else "1"
        uids = f"{client.messages[one - 1].uid or 1}" if count else "1"
        flag = random.choice(("\\Seen", "\\Flagged", "\\Answered", "$a", "$b"))
        sign = random.choice(("+", "-", ""))
        match random.randrange(12):
            case 0 | 1:
                text = f"Subject: {name}{step}\r\n\r\nbody\r\n"
                await client.command(f"APPEND INBOX ({flag}) {{{len(text)}+}}\r\n{text}")
            case 2 if count > 5:
                silent = client.messages[one - 1 : one + 3]
                await client.command(f"STORE {some} +FLAGS.SILENT (\\Deleted)", "EXPUNGE")
                for message in silent:  # whoever says SILENT is not told
                    message.flags = None
            case 3 | 4 if count:
                await client.command(f"STORE {some} {sign}FLAGS ({flag})")
            case 5 if count:
                await client.command(
                    f"UID STORE {uids} {sign}FLAGS ({flag})", f"UID FETCH {uids} (FLAGS)", "NOOP"
                )
            case 6 if count:
                await client.command(f"FETCH {some} (UID FLAGS BODY.PEEK[HEADER.FIELDS (SUBJECT)])")
            case 7:
                await client.command(f"SEARCH {random.choice(('UNSEEN', 'FLAGGED', 'KEYWORD $a'))}", "NOOP")
            case 8 if count > 8:
                await client.command(f"UID MOVE {uids} Other")
            case 9 if count:
                await client.command(f"COPY {some} INBOX")
            case 10:
                await client.idle(random.random() / 50)
            case 11 if not random.randrange(4):
                await client.command("CLOSE", "SELECT INBOX", "FETCH 1:* (UID FLAGS)")
            case _:
                await client.command("NOOP")


async def agree(clients: Sequence[Client]) -> None:
    """After this, every session knows all messages as they are: asks only for what nobody has told it."""
    for client in clients:
        await client.command("NOOP")
    told = []
    for client in clients:
        before = [(message.uid, message.flags) for message in client.messages]
        await client.command("FETCH 1:* (UID FLAGS BODY.PEEK[HEADER.FIELDS (SUBJECT)])")
        now = [(message.uid, message.flags) for message in client.messages]
        for (uid, flags), (true_uid, true_flags) in zip(before, now, strict=True):
            assert uid in (0, true_uid)
            assert flags in (None, true_flags), f"UID {true_uid} has {true_flags}; last told: {flags}"
        told.append(now)
    assert all(one == told[0] for one in told)
