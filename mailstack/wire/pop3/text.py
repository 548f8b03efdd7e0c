"""A message on its way to the client: CRLF line ends, dots stuffed, the dot at the end (RFC 1939 §3).

Both work on pieces cut anywhere, in bulk, and hold no more than two octets back.
"""

from __future__ import annotations

import re

_BLANK = re.compile(rb"\n\r?\n")


class Stuffer:
    """`feed` the file's octets (LF or CRLF), `end` gives the rest with the closing dot."""

    __slots__ = ("_cr", "_empty", "_start")

    def __init__(self) -> None:
        self._empty = True
        self._start = True
        self._cr = False

    def feed(self, data: bytes) -> bytes:
        """What to send for `data`; a CR at its end waits for the next piece."""
        if self._cr:
            data = b"\r" + data
            self._cr = False
        if not data:
            return b""
        if data[-1] == 0x0D:
            self._cr = True
            data = data[:-1]
            if not data:
                return b""
        if data.count(b"\n") != data.count(b"\r\n"):
            data = data.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
        if b"\n." in data:
            data = data.replace(b"\n.", b"\n..")
        if self._start and data[0] == 0x2E:
            data = b"." + data
        self._start = data[-1] == 0x0A
        self._empty = False
        return data

    def end(self) -> bytes:
        """The last line's end where it is missing, and the dot. Nothing at all is sent as an empty line."""
        tail = b"\r" if self._cr else b""
        if self._cr or self._empty or not self._start:
            tail += b"\r\n"
        return tail + b".\r\n"

    def end_of_header(self) -> bytes:
        """The same for a message that is all header: the empty line behind it comes first."""
        return self.end()[:-3] + b"\r\n.\r\n"


class Top:
    """Cuts a message after its header and `lines` lines of the body (RFC 1939 §7 TOP)."""

    __slots__ = ("_left", "_tail", "done")

    def __init__(self, lines: int) -> None:
        self._left = lines
        # The octets before the next piece that may begin the blank line; as if a line had just ended, so that
        # a message without a header is all body. None behind the header.
        self._tail: bytes | None = b"\n"
        self.done = False

    def feed(self, data: bytes) -> bytes:
        """The part of `data` that belongs to the answer; `done` once nothing more does."""
        if self.done:
            return b""
        if self._tail is None:
            return self._body(data)
        joined = self._tail + data
        found = _BLANK.search(joined)
        if found is None:
            self._tail = joined[-2:]
            return data
        head = found.end() - len(self._tail)
        self._tail = None
        return data[:head] + self._body(data[head:])

    def _body(self, data: bytes) -> bytes:
        position = 0
        while self._left:
            end = data.find(b"\n", position)
            if end < 0:
                return data
            position = end + 1
            self._left -= 1
        self.done = True
        return data[:position]
