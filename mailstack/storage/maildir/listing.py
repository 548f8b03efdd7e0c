"""What stands in a folder's directories, read so that a file which is renamed meanwhile is not missed."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

GRANULARITY = 20_000_000
"""Nanoseconds in which a directory may change twice and keep its modification time: filesystems take it from
a clock that ticks with the kernel's timer."""

Stamp = tuple[int, int]
"""Modification times of `new/` and `cur/` in nanoseconds."""
NO_STAMP: Stamp = (-1, -1)
"""No times, or times so young that the next change may leave the same ones: they say nothing."""


class FolderGoneError(OSError):
    """The folder has been deleted, or made anew with another UIDVALIDITY: no view of it is valid any more."""


@dataclass(frozen=True, slots=True)
class Listing:
    """What the directories held, and their modification times read before that (`NO_STAMP`: too young)."""

    new: list[str]
    cur: list[str]
    stamp: Stamp


def stamp_of(path: str) -> Stamp:
    """The directories' times now. Raises `OSError`."""
    return (os.stat(f"{path}/new").st_mtime_ns, os.stat(f"{path}/cur").st_mtime_ns)


def read_listing(path: str) -> Listing:
    """List `new/` before `cur/`, so that a file which moves between them meanwhile is seen at least once.

    A rename during the reading of a directory may hide the file: a directory that has changed meanwhile is
    read again and the results are joined. Raises `OSError`, `FolderGoneError`.
    """
    try:
        stamp = stamp_of(path)
        young = max(stamp) > time.time_ns() - GRANULARITY
        new, cur = os.listdir(f"{path}/new"), os.listdir(f"{path}/cur")
        if stamp_of(path) != stamp:
            again = stamp_of(path)
            present = set(os.listdir(f"{path}/cur"))
            cur = list(present | {name for name in cur if os.path.exists(f"{path}/cur/{name}")})
            new = os.listdir(f"{path}/new")
            stamp = again
            young = max(stamp) > time.time_ns() - GRANULARITY
    except FileNotFoundError as error:
        if os.path.isdir(path):
            for name in ("cur", "new", "tmp"):
                os.makedirs(f"{path}/{name}", 0o700, exist_ok=True)
            return read_listing(path)
        raise FolderGoneError(f"{path}: deleted") from error
    return Listing(
        [name for name in new if not name.startswith(".")],
        [name for name in cur if not name.startswith(".")],
        NO_STAMP if young else stamp,
    )


def arrival_key(base: str) -> tuple[int, int, str]:
    """Delivery order: seconds and microseconds of the unique name, then the name itself."""
    seconds, _, rest = base.partition(".")
    micros = ""
    if rest.startswith("M"):
        for char in rest[1:]:
            if not ("0" <= char <= "9"):
                break
            micros += char
    number = int(seconds) if seconds.isascii() and seconds.isdecimal() and len(seconds) < 19 else 1 << 62
    return (number, int(micros or 0) if len(micros) < 19 else 0, base)
