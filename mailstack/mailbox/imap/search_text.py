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


def contains(data: Data, wanted: str, *, with_header: bool) -> Iterator[bool]:
    """Whether a message has a (case-folded) text in it: True as soon as that is known; every False is only
    a good moment to pause.

    TEXT (`with_header`) looks into the headers of all parts, BODY into none; both into text and messages
    only.
    """
    if isinstance(data, bytes) and wanted.isascii() and not _may_hold(data, wanted.encode(), with_header):
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
        # What stands across two pieces is found with the end of the first.
        end = ""
        for piece in part_pieces(part, data):
            text = end + fold_case(piece)
            yield wanted in text
            end = text[len(text) - len(wanted) + 1 :] if len(wanted) > 1 else ""


def _may_hold(data: bytes, wanted: bytes, with_header: bool) -> bool:
    """False: the message certainly does not hold these ASCII octets, in upper case."""
    # Blanks in headers are not what they are in the octets, so that only words count there.
    words = _WORDS.findall(wanted) if with_header else [wanted]
    octets = data.upper()
    if b"BASE64" in octets or _all_in(words, octets):
        return True
    alien = False
    if octets.count(b"CHARSET") != octets.count(b"CHARSET=UTF-8") + octets.count(b'CHARSET="UTF-8"'):
        charsets = _CHARSET.findall(octets)
        if len(charsets) != octets.count(b"CHARSET") or not all(map(_SAFE.match, charsets)):
            return True
        alien = any(charset not in (b"UTF-8", b"US-ASCII") for charset in charsets)
    if not data.isascii() and (alien or _all_in_folded(words, data)):
        return True
    if b"QUOTED-PRINTABLE" in octets:
        plain = decode_quoted(data)
        if _all_in(words, plain.upper()):
            return True
        if not plain.isascii() and (alien or _all_in_folded(words, plain)):
            return True
    return with_header and b"=?" in data and _all_in(words, fold_octets(decode_header(data)))


def _all_in(words: list[bytes], octets: bytes) -> bool:
    return all(word in octets for word in words)


def _all_in_folded(words: list[bytes], octets: bytes) -> bool:
    """Whether the words are in text in UTF-8, where `e` may be the beginning of an e with an accent."""
    octets_around = 4 * max(map(len, words), default=0)
    pieces: list[bytes] = []
    size = 0
    for found in _HIGH.finditer(octets):
        piece = octets[max(0, found.start() - octets_around) : found.end() + octets_around]
        size += len(piece)
        if size > len(octets):
            pieces = [octets]
            break
        pieces.append(piece)
    text = b"\0".join(pieces).decode("utf-8", "replace")
    folded = unicodedata.normalize("NFKD", text).upper().encode("utf-8", "replace")
    upper = octets.upper()
    return all(word in folded or word in upper for word in words)
