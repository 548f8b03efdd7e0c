"""Lookup tables in Postfix's source syntax (`type:name`): opened once, read again when the file changes.

| type | name | source |
|---|---|---|
| texthash, hash, lmdb, btree, cdb, dbm | file | the text that postmap(1) or postalias(1) would compile |
| cidr | file | `network/prefix value` lines, `!`, if/endif (cidr_table(5)) |
| regexp, pcre | file | `/pattern/flags value` lines, `$1`, `!`, if/endif (regexp_table(5), pcre_table(5)) |
| inline | `{ key = value, {key = value with spaces} }` | |
| static | the value of every key; `{text with spaces}` | |
| unix | passwd.byname | the accounts of this machine |
| fail | anything | a table that always fails |

`proxy:` in front is dropped: there is no proxymap. Keys of indexed files are folded to lower case, as postmap
folds them. A file that is compiled elsewhere is always read from its source, so postmap need not be run.

`open_table` raises `TableError` for what cannot be a table; `lookup` raises `OSError` when the file cannot be
read and `TableError` (with file and line) when it cannot be understood.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from typing import Protocol

from mailstack.storage.pattern_tables import TableError, parse_cidr, parse_patterns
from mailstack.storage.table_text import logical_lines

__all__ = ["Table", "TableError", "open_table", "parse_aliases", "split_alias"]

CHECK_INTERVAL = 1.0
"""Seconds between two looks at a file's modification time."""
INDEXED = frozenset(("texthash", "hash", "lmdb", "btree", "cdb", "dbm"))
Lookup = Callable[[str], "str | None"]


class Table(Protocol):
    """A lookup table."""

    name: str
    """As it was opened: `type:name`."""

    def lookup(self, key: str) -> str | None:
        """The value of a key, or None. Raises `OSError` or `TableError`."""
        ...


def open_table(name: str) -> Table:
    """The table that main.cf calls `type:name`; a name without a type is a hash file. Raises `TableError`."""
    kind, colon, rest = name.partition(":")
    if not colon:
        kind, rest = "hash", name
    rest = rest.strip()
    match kind:
        case "proxy":
            return open_table(rest)
        case "static":
            value = rest[1:-1].strip() if rest.startswith("{") and rest.endswith("}") else rest
            return _Fixed(name, lambda key: value)
        case "inline":
            return _Fixed(name, _folded(_parse_inline(rest)))
        case "fail":
            return _Fixed(name, _fail(name))
        case "unix" if rest == "passwd.byname":
            return _Fixed(name, _account)
        case "cidr" | "regexp" | "pcre" if rest.startswith("/"):
            return _File(name, rest, parse_cidr if kind == "cidr" else parse_patterns)
        case _ if kind in INDEXED and rest.startswith("/"):
            return _File(name, rest, _parse_texthash if kind == "texthash" else _parse_indexed)
    if kind in INDEXED or kind in ("cidr", "regexp", "pcre"):
        raise TableError(f"open {name}: the file's name must begin with /")
    raise TableError(f"unsupported dictionary type: {kind} ({name})")


class _Fixed:
    """A table without a file."""

    __slots__ = ("lookup", "name")

    def __init__(self, name: str, lookup: Lookup) -> None:
        self.name = name
        self.lookup = lookup


class _File:
    """A table in a file, parsed at the first lookup and again when the file has changed."""

    __slots__ = ("_checked", "_lookup", "_parse", "_path", "_seen", "name")

    def __init__(self, name: str, path: str, parse: Callable[[str, str], Lookup]) -> None:
        self.name = name
        self._path = path
        self._parse = parse
        self._lookup: Lookup | None = None
        self._checked = 0.0
        self._seen = (0, 0, 0)

    def lookup(self, key: str) -> str | None:
        now = time.monotonic()
        lookup = self._lookup
        if lookup is None or now - self._checked >= CHECK_INTERVAL:
            lookup = self._load()
            self._checked = now
        return lookup(key)

    def _load(self) -> Lookup:
        stat = os.stat(self._path)
        seen = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
        if self._lookup is None or seen != self._seen:
            with open(self._path, encoding="utf-8", errors="surrogateescape", newline="\n") as file:
                text = file.read()
            self._lookup = self._parse(text, self._path)
            self._seen = seen
        return self._lookup


