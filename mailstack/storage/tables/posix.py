"""POSIX regular expressions as the C library matches them, for regexp: tables (regexp_table(5)).

Python's `re` would read many patterns otherwise: bracket expressions, the longest of the leftmost matches,
basic expressions. Octets in, octets out: expressions are compiled in the C locale, as Postfix has no other,
whatever the environment of this process says. Raises `PatternError`.
"""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

EXTENDED, ICASE, NEWLINE = 1, 2, 4
_ROOM = 256
"""Octets for a regex_t, larger than any C library's."""


class PatternError(Exception):
    """A pattern that cannot be compiled, in the library's words; or a match that ran out of memory."""


@cache
def _libc() -> tuple[ctypes.CDLL, int, type[ctypes.c_int] | type[ctypes.c_ssize_t]]:
    """The library, where a regex_t holds its number of groups, and the type of an offset."""
    library = ctypes.CDLL(None)
    for name in ("regcomp", "regexec", "regerror", "regfree"):
        getattr(library, name)  # AttributeError here rather than in the middle of a match
    if platform.libc_ver()[0] == "glibc":
        return library, 5 * ctypes.sizeof(ctypes.c_void_p) + ctypes.sizeof(ctypes.c_long), ctypes.c_int
    return library, 0, ctypes.c_ssize_t


@cache
def _c_locale() -> int:
    library = _libc()[0]
    library.newlocale.restype = library.uselocale.restype = ctypes.c_void_p
    library.uselocale.argtypes = (ctypes.c_void_p,)
    return int(library.newlocale(1, b"C", None))  # LC_CTYPE_MASK


@contextmanager
def _in_c_locale() -> Iterator[None]:
    """What this thread calls in the block knows characters of one octet only; classes hold ASCII."""
    c_locale = _c_locale()
    use = _libc()[0].uselocale
    before = use(c_locale)
    try:
        yield
    finally:
        use(before)


class Posix:
    """One compiled expression."""

    __slots__ = ("_buffer", "_exec", "_free", "_matches", "groups")

    def __init__(self, pattern: bytes, flags: int) -> None:
        library, at, offset = _libc()
        self._buffer = ctypes.create_string_buffer(_ROOM)
        self._free = None
        with _in_c_locale():
            code = library.regcomp(self._buffer, pattern, flags)
        if code:
            text = ctypes.create_string_buffer(_ROOM)
            library.regerror(code, self._buffer, text, ctypes.c_size_t(_ROOM))
            raise PatternError(text.value.decode("utf-8", "replace"))
        self._free = library.regfree
        self.groups = ctypes.c_size_t.from_buffer(self._buffer, at).value
        self._matches = (offset * (2 * (self.groups + 1)))()
        self._exec = library.regexec

    def __del__(self) -> None:
        if self._free is not None:
            self._free(self._buffer)

    def search(self, key: bytes) -> list[bytes] | None:
        """The whole match and the groups (`b""`: took no part), or None."""
        found = self._matches
        code = self._exec(self._buffer, key, ctypes.c_size_t(self.groups + 1), found, 0)
        if code == 1:
            return None
        if code:
            raise PatternError("Out of memory")
        offsets = list(found)
        return [
            key[start:end] if start >= 0 else b""
            for start, end in zip(offsets[::2], offsets[1::2], strict=True)
        ]
