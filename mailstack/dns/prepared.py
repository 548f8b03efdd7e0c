"""Answers that are kept: looked up by the query's octets, bounded, and given in changing order where that is
wanted.

A kept answer is right because everything it depends on is in the key: the query, the transport, and the
access lists' verdict on the client (`View`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mailstack.config.named.answers import OrderRule
from mailstack.dns.authority import Answer
from mailstack.dns.message import Query
from mailstack.dns.ordering import VARIANTS, Ordering
from mailstack.dns.ratelimit import Subject
from mailstack.dns.rights import View

LEAST, MOST = 10_000, 250_000
"""Kept answers per view and transport: four for each name in the zones, within these bounds. A view starts
anew when one of its transports is full, so that a flood of random names costs no more memory than that."""
SIZE = 2048
"""Octets of the largest answer that is kept."""


class Prepared:
    """The kept answers of one configuration, in its views. `count` is called before one is cleared."""

    def __init__(
        self, rules: Sequence[OrderRule], known: int, count: Callable[[], object], *, keep: bool
    ) -> None:
        """`known`: how many names the zones have. Without `keep`, nothing is kept."""
        self._keep = keep
        self.limit = min(max(4 * known, LEAST), MOST)
        self._ordering = Ordering(rules) if rules else None
        self._count = count

    def take(self, view: View, key: bytes, *, tcp: bool) -> bytes | None:
        """The answer to a query, both without id."""
        tail = (view.tcp if tcp else view.udp).get(key)
        if tail is None:
            turns = view.turns[tcp].get(key)
            if turns is not None:
                return turns.take()
        return tail

    def arrange(self, found: Answer, view: View, query: Query, key: bytes, *, tcp: bool) -> None:
        """Put the records of a new answer into the order that it is their turn for."""
        if self._ordering is not None:
            turns = view.turns[tcp].get(key)
            first = 0 if self.is_kept(query) else None
            self._ordering.arrange(found, first if turns is None else len(turns.variants))

    def is_kept(self, query: Query) -> bool:
        """Whether the answer to a query is the same the next time: one with options has a cookie in it."""
        return self._keep and (query.edns is None or not query.edns.options)

    def keep(
        self, view: View, key: bytes, tail: bytes, found: Answer | None, about: Subject | None, *, tcp: bool
    ) -> None:
        """Keep an answer, both without id, if it is not too large."""
        if len(tail) > SIZE:
            return
        prepared, turning = (view.tcp if tcp else view.udp), view.turns[tcp]
        if len(prepared) + VARIANTS * len(turning) >= self.limit:
            self._count()
            view.forget()
        if about is not None:
            view.subjects[key] = about
        turns = turning.get(key)
        if turns is None and found is not None and self._ordering is not None:
            turns = self._ordering.turns(found)
        if turns is None:
            prepared[key] = tail
        else:
            turning[key] = turns
            turns.variants.append(tail)
