"""hash: and btree: indexes: Berkeley DB files (`NAME.db`), through libdb 5.3 where it is installed.

The library's interface of version 1.85 is used: its handle is a plain table of functions that has not changed
since, and the files are those that Postfix reads and writes. Keys and values end in a NUL, as postmap(1)
writes them on Linux. A file is written in place by others under an exclusive lock: every access holds a
shared one. Raises `OSError`, and `TableError` where there is no library.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
from collections.abc import Callable, Iterator
from functools import cache

from mailstack.storage.tables.text import TableError

TYPES = {"btree": 0, "hash": 1}
_NO_OVERWRITE, _FIRST, _NEXT = 8, 3, 7


class _Entry(ctypes.Structure):
    _fields_ = (("data", ctypes.c_void_p), ("size", ctypes.c_size_t))


_Close = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, use_errno=True)
_Get = ctypes.CFUNCTYPE(
    ctypes.c_int,
    ctypes.c_void_p,
    ctypes.POINTER(_Entry),
    ctypes.POINTER(_Entry),
    ctypes.c_uint,
    use_errno=True,
)
_Sync = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, use_errno=True)
_Delete = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.c_void_p, ctypes.POINTER(_Entry), ctypes.c_uint, use_errno=True
)


class _Handle(ctypes.Structure):
    """The DB structure of dbopen(3)."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("close", _Close),
        ("delete", _Delete),
        ("get", _Get),
        ("put", _Get),
        ("seq", _Get),
        ("sync", _Sync),
    )


@cache
def library() -> Callable[..., ctypes._Pointer[_Handle]] | None:
    """What opens a file in libdb 5.3, or None."""
    try:
        found = ctypes.CDLL("libdb-5.3.so", use_errno=True)
        open_file: Callable[..., ctypes._Pointer[_Handle]] = found["__db185_open"]
    except (OSError, AttributeError):
        return None
    open_file.restype = ctypes.POINTER(_Handle)  # type: ignore[attr-defined]
    return open_file


class BerkeleyFile:
    """An open file; `flags` are those of open(2)."""

    __slots__ = ("_db", "_fd", "_path", "_seen", "_type", "_writing")

    def __init__(self, path: str, kind: str, flags: int = os.O_RDONLY) -> None:
        self._path = path
        self._type = TYPES[kind]
        self._db: ctypes._Pointer[_Handle] | None = None
        self._fd = os.open(path, (flags & ~os.O_TRUNC) | os.O_CLOEXEC, 0o644)
        self._seen = (0, 0)
        self._writing = flags != os.O_RDONLY
        """The file is ours alone until it is closed."""
        try:
            if flags == os.O_RDONLY:
                with self.locked():
                    self._open(flags)
            else:
                fcntl.flock(self._fd, fcntl.LOCK_EX)  # until it is closed
                self._open(flags)
        except BaseException:
            os.close(self._fd)
            raise

    def _open(self, flags: int) -> None:
        open_file = library()
        if open_file is None:
            raise TableError(f"open database {self._path}: the library libdb-5.3 is not installed")
        db = open_file(os.fsencode(self._path), flags, 0o644, self._type, None)
        if not bool(db):
            raise _failed(self._path)
        self._db = db
        self._seen = self._now()

    def _now(self) -> tuple[int, int]:
        stat = os.fstat(self._fd)
        return stat.st_mtime_ns, stat.st_size

    def __del__(self) -> None:
        if self._db is not None:
            self.close()

    def close(self) -> None:
        """Write what is in memory, and let go. Raises `OSError`."""
        db, self._db = self._db, None
        if db is not None:
            status = db.contents.close(db)
            os.close(self._fd)
            if status:
                raise _failed(self._path)

    def locked(self) -> _Lock:
        """Hold the file's lock, as Postfix's programs do; raises `BlockingIOError` while others write."""
        return _Lock(self._fd)

    def get(self, key: bytes) -> bytes | None:
        """The value of a key. Raises `OSError`."""
        if self._writing:
            return self._get(key)
        with self.locked():
            if self._now() != self._seen:  # pages in memory are of the file before
                assert self._db is not None
                self._db.contents.close(self._db)
                self._db = None
                self._open(os.O_RDONLY)
            return self._get(key)

    def _get(self, key: bytes) -> bytes | None:
        assert self._db is not None
        value = _Entry()
        status = self._db.contents.get(self._db, ctypes.byref(_entry(key)), ctypes.byref(value), 0)
        if status < 0:
            raise _failed(self._path)
        return None if status else ctypes.string_at(value.data, value.size)

    def sync(self) -> None:
        """Write what is in memory, and go on. Raises `OSError`."""
        assert self._db is not None
        if self._db.contents.sync(self._db, 0):
            raise _failed(self._path)

    def put(self, key: bytes, value: bytes, *, replace: bool) -> bool:
        """Store; whether it was stored: without `replace` a key that is there stays. Raises `OSError`."""
        assert self._db is not None
        flags = 0 if replace else _NO_OVERWRITE
        status = self._db.contents.put(
            self._db, ctypes.byref(_entry(key)), ctypes.byref(_entry(value)), flags
        )
        if status < 0:
            raise _failed(self._path)
        return not status

    def delete(self, key: bytes) -> bool:
        """Remove; whether it was there. Raises `OSError`."""
        assert self._db is not None
        status = self._db.contents.delete(self._db, ctypes.byref(_entry(key)), 0)
        if status < 0:
            raise _failed(self._path)
        return not status

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """All records. Raises `OSError`."""
        assert self._db is not None
        key, value = _Entry(), _Entry()
        flags = _FIRST
        while True:
            status = self._db.contents.seq(self._db, ctypes.byref(key), ctypes.byref(value), flags)
            if status < 0:
                raise _failed(self._path)
            if status:
                return
            yield ctypes.string_at(key.data, key.size), ctypes.string_at(value.data, value.size)
            flags = _NEXT


class _Lock:
    __slots__ = ("_fd",)

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def __enter__(self) -> None:
        fcntl.flock(self._fd, fcntl.LOCK_SH | fcntl.LOCK_NB)

    def __exit__(self, *_: object) -> None:
        fcntl.flock(self._fd, fcntl.LOCK_UN)


def _entry(data: bytes) -> _Entry:
    return _Entry(ctypes.cast(ctypes.c_char_p(data), ctypes.c_void_p), len(data))


def _failed(path: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number), path)
