"""Memory that a burst of connections leaves behind goes back to the system.

OpenSSL's and uvloop's buffers of a few hundred TLS connections leave the C library's heap full of holes:
free, but neither given back nor filled well by the next burst (17 MB grow to 84 MB in eight bursts of 500).
`malloc_trim` of glibc gives the free pages back in milliseconds; other C libraries have nothing like it.
"""

from __future__ import annotations

import asyncio

EVERY = 256
"""Connections ended that make a burst."""
PAUSE = 2.0
"""Seconds between two trims, and from the end of a burst to the last one."""


class Trimmer:
    """Counts ended connections; trims the heap after `EVERY` of them, and again until no more end."""

    __slots__ = ("_ended", "_pending")

    def __init__(self) -> None:
        self._ended = 0
        self._pending = False

    def ended(self) -> None:
        """A connection is over. Call it on a running event loop."""
        self._ended += 1
        if self._ended >= EVERY and not self._pending:
            self._schedule()

    def _schedule(self) -> None:
        self._ended = 0
        self._pending = True
        asyncio.get_running_loop().call_later(PAUSE, self._trim)

    def _trim(self) -> None:
        self._pending = False
        trim()
        if self._ended:
            self._schedule()


def trim() -> bool:
    """Give free pages of the C library's heap back; False where that cannot be done."""
    import ctypes  # costs a megabyte: only a process that has had its burst pays for it

    try:
        return bool(ctypes.CDLL(None).malloc_trim(0))
    except (AttributeError, OSError):
        return False
