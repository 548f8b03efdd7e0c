"""smtpd_per_request_deadline: a whole command, or a whole message at a least rate, has to be in in time.

Without it `smtpd_timeout` is for each silence, and a client that sends an octet a minute stays for ever.
"""

from __future__ import annotations


class Deadline:
    """The deadline of what is awaited from one client. All times in seconds."""

    __slots__ = ("_end", "_rate", "_timeout")

    def __init__(self, timeout: float, rate: int) -> None:
        self._timeout = timeout
        self._rate = rate
        self._end = 0.0
        """0: nothing is awaited yet."""

    def met(self) -> None:
        """A request is complete: the next one gets a deadline of its own."""
        self._end = 0.0

    def left(self, now: float, content: int) -> float:
        """How long the next read may take; `content`: octets of a message that the last one has brought.

        They win time, a second for every `rate`, but never more than the time-out. Raises `TimeoutError`.
        """
        if not self._end:
            self._end = now + self._timeout
        elif content:
            self._end = min(now + self._timeout, self._end + content / self._rate)
        if self._end <= now:
            raise TimeoutError("the request takes too long")
        return self._end - now
