"""Searching the text of one message: BODY and TEXT (RFC 3501 §6.4.4).

Most messages do not hold what is searched for, and nearly all of them say so without being taken apart: a
word in ASCII that is neither in the octets as they are, nor in what they are without quoted-printable and
encoded words, is nowhere in the text. Only who might hold it is parsed and read part by part. Large messages
are read in pieces.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

from mailstack.wire.mime.lines import Data
from mailstack.wire.mime.structure import HEADER_MAX, Part, parse
from mailstack.wire.mime.text import (
    decode_header,
    decode_quoted,
    fold_case,
    fold_octets,
    part_pieces,
    searchable_header,
)

_WORDS = re.compile(rb"[A-Z0-9]+")
_HIGH = re.compile(rb"[\x80-\xff]+")
_CHARSET = re.compile(rb'CHARSET\s*=\s*"?([A-Z0-9_.:-]+)')
_SAFE = re.compile(rb"(?:US-ASCII|UTF-?8|ISO-8859-\d+|LATIN\d|WINDOWS-12\d\d|KOI8-[RU])\Z")
"""Charsets in which ASCII is ASCII and nothing else."""
_NO_TEXT = re.compile(rb"\nCONTENT-TYPE: ?(?:APPLICATION|IMAGE|AUDIO|VIDEO|FONT)/")
_MULTIPART = re.compile(
    rb"\nCONTENT-TYPE: MULTIPART/(?!DIGEST)[A-Z]+;[ \t]*(?:\n[ \t]+)?"
    rb'(?:[A-Z-]+=(?:"[^"\\\n]*"|[^\s;"()\\]+);[ \t]*(?:\n[ \t]+)?)*'
    rb'BOUNDARY=(?:"([^"\\\n]{1,70})"|([^\s;"()\\]{1,70}))[;\n]'
)
"""A multipart's Content-Type as it is mostly written, in upper case."""
_TEXT = re.compile(rb"\nCONTENT-TYPE: TEXT/[A-Z0-9.+-]+[;\n]")
PARTS_LOOKED_AT, DEPTH_LOOKED_AT, HEAD_LOOKED_AT = 16, 4, 1 << 14
"""Parts of a multipart, parts in parts, and octets of a header that a look is taken at."""
HIGH_MAX = 16
"""Runs of octets that are not ASCII whose surroundings are looked at; of more, all of the text is."""


def contains(data: Data, wanted: str, *, with_header: bool) -> Iterator[bool]:
    """Whether a message has a (case-folded) text in it: True as soon as that is known; every False is only
    a good moment to pause.

    TEXT (`with_header`) looks into the headers of all parts, BODY into none; both into text and messages
    only.
    """
    if isinstance(data, bytes) and wanted.isascii():
        outcome = _look(data, wanted.encode(), with_header)
        if outcome is not None:
            yield outcome
            return
    yield from _in_part(parse(data), data, wanted, with_header)


def _in_part(part: Part, data: Data, wanted: str, with_header: bool) -> Iterator[bool]:
    if with_header and part.body > part.start:
        header = searchable_header(data[part.start : min(part.body, part.start + HEADER_MAX)])
        yield fold_octets(wanted) in header
    if part.children:
        for child in part.children:
            yield from _in_part(child, data, wanted, with_header)
        return
    kind = part.type.type.lower() if part.type is not None else b"text"
    if kind in (b"text", b"message"):
        octets = wanted.encode() if wanted.isascii() else None
        # What stands across two pieces is found with the end of the first.
        end = ""
        for piece in part_pieces(part, data):
            # ASCII stays ASCII when case is folded, and nothing comes in between.
            if octets and not piece.isascii() and octets in piece.encode("utf-8", "surrogatepass").upper():
                yield True
                return
            text = end + fold_case(piece)
            yield wanted in text
            end = text[len(text) - len(wanted) + 1 :] if len(wanted) > 1 else ""


def _look(data: bytes, wanted: bytes, with_header: bool) -> bool | None:
    """Whether the message holds these ASCII octets (in upper case), by a look at it; None: read it."""
    # Blanks in headers are not what they are in the octets, so that only words count there.
    words = sorted(_WORDS.findall(wanted), key=len, reverse=True) if with_header else [wanted]
    octets = data.upper()
    alien = False
    charset_count = octets.count(b"CHARSET")
    if charset_count and charset_count != octets.count(b"CHARSET=UTF-8") + octets.count(b'CHARSET="UTF-8"'):
        charsets = _CHARSET.findall(octets)
        if len(charsets) != octets.count(b"CHARSET") or not all(map(_SAFE.match, charsets)):
            return None
        alien = any(charset not in (b"UTF-8", b"US-ASCII") for charset in charsets)
    plain_octets = data.isascii()
    if _all_in(words, octets):
        body = _plain_body(octets) if plain_octets and not with_header else 0
        if body:
            return octets.find(wanted, body) >= 0
        return True if b"\r" not in octets and _surely_in(data, octets, wanted, 0, len(data), 0) else None
    if _has_encoded_text(octets):
        return None
    if not plain_octets and (alien or _all_in_folded(words, data, octets)):
        return None
    if b"QUOTED-PRINTABLE" in octets:
        plain = decode_quoted(data)
        upper = plain.upper()
        if _all_in(words, upper):
            return None
        if not plain.isascii() and (alien or _all_in_folded(words, plain, upper)):
            return None
    if with_header and b"=?" in data and _all_in(words, octets + _encoded_words(data)):
        return None
    return False


