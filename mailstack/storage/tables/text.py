"""What all tables share: errors, warnings, and the logical lines of their files (postmap(1)).

A line that begins with white space continues the one before; `#` comments and empty lines do not count. As in
Postfix a line that cannot be understood is skipped with a warning that names it, and the rest of the table
works.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from typing import Protocol

Warn = Callable[[str], None]
"""Takes one warning, in Postfix's words and without a prefix."""


class TableError(Exception):
    """A table that cannot be opened, read or understood; `str()` says which, where and why."""


class Table(Protocol):
    """A lookup table."""

    name: str
    """As it was opened: `type:name`."""

    def lookup(self, key: str) -> str | None:
        """The value of a key, or None. Raises `OSError` or `TableError`."""
        ...


Opener = Callable[[str], Table]


def to_stderr(text: str) -> None:
    """A warning where nobody has said where warnings go."""
    sys.stderr.write(f"warning: {text}\n")


def read(path: str) -> str:
    """A table's text; octets that are not UTF-8 come back as they were. Raises `OSError`."""
    with open(path, encoding="utf-8", errors="surrogateescape", newline="\n") as file:
        return file.read()


def logical_lines(text: str, path: str, warn: Warn) -> Iterator[tuple[int, str]]:
    """`(number of its first line, text with continuations joined)`."""
    first, parts = 0, [""]
    for number, line in enumerate(text.split("\n"), 1):
        bare = line.lstrip()
        if not bare or bare[0] == "#":
            continue
        if line[0] in " \t":
            if first:
                parts.append(line)
            else:
                warn(f'{path}: logical line must not start with whitespace: "{line[:50]}"')
            continue
        if first:
            yield first, "".join(parts)
        first, parts = number, [line]
    if first:
        yield first, "".join(parts)


# ---- postmap's source: `key value`

_KEY = re.compile(r'((?:"(?:[^"\\]|\\.)*"|\\.|[^\s"\\])+)(?:\s+(.*))?\Z', re.DOTALL)


def map_entries(text: str, path: str, warn: Warn, *, skipped: str = "") -> Iterator[tuple[int, str, str]]:
    """`(line, key, value)` of each `key whitespace value`; `skipped` ends the warnings about bad lines."""
    for line, logical in logical_lines(text, path, warn):
        logical = logical.strip()
        found = _KEY.match(logical)
        if found is None:
            warn(f"{path}, line {line}: unbalanced '\"' in '{logical[:100]}'{skipped}")
            continue
        key, value = found[1], found[2]
        if not value:
            warn(f"{path}, line {line}: expected format: key whitespace value{skipped}")
            continue
        if key.endswith(":"):
            warn(f'{path}, line {line}: record is in "key: value" format; is this an alias file?')
        yield line, key, value


# ---- postalias' source: `name: target, target` (aliases(5))

_ALIAS = re.compile(r'\s*("(?:[^"\\]|\\.)*"|[^\s":,]+)\s*:(?:\s|$|["|/:\\\w])')


def is_aliases(text: str, path: str) -> bool:
    """Whether the first entry is one of aliases(5)."""
    for _, logical in logical_lines(text, path, lambda warning: None):
        return _ALIAS.match(logical) is not None
    return False


def alias_entries(text: str, path: str, warn: Warn) -> Iterator[tuple[int, str, str]]:
    """`(line, name, targets)` of each alias; a quoted name comes without its quotes."""
    for line, logical in logical_lines(text, path, warn):
        found = _ALIAS.match(logical)
        if found is None:
            warn(f"{path}, line {line}: need name:value pair")
            continue
        name = found[1]
        if name.startswith('"'):
            name = re.sub(r"\\(.)", r"\1", name[1:-1])
        if "@" in name:
            warn(f"{path}, line {line}: name must be local")
            continue
        value = logical[logical.index(":", found.end(1)) + 1 :].strip()
        if not value:
            warn(f"{path}, line {line}: need name:value pair")
            continue
        yield line, name, value
