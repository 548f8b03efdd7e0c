"""What updates have changed in a zone since its file was read: `FILE.journal`, appended to and flushed.

A text file: a line `mailstack journal ZONE`, then for each update a line `update FROM TO LINES CRC` (serials
of the zone as its file has them, the number of lines that follow, the CRC-32 of their octets) and the lines,
`- OWNER TYPE DATA` for what went, `+ OWNER TTL TYPE DATA` for what came, in hexadecimal. An update that
was being written when the machine stopped was never acknowledged: an end that is cut off is cut off.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from mailstack.config.errors import ConfigError

HEADER = "mailstack journal "


@dataclass(frozen=True, slots=True)
class Change:
    """One record that came (`ttl` is set) or went. `owner` and `data` are on the wire, uncompressed."""

    owner: bytes
    rdtype: int
    ttl: int | None
    data: bytes

    def line(self) -> str:
        """The form in the file."""
        if self.ttl is None:
            return f"- {self.owner.hex()} {self.rdtype} {self.data.hex() or '.'}\n"
        return f"+ {self.owner.hex()} {self.ttl} {self.rdtype} {self.data.hex() or '.'}\n"


@dataclass(frozen=True, slots=True)
class Entry:
    """One update: the zone's serial before and after it."""

    before: int
    after: int
    changes: tuple[Change, ...]


class Journal:
    """The journal of one zone. Not there until the first update."""

    def __init__(self, path: Path, zone: str) -> None:
        self.path = path
        self._header = f"{HEADER}{zone or '.'}\n".encode()

    def append(self, entry: Entry) -> None:
        """Add an update; on disk when it returns. Raises `OSError`, and leaves the file as it was."""
        body = "".join(change.line() for change in entry.changes).encode("ascii")
        head = f"update {entry.before} {entry.after} {len(entry.changes)} {zlib.crc32(body):08x}\n".encode()
        new = not self.path.exists()
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            size = os.fstat(descriptor).st_size
            try:
                _write(descriptor, (self._header if size == 0 else b"") + head + body)
                os.fsync(descriptor)
            except OSError:
                os.ftruncate(descriptor, size)
                raise
        finally:
            os.close(descriptor)
        if new:
            _flush_folder(self.path.parent)

    def read(self) -> list[Entry]:
        """Every update, in order; an unfinished one at the end is removed. Raises `ConfigError`."""
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return []
        except OSError as error:
            raise ConfigError(self.path, 0, error.strerror or str(error)) from error
        if not data.startswith(self._header):
            if self._header.startswith(data):  # the first write was cut off
                os.truncate(self.path, 0)
                return []
            raise ConfigError(self.path, 1, "this is no journal of the zone")
        entries: list[Entry] = []
        position, line = len(self._header), 2
        while position < len(data):
            found = _entry(data, position)
            if found is None:
                if data.find(b"\nupdate ", position) >= 0:
                    raise ConfigError(self.path, line, "the journal is damaged before its end")
                os.truncate(self.path, position)
                break
            entry, position = found
            entries.append(entry)
            line += 1 + len(entry.changes)
        return entries

    def put_aside(self) -> Path:
        """Rename a journal that does not belong to the zone file any more; returns its new name."""
        aside = self.path.with_name(self.path.name + ".old")
        os.replace(self.path, aside)
        return aside


def _write(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _entry(data: bytes, position: int) -> tuple[Entry, int] | None:
    """The update at a position and where it ends; None when it is not whole."""
    end = data.find(b"\n", position)
    try:
        word, before, after, count, crc = data[position:end].decode("ascii").split(" ")
        if end < 0 or word != "update":
            return None
        position = end + 1
        body = position
        for _ in range(int(count)):
            body = data.index(b"\n", body) + 1
        if zlib.crc32(data[position:body]) != int(crc, 16):
            return None
        changes = tuple(_changes(data[position:body].decode("ascii").splitlines()))
    except ValueError:
        return None
    return Entry(int(before), int(after), changes), body


def _changes(lines: Iterable[str]) -> Iterator[Change]:
    for line in lines:
        match line.split(" "):
            case ["-", owner, rdtype, data]:
                yield Change(bytes.fromhex(owner), int(rdtype), None, _data(data))
            case ["+", owner, ttl, rdtype, data]:
                yield Change(bytes.fromhex(owner), int(rdtype), int(ttl), _data(data))
            case _:
                raise ValueError(line)


def _data(text: str) -> bytes:
    return b"" if text == "." else bytes.fromhex(text)
