"""Message content between DATA and the dot, or in BDAT chunks, in bulk (RFC 5321 §4.5.2, RFC 3030 §2).

What comes out of `ContentReader` holds CRLF and no other CR or LF, however the octets were cut into segments:

- only `<CR><LF>.<CR><LF>` ends the content, so nobody smuggles a second message past us (CVE-2023-51764);
- a bare LF counts as an end of line and becomes CRLF, and a line of one dot beside a bare LF is dropped, as
  Postfix does with `smtpd_forbid_bare_newline = normalize`;
- a bare CR becomes a space, as with `cleanup_replace_stray_cr_lf = yes`.

Lines may be of any length; the size is bounded by the caller's limit.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

_END = b"\r\n.\r\n"
_BARE_LF = re.compile(rb"(?<!\r)\n")
_BARE_CR = re.compile(rb"\r(?!\n)")
_HELD = re.compile(rb"(?:\r?\n(?:\.\r?)?|\r)\Z")
"""The end of a segment that cannot be judged before more has come."""


class ContentReader:
    """Takes the octets after `354` and gives the content, dots unstuffed."""

    __slots__ = ("_first", "_held", "bare_newline", "limit", "size", "too_big")

    def __init__(self, limit: int = 0) -> None:
        self.limit = limit
        self.size = 0
        """Octets of content so far, line ends counted as two."""
        self.too_big = False
        """More than `limit` octets (0: no limit) have come; the rest is read and thrown away."""
        self.bare_newline = False
        """A bare LF or CR has been seen and normalised."""
        # The first line stands behind a CRLF that was not sent as content, so `.CRLF` at once is the end.
        self._held = b"\r\n"
        self._first = True

    def feed(self, data: bytes) -> tuple[bytes, int]:
        """Content, and how many octets of `data` belong to it: -1 while the end has not been seen."""
        held = self._held
        buffer = held + data
        end = buffer.find(_END)
        if end >= 0:
            used = end + len(_END) - len(held)
            return self._emit(buffer[: end + 2]), used
        # Everything but a possible beginning of the end mark.
        tail = _HELD.search(buffer, max(0, len(buffer) - 4))
        if tail is None:
            self._held = b""
            return self._emit(buffer), -1
        self._held = tail[0]
        return self._emit(buffer[: tail.start()], newline_follows=b"\n" in tail[0]), -1

    def _emit(self, piece: bytes, *, newline_follows: bool = False) -> bytes:
        if not piece:
            return b""
        newlines = piece.count(b"\n")
        if (
            newlines != piece.count(b"\r\n")
            or newlines != piece.count(b"\r")
            or (newline_follows and piece.endswith(_END[:3]))
        ):
            piece = self._normalise(piece, newline_follows)
        if b"\r\n." in piece:
            piece = piece.replace(b"\r\n.", b"\r\n")
        if self._first and piece:
            piece = piece[2:]
            self._first = False
        self.size += len(piece)
        if self.limit and self.size > self.limit:
            self.too_big = True
        return b"" if self.too_big else piece

    def _normalise(self, piece: bytes, newline_follows: bool) -> bytes:
        self.bare_newline = True
        piece = _BARE_LF.sub(b"\r\n", _BARE_CR.sub(b" ", piece))
        while _END in piece:
            piece = piece.replace(_END, b"\r\n")
        while newline_follows and piece.endswith(_END[:3]):
            piece = piece[:-3]
        return piece


class ChunkReader:
    """Takes the octets of BDAT chunks (RFC 3030) and gives the content, line ends as `ContentReader` does.

    Dots mean nothing here. A line may be cut in two by the border of two chunks; the content's last line gets
    its CRLF where the client sent none.
    """

    __slots__ = ("_held", "_open", "bare_newline", "limit", "size", "too_big")

    def __init__(self, limit: int = 0) -> None:
        self.limit = limit
        self.size = 0
        self.too_big = False
        self.bare_newline = False
        self._held = b""
        self._open = False
        """The last line has no end yet."""

    def feed(self, data: bytes, *, last: bool) -> bytes:
        """Content; `last`: no more will come."""
        if self._held:
            data = self._held + data
            self._held = b""
        if data[-1:] == b"\r" and not last:
            data, self._held = data[:-1], b"\r"
        newlines = data.count(b"\n")
        if newlines != data.count(b"\r\n") or newlines != data.count(b"\r"):
            self.bare_newline = True
            data = _BARE_LF.sub(b"\r\n", _BARE_CR.sub(b" ", data))
        if data:
            self._open = data[-1] != 10
        if last and self._open:
            data += b"\r\n"
        self.size += len(data)
        if self.limit and self.size > self.limit:
            self.too_big = True
        return b"" if self.too_big else data


def stuff(parts: Iterable[bytes]) -> Iterator[bytes]:
    """Content as it goes on the wire: dots stuffed, a CRLF at the end made sure of, the end mark added.

    `parts` hold lines that end in CRLF, cut anywhere.
    """
    before = b"\r\n"
    """The last two octets sent."""
    for part in parts:
        if not part:
            continue
        # A CRLF that is cut in two by the parts' border, or stands just before it, still starts a line.
        if before == b"\r\n":
            if part[0] == 0x2E:
                yield b"."
        elif before[-1:] == b"\r" and part[:2] == b"\n.":
            yield b"\n."
            part = part[1:]
        yield part.replace(b"\r\n.", b"\r\n..") if b"\r\n." in part else part
        before = part[-2:] if len(part) > 1 else before[-1:] + part
    yield b".\r\n" if before == b"\r\n" else _END
