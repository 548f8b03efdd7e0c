"""A message read line by line, its MIME parts as they begin and end: for who looks at mail on its way.

`Scanner.line` takes a line without its end and gives the pieces that are complete by it: a whole header
(`Piece.PRIMARY`, `MULTIPART`, `NESTED`: of the message, of a part, of a message in a message), the line that
ends a header block, a line of a body. Nothing is ever left out: the pieces' texts, a line end behind each,
are the message again, but for the empty line that is put in where a header block runs into its body, and what
of a header is over its limit.

`mailstack.wire.mime.structure` is for whole messages in memory; this one remembers one header at a time.
Standards: RFC 2045 §5 and §6, RFC 2046 §5.1 and §5.2.
"""

from __future__ import annotations

import re
from enum import Enum

from mailstack.wire.mime.params import find, parse_content_type

_HEADER = re.compile(rb"([!-9;-~]+)[ \t]*:")
HEADER_LIMIT = 102400
"""Octets of one header that are kept; what is beyond them is left out (header_size_limit)."""
NESTING_LIMIT = 100
"""Multiparts in multiparts that are understood; what is deeper is text (mime_nesting_limit)."""
BOUNDARY_LIMIT = 2048
"""Octets of a boundary that count (mime_boundary_length_limit)."""


class Piece(Enum):
    """What a piece of a message is."""

    PRIMARY = "primary"
    MULTIPART = "multipart"
    NESTED = "nested"
    END = "end"
    """The line behind a header block."""
    BODY = "body"


class Encoding(Enum):
    """What Content-Transfer-Encoding says that the octets of a part can be."""

    SEVEN = "7bit"
    EIGHT = "8bit"
    BINARY = "binary"
    CODED = "coded"
    """quoted-printable or base64: seven bits that stand for more."""


_ENCODINGS = {
    b"7bit": Encoding.SEVEN,
    b"8bit": Encoding.EIGHT,
    b"binary": Encoding.BINARY,
    b"quoted-printable": Encoding.CODED,
    b"base64": Encoding.CODED,
}


class Scanner:
    """Where we are in a message. `understand`: whether MIME structure is looked at at all."""

    __slots__ = (
        "_boundaries",
        "_boundary",
        "_boundary_limit",
        "_digest",
        "_header",
        "_header_limit",
        "_header_size",
        "_nesting_limit",
        "_understand",
        "content_type",
        "encoding",
        "nested_too_deep",
        "ran_on",
        "state",
        "subtype",
    )

    def __init__(
        self,
        *,
        understand: bool = True,
        header_limit: int = HEADER_LIMIT,
        nesting_limit: int = NESTING_LIMIT,
        boundary_limit: int = BOUNDARY_LIMIT,
    ) -> None:
        self._understand = understand
        self._header_limit = header_limit
        self._nesting_limit = nesting_limit
        self._boundary_limit = boundary_limit
        self._header: list[bytes] = []
        self._header_size = 0
        self._boundaries: list[tuple[bytes, bool]] = []
        self._boundary: bytes | None = None
        self._digest = False
        self.nested_too_deep = False
        self.ran_on = False
        """The last header block has run into its body: the empty line of its `END` was not there."""
        self.state = Piece.PRIMARY
        self._reset(Piece.PRIMARY)

    def _reset(self, state: Piece) -> None:
        self.state = state
        digest = state is Piece.MULTIPART and self._digest
        self.content_type, self.subtype = (b"message", b"rfc822") if digest else (b"text", b"plain")
        self.encoding = Encoding.SEVEN
        self._boundary = None

    @property
    def composite(self) -> bool:
        """The part that we are in is made of parts."""
        return self.content_type in (b"multipart", b"message")

    def line(self, line: bytes) -> list[tuple[Piece, bytes]]:
        """The pieces that this line (without its end) completes. A header has `\\n` between its lines."""
        state = self.state
        if state is Piece.BODY:
            if self._boundaries and line[:2] == b"--":
                self._find_boundary(line)
            return [(Piece.BODY, line)]
        if self._header and line[:1] in (b" ", b"\t"):
            if self._header_size < self._header_limit:
                self._header.append(line)
                self._header_size += len(line)
            return []
        pieces = self._flush()
        if _HEADER.match(line):
            self._header.append(line)
            self._header_size = len(line)
            return pieces
        self._headers_end()
        self.ran_on = bool(line)
        if not line:
            pieces.append((Piece.END, b""))
            return pieces
        if state is Piece.PRIMARY or line[:2] != b"--":
            pieces.append((Piece.END, b""))
        if self.state is not Piece.BODY:  # a message in a message that has no header
            return pieces + self.line(line)
        if self._boundaries and line[:2] == b"--":
            self._find_boundary(line)
        pieces.append((Piece.BODY, line))
        return pieces

    def more(self, part: bytes) -> list[tuple[Piece, bytes]]:
        """The line given last goes on: for lines that are too long to be held as a whole."""
        if not self._header:
            return [(Piece.BODY, part)]
        if self._header_size < self._header_limit:
            self._header[-1] += part
            self._header_size += len(part)
        return []

    def finish(self) -> list[tuple[Piece, bytes]]:
        """What is left when the message is over."""
        return self._flush()

    def _flush(self) -> list[tuple[Piece, bytes]]:
        if not self._header:
            return []
        header = b"\n".join(self._header)
        self._header.clear()
        if self._understand and header[:8].lower() == b"content-":
            self._content(header)
        return [(self.state, header)]

    def _content(self, header: bytes) -> None:
        name, _, value = header.partition(b":")
        name = name.strip().lower()
        if name == b"content-type":
            found = parse_content_type(value.replace(b"\n", b"").strip())
            self.content_type, self.subtype = found.type.lower(), found.subtype.lower()
            self._boundary = None
            if self.content_type == b"multipart":
                boundary = find(found.parameters, b"boundary")
                self._boundary = boundary[: self._boundary_limit] if boundary else None
        elif name == b"content-transfer-encoding":
            word = value.strip().split(None, 1)[0].rstrip(b";").lower() if value.strip() else b""
            self.encoding = _ENCODINGS.get(word, Encoding.SEVEN)

    def _headers_end(self) -> None:
        self.state = Piece.BODY
        if not self._understand:
            return
        if self.content_type == b"multipart" and self._boundary is not None:
            if len(self._boundaries) >= self._nesting_limit:
                self.nested_too_deep = True
                return
            self._digest = self.subtype == b"digest"
            self._boundaries.append((self._boundary, self._digest))
        elif (
            self.content_type == b"message"
            and self.subtype in (b"rfc822", b"global", b"external-body")
            and self.encoding is not Encoding.CODED
        ):
            self._reset(Piece.NESTED)

    def _find_boundary(self, line: bytes) -> None:
        for index in range(len(self._boundaries) - 1, -1, -1):
            boundary, digest = self._boundaries[index]
            if line.startswith(boundary, 2):
                closing = line.startswith(b"--", 2 + len(boundary))
                del self._boundaries[index if closing else index + 1 :]
                self._digest = digest
                self._reset(Piece.BODY if closing else Piece.MULTIPART)
                return
