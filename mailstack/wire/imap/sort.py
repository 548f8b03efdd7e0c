"""SORT's criteria (RFC 5256 §3, RFC 5957), and the base subject that SORT and THREAD compare (§2.1)."""

from __future__ import annotations

import re
from typing import NamedTuple

from mailstack.wire.imap.tokens import Cursor, ParseError

CRITERIA = frozenset(
    {"ARRIVAL", "CC", "DATE", "FROM", "SIZE", "SUBJECT", "TO", "DISPLAYFROM", "DISPLAYTO"},
)
CRITERIA_MAX = 32


class Criterion(NamedTuple):
    """One of `CRITERIA`, and whether the highest comes first."""

    name: str
    reverse: bool


def parse_program(cursor: Cursor) -> tuple[Criterion, ...]:
    """`(REVERSE DATE SUBJECT)`. Raises `ParseError`."""
    cursor.expect(b"(", "Invalid sort program.")
    program: list[Criterion] = []
    reverse = False
    while not cursor.take(b")"):
        name = cursor.word()
        if name == "REVERSE" and not reverse:
            reverse = True
        elif name in CRITERIA:
            program.append(Criterion(name, reverse))
            reverse = False
        else:
            raise ParseError(f"Unknown sort argument {name}")
        if not cursor.take(b" ") and cursor.peek() != b")":
            raise ParseError("Invalid sort program.")
    if reverse or not program or len(program) > CRITERIA_MAX:
        raise ParseError("Sort list ends with REVERSE" if reverse else "Invalid sort program.")
    return tuple(program)


_BLANKS = re.compile("[ \t\r\n]+")
_BLOB = r"\[[^\[\]]*\] ?"
_LEADER = re.compile(rf"(?:{_BLOB})*(?:RE|FWD?) ?(?:{_BLOB})?:")
_FIRST_BLOB = re.compile(_BLOB)


def base_subject(subject: str) -> tuple[str, bool]:
    """The base subject of a decoded and case-folded (`fold_case`) subject, and whether it was a reply or was
    forwarded."""
    text = _BLANKS.sub(" ", subject)
    answered = False
    while True:
        while text.endswith((" ", "(FWD)")):
            if text[-1] != " ":
                answered = True
            text = text[:-1] if text[-1] == " " else text[:-5]
        start, again = 0, True
        while again:
            again = text.startswith(" ", start)
            start += again
            if (leader := _LEADER.match(text, start)) is not None:
                answered = again = True
                start = leader.end()
            blob = _FIRST_BLOB.match(text, start)
            if blob is not None and blob.end() < len(text):
                again = True
                start = blob.end()
        text = text[start:]
        if not (text.startswith("[FWD:") and text.endswith("]")):
            return text, answered
        answered = True
        text = text[5:-1]
