"""How many deliveries one destination gets at once: Postfix's feedback control (SCHEDULER_README).

A destination begins with `initial_destination_concurrency`. Each delivery that reaches the site adds positive
feedback, until the window is the transport's limit; each that finds the site out of order subtracts negative
feedback. Failures also add up, `1/window` each, to pseudo-cohorts: at `…_failed_cohort_limit` of them without
a success in between the site is dead. The window never runs away from what is really under way, for feedback
would then come too late.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import sqrt

ROUNDING = 1e-9
"""Five fifths are one: sums of fractions are not exact."""
_FEEDBACK = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*(?:/\s*(\S+)\s*)?\Z")


@dataclass(frozen=True, slots=True)
class Feedback:
    """`number`, `number/number`, `number/concurrency` or `number/sqrt_concurrency`; between 0 and 1."""

    base: float
    divisor: str = ""
    """`concurrency`, `sqrt_concurrency` or empty."""

    def at(self, window: float) -> float:
        """What one delivery counts with that window."""
        match self.divisor:
            case "concurrency":
                return self.base / window
            case "sqrt_concurrency":
                return self.base / sqrt(window)
            case _:
                return self.base

    @classmethod
    def parse(cls, text: str) -> Feedback | None:
        """The feedback that a main.cf value asks for; None when it asks for nothing reasonable."""
        found = _FEEDBACK.match(text)
        if found is None:
            return None
        base, divisor = float(found[1]), found[2] or ""
        if divisor and divisor not in ("concurrency", "sqrt_concurrency"):
            try:
                base, divisor = base / float(divisor), ""
            except (ValueError, ZeroDivisionError):
                return None
        return cls(base, divisor) if 0 <= base <= 1 else None


@dataclass(frozen=True, slots=True)
class Policy:
    """A transport's limits for each of its destinations; times in seconds."""

    initial: int = 5
    limit: int = 20
    """0: no limit."""
    positive: Feedback = Feedback(1.0)
    negative: Feedback = Feedback(1.0)
    cohorts: float = 1.0
    """Failed pseudo-cohorts after which a destination is dead; 0: never."""
    transport_delay: float = 0.0
    """Seconds between two deliveries of the transport, which are one after the other then; 0: none."""
    rate_delay: float = 0.0
    """Between two deliveries to one destination, which are then made one at a time."""
    dead_time: float = 300.0
    """How long a dead destination is left alone (`minimal_backoff_time`)."""


class Window:
    """The number of deliveries that one destination may have under way."""

    __slots__ = ("_failure", "_policy", "_success", "cohorts", "size")

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self.restart(0)

    def restart(self, running: int) -> None:
        """Begin anew, as after the destination's death; with `running` deliveries from before."""
        policy = self._policy
        first = min(policy.initial, policy.limit) if policy.limit else policy.initial
        self.size = float(running or first)
        self.cohorts = self._success = self._failure = 0.0

    def succeeded(self, running: int) -> None:
        """A delivery has reached the site; `running` are under way, that one included."""
        policy = self._policy
        if self.size == policy.limit and not self.cohorts:
            return
        # The cycle of negative feedback does not begin anew, or it would be too strong: it acts at its start.
        self.cohorts = 0.0
        if (policy.limit and self.size >= policy.limit) or self.size >= running + policy.initial:
            return
        feedback = policy.positive.at(self.size)
        self._success += feedback
        # Half a step early, as in Postfix: what is left behind stays small, however fractions round.
        while feedback and self._success + feedback / 2 >= 1:
            self.size += 1
            self._success -= 1
            self._failure = 0.0
        if policy.limit:
            self.size = min(self.size, float(policy.limit))

    def failed(self) -> bool:
        """A delivery has found the site out of order; whether the site is dead now."""
        policy = self._policy
        self.cohorts += 1 / self.size
        if policy.cohorts and self.cohorts >= policy.cohorts - ROUNDING:
            return True
        feedback = policy.negative.at(self.size)
        self._failure -= feedback
        while feedback and self._failure - feedback / 2 < 0:
            self.size -= 1
            self._success = 0.0
            self._failure += 1
        self.size = max(self.size, 1.0)
        return False
