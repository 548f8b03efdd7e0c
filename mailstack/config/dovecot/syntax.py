"""The grammar of dovecot.conf (Dovecot 2.3), read into a tree of settings and sections.

    # a comment; also after a value, where a space goes before it
    key = value                 # quotes around a whole value are taken off; \\ escapes inside them
    key = one \\
      two                       # continued: reads "one two"
    key = <file                 # the file's content (ssl_cert, ssl_key: the file)
    key = $other more           # a word that begins with $ is another setting's value so far; $ENV:NAME
    section [name] {
      key = value
    }
    !include glob               # no match is an error; relative to the including file
    !include_try glob

Checked against `doveconf`: what it refuses, this refuses with the same file and line. Sections of the same
type and name are one section, unnamed ones are not. Raises `ConfigError`.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mailstack.config.errors import ConfigError

INCLUDE_DEPTH = 20
_WHITE = " \t\r"


@dataclass(frozen=True, slots=True)
class Origin:
    """Where something stands: `path:line`."""

    path: Path
    line: int

    def error(self, message: str) -> ConfigError:
        """An error at this place."""
        return ConfigError(self.path, self.line, message)

    def __str__(self) -> str:
        return f"{self.path}:{self.line}"


@dataclass(frozen=True, slots=True)
class Setting:
    """One `key = value`. With `file`, the value is that file's content and `text` is its absolute path."""

    key: str
    text: str
    origin: Origin
    file: bool = False

    def content(self) -> str:
        """The value itself. Raises `ConfigError` when it is a file that cannot be read."""
        if not self.file:
            return self.text
        try:
            return Path(self.text).read_text("utf-8", "surrogateescape")
        except OSError as error:
            raise self.origin.error(f"{self.key}: Can't open file {self.text}: {error.strerror}") from None


@dataclass(slots=True)
class Section:
    """One `type name { … }`, or the whole file (type empty)."""

    type: str
    name: str
    origin: Origin
    settings: dict[str, Setting] = field(default_factory=dict)
    """The last one of each key wins."""
    sections: list[Section] = field(default_factory=list)
    parent: Section | None = None

    def get(self, key: str) -> Setting | None:
        """The setting in this very section."""
        return self.settings.get(key)

    def all(self, type_: str) -> Iterator[Section]:
        """The sections of one type right below, in order."""
        return (section for section in self.sections if section.type == type_)

    def child(self, type_: str, name: str, origin: Origin) -> Section:
        """The section to read into: the one of that type and name, or a new one."""
        for section in self.sections:
            if name and section.type == type_ and section.name == name:
                return section
        section = Section(type_, name, origin, parent=self)
        self.sections.append(section)
        return section


def parse(path: Path, defaults: Mapping[str, str]) -> Section:
    """Read the file and all that it includes. `defaults`: values of `$name` for settings that are not set.

    Raises `ConfigError`.
    """
    reader = _Reader(defaults)
    root = Section("", "", Origin(path, 0))
    reader.file(path, root, 0)
    return root


