"""Content without its transfer encoding (RFC 3516), and content of any octets made fit for storing.

All in pieces: neither a part nor what it becomes is ever held whole. Line ends are as on the wire.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterator

from mailstack.wire.mime.lines import PIECE, WINDOW, Data, release, wire, wire_pieces
from mailstack.wire.mime.params import parse_token
from mailstack.wire.mime.scan import Encoding, Piece, Scanner
from mailstack.wire.mime.structure import PARTS_MAX, Part

_BLANKS = b" \t\r\n"
_LINE_BASE64 = 57 * 1024
"""Octets that become whole lines of base64."""
_TRAILING = re.compile(rb"(?<![ \t])[ \t]++(?=\r\n)")
_NOT_HEX = re.compile(rb"=(?![0-9A-Fa-f]{2})")
_HEADER_MAX = 1 << 19
_FIELDS_MAX = 10_000
"""Octets (each line with `_LINE_COST`) and fields of a header that is looked at before it is stored; a
message with more stays as it is."""
_LINE_COST = 48
"""Octets that a line takes in memory besides its own: a header may be all line ends."""
_RUN_MAX = 1000
"""Blanks that are waited behind for a line's end."""
_PLAIN = frozenset({b"", b"7bit", b"8bit", b"binary"})
_CODED = frozenset({b"base64", b"quoted-printable"})
_NO_ENCODING = re.compile(rb"(?im)^content-transfer-encoding[ \t]*:[^\n]*\n(?:[ \t][^\n]*\n?)*")


class UnknownEncodingError(Exception):
    """A Content-Transfer-Encoding that is none of RFC 2045's."""


class DamagedError(Exception):
    """Content that is not what its encoding says."""


def encoding_of(part: Part) -> bytes:
    """The part's Content-Transfer-Encoding in lower case, empty without one."""
    value = part.field(b"content-transfer-encoding") or b""
    if b"(" in value:
        return parse_token(value).lower()
    return value.partition(b";")[0].strip().lower()


def is_coded(part: Part) -> bool:
    """Whether decoding the part's content changes it. Raises `UnknownEncodingError`."""
    encoding = encoding_of(part)
    if encoding in _CODED:
        return part.end > part.body
    if encoding not in _PLAIN:
        raise UnknownEncodingError(encoding)
    return False


def leaves(part: Part) -> Iterator[Part]:
    """The parts in it that hold content, in order."""
    stack = [part]
    while stack:
        item = stack.pop()
        if item.children:
            stack.extend(reversed(item.children))
        elif not item.kind:
            yield item


def decoded(part: Part, data: Data, *, header: bool = False) -> Iterator[bytes]:
    """The content of a part and of all in it without transfer encodings; with its own `header` before it.

    A header within says `binary` for what has been decoded. Raises `UnknownEncodingError`, `DamagedError`.
    """
    if not part.children and not header:
        yield from _decoded(part, data)
        return
    at = part.start if header else part.body
    for leaf in leaves(part):
        if is_coded(leaf):
            yield from wire_pieces(data, at, leaf.start)
            yield _binary_header(data[leaf.start : leaf.body])
            yield from _decoded(leaf, data)
            at = leaf.end
    yield from wire_pieces(data, at, part.end)


def _binary_header(header: bytes) -> bytes:
    header = wire(_NO_ENCODING.sub(b"", header))
    ended = header == b"\r\n" or header.endswith(b"\r\n\r\n")
    head = header[:-2] if ended else header
    return head + b"Content-Transfer-Encoding: binary\r\n\r\n"


def _decoded(part: Part, data: Data) -> Iterator[bytes]:
    coded = is_coded(part)
    if not coded:
        return wire_pieces(data, part.body, part.end)
    if encoding_of(part) == b"base64":
        return _base64(data, part.body, part.end)
    return _quoted(wire_pieces(data, part.body, part.end))


