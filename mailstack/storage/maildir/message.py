"""Reading a message file: small ones are read whole, large ones are mapped.

A fetch of a part of a mapped message, or of all of it piece by piece, never holds more than one piece.
"""

from __future__ import annotations

import mmap
import os

from mailstack.wire.mime.lines import Data

MAP_FROM = 1 << 20
"""Octets from which a file is mapped instead of read."""
_USUAL = 1 << 16
"""Octets that are asked for first: most messages are smaller, and need not be measured."""


def open_message(path: str) -> Data:
    """The message's octets. Raises `OSError`, `FileNotFoundError` when it has been renamed or removed."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        data = os.read(fd, _USUAL)
        if len(data) < _USUAL:
            return data
        size = os.fstat(fd).st_size
        if size >= MAP_FROM:
            return mmap.mmap(fd, size, access=mmap.ACCESS_READ)
        data = os.pread(fd, size, 0)
        while len(data) < size:
            more = os.pread(fd, size - len(data), len(data))
            if not more:
                break
            data += more
        return data
    finally:
        os.close(fd)
