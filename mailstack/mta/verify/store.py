"""Where verify's cache is kept (address_verify_map): nothing for memory, `btree:`, `hash:` or `lmdb:`.

A file is opened for writing and locked for as long as it is open, as Postfix has it; records have the form
that postmap(1) writes, so `postmap -s` lists a copy of it. Raises `OSError` and `TableError`.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable

from mailstack.mta.verify.cache import Store
from mailstack.storage.tables import INDEXED
from mailstack.storage.tables.berkeley import BerkeleyFile
from mailstack.storage.tables.lmdb_index import MAP_SIZE, LmdbIndex

PATIENCE = 2.0
"""Seconds that another program may have the file locked."""


def open_store(name: str, lmdb_size: int = MAP_SIZE) -> Store:
    """The store that address_verify_map names."""
    if not name:
        return MemoryStore()
    kind, _, path = name.removeprefix("proxy:").partition(":")
    return FileStore(kind, path, lmdb_size)


REMEMBERED = 100_000
"""Records in memory at the most."""


class MemoryStore:
    """For as long as the process lives; where there is no more room the oldest record goes."""

    def __init__(self) -> None:
        self._records: dict[str, str] = {}

    def get(self, key: str) -> str | None:
        return self._records.get(key)

    def put(self, key: str, value: str) -> None:
        self._records.pop(key, None)
        if len(self._records) >= REMEMBERED:
            del self._records[next(iter(self._records))]
        self._records[key] = value

    def delete(self, key: str) -> None:
        self._records.pop(key, None)

    def all(self) -> list[str]:
        return list(self._records)

    def sync(self) -> None:
        """There is no disk."""

    def close(self) -> None:
        """There is nothing to let go of."""


class FileStore:
    """In a file, for as long as it is there."""

    def __init__(self, kind: str, path: str, lmdb_size: int) -> None:
        self._index: BerkeleyFile | LmdbIndex
        target = path + INDEXED[kind]
        _wait_for_lock(target, fcntl.lockf if kind == "lmdb" else fcntl.flock)
        if kind == "lmdb":
            self._index = LmdbIndex(target, write=True, map_size=lmdb_size)
        else:
            self._index = BerkeleyFile(target, kind, os.O_RDWR | os.O_CREAT)

    def get(self, key: str) -> str | None:
        octets = _octets(key)
        value = self._index.get(octets)
        if value is None:
            value = self._index.get(octets[:-1])
        return None if value is None else _text(value)

    def put(self, key: str, value: str) -> None:
        self._index.put(_octets(key), _octets(value), replace=True)

    def delete(self, key: str) -> None:
        octets = _octets(key)
        if not self._index.delete(octets):
            self._index.delete(octets[:-1])

    def all(self) -> list[str]:
        return [_text(key) for key, _ in self._index.items()]

    def sync(self) -> None:
        self._index.sync()

    def close(self) -> None:
        self._index.close()


def _wait_for_lock(path: str, lock: Callable[[int, int], object]) -> None:
    """Return when nobody has the file locked. Raises `BlockingIOError` when somebody keeps it."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    end = time.monotonic() + PATIENCE
    try:
        while True:
            try:
                lock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() >= end:
                    raise BlockingIOError(0, "another program has it locked", path) from None
                time.sleep(0.05)
    finally:
        os.close(fd)


def _octets(text: str) -> bytes:
    return text.replace("\0", "").encode("utf-8", "surrogateescape") + b"\0"


def _text(octets: bytes) -> str:
    return octets.removesuffix(b"\0").decode("utf-8", "surrogateescape")
