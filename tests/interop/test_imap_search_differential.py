"""SEARCH, SORT and THREAD over a thousand messages: the same answers as the real Dovecot's."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.interop.dovecot_imap import BINARY, ask, maildir
from tests.interop.search_corpus import MONTHS, WORDS, place
from tests.interop.test_imap_dovecot import literal, talk
from tests.mailbox import running

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not os.path.exists(BINARY), reason="dovecot-imapd is missing"),
]

FLAGS = ("ALL", "ANSWERED", "DELETED", "DRAFT", "FLAGGED", "SEEN", "UNANSWERED", "UNDELETED", "UNDRAFT")
KEYS = (
    *FLAGS,
    *("UNFLAGGED", "UNSEEN", "KEYWORD work", "UNKEYWORD $x", "KEYWORD nothing", "KEYWORD $forwarded"),
    *("1", "1:10,20:30", "5,3,1", "*", "900:*", "UID 3:7", "UID 2000:*", "NOT 1:500", "UID 1:100 SEEN"),
    *(f"SUBJECT {word}" for word in WORDS),
    *(f"FROM {word}" for word in WORDS),
    *(f"BODY {word}" for word in WORDS),
    *(f"TEXT {word}" for word in WORDS),
    *(
        "SUBJECT re:",
        "SUBJECT [list]",
        'SUBJECT "re: [list]"',
        "SUBJECT Grüße",
        "SUBJECT GRÜSSE",
        "SUBJECT grusse",
    ),
    *(
        "SUBJECT привет",
        "SUBJECT ПРИВЕТ",
        "SUBJECT 日本語",
        "SUBJECT Straße",
        "SUBJECT strasse",
        'SUBJECT ""',
    ),
    *('SUBJECT "two blanks"', "SUBJECT (fwd)", "SUBJECT arger_", "SUBJECT Ärger"),
    *(
        "FROM Jürgen",
        "FROM jurgen",
        "FROM muller",
        "FROM example.com",
        "FROM иван",
        "FROM 山田",
        "FROM group",
    ),
    *('FROM "quoted, name"', 'FROM "esc\\"aped 2"', 'FROM "<alpha"', "FROM comment", "FROM 192.0.2.1"),
    *("TO zoe", "TO Zoë", 'TO "other@example.net"', "CC bob", "BCC x", 'CC ""', 'BCC ""', "TO bravo1"),
    *(
        "HEADER X-Folded two",
        'HEADER X-Folded "two three"',
        'HEADER X-Folded "three four"',
        'HEADER X-Folded ""',
    ),
    *("HEADER X-Many a3", "HEADER x-many b2", 'HEADER X-MANY ""', "HEADER Received 192.0.2.9"),
    *('HEADER Received "(a.example [192"', "HEADER Message-ID EXAMPLE.ORG", "HEADER References <m1"),
    *(
        "HEADER Content-Type koi8",
        'HEADER Content-Transfer-Encoding "quoted"',
        'HEADER Date ""',
        "HEADER Date EST",
    ),
    *(
        "BODY Grüße",
        "BODY gruße",
        "BODY café",
        "BODY cafe",
        "BODY CAFÉ",
        "BODY привет",
        "BODY МИР",
        "BODY 日本語",
    ),
    *(
        "BODY テスト",
        "BODY 한국어",
        "BODY 中文",
        "BODY 测试",
        "BODY €",
        "BODY Œuvre",
        "BODY œuvre",
        "BODY señor",
    ),
    *(
        "BODY „Zitat",
        'BODY "end of it"',
        'BODY "line two of 17:"',
        'BODY "soft = signs"',
        "BODY =",
        "BODY <html>",
    ),
    *(
        "BODY inner",
        "BODY preamble",
        "BODY epilogue",
        "BODY attachment",
        "BODY boundary",
        'BODY "sixteen bits"',
    ),
    *("BODY seven", "BODY zzzzzzzzzzzzzzzzzzzzzzzzz", "TEXT inner@example.org", 'TEXT "inner subject 6"'),
    *(
        "TEXT Jürgen",
        "TEXT jurgen",
        "TEXT grusse",
        "TEXT multipart",
        "TEXT koi8-r",
        "TEXT application/octet-stream",
    ),
    *(
        'TEXT "b.example with"',
        'TEXT "with ESMTP id 5"',
        "TEXT m100@example.org",
        "TEXT preamble",
        "TEXT hidden",
    ),
    *(
        'TEXT "from: inner"',
        'TEXT "x-many: a3"',
        "TEXT 日本語",
        "TEXT привет",
        "TEXT nowhere-at-all",
        "TEXT x",
    ),
    *(f"SENTSINCE 1-{month}-2010" for month in MONTHS[::3]),
    *(f"SENTBEFORE 15-{month}-2012" for month in MONTHS[::3]),
    *(f"SENTON {day}-Mar-20{day:02}" for day in range(1, 20, 3)),
    *("SENTON 1-Jan-1970", "SENTBEFORE 2-Jan-1970", "SENTSINCE 1-Jan-1970"),
    *("SINCE 1-Oct-2020", "BEFORE 1-Jan-2021", "ON 20-Sep-2020", "ON 1-Jan-2000", 'SINCE "13-Sep-2020"'),
    *("LARGER 500", "LARGER 1000", "SMALLER 300", "SMALLER 1", "LARGER 400 SMALLER 600"),
    *("OLDER 100000", "YOUNGER 100000", "NOT OLDER 1000000000", "YOUNGER 4294967295"),
    *("OR SEEN FLAGGED", "NOT SEEN", "NOT NOT SEEN", "OR (SEEN FLAGGED) NOT ANSWERED", "NOT (SEEN FLAGGED)"),
    *("OR OR FROM alpha FROM bravo FROM echo", "OR SUBJECT alpha BODY golf", "NOT OR SEEN BODY echo"),
    *("SEEN SUBJECT alpha BODY bravo", "(OR 1:100 900:*) NOT DELETED", "NOT SUBJECT alpha NOT FROM bravo"),
    *("((((SEEN))))", "OR (SUBJECT delta SENTSINCE 1-Jan-2010) (FROM bob LARGER 400)", "NOT TEXT echo"),
)
SORTS = (
    *("ARRIVAL", "CC", "DATE", "FROM", "SIZE", "SUBJECT", "TO", "DISPLAYFROM", "DISPLAYTO"),
    *("REVERSE ARRIVAL", "REVERSE CC", "REVERSE DATE", "REVERSE FROM", "REVERSE SIZE", "REVERSE SUBJECT"),
    *("REVERSE TO", "REVERSE DISPLAYFROM", "REVERSE DISPLAYTO", "SUBJECT DATE", "SUBJECT REVERSE DATE"),
    *("REVERSE SUBJECT DATE", "FROM TO CC", "CC REVERSE SIZE", "TO REVERSE SUBJECT REVERSE DATE"),
    *("DISPLAYFROM ARRIVAL", "CC REVERSE ARRIVAL", "FROM DATE", "DISPLAYTO DISPLAYFROM REVERSE SUBJECT"),
)
SELECTIONS = ("ALL", "SEEN", "1:200 NOT DELETED", "SUBJECT alpha")
RETURNS = (
    "MIN",
    "MAX",
    "COUNT",
    "ALL",
    "MIN MAX",
    "MIN MAX COUNT ALL",
    "",
    "PARTIAL 3:7",
    "PARTIAL 5000:6000",
)


def queries() -> list[str]:
    """Commands without their tag."""
    return [
        *(f"UID SEARCH CHARSET UTF-8 {key}" for key in KEYS),
        *(f"SORT ({program}) UTF-8 ALL" for program in SORTS),
        *(f"UID SORT ({program}) UTF-8 {which}" for program in SORTS[::4] for which in SELECTIONS[1:]),
        *(
            f"UID THREAD {algorithm} UTF-8 {which}"
            for algorithm in ("ORDEREDSUBJECT", "REFERENCES", "REFS")
            for which in SELECTIONS
        ),
        "THREAD REFERENCES UTF-8 SEEN",
        *(
            f"SEARCH RETURN ({options}) {key}"
            for options in RETURNS
            for key in ("SEEN", "BODY nowhere-at-all")
        ),
        *(f"UID SORT RETURN ({options}) (REVERSE SIZE) UTF-8 FLAGGED" for options in RETURNS[:7]),
        "SEARCH RETURN (SAVE) 1:300 SEEN",
        *("SEARCH $", "SEARCH NOT $ 1:20", "UID SEARCH UID $ FLAGGED", "SEARCH $ SUBJECT alpha"),
        *("SEARCH RETURN (SAVE MIN) FLAGGED", "SEARCH $", "SEARCH RETURN (SAVE MIN MAX) FLAGGED", "SEARCH $"),
        *("SEARCH RETURN (SAVE COUNT) DRAFT", "UID SEARCH RETURN (COUNT) $", "UID SORT (SIZE) UTF-8 $"),
    ]


def ours(tmp_path: Path, root: Path, commands: Sequence[bytes]) -> list[str]:
    async def run() -> list[str]:
        async with running(tmp_path) as mailbox:
            stream = await mailbox.connect("imap")
            await talk(stream, b"LOGIN zs secret", b"t")
            return [await talk(stream, command, b"t%d" % number) for number, command in enumerate(commands)]

    (tmp_path / "mail" / "mail.test").mkdir(parents=True, exist_ok=True)
    (tmp_path / "mail" / "mail.test" / "zs").symlink_to(root / "mail")
    return asyncio.run(run())


def essence(answer: str) -> str:
    """The untagged lines that answer the question, or the status of what was refused."""
    lines = re.findall(r"^\* (?:E?SEARCH|SORT|THREAD)\b.*$", answer.replace("\r\n", "\n"), re.MULTILINE)
    status = re.search(r"^t\d+ (OK|NO|BAD)", answer, re.MULTILINE)
    assert status, answer
    return "\n".join([*(line.rstrip() for line in lines), status[1]])


def difference(theirs: str, found: str) -> str:
    them, us = (set(re.findall(r"\d+", text)) for text in (theirs, found))
    if them == us:
        at = next(
            at
            for at, pair in enumerate(zip(theirs.split(), found.split(), strict=False))
            if len(set(pair)) > 1
        )
        return f"another order: {theirs.split()[at - 1 : at + 5]} | {found.split()[at - 1 : at + 5]}"
    return f"only theirs: {sorted(them - us, key=int)[:9]}, only ours: {sorted(us - them, key=int)[:9]}"


def test_answers_agree(tmp_path: Path) -> None:
    asked = queries()
    assert len(asked) > 300
    commands = [b"SELECT INBOX", *(literal(query) for query in asked)]
    with maildir() as root:
        assert place(root) > 1000
        theirs = [essence(answer.decode("latin-1")) for answer in ask(root, commands)[1:]]
        found = [essence(answer) for answer in ours(tmp_path, root, commands)[1:]]
    wrong = {
        query: difference(them, us)
        for query, them, us in zip(asked, theirs, found, strict=True)
        if them != us
    }
    assert wrong == {}, "\n".join(f"{query}: {what}" for query, what in wrong.items())
