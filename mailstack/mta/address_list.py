"""Lists of addresses as people write them: in headers, and as arguments of sendmail(1).

Read as leniently as Postfix reads them: names, comments and group names are left out, source routes are taken
off, and words side by side that no `<…>` follows are addresses of their own. The results are in internal form
(no quotes, no backslashes); one without a domain stays so. Standards: RFC 5322 §3.4, §4.4.
"""

from __future__ import annotations

import re

_TOKEN = re.compile(
    r"""
      (?P<space>[ \t\r\n]+)
    | (?P<quoted>"(?:[^"\\]|\\.)*"?)
    | (?P<literal>\[(?:[^\[\]\\]|\\.)*\]?)
    | (?P<open>\()
    | (?P<special>[,:;<>@.])
    | (?P<atom>(?:[^ \t\r\n"\[(,:;<>@.\\]|\\.)+)
    | (?P<other>.)
    """,
    re.VERBOSE | re.DOTALL,
)
_BACKSLASH = re.compile(r"\\(.)", re.DOTALL)
_GLUE = frozenset("@.")


def parse_list(text: str) -> list[str]:
    """Every address in `text`, in order; the null address is left out."""
    found: list[str] = []
    words: list[list[str]] = []
    """Addresses since the last comma that may yet prove to be a name before `<`."""
    inside = False
    gap = True
    position = 0
    while position < len(text):
        token = _TOKEN.match(text, position)
        assert token is not None  # every character has a pattern
        position = token.end()
        value = token[0]
        match token.lastgroup:
            case "space":
                gap = True
            case "open":
                position = _comment_end(text, position)
                gap = True
            case "special" if value == "<":
                words, inside, gap = [], True, True
            case "special" if value in ",;" and not inside:
                found += _joined(words)
                words, gap = [], True
            case "special" if value == ">":
                found += _joined(words)
                words, inside, gap = [], False, True
            case "special" if value in ":,;":  # a group's name; the end of a route inside brackets
                words, gap = [], True
            case _:
                glued = value in _GLUE or (words and words[-1] and words[-1][-1] in _GLUE)
                if (gap and not inside and not glued) or not words:
                    words.append([])
                words[-1].append(_unquoted(value))
                gap = False
    return found + _joined(words)


def _joined(words: list[list[str]]) -> list[str]:
    return [address for address in ("".join(parts) for parts in words) if address]


def _unquoted(token: str) -> str:
    if token[0] == '"':
        token = token[1:-1] if token.endswith('"') and len(token) > 1 else token[1:]
    return _BACKSLASH.sub(r"\1", token) if "\\" in token else token


def _comment_end(text: str, position: int) -> int:
    """Behind the comment whose `(` stands before `position`."""
    depth = 1
    while depth and position < len(text):
        match text[position]:
            case "\\":
                position += 1
            case "(":
                depth += 1
            case ")":
                depth -= 1
        position += 1
    return position
