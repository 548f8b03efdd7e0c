"""Tables that are searched line by line: cidr_table(5), regexp_table(5), pcre_table(5).

Lines are tried in order and the first that matches gives the value. `!` turns a pattern round; `if pattern` …
`endif` encloses lines that are tried only when it matches.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from typing import NamedTuple

from mailstack.storage.table_text import TableError, logical_lines

__all__ = ["TableError", "parse_cidr", "parse_patterns"]

_Match = Callable[[str], "re.Match[str] | bool | None"]
_PATTERN = re.compile(r"(!?)\s*([^\w\s])((?:\\.|(?!\2).)*)\2(\w*)\s*(.*)\Z", re.DOTALL)
_REFERENCE = re.compile(r"\$(?:\$|(\d+)|\{(\d+)\}|\((\d+)\))")
_END = re.compile(r"endif\s*\Z")


class _Rule(NamedTuple):
    """A line: `if` lines have no value and jump to `end` when they do not match."""

    match: _Match
    value: str | None
    end: int = 0


def parse_cidr(text: str, path: str) -> Callable[[str], str | None]:
    """The lookup of a cidr: file. Raises `TableError`."""
    return _lookup(_rules(text, path, _cidr_rule))


def parse_patterns(text: str, path: str) -> Callable[[str], str | None]:
    """The lookup of a regexp: or pcre: file; patterns are Python's, nearly PCRE. Raises `TableError`."""
    return _lookup(_rules(text, path, _pattern_rule))


def _rules(text: str, path: str, parse: Callable[[str], tuple[_Match, str]]) -> list[_Rule]:
    rules: list[_Rule] = []
    opened: list[int] = []
    for line, logical in logical_lines(text, path):
        logical = logical.strip()
        if _END.match(logical):
            if not opened:
                raise TableError(f"{path}, line {line}: endif without if")
            index = opened.pop()
            rules[index] = rules[index]._replace(end=len(rules))
            continue
        conditional = re.match(r"if\s+(?=\S)", logical)
        try:
            match, value = parse(logical[conditional.end() :] if conditional else logical)
        except ValueError as error:
            raise TableError(f"{path}, line {line}: {error}") from None
        if conditional:
            opened.append(len(rules))
            rules.append(_Rule(match, None))
        elif not value:
            raise TableError(f"{path}, line {line}: no value after the pattern")
        else:
            rules.append(_Rule(match, value))
    if opened:
        raise TableError(f"{path}: if without endif")
    return rules


def _lookup(rules: list[_Rule]) -> Callable[[str], str | None]:
    def lookup(key: str) -> str | None:
        index = 0
        while index < len(rules):
            rule = rules[index]
            found = rule.match(key)
            if rule.value is None:
                index = index + 1 if found else rule.end
            elif found:
                return _fill(rule.value, found)
            else:
                index += 1
        return None

    return lookup


def _fill(value: str, found: re.Match[str] | bool) -> str:
    if "$" not in value or not isinstance(found, re.Match):
        return value
    match = found

    def group(reference: re.Match[str]) -> str:
        number = reference[1] or reference[2] or reference[3]
        return "$" if number is None else (match[int(number)] or "")

    return _REFERENCE.sub(group, value)


def _cidr_rule(text: str) -> tuple[_Match, str]:
    negated = text.startswith("!")
    pattern, _, value = text.lstrip("! \t").partition(" " if " " in text else "\t")
    if "\t" in pattern:
        pattern, _, value = text.lstrip("! \t").partition("\t")
    network = ipaddress.ip_network(pattern.strip("[]").replace("]/", "/"))

    def match(key: str) -> bool:
        try:
            address = ipaddress.ip_address(key)
        except ValueError:
            return False
        return address.version == network.version and (address in network) != negated

    return match, value.strip()


def _pattern_rule(text: str) -> tuple[_Match, str]:
    parts = _PATTERN.match(text)
    if parts is None:
        raise ValueError(f"expected /pattern/flags value, not {text!r}")
    negated, _, source, letters, value = parts.groups()
    flags = re.IGNORECASE
    for letter in letters:
        # Each letter toggles; patterns ignore case unless `i` is given.
        match letter:
            case "i":
                flags ^= re.IGNORECASE
            case "m":
                flags ^= re.MULTILINE
            case "s":
                flags ^= re.DOTALL
            case "x":
                flags ^= re.VERBOSE
            case _:
                raise ValueError(f"unknown flag {letter!r}")
    try:
        compiled = re.compile(source, flags)
    except re.error as error:
        raise ValueError(f"bad pattern {source!r}: {error}") from None
    highest = max((int(a or b or c or 0) for a, b, c in _REFERENCE.findall(value)), default=0)
    if highest > compiled.groups:
        raise ValueError(f"${highest} refers to a group that {source!r} does not have")
    if negated:
        return (lambda key: compiled.search(key) is None), value.strip()
    return compiled.search, value.strip()
