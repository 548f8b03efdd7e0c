"""lmdb: indexes (`NAME.lmdb`), through the Python package `lmdb` where it is installed.

Keys and values end in a NUL, as postmap(1) writes them on Linux. Files are opened without LMDB's own lock
file, and locked by fcntl(2) while they are read or written, as Postfix does. One process opens a file once,
however many tables name it. Raises `TableError`.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from importlib.util import find_spec
from weakref import WeakValueDictionary

from mailstack.storage.tables.text import TableError

MAP_SIZE = 16 * 1024 * 1024
"""Octets that a new database may grow to at first (lmdb_map_size); it is doubled when they are used up."""
KEY_LIMIT = 511
"""Octets that a key may have."""
_open: WeakValueDictionary[tuple[str, int, int], _Environment] = WeakValueDictionary()


def available() -> bool:
    """Whether the package is installed."""
    return find_spec("lmdb") is not None


class _Environment:
    """An open file, shared by all who look into it."""

    __slots__ = ("__weakref__", "env", "fd")

    def __init__(self, path: str, *, write: bool, map_size: int = MAP_SIZE) -> None:
        try:
            import lmdb
        except ImportError:
            raise TableError(f"open database {path}: the Python package lmdb is not installed") from None
        self.fd = os.open(path, (os.O_RDWR | os.O_CREAT if write else os.O_RDONLY) | os.O_CLOEXEC, 0o644)
        if write:
            fcntl.lockf(self.fd, fcntl.LOCK_EX)  # until it is closed
        try:
            self.env = lmdb.open(
                path,
                subdir=False,
                readonly=not write,
                create=write,
                lock=False,
                map_size=map_size,
                mode=0o644,
                max_spare_txns=1,
            )
        except lmdb.Error as error:
            raise TableError(f"open database {path}: {error}") from None

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file and its lock."""
        if hasattr(self, "env"):
            self.env.close()
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class LmdbIndex:
    """An open database."""

    __slots__ = ("_environment", "_path", "_writing")

    def __init__(self, path: str, *, write: bool = False, map_size: int = MAP_SIZE) -> None:
        self._path = path
        stat = None if write else os.stat(path)
        key = (path, stat.st_dev, stat.st_ino) if stat is not None else None
        environment = _open.get(key) if key is not None else None
        if environment is None:
            environment = _Environment(path, write=write, map_size=map_size)
            if key is not None:
                _open[key] = environment
        self._environment = environment
        self._writing = write
        """The file is ours alone until it is closed."""

    def get(self, key: bytes) -> bytes | None:
        """The value of a key. Raises `TableError`; `BlockingIOError` while others write."""
        import lmdb

        if not 0 < len(key) <= KEY_LIMIT:
            return None
        env, fd = self._environment.env, self._environment.fd
        if self._writing:
            with env.begin() as txn:
                return txn.get(key)
        fcntl.lockf(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        try:
            try:
                with env.begin() as txn:
                    return txn.get(key)
            except lmdb.MapResizedError:
                env.set_mapsize(0)  # another process has let it grow
                with env.begin() as txn:
                    return txn.get(key)
        except lmdb.Error as error:
            raise TableError(f"database {self._path}: {error}") from None
        finally:
            fcntl.lockf(fd, fcntl.LOCK_UN)

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """All records in the order of their keys."""
        with self._environment.env.begin() as txn:
            yield from txn.cursor()

    def put(self, key: bytes, value: bytes, *, replace: bool) -> bool:
        """Store; whether it was stored: without `replace` a key that is there stays. Raises `TableError`."""
        import lmdb

        env = self._environment.env
        while True:
            try:
                with env.begin(write=True) as txn:
                    return txn.put(key, value, overwrite=replace)
            except lmdb.MapFullError:
                env.set_mapsize(2 * env.info()["map_size"])
            except lmdb.Error as error:
                raise TableError(f"database {self._path}: {error}") from None

    def fill(self, records: list[tuple[bytes, bytes]]) -> None:
        """Store many at once, in one transaction. Raises `TableError`."""
        import lmdb

        env = self._environment.env
        while True:
            try:
                with env.begin(write=True) as txn:
                    for key, value in records:
                        txn.put(key, value)
                return
            except lmdb.MapFullError:
                env.set_mapsize(2 * env.info()["map_size"])
            except lmdb.Error as error:
                raise TableError(f"database {self._path}: {error}") from None

    def delete(self, key: bytes) -> bool:
        """Remove; whether it was there. Raises `TableError`."""
        import lmdb

        try:
            with self._environment.env.begin(write=True) as txn:
                return txn.delete(key)
        except lmdb.Error as error:
            raise TableError(f"database {self._path}: {error}") from None

    def sync(self) -> None:
        """Nothing is left to write: every transaction has been."""

    def close(self) -> None:
        """Let go of the file."""
        self._environment.close()
