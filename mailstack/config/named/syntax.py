"""The grammar that all of named.conf shares: words, quoted strings, blocks, comments and `include`.

A statement is a run of words and `{ … }` blocks that ends in `;`. What a statement means is not known here.
Comments are `// …`, `# …` and `/* … */`; they may stand inside statements, and not inside strings.

Raises `ConfigError` with the line of the offending token. Nesting and inclusion are bounded, so that no file
can exhaust the stack.

Standards: BIND 9.18's named.conf(5).
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mailstack.config.errors import ConfigError

DEPTH_LIMIT = 40
"""Blocks within blocks, and files included by files."""
SIZE_LIMIT = 64 * 1024 * 1024
"""Octets of one file."""

_TOKEN = re.compile(
    r"""(?P<blank>[ \t\r\n\f\v]+|//[^\n]*|\#[^\n]*|/\*.*?\*/)
      | "(?P<string>(?:[^"\\\n]|\\.)*)"
      | (?P<special>[{};!=])
      | (?P<word>(?:[^\s"{};!=\#/]|/(?![/*]))+)""",
    re.VERBOSE | re.DOTALL,
)
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Word:
    """A bare word, a quoted string (escapes undone), `!` or `=`."""

    text: str
    line: int
    quoted: bool = False


@dataclass(frozen=True, slots=True)
class Block:
    """`{ … }`."""

    statements: tuple[Statement, ...]
    line: int


@dataclass(frozen=True, slots=True)
class Statement:
    """Words and blocks up to a `;`, with where they stand."""

    items: tuple[Word | Block, ...]
    path: Path
    line: int

    @property
    def keyword(self) -> str:
        """The first word in lower case; '' when the statement begins with a block or a string."""
        first = self.items[0]
        return first.text.lower() if isinstance(first, Word) and not first.quoted else ""

    def error(self, message: str, line: int = 0) -> ConfigError:
        """A `ConfigError` at this statement."""
        return ConfigError(self.path, line or self.line, message)


@dataclass(slots=True)
class _Source:
    """Where relative `include` paths start: named changes its directory as soon as it reads `directory`."""

    base: str


def parse(path: Path) -> tuple[Statement, ...]:
    """The statements of a file, with those of included files in place. Raises `ConfigError`."""
    return _parse_file(path, _Source(str(path.parent)), 0)


def _parse_file(path: Path, source: _Source, depth: int) -> tuple[Statement, ...]:
    try:
        with open(path, "rb") as file:
            data = file.read(SIZE_LIMIT + 1)
    except OSError as error:
        raise ConfigError(path, 0, error.strerror or str(error)) from error
    if len(data) > SIZE_LIMIT:
        raise ConfigError(path, 0, f"larger than {SIZE_LIMIT} octets")
    if (nul := data.find(b"\0")) >= 0:
        raise ConfigError(path, data.count(b"\n", 0, nul) + 1, "an octet of zero: this is no text")
    tokens = _tokens(data.decode("utf-8", "surrogateescape"), path)
    return _statements(tokens, path, source, depth, None)


def _tokens(text: str, path: Path) -> Iterator[Word]:
    """Words in order; `{`, `}` and `;` are unquoted words too."""
    position, line, end = 0, 1, len(text)
    while position < end:
        match = _TOKEN.match(text, position)
        if match is None:
            if text.startswith("/*", position):
                raise ConfigError(path, line, "comment is not closed")
            if text[position] == '"':
                raise ConfigError(path, line, "unbalanced quotes")
            raise ConfigError(path, line, f"unexpected {text[position]!r}")
        token = match.group()
        if match.lastgroup == "string":
            yield Word(_ESCAPE.sub(r"\1", match["string"]), line, quoted=True)
        elif match.lastgroup != "blank":
            yield Word(token, line)
        line += token.count("\n")
        position = match.end()


def _statements(
    tokens: Iterator[Word], path: Path, source: _Source, depth: int, opened: Word | None
) -> tuple[Statement, ...]:
    """Up to the `}` that belongs to `opened`, or to the end of the file."""
    if depth > DEPTH_LIMIT:
        raise ConfigError(path, opened.line if opened else 0, "nested too deeply")
    found: list[Statement] = []
    items: list[Word | Block] = []
    last = opened.line if opened else 1
    for token in tokens:
        last = token.line
        if token.quoted or token.text not in ("{", "}", ";"):
            items.append(token)
        elif token.text == "{":
            items.append(Block(_statements(tokens, path, source, depth + 1, token), token.line))
        elif token.text == ";":
            if not items:
                raise ConfigError(path, token.line, "unexpected ';'")
            statement = Statement(tuple(items), path, items[0].line)
            items = []
            if statement.keyword == "include":
                found.extend(_include(statement, source, depth))
            else:
                found.append(statement)
                _note_directory(statement, source)
        else:
            if items:
                raise ConfigError(path, token.line, "missing ';' before '}'")
            if opened is None:
                raise ConfigError(path, token.line, "unexpected '}'")
            return tuple(found)
    if items:
        raise ConfigError(path, last, "missing ';' at the end of the file")
    if opened is not None:
        raise ConfigError(path, opened.line, "'{' is not closed")
    return tuple(found)


def _note_directory(statement: Statement, source: _Source) -> None:
    if statement.keyword == "directory" and len(statement.items) == 2:
        value = statement.items[1]
        if isinstance(value, Word) and value.quoted:
            source.base = os.path.join(source.base, value.text)


def _include(statement: Statement, source: _Source, depth: int) -> list[Statement]:
    names = statement.items[1:]
    if len(names) != 1 or not isinstance(names[0], Word) or not names[0].quoted:
        raise statement.error("include takes one file name in quotes")
    pattern = os.path.join(source.base, names[0].text)
    paths = [pattern]
    if glob.has_magic(pattern):
        paths = sorted(glob.glob(pattern))
    found: list[Statement] = []
    for path in paths:
        if not os.path.isfile(path):
            raise statement.error(f"include: no such file: {path}")
        found.extend(_parse_file(Path(path), source, depth + 1))
    return found
