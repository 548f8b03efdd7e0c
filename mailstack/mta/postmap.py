"""postmap(1): make the index of a lookup table, ask a table, change single records.

    python -m mailstack.mta.postmap --config DIR [OPTIONS] [TYPE:]FILE…

Without -q, -s, -d and -i the index of each FILE is made anew from its text; it appears complete, or not at
all.

    -q KEY   print what the first table that knows the key says; `-q -`: a key per line of standard input
    -s       print every record
    -d KEY   remove a record; `-d -`: a key per line of standard input
    -i       add the records of standard input to the index that is there
    -r       of equal keys the later one counts, without a warning; -w: no warning about equal keys
    -f       leave keys in upper case; -n, -N: without, with a NUL behind keys and values
    -p       do not copy the permissions of the text; -o: stay root where the text is another user's
    -F       values are names of files, whose content is stored in BASE64, and decoded by -q

A file without a type is of `default_database_type`. Exit status: 0; 1 for what is not found, and for an
error, which is told in one line.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from getopt import GetoptError, gnu_getopt
from pathlib import Path
from socket import gethostname

from mailstack.config.errors import ConfigError
from mailstack.config.postfix.main_cf import MainCf
from mailstack.mta.command import Fatal, take_config
from mailstack.mta.lookup import opener, settled
from mailstack.storage.tables import INDEXED, TableError
from mailstack.storage.tables.files import lookup_of, open_index, parse_texthash
from mailstack.storage.tables.make import (
    Editor,
    NotHere,
    check_kind,
    index_items,
    make_index,
    with_nul,
)
from mailstack.storage.tables.text import alias_entries, map_entries, read

_WITH_FILE = frozenset((*INDEXED, "texthash", "cidr", "regexp", "pcre", "sqlite", "memcache"))
_OPTIONS = "c:fFinNopq:rsUwd:"


@dataclass(slots=True)
class _Command:
    """What the command line says."""

    name: str
    tables: list[tuple[str, str]] = field(default_factory=list)
    """(type, name) of each argument; names of files are absolute."""
    query: str | None = None
    delete: str | None = None
    flags: frozenset[str] = frozenset()

    @property
    def aliases(self) -> bool:
        return self.name == "postalias"

    def warn(self, text: str) -> None:
        sys.stderr.write(f"{self.name}: warning: {text}\n")

    def fold(self, key: str) -> str:
        return key if "f" in self.flags else key.lower()

    @property
    def separator(self) -> str:
        return ":\t" if self.aliases else "\t"


def main(arguments: Sequence[str], *, aliases: bool = False) -> int:
    """Run the command; return its exit status."""
    name = "postalias" if aliases else "postmap"
    try:
        return _run(_read(name, list(arguments)))
    except ConfigError as error:
        reason = str(error)
    except (TableError, Fatal) as error:
        reason = str(error)
    except OSError as error:
        reason = f"open {error.filename}: {error.strerror}" if error.filename else str(error)
    sys.stderr.write(f"{name}: fatal: {reason}\n")
    return 1


def _read(name: str, arguments: list[str]) -> _Command:
    usage = f"usage: {name} [-fFinNoprsUw] [--config DIR] [-d key] [-q key] [map_type:]file..."
    directory: Path | None = None
    try:
        directory, words = take_config(arguments)
    except Fatal:
        words = arguments  # the types may all be given
    try:
        options, names = gnu_getopt(words, _OPTIONS)
    except GetoptError as error:
        raise Fatal(f"{error}; {usage}") from None
    command = _Command(name)
    flags = set()
    for option, value in options:
        match option:
            case "-c":
                directory = Path(value).absolute()
            case "-q" if command.query is None and command.delete is None:
                command.query = value
            case "-d" if command.query is None and command.delete is None:
                command.delete = value
            case "-q" | "-d":
                raise Fatal("specify only one of -s -q or -d")
            case _:
                flags.add(option[1])
    command.flags = frozenset(flags)
    if sum(("s" in flags, command.query is not None, command.delete is not None)) > 1:
        raise Fatal("specify only one of -s -q or -d")
    if "n" in flags and "N" in flags:
        raise Fatal("specify only one of -n and -N")
    if command.aliases and "F" in flags:
        raise Fatal(f"invalid option -- 'F'; {usage}")
    if not names:
        raise Fatal(usage)
    for given in names:
        kind, colon, rest = given.partition(":")
        if not colon:
            kind = MainCf.load(directory).str("default_database_type") if directory is not None else "hash"
            rest = given
        command.tables.append((kind, os.path.abspath(rest) if kind in _WITH_FILE and rest else rest))
    return command


def _run(command: _Command) -> int:
    if command.query is not None:
        return asyncio.run(_query(command, command.query))
    if command.delete is not None:
        return _delete(command, command.delete)
    if "s" in command.flags:
        for kind, name in command.tables:
            _sequence(command, kind, name)
        return 0
    for kind, name in command.tables:
        if "i" in command.flags:
            _add(command, kind, name)
        else:
            _create(command, kind, name)
    return 0


# ---- asking


async def _query(command: _Command, key: str) -> int:
    lookups = [_lookup(command, kind, name) for kind, name in command.tables]
    found = 1
    for one in _lines() if key == "-" else (key,):
        for number, lookup in enumerate(lookups):
            value = await settled(partial(lookup, one))
            if value is None:
                continue
            if "F" in command.flags:
                value = _decoded(command, command.tables[number], one, value)
            sys.stdout.write(f"{one}{command.separator}{value}\n" if key == "-" else f"{value}\n")
            found = 0
            break
    sys.stdout.flush()
    return found


def _lookup(command: _Command, kind: str, name: str) -> Callable[[str], str | None]:
    if "f" in command.flags and kind in INDEXED:
        return lookup_of(open_index(kind, name + INDEXED[kind]), fold=False)
    if "f" in command.flags and kind == "texthash":
        return parse_texthash(read(name), name, command.warn, fold=False)
    if kind in INDEXED and not any(os.path.exists(path) for path in (name, name + INDEXED[kind])):
        raise TableError(f"open database {name}{INDEXED[kind]}: No such file or directory")
    return opener(command.warn)(f"{kind}:{name}").lookup


def _decoded(command: _Command, table: tuple[str, str], key: str, value: str) -> str:
    try:
        return base64.b64decode(value, validate=True).decode("utf-8", "surrogateescape")
    except (binascii.Error, ValueError):
        command.warn(f"table {':'.join(table)}: key {key}: malformed BASE64 value: {value[:100]}")
        raise TableError(f"table {':'.join(table)}: query error") from None


def _sequence(command: _Command, kind: str, name: str) -> None:
    if kind == "texthash":
        for _, key, value in map_entries(read(name), name, command.warn):
            sys.stdout.write(f"{command.fold(key)}{command.separator}{value}\n")
        return
    if kind not in INDEXED:
        raise TableError(f"table {kind}:{name}: sequence operation is not supported")
    try:
        for octets, data in index_items(kind, name):
            text, value = (part.decode("utf-8", "surrogateescape") for part in (octets, data))
            if "F" in command.flags:
                value = _decoded(command, (kind, name), text, value)
            sys.stdout.write(f"{text}{command.separator}{value}\n")
    except NotHere as error:
        raise TableError(f"unsupported dictionary type: {kind}: {error.reason}") from None
    sys.stdout.flush()


# ---- changing


def _delete(command: _Command, key: str) -> int:
    keys = list(_lines()) if key == "-" else [key]
    found = 1
    for kind, name in command.tables:
        editor = _editor(kind, name)
        try:
            for one in keys:
                if editor.delete(command.fold(one).encode("utf-8", "surrogateescape")):
                    found = 0
                    if key != "-":
                        return 0
        finally:
            editor.close()
    return found


def _editor(kind: str, name: str) -> Editor:
    if kind not in INDEXED:
        raise TableError(f"{kind}:{name} map requires O_RDONLY access mode")
    try:
        return Editor(kind, name)
    except NotHere as error:
        raise TableError(f"unsupported dictionary type: {kind}: {error.reason}") from None


def _add(command: _Command, kind: str, name: str) -> None:
    editor = _editor(kind, name)
    try:
        for key, value in _records(command, sys.stdin.read(), "stdin"):
            replace = "r" in command.flags
            stored = editor.put(*_octets(command, kind, key, value), replace=replace)
            if not stored and "w" not in command.flags:
                command.warn(f'{kind}:{name}: duplicate entry: "{key}"')
    finally:
        editor.close()


def _create(command: _Command, kind: str, path: str) -> None:
    text, missing = read(path), ""
    try:
        check_kind(kind)
    except NotHere as error:
        missing = error.reason
    entries: dict[str, str] = {}
    for key, value in _records(command, text, path):
        if key in entries and "r" not in command.flags:
            if "w" not in command.flags:
                command.warn(f'{kind}:{path}: duplicate entry: "{key}"')
        else:
            entries[key] = value
    if missing and kind == "lmdb":
        raise TableError(f"unsupported dictionary type: lmdb: {missing}")
    if missing:
        # What reads this table here reads its text: there is nothing that an index would be for.
        command.warn(f"{path}{INDEXED[kind]} is not made, {path} is read as it is: {missing}")
        return
    if command.aliases:
        # What sendmail and NIS look for in an alias database.
        entries.setdefault("@", "@")
        entries.setdefault("YP_LAST_MODIFIED", str(int(time.time())))
        entries.setdefault("YP_MASTER_NAME", gethostname())
    source = os.stat(path)
    mode = 0o644 if "p" in command.flags else source.st_mode & 0o666
    records = [_octets(command, kind, key, value) for key, value in entries.items()]
    with _owner(source, stay="o" in command.flags):
        make_index(kind, path, records, mode=mode)


class _owner:  # noqa: N801 - reads as what it does
    """Be the owner of the text while its index is written, so that root writes in nobody else's folder."""

    def __init__(self, source: os.stat_result, *, stay: bool) -> None:
        self._ids = (source.st_uid, source.st_gid)
        self._change = os.geteuid() == 0 and source.st_uid != 0 and not stay

    def __enter__(self) -> None:
        if self._change:
            self._groups = os.getgroups()
            os.setgroups([])
            os.setegid(self._ids[1])
            os.seteuid(self._ids[0])

    def __exit__(self, *_: object) -> None:
        if self._change:
            os.seteuid(0)
            os.setegid(0)
            os.setgroups(self._groups)


def _records(command: _Command, text: str, path: str) -> Iterator[tuple[str, str]]:
    """(key, value) of each entry that can be understood."""
    entries = alias_entries if command.aliases else map_entries
    for line, key, value in entries(text, path, command.warn):
        if "F" in command.flags:
            try:
                value = _content(value)
            except OSError as error:
                where = f"{path}, line {line}: open {error.filename}"
                command.warn(f"{where}: {error.strerror}: skipping this entry")
                continue
        yield command.fold(key), value


def _content(names: str) -> str:
    """The files' content in BASE64, with a line end between them."""
    parts = []
    for name in names.replace(",", " ").split():
        with open(name, "rb") as file:
            parts.append(file.read())
    return base64.b64encode(b"\n".join(parts)).decode()


def _octets(command: _Command, kind: str, key: str, value: str) -> tuple[bytes, bytes]:
    forced = False if "n" in command.flags else True if "N" in command.flags else None
    end = b"\0" if with_nul(kind, forced=forced) else b""
    return key.encode("utf-8", "surrogateescape") + end, value.encode("utf-8", "surrogateescape") + end


def _lines() -> Iterator[str]:
    for line in sys.stdin:
        yield line.rstrip("\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
