"""SETACL DELETEACL GETACL LISTRIGHTS MYRIGHTS as values, and how they are read (RFC 4314 §3)."""

from __future__ import annotations

from dataclasses import dataclass

from mailstack.wire.imap.tokens import Cursor, ParseError

RIGHTS = frozenset("lrwstipekxacd")
"""Rights that can be named: those of RFC 4314 §2.1 and the obsolete `c` and `d` of §2.1.1."""
_OBSOLETE = {"c": "kx", "d": "et"}


@dataclass(frozen=True, slots=True)
class SetAcl:
    """`mode` is `+`, `-` or empty: rights are added, removed, or take the place of those before."""

    mailbox: str
    identifier: str
    mode: str
    rights: str


@dataclass(frozen=True, slots=True)
class DeleteAcl:
    mailbox: str
    identifier: str


@dataclass(frozen=True, slots=True)
class GetAcl:
    mailbox: str


@dataclass(frozen=True, slots=True)
class ListRights:
    mailbox: str
    identifier: str


@dataclass(frozen=True, slots=True)
class MyRights:
    mailbox: str


def parse_set(cursor: Cursor) -> SetAcl:
    mailbox, identifier = _pair(cursor)
    cursor.space()
    text = cursor.astring().decode("latin-1")
    mode = text[:1] if text[:1] in ("+", "-") else ""
    letters = text[len(mode) :]
    for letter in letters:
        if letter not in RIGHTS:
            raise ParseError(f"Invalid ACL right: {letter}.")
    return SetAcl(mailbox, identifier, mode, "".join(_OBSOLETE.get(letter, letter) for letter in letters))


def parse_delete(cursor: Cursor) -> DeleteAcl:
    return DeleteAcl(*_pair(cursor))


def parse_get(cursor: Cursor) -> GetAcl:
    cursor.space()
    return GetAcl(cursor.mailbox())


def parse_list_rights(cursor: Cursor) -> ListRights:
    return ListRights(*_pair(cursor))


def parse_my_rights(cursor: Cursor) -> MyRights:
    cursor.space()
    return MyRights(cursor.mailbox())


def _pair(cursor: Cursor) -> tuple[str, str]:
    cursor.space()
    mailbox = cursor.mailbox()
    cursor.space()
    identifier = cursor.astring().decode("utf-8", "replace")
    if not identifier or any(ord(char) < 32 or char in "\x7f\ufffd" for char in identifier):
        raise ParseError("Invalid arguments.")
    return mailbox, identifier


def shown(rights: str) -> str:
    """With the obsolete rights that these stand for (RFC 4314 §2.1.1)."""
    old = "c" if {"k", "x"} & set(rights) else ""
    return rights + old + ("d" if {"e", "t"} & set(rights) else "")
