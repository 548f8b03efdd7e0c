"""Tables in files: parsed or opened at the first look-up, and again when the file has changed."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Protocol

from mailstack.storage.tables.fresh import CHECK_INTERVAL, GONE, Stamp, files, stamp
from mailstack.storage.tables.text import TableError, Warn, alias_entries, is_aliases, map_entries, read

INDEXED = {
    "hash": ".db",
    "btree": ".db",
    "lmdb": ".lmdb",
    "cdb": ".cdb",
    "dbm": ".pag",
}
"""Type → what the name of its index ends in."""
STALE = 100.0
"""Seconds that a source must be unchanged for a warning about its older index: somebody may be at work."""
Lookup = Callable[[str], "str | None"]


class Index(Protocol):
    """An open index."""

    def get(self, key: bytes) -> bytes | None:
        """The value of a key. Raises `OSError` or `TableError`."""
        ...


def parser(kind: str) -> Callable[[str, str, Warn], Lookup]:
    """What makes a look-up of a file's text."""
    # Imported when wanted: most configurations have no table of patterns.
    match kind:
        case "regexp":
            from mailstack.storage.tables.patterns import parse_regexp

            return parse_regexp
        case "pcre":
            from mailstack.storage.tables.patterns import parse_pcre

            return parse_pcre
        case "cidr":
            from mailstack.storage.tables.cidr import parse_cidr

            return parse_cidr
        case "texthash":
            return parse_texthash
        case _:
            return _parse_source


class TextFile:
    """A table that is read from text."""

    __slots__ = ("_checked", "_lookup", "_parse", "_path", "_seen", "_version", "_warn", "name")

    def __init__(self, name: str, kind: str, path: str, warn: Warn) -> None:
        self.name = name
        self._path = path
        self._parse = parser(kind)
        self._warn = warn
        self._lookup: Lookup | None = None
        self._checked = 0.0
        self._version = -1
        self._seen = GONE

    def lookup(self, key: str) -> str | None:
        now = time.monotonic()
        lookup = self._lookup
        if lookup is None or now - self._checked >= CHECK_INTERVAL or self._version != files.version:
            lookup = self._load()
            self._checked, self._version = now, files.version
        return lookup(key)

    def _load(self) -> Lookup:
        seen = stamp(os.stat(self._path))
        files.note(self._path, seen)
        if self._lookup is None or seen != self._seen:
            self._lookup = self._parse(read(self._path), self._path, self._warn)
            self._seen = seen
        return self._lookup


class Indexed:
    """A table that postmap compiles: its index where that can be read, else its source."""

    __slots__ = (
        "_checked",
        "_kind",
        "_lookup",
        "_path",
        "_seen",
        "_source",
        "_version",
        "_warn",
        "_warned",
        "name",
    )

    def __init__(self, name: str, kind: str, path: str, warn: Warn) -> None:
        self.name = name
        self._kind = kind
        self._path = path
        self._warn = warn
        self._source = TextFile(name, kind, path, warn)
        self._lookup: Lookup | None = None
        """None: the source is read."""
        self._checked = -CHECK_INTERVAL
        self._version = -1
        self._seen: Stamp | None = None
        self._warned = False

    def lookup(self, key: str) -> str | None:
        now = time.monotonic()
        if now - self._checked >= CHECK_INTERVAL or self._version != files.version:
            self._look()
            self._checked, self._version = now, files.version
        if self._lookup is None:
            return self._source.lookup(key)
        return self._lookup(key)

    def _look(self) -> None:
        """Find out whether there is an index, and another one than before."""
        path = self._path + INDEXED[self._kind]
        try:
            stat = os.stat(path)
        except FileNotFoundError:
            files.note(path, GONE)
            self._lookup = self._seen = None
            return
        seen = stamp(stat)
        files.note(path, seen)
        if not readable(self._kind):
            if not os.path.exists(self._path):
                raise TableError(f"open database {path}: {_MISSING[self._kind]}")
            return
        if self._seen is None or self._seen != seen:
            index = open_index(self._kind, path)
            self._lookup = lookup_of(index)
            self._seen = seen
            self._warned = False
        if not self._warned:
            self._warn_if_stale(path, stat.st_mtime)

    def _warn_if_stale(self, path: str, made: float) -> None:
        try:
            changed = os.stat(self._path).st_mtime
        except OSError:
            return  # an index may stand alone
        if made < changed < time.time() - STALE:
            self._warn(f"database {path} is older than source file {self._path}")
            self._warned = True


_MISSING = {
    "hash": "the library libdb-5.3 is not installed",
    "btree": "the library libdb-5.3 is not installed",
    "lmdb": "the Python package lmdb is not installed",
    "dbm": "dbm indexes cannot be read here",
}


def readable(kind: str) -> bool:
    """Whether indexes of this type can be read here."""
    match kind:
        case "cdb":
            return True
        case "lmdb":
            from mailstack.storage.tables.lmdb_index import available

            return available()
        case "hash" | "btree":
            from mailstack.storage.tables.berkeley import library

            return library() is not None
    return False


def open_index(kind: str, path: str) -> Index:
    """An index that is there. Raises `OSError` or `TableError`."""
    match kind:
        case "cdb":
            from mailstack.storage.tables.cdb import CdbIndex

            return CdbIndex(path)
        case "lmdb":
            from mailstack.storage.tables.lmdb_index import LmdbIndex

            return LmdbIndex(path)
        case "hash" | "btree":
            from mailstack.storage.tables.berkeley import BerkeleyFile

            return BerkeleyFile(path, kind)
    raise TableError(f"open database {path}: {_MISSING[kind]}")


def lookup_of(index: Index, *, fold: bool = True) -> Lookup:
    """The look-up of an index, whose keys may or may not end in a NUL, as in Postfix."""
    get = index.get

    def lookup(key: str) -> str | None:
        octets = (key.lower() if fold else key).encode("utf-8", "surrogateescape")
        value = get(octets + b"\0")
        if value is None:
            value = get(octets)
        if value is None:
            return None
        return value.removesuffix(b"\0").decode("utf-8", "surrogateescape")

    return lookup


# ---- source text


def parse_texthash(text: str, path: str, warn: Warn, *, fold: bool = True) -> Lookup:
    """`key value` lines (postmap(1)); of equal keys the first one counts, as postmap has it."""
    entries: dict[str, str] = {}
    for line, key, value in map_entries(text, path, warn, skipped=" -- ignoring this line"):
        folded = key.lower() if fold else key
        if folded in entries:
            warn(f'{path}, line {line}: duplicate entry: "{key}"')
        else:
            entries[folded] = value
    return _folded(entries) if fold else entries.get


def parse_aliases(text: str, path: str, warn: Warn) -> dict[str, str]:
    """`name: target, target` lines (aliases(5)): lower-case name → its targets."""
    entries: dict[str, str] = {}
    for _, name, value in alias_entries(text, path, warn):
        folded = name.lower()
        if folded in entries:
            warn(f'{path}: duplicate entry: "{folded}"')
        else:
            entries[folded] = value
    return entries


def _parse_source(text: str, path: str, warn: Warn) -> Lookup:
    """A file that postmap or postalias would compile: the first entry shows which."""
    if is_aliases(text, path):
        return _folded(parse_aliases(text, path, warn))
    return parse_texthash(text, path, warn)


def _folded(entries: dict[str, str]) -> Lookup:
    get = entries.get
    return lambda key: get(key.lower())