class _Reader:
    def __init__(self, defaults: Mapping[str, str]) -> None:
        self._defaults = defaults

    def file(self, path: Path, section: Section, depth: int) -> None:
        """Read one file into `section`; it has to end in the section where it began."""
        if depth > INCLUDE_DEPTH:
            raise ConfigError(path, 0, f"more than {INCLUDE_DEPTH} nested !include")
        try:
            text = path.read_bytes().decode("utf-8", "surrogateescape")
        except OSError as error:
            raise ConfigError(path, 0, f"cannot be read: {error.strerror}") from None
        current = section
        for origin, line in _lines(path, text):
            current = self._line(current, section, origin, line, depth)
        if current is not section:
            raise ConfigError(path, 0, f"Missing '}}' (section started at {current.origin})")

    def _line(self, current: Section, top: Section, origin: Origin, line: str, depth: int) -> Section:
        key, rest = _key(line)
        if key in ("!include", "!include_try"):
            self._include(rest, key == "!include", current, origin, depth)
            return current
        if rest.startswith("="):
            setting = self._setting(key, rest[1:].lstrip(_WHITE), current, origin)
            current.settings[key] = setting
            return current
        if key == "}" and not rest:
            if current is top or current.parent is None:
                raise origin.error("Unexpected '}'")
            return current.parent
        name, brace = _section_name(rest, origin)
        if not brace.startswith("{"):
            raise origin.error("Expecting '{'")
        if brace != "{":
            raise origin.error("Garbage after '{'")
        return current.child(key, name, origin)

    def _include(self, pattern: str, needed: bool, section: Section, origin: Origin, depth: int) -> None:
        if not pattern:
            raise origin.error("No matches")
        full = os.path.join(origin.path.parent, pattern)
        found = sorted(glob.glob(full)) if glob.has_magic(full) else [full] if os.path.exists(full) else []
        if needed and not found:
            raise origin.error(f"No matches for {pattern}")
        for path in found:
            self.file(Path(path), section, depth + 1)

    def _setting(self, key: str, value: str, section: Section, origin: Origin) -> Setting:
        if value.startswith("<"):
            return Setting(key, os.path.join(origin.path.parent, value[1:].strip(_WHITE)), origin, file=True)
        if value[:1] in ("'", '"'):
            if len(value) > 1 and value[-1] == value[0]:
                return Setting(key, _unescape(value[1:-1]), origin)
            return Setting(key, value, origin)
        if "$" in value:
            words = value.split(" ")
            value = " ".join(
                self._variable(word[1:], section, origin) if word.startswith("$") else word for word in words
            )
        return Setting(key, value, origin)

    def _variable(self, name: str, section: Section | None, origin: Origin) -> str:
        if name.startswith("ENV:"):
            return os.environ.get(name[4:], "")
        while section is not None:
            setting = section.get(name)
            if setting is not None:
                return setting.content()
            section = section.parent
        if name in self._defaults:
            return self._defaults[name]
        raise origin.error(f"Unknown variable: ${name}")


def _lines(path: Path, text: str) -> Iterator[tuple[Origin, str]]:
    """Logical lines without comments, with the number of their first physical line."""
    held = ""
    start = 0
    for number, raw in enumerate(text.split("\n"), 1):
        line = _strip_comment(raw.lstrip(_WHITE)).rstrip(_WHITE)
        if not line:
            if held and raw.strip(_WHITE):
                raise ConfigError(path, number, "comment inside a continued line")
            if not held:
                continue
        start = start or number
        if line.endswith("\\"):
            line = line[:-1].rstrip(_WHITE)
            held += line + " " if line else ""
            continue
        yield Origin(path, start), held + line
        held, start = "", 0
    if held:
        raise ConfigError(path, start, "the last line is continued")


def _strip_comment(line: str) -> str:
    if "#" not in line:
        return line
    position = 0
    while position < len(line):
        char = line[position]
        if char == "#":
            return line[:position]
        if char in "'\"":
            position += 1
            while position < len(line) and line[position] != char:
                position += 2 if line[position] == "\\" else 1
        position += 1
    return line


def _key(line: str) -> tuple[str, str]:
    """The first word, and what follows it without leading white space."""
    end = 0
    while end < len(line) and line[end] not in " \t=":
        end += 1
    return line[:end], line[end:].lstrip(_WHITE)


def _section_name(rest: str, origin: Origin) -> tuple[str, str]:
    if rest.startswith("{"):
        return "", rest
    if not rest.startswith('"'):
        name, _, brace = rest.replace("\t", " ").partition(" ")
        return name, brace.lstrip(_WHITE)
    end = 1
    while end < len(rest) and rest[end] != '"':
        end += 2 if rest[end] == "\\" else 1
    if end >= len(rest):
        raise origin.error("Missing '\"'")
    return _unescape(rest[1:end]), rest[end + 1 :].lstrip(_WHITE)


def _unescape(text: str) -> str:
    if "\\" not in text:
        return text
    parts = text.split("\\\\")
    return "\\".join(part.replace("\\", "") for part in parts)
