"""cdb: indexes: constant databases, read and written (D. J. Bernstein's format, cdb(5)).

A file begins with 256 pairs of (position, slots) of hash tables; then come the records, each `key length,
value length, key, value`, then the tables, each slot `hash, position of the record`. Numbers are 32 bits,
little endian. postmap(1) writes keys and values without a final NUL. Raises `TableError` for what is no such
file.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterable, Iterator
from struct import Struct
from typing import IO

from mailstack.storage.tables.text import TableError

_PAIR = Struct("<II")
_HEADER = 256 * _PAIR.size
LIMIT = 2**32 - 1
"""Octets that a file may have."""


def hash_of(key: bytes) -> int:
    """The format's 32-bit hash."""
    value = 5381
    for octet in key:
        value = ((value << 5) + value & 0xFFFFFFFF) ^ octet
    return value


class CdbIndex:
    """An open file. It is replaced, never changed, so what is open stays whole."""

    __slots__ = ("_data", "_path")

    def __init__(self, path: str) -> None:
        self._path = path
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_size < _HEADER:
                raise TableError(f"open database {path}: this is no cdb file")
            self._data = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)

    def get(self, key: bytes) -> bytes | None:
        """The value of the first record with this key."""
        number = hash_of(key)
        try:
            start, slots = _PAIR.unpack_from(self._data, (number & 255) * _PAIR.size)
            for step in range(slots):
                slot = start + ((number >> 8) + step) % slots * _PAIR.size
                found, position = _PAIR.unpack_from(self._data, slot)
                if not position:
                    return None
                if found == number:
                    record, value, _ = self._record(position)
                    if record == key:
                        return value
        except struct.error:
            raise TableError(f"database {self._path} is damaged") from None
        return None

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """All records in the order of the file."""
        position = _HEADER
        try:
            end = min(_PAIR.unpack_from(self._data, n * _PAIR.size)[0] for n in range(256))
            while position < end:
                key, value, position = self._record(position)
                yield key, value
        except struct.error:
            raise TableError(f"database {self._path} is damaged") from None

    def _record(self, position: int) -> tuple[bytes, bytes, int]:
        key_length, value_length = _PAIR.unpack_from(self._data, position)
        middle = position + _PAIR.size + key_length
        end = middle + value_length
        if end > len(self._data):
            raise struct.error("beyond the end")
        return self._data[position + _PAIR.size : middle], self._data[middle:end], end


def write(file: IO[bytes], records: Iterable[tuple[bytes, bytes]]) -> None:
    """Write a whole database to an empty file. Raises `TableError` when it grows too large."""
    tables: list[list[tuple[int, int]]] = [[] for _ in range(256)]
    file.write(bytes(_HEADER))
    position = _HEADER
    for key, value in records:
        number = hash_of(key)
        tables[number & 255].append((number, position))
        file.write(_PAIR.pack(len(key), len(value)) + key + value)
        position += _PAIR.size + len(key) + len(value)
        if position > LIMIT:
            raise TableError("a cdb file cannot have more than 4 GiB")
    header = b""
    for entries in tables:
        slots = 2 * len(entries)
        header += _PAIR.pack(position, slots)
        table: list[tuple[int, int]] = [(0, 0)] * slots
        for number, place in entries:
            slot = (number >> 8) % slots
            while table[slot][1]:
                slot = (slot + 1) % slots
            table[slot] = (number, place)
        file.write(b"".join(_PAIR.pack(*entry) for entry in table))
        position += slots * _PAIR.size
        if position > LIMIT:
            raise TableError("a cdb file cannot have more than 4 GiB")
    file.seek(0)
    file.write(header)
