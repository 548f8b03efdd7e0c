"""8-bit MIME for a server that takes seven bits: bodies become quoted-printable (RFC 6152 §3, RFC 2045 §6.7).

A part whose Content-Transfer-Encoding is 8bit or binary becomes quoted-printable; a multipart or message that
says so says 7bit. What does not declare its eight bits is left alone: nobody knows what they are.
"""

from __future__ import annotations

from binascii import b2a_qp
from collections.abc import Iterable, Iterator

from mailstack.wire.mime.scan import Encoding, Piece, Scanner

LONG = 64 * 1024
"""Octets of a line that are held until its end comes."""
_EIGHT = (Encoding.EIGHT, Encoding.BINARY)
_HEADER_NAME = b"content-transfer-encoding"


def downgrade(content: Iterable[bytes]) -> Iterator[bytes]:
    """A message's octets (CRLF line ends, in pieces of any size) as seven bits, in pieces.

    Header blocks are held until they are complete: their encoding header may come last.
    """
    scanner = Scanner()
    rest = b""
    headers: list[bytes] = []
    continued = False
    """`rest` goes on with a line of which a part has been given already."""
    for data in content:
        lines = (rest + data).split(b"\r\n")
        rest = lines.pop()
        out = b""
        if continued and lines:
            out, continued = _more(scanner, lines.pop(0)) + b"\r\n" * (scanner.state is Piece.BODY), False
        out += b"".join([_line(scanner, line, headers) for line in lines])
        if len(rest) > LONG:
            part, rest = rest[:-1], rest[-1:]
            out += _more(scanner, part) if continued else _begin(scanner, part, headers)
            out += _soft_break(scanner)
            continued = True
        if out:
            yield out
    if continued:
        yield _more(scanner, rest)
    elif rest:
        out = _line(scanner, rest, headers)
        yield out[:-2] if out.endswith(b"\r\n") else out
    tail = b"".join(_piece(scanner, piece, text, headers, None) for piece, text in scanner.finish())
    if headers or tail:
        yield tail + _headers(headers, None)


def _begin(scanner: Scanner, part: bytes, headers: list[bytes]) -> bytes:
    """What the beginning of a long line makes ready."""
    return _line(scanner, part, headers).removesuffix(b"\r\n")


def _more(scanner: Scanner, part: bytes) -> bytes:
    """A long line goes on."""
    pieces = scanner.more(part)
    if not pieces:
        return b""
    return _body(part, scanner.encoding, scanner.composite).removesuffix(b"\r\n")


def _soft_break(scanner: Scanner) -> bytes:
    """What may stand within a line: quoted-printable is broken there."""
    quoting = scanner.state is Piece.BODY and scanner.encoding in _EIGHT and not scanner.composite
    return b"=\r\n" if quoting else b""


def _line(scanner: Scanner, line: bytes, headers: list[bytes]) -> bytes:
    """What a line makes ready. A boundary belongs to no part, and a body line to the part before it."""
    inside = scanner.state is Piece.BODY
    encoding, composite = scanner.encoding, scanner.composite
    pieces = scanner.line(line)
    if not inside:
        # The headers that have just ended say how what follows is encoded, unless it is a message itself.
        found = _declared(headers, pieces)
        return b"".join(_piece(scanner, piece, text, headers, found) for piece, text in pieces)
    if scanner.state is not Piece.BODY or (line[:2] == b"--" and scanner.encoding is not encoding):
        return line + b"\r\n"
    return _body(line, encoding, composite)


def _piece(
    scanner: Scanner, piece: Piece, text: bytes, headers: list[bytes], declared: Encoding | None
) -> bytes:
    if piece is Piece.END:
        out = _headers(headers, declared)
        headers.clear()
        return out + b"\r\n"
    if piece is Piece.BODY:
        out = _headers(headers, declared)
        headers.clear()
        return out + _body(text, scanner.encoding, scanner.composite)
    headers.append(text)
    return b""


def _declared(headers: list[bytes], pieces: list[tuple[Piece, bytes]]) -> Encoding | None:
    block = headers + [text for piece, text in pieces if piece not in (Piece.END, Piece.BODY)]
    found = None
    for header in block:
        name, _, value = header.partition(b":")
        if name.strip().lower() == _HEADER_NAME:
            word = value.split(b";")[0].strip().lower()
            found = {b"8bit": Encoding.EIGHT, b"binary": Encoding.BINARY}.get(word)
    return found


def _headers(headers: list[bytes], declared: Encoding | None) -> bytes:
    """The block's headers; the encoding is told anew where it is none of seven bits."""
    if declared not in _EIGHT:
        return b"".join(header.replace(b"\n", b"\r\n") + b"\r\n" for header in headers)
    kept = [header for header in headers if header.partition(b":")[0].strip().lower() != _HEADER_NAME]
    composite = any(
        header[:13].lower() == b"content-type:"
        and header[13:].strip().lower().startswith((b"multipart/", b"message/"))
        for header in kept
    )
    kept.append(b"Content-Transfer-Encoding: " + (b"7bit" if composite else b"quoted-printable"))
    return b"".join(header.replace(b"\n", b"\r\n") + b"\r\n" for header in kept)


def _body(line: bytes, encoding: Encoding, composite: bool) -> bytes:
    if encoding not in _EIGHT or composite:
        return line + b"\r\n"
    return quoted_printable(line) + b"\r\n"


def quoted_printable(line: bytes) -> bytes:
    """One line in quoted-printable, in as many lines as it takes; no line end behind the last."""
    # It breaks lines with `=` and a newline; any other `=` is encoded.
    return b2a_qp(line).replace(b"=\n", b"=\r\n")
