"""What a session has done so far: commands for the last log line, errors for the limits."""

from __future__ import annotations

_JUNK = frozenset({"HELO", "EHLO", "RSET", "NOOP", "VRFY", "ETRN"})
"""Commands that cost nothing and bring nothing: too many of them count as errors."""
_COMMAND_ORDER = (
    "helo", "ehlo", "xclient", "xforward", "starttls", "auth", "mail", "rcpt", "data", "bdat", "rset",
    "noop", "vrfy", "etrn", "quit", "unknown",
)  # fmt: skip
KNOWN = frozenset(name.upper() for name in _COMMAND_ORDER)


class Accounting:
    """Counts of one session, against the limits of its service."""

    __slots__ = ("_counts", "_errors", "_hard", "_junk", "_junk_limit", "_soft", "penalties")

    def __init__(self, soft: int, hard: int, junk: int) -> None:
        self._soft = soft
        self._hard = hard
        self._junk_limit = junk
        self._counts: dict[str, list[int]] = {}
        self._errors = 0
        self._junk = 0
        self.penalties = 0
        """Replies that are to be slowed down."""

    @property
    def exhausted(self) -> bool:
        """The client has made `smtpd_hard_error_limit` errors."""
        return self._errors >= self._hard

    def total(self, verb: str) -> int:
        """How often a command was given."""
        return self._counts.get(verb.lower(), (0, 0))[1]

    def count(self, verb: str, good: bool) -> None:
        """A command has been answered; `good`: not with an error."""
        counts = self._counts.get(name := verb.lower())
        if counts is None:
            counts = self._counts[name] = [0, 0]
        counts[0] += good
        counts[1] += 1
        if verb in _JUNK:
            if self._junk > self._junk_limit:
                self._errors += 1
            self._junk += 1

    def failed(self, verb: str) -> None:
        """What a command began, after a good answer, has come to nothing."""
        self._counts[verb.lower()][0] -= 1

    def junk(self) -> None:
        """A command that does nothing has been answered; it has no count of its own."""
        if self._junk > self._junk_limit:
            self._errors += 1
        self._junk += 1

    def error(self) -> None:
        """The client has made an error."""
        self._errors += 1
        if self._errors > self._soft:
            self.penalties += 1

    def forgive(self) -> None:
        """A message has come in: earlier errors count no more."""
        self._errors = self._junk = self.penalties = 0

    def summary(self) -> str:
        """`ehlo=1 mail=1 rcpt=0/1 commands=2/3`, as Postfix counts; `commands=0/0` where nothing was said."""
        words = []
        good = total = 0
        for name in _COMMAND_ORDER:
            counts = self._counts.get(name)
            if counts is not None:
                good += counts[0]
                total += counts[1]
                words.append(_count(name, *counts))
        return " ".join([*words, _count("commands", good, total) if total else "commands=0/0"])


def _count(name: str, good: int, total: int) -> str:
    return f"{name}={total}" if good == total else f"{name}={good}/{total}"
