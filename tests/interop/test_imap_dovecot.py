"""The same Maildir under our service and under the real Dovecot: same answers, and nothing lost in a swap."""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from mailstack.net.stream import Stream
from tests.interop.dovecot_imap import BINARY, ask, maildir
from tests.mailbox import running
from tests.unit.wire_mime.answers import ITEMS, answer
from tests.unit.wire_mime.corpus import MESSAGES

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not os.path.exists(BINARY), reason="dovecot-imapd is missing"),
]

QUERIES = (
    "ALL",
    "SUBJECT x",
    "NOT SUBJECT x",
    'SUBJECT "a b"',
    "FROM a@b",
    "FROM bob",
    "FROM J\u00fcrgen",
    "TO c",
    "CC foo",
    'BCC ""',
    "HEADER Content-Type multipart",
    'HEADER X-None ""',
    'HEADER Message-ID ""',
    "BODY body",
    "BODY BODY",
    "BODY line2",
    'BODY "<p>"',
    "BODY inner",
    "TEXT inner",
    "TEXT bob",
    "TEXT h\u00e4\u00df",
    "BODY b\u00f6dy",
    'TEXT "multipart"',
    "LARGER 100",
    "SMALLER 50",
    "SENTON 1-Jan-2024",
    "SENTBEFORE 1-Jan-2025",
    "SENTSINCE 1-Jan-2020",
    "OR SUBJECT x FROM a",
    "1:10 SEEN",
    "UNSEEN",
    "KEYWORD $x",
    "UID 5:20 NOT 7",
)


def place(root: Path) -> None:
    for number, message in enumerate(MESSAGES.values()):
        name = f"{1_700_000_000 + number}.M{number}P1.host:2,S"
        (root / "mail" / "cur" / name).write_bytes(message)


def test_fetch_answers_agree() -> None:
    with maildir() as root:
        place(root)
        commands = [b"SELECT INBOX"]
        for number in range(1, len(MESSAGES) + 1):
            commands += [b"FETCH %d %b" % (number, item.encode()) for item in ITEMS]
        theirs = iter(ask(root, commands)[1:])
        golden = json.loads((Path(__file__).parents[1] / "unit" / "wire_mime" / "dovecot.json").read_text())
        for name, message in MESSAGES.items():
            for item in ITEMS:
                text = next(theirs)
                found = text[text.index(b"(") + 1 : text.rindex(b")\r\nt")]
                assert found == answer(message, item), f"{name}: {item}"
                assert found.decode("latin-1") == golden[name][item], f"dovecot.json is out of date: {name}"


async def talk(stream: Stream, command: bytes, tag: bytes) -> str:
    """One command of ours, with its answers; no literals but those that do not wait."""
    stream.write(tag + b" " + command + b"\r\n")
    answer = b""
    while not re.search(rb"(?:\A|\n)" + tag + rb" [^\n]*\n\Z", answer):
        data = await stream.read(10)
        assert data, answer
        answer += data
    return answer.decode()


def ours(tmp_path: Path, root: Path, commands: Sequence[bytes]) -> list[str]:
    async def run() -> list[str]:
        async with running(tmp_path) as mailbox:
            stream = await mailbox.connect("imap")
            await talk(stream, b"LOGIN zs secret", b"t")
            return [await talk(stream, command, b"t") for command in commands]

    (tmp_path / "mail" / "mail.test").mkdir(parents=True, exist_ok=True)
    link = tmp_path / "mail" / "mail.test" / "zs"
    if not link.is_symlink():
        link.symlink_to(root / "mail")
    return asyncio.run(run())


def numbers(answer: str) -> list[int]:
    found = re.search(r"\* SEARCH([ \d]*)", answer)
    assert found, answer
    return [int(number) for number in found[1].split()]


def test_search_answers_agree(tmp_path: Path) -> None:
    names = list(MESSAGES)
    with maildir() as root:
        place(root)
        commands = [b"SELECT INBOX", *(b"UID SEARCH CHARSET UTF-8 " + literal(query) for query in QUERIES)]
        theirs = [numbers(text.decode("latin-1")) for text in ask(root, commands)[1:]]
        found = [numbers(text) for text in ours(tmp_path, root, commands)[1:]]
    wrong = {
        query: ([names[uid - 1] for uid in set(them) ^ set(us)], "theirs" if set(them) - set(us) else "ours")
        for query, them, us in zip(QUERIES, theirs, found, strict=True)
        if them != us
    }
    assert wrong == {}, "\n".join(f"{k}: {v}" for k, v in wrong.items())


def literal(query: str) -> bytes:
    """The query with every word that is not ASCII as a literal that does not wait."""
    words = []
    for word in query.split(" "):
        raw = word.encode()
        words.append(raw if word.isascii() else b"{%d+}\r\n%b" % (len(raw), raw))
    return b" ".join(words)


def state(answers: Sequence[str]) -> list[str]:
    """What a client remembers: UIDVALIDITY, UIDs with flags, subscriptions."""
    lines = []
    for line in "".join(answers).split("\r\n"):
        found = re.search(r"\[UIDVALIDITY \d+\]|UID \d+|LSUB .*", line)
        if found:
            flags = re.search(r"FLAGS \((.*?)\)", line)
            words = sorted(word for word in flags[1].split() if word != "\\Recent") if flags else []
            lines.append(" ".join([found[0], *words]))
    return sorted(lines)


LOOK = (
    b"SELECT INBOX",
    b"UID FETCH 1:* FLAGS",
    b"SELECT Box.Sub",
    b"UID FETCH 1:* FLAGS",
    b'LSUB "" *',
)


def test_a_mailbox_moves_to_dovecot_and_back(tmp_path: Path) -> None:
    with maildir() as root:
        first = ours(
            tmp_path,
            root,
            [
                b"CREATE Box.Sub",
                b"SUBSCRIBE Box.Sub",
                b"CREATE &AMQ-x",
                b"SUBSCRIBE &AMQ-x",
                b"APPEND INBOX (\\Seen $Forwarded) {3+}\r\none",
                b"APPEND INBOX {3+}\r\ntwo",
                b"APPEND INBOX (\\Flagged) {3+}\r\ntri",
                b"SELECT INBOX",
                b"STORE 2 +FLAGS (mine \\Answered)",
                b"COPY 1:3 Box.Sub",
                b"STORE 3 +FLAGS (\\Deleted)",
                b"EXPUNGE",
                *LOOK,
            ],
        )
        theirs = [answer.decode() for answer in ask(root, LOOK)]
        assert state(theirs) == state(first[-len(LOOK) :])
        changes = (
            b"SELECT INBOX",
            b"STORE 1 -FLAGS ($Forwarded)",
            b"STORE 2 +FLAGS (theirs \\Draft)",
            b"MOVE 1 Box.Sub",
            b"APPEND INBOX (again) {3+}\r\nfor",
            b"UNSUBSCRIBE &AMQ-x",
        )
        theirs = [answer.decode() for answer in ask(root, [*changes, *LOOK])]
        assert all(" OK " in answer for answer in theirs)
        second = ours(tmp_path, root, LOOK)
        assert state(second) == state(theirs[-len(LOOK) :])
        assert "UID 4 again" in state(second)
        third = ours(tmp_path, root, [b"APPEND INBOX {3+}\r\nfiv", *LOOK])
        assert state([answer.decode() for answer in ask(root, LOOK)]) == state(third[-len(LOOK) :])
