"""Replies: one value for both ends (RFC 5321 §4.2, enhanced status codes of RFC 2034 and RFC 3463)."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import lru_cache

_ENHANCED = re.compile(r"([245]\.\d{1,3}\.\d{1,3})(?: |$)")


@dataclass(frozen=True, slots=True)
class Reply:
    """A status code, an enhanced status code (`""`: none) and text; `\\n` separates the lines of the text."""

    code: int
    enhanced: str
    text: str
    _wire: bytes = field(default=b"", init=False, repr=False, compare=False)
    """What `encode` has made: most replies are constants, and go out again and again."""

    @property
    def positive(self) -> bool:
        """2xx or 3xx."""
        return 200 <= self.code < 400

    @property
    def transient(self) -> bool:
        """4xx: trying again later may work."""
        return 400 <= self.code < 500

    @property
    def dsn(self) -> str:
        """The enhanced status code, or the code's class followed by `.0.0` where the peer gave none."""
        return self.enhanced or f"{self.code // 100}.0.0"

    def softened(self) -> Reply:
        """The same with 4xx in place of 5xx."""
        if not 500 <= self.code < 600:
            return self
        return Reply(self.code - 100, self.enhanced and "4" + self.enhanced[1:], self.text)

    def encode(self) -> bytes:
        """The reply on the wire; every line carries code and enhanced code."""
        if not self._wire:
            object.__setattr__(self, "_wire", self._encode())
        return self._wire

    def _encode(self) -> bytes:
        mark = f" {self.enhanced} " if self.enhanced else " "
        if "\n" not in self.text:
            return f"{self.code}{mark}{self.text}\r\n".encode("utf-8", "replace")
        lines = self.text.split("\n")
        last = lines.pop()
        head = "".join(f"{self.code}-{mark[1:]}{line}\r\n" for line in lines)
        return f"{head}{self.code}{mark}{last}\r\n".encode("utf-8", "replace")

    def __str__(self) -> str:
        """One line, as log lines and delivery reports quote it."""
        text = self.text.replace("\n", " ")
        return f"{self.code} {self.enhanced} {text}" if self.enhanced else f"{self.code} {text}"


def parse_reply(lines: list[bytes]) -> Reply:
    """Read the lines of one reply, their ends stripped. Raises `ValueError` on what is not a reply.

    Octets that are not UTF-8 become U+FFFD. The enhanced code is taken from the first line; where following
    lines repeat it, it is removed there too.
    """
    return _parse_line(lines[0]) if len(lines) == 1 else _parse(lines)


@lru_cache(maxsize=256)
def _parse_line(line: bytes) -> Reply:
    """A reply of one line: to most commands the same one, again and again."""
    return _parse([line])


def _parse(lines: list[bytes]) -> Reply:
    head = lines[0][:3]
    if len(head) != 3 or not head.isdigit() or not b"2" <= head[:1] <= b"5":
        raise ValueError(f"not a reply: {lines[0][:80]!r}")
    texts = []
    for line in lines:
        if line[:3] != head or line[3:4] not in (b"", b" ", b"-"):
            raise ValueError(f"not a line of a {head.decode()} reply: {line[:80]!r}")
        texts.append(line[4:].decode("utf-8", "replace"))
    enhanced = ""
    found = _ENHANCED.match(texts[0])
    if found and found[1][0] == _class_digit(head):
        enhanced = found[1]
        texts = [text[len(enhanced) + 1 :] if text.startswith(enhanced) else text for text in texts]
    return Reply(int(head), enhanced, "\n".join(texts))


def _class_digit(head: bytes) -> str:
    """The class digit that an enhanced code must share with the code it stands behind (RFC 2034 §4)."""
    return chr(head[0])
