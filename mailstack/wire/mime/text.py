"""What a reader sees of a message, for searching: encoded words, transfer encodings, charsets.

Nothing raises: what cannot be decoded is replaced or taken as it stands.
"""

from __future__ import annotations

import binascii
import codecs
import mmap
import re
import unicodedata
from collections.abc import Iterator

from mailstack.wire.mime.address import parse_addresses
from mailstack.wire.mime.lines import Data, release
from mailstack.wire.mime.params import find, parse_token
from mailstack.wire.mime.structure import Part

_WORD = re.compile(rb"=\?([^?*]{1,60})(?:\*[^?]*)?\?([bBqQ])\?([^?]*)\?=")
_BETWEEN = re.compile(rb"(\?=)[ \t\r\n]+(?==\?[^?]{1,60}\?[bBqQ]\?[^?]*\?=)")
_BLANKS = re.compile(rb"[ \t\r\n]+")
_HEX = re.compile(rb"=([0-9A-Fa-f]{2})")
_SOFT_BREAK = re.compile(rb"=[ \t]*\r?\n")
_NOT_BASE64 = re.compile(rb"[^A-Za-z0-9+/]+")
_ODD_QUOTED = (b"= ", b"=\t", b"==", b"=\r")
"""Before these the standard library's decoder is of another opinion."""
FIELD_PIECE = 1 << 14
"""Octets of a field's value that are decoded at once: each word takes many times its size meanwhile."""
TEXT_PIECE = 1 << 16
"""Octets of a part that are decoded at once."""
_ATOM = re.compile(rb"[A-Za-z0-9!#$%&'*+\-/=?^_`{|}~]*")
_DOTTED = re.compile(rb"[A-Za-z0-9!#$%&'*+\-/=?^_`{|}~.]*")
_SLOW_CODECS = frozenset({"idna", "punycode", "undefined", "unicode-escape", "raw-unicode-escape"})


def charset_text(data: bytes, charset: str) -> str:
    """Octets in a charset as text; an unknown charset is read as UTF-8."""
    try:
        info = codecs.lookup(charset[:60])
        if info.name.replace("_", "-") in _SLOW_CODECS:
            raise LookupError(charset)
        return data.decode(info.name, "replace")
    except (LookupError, ValueError, TypeError):
        return data.decode("utf-8", "replace")


def knows_charset(charset: str) -> bool:
    """Whether text in this charset can be searched for."""
    try:
        b"".decode(codecs.lookup(charset).name)
    except (LookupError, ValueError):
        return False
    return True


def decode_header(value: bytes) -> str:
    """A field's value with its encoded words (RFC 2047) decoded."""
    if b"=?" not in value:
        return value.decode("utf-8", "replace")
    return "".join(map(_decode_words, _between_words(value)))


def _between_words(value: bytes) -> Iterator[bytes]:
    """A field's value, a large one in pieces that end with an encoded word."""
    at = 0
    while len(value) - at > FIELD_PIECE and (word := _WORD.search(value, at + FIELD_PIECE)):
        yield value[at : word.end()]
        at = word.end()
        blanks = _BLANKS.match(value, at)
        if blanks and _WORD.match(value, blanks.end()):
            at = blanks.end()
    yield value[at:]


def _decode_words(value: bytes) -> str:
    value = _BETWEEN.sub(rb"\1", value)
    out: list[str] = []
    at = 0
    for found in _WORD.finditer(value):
        out.append(value[at : found.start()].decode("utf-8", "replace"))
        text = found[3]
        raw = decode_base64(text) if found[2] in b"bB" else decode_quoted(text.replace(b"_", b" "))
        out.append(charset_text(raw, found[1].decode("ascii", "replace")))
        at = found.end()
    out.append(value[at:].decode("utf-8", "replace"))
    return "".join(out)


def decode_base64(data: bytes) -> bytes:
    """Base64, as far as it goes; anything that is not of its alphabet is passed over, padding begins anew."""
    return b"".join(map(_base64_run, data.split(b"=")))


def _base64_run(data: bytes) -> bytes:
    data = _NOT_BASE64.sub(b"", data)
    left = len(data) % 4
    if left == 1:
        data = data[:-1]
    elif left:
        data += b"=" * (4 - left)
    return binascii.a2b_base64(data)


def decode_quoted(data: bytes) -> bytes:
    """Quoted-printable; a `=` that begins nothing stays."""
    if b"=" not in data:
        return data
    if not any(odd in data for odd in _ODD_QUOTED):
        return binascii.a2b_qp(data)
    return _HEX.sub(lambda found: bytes((int(found[1], 16),)), _SOFT_BREAK.sub(b"", data))


def part_text(part: Part, data: Data) -> str:
    """The text of a leaf part, decoded."""
    return "".join(part_pieces(part, data, part.end - part.body))


def part_pieces(part: Part, data: Data, size: int = TEXT_PIECE) -> Iterator[str]:
    """The text of a leaf part, decoded, made of some `size` octets at a time."""
    charset = find(part.type.parameters, b"charset") if part.type is not None else None
    if part.end - part.body <= size:
        raw = b"".join(_decoded(part, data, size))
        yield charset_text(raw, (charset or b"utf-8").decode("ascii", "replace"))
        return
    decoder: codecs.IncrementalDecoder = codecs.getincrementaldecoder("utf-8")("replace")
    try:
        info = codecs.lookup((charset or b"utf-8").decode("ascii", "replace")[:60])
        if info.incrementaldecoder is not None and info.name.replace("_", "-") not in _SLOW_CODECS:
            decoder = info.incrementaldecoder("replace")
            decoder.decode(b"")
    except (LookupError, ValueError, TypeError):
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
    for raw in _decoded(part, data, size):
        try:
            yield decoder.decode(raw)
        except (ValueError, TypeError):
            decoder = codecs.getincrementaldecoder("utf-8")("replace")
            yield decoder.decode(raw)


