r"""The targets of an alias, a forward file or an :include: file, as Postfix's local(8) reads them.

A target is a `|command`, a `/file/name`, a `~/file/name` (a user's), an `:include:/file/name`, or an address.
They stand in lists as RFC 5322 has them: separated by `,` or `;`, or side by side; addresses may have
names, comments and `<…>` (mta/address_list.py). A command with blanks is quoted, the whole of it or what
stands behind the `|`. Quotes that do not close end with the text.
"""

from __future__ import annotations

import re

from mailstack.mta.address_list import parse_list

_PIECE = re.compile(
    r"""
      [ \t\r\n]+
    | "(?:[^"\\]|\\.)*"?
    | \((?:[^()\\]|\\.)*\)?
    | <[^<>"]*>?
    | [,;]
    | (?:[^ \t\r\n"(<,;\\]|\\.)+
    | .
    """,
    re.VERBOSE | re.DOTALL,
)
_BACKSLASH = re.compile(r"\\(.)", re.DOTALL)
_SPECIAL = re.compile(r'"?(?:[|/~]|:include:)', re.IGNORECASE)


def split_targets(text: str) -> list[str]:
    """Every target in `text`: addresses in internal form (no quotes), the others without theirs."""
    found: list[str] = []
    statement: list[str] = []
    for match in _PIECE.finditer(text):
        if match[0] in (",", ";"):
            found += _targets(statement)
            statement = []
        elif statement or not match[0].isspace():
            statement.append(match[0])
    return found + _targets(statement)


def _targets(pieces: list[str]) -> list[str]:
    """What stands between two separators."""
    found: list[str] = []
    while pieces and _SPECIAL.match(pieces[0]):
        target = _plain(pieces.pop(0))
        if target == "|" and pieces and pieces[0].isspace():
            pieces.pop(0)
        while pieces and not pieces[0].isspace() and (target == "|" or pieces[0][0] not in '"('):
            target += _plain(pieces.pop(0))
        found.append(target)
        while pieces and pieces[0].isspace():
            pieces.pop(0)
    return found + parse_list("".join(pieces))


def _plain(piece: str) -> str:
    if piece[0] == '"':
        piece = piece[1:-1] if piece.endswith('"') and len(piece) > 1 else piece[1:]
    return _BACKSLASH.sub(r"\1", piece)


def lines_of(text: str) -> list[str]:
    """The targets in the text of a forward or :include: file."""
    return [target for line in text.splitlines() if line[:1] != "#" for target in split_targets(line)]
