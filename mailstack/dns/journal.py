"""What has changed in a zone, one serial after the other: `FILE.journal`, appended to and flushed.

Dynamic updates, incremental transfers from a primary, and what a file that has been edited has in other words
than before. It brings a zone from its file to where it was, and other servers from where they are to where it
is (IXFR).

A text file: a line `mailstack journal ZONE`, then for each step a line `update FROM TO LINES CRC OCTETS`
(serials of the zone as its file has them, the number of lines that follow, the CRC-32 and the number of
their octets) and the lines, `- OWNER TTL TYPE DATA` for what went, `+ OWNER TTL TYPE DATA` for what came, in
hexadecimal. (Earlier versions wrote no OCTETS, and no TTL of what went.) An update that was being written
when the machine stopped was never acknowledged: an end that is cut off is cut off.
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
    was: int | None = None
    """The TTL of one that went; None when the journal does not say."""

    def line(self) -> str:
        """The form in the file."""
        tail = f"{self.rdtype} {self.data.hex() or '.'}\n"
        if self.ttl is not None:
            return f"+ {self.owner.hex()} {self.ttl} {tail}"
        return (
            f"- {self.owner.hex()} {tail}" if self.was is None else f"- {self.owner.hex()} {self.was} {tail}"
        )


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
        step = _octets(entry)
        new = not self.path.exists()
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            size = os.fstat(descriptor).st_size
            try:
                _write(descriptor, (self._header if size == 0 else b"") + step)
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

    def since(self, serial: int, until: int) -> list[Entry] | None:
        """The steps that lead from one serial to another; None when the journal has no such way.

        Raises `OSError`.
        """
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return None
        found: list[Entry] = []
        position = len(self._header) if data.startswith(self._header) else len(data)
        while position < len(data):
            end = data.find(b"\n", position)
            words = data[position:end].split(b" ")
            if not found and len(words) == 6 and int(words[1]) != serial:
                position = end + 1 + int(words[5])  # a step that is not wanted is not read
                continue
            step = _entry(data, position)
            if step is None:
                break
            entry, position = step
            if entry.before == serial:
                found.append(entry)
                serial = entry.after
            elif found:
                return None
        return found if found and found[-1].after == until else None

    def size(self) -> int:
        """Octets; 0 when there is none."""
        try:
            return self.path.stat().st_size
        except OSError:
            return 0

    def shorten(self, limit: int, needed: int | None) -> None:
        """Keep at most `limit` octets: the last steps; and all from the one that begins with `needed` on.

        Raises `OSError` or `ConfigError`; the journal is then as it was.
        """
        if self.size() <= limit:
            return
        kept: list[bytes] = []
        total, wanted = len(self._header), needed is not None
        for entry in reversed(self.read()):
            step = _octets(entry)
            if not wanted and total + len(step) > limit:
                break
            kept.append(step)
            total += len(step)
            wanted = wanted and entry.before != needed
        if not kept:
            self.remove()
            return
        temporary = self.path.with_name(self.path.name + ".new")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        try:
            _write(descriptor, self._header + b"".join(reversed(kept)))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.rename(temporary, self.path)
        _flush_folder(self.path.parent)

    def remove(self) -> None:
        """No steps lead to the zone as it is now. Gone from disk when it returns. Raises `OSError`."""
        if self.path.exists():
            self.path.unlink()
            _flush_folder(self.path.parent)

    def put_aside(self) -> Path:
        """Rename a journal that does not belong to the zone file any more; returns its new name."""
        aside = self.path.with_name(self.path.name + ".old")
        os.replace(self.path, aside)
        return aside


def _octets(entry: Entry) -> bytes:
    body = "".join(change.line() for change in entry.changes).encode("ascii")
    serials = f"{entry.before} {entry.after}"
    return f"update {serials} {len(entry.changes)} {zlib.crc32(body):08x} {len(body)}\n".encode() + body


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
        word, before, after, count, crc, *_ = data[position:end].decode("ascii").split(" ")
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
            case ["-", owner, ttl, rdtype, data]:
                yield Change(bytes.fromhex(owner), int(rdtype), None, _data(data), int(ttl))
            case ["+", owner, ttl, rdtype, data]:
                yield Change(bytes.fromhex(owner), int(rdtype), int(ttl), _data(data))
            case _:
                raise ValueError(line)


def _data(text: str) -> bytes:
    return b"" if text == "." else bytes.fromhex(text)
