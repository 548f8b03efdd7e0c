"""Perl's regular expressions for pcre: tables (pcre_table(5)): libpcre2 where it is installed, else Python's.

libpcre2-8 is what Postfix uses, is on nearly every Linux system, and gives up a match that takes too many
steps. Python's `re` reads nearly the same patterns; what it cannot, it refuses. Raises `PatternError`.
"""

from __future__ import annotations

import ctypes
import re
from functools import cache
from typing import Protocol

from mailstack.storage.tables.posix import PatternError

FLAGS = {"i": 0x8, "m": 0x400, "s": 0x20, "x": 0x80, "A": 0x80000000, "E": 0x10, "U": 0x40000, "X": 0}
"""Letter → the option of pcre2.h that it toggles; `X` is how PCRE2 always behaves."""
DEFAULT = FLAGS["i"] | FLAGS["s"]
_NO_MATCH = -1


class Pattern(Protocol):
    """One compiled expression."""

    groups: int

    def search(self, key: bytes) -> list[bytes] | None:
        """The whole match and the groups (`b""`: took no part), or None. Raises `PatternError`."""
        ...


def compile_pattern(pattern: bytes, flags: int) -> Pattern:
    """Compile with the library that there is."""
    return Pcre2(pattern, flags) if _library() is not None else PythonPattern(pattern, flags)


@cache
def _library() -> ctypes.CDLL | None:
    try:
        library = ctypes.CDLL("libpcre2-8.so.0")
    except OSError:
        return None
    pointer, size = ctypes.c_void_p, ctypes.c_size_t
    library.pcre2_compile_8.restype = pointer
    library.pcre2_compile_8.argtypes = (ctypes.c_char_p, size, ctypes.c_uint32, pointer, pointer, pointer)
    library.pcre2_code_free_8.argtypes = (pointer,)
    library.pcre2_pattern_info_8.argtypes = (pointer, ctypes.c_uint32, pointer)
    library.pcre2_match_data_create_from_pattern_8.restype = pointer
    library.pcre2_match_data_create_from_pattern_8.argtypes = (pointer, pointer)
    library.pcre2_match_data_free_8.argtypes = (pointer,)
    library.pcre2_match_8.argtypes = (pointer, ctypes.c_char_p, size, size, ctypes.c_uint32, pointer, pointer)
    library.pcre2_get_ovector_pointer_8.restype = ctypes.POINTER(size)
    library.pcre2_get_ovector_pointer_8.argtypes = (pointer,)
    library.pcre2_get_error_message_8.argtypes = (ctypes.c_int, ctypes.c_char_p, size)
    return library


class Pcre2:
    """A pattern of libpcre2-8."""

    __slots__ = ("_code", "_data", "_library", "_offsets", "groups")

    def __init__(self, pattern: bytes, flags: int) -> None:
        library = _library()
        assert library is not None
        self._library = library
        self._code = self._data = None
        error, offset = ctypes.c_int(), ctypes.c_size_t()
        self._code = library.pcre2_compile_8(
            pattern, len(pattern), flags, ctypes.byref(error), ctypes.byref(offset), None
        )
        if not self._code:
            raise PatternError(f"error in regex at offset {offset.value}: {self._message(error.value)}")
        count = ctypes.c_uint32()
        library.pcre2_pattern_info_8(self._code, 4, ctypes.byref(count))  # PCRE2_INFO_CAPTURECOUNT
        self.groups = count.value
        self._data = library.pcre2_match_data_create_from_pattern_8(self._code, None)
        self._offsets = library.pcre2_get_ovector_pointer_8(self._data)

    def __del__(self) -> None:
        if self._data:
            self._library.pcre2_match_data_free_8(self._data)
        if self._code:
            self._library.pcre2_code_free_8(self._code)

    def _message(self, code: int) -> str:
        text = ctypes.create_string_buffer(256)
        self._library.pcre2_get_error_message_8(code, text, 256)
        return text.value.decode("utf-8", "replace")

    def search(self, key: bytes) -> list[bytes] | None:
        count = self._library.pcre2_match_8(self._code, key, len(key), 0, 0, self._data, None)
        if count == _NO_MATCH:
            return None
        if count < 0:
            raise PatternError(self._message(count))
        offsets = self._offsets
        groups = [key[offsets[2 * n] : offsets[2 * n + 1]] for n in range(count)]  # an unset one is ~0:~0
        return groups + [b""] * (self.groups + 1 - count)


_CLASSES = {
    b"alpha": b"A-Za-z", b"digit": b"0-9", b"alnum": b"A-Za-z0-9", b"upper": b"A-Z", b"lower": b"a-z",
    b"word": rb"\w",
    b"space": rb"\s", b"blank": rb" \t", b"punct": rb"!-/:-@\[-`{-~", b"xdigit": b"0-9A-Fa-f",
    b"cntrl": rb"\x00-\x1f\x7f", b"print": rb"\x20-\x7e", b"graph": rb"\x21-\x7e",
}  # fmt: skip


class PythonPattern:
    """The same with Python's `re`, for systems without the library."""

    __slots__ = ("_search", "groups")

    def __init__(self, pattern: bytes, flags: int) -> None:
        letters = {letter for letter, bit in FLAGS.items() if bit & flags}
        if letters & {"E", "U"}:
            raise PatternError("flags E and U need the library libpcre2-8")
        text = re.sub(rb"\[:(\w+):\]", lambda found: _CLASSES.get(found[1], found[0]), pattern)
        if b"[:" in text or rb"\Z" in text:
            raise PatternError("this pattern needs the library libpcre2-8")
        options = [getattr(re, letter.upper()) for letter in letters & {"i", "m", "s", "x"}]
        try:
            compiled = re.compile(text, sum(options))
        except re.error as error:
            raise PatternError(f"error in regex at offset {error.pos or 0}: {error.msg}") from None
        self.groups = compiled.groups
        self._search = compiled.match if "A" in letters else compiled.search

    def search(self, key: bytes) -> list[bytes] | None:
        found = self._search(key)
        return None if found is None else [group or b"" for group in (found[0], *found.groups())]
