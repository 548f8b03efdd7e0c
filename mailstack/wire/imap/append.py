"""The arguments of APPEND and REPLACE between their literals (RFC 3501 §6.3.11, RFC 8508 §3.3).

A message is a literal, a `~{…}` literal of any octets (RFC 3516 §4.4), `UTF8 (~{…})` (RFC 6855 §4), or put
together: `CATENATE (URL … TEXT {…})` (RFC 4469 §3). Several may follow each other (RFC 3502).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum, auto

from mailstack.wire.imap.dates import parse_date_time
from mailstack.wire.imap.tokens import Cursor, ParseError

LITERAL = re.compile(rb"(~?)\{([0-9]{1,20})(\+?)\}\Z")
"""At a line's end: of any octets or not, how many, sent without waiting or not."""
PARTS_MAX = 1000
"""Pieces of one message put together."""


@dataclass(frozen=True, slots=True)
class Replace:
    """Which message the new one takes the place of (RFC 8508)."""

    number: int
    uid: bool


@dataclass(frozen=True, slots=True)
class AppendMessage:
    """APPEND's next message is to come: `size` octets, or with `catenate` in pieces that are told one by one.

    `mailbox` is that of the whole command. `binary`: any octets may come, CRLF only where it is meant.
    """

    tag: str
    mailbox: str
    flags: tuple[str, ...]
    date: int | None
    size: int
    binary: bool = False
    utf8: bool = False
    catenate: bool = False
    replace: Replace | None = None


@dataclass(frozen=True, slots=True)
class AppendText:
    """A piece of a message that is put together is to come: `size` octets."""

    tag: str
    size: int


@dataclass(frozen=True, slots=True)
class AppendUrl:
    """A piece of a message that is put together: what this IMAP URL names."""

    tag: str
    url: str


@dataclass(frozen=True, slots=True)
class AppendData:
    """Octets of the message or piece that was announced."""

    data: bytes


@dataclass(frozen=True, slots=True)
class AppendEnd:
    """The command is complete: all its messages may be stored now."""

    tag: str


AppendEvent = AppendMessage | AppendText | AppendUrl | AppendEnd


class _Within(Enum):
    FIRST = auto()
    MESSAGES = auto()
    CATENATE = auto()
    """Behind `CATENATE (`."""
    PARTS = auto()
    """Behind a part."""
    UTF8 = auto()
    """Behind the literal of `UTF8 (`."""


class Arguments:
    """Where we are in the arguments behind the mailbox's name; `read` goes on with them."""

    __slots__ = ("_parts", "_within", "mailbox", "replace", "tag")

    def __init__(self, tag: str, mailbox: str, replace: Replace | None) -> None:
        self.tag = tag
        self.mailbox = mailbox
        self.replace = replace
        self._within = _Within.FIRST
        self._parts = 0

    def read(self, cursor: Cursor, literal: tuple[bool, int] | None) -> tuple[list[AppendEvent], int | None]:
        """Read to the end of the text, where a literal stands (of any octets or not, its size) or none.

        Returns the events, the last of which takes the literal; or with it the place in the text to go on
        from when the literal is not the message's but a URL. Raises `ParseError`.
        """
        events: list[AppendEvent] = []
        while True:
            match self._within:
                case _Within.FIRST | _Within.MESSAGES:
                    if self._within is _Within.MESSAGES and literal is None and _rest(cursor) == b"":
                        events.append(AppendEnd(self.tag))
                        return events, None
                    if self._message(cursor, literal, events):
                        return events, None
                case _Within.UTF8:
                    cursor.expect(b")", "Invalid arguments.")
                    self._within = _Within.MESSAGES
                case _Within.CATENATE | _Within.PARTS:
                    if self._within is _Within.PARTS and cursor.take(b")"):
                        self._within = _Within.MESSAGES
                        continue
                    at = cursor.at
                    if self._within is _Within.PARTS:
                        cursor.space()
                    more = self._part(cursor, literal, events, at)
                    if more is not None:
                        return events, more if more >= 0 else None

    def _message(self, cursor: Cursor, literal: tuple[bool, int] | None, events: list[AppendEvent]) -> bool:
        """Whether the text has been read to its end."""
        if self.replace is not None and self._within is _Within.MESSAGES:
            raise ParseError("Extra arguments.")
        if cursor.at >= len(cursor.text):
            raise ParseError("Missing message literal.")
        cursor.space()
        flags, date = _flags_and_date(cursor)
        utf8 = catenate = False
        if cursor.text[cursor.at : cursor.at + 6].upper() == b"UTF8 (":
            cursor.at += 6
            utf8 = True
        elif cursor.text[cursor.at : cursor.at + 10].upper() == b"CATENATE (":
            cursor.at += 10
            catenate = True
        binary, size = literal if literal is not None and not catenate else (False, 0)
        if not catenate and cursor.at < len(cursor.text):
            raise ParseError("Invalid arguments.")
        if not catenate and (literal is None or utf8 > binary):
            raise ParseError("Missing message literal.")
        replace = self.replace
        events.append(
            AppendMessage(self.tag, self.mailbox, flags, date, size, binary, utf8, catenate, replace)
        )
        self._parts = 0
        self._within = _Within.CATENATE if catenate else _Within.UTF8 if utf8 else _Within.MESSAGES
        return not catenate

    def _part(
        self, cursor: Cursor, literal: tuple[bool, int] | None, events: list[AppendEvent], at: int
    ) -> int | None:
        """One part. None: go on; -1: the text has been read to its end; else where to go on from."""
        if self._parts >= PARTS_MAX:
            raise ParseError("Too many parts.")
        name = cursor.word()
        cursor.space()
        if name == "TEXT":
            if literal is None or cursor.at < len(cursor.text):
                raise ParseError("Missing message literal.")
            events.append(AppendText(self.tag, literal[1]))
        elif name == "URL":
            if cursor.at >= len(cursor.text) and literal is not None:
                return at
            events.append(AppendUrl(self.tag, cursor.astring().decode("utf-8", "replace")))
        else:
            raise ParseError("Invalid CATENATE part.")
        self._parts += 1
        self._within = _Within.PARTS
        return -1 if name == "TEXT" else None


def _rest(cursor: Cursor) -> bytes:
    return cursor.text[cursor.at :].strip(b" ")


def _flags_and_date(cursor: Cursor) -> tuple[tuple[str, ...], int | None]:
    """`[(flags) SP] [date SP]`."""
    flags: tuple[str, ...] = ()
    date = None
    if cursor.peek() == b"(":
        flags = cursor.flag_list()
        cursor.space()
    if cursor.peek() == b'"':
        try:
            date = parse_date_time(cursor.string().decode("ascii", "replace"))
        except ValueError:
            raise ParseError("Invalid internal date.") from None
        cursor.space()
    return flags, date