def _base64(data: Data, start: int, end: int) -> Iterator[bytes]:
    held = b""
    ended = False
    for at in range(start, end, PIECE):
        if at % WINDOW < PIECE:
            release(data)
        text = held + data[at : min(at + PIECE, end)].translate(None, _BLANKS)
        if ended and text:
            raise DamagedError
        whole = len(text) & ~3
        held = text[whole:]
        ended = text.endswith(b"=", 0, whole)
        try:
            yield binascii.a2b_base64(text[:whole], strict_mode=True)
        except binascii.Error:
            raise DamagedError from None
    if held:
        raise DamagedError


def _quoted(pieces: Iterator[bytes]) -> Iterator[bytes]:
    held = b""
    for piece in pieces:
        text = held + piece
        keep = _unsure(text)
        held = text[keep:]
        yield _quoted_run(text[:keep])
    if held:
        # What has no line end gets one, so that a `=` at the very end is a soft line break.
        whole = held.endswith(b"\n")
        text = _quoted_run(held if whole else held + b"\r\n")
        yield text if whole or not text.endswith(b"\r\n") else text[:-2]


def _unsure(text: bytes) -> int:
    """From where on it depends on what follows: blanks, a line end and `=XX` that may go on."""
    end = len(text)
    at = end - text.endswith(b"\r")
    floor = max(0, at - _RUN_MAX)
    while at > floor and text[at - 1] in b" \t":
        at -= 1
    mark = text.rfind(b"=", max(0, at - 2), at)
    return mark if mark >= 0 else at


def _quoted_run(text: bytes) -> bytes:
    if b" \r" in text or b"\t\r" in text:
        text = _TRAILING.sub(b"", text)
    if b"=" not in text:
        return text
    text = text.replace(b"=\r\n", b"")
    if _NOT_HEX.search(text):
        raise DamagedError
    return binascii.a2b_qp(text)


