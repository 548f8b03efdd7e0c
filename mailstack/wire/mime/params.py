"""Content-Type, Content-Disposition and their parameters (RFC 2045 §5.1, RFC 2183, RFC 2231)."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

from mailstack.wire.mime.rfc822 import BAD, END, MORE, Lexer

Parameters = tuple[tuple[bytes, bytes], ...]
REPEATED_MAX = 120
"""Octets of a value that is remembered because it comes again in the next messages."""
PARAMETERS_MAX = 1000
_T = rb"[A-Za-z0-9!#$%&'+\-^_`{|}~.\x80-\xff]+"
# What nearly every Content-Type looks like; anything else takes the slow way.
_SIMPLE = re.compile(rb'(%b)/(%b)((?:; ?%b=(?:"[^"\\\r\n]*"|%b)){0,20})\Z' % (_T, _T, _T, _T))
_SIMPLE_PARAMETER = re.compile(rb'; ?(%b)=(?:"([^"]*)"|(%b))' % (_T, _T))
_PERCENT = re.compile(rb"%([0-9A-Fa-f]{2})")
_BROKEN = re.compile(rb"[^; \t\r\n]*")
_PIECE = re.compile(rb"([^*]*)\*([0-9]{0,5})(\*?)\Z")


class ContentType(NamedTuple):
    """`type` and `subtype` as they are written; both may be empty when the field is broken."""

    type: bytes
    subtype: bytes
    parameters: Parameters


_BROKEN_TYPE = ContentType(b"", b"", ())


def parse_content_type(value: bytes) -> ContentType:
    """A Content-Type value, unfolded."""
    return _repeated_type(value) if len(value) < REPEATED_MAX else _content_type(value)


def _content_type(value: bytes) -> ContentType:
    found = _SIMPLE.match(value)
    if found is not None:
        pairs = _SIMPLE_PARAMETER.findall(found[3])
        return ContentType(found[1], found[2], tuple((key, quoted or token) for key, quoted, token in pairs))
    lexer = Lexer(value)
    main: list[bytes] = []
    sub: list[bytes] = []
    if lexer.blanks() != MORE or (result := lexer.mime_token(main)) == BAD:
        return _BROKEN_TYPE
    if result == END:
        return ContentType(b"".join(main), b"", ())
    if not lexer.next_is(b"/") or not any(main):
        return _BROKEN_TYPE
    lexer.at += 1
    if lexer.blanks() != MORE or (result := lexer.mime_token(sub)) == BAD or not any(sub):
        return _BROKEN_TYPE
    if result == MORE and not lexer.next_is(b";"):
        return _BROKEN_TYPE
    return ContentType(b"".join(main), b"".join(sub), _parameters(lexer))


_repeated_type = lru_cache(1024)(_content_type)


def parse_disposition(value: bytes) -> tuple[bytes, Parameters]:
    """A Content-Disposition value, unfolded: the disposition and its parameters."""
    lexer = Lexer(value)
    lexer.blanks()
    out: list[bytes] = []
    if lexer.mime_token(out) == BAD:
        return b"".join(out), ()
    return b"".join(out), _parameters(lexer)


def parse_token(value: bytes) -> bytes:
    """A single token (Content-Transfer-Encoding); empty when anything but a comment follows it."""
    lexer = Lexer(value)
    lexer.blanks()
    out: list[bytes] = []
    return b"".join(out) if lexer.mime_token(out) == END else b""


def parse_languages(value: bytes) -> tuple[bytes, ...]:
    """The tags of Content-Language (RFC 3282)."""
    lexer = Lexer(value)
    lexer.blanks()
    tags = []
    while not lexer.ended:
        out: list[bytes] = []
        result = lexer.atom(out)
        if result == BAD:
            break
        tags += out
        if result != MORE or not lexer.next_is(b","):
            break
        lexer.at += 1
        lexer.blanks()
    return tuple(tags)


def _parameters(lexer: Lexer) -> Parameters:
    plain: list[tuple[bytes, bytes]] = []
    starred: dict[bytes, list[tuple[bytes, bytes]]] = {}
    for _ in range(PARAMETERS_MAX):
        if lexer.ended:
            break
        parameter = _parameter(lexer)
        if parameter is None:
            # What is no parameter is passed over, as far as the next one.
            at = lexer.data.find(b";", lexer.at + 1)
            lexer.at = at if at >= 0 else len(lexer.data)
        elif b"*" in parameter[0]:
            starred.setdefault(parameter[0].partition(b"*")[0], []).append(parameter)
        else:
            plain.append(parameter)
    for name in sorted(starred):
        plain += _join(starred[name])
    return tuple(plain)


def _parameter(lexer: Lexer) -> tuple[bytes, bytes] | None:
    if not lexer.next_is(b";"):
        return None
    lexer.at += 1
    key: list[bytes] = []
    value: list[bytes] = []
    if lexer.blanks() != MORE or lexer.mime_token(key) != MORE or not lexer.next_is(b"="):
        return None
    lexer.at += 1
    if lexer.blanks() != MORE:
        return b"".join(key), b""
    if lexer.next_is(b'"'):
        result = lexer.quoted(value)
    elif lexer.next_is(b"="):
        # `name==?utf-8?b?…?=`: a broken but common way to write an encoded word.
        found = _BROKEN.match(lexer.data, lexer.at)
        value.append(found[0] if found else b"")
        lexer.at = found.end() if found else lexer.at
        result = lexer.blanks()
    else:
        result = lexer.mime_token(value)
    if result == BAD:
        return None
    return b"".join(key), b"".join(value)


def _join(items: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Continuations (RFC 2231 §3) as one parameter; each by itself when their numbers do not fit."""
    numbered: list[tuple[int, bool, bytes]] = []
    number = 0
    for key, value in items:
        found = _PIECE.match(key)
        if found is None or not (found[2] or len(key) == found.end(1) + 1):
            return sorted(items)
        # A `*` alone counts as the piece before it once more.
        number = int(found[2]) if found[2] else number
        numbered.append((number, not found[2] or bool(found[3]), value))
    name = items[0][0].partition(b"*")[0]
    numbered.sort(key=lambda item: item[0])
    if [number for number, _, _ in numbered] != list(range(len(items))):
        return [(b"%b*%d%b" % (name, at, b"*" if coded else b""), value) for at, coded, value in numbered]
    if not any(coded for _, coded, _ in numbered):
        return [(name, b"".join(value for _, _, value in numbered))]
    parts = [value if coded else value.replace(b"%", b"%25") for _, coded, value in numbered]
    if not numbered[0][1]:
        parts.insert(0, b"''")
    return [(name + b"*", b"".join(parts))]


def find(parameters: Parameters, name: bytes) -> bytes | None:
    """The value of a parameter (lower-case name), decoded when it is in RFC 2231's form."""
    for key, value in parameters:
        lower = key.lower()
        if lower == name:
            return value
        if lower == name + b"*":
            charset, quote, rest = value.partition(b"'")
            coded = rest.partition(b"'")[2] if quote else charset
            return _PERCENT.sub(lambda found: bytes((int(found[1], 16),)), coded)
    return None
