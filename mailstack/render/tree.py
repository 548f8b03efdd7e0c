"""What rendering gives: files with modes, a digest over all of them, and the zones' serial numbers."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date
from types import MappingProxyType

Serials = Mapping[str, tuple[int, str]]
"""Zone name -> its serial and the SHA-256 of its content apart from the serial."""

MAX_SERIAL = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class File:
    """A file's octets and permission bits."""

    data: bytes
    mode: int = 0o644


@dataclass(frozen=True, slots=True)
class Tree:
    """The rendered files by path below the configuration root, sorted; all end in a newline."""

    files: Mapping[str, File]
    serials: Serials
    """To be kept and given to the next rendering."""

    @property
    def digest(self) -> str:
        """SHA-256 over every path, mode and content, as hex: equal digests are equal trees."""
        total = hashlib.sha256()
        for path, file in sorted(self.files.items()):
            total.update(f"{path}\0{file.mode:o}\0{len(file.data)}\0".encode())
            total.update(file.data)
        return total.hexdigest()


def make_tree(files: Mapping[str, File], serials: Serials) -> Tree:
    """A tree whose mappings cannot be changed any more."""
    return Tree(
        MappingProxyType(dict(sorted(files.items()))), MappingProxyType(dict(sorted(serials.items())))
    )


def with_serial(
    zone: str, write: Callable[[int], str], known: Serials, today: date, served: int | None = None
) -> tuple[str, tuple[int, str]]:
    """A zone's text with the serial it must have, and what to remember.

    `write(serial)` gives the text. An unchanged zone keeps its serial; a changed one gets today's date and
    two digits (RFC 1912 §2.2), or the old serial plus one where that is higher already. `served` is the
    serial that updates have brought the zone to meanwhile: a changed zone's is higher than that, too.
    """
    content = hashlib.sha256(write(0).encode()).hexdigest()
    before = known.get(zone)
    if before is not None and before[1] == content:
        serial = before[0]
    else:
        serial = int(today.strftime("%Y%m%d")) * 100 + 1
        last = before[0] if before is not None else 0
        if served is not None and (not last or 0 < (served - last) & MAX_SERIAL < 1 << 31):
            last = served
        if serial <= last:
            # Serial arithmetic (RFC 1982): after the last number comes 1, which is "higher"; 0 is avoided.
            serial = last + 1 if last < MAX_SERIAL else 1
    return write(serial), (serial, content)
