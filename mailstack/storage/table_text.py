"""Logical lines of table files: continuation by leading white space, `#` comments (postmap(1))."""

from __future__ import annotations

from collections.abc import Iterator


class TableError(Exception):
    """A table that cannot be opened or understood; `str()` says which, where and why."""


def logical_lines(text: str, path: str) -> Iterator[tuple[int, str]]:
    """`(number of its first line, text with continuations joined)`. Raises `TableError`."""
    first, parts = 0, [""]
    for number, line in enumerate(text.split("\n"), 1):
        bare = line.lstrip()
        if not bare or bare[0] == "#":
            continue
        if line[0] in " \t":
            if not first:
                raise TableError(f"{path}, line {number}: logical line must not start with whitespace")
            parts.append(line)
            continue
        if first:
            yield first, "".join(parts)
        first, parts = number, [line]
    if first:
        yield first, "".join(parts)
