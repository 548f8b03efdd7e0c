"""GETQUOTA GETQUOTAROOT SETQUOTA as values, and how they are read (RFC 9208 §4.1, RFC 2087)."""

from __future__ import annotations

from dataclasses import dataclass

from mailstack.wire.imap.tokens import Cursor, ParseError


@dataclass(frozen=True, slots=True)
class GetQuota:
    root: str


@dataclass(frozen=True, slots=True)
class GetQuotaRoot:
    mailbox: str


@dataclass(frozen=True, slots=True)
class SetQuota:
    root: str
    limits: tuple[tuple[str, int], ...]


def parse_get(cursor: Cursor) -> GetQuota:
    cursor.space()
    return GetQuota(_root(cursor))


def parse_get_root(cursor: Cursor) -> GetQuotaRoot:
    cursor.space()
    return GetQuotaRoot(cursor.mailbox())


def parse_set(cursor: Cursor) -> SetQuota:
    cursor.space()
    root = _root(cursor)
    cursor.space()
    cursor.expect(b"(", "Invalid quota list.")
    limits: list[tuple[str, int]] = []
    while not cursor.take(b")"):
        resource = cursor.word()
        cursor.space()
        limits.append((resource, cursor.number()))
        if not cursor.take(b" ") and cursor.peek() != b")":
            raise ParseError("Invalid quota list.")
    return SetQuota(root, tuple(limits))


def _root(cursor: Cursor) -> str:
    return cursor.astring().decode("utf-8", "replace")
