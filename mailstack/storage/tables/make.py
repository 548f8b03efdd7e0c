"""Make and change the indexes of postmap(1): whole ones by renaming a new file, single records in place.

A new index appears under its name complete and flushed, or not at all. Records of lmdb: and hash: files are
changed in place, in a transaction and under Postfix's lock; a cdb: file cannot be changed. Raises `OSError`,
and `TableError` for what the type cannot do.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from mailstack.storage.tables import berkeley, cdb
from mailstack.storage.tables.files import INDEXED, readable
from mailstack.storage.tables.lmdb_index import MAP_SIZE as LMDB_MAP_SIZE
from mailstack.storage.tables.lmdb_index import LmdbIndex
from mailstack.storage.tables.text import TableError

Records = Iterable[tuple[bytes, bytes]]
WRITABLE = ("hash", "btree", "lmdb", "cdb")
READ_ONLY = frozenset((
    "texthash", "dbm", "regexp", "pcre", "cidr", "static", "inline", "unix", "environ", "fail", "pipemap",
    "unionmap", "randmap", "sqlite", "tcp", "socketmap", "memcache", "nis",
))  # fmt: skip


@dataclass(frozen=True, slots=True)
class NotHere(Exception):  # noqa: N818 - the caller decides what it means
    """This type of index cannot be made on this system; `reason` says what is missing."""

    reason: str


def check_kind(kind: str) -> None:
    """Raises `TableError` for what is no index, `NotHere` for one that needs what is not installed."""
    if kind not in WRITABLE and kind not in READ_ONLY:
        raise TableError(f"unsupported dictionary type: {kind}")
    if kind not in WRITABLE:
        raise TableError(f"unsupported dictionary type: {kind} does not support bulk-mode creation.")
    if not readable(kind):
        missing = "the Python package lmdb" if kind == "lmdb" else "the library libdb-5.3"
        raise NotHere(f"{missing} is not installed")


def with_nul(kind: str, *, forced: bool | None = None) -> bool:
    """Whether keys and values end in a NUL: as Postfix writes them on Linux, or as `forced` says."""
    return kind != "cdb" if forced is None else forced


def make_index(kind: str, path: str, records: Records, *, mode: int, lmdb_size: int = LMDB_MAP_SIZE) -> None:
    """Put a new index of `path` in the place of the old one; `mode` holds its permissions.

    `lmdb_size`: octets that an lmdb: file may grow to before it is made larger.
    """
    check_kind(kind)
    target = path + INDEXED[kind]
    fd, temporary = tempfile.mkstemp(prefix=os.path.basename(target) + ".", dir=os.path.dirname(target))
    try:
        with os.fdopen(fd, "wb") as file:
            if kind == "cdb":
                cdb.write(file, records)
        if kind == "lmdb":
            database = LmdbIndex(temporary, write=True, map_size=lmdb_size)
            try:
                database.fill(list(records))
            finally:
                database.close()
        elif kind != "cdb":
            _fill_berkeley(temporary, kind, records)
        os.chmod(temporary, mode)
        _flush(temporary)
        os.rename(temporary, target)
    except BaseException:
        os.unlink(temporary)
        raise
    _flush(os.path.dirname(target))


def _fill_berkeley(path: str, kind: str, records: Records) -> None:
    file = berkeley.BerkeleyFile(path, kind, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    try:
        for key, value in records:
            file.put(key, value, replace=True)
    finally:
        file.close()


def _flush(path: str) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


class Editor:
    """An index that is there, open for changes."""

    def __init__(self, kind: str, path: str, *, lmdb_size: int = LMDB_MAP_SIZE) -> None:
        check_kind(kind)
        if kind == "cdb":
            raise TableError(
                "dict_cdb_open: inappropriate open flags for cdb database - "
                "specify O_RDONLY or O_WRONLY|O_CREAT|O_TRUNC"
            )
        target = path + INDEXED[kind]
        os.stat(target)
        self._index: LmdbIndex | berkeley.BerkeleyFile
        if kind == "lmdb":
            self._index = LmdbIndex(target, write=True, map_size=lmdb_size)
        else:
            self._index = berkeley.BerkeleyFile(target, kind, os.O_RDWR)

    def put(self, key: bytes, value: bytes, *, replace: bool) -> bool:
        """Store; whether it was stored: without `replace` a key that is there stays."""
        return self._index.put(key, value, replace=replace)

    def delete(self, key: bytes) -> bool:
        """Remove a key with or without its final NUL; whether it was there."""
        with_nul = self._index.delete(key + b"\0")
        return self._index.delete(key) or with_nul

    def close(self) -> None:
        """Write everything, and let go."""
        self._index.close()


def index_items(kind: str, path: str) -> Iterator[tuple[bytes, bytes]]:
    """The records of an index that is there, without final NULs."""
    check_kind(kind)
    target = path + INDEXED[kind]
    index: cdb.CdbIndex | LmdbIndex | berkeley.BerkeleyFile
    if kind == "cdb":
        index = cdb.CdbIndex(target)
    elif kind == "lmdb":
        index = LmdbIndex(target)
    else:
        index = berkeley.BerkeleyFile(target, kind)
    for key, value in index.items():
        yield key.removesuffix(b"\0"), value.removesuffix(b"\0")
