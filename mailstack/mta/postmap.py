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
    -h, -b   with `-q -`: standard input is a message, of which the headers, or the lines of the body, are
             looked up; -m: its MIME structure counts: headers of parts are headers
    -u, -U   keys and values are octets; are UTF-8, and what is not is left out (default: smtputf8_enable)
    -v       say which tables are opened and which keys are looked up

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
from mailstack.storage.tables.lmdb_index import MAP_SIZE
from mailstack.storage.tables.make import (
    Editor,
    NotHere,
    check_kind,
    index_items,
    make_index,
    with_nul,
)
from mailstack.storage.tables.simple import inline_entries
from mailstack.storage.tables.text import alias_entries, map_entries, read

_WITH_FILE = frozenset((*INDEXED, "texthash", "cidr", "regexp", "pcre", "sqlite", "memcache"))
_OPTIONS = {"postmap": "bc:d:fFhimnNopq:rsuUvw", "postalias": "c:d:finNopq:rsuvw"}
_LETTERS = {"postmap": "bfFhimnNoprsuUvw", "postalias": "Nfinoprsuvw"}


_ASCII_LOWER = str.maketrans({chr(code): chr(code + 32) for code in range(ord("A"), ord("Z") + 1)})


@dataclass(slots=True)
class _Command:
    """What the command line says."""

    name: str
    tables: list[tuple[str, str]] = field(default_factory=list)
    """(type, name) of each argument; names of files are absolute."""
    query: str | None = None
    delete: str | None = None
    flags: frozenset[str] = frozenset()
    utf8: bool = True
    lmdb_size: int = MAP_SIZE
    host: str = ""

    @property
    def aliases(self) -> bool:
        return self.name == "postalias"

    def warn(self, text: str) -> None:
        sys.stderr.write(f"{self.name}: warning: {text}\n")

    def fold(self, key: str) -> str:
        if "f" in self.flags:
            return key
        return key.lower() if self.utf8 else key.translate(_ASCII_LOWER)

    def say(self, text: str) -> None:
        """What -v wants to know."""
        if "v" in self.flags:
            sys.stderr.write(f"{self.name}: {text}\n")

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
    usage = f"usage: {name} [-{_LETTERS[name]}] [--config DIR] [-d key] [-q key] [map_type:]file..."
    directory: Path | None = None
    try:
        directory, words = take_config(arguments)
    except Fatal:
        words = arguments  # the types may all be given
    try:
        options, names = gnu_getopt(words, _OPTIONS[name])
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
    if flags & {"b", "h", "m"} and command.query != "-":
        raise Fatal('specify -b -h or -m only with "-q -"')
    if "m" in flags and not flags & {"b", "h"}:
        command.warn("ignoring -m option without -b or -h")
    if not names:
        raise Fatal(usage)
    conf = MainCf.load(directory) if directory is not None else None
    if conf is not None:
        command.lmdb_size = conf.size("lmdb_map_size")
        command.host = conf.str("myhostname")
    command.utf8 = "u" not in flags and ("U" in flags or conf is None or conf.bool("smtputf8_enable"))
    for given in names:
        kind, colon, rest = given.partition(":")
        if not colon:
            kind = conf.str("default_database_type") if conf is not None else "hash"
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
    for one in _keys(command) if key == "-" else (key,):
        if command.utf8 and not _is_utf8(one):
            for kind, name in command.tables:
                shown = f'non-UTF-8 key "{_shown(one)}": malformed UTF-8 or invalid codepoint'
                command.warn(f"{kind}:{name}{INDEXED.get(kind, '')}: {shown}")
            continue
        for number, lookup in enumerate(lookups):
            command.say(f"{':'.join(command.tables[number])}: look up {one}")
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


def _keys(command: _Command) -> Iterator[str]:
    """What standard input wants to be looked up: every line, or the headers and lines of a message."""
    if not command.flags & {"b", "h"}:
        yield from _lines()
        return
    from mailstack.wire.mime.scan import Piece, Scanner

    scanner = Scanner(understand="m" in command.flags)
    lines = [line.encode("utf-8", "surrogateescape") for line in _lines()]
    pieces = [piece for line in lines for piece in scanner.line(line)]
    for kind, text in pieces + scanner.finish():
        wanted = "b" if kind in (Piece.BODY, Piece.END) else "h"
        if wanted in command.flags:
            yield text.decode("utf-8", "surrogateescape")


