"""regexp: and pcre: tables: `/pattern/flags value` lines, tried in order until one matches.

`!` turns a pattern round; `if /pattern/flags` … `endif` encloses lines that are tried only when it matches;
`$1`, `${1}`, `$(1)` in the value stand for what a group matched and `$$` for a dollar sign. Patterns ignore
case unless the flag `i` says otherwise. Standards: regexp_table(5), pcre_table(5).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial

from mailstack.storage.tables import pcre, posix
from mailstack.storage.tables.posix import PatternError
from mailstack.storage.tables.text import TableError, Warn, logical_lines

Lookup = Callable[[str], "str | None"]
_Match = Callable[[bytes], "list[bytes] | None"]
_REFERENCE = re.compile(r"\$(?:(\$)|(\w+)|\{([^{}]*)\}|\(([^()]*)\))?")
_POSIX = {"i": posix.ICASE, "m": posix.NEWLINE, "x": posix.EXTENDED}


class _Rule:
    """A line: `if` lines have no value and go to `end` when they do not match."""

    __slots__ = ("end", "line", "match", "negated", "value")

    def __init__(self, line: int, match: _Match, negated: bool, value: tuple[str | int, ...] | None) -> None:
        self.line = line
        self.match = match
        self.negated = negated
        self.value = value
        """Pieces of text and numbers of groups."""
        self.end = 0


class _Skip(Exception):  # noqa: N818 - not an error of the program
    """A rule that is left out; `str()` says why."""


def parse_regexp(text: str, path: str, warn: Warn) -> Lookup:
    """The lookup of a regexp: file."""
    return _parse("regexp", _POSIX, posix.EXTENDED | posix.ICASE, posix.Posix, text, path, warn)


def parse_pcre(text: str, path: str, warn: Warn) -> Lookup:
    """The lookup of a pcre: file."""
    return _parse("pcre", pcre.FLAGS, pcre.DEFAULT, pcre.compile_pattern, text, path, warn)


def _parse(
    kind: str,
    letters: dict[str, int],
    default: int,
    compile_pattern: Callable[[bytes, int], posix.Posix | pcre.Pattern],
    text: str,
    path: str,
    warn: Warn,
) -> Lookup:
    rules: list[_Rule] = []
    opened: list[_Rule] = []
    for line, logical in logical_lines(text, path, warn):
        where = f"{kind} map {path}, line {line}"
        try:
            word = re.match(r"[A-Za-z0-9]*", logical)[0].lower()  # type: ignore[index]  # matches always
            rest = logical[len(word) :]
            if word == "endif":
                if rest.strip():
                    warn(f"{where}: ignoring extra text after ENDIF")
                if not opened:
                    raise _Skip("ignoring ENDIF without matching IF")
                opened.pop().end = len(rules)
            elif word not in ("", "if"):
                raise _Skip("ignoring unrecognized request")
            else:
                negated, source, flags, value = _split(rest.lstrip(), letters, default, warn, where)
                rule = _Rule(line, _compiled(source, flags, compile_pattern), negated, None)
                if word:
                    if value:
                        warn(f'{where}: ignoring extra text after IF statement: "{value[:50]}"')
                        warn(f"{where}: do not prepend whitespace to statements between IF and ENDIF")
                    opened.append(rule)
                else:
                    if not value:
                        warn(f"{where}: no replacement text: using empty string")
                    groups = rule.match.__self__.groups  # type: ignore[attr-defined]  # a bound `search`
                    rule.value = _replacement(value, groups, negated, partial(_warn_at, warn, where), warn)
                rules.append(rule)
        except _Skip as reason:
            warn(f"{where}: {reason}")
    for rule in reversed(opened):
        warn(f"{kind} map {path}, line {rule.line}: IF has no matching ENDIF")
        rule.end = len(rules)
    return _lookup(rules, kind, path)


def _warn_at(warn: Warn, where: str, text: str) -> None:
    warn(f"{where}: {text}")


def _split(
    text: str, letters: dict[str, int], default: int, warn: Warn, where: str
) -> tuple[bool, str, int, str]:
    """(negated, pattern, flags, what follows). Raises `_Skip`."""
    bare = text.lstrip("!")
    negated = (len(text) - len(bare)) % 2 == 1
    bare = bare.lstrip()
    if not bare:
        raise _Skip("no regexp: skipping this rule")
    delimiter, position = bare[0], 1
    while position < len(bare) and bare[position] != delimiter:
        position += 2 if bare[position] == "\\" else 1
    if position >= len(bare):
        verb = "ignoring" if where.startswith("pcre") else "skipping"  # as each of them says
        raise _Skip(f'no closing regexp delimiter "{delimiter}": {verb} this rule')
    options, _, value = bare[position + 1 :].partition(" ")
    options, tab, after = options.partition("\t")
    value = f"{after} {value}" if tab else value
    flags = default
    for letter in options:
        if letter not in letters:
            raise _Skip(f'unknown regexp option "{letter}": skipping this rule')
        if not letters[letter]:
            warn(f'{where}: ignoring obsolete regexp option "{letter}"')
        flags ^= letters[letter]
    return negated, bare[1:position], flags, value.strip()


def _compiled(
    source: str, flags: int, compile_pattern: Callable[[bytes, int], posix.Posix | pcre.Pattern]
) -> _Match:
    try:
        return compile_pattern(source.encode("utf-8", "surrogateescape"), flags).search
    except PatternError as error:
        raise _Skip(str(error)) from None


def _replacement(
    value: str, groups: int, negated: bool, warn: Warn, warn_bare: Warn
) -> tuple[str | int, ...]:
    """The pieces of a value. Raises `_Skip`."""
    pieces: list[str | int] = []
    last, bad = 0, False
    for found in _REFERENCE.finditer(value):
        pieces.append(value[last : found.start()])
        last = found.end()
        name = found[2] or found[3] or found[4]
        if found[1]:
            pieces.append("$")
        elif not name:
            warn_bare(f'empty macro name: "{value}"')
            bad = True
        elif not (name.isdecimal() and name.isascii()):
            warn(f'non-numeric replacement index "{name}"')
            bad = True
        elif negated:
            raise _Skip("$number found in negative match replacement text: skipping this rule")
        elif not 0 < int(name) <= groups:
            raise _Skip(f'out of range replacement index "{name}": skipping this rule')
        else:
            pieces.append(int(name))
    if bad:
        raise _Skip("bad replacement syntax: skipping this rule")
    pieces.append(value[last:])
    return tuple(piece for piece in pieces if piece != "")


def _lookup(rules: list[_Rule], kind: str, path: str) -> Lookup:
    count = len(rules)

    def lookup(key: str) -> str | None:
        octets = key.encode("utf-8", "surrogateescape")
        index = 0
        while index < count:
            rule = rules[index]
            try:
                found = rule.match(octets)
            except PatternError as error:
                raise TableError(f"{kind} map {path}, line {rule.line}: {error}") from None
            if (found is None) is rule.negated:
                if rule.value is not None:
                    return _fill(rule.value, found)
                index += 1
            else:
                index = rule.end if rule.value is None else index + 1
        return None

    return lookup


def _fill(pieces: tuple[str | int, ...], found: list[bytes] | None) -> str:
    if found is None:
        return "".join(str(piece) for piece in pieces)
    return "".join(
        piece if isinstance(piece, str) else found[piece].decode("utf-8", "surrogateescape")
        for piece in pieces
    )
