"""in_flow_delay: mail that comes in faster than it can be delivered is taken more slowly.

The queue manager says so in one octet that all processes of this master share; smtpd looks at it for each
message, which costs no system call. Import this before the first fork.
"""

from __future__ import annotations

import mmap

_shared = mmap.mmap(-1, mmap.PAGESIZE)


def behind() -> bool:
    """Whether new mail waits for room in the active queue."""
    return _shared[0] != 0


def set_behind(value: bool) -> None:
    """Tell every process of this master (the queue manager does)."""
    _shared[0] = value