def _all_in(words: list[bytes], octets: bytes) -> bool:
    return all(word in octets for word in words)


def _plain_body(octets: bytes) -> int:
    """Where the body begins of a message that is nothing but text as it stands; 0: it may be more."""
    end = octets.find(b"\n\n")
    head = octets[: end + 1]
    types = head.count(b"CONTENT-TYPE")
    if b"\r" in head or b"ENCODING" in head or types > 1 or head[:1] == b"\n":
        return 0
    return end + 2 if end > 0 and (not types or _TEXT.search(head)) else 0


def _surely_in(data: bytes, octets: bytes, wanted: bytes, start: int, end: int, depth: int) -> bool:
    """Whether a part (`octets`: in upper case) has a text that holds this, as far as headers written as usual
    say what is what. No carriage returns, ASCII is ASCII."""
    # A part may have no header at all.
    headless = data[start : start + 1] == b"\n"
    at = start if headless else octets.find(b"\n\n", start, end) + 1
    if (not at and not headless) or at - start > HEAD_LOOKED_AT or depth > DEPTH_LOOKED_AT:
        return False
    head, body = b"\n%b" % octets[start:at], at + 1
    types = head.count(b"CONTENT-TYPE")
    encodings = head.count(b"ENCODING")
    if types > 1 or types != head.count(b"\nCONTENT-TYPE: ") or encodings > 1:
        return False
    quoted = encodings and b"\nCONTENT-TRANSFER-ENCODING: QUOTED-PRINTABLE\n" in head
    plain = not encodings or b"\nCONTENT-TRANSFER-ENCODING: 7BIT\n" in head
    plain = plain or b"\nCONTENT-TRANSFER-ENCODING: 8BIT\n" in head
    if not types or _TEXT.search(head):
        if quoted:
            return wanted in decode_quoted(data[body:end]).upper()
        return plain and octets.find(wanted, body, end) >= 0
    if not plain:
        return False
    if b"\nCONTENT-TYPE: MESSAGE/RFC822\n" in head:
        return _surely_in(data, octets, wanted, body, end, depth + 1)
    found = _MULTIPART.search(head)
    if found is None:
        return False
    first, last = found.span(found.lastindex or 0)
    marker = b"\n--" + data[start + first - 1 : start + last - 1]
    at = data.find(marker, body - 1, end)
    for _ in range(PARTS_LOOKED_AT):
        line_end = data.find(b"\n", at + 1, end) if at >= 0 else -1
        if line_end < 0 or data.startswith(b"--", at + len(marker)):
            break
        at = data.find(marker, line_end, end)
        if _surely_in(data, octets, wanted, line_end + 1, end if at < 0 else at, depth + 1):
            return True
    return False


def _has_encoded_text(octets: bytes) -> bool:
    """Whether a part may be text in base64: any is that does not say that it is something else."""
    at = octets.find(b"BASE64")
    while at >= 0:
        start = max(octets.rfind(b"\n\n", 0, at) + 1, octets.rfind(b"\n--", 0, at) + 1, 0)
        end = octets.find(b"\n\n", at)
        head = octets[start : end if end >= 0 else len(octets)]
        if head.count(b"CONTENT-TYPE") != 1 or not _NO_TEXT.search(head):
            return True
        at = octets.find(b"BASE64", start + len(head))
    return False


def _encoded_words(data: bytes) -> bytes:
    """What stands in all lines with encoded words, decoded and case-folded."""
    lines = []
    at = data.find(b"=?")
    while at >= 0:
        start, end = data.rfind(b"\n", 0, at) + 1, data.find(b"\n", at)
        while end >= 0 and data[end + 1 : end + 2] in (b" ", b"\t"):
            end = data.find(b"\n", end + 1)
        end = len(data) if end < 0 else end
        lines.append(decode_header(data[start:end]))
        at = data.find(b"=?", end)
    return fold_octets("\n".join(lines))


def _all_in_folded(words: list[bytes], octets: bytes, upper: bytes) -> bool:
    """Whether the words are in text in UTF-8 (`upper`: in upper case), where `e` may be the beginning of an e
    with an accent."""
    around = 4 * max(map(len, words), default=0)
    pieces: list[bytes] = []
    at = 0
    while at < len(octets):
        try:
            octets[at:].decode("ascii")
            break
        except UnicodeDecodeError as error:
            found = _HIGH.match(octets, at + error.start)
            assert found is not None
        if len(pieces) == HIGH_MAX:
            pieces = [octets]
            break
        pieces.append(octets[max(0, found.start() - around) : found.end() + around])
        at = found.end()
    text = b"\0".join(pieces).decode("utf-8", "replace")
    folded = unicodedata.normalize("NFKD", text).upper().encode("utf-8", "replace")
    return all(word in folded or word in upper for word in words)
