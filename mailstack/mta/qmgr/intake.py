"""What the queue manager reads next: new mail and deferred mail, in turns.

New mail is what smtpd has named (`known`) and what a scan of incoming/ finds; deferred mail is what has been
asked for by name, what is known to be due, and what a scan of deferred/ finds. As in Postfix the two sides
take turns while the active queue has room, so that neither starves the other, and new mail goes first after
the active queue has been full.

Mail for a destination that has more than its share of the active queue is set aside: its file stays where it
is, its name is remembered, and it is taken up when the destination has caught up. At most `ASIDE_LIMIT` names
are remembered.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterator
from typing import NamedTuple

from mailstack.storage.queue import Entry, Queue

DUE_LIMIT = 20_000
"""Deferred messages whose next attempt is known to the second; scans find the others."""
ASIDE_LIMIT = 100_000
"""Messages set aside whose names are remembered."""
ASIDE_LOOKS = 8
"""Destinations that are looked at for one that has caught up, each time."""

Site = tuple[str, str]
"""Transport and destination."""


class Found(NamedTuple):
    """A message whose turn it is. `forced`: whatever its time; `domain`: only if it has recipients there."""

    queue: str
    queue_id: str
    forced: bool = False
    domain: str = ""


NOT_NOW = Found("", "")
"""A look that found nothing; there may be more behind it."""


class Intake:
    """The sources of the active queue. `has_share(site)`: whether a destination may have more of it."""

    def __init__(self, queue: Queue, has_share: Callable[[Site], bool]) -> None:
        self.known: deque[str] = deque()
        """Ids of messages in incoming/ that somebody has named."""
        self._queue = queue
        self._has_share = has_share
        self._incoming: Iterator[str] | None = None
        self._asked: deque[str] = deque()
        self._due: list[tuple[float, str]] = []
        self._deferred: Iterator[Entry] | None = None
        self._forced = False
        self._domain = ""
        self._aside: dict[Site, deque[Found]] = {}
        self._aside_ids: set[str] = set()
        self._new_first = True

    # ---- what there is

    @property
    def waiting(self) -> bool:
        """Something may be there to take up."""
        return bool(self.known or self._asked or self._due or self._incoming or self._deferred or self._aside)

    @property
    def backlog(self) -> int:
        """New messages that wait for room in the active queue, as far as they are known."""
        return len(self.known)

    def scan_incoming(self) -> bool:
        """Look through incoming/; False while an earlier look is not over."""
        if self._incoming is not None:
            return False
        self._incoming = iter(self._queue.names("incoming"))
        return True

    def scan_deferred(self, *, forced: bool = False, domain: str = "") -> bool:
        """Look through deferred/ (`forced` begins anew); False while an earlier look is not over."""
        if self._deferred is not None and not forced:
            return False
        self._deferred = self._queue.scan("deferred")
        self._forced, self._domain = forced, domain.lower()
        return True

    def ask(self, queue_id: str) -> None:
        """Take up a deferred message now."""
        self._asked.append(queue_id)

    def note_due(self, when: float, queue_id: str) -> None:
        """A message has been deferred until `when` (seconds since the epoch)."""
        if len(self._due) < DUE_LIMIT:
            heapq.heappush(self._due, (when, queue_id))

    def is_due(self, now: float) -> bool:
        """Some message's time has come."""
        return bool(self._due) and self._due[0][0] <= now

    def set_aside(self, site: Site, found: Found) -> bool:
        """Remember a message for later; False when there is no room for its name."""
        if len(self._aside_ids) >= ASIDE_LIMIT:
            return False
        self._aside_ids.add(found.queue_id)
        self._aside.setdefault(site, deque()).append(found)
        return True

    # ---- whose turn it is

    def full(self) -> None:
        """The active queue is full: new mail goes first when it has room again."""
        self._new_first = True

    def next(self, now: float) -> Found | None:
        """The message whose turn it is, or `NOT_NOW`; None when nothing is left."""
        self._new_first = not self._new_first
        if self._new_first:
            return self._old(now) or self._new()
        return self._new() or self._old(now)

    def _new(self) -> Found | None:
        if self.known:
            return Found("incoming", self.known.popleft())
        if self._aside:
            found = self._caught_up()
            if found is not None:
                return found
        if self._incoming is not None:
            queue_id = next(self._incoming, None)
            if queue_id is None:
                self._incoming = None
                return NOT_NOW
            return NOT_NOW if queue_id in self._aside_ids else Found("incoming", queue_id)
        return None

    def _caught_up(self) -> Found | None:
        """A message set aside whose destination has room in its share by now."""
        for _ in range(min(len(self._aside), ASIDE_LOOKS)):
            site, waiting = next(iter(self._aside.items()))
            del self._aside[site]
            found = waiting.popleft() if self._has_share(site) else None
            if waiting:
                self._aside[site] = waiting  # behind the others
            if found is not None:
                self._aside_ids.discard(found.queue_id)
                return found
        return None

    def _old(self, now: float) -> Found | None:
        if self._asked:
            return Found("deferred", self._asked.popleft(), True)
        if self._due and self._due[0][0] <= now:
            return Found("deferred", heapq.heappop(self._due)[1])
        if self._deferred is not None:
            entry = next(self._deferred, None)
            if entry is None:
                self._deferred, self._forced, self._domain = None, False, ""
            elif (self._forced or entry.mtime <= now) and entry.queue_id not in self._aside_ids:
                return Found("deferred", entry.queue_id, self._forced, self._domain)
            return NOT_NOW
        return None
