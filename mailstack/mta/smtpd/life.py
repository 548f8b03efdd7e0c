"""When an smtpd worker ends by itself: after `max_use` clients, or after `max_idle` seconds without one.

It ends as it does after a reload: it accepts no more, and goes with its last session. The master is told at
once of a worker that has served enough (its process id, four octets, on the status pipe), so that a successor
is there while the last sessions go on. One that is idle has none to wait for.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

KEEP = -1
"""No status pipe: nobody is told."""


@dataclass(slots=True)
class Life:
    """The limits of one worker; 0: none. `pipe`: where the master listens."""

    max_use: int = 0
    max_idle: float = 0.0
    pipe: int = KEEP
    served: int = 0
    """Clients so far; the worker counts them."""
    _seen: int = 0
    _since: float | None = None

    @property
    def limited(self) -> bool:
        return bool(self.max_use or self.max_idle)

    def is_over(self, sessions: int, now: float) -> bool:
        """Whether to accept no more, with `sessions` going on; `now` in monotonic seconds. Ask often."""
        if self.max_use and self.served >= self.max_use:
            self._tell()
            return True
        if not self.max_idle:
            return False
        if self._since is None or sessions or self.served != self._seen:
            self._since, self._seen = now, self.served
        return now - self._since >= self.max_idle

    def _tell(self) -> None:
        if self.pipe != KEEP:
            try:
                os.write(self.pipe, os.getpid().to_bytes(4, "big"))
            except OSError:
                pass  # the master is gone, and so shall we be
