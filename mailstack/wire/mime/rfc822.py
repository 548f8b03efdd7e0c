"""The lexer of structured fields (RFC 5322 §3.2, RFC 2045 §5.1), forgiving in the way Dovecot's is.

A method reads one token and the blanks and comments behind it. It returns `MORE` when something follows,
`END` at the end of the value, `BAD` when the token is not there or broken.
"""

from __future__ import annotations

import re

MORE, END, BAD = 1, 0, -1

_ATEXT = re.compile(rb"[A-Za-z0-9!#$%&'*+\-/=?^_`{|}~\x80-\xff]+")
_ATEXT_OR_DOT = re.compile(rb"[A-Za-z0-9!#$%&'*+\-/=?^_`{|}~.\x80-\xff]*")
_MIME_TOKEN = re.compile(rb"[A-Za-z0-9!#$%&'*+\-^_`{|}~.\x80-\xff]*")
_BLANKS = re.compile(rb"[ \t\r\n]*")
_QUOTED_RUN = re.compile(rb'[^"\\\r\n]*')
_LITERAL_RUN = re.compile(rb"[^\[\]\\\r\n]*")
_COMMENT_RUN = re.compile(rb"[^()\\]*")


class Lexer:
    """A position in a field's value. `comment` is the text of the last comment that was passed."""

    __slots__ = ("at", "comment", "data")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0
        self.comment = b""

    @property
    def ended(self) -> bool:
        return self.at >= len(self.data)

    def next_is(self, octets: bytes) -> bool:
        """Whether one of these octets comes next."""
        return self.at < len(self.data) and self.data[self.at] in octets

    def blanks(self) -> int:
        """Skip blanks and comments."""
        if self.at < len(self.data) and self.data[self.at] not in b" \t\r\n(":
            return MORE
        while True:
            found = _BLANKS.match(self.data, self.at)
            self.at = found.end() if found else self.at
            if not self.next_is(b"("):
                return MORE if self.at < len(self.data) else END
            if not self._comment():
                return BAD

    def _comment(self) -> bool:
        self.at += 1
        level = 1
        parts: list[bytes] = []
        while self.at < len(self.data):
            found = _COMMENT_RUN.match(self.data, self.at)
            if found:
                parts.append(found[0])
                self.at = found.end()
            char = self.data[self.at : self.at + 1]
            self.at += 1
            if char == b"(":
                level += 1
                parts.append(char)
            elif char == b")":
                level -= 1
                if not level:
                    self.comment = b"".join(parts)
                    return True
                parts.append(char)
            elif char:
                parts.append(self.data[self.at : self.at + 1])
                self.at += 1
        return False

    def quoted(self, out: list[bytes]) -> int:
        """`"…"`; the value goes to `out` without quotes and backslashes; the end of one without an end does
        not."""
        self.at += 1
        while True:
            found = _QUOTED_RUN.match(self.data, self.at)
            run = found[0] if found else b""
            self.at += len(run)
            char = self.data[self.at : self.at + 1]
            self.at += 1
            if not char:
                return BAD
            out.append(run)
            if char == b'"':
                return self.blanks()
            if char == b"\\":
                if self.ended:
                    return BAD
                out.append(self.data[self.at : self.at + 1])
                self.at += 1

    def dot_atom(self, out: list[bytes]) -> int:
        """`a.b.c`, also with blanks around the dots."""
        found = _ATEXT.match(self.data, self.at)
        if found is None:
            return BAD
        while True:
            if found is not None:
                out.append(found[0])
                self.at = found.end()
            result = self.blanks()
            if result != MORE:
                return result
            if not self.next_is(b"."):
                return MORE
            self.at += 1
            out.append(b".")
            if self.blanks() != MORE:
                return BAD
            found = _ATEXT.match(self.data, self.at)

    def atom(self, out: list[bytes]) -> int:
        """A word without dots."""
        found = _ATEXT.match(self.data, self.at)
        if found is None:
            return BAD
        out.append(found[0])
        self.at = found.end()
        return self.blanks()

    def phrase(self, out: list[bytes]) -> int:
        """Words with single blanks between them; dots are taken as letters."""
        if self.ended:
            return END
        if self.next_is(b"."):
            return BAD
        while True:
            if self.next_is(b'"'):
                result = self.quoted(out)
            else:
                found = _ATEXT_OR_DOT.match(self.data, self.at)
                if found:
                    out.append(found[0])
                    self.at = found.end()
                result = self.blanks()
            if result != MORE:
                return result
            if not (self.next_is(b'".') or _ATEXT.match(self.data, self.at)):
                return self.blanks()
            out.append(b" ")

    def domain(self, out: list[bytes]) -> int:
        """`@domain`, standing on the `@`."""
        self.at += 1
        if self.blanks() != MORE:
            return BAD
        return self._domain_literal(out) if self.next_is(b"[") else self.dot_atom(out)

    def _domain_literal(self, out: list[bytes]) -> int:
        out.append(b"[")
        self.at += 1
        while True:
            found = _LITERAL_RUN.match(self.data, self.at)
            if found:
                out.append(found[0])
                self.at = found.end()
            char = self.data[self.at : self.at + 1]
            self.at += 1
            if char == b"]":
                out.append(b"]")
                return self.blanks()
            if char in (b"", b"["):
                return BAD
            if char == b"\\":
                out.append(self.data[self.at : self.at + 1])
                self.at += 1

    def mime_token(self, out: list[bytes]) -> int:
        """A token of RFC 2045; may be empty."""
        found = _MIME_TOKEN.match(self.data, self.at)
        if found:
            out.append(found[0])
            self.at = found.end()
        return END if self.ended else self.blanks()