# ---- indexed text


def _parse_texthash(text: str, path: str) -> Lookup:
    """`key value` lines (postmap(1))."""
    entries: dict[str, str] = {}
    for line, logical in logical_lines(text, path):
        parts = logical.split(None, 1)
        if len(parts) < 2:
            raise TableError(f"{path}, line {line}: expected 'key whitespace value', not {logical.strip()!r}")
        # The first of two equal keys stays, as postmap has it.
        entries.setdefault(parts[0].lower(), parts[1].strip())
    return _folded(entries)


def _parse_indexed(text: str, path: str) -> Lookup:
    """A file that postmap or postalias would compile: the first entry shows which."""
    for _, logical in logical_lines(text, path):
        if _ALIAS.match(logical):
            return _folded(parse_aliases(text, path))
        break
    return _parse_texthash(text, path)


def _folded(entries: dict[str, str]) -> Lookup:
    get = entries.get
    return lambda key: get(key.lower())


# ---- aliases(5)

_ALIAS = re.compile(r'\s*("(?:[^"\\]|\\.)*"|[^\s":,]+)\s*:(?:\s|$|["|/:\\\w])')
_TARGET = re.compile(r'\s*("(?:[^"\\]|\\.)*"|(?:[^",\s\\]|\\.|"(?:[^"\\]|\\.)*")+)\s*(?:,|\s|$)')


def parse_aliases(text: str, path: str) -> dict[str, str]:
    """`name: target, target` lines (aliases(5)): lower-case name → its targets. Raises `TableError`."""
    entries: dict[str, str] = {}
    for line, logical in logical_lines(text, path):
        found = _ALIAS.match(logical)
        if found is None:
            raise TableError(f"{path}, line {line}: expected 'name: value', not {logical.strip()!r}")
        name = found[1]
        if name.startswith('"'):
            name = re.sub(r"\\(.)", r"\1", name[1:-1])
        value = logical[logical.index(":", found.end(1)) + 1 :].strip()
        if not value:
            raise TableError(f"{path}, line {line}: alias {name} has no value")
        entries.setdefault(name.lower(), value)
    return entries


def split_alias(value: str) -> list[str]:
    r"""The targets of an alias: an address, `\user`, `/file/name`, `|command`, `:include:/file/name`.

    Quotes that enclose a whole target are taken off. Raises `TableError`.
    """
    targets: list[str] = []
    position = 0
    value = value.strip().strip(",")
    while position < len(value):
        found = _TARGET.match(value, position)
        if found is None:
            if value[position] in ", \t":
                position += 1
                continue
            raise TableError(f"cannot read the alias value {value!r}")
        target = found[1]
        if target.startswith('"') and target.endswith('"') and len(target) > 1:
            target = re.sub(r"\\(.)", r"\1", target[1:-1])
        targets.append(target)
        position = found.end()
    return targets


# ---- without a file


def _parse_inline(text: str) -> dict[str, str]:
    """`{ key = value, … }` (DATABASE_README)."""
    if not (text.startswith("{") and text.endswith("}")):
        raise TableError(f"inline table must be enclosed in {{ }}: {text!r}")
    entries: dict[str, str] = {}
    for braced, plain in re.findall(r"\{([^{}]*)\}|([^\s,{}][^,{}]*)", text[1:-1]):
        # Without braces of its own a pair ends at white space, as Postfix splits it.
        for pair in [braced] if braced else re.sub(r"\s*=\s*", "=", plain).split():
            key, equals, value = pair.partition("=")
            if not equals or not key.strip():
                raise TableError(f"inline table: expected key = value, not {pair.strip()!r}")
            entries[key.strip().lower()] = value.strip()
    return entries


def _fail(name: str) -> Lookup:
    def lookup(key: str) -> str | None:
        raise TableError(f"table {name} always fails")

    return lookup


def _account(key: str) -> str | None:
    import pwd  # rarely wanted

    try:
        entry = pwd.getpwnam(key)
    except (KeyError, ValueError):
        return None
    return ":".join(str(field) for field in entry)
