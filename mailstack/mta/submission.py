"""The text that a program writes into sendmail(1): its lines, and the recipients in its header.

What comes out of `message_lines` holds CRLF and no other CR or LF, as content in the queue does: a line may
end in LF or CRLF, a CR elsewhere becomes a space (`cleanup_replace_stray_cr_lf`), the last line gets its end,
and `From ` lines of a mailbox file at the beginning are left out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from mailstack.mta.address_list import parse_list
from mailstack.wire.mime.headers import Field, fields, unfold

CHUNK = 64 * 1024
"""Octets read at once, and of a line that are held until its end comes."""
HEADER_LIMIT = 256 * 1024
"""Octets of a header that is searched for recipients: also what pickup cleans."""
_DOT = re.compile(rb"^\.\r?$", re.MULTILINE)
_FROM = re.compile(rb">*From ")
_STRAY = re.compile(rb"\r(?!\n)")
_HEADER_LINE = re.compile(rb"(?:[!-9;-~]+[ \t]*:|[ \t])")
_RECIPIENTS = frozenset((b"to", b"cc", b"bcc"))
_RESENT_RECIPIENTS = frozenset((b"resent-to", b"resent-cc", b"resent-bcc"))


def message_lines(read: Callable[[int], bytes], *, dot_ends: bool) -> Iterator[bytes]:
    """The message in pieces of whole lines, mostly; with `dot_ends`, a line with one dot is its end."""
    held = b""
    beginning = True
    continued = False
    """`held` goes on with a line whose first part has been given out."""
    while True:
        data = read(CHUNK)
        at_end = not data
        data = held + data
        cut = len(data) if at_end else data.rfind(b"\n") + 1
        if not cut and len(data) >= CHUNK:
            cut = len(data) - data.endswith(b"\r")
        data, held = data[:cut], data[cut:]
        if beginning:
            while _FROM.match(data):
                data = data[data.find(b"\n") + 1 or len(data) :]
            beginning = not data
        if data and dot_ends:
            dot = _DOT.search(data, data.find(b"\n") + 1 or len(data)) if continued else _DOT.search(data)
            if dot is not None:
                yield from _given(data[: dot.start()], final=True)
                return
        if data:
            continued = not data.endswith(b"\n")
            yield from _given(data, final=at_end)
        if at_end:
            return


def _given(data: bytes, *, final: bool) -> Iterator[bytes]:
    if not data:
        return
    if b"\r" in data:
        data = _STRAY.sub(b" ", data.replace(b"\r\n", b"\n"))
    if final and not data.endswith(b"\n"):
        data += b"\n"
    yield data.replace(b"\n", b"\r\n")


class Headers:
    """Collects a message's header as it goes by, for `sendmail -t`."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0
        self._done = False

    def add(self, piece: bytes) -> bool:
        """Take a piece of the message; False when its header is too long."""
        if self._done:
            return True
        self._parts.append(piece)
        self._size += len(piece)
        data = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._parts = [data]
        end = _header_end(data)
        if end is None:
            return self._size <= HEADER_LIMIT
        self._parts, self._done = [data[:end]], True
        return end <= HEADER_LIMIT

    def recipients(self) -> list[str]:
        """The addresses of Resent-To, -Cc and -Bcc; where there are none, those of To, Cc and Bcc."""
        found = list(fields(b"".join(self._parts)))
        return _addresses(found, _RESENT_RECIPIENTS) or _addresses(found, _RECIPIENTS)


def _addresses(found: list[Field], names: frozenset[bytes]) -> list[str]:
    return [
        address
        for field in found
        if field.name in names
        for address in parse_list(unfold(field.value).decode("utf-8", "surrogateescape"))
    ]


def _header_end(data: bytes) -> int | None:
    """Where the header of CRLF lines ends: at the first line that cannot be part of one."""
    position = 0
    while position < len(data):
        line_end = data.find(b"\n", position)
        if line_end < 0:
            return None
        if not _HEADER_LINE.match(data, position):
            return position
        position = line_end + 1
    return None