def _is_utf8(text: str) -> bool:
    return text.isascii() or not any("\udc80" <= char <= "\udcff" for char in text)


def _shown(text: str) -> str:
    return "".join("?" if "\udc80" <= char <= "\udcff" else char for char in text)


def _lookup(command: _Command, kind: str, name: str) -> Callable[[str], str | None]:
    command.say(f"dict_open: {kind}:{name}")
    if "f" in command.flags and kind in INDEXED:
        return lookup_of(open_index(kind, name + INDEXED[kind]), fold=False)
    if "f" in command.flags and kind == "texthash":
        return parse_texthash(read(name), name, command.warn, fold=False)
    if "f" in command.flags and kind == "inline":
        return dict(_inline(name)).get
    if kind in INDEXED and not any(os.path.exists(path) for path in (name, name + INDEXED[kind])):
        raise TableError(f"open database {name}{INDEXED[kind]}: No such file or directory")
    return opener(command.warn)(f"{kind}:{name}").lookup


def _inline(rest: str) -> list[tuple[str, str]]:
    return inline_entries(f"inline:{rest}", rest)


def _decoded(command: _Command, table: tuple[str, str], key: str, value: str) -> str:
    try:
        return base64.b64decode(value, validate=True).decode("utf-8", "surrogateescape")
    except (binascii.Error, ValueError):
        command.warn(f"table {':'.join(table)}: key {key}: malformed BASE64 value: {value[:100]}")
        raise TableError(f"table {':'.join(table)}: query error") from None


def _sequence(command: _Command, kind: str, name: str) -> None:
    if kind == "texthash":
        seen: set[str] = set()
        for line, key, value in map_entries(read(name), name, command.warn, skipped=" -- ignoring this line"):
            folded = command.fold(key)
            if folded in seen:
                command.warn(f'{name}, line {line}: duplicate entry: "{key}"')
                continue
            seen.add(folded)
            sys.stdout.write(f"{folded}{command.separator}{value}\n")
        return
    if kind == "inline":
        for key, value in {command.fold(key): value for key, value in _inline(name)}.items():
            sys.stdout.write(f"{key}{command.separator}{value}\n")
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
        editor = _editor(command, kind, name)
        try:
            for one in keys:
                if editor.delete(command.fold(one).encode("utf-8", "surrogateescape")):
                    found = 0
                    if key != "-":
                        return 0
        finally:
            editor.close()
    return found


def _editor(command: _Command, kind: str, name: str) -> Editor:
    if kind not in INDEXED:
        raise TableError(f"{kind}:{name} map requires O_RDONLY access mode")
    try:
        return Editor(kind, name, lmdb_size=command.lmdb_size)
    except NotHere as error:
        raise TableError(f"unsupported dictionary type: {kind}: {error.reason}") from None


def _called(kind: str, path: str) -> str:
    """What Postfix calls an index in warnings, kind by kind."""
    return {"lmdb": f"lmdb:{path}", "cdb": path}.get(kind, path + INDEXED.get(kind, ""))


def _add(command: _Command, kind: str, name: str) -> None:
    if kind in INDEXED and kind != "cdb" and not os.path.exists(name + INDEXED[kind]):
        try:
            make_index(kind, name, (), mode=0o644, lmdb_size=command.lmdb_size)
        except NotHere as error:
            raise TableError(f"unsupported dictionary type: {kind}: {error.reason}") from None
    editor = _editor(command, kind, name)
    try:
        for key, value in _records(command, sys.stdin.read(), "stdin"):
            replace = "r" in command.flags
            stored = editor.put(*_octets(command, kind, key, value), replace=replace)
            if not stored and "w" not in command.flags:
                command.warn(f'{_called(kind, name)}: duplicate entry: "{key}"')
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
                command.warn(f'{_called(kind, path)}: duplicate entry: "{key}"')
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
        entries.setdefault("YP_MASTER_NAME", command.host or gethostname())
    source = os.stat(path)
    mode = 0o644 if "p" in command.flags else source.st_mode & 0o666
    records = [_octets(command, kind, key, value) for key, value in entries.items()]
    with _owner(source, stay="o" in command.flags):
        make_index(kind, path, records, mode=mode, lmdb_size=command.lmdb_size)


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
        if command.utf8 and not (_is_utf8(key) and _is_utf8(value)):
            bad = f'non-UTF-8 input "{_shown(key)} {_shown(value)}"'
            command.warn(f"{path}, line {line}: {bad} -- ignoring this line")
            continue
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
