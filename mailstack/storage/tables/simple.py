"""Tables without a file: inline:, static:, environ:, unix:, fail:, and those made of others."""

from __future__ import annotations

import os
import random
import re
from collections.abc import Callable, Sequence

from mailstack.storage.tables.text import Opener, Table, TableError, Warn

Lookup = Callable[[str], "str | None"]


class Fixed:
    """A table that is a function."""

    __slots__ = ("lookup", "name")

    def __init__(self, name: str, lookup: Lookup) -> None:
        self.name = name
        self.lookup = lookup


def static(name: str, rest: str) -> Table:
    """`static:text`, `static:{text with spaces}`: the same value for every key."""
    value = rest[1:-1].strip() if rest.startswith("{") and rest.endswith("}") else rest
    if not value:
        raise TableError(f'open dictionary: expecting "type:name" form instead of "{name}"')
    return Fixed(name, lambda key: value)


def inline(name: str, rest: str) -> Table:
    """`inline:{ key = value, { key = value with spaces } }`; of equal keys the last one counts."""
    get = {key.lower(): value for key, value in inline_entries(name, rest)}.get
    return Fixed(name, lambda key: get(key.lower()))


def inline_entries(name: str, rest: str) -> list[tuple[str, str]]:
    """(key, value) of an inline: table as they are written. Raises `TableError`."""
    entries: list[tuple[str, str]] = []
    for element in members(name, rest, "name=value"):
        text = element[1:-1] if element.startswith("{") else element
        key, equals, value = text.partition("=")
        if not equals:
            raise TableError(f'missing \'=\' after attribute name: "{name}"; need "inline:{{name=value...}}"')
        if not key.strip():
            raise TableError(f'missing attribute name: "{name}"; need "inline:{{name=value...}}"')
        entries.append((key.strip(), value.strip()))
    return entries


def rules(name: str, rest: str, parse: Callable[[str, str, Warn], Lookup], warn: Warn) -> Table:
    """`regexp:{ { rule }, { rule } }`: a table of patterns whose lines stand in main.cf."""
    lines = []
    for element in members(name, rest, "{rule}"):
        if not element.startswith("{"):
            raise TableError(f'bad syntax: "{name}"; need "{name.partition(":")[0]}:{{{{rule}}...}}"')
        lines.append(element[1:-1].strip())
    return Fixed(name, parse("\n".join(lines), name, warn))


def environ(name: str, rest: str) -> Table:
    """`environ:`: the variables of this process."""
    return Fixed(name, os.environ.get)


def fail(name: str, rest: str) -> Table:
    """`fail:anything`: every look-up is a temporary error."""

    def lookup(key: str) -> str | None:
        raise TableError(f"table {name}: query error: Application error")

    return Fixed(name, lookup)


def unix(name: str, rest: str) -> Table:
    """`unix:passwd.byname`, `unix:group.byname`: the accounts and groups of this machine."""
    if rest == "passwd.byname":
        return Fixed(name, _account)
    if rest == "group.byname":
        return Fixed(name, _group)
    raise TableError(f"unknown table: {name}")


def _account(key: str) -> str | None:
    import pwd  # rarely wanted

    try:
        return ":".join(str(field) for field in pwd.getpwnam(key.lower()))
    except (KeyError, ValueError):
        return None


def _group(key: str) -> str | None:
    import grp  # rarely wanted

    try:
        entry = grp.getgrnam(key.lower())
    except (KeyError, ValueError):
        return None
    return f"{entry.gr_name}:{entry.gr_passwd}:{entry.gr_gid}:{','.join(entry.gr_mem)}"


# ---- made of others


def pipemap(name: str, rest: str, opener: Opener) -> Table:
    """`pipemap:{type:name, …}`: the value of each table is the key of the next."""
    tables = _open_members(name, rest, opener)

    def lookup(key: str) -> str | None:
        value: str | None = key
        for table in tables:
            if value is None:
                break
            value = table.lookup(value)
        return value

    return Fixed(name, lookup)


def unionmap(name: str, rest: str, opener: Opener) -> Table:
    """`unionmap:{type:name, …}`: what each table says, with commas between; one failure fails all."""
    tables = _open_members(name, rest, opener)

    def lookup(key: str) -> str | None:
        values = [table.lookup(key) for table in tables]
        return ",".join(value for value in values if value is not None) or None

    return Fixed(name, lookup)


def randmap(name: str, rest: str) -> Table:
    """`randmap:{value, …}`: one of the values, by chance, for every key."""
    values = members(name, rest, "value")
    return Fixed(name, lambda key: random.choice(values))  # noqa: S311 - spreads load, hides nothing


def _open_members(name: str, rest: str, opener: Opener) -> Sequence[Table]:
    found = members(name, rest, "type:name")
    return [opener(text[1:-1].strip() if text.startswith("{") else text) for text in found]


_ELEMENT = re.compile(r"[\s,]*((?:[^\s,{}]|\{(?:[^{}]|\{(?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*\})*\})+)")


def members(name: str, rest: str, what: str) -> list[str]:
    """The elements of `{a, b {c d}}`, parted by white space and commas. Raises `TableError`."""
    kind = name.partition(":")[0]
    bad = TableError(f'bad syntax: "{name}"; need "{kind}:{{{what}...}}"')
    if not (rest.startswith("{") and rest.endswith("}")) or len(rest) < 2:
        raise bad
    text = re.sub(r"\s*=\s*", "=", rest[1:-1]) if kind == "inline" else rest[1:-1]
    found, position = [], 0
    while match := _ELEMENT.match(text, position):
        found.append(match[1])
        position = match.end()
    if text[position:].strip(" \t\r\n,") or not found:
        raise bad
    return found
