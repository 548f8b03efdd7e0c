"""What tables with a configuration file share: the file, `%s` templates, `domain` (sqlite_table(5)).

A template stands for nothing (None) where the key lacks a part that it names: `%d` without a domain, `%u`
with an empty local part, `%3` with too few labels. Then there is nothing to ask, and no answer.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from mailstack.storage.tables.text import Opener, Table, TableError, Warn, logical_lines, read

_EXPANSION = re.compile(r"%(.?)", re.DOTALL)


class ConfigFile:
    """`name = value` lines. Raises `OSError`, `TableError`."""

    def __init__(self, name: str, path: str, known: frozenset[str], warn: Warn) -> None:
        if not path.startswith("/"):
            raise TableError(f"open {name}: the file's name must begin with /")
        self.name = name
        self.path = path
        self._values: dict[str, str] = {}
        for line, logical in logical_lines(read(path), path, warn):
            key, equals, value = logical.partition("=")
            key = key.strip()
            if not equals or not key:
                raise TableError(f"{path}, line {line}: missing '=' after attribute name: \"{logical[:50]}\"")
            if key not in known:
                warn(f"{path}, line {line}: unused parameter: {key}={value.strip()}")
            self._values[key] = " ".join(value.split())

    def text(self, key: str, default: str | None = None) -> str:
        """A value; without a default it must be there. Raises `TableError`."""
        value = self._values.get(key, default)
        if value is None:
            raise TableError(f"{self.path}: the parameter {key} is missing")
        return value

    def number(self, key: str, default: int, *, minimum: int = 0) -> int:
        """An integer. Raises `TableError`."""
        text = self._values.get(key)
        if text is None:
            return default
        try:
            value = int(text)
        except ValueError:
            value = minimum - 1
        if value < minimum:
            raise TableError(f"{self.path}: bad numerical configuration: {key} = {text}")
        return value


def check_template(path: str, name: str, template: str) -> str:
    """The template itself. Raises `TableError` when it has an expansion that nobody knows."""
    for found in _EXPANSION.finditer(template):
        if found[1] not in tuple("%sudSUD123456789"):
            raise TableError(f"{path}: {name}: Invalid parameter expansion: %{found[1]}")
    return template


def expand(
    template: str, key: str, value: str | None = None, quote: Callable[[str], str] = lambda text: text
) -> str | None:
    """A template filled with a key, or with what was found for a key; None where a part is missing.

    `%s %u %d` are of the value where there is one, `%S %U %D %1…%9` of the key. `quote` makes what is put in
    harmless.
    """
    subject = key if value is None else value
    if not subject:
        return None
    missing = False

    def part(found: re.Match[str]) -> str:
        nonlocal missing
        letter = found[1]
        if letter == "%":
            return "%"
        source = subject if letter in "sud" else key
        local, at, domain = source.rpartition("@")
        text: str | None
        match letter.lower():
            case "s":
                text = source
            case "u":
                text = (local or None) if at else source
            case "d":
                text = domain if at else None
            case _:
                labels = (domain if at else source).split(".")[::-1]
                number = int(letter)
                text = labels[number - 1] if at and number <= len(labels) else None
        if not text:
            missing = True
            return ""
        return quote(text)

    filled = _EXPANSION.sub(part, template)
    return None if missing else filled


class Domains:
    """The parameter `domain`: names, `/files` of names, `type:tables`, `!exceptions`; empty: all."""

    def __init__(self, text: str, opener: Opener) -> None:
        self._entries: list[tuple[bool, str | Table]] = []
        for word in _words(text):
            name = word.lstrip("!")
            self._entries.append((not word.startswith("!"), opener(name) if ":" in name else name.lower()))

    def match(self, key: str) -> bool:
        """Whether the key may be asked for: an address with a local part, in a domain of the list."""
        if not self._entries:
            return True
        local, _, domain = key.lower().rpartition("@")
        if not local:
            return False
        for wanted, entry in self._entries:
            if domain == entry if isinstance(entry, str) else entry.lookup(domain) is not None:
                return wanted
        return False


def _words(text: str) -> list[str]:
    words: list[str] = []
    for word in text.replace(",", " ").split():
        name = word.lstrip("!")
        if name.startswith("/"):
            mark = "!" if word.startswith("!") else ""
            lines = [line for line in read(name).split("\n") if not line.lstrip().startswith("#")]
            words += [mark + inner for inner in _words(" ".join(lines))]
        else:
            words.append(word)
    return words
