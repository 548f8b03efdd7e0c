"""GETMETADATA and SETMETADATA as values, and how they are read (RFC 5464 §4.2, §4.3, §5).

An entry's name is kept in lower case: names are alike whatever their case (RFC 5464 §3.2). The replies to
wrong ones are Dovecot's.
"""

from __future__ import annotations

from dataclasses import dataclass

from mailstack.wire.imap.tokens import Cursor, ParseError

ENTRY_MAX = 1024
"""Octets of an entry's name."""
ENTRIES_MAX = 1000
"""Entries of one command."""
INFINITY = -1
"""DEPTH infinity."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Entries to be read: values of `max_size` octets at the most, and below each of them `depth` levels."""

    entries: tuple[str, ...]
    max_size: int | None = None
    depth: int = 0


@dataclass(frozen=True, slots=True)
class GetMetadata:
    """`mailbox` is empty for the server's own."""

    mailbox: str
    wanted: Wanted


@dataclass(frozen=True, slots=True)
class SetMetadata:
    """Entries with their new values; None removes one."""

    mailbox: str
    values: tuple[tuple[str, bytes | None], ...]


def parse_get(cursor: Cursor) -> GetMetadata:
    """The options stand before the mailbox in the grammar and behind it in the examples: both are read."""
    cursor.space()
    max_size, depth = _options(cursor) if cursor.peek() == b"(" else (None, 0)
    mailbox = cursor.mailbox()
    cursor.space()
    if _options_come(cursor):
        max_size, depth = _options(cursor)
    return GetMetadata(mailbox, Wanted(_entries(cursor), max_size, depth))


def parse_set(cursor: Cursor) -> SetMetadata:
    cursor.space()
    mailbox = cursor.mailbox()
    cursor.space()
    cursor.expect(b"(", "Entry-value list is missing.")
    values: list[tuple[str, bytes | None]] = []
    while not cursor.take(b")"):
        name = _entry(cursor)
        cursor.space()
        values.append((name, cursor.nstring()))
        if len(values) > ENTRIES_MAX or not (cursor.take(b" ") or cursor.peek() == b")"):
            raise ParseError("Invalid entry-value list.")
    return SetMetadata(mailbox, tuple(values))


def parse_wanted(cursor: Cursor) -> Wanted:
    """What stands behind LIST's `RETURN (METADATA ` (RFC 9590 §3)."""
    max_size, depth = _options(cursor) if _options_come(cursor) else (None, 0)
    return Wanted(_entries(cursor), max_size, depth)


def _options_come(cursor: Cursor) -> bool:
    following = cursor.text[cursor.at : cursor.at + 6].upper()
    return following.startswith((b"(MAXSI", b"(DEPTH"))


def _options(cursor: Cursor) -> tuple[int | None, int]:
    """`(MAXSIZE 1024 DEPTH 1) `."""
    max_size, depth = None, 0
    cursor.expect(b"(")
    while not cursor.take(b")"):
        name = cursor.word()
        cursor.space()
        if name == "MAXSIZE":
            max_size = cursor.number()
        elif name == "DEPTH":
            value = cursor.word()
            if value not in ("0", "1", "INFINITY"):
                raise ParseError("Invalid value for DEPTH option")
            depth = INFINITY if value == "INFINITY" else int(value)
        else:
            raise ParseError("Unknown option")
        if not cursor.take(b" ") and cursor.peek() != b")":
            raise ParseError("Invalid arguments.")
    cursor.space()
    return max_size, depth


def _entries(cursor: Cursor) -> tuple[str, ...]:
    if not cursor.take(b"("):
        return (_entry(cursor),)
    names: list[str] = []
    while not cursor.take(b")"):
        names.append(_entry(cursor))
        if len(names) > ENTRIES_MAX or not (cursor.take(b" ") or cursor.peek() == b")"):
            raise ParseError("Invalid entry list.")
    return tuple(dict.fromkeys(names))


def _entry(cursor: Cursor) -> str:
    name = cursor.astring().decode("latin-1").lower()
    problem = ""
    if not name.startswith("/"):
        problem = "Entry name must begin with '/'"
    elif not f"{name}/".startswith(("/private/", "/shared/")):
        problem = "Entry name must begin with /private or /shared"
    elif "*" in name or "%" in name:
        problem = f"Entry name can't contain '{'*' if '*' in name else '%'}'"
    elif "//" in name:
        problem = "Entry name can't contain consecutive '/'"
    elif name.endswith("/"):
        problem = "Entry name can't end with '/'"
    elif len(name) > ENTRY_MAX or not name.isascii() or not name.isprintable():
        problem = "Invalid entry name"
    if problem:
        raise ParseError(problem)
    return name
