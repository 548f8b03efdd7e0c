"""Logical lines, as every file of Postfix has them (postconf(5), "file format").

A line that starts with white space continues the one before it; empty lines, lines of white space, and lines
whose first character other than white space is `#` are skipped wherever they stand, also inside a continued
line.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mailstack.config.errors import ConfigError


def read_text(path: Path) -> str:
    """The file as text (UTF-8, anything else kept as surrogates). Raises `ConfigError`."""
    try:
        return path.read_bytes().decode("utf-8", "surrogateescape")
    except OSError as error:
        raise ConfigError(path, 0, f"open: {error.strerror}") from None


def logical_lines(text: str, path: Path) -> Iterator[tuple[int, str]]:
    """`(number of its first line, text with continuations joined)` of each logical line.

    Raises `ConfigError` when the first line is a continuation of nothing, or holds a NUL.
    """
    first, parts = 0, [""]
    for number, line in enumerate(text.split("\n"), 1):
        bare = line.lstrip(" \t\r\v\f")
        if not bare or bare[0] == "#":
            continue
        if "\0" in line:
            raise ConfigError(path, number, "NUL in the file")
        if line[0] in " \t":
            if not first:
                raise ConfigError(path, number, f"logical line must not start with whitespace: {bare[:30]!r}")
            parts.append(line)
            continue
        if first:
            yield first, "".join(parts)
        first, parts = number, [line]
    if first:
        yield first, "".join(parts)


def words(text: str, separators: str = ", \t\r\n") -> list[str]:
    """Split at separators, but not inside `{ … }` (postconf(5): lists). Braces stay in the words."""
    if "{" not in text:
        for separator in separators[1:]:
            text = text.replace(separator, separators[0])
        return [word for word in text.split(separators[0]) if word]
    found: list[str] = []
    word = ""
    depth = 0
    for char in text:
        if char in separators and not depth:
            if word:
                found.append(word)
            word = ""
            continue
        if char == "{":
            depth += 1
        elif char == "}":
            depth = max(0, depth - 1)
        word += char
    if word:
        found.append(word)
    return found
