"""Reading log files: the last lines, lines since a time, and lines as they come.

The servers write `Nov 22 11:57:30 host tag[pid]: text` (syslog's classic form, without a year): the year is
the one that puts the line into the past. A line without a stamp (a traceback's) belongs to the one before it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from mailstack.runtime.model import LogLine

TAIL_LINES = 12
_TAIL_OCTETS = 16 * 1024
_POLL = 0.1
_MONTHS = {
    name: number
    for number, name in enumerate(
        ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"), 1
    )
}


def tail(path: Path, start: int = 0, lines: int = TAIL_LINES) -> list[str]:
    """The last lines of a file, none from before octet `start`; empty when it cannot be read."""
    try:
        with open(path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            start = start if start <= size else 0  # the file was moved aside and begun again
            file.seek(max(start, size - _TAIL_OCTETS))
            return file.read().decode(errors="replace").splitlines()[-lines:]
    except OSError:
        return []


def stamp(line: str, now: float) -> float | None:
    """When a line was written, in seconds since the epoch; None when it does not say."""
    try:
        month, day = _MONTHS[line[:3]], int(line[4:6])
        hour, minute, second = int(line[7:9]), int(line[10:12]), int(line[13:15])
    except (KeyError, ValueError):
        return None
    year = time.localtime(now).tm_year
    moment = time.mktime((year, month, day, hour, minute, second, 0, 0, -1))
    if moment > now + 86400:
        moment = time.mktime((year - 1, month, day, hour, minute, second, 0, 0, -1))
    return moment


def read(files: Mapping[str, Path], *, follow: bool, since: float | None) -> Iterator[LogLine]:
    """Lines of several services' files, by time; those of one file stay in their order.

    `since`: seconds since the epoch. With `follow` it goes on for ever, as `tail -F` does: a file may be
    missing at first, and may be moved aside.
    """
    readers = [_Reader(name, path) for name, path in files.items()]
    batch = [line for reader in readers for line in reader.lines()]
    batch.sort(key=lambda line: line.time or 0.0)
    yield from (line for line in batch if since is None or (line.time or 0.0) >= since)
    while follow:
        fresh = [line for reader in readers for line in reader.lines()]
        yield from fresh
        if not fresh:
            time.sleep(_POLL)


class _Reader:
    """One file, read from where the last call ended."""

    def __init__(self, service: str, path: Path) -> None:
        self._service = service
        self._path = path
        self._inode = 0
        self._offset = 0
        self._rest = b""
        self._last: float | None = None

    def lines(self) -> list[LogLine]:
        try:
            with open(self._path, "rb") as file:
                status = os.fstat(file.fileno())
                if status.st_ino != self._inode or status.st_size < self._offset:
                    self._inode, self._offset, self._rest = status.st_ino, 0, b""
                file.seek(self._offset)
                data = file.read()
        except OSError:
            return []
        self._offset += len(data)
        *whole, self._rest = (self._rest + data).split(b"\n")
        now = time.time()
        lines = []
        for raw in whole:
            text = raw.decode(errors="replace")
            self._last = stamp(text, now) or self._last
            lines.append(LogLine(self._service, self._last, text))
        return lines
