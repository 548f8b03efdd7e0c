"""anvil(8): how many connections a client has, and how much it does in a while, over all smtpd processes.

The counts are in a table of shared memory that is made when this module is imported: `master` imports it
before it forks, so its workers have one table, and no process stands between a client and its count. A client
is a service and an address; its rates are counted from its first event and begin anew when
`anvil_rate_time_unit` has passed, as Postfix has it.

Invariants: every change is made under a lock of the table's file, which the kernel gives back when its holder
dies; a process counts the connections that it serves in a column of its own; the next process that begins
clears the columns of dead ones; a client that finds no room in the table is not limited.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
import tempfile
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum
from hashlib import blake2b

_LANES = 64
"""Processes that can count connections."""
_LANE = struct.Struct("<i")
_DIGEST = 16
"""Octets that stand for a client, at the beginning of its slot."""
_SLOT = struct.Struct(f"<2d5I4x{_LANES}H")
"""When its rates began and when it was seen last (seconds); rates; connections by process."""
_STRIDE = _DIGEST + _SLOT.size
_WAYS = 8
"""Places of the table where a client may be."""
SLOTS = 4096
_RATES, _COUNTS = 2, 7
"""Where, in an unpacked slot, the rates and the connections begin."""
_TOP = 65535


class Event(IntEnum):
    """What is counted by time."""

    CONNECTION = 0
    MESSAGE = 1
    RECIPIENT = 2
    TLS = 3
    AUTH = 4


@dataclass(frozen=True, slots=True)
class EventLimits:
    """What one client may do in `unit` seconds; 0: as much as it likes."""

    unit: float
    connections: int
    """At once, not by time."""
    rates: tuple[int, int, int, int, int]
    """By `Event`."""


class Table:
    """The memory. One is shared by a process and all that it forks."""

    def __init__(self, slots: int = SLOTS) -> None:
        self._slots = slots
        self._fd = os.memfd_create("anvil") if hasattr(os, "memfd_create") else _unnamed_file()
        size = _LANES * _LANE.size + slots * _STRIDE
        os.ftruncate(self._fd, size)
        self._memory = mmap.mmap(self._fd, size)
        weakref.finalize(self, os.close, self._fd)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """The table is this process's alone for the time of the block."""
        fcntl.lockf(self._fd, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.lockf(self._fd, fcntl.LOCK_UN)

    def lane(self, pid: int) -> int | None:
        """The column of a process; None: none is left. Columns of processes that are gone are cleared.

        Call it under the lock.
        """
        owners = [_LANE.unpack_from(self._memory, number * _LANE.size)[0] for number in range(_LANES)]
        if pid in owners:
            return owners.index(pid)
        for number, owner in enumerate(owners):
            if owner and not _lives(owner):
                self._clear(number)
                owners[number] = 0
        if 0 not in owners:
            return None
        number = owners.index(0)
        _LANE.pack_into(self._memory, number * _LANE.size, pid)
        return number

    def _clear(self, lane: int) -> None:
        _LANE.pack_into(self._memory, lane * _LANE.size, 0)
        for index in range(self._slots):
            slot = self.read(index)
            if slot[_COUNTS + lane]:
                slot[_COUNTS + lane] = 0
                self.write(index, slot)

    def find(self, client: bytes, now: float) -> tuple[int, list[float]] | None:
        """A client's slot, an old one made new for it where it has none; None when all are in use."""
        first = int.from_bytes(client[:4], "little") % (self._slots // _WAYS) * _WAYS
        oldest: tuple[float, int] | None = None
        for index in range(first, first + _WAYS):
            slot = self.read(index)
            offset = self._offset(index)
            if self._memory[offset - _DIGEST : offset] == client:
                return index, slot
            if not any(slot[_COUNTS:]) and (oldest is None or slot[1] < oldest[0]):
                oldest = (slot[1], index)
        if oldest is None:
            return None
        offset = self._offset(oldest[1])
        self._memory[offset - _DIGEST : offset] = client
        return oldest[1], [now, now, *[0] * (5 + _LANES)]

    def read(self, index: int) -> list[float]:
        return list(_SLOT.unpack_from(self._memory, self._offset(index)))

    def write(self, index: int, slot: list[float]) -> None:
        _SLOT.pack_into(self._memory, self._offset(index), *slot)

    def _offset(self, index: int) -> int:
        """Where the numbers of a slot are."""
        return _LANES * _LANE.size + index * _STRIDE + _DIGEST


class Anvil:
    """One process's view of a table. Clients are named by text, such as `smtp:192.0.2.1`."""

    def __init__(self, table: Table | None = None, now: Callable[[], float] = time.monotonic) -> None:
        self._table = table if table is not None else Table(64)
        self._now = now
        self._lane: int | None = None
        self._pid = 0

    def join(self) -> None:
        """Begin to count for this process now, so that the connections of dead ones count no more."""
        with self._table.locked():
            self._own_lane()

    def connect(self, client: str, unit: float) -> tuple[int, int]:
        """Count a connection; (connections at once, connections within `unit` seconds), this one included."""
        with self._table.locked():
            lane = self._own_lane()
            found = self._table.find(_digest(client), self._now())
            if found is None or lane is None:
                return 0, 0
            index, slot = found
            rate = self._count(slot, Event.CONNECTION, unit)
            slot[_COUNTS + lane] = min(slot[_COUNTS + lane] + 1, _TOP)
            self._table.write(index, slot)
            return int(sum(slot[_COUNTS:])), rate

    def disconnect(self, client: str) -> None:
        """A connection that was counted is over."""
        with self._table.locked():
            lane = self._own_lane()
            found = self._table.find(_digest(client), self._now())
            if found is None or lane is None or not found[1][_COUNTS + lane]:
                return
            index, slot = found
            slot[_COUNTS + lane] -= 1
            self._table.write(index, slot)

    def add(self, client: str, event: Event, unit: float) -> int:
        """Count an event; how many of its kind there have been within `unit` seconds."""
        with self._table.locked():
            found = self._table.find(_digest(client), self._now())
            if found is None:
                return 0
            index, slot = found
            rate = self._count(slot, event, unit)
            self._table.write(index, slot)
            return rate

    def _count(self, slot: list[float], event: Event, unit: float) -> int:
        now = self._now()
        if slot[0] + unit < now:
            slot[0] = now
            slot[_RATES:_COUNTS] = [0] * len(Event)
        slot[1] = now
        slot[_RATES + event] += 1
        return int(slot[_RATES + event])

    def _own_lane(self) -> int | None:
        pid = os.getpid()
        if self._pid != pid:
            self._pid, self._lane = pid, self._table.lane(pid)
        return self._lane


def _digest(client: str) -> bytes:
    return blake2b(client.encode("utf-8", "surrogateescape"), digest_size=_DIGEST).digest()


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _unnamed_file() -> int:
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


SHARED = Table()
"""The table of this process and of everything that it forks."""
