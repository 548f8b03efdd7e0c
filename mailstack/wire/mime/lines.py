"""Line ends: LF on disk, CRLF on the wire; sizes and pieces of the wire form without making it whole."""

from __future__ import annotations

import mmap
from collections.abc import Iterator

PIECE = 1 << 18
"""Octets of a large message that are handled at once."""

WINDOW = 1 << 20
"""Octets of a mapped file that are looked at between two releases of its pages."""

Data = bytes | mmap.mmap
"""A message as it lies on disk: sliced, searched with `find`, measured with `len`."""


def seek(data: Data, octets: bytes, start: int, end: int | None = None) -> int:
    """`data.find(octets, start, end)`, without keeping all of a mapped file in memory on the way."""
    end = len(data) if end is None else min(end, len(data))
    if isinstance(data, bytes) or end - start <= WINDOW:
        return data.find(octets, start, end)
    at = start
    while at < end:
        found = data.find(octets, at, min(at + WINDOW, end))
        if found >= 0:
            return found
        at += WINDOW - len(octets) + 1
        release(data)
    return -1


def wire(data: bytes) -> bytes:
    """The same octets with every line end as CRLF; a CR alone stays."""
    if b"\r" in data:
        data = data.replace(b"\r\n", b"\n")
    return data.replace(b"\n", b"\r\n")


def wire_size(data: Data, start: int = 0, end: int | None = None) -> int:
    """`len(wire(data[start:end]))` without making it."""
    end = len(data) if end is None else end
    if isinstance(data, bytes):
        lines = data.count(b"\n", start, end)
        # A single octet is found much faster than two.
        if lines and data.find(b"\r", start, end) >= 0:
            lines -= data.count(b"\r\n", start, end)
        return end - start + lines
    total = end - start
    previous = b""
    for at in range(start, end, PIECE):
        if at % WINDOW < PIECE:
            release(data)
        piece = data[at : min(at + PIECE, end)]
        total += piece.count(b"\n") - piece.count(b"\r\n") - (previous == b"\r" and piece[:1] == b"\n")
        previous = piece[-1:]
    return total


def measure(data: Data, start: int, end: int) -> tuple[int, int]:
    """`wire_size` and `line_count` of `data[start:end]`."""
    if not isinstance(data, bytes) or data.find(b"\r", start, end) >= 0:
        return wire_size(data, start, end), line_count(data, start, end)
    lines = data.count(b"\n", start, end)
    return end - start + lines, lines


def line_count(data: Data, start: int, end: int) -> int:
    """How many LF stand in `data[start:end]`."""
    if isinstance(data, bytes):
        return data.count(b"\n", start, end)
    total = 0
    for at in range(start, end, PIECE):
        if at % WINDOW < PIECE:
            release(data)
        total += data[at : min(at + PIECE, end)].count(b"\n")
    return total


def wire_pieces(
    data: Data, start: int, end: int, offset: int = 0, length: int | None = None
) -> Iterator[bytes]:
    """`wire(data[start:end])[offset : offset + length]`, in pieces."""
    left = (end - start) * 2 if length is None else length
    skip = offset
    after_cr = False
    for at in range(start, end, PIECE):
        if left <= 0:
            break
        piece = data[at : min(at + PIECE, end)]
        if after_cr and piece[:1] == b"\n":
            converted = b"\n" + wire(piece[1:])
        else:
            converted = wire(piece)
        after_cr = piece[-1:] == b"\r"
        if skip:
            if skip >= len(converted):
                skip -= len(converted)
                continue
            converted = converted[skip:]
            skip = 0
        if len(converted) > left:
            converted = converted[:left]
        left -= len(converted)
        yield converted
        if at % WINDOW < PIECE:
            release(data)


def release(data: Data) -> None:
    """Let the kernel take a mapping's pages back (they stay in its cache)."""
    if isinstance(data, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        data.madvise(mmap.MADV_DONTNEED)
