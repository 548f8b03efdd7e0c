"""Reading the arguments of one command: a cursor over its text, with the literals beside it.

The framing in `server` and `client` has already taken the literals out: each stands in the text as one NUL,
which cannot occur there otherwise (RFC 3501 §9). A wrong argument raises `ParseError`, whose text goes into
the BAD reply.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from mailstack.wire.imap import utf7
from mailstack.wire.imap.sequence import SAVED, SequenceSet, parse_set

LITERAL = 0
"""The octet that stands for a literal."""

_ATOM = re.compile(rb"[^\x00-\x20\x7f-\xff(){%*\"\\\]]+")
_ASTRING = re.compile(rb"[^\x00-\x20\x7f-\xff(){%*\"\\]+")
_LIST = re.compile(rb"[^\x00-\x20\x7f-\xff(){\"\\]+")
_QUOTED = re.compile(rb'"((?:[^"\\\r\n\x00]|\\["\\])*)"')
_NUMBER = re.compile(rb"[0-9]+")
_FLAG = re.compile(rb"\\?[^\x00-\x20\x7f-\xff(){%*\"\\\]]+")
_SET = re.compile(rb"[0-9*:,]+")
_BLANKS_MAY_FOLLOW = b" ("
_ESCAPE = re.compile(rb"\\(.)")


class ParseError(Exception):
    """An argument that is missing or wrong."""


class Cursor:
    """A position in a command's arguments. Methods read one thing and step behind it."""

    __slots__ = ("_literals", "at", "text", "utf8")

    def __init__(self, text: bytes, literals: Sequence[bytes] = (), *, utf8: bool = False) -> None:
        """`utf8`: mailbox names are in UTF-8 (RFC 6855 §3), not in modified UTF-7."""
        self.text = text
        self.at = 0
        self.utf8 = utf8
        self._literals = iter(literals)

    # ---- punctuation

    def peek(self) -> bytes:
        """The next octet; empty at the end."""
        return self.text[self.at : self.at + 1]

    def take(self, octets: bytes) -> bool:
        """Step over exactly these octets if they come next; over blanks behind a space or a parenthesis too,
        as Dovecot does."""
        if self.text.startswith(octets, self.at):
            self.at += len(octets)
            if octets[-1] in _BLANKS_MAY_FOLLOW:
                while self.text.startswith(b" ", self.at):
                    self.at += 1
            return True
        return False

    def expect(self, octets: bytes, what: str = "Invalid arguments.") -> None:
        if not self.take(octets):
            raise ParseError(what)

    def space(self) -> None:
        """At least one space."""
        self.expect(b" ", "Missing arguments." if self.at >= len(self.text) else "Invalid arguments.")

    def end(self) -> None:
        """Nothing but blanks may follow."""
        if self.text[self.at :].strip(b" "):
            raise ParseError("Too many arguments.")

    # ---- tokens

    def _match(self, pattern: re.Pattern[bytes], what: str) -> bytes:
        found = pattern.match(self.text, self.at)
        if found is None:
            raise ParseError(what)
        self.at = found.end()
        return found[0]

    def atom(self, what: str = "Invalid arguments.") -> bytes:
        return self._match(_ATOM, what)

    def word(self) -> str:
        """An atom as an upper-case keyword."""
        return self.atom().decode("ascii").upper()

    def number(self) -> int:
        """0..2^63-1."""
        digits = self._match(_NUMBER, "Invalid number.")
        if len(digits) > 19 or (value := int(digits)) >= 1 << 63:
            raise ParseError("Number is too large.")
        return value

    def is_string(self) -> bool:
        """Whether a quoted string or literal comes next."""
        return self.peek() in (b'"', b"\0")

    def string(self) -> bytes:
        """A quoted string or a literal."""
        if self.take(b"\0"):
            return next(self._literals)
        found = _QUOTED.match(self.text, self.at)
        if found is None:
            raise ParseError("Missing '\"'" if self.peek() == b'"' else "Invalid arguments.")
        self.at = found.end()
        value = found[1]
        return _ESCAPE.sub(rb"\1", value) if b"\\" in value else value

    def astring(self) -> bytes:
        return self.string() if self.is_string() else self._match(_ASTRING, "Invalid arguments.")

    def nstring(self) -> bytes | None:
        if not self.is_string() and self.text[self.at : self.at + 3].upper() == b"NIL":
            self.at += 3
            return None
        return self.string()

    def mailbox(self) -> str:
        """A mailbox name, decoded. Every spelling of INBOX becomes `INBOX`.

        Raises `BadMailboxNameError`, when the command is well-formed but the name is not.
        """
        return decode_mailbox(self.astring(), utf8=self.utf8)

    def pattern(self) -> str:
        """A mailbox pattern of LIST and LSUB, decoded."""
        raw = self.string() if self.is_string() else self._match(_LIST, "Invalid arguments.")
        return decode_mailbox(raw, inbox=False, utf8=self.utf8)

    def flag(self) -> str:
        return self._match(_FLAG, "Invalid flag.").decode("ascii")

    def flag_list(self) -> tuple[str, ...]:
        """`(\\Seen $Forwarded)`."""
        self.expect(b"(", "Flags list is missing.")
        flags = []
        while not self.take(b")"):
            flags.append(self.flag())
            if not self.take(b" ") and self.peek() != b")":
                raise ParseError("Invalid flags list.")
        return tuple(flags)

    def sequence_set(self) -> SequenceSet:
        text = self._match(_SET, "Invalid messageset")
        try:
            return parse_set(text)
        except ValueError:
            raise ParseError("Invalid messageset") from None

    def message_set(self) -> SequenceSet:
        """A sequence set, or `$` (RFC 5182 §2)."""
        return SAVED if self.take(b"$") else self.sequence_set()


class BadMailboxNameError(Exception):
    """A name that is not modified UTF-7, or not UTF-8 where that is asked for: answered with NO."""


def decode_mailbox(raw: bytes, *, inbox: bool = True, utf8: bool = False) -> str:
    """A mailbox name from the wire. Raises `BadMailboxNameError`."""
    if inbox and raw.upper() == b"INBOX":
        return "INBOX"
    if utf8:
        try:
            name = raw.decode()
        except UnicodeDecodeError:
            raise BadMailboxNameError("Mailbox name is not valid UTF-8") from None
        if not name.isprintable():
            raise BadMailboxNameError("Mailbox name holds a control character")
        return unicodedata.normalize("NFC", name)
    try:
        return utf7.decode(raw)
    except ValueError:
        raise BadMailboxNameError("Mailbox name is not valid mUTF-7") from None
