"""`$name` expansion, as mac_expand(3) of Postfix 3.7 does it.

    $name  ${name}  $(name)      the parameter's value, itself expanded; nothing when it is not set
    ${name?text}  ${name?{text}}           text when name has a value
    ${name:text}  ${name:{text}}           text when it has none
    ${name?{text}:{text}}
    ${{left} OP {right} ? {text} : {text}} OP: == != < <= > >= and the same with `level` (3.6-style releases)
    $$                           one dollar

Texts are expanded too. A parameter that contains itself, however far around, is an error.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from typing import Any

NESTING = 20
"""How deep references may nest."""

Lookup = Callable[[str], "str | None"]
"""The unexpanded value of a name, or None."""


class ExpansionError(Exception):
    """A text that cannot be expanded; `str()` says why."""


_PLAIN = re.compile(r"[A-Za-z0-9_]+")
_NAME = re.compile(r"[ \t\r\n]*([A-Za-z0-9_\-]*)[ \t\r\n]*")
_OPERATOR = re.compile(r"[ \t\r\n]*(==level|!=level|<=level|>=level|<level|>level|==|!=|<=|>=|<|>)[ \t\r\n]*")
_SPACE = " \t\r\n"
_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def expand(text: str, lookup: Lookup, inside: tuple[str, ...] = ()) -> str:
    """`text` with every reference replaced; `inside`: parameters being expanded. Raises `ExpansionError`."""
    if "$" not in text:
        return text
    if len(inside) > NESTING:
        raise ExpansionError(f"unreasonable macro call nesting: ${inside[0]}")
    out: list[str] = []
    position = 0
    while True:
        dollar = text.find("$", position)
        if dollar < 0 or dollar == len(text) - 1:
            out.append(text[position:])
            return "".join(out)
        out.append(text[position:dollar])
        after = text[dollar + 1]
        if after == "$":
            out.append("$")
            position = dollar + 2
        elif after in "{(":
            end = _closing(text, dollar + 1)
            out.append(_braced(text[dollar + 2 : end], lookup, inside))
            position = end + 1
        else:
            found = _PLAIN.match(text, dollar + 1)
            if found is None:
                raise ExpansionError(f"a name must follow the $ in {text!r}")
            out.append(_value(found[0], lookup, inside))
            position = found.end()


def references(text: str) -> set[str]:
    """Names that `text` refers to, in whatever form."""
    return set(re.findall(r"\$[({]?\s*([A-Za-z0-9_]+)", text))


def _closing(text: str, opening: int) -> int:
    """The index of the bracket that closes the one at `opening`."""
    left, right = ("{", "}") if text[opening] == "{" else ("(", ")")
    depth = 0
    for index in range(opening, len(text)):
        if text[index] == left:
            depth += 1
        elif text[index] == right:
            depth -= 1
            if not depth:
                return index
    raise ExpansionError(f"truncated macro reference: {text[opening - 1 :]!r}")


def _value(name: str, lookup: Lookup, inside: tuple[str, ...]) -> str:
    if name in inside:
        raise ExpansionError(f"parameter {name} refers to itself: {' -> '.join((*inside, name))}")
    raw = lookup(name)
    return "" if raw is None else expand(raw, lookup, (*inside, name))


def _braced(body: str, lookup: Lookup, inside: tuple[str, ...]) -> str:
    """What stands between `${` and `}`."""
    if body.lstrip(_SPACE).startswith("{"):
        holds, rest = _relation(body.lstrip(_SPACE), lookup, inside)
        name = ""
    else:
        found = _NAME.match(body)
        assert found is not None  # every part of the pattern may be empty
        name, rest = found[1], body[found.end() :]
        if not name:
            raise ExpansionError(f"a name must follow the ${{ in ${{{body}}}")
        if not rest:
            return _value(name, lookup, inside)
        holds = bool(lookup(name))
    if not rest:
        return "true" if holds else ""
    if rest[0] not in "?:":
        raise ExpansionError(f"expected ? or : after {name or 'the comparison'} in ${{{body}}}")
    chosen, rest_of = _branch(rest[1:])
    if rest[0] == ":":
        if rest_of:
            raise ExpansionError(f"excess text {rest_of!r} in ${{{body}}}")
        return "" if holds else expand(chosen, lookup, inside)
    other = ""
    if rest_of:
        if rest_of[0] != ":":
            raise ExpansionError(f"excess text {rest_of!r} in ${{{body}}}")
        other, excess = _branch(rest_of[1:])
        if excess:
            raise ExpansionError(f"excess text {excess!r} in ${{{body}}}")
    return expand(chosen if holds else other, lookup, inside)


def _branch(text: str) -> tuple[str, str]:
    """`{text}` and what follows it, or all of an unbraced text."""
    if not text.lstrip(_SPACE).startswith("{"):
        return text, ""
    text = text.lstrip(_SPACE)
    end = _closing(text, 0)
    return text[1:end].strip(_SPACE), text[end + 1 :].strip(_SPACE)


def _relation(text: str, lookup: Lookup, inside: tuple[str, ...]) -> tuple[bool, str]:
    """`{left} OP {right}` and what follows it."""
    end = _closing(text, 0)
    left = expand(text[1:end].strip(_SPACE), lookup, inside)
    found = _OPERATOR.match(text, end + 1)
    if found is None or text[found.end() : found.end() + 1] != "{":
        raise ExpansionError(f"expected {{value}} operator {{value}} in ${{{text}}}")
    stop = _closing(text, found.end())
    right = expand(text[found.end() + 1 : stop].strip(_SPACE), lookup, inside)
    rest = text[stop + 1 :].strip(_SPACE)
    compare = _COMPARE[found[1].removesuffix("level")]
    if found[1].endswith("level"):
        return compare(_level(left), _level(right)), rest
    if left.isdecimal() and right.isdecimal():
        return compare(int(left), int(right)), rest
    return compare(left, right), rest


def _level(text: str) -> tuple[int, int, int]:
    parts = text.split(".")
    if not 1 <= len(parts) <= 3 or not all(part.isdecimal() for part in parts):
        raise ExpansionError(f"bad compatibility level {text!r}")
    numbers = [int(part) for part in parts] + [0, 0]
    return numbers[0], numbers[1], numbers[2]
