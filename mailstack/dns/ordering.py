"""The order of the records of a set, as `rrset-order` wants it: random (BIND's default), cyclic, the zone's.

Only answer sections are ordered. An answer whose order changes is kept prepared in some variants, which are
given out in turn or at random.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice, permutations
from math import factorial

from mailstack.config.named.answers import Order, OrderRule
from mailstack.dns import names
from mailstack.dns.authority import Answer
from mailstack.dns.zone import Rdata, RRset

VARIANTS = 12
"""Prepared variants of an answer, at the most."""
TURNS_MOST = 10_000
"""Sets whose turn is remembered."""


@dataclass(slots=True)
class Turns:
    """The variants of one prepared answer. `most` is how many there are to be."""

    cyclic: bool
    most: int
    variants: list[bytes] = field(default_factory=list)
    _next: int = 0

    def take(self) -> bytes | None:
        """The next variant; None when it has not been made yet."""
        variants = self.variants
        if len(variants) < self.most:
            return None
        if not self.cyclic:
            return random.choice(variants)  # noqa: S311 - no secret is made
        self._next = (self._next + 1) % self.most
        return variants[self._next]


class Ordering:
    """The rules of one configuration."""

    def __init__(self, rules: Sequence[OrderRule]) -> None:
        self._rules = rules
        self._turns: dict[tuple[bytes, int], int] = {}

    def turns(self, found: Answer) -> Turns | None:
        """How the order of an answer changes; None when it does not."""
        cyclic, most = True, 1
        for owner, rrset in found.answer:
            size = len(rrset.rdatas)
            order = self._order(owner, rrset.rdtype) if size > 1 else "none"
            if order == "random":
                cyclic = False
                most = max(most, factorial(min(size, 6)))
            elif order == "cyclic":
                most = max(most, size)
        return Turns(cyclic, min(most, VARIANTS)) if most > 1 else None

    def arrange(self, found: Answer, turn: int | None) -> None:
        """Put the sets of an answer into the order of a turn; None: each into the one that is next for it."""
        for index, (owner, rrset) in enumerate(found.answer):
            size = len(rrset.rdatas)
            if size < 2:
                continue
            order = self._order(owner, rrset.rdtype)
            if order == "none":
                continue
            rdatas = list(rrset.rdatas)
            if order == "random":
                rdatas = _shuffled(rdatas, turn)
            else:
                start = (self._turn(owner.lower(), rrset.rdtype) if turn is None else turn) % size
                rdatas = rdatas[start:] + rdatas[:start]
            found.answer[index] = (
                owner,
                RRset(rrset.rdtype, rrset.ttl, tuple(rdatas), rrset.targets, rrset.signature),
            )

    def _turn(self, owner: bytes, rdtype: int) -> int:
        if len(self._turns) >= TURNS_MOST:
            self._turns.clear()
        turn = self._turns.get((owner, rdtype), 0)
        self._turns[owner, rdtype] = turn + 1
        return turn

    def _order(self, owner: bytes, rdtype: int) -> Order:
        if len(self._rules) == 1 and not self._rules[0].name and self._rules[0].rdtype is None:
            return self._rules[0].order
        text = names.to_text(owner.lower())
        return next((rule.order for rule in self._rules if rule.covers(text, rdtype)), "none")


def _shuffled(rdatas: list[Rdata], turn: int | None) -> list[Rdata]:
    """In any order. The variants of an answer, by `turn`, differ, and each record comes first in some."""
    if turn is None:
        random.shuffle(rdatas)
        return rdatas
    size = len(rdatas)
    if factorial(min(size, 6)) <= VARIANTS:
        return list(next(islice(permutations(rdatas), turn % factorial(size), None)))
    first = rdatas.pop(turn % size)
    random.shuffle(rdatas)
    return [first, *rdatas]