def _decoded(part: Part, data: Data, size: int) -> Iterator[bytes]:
    """The octets of a leaf part without its transfer encoding."""
    value = part.field(b"content-transfer-encoding")
    encoding = parse_token(value).lower() if value is not None else b""
    left = b""
    for at in range(part.body, part.end, max(size, 1)):
        raw = left + data[at : min(at + size, part.end)]
        last = at + size >= part.end
        if isinstance(data, mmap.mmap):
            release(data)
        if encoding == b"base64":
            # Whole groups of four since the last padding, which ends a group of its own.
            cut = raw.rfind(b"=") + 1
            tail = _NOT_BASE64.sub(b"", raw[cut:])
            keep = 0 if last else len(tail) % 4
            left = tail[len(tail) - keep :]
            yield decode_base64(raw[:cut]) + _base64_run(tail[: len(tail) - keep])
        elif encoding == b"quoted-printable":
            cut = len(raw) if last else raw.rfind(b"\n") + 1 or len(raw)
            left = raw[cut:]
            yield decode_quoted(raw[:cut])
        else:
            yield raw


def addresses_text(value: bytes) -> str:
    """An address field's value as FROM and its kin search it, decoded: all addresses as
    `Name <mailbox@domain>` however it was written, in quotes what needs them, as Dovecot does."""
    out: list[str] = []
    group = False
    for item in parse_addresses(value):
        if item.domain is None:
            # A group's beginning, or its end.
            out.append(f"{_quoted(item.mailbox)}: " if item.mailbox is not None else ";")
            group = item.mailbox is not None
            continue
        if out and not (group and out[-1].endswith(": ")):
            out.append(", ")
        name = f"{decode_header(_quoted(item.name).encode())} " if item.name else ""
        route = f"{_plain(item.route)}:" if item.route else ""
        out.append(f"{name}<{route}{_quoted(item.mailbox, dots=True)}@{_plain(item.domain)}>")
    return "".join(out).replace(": ;", ":;")


def _quoted(value: bytes | None, *, dots: bool = False) -> str:
    """A word as it is, or in quotes when it is not one; encoded words stay as they are. `dots` may stand in a
    word."""
    text = value or b""
    if b"=?" not in text and not (_DOTTED if dots else _ATOM).fullmatch(text):
        text = b'"' + text.replace(b"\\", b"\\\\").replace(b'"', b'\\"') + b'"'
    return text.decode("utf-8", "replace")


def _plain(value: bytes | None) -> str:
    return (value or b"").decode("utf-8", "replace")


class _Fold(dict[int, str]):
    """Characters that are not ASCII in i;unicode-casemap, as far as they have been met."""

    def __missing__(self, code: int) -> str:
        char = chr(code)
        title = char.title()
        # Only simple mappings count: `\u00df` stays what it is.
        folded = unicodedata.normalize("NFKD", title if len(title) == 1 else char)
        folded = folded.encode("utf-8", "surrogatepass").upper().decode("utf-8", "surrogatepass")
        if len(self) < _FOLDS_MAX:
            self[code] = folded
        return folded


_FOLDS_MAX = 1 << 14
_FOLD = _Fold({code: chr(code).upper() for code in range(128)})


def fold_case(text: str) -> str:
    """A form in which texts are equal when i;unicode-casemap says so (RFC 5051, RFC 5255 §4.3): in
    title case, decomposed.

    The order of such texts is the collation's, too.
    """
    return text.upper() if text.isascii() else text.translate(_FOLD)


def fold_octets(text: str) -> bytes:
    """`fold_case` in UTF-8."""
    return fold_case(text).encode("utf-8", "surrogatepass")


def searchable_header(header: bytes) -> bytes:
    """All fields decoded, unfolded and case-folded, in UTF-8, a line each, an empty line before the first:
    what is kept of a header to be searched."""
    if b"\r" in header:
        header = header.replace(b"\r\n", b"\n")
    if b"\0" in header:
        header = header.replace(b"\0", b"\x80")  # as Dovecot: what is no text in any case
    plain = header.replace(b"\n\t", b" ").replace(b"\n ", b" ").rstrip(b"\n")
    if b"=?" in plain or not plain.isascii():
        lines = [
            fold_octets(decode_header(line)).replace(b"\n", b" ")
            if b"=?" in line or not line.isascii()
            else line.upper()
            for line in plain.split(b"\n")
        ]
        return b"\n" + b"\n".join(lines) + b"\n"
    return b"\n" + plain.upper() + b"\n"


def field_lines(searchable: bytes, name: bytes) -> Iterator[bytes]:
    """The values of all fields of a name (case-folded) in a `searchable_header`."""
    if not name:
        return  # no field has an empty name
    start = searchable.find(b"\n" + name)
    while start >= 0:
        start += len(name) + 1
        end = searchable.find(b"\n", start)
        value = searchable[start:end].lstrip(b" \t")
        if value.startswith(b":"):
            yield value[1:].lstrip(b" \t")
        start = searchable.find(b"\n" + name, end)
