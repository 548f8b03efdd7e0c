"""RESETKEY, GENURLAUTH and URLFETCH as values, and how they are read (RFC 4467 §9, RFC 5524 §3).

The replies to wrong ones are Dovecot's.
"""

from __future__ import annotations

from dataclasses import dataclass

from mailstack.wire.imap.tokens import Cursor, ParseError

URLS_MAX = 100
"""URLs of one command."""
INTERNAL = "INTERNAL"
"""The only mechanism."""
BODY, BINARY, STRUCTURE = "BODY", "BINARY", "BODYPARTSTRUCTURE"


@dataclass(frozen=True, slots=True)
class ResetKey:
    """`mailbox` empty: all mailboxes; `mechanisms`: only theirs, all without any."""

    mailbox: str = ""
    mechanisms: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class GenUrlAuth:
    """URLs up to the access identifier, with the mechanism for each."""

    urls: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class UrlFetch:
    """URLs with what is wanted of each (BODY, BINARY, BODYPARTSTRUCTURE); None: a plain URL."""

    urls: tuple[tuple[str, frozenset[str] | None], ...]


def parse_reset(cursor: Cursor) -> ResetKey:
    if not cursor.take(b" "):
        return ResetKey()
    mailbox = cursor.mailbox()
    mechanisms = []
    while cursor.take(b" "):
        mechanisms.append(cursor.word())
    return ResetKey(mailbox, tuple(mechanisms))


def parse_generate(cursor: Cursor) -> GenUrlAuth:
    urls: list[tuple[str, str]] = []
    while cursor.text[cursor.at :].strip(b" "):
        cursor.space()
        url = _url(cursor)
        cursor.space()
        urls.append((url, cursor.word()))
        if len(urls) > URLS_MAX:
            raise ParseError("Too many URLs.")
    if not urls:
        raise ParseError("Missing arguments.")
    return GenUrlAuth(tuple(urls))


def parse_fetch(cursor: Cursor) -> UrlFetch:
    urls: list[tuple[str, frozenset[str] | None]] = []
    while cursor.text[cursor.at :].strip(b" "):
        cursor.space()
        if cursor.take(b"("):
            urls.append((_url(cursor), _wanted(cursor)))
        else:
            urls.append((_url(cursor), None))
        if len(urls) > URLS_MAX:
            raise ParseError("Too many URLs.")
    if not urls:
        raise ParseError("Invalid arguments.")
    return UrlFetch(tuple(urls))


def _url(cursor: Cursor) -> str:
    try:
        return cursor.astring().decode("ascii")
    except UnicodeDecodeError:
        raise ParseError("Invalid arguments.") from None


def _wanted(cursor: Cursor) -> frozenset[str]:
    wanted = set()
    while not cursor.take(b")"):
        cursor.space()
        name = cursor.word()
        if name not in (BODY, BINARY, STRUCTURE):
            raise ParseError(f"Unknown URL fetch parameter: {name}")
        wanted.add(name)
    if {BODY, BINARY} <= wanted:
        raise ParseError("URL cannot have both BODY and BINARY fetch parameters")
    return frozenset(wanted or {BODY})