class Storable:
    """A message of any octets (RFC 3516 §4.4), on its way to where line ends are not kept as they are.

    Content that says it is `binary` comes out as base64. `add` and `finish` return what is complete.
    """

    __slots__ = (
        *("_as_it_is", "_begun", "_content", "_header", "_header_size", "_headers", "_held", "_line"),
        "_scanner",
    )

    def __init__(self) -> None:
        self._scanner = Scanner(header_limit=2 * _HEADER_MAX)
        self._header_size = 0
        self._headers = 0
        self._as_it_is = False
        self._held = b""
        self._begun = False
        self._header: list[bytes] = []
        self._content: bytearray | None = None
        self._line = b""

    def add(self, data: bytes) -> bytes:
        """Take the next octets."""
        if self._gave_up():
            return data
        out: list[bytes] = []
        text = self._held + data
        at = 0
        if self._scanner.state is Piece.BODY and self._content is None and not self._begun:
            # Only a line that may be a boundary matters.
            mark = 0 if text.startswith(b"--") else text.find(b"\n--") + 1
            at = mark if mark or text.startswith(b"--") else text.rfind(b"\n") + 1
            out.append(text[:at])
        while (end := text.find(b"\n", at)) >= 0:
            self._end_line(text[at:end], b"\n", out)
            at = end + 1
            if self._gave_up():
                out.append(text[at:])
                self._held = b""
                return b"".join(out)
        self._held = text[at:]
        if len(self._held) > PIECE:
            # A line without an end: all but a CR, which may belong to one.
            keep = len(self._held) - self._held.endswith(b"\r")
            self._part_of_line(self._held[:keep], out)
            self._held = self._held[keep:]
            if self._gave_up():
                out.append(self._held)
                self._held, self._begun = b"", False
        return b"".join(out)

    def finish(self) -> bytes:
        """The message is over."""
        out: list[bytes] = []
        if self._held or self._begun:
            self._end_line(self._held, b"", out)
        out += self._fields(self._scanner.finish())
        if self._header:
            out += self._header
            self._header = []
        self._flush(out, last=True)
        return b"".join(out)

    def _part_of_line(self, text: bytes, out: list[bytes]) -> None:
        if self._begun:
            pieces = self._scanner.more(text)
            if pieces:
                self._take(text, out)
        else:
            self._begun = True
            self._whole(text, b"", out)
        self._count(text, out)
        if self._gave_up():
            out[-1] = out[-1][:-2]  # the line goes on

    def _end_line(self, text: bytes, end: bytes, out: list[bytes]) -> None:
        if self._begun:
            self._begun = False
            if self._scanner.more(text.removesuffix(b"\r")):
                self._take(text + end, out)
        else:
            self._whole(text, end, out)
        self._count(text, out)

    def _gave_up(self) -> bool:
        return self._as_it_is

    def _count(self, text: bytes, out: list[bytes]) -> None:
        """Give up where a header does not end, or there are too many."""
        if self._scanner.state is Piece.BODY:
            self._header_size = 0
            self._as_it_is = self._headers > PARTS_MAX and self._content is None and not self._begun
            return
        self._header_size += len(text) + _LINE_COST
        if self._header_size > _HEADER_MAX or len(self._header) > _FIELDS_MAX:
            out += self._fields(self._scanner.finish())
            self._header = []
            self._as_it_is = True

    def _whole(self, text: bytes, end: bytes, out: list[bytes]) -> None:
        """A line from its beginning."""
        scanner = self._scanner
        inside = self._content
        pieces = scanner.line(text.removesuffix(b"\r") if end else text)
        if inside is not None:
            if scanner.state is Piece.BODY and scanner.encoding is Encoding.BINARY:
                self._take(text + end, out)
                return
            self._flush(out, last=True)  # a boundary: the line end before it is part of it
        for kind, piece in pieces:
            if kind is Piece.END:
                self._header_over(out, empty=not scanner.ran_on)
            elif kind is Piece.BODY:
                self._take(text + end, out)
            else:
                self._header.append(piece.replace(b"\n", b"\r\n") + b"\r\n")

    def _fields(self, pieces: list[tuple[Piece, bytes]]) -> list[bytes]:
        return [*self._header, *(piece.replace(b"\n", b"\r\n") + b"\r\n" for _, piece in pieces)]

    def _header_over(self, out: list[bytes], *, empty: bool) -> None:
        scanner = self._scanner
        self._headers += 1
        if scanner.state is Piece.BODY and scanner.encoding is Encoding.BINARY and not scanner.composite:
            out += [field for field in self._header if not _NO_ENCODING.match(field)]
            out.append(b"Content-Transfer-Encoding: base64\r\n\r\n")
            self._content = bytearray()
        else:
            out += self._header
            if empty:
                out.append(b"\r\n")
        self._header = []

    def _take(self, octets: bytes, out: list[bytes]) -> None:
        if self._content is None:
            out.append(octets)
            return
        self._content += octets
        self._flush(out)

    def _flush(self, out: list[bytes], *, last: bool = False) -> None:
        """Encode what has come; the last line end is kept back, as it may belong to a boundary."""
        content = self._content
        if content is None:
            return
        line_end = b""
        if last:
            self._content = None
            if self._scanner.state is not Piece.BODY or self._scanner.encoding is not Encoding.BINARY:
                line_end = b"\r\n" if content.endswith(b"\r\n") else b"\n" if content.endswith(b"\n") else b""
                del content[len(content) - len(line_end) :]
            count = len(content)
        else:
            count = (len(content) - 2) // _LINE_BASE64 * _LINE_BASE64
        lines = (content[at : min(at + 57, count)] for at in range(0, count, 57))
        out += [binascii.b2a_base64(line, newline=False) + b"\r\n" for line in lines]
        if last:
            if line_end and not count:
                out.append(line_end)
        elif count > 0:
            del content[:count]
