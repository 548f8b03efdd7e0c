"""Address lists of headers, read and written as Postfix does: permissive, and nothing is thrown away.

`rewrite` gives every address of a header's value to a function and returns the value with what it made of
them, or None where nothing has changed. A list is put together again token by token, one space between words,
missing commas added, lines of at most 70 octets: only a header in which some address has changed is written
anew.

Not `wire.mime.address`, which understands a list for IMAP and drops what it does not understand. Standards:
RFC 5322 §3.4 and what people send instead.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from mailstack.wire.smtp.address import quote

SENDERS = frozenset(
    b"disposition-notification-to errors-to from mail-followup-to reply-to resent-from resent-sender "
    b"return-path return-receipt-to sender".split()
)
"""Headers with sender addresses, in lower case."""
RECIPIENTS = frozenset(b"apparently-to bcc cc resent-bcc resent-cc resent-reply-to resent-to to".split())
"""Headers with recipient addresses."""

FOLD = 70
"""Octets of a line of a header that has been rewritten; an address is not broken."""

_TOKEN = re.compile(
    r"""
      [ \t\r\n]+
    | (?P<quoted>"(?P<q>(?:[^"\\]|\\.)*)"?)
    | (?P<literal>\[(?P<l>(?:[^\]\\]|\\.)*)\]?)
    | (?P<comment>\()
    | (?P<op>[|%!)<>@,;:.\]])
    | (?P<atom>(?:[^ \t\r\n()<>@,;:\\".\[\]|%!]|\\.?)+)
    """,
    re.VERBOSE | re.DOTALL,
)
_BACKSLASH = re.compile(r"\\(.?)", re.DOTALL)
_SPACE = re.compile(r"[ \t\r\n]")
_IN_QUOTES = re.compile(r'(["\\\r\n])')
_IN_LITERAL = re.compile(r"([\\\r\n])")
_NEEDS_QUOTES = re.compile(r"[\x00-\x20\x7f|%!()<>@,;:\\\".\[\]]")

_ATOM, _QUOTED, _LITERAL, _COMMENT, _ADDRESS, _GROUP = "atom", "quoted", "literal", "comment", "addr", "group"
_WORDS = frozenset((_ATOM, _QUOTED, _LITERAL))
_NO_OPERATORS = frozenset((_ATOM, _QUOTED, _LITERAL, _COMMENT, _ADDRESS))

Token = tuple[str, str]
"""(kind, text): one of the kinds above, or an operator, which is its own kind. Quoting is undone; a comment
has its parentheses; an address is in internal form."""


def rewrite(value: str, change: Callable[[str], str], limit: int) -> str | None:
    """The header value with `change` applied to every address (internal form), or None: as it was.

    `limit` is header_address_token_limit. The result begins with a space and is folded with `\\n\\t`.
    """
    changed = False
    spelled: list[str] = []
    items = parse(value, limit, spelled)
    for index, (kind, text) in enumerate(items):
        if kind == _ADDRESS:
            new = change(text)
            if quote(new) != spelled.pop():
                items[index] = (_ADDRESS, new)
                changed = True
    return " " + write(items) if changed else None


def parse(value: str, limit: int = 0, spelled: list[str] | None = None) -> list[Token]:
    """The tokens of an address list, those of each address put together.

    `spelled` gets the addresses in external form, quoted as they were, the last one first.
    """
    out: list[Token] = []
    pending: list[Token] = []

    def group(comma: bool = False) -> None:
        if pending:
            pending.reverse()
            out.append((_ADDRESS, "".join(map(_internal, pending))))
            if spelled is not None:
                spelled.append("".join(map(_external, pending)))
            pending.clear()
            if comma:
                out.append((",", ","))

    tokens = scan(value, limit)
    word_fits, in_group = True, False
    place = len(tokens) - 1
    while place >= 0:
        kind, text = tokens[place]
        if kind == _COMMENT:
            out.append((kind, text))
        elif kind == ";":
            group(comma=True)
            out.append((kind, text))
            word_fits = in_group = True
        elif kind == ":" and in_group:
            group()
            out.append((_GROUP, ":"))
            place -= 1
            while place >= 0 and tokens[place][0] != ",":
                out.append(tokens[place])
                place -= 1
            continue
        elif kind == ">":
            group(comma=True)
            out.append((kind, text))
            place -= 1
            while place >= 0 and tokens[place][0] != "<":
                if tokens[place][0] == _COMMENT:
                    out.append(tokens[place])
                else:
                    pending.append(tokens[place])
                place -= 1
            group()
            while place >= 0 and tokens[place][0] not in (">", ";", ",", ":"):
                out.append(tokens[place])
                place -= 1
            word_fits = True
            continue
        elif kind in _WORDS:
            if not word_fits:
                group(comma=True)
            word_fits = False
            pending.append((kind, text))
        elif kind == ",":
            group()
            out.append((kind, text))
            word_fits = True
        else:
            pending.append((kind, text))
            word_fits = True
        place -= 1
    group()
    out.reverse()
    return out


def scan(value: str, limit: int = 0) -> list[Token]:
    """The tokens of a header's value, at most `limit` of them (0: all)."""
    tokens: list[Token] = []
    place = 0
    while place < len(value) and not (limit and len(tokens) >= limit):
        found = _TOKEN.match(value, place)
        if found is None:  # a lone backslash cannot be: atoms take it
            break
        place = found.end()
        match found.lastgroup:
            case "comment":
                end = _comment_end(value, place)
                tokens.append((_COMMENT, value[place - 1 : end]))
                place = end
            case "op":
                tokens.append((found["op"], found["op"]))
            case "atom":
                text = _unquote(found["atom"])
                tokens.append((_QUOTED if _NEEDS_QUOTES.search(text) else _ATOM, text))
            case None:
                continue
            case _:
                kind = _QUOTED if found["quoted"] is not None else _LITERAL
                tokens.append((kind, _unquote(found["q"] if kind == _QUOTED else found["l"])))
    return tokens


def _comment_end(value: str, place: int) -> int:
    depth = 1
    while place < len(value):
        char = value[place]
        place += 2 if char == "\\" else 1
        depth += (char == "(") - (char == ")")
        if not depth:
            break
    return min(place, len(value))


def _unquote(text: str) -> str:
    if "\\" in text:
        text = _BACKSLASH.sub(r"\1", text)
    return _SPACE.sub(" ", text)


def _internal(token: Token) -> str:
    return f"[{token[1]}]" if token[0] == _LITERAL else token[1]


def _external(token: Token) -> str:
    kind, text = token
    if kind == _QUOTED:
        return '"' + _IN_QUOTES.sub(r"\\\1", text) + '"'
    if kind == _LITERAL:
        return "[" + _IN_LITERAL.sub(r"\\\1", text) + "]"
    return text


def write(items: list[Token]) -> str:
    """The list in external form, folded."""
    lines = [""]
    for index, (kind, text) in enumerate(items):
        following = items[index + 1][0] if index + 1 < len(items) else ""
        if kind == ",":
            lines[-1] += ","
            lines.append("")
            continue
        lines[-1] += quote(text) if kind == _ADDRESS else _external((kind, text))
        if following and (
            kind == _GROUP or following == "<" or (kind in _NO_OPERATORS and following in _NO_OPERATORS)
        ):
            lines[-1] += " "
    return "\n".join(lines)


def fold(name: str, value: str) -> bytes:
    """The header `name: value`, the lines of `write` put together to at most 70 octets, with its CRLF."""
    lines = f"{name}:{value}".split("\n")
    first, *rest = (line.encode("utf-8", "surrogateescape") for line in lines)
    folded = [first]
    for line in rest:
        if len(folded[-1]) + 1 + len(line) < FOLD:
            folded[-1] += b" " + line
        else:
            folded.append(line)
    return b"\r\n\t".join(folded) + b"\r\n"
