"""What a reader sees of a message, for searching: encoded words, transfer encodings, charsets.

Nothing raises: what cannot be decoded is replaced or taken as it stands.
"""

from __future__ import annotations

import binascii
import codecs
import re
import unicodedata

from mailstack.wire.mime import headers
from mailstack.wire.mime.address import parse_addresses
from mailstack.wire.mime.lines import Data
from mailstack.wire.mime.params import find, parse_token
from mailstack.wire.mime.structure import Part

_WORD = re.compile(rb"=\?([^?*]{1,60})(?:\*[^?]*)?\?([bBqQ])\?([^?]*)\?=")
_BETWEEN = re.compile(rb"(\?=)[ \t\r\n]+(?==\?[^?]{1,60}\?[bBqQ]\?[^?]*\?=)")
_HEX = re.compile(rb"=([0-9A-Fa-f]{2})")
_SOFT_BREAK = re.compile(rb"=[ \t]*\r?\n")
_NOT_BASE64 = re.compile(rb"[^A-Za-z0-9+/]+")
_BLANKS = re.compile("[ \t\n]+")
ADDRESS_FIELDS = frozenset({b"from", b"to", b"cc", b"bcc", b"sender", b"reply-to"})
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
    return _HEX.sub(lambda found: bytes((int(found[1], 16),)), _SOFT_BREAK.sub(b"", data))


def part_text(part: Part, data: Data) -> str:
    """The text of a leaf part, decoded."""
    raw = data[part.body : part.end]
    encoding = part.field(b"content-transfer-encoding")
    if encoding is not None:
        match parse_token(encoding).lower():
            case b"base64":
                raw = decode_base64(raw)
            case b"quoted-printable":
                raw = decode_quoted(raw)
    charset = find(part.type.parameters, b"charset") if part.type is not None else None
    return charset_text(raw, (charset or b"utf-8").decode("ascii", "replace"))


def field_text(value: bytes) -> str:
    """A field's value, decoded, with runs of blanks as one space."""
    return " ".join(_BLANKS.split(decode_header(value)))


def addresses_text(value: bytes) -> str:
    """An address field's value, decoded, every address as `Name <mailbox@domain>` however it was written."""
    found = []
    for item in parse_addresses(value):
        if item.domain is None:
            found.append(decode_header(item.mailbox or b""))
            continue
        address = f"{_plain(item.mailbox)}@{_plain(item.domain)}"
        if item.route:
            address = f"{_plain(item.route)}:{address}"
        found.append(address if item.name is None else f"{field_text(item.name)} <{address}>")
    return ", ".join(found)


def _plain(value: bytes | None) -> str:
    return (value or b"").decode("utf-8", "replace")


def header_text(header: bytes) -> str:
    """All fields, decoded, a line each; addresses also in their plain form."""
    lines = []
    for field in headers.fields(header):
        value = headers.unfold(field.value)
        text = field_text(value)
        lines.append(f"{field.name.decode('utf-8', 'replace')}: {text}" if field.name else text)
        if field.name in ADDRESS_FIELDS:
            lines.append(addresses_text(value))
    return "\n".join(lines)


def fold_case(text: str) -> str:
    """A form in which texts are equal when they differ in case or composition only (RFC 5051 in spirit)."""
    if text.isascii():
        return text.lower()
    return unicodedata.normalize("NFKD", text).casefold()
