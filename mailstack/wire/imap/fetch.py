"""What FETCH asks for (RFC 3501 §6.4.5, BINARY: RFC 3516 §4.2, PREVIEW: RFC 8970 §3)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from mailstack.wire.imap.encode import astring
from mailstack.wire.imap.tokens import Cursor, ParseError

ITEMS_MAX = 1000
DEPTH_MAX = 1000
"""Numbers in one section part."""


@dataclass(frozen=True, slots=True)
class Attribute:
    """An item that is only a name: FLAGS UID INTERNALDATE RFC822.SIZE ENVELOPE BODY BODYSTRUCTURE, also
    MODSEQ (RFC 7162), SAVEDATE (RFC 8514), EMAILID and THREADID (RFC 8474), PREVIEW and SNIPPET, with
    `FUZZY`, `LAZY` or both behind them.
    """

    name: str


@dataclass(frozen=True, slots=True)
class Section:
    """A piece of the message. `label` is how the answer names it, without the origin octet.

    `part` is `(1, 2)` for `1.2`; `kind` is empty (everything), HEADER, HEADER.FIELDS, HEADER.FIELDS.NOT, TEXT
    or MIME; `fields` are the header names as given; `partial` is (first octet, number of octets).
    """

    label: bytes
    part: tuple[int, ...] = ()
    kind: str = ""
    fields: tuple[bytes, ...] = ()
    peek: bool = False
    partial: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Binary:
    """A part without its transfer encoding, or with `size` only how many octets that has; see `Section`."""

    label: bytes
    part: tuple[int, ...] = ()
    size: bool = False
    peek: bool = False
    partial: tuple[int, int] | None = None


FetchItem = Attribute | Section | Binary

_FAST = (Attribute("FLAGS"), Attribute("INTERNALDATE"), Attribute("RFC822.SIZE"))
_MACROS = {
    "ALL": (*_FAST, Attribute("ENVELOPE")),
    "FAST": _FAST,
    "FULL": (*_FAST, Attribute("ENVELOPE"), Attribute("BODY")),
}
_ATTRIBUTES = {
    name: Attribute(name)
    for name in (
        "FLAGS",
        "UID",
        "INTERNALDATE",
        "RFC822.SIZE",
        "ENVELOPE",
        "BODYSTRUCTURE",
        "MODSEQ",
        "SAVEDATE",
        "EMAILID",
        "THREADID",
        "PREVIEW",
        "SNIPPET",
    )
}
_PREVIEW_MODIFIER = re.compile(rb" \( *(?:LAZY|FUZZY)\b", re.I)
_SECTIONS = {
    "RFC822": Section(b"RFC822"),
    "RFC822.HEADER": Section(b"RFC822.HEADER", kind="HEADER", peek=True),
    "RFC822.TEXT": Section(b"RFC822.TEXT", kind="TEXT"),
}


def parse_items(cursor: Cursor) -> tuple[FetchItem, ...]:
    """An item, a macro, or a list of items. Raises `ParseError`."""
    if not cursor.take(b"("):
        at = cursor.at
        macro = _MACROS.get(_name(cursor))
        if macro is not None:
            return macro
        cursor.at = at
        return (_item(cursor),)
    items: list[FetchItem] = []
    while not cursor.take(b")"):
        items.append(_item(cursor))
        if len(items) > ITEMS_MAX:
            raise ParseError("Too many fetch items.")
        if not cursor.take(b" ") and cursor.peek() != b")":
            raise ParseError("Invalid arguments.")
    if not items:
        raise ParseError("Empty fetch list.")
    return tuple(dict.fromkeys(items))


def _name(cursor: Cursor) -> str:
    start = cursor.at
    text = cursor.text
    end = start
    while end < len(text) and text[end] not in b' ()[]<>{"\0':
        end += 1
    if end == start:
        raise ParseError("Invalid arguments.")
    cursor.at = end
    return text[start:end].decode("ascii", "replace").upper()


def _item(cursor: Cursor) -> FetchItem:
    name = _name(cursor)
    attribute = _ATTRIBUTES.get(name)
    if attribute is not None:
        return _preview(cursor, name) if name in ("PREVIEW", "SNIPPET") else attribute
    section = _SECTIONS.get(name)
    if section is not None:
        return section
    if name == "BODY" and cursor.peek() != b"[":
        return Attribute("BODY")
    if name in ("BODY", "BODY.PEEK"):
        return _section(cursor, name == "BODY.PEEK")
    if name in ("BINARY", "BINARY.PEEK", "BINARY.SIZE"):
        return _binary(cursor, name)
    raise ParseError(f"Unknown parameter: {name}")


def _preview(cursor: Cursor, name: str) -> Attribute:
    """With the modifiers of RFC 8970 §3.1, and of the drafts before it: ` (LAZY=FUZZY)`."""
    fuzzy = lazy = False
    if _PREVIEW_MODIFIER.match(cursor.text, cursor.at) is not None:  # or it is CHANGEDSINCE
        cursor.take(b" (")
        while not cursor.take(b")"):
            modifier = cursor.word()
            if modifier not in ("LAZY", "FUZZY", "LAZY=FUZZY"):
                raise ParseError(f"'{modifier}' is not a supported PREVIEW modifier")
            lazy = lazy or modifier.startswith("LAZY")
            fuzzy = fuzzy or modifier.endswith("FUZZY")
            if not cursor.take(b" ") and cursor.peek() != b")":
                raise ParseError("Invalid arguments.")
    if fuzzy and name == "PREVIEW":
        name += " FUZZY"
    return Attribute(f"{name} LAZY" if lazy else name)


def _section(cursor: Cursor, peek: bool) -> Section:
    part = _part(cursor)
    dotted = cursor.text[cursor.at - 1 : cursor.at] == b"."
    kind = "" if cursor.peek() == b"]" else _name(cursor)
    known = kind in ("", "HEADER", "HEADER.FIELDS", "HEADER.FIELDS.NOT", "TEXT") or (kind == "MIME" and part)
    if not known or bool(part and kind) != dotted:
        raise ParseError("Invalid BODY[..] parameter.")
    fields: tuple[bytes, ...] = ()
    if kind.startswith("HEADER.FIELDS"):
        cursor.space()
        fields = _fields(cursor)
    cursor.expect(b"]", "Missing ']' in BODY[..].")
    label = b".".join([b"%d" % number for number in part])
    if kind:
        label += (b"." if part else b"") + kind.encode("ascii")
    if fields:
        label += b" (" + b" ".join(astring(field.upper()) for field in fields) + b")"
    return Section(b"BODY[" + label + b"]", part, kind, fields, peek, _partial(cursor))


def _part(cursor: Cursor) -> tuple[int, ...]:
    """`[1.2`, with a dot behind it when something follows."""
    cursor.expect(b"[")
    part: list[int] = []
    while cursor.peek().isdigit():
        number = cursor.number()
        if not 0 < number < 1 << 32 or len(part) >= DEPTH_MAX:
            raise ParseError("Invalid BODY[..] parameter.")
        part.append(number)
        if not cursor.take(b"."):
            break
    else:
        if part and cursor.peek() == b"]":
            raise ParseError("Invalid BODY[..] parameter.")
    return tuple(part)


def _binary(cursor: Cursor, name: str) -> Binary:
    part = _part(cursor)
    cursor.expect(b"]", "Missing ']' in BINARY[..].")
    size = name == "BINARY.SIZE"
    label = (b"BINARY.SIZE[" if size else b"BINARY[") + b".".join([b"%d" % number for number in part]) + b"]"
    return Binary(label, part, size, size or name == "BINARY.PEEK", None if size else _partial(cursor))


def _fields(cursor: Cursor) -> tuple[bytes, ...]:
    cursor.expect(b"(", "Invalid BODY[..] parameter: header list is missing.")
    fields: list[bytes] = []
    while not cursor.take(b")"):
        field = cursor.astring()
        if not field or len(fields) >= ITEMS_MAX:
            raise ParseError("Invalid BODY[..] parameter.")
        fields.append(field)
        if not cursor.take(b" ") and cursor.peek() != b")":
            raise ParseError("Invalid BODY[..] parameter.")
    if not fields:
        raise ParseError("Invalid BODY[..] parameter: header list is empty.")
    return tuple(fields)


def _partial(cursor: Cursor) -> tuple[int, int] | None:
    if not cursor.take(b"<"):
        return None
    start = cursor.number()
    cursor.expect(b".", "Invalid partial fetch.")
    length = cursor.number()
    cursor.expect(b">", "Invalid partial fetch.")
    if not length:
        raise ParseError("Invalid partial fetch: zero octets.")
    return (start, length)
