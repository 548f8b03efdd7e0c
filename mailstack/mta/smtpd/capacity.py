"""How many sessions one smtpd process takes, by the descriptors and the memory that there are.

Under stress (`STRESS_SHARE` of them are taken) sessions begin with `stress = yes`, so that main.cf's
`${stress?…}` shortens their time-outs, and those that there are go on with it; a process that is full turns
clients away with 421, which costs it nothing and tells them to come again.
"""

from __future__ import annotations

import resource
from enum import Enum
from pathlib import Path

RESERVED = 128
"""Descriptors for the queue, logs, look-ups and everything else that is no session."""
PER_SESSION = 2
"""Descriptors of a session: its connection, and the message or the policy server that it works on."""
STRESS_SHARE = 0.8
MOST = 100_000
LOW_MEMORY = 32 * 1024 * 1024
"""Octets of available memory below which no session is begun; less where there is not much to begin with: a
32nd of the machine's, an eighth of what our control group or this process may have."""
MEMORY_CHECK = 1.0
"""Seconds for which a look at the memory counts."""
_MEMINFO = Path("/proc/meminfo")
_GROUP = Path("/sys/fs/cgroup")


class Load(Enum):
    """Whether another session may begin."""

    LIGHT = "as usual"
    STRESS = "with short time-outs"
    FULL = "no"


class Capacity:
    """The limit of one process."""

    def __init__(
        self, sessions: int = MOST, *, descriptors: int | None = None, meminfo: Path | None = None
    ) -> None:
        """`descriptors`: how many there are for connections, those that are no session yet included."""
        self.sessions = sessions
        self._stress_at = max(1, int(sessions * STRESS_SHARE))
        self._descriptors = descriptors
        self._meminfo = meminfo
        self._memory: tuple[float, bool] = (-MEMORY_CHECK, False)

    @classmethod
    def of_process(cls) -> Capacity:
        """By RLIMIT_NOFILE, which is raised as far as this process may raise it."""
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        most = MOST * PER_SESSION + RESERVED
        wanted = most if hard == resource.RLIM_INFINITY else min(hard, most)
        if soft != resource.RLIM_INFINITY and soft < wanted:
            try:
                resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
                soft = wanted
            except (OSError, ValueError):
                pass  # then it is less
        if soft == resource.RLIM_INFINITY:
            soft = most
        sessions = min(MOST, max(8, (soft - RESERVED) // PER_SESSION))
        return cls(sessions, descriptors=soft - min(RESERVED, soft // 4), meminfo=_MEMINFO)

    def load(self, sessions: int, now: float, descriptor: int = 0) -> Load:
        """What holds for one more session beside `sessions`; `now` in seconds, monotonic.

        `descriptor` is its connection's. The system gives the lowest that is free, so it tells how many are
        in use: also by clients of the ports that begin with TLS, no sessions while they shake hands.
        """
        if sessions >= self.sessions or self._scarce(now):
            return Load.FULL
        if self._descriptors is not None and descriptor >= self._descriptors:
            return Load.FULL
        return Load.STRESS if sessions >= self._stress_at else Load.LIGHT

    def _scarce(self, now: float) -> bool:
        if self._meminfo is None:
            return False
        if now - self._memory[0] >= MEMORY_CHECK:
            scarce = memory_is_scarce(self._meminfo) or group_is_full(_GROUP) or process_is_full()
            self._memory = (now, scarce)
        return self._memory[1]


def process_is_full() -> bool:
    """Whether this process has nearly all the address space that it may have (RLIMIT_AS)."""
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit == resource.RLIM_INFINITY:
        return False
    try:
        pages = int(Path("/proc/self/statm").read_text("ascii").split()[0])
    except (OSError, ValueError):
        return False
    return limit - pages * resource.getpagesize() < min(LOW_MEMORY, limit // 8)


def group_is_full(folder: Path) -> bool:
    """Whether our control group (a container) may take little more memory (cgroup v2, memory.max)."""
    try:
        limit = int((folder / "memory.max").read_text("ascii"))
        used = int((folder / "memory.current").read_text("ascii"))
        lines = (folder / "memory.stat").read_text("ascii").splitlines()
    except (OSError, ValueError):
        return False  # no limit, or no such thing
    # What caches files is given back when it is wanted.
    cache = sum(int(words[1]) for line in lines if (words := line.split())[0] in _CACHE)
    return limit - used + cache < min(LOW_MEMORY, limit // 8)


_CACHE = ("active_file", "inactive_file")


def memory_is_scarce(meminfo: Path) -> bool:
    """Whether the kernel has little memory left to give (proc_meminfo(5)); False where it does not say."""
    try:
        lines = meminfo.read_text("ascii").splitlines()
    except (OSError, UnicodeDecodeError):
        return False
    found: dict[str, int] = {}
    for line in lines:
        name, _, rest = line.partition(":")
        words = rest.split()
        if name in ("MemTotal", "MemAvailable") and words and words[0].isdecimal():
            found[name] = int(words[0]) * 1024
    if len(found) < 2:
        return False
    return found["MemAvailable"] < min(LOW_MEMORY, found["MemTotal"] // 32)
