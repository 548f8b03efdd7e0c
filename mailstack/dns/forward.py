"""Ask the forwarders about names that are not ours, and remember what they said.

Invariants: an answer counts only from the server asked, with the random id and the very question (RFC 5452);
the same question under way is asked once; no question takes longer than `resolver-query-timeout`; at most
`recursive-clients` wait (`mailstack.dns.waiting`); the cache is bounded in octets; a message that does not
parse to its last octet is never used.

Standards: RFC 2308 (negative caching), RFC 8767 (stale answers), RFC 9520 (failures are remembered).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mailstack.config.named.model import TsigKey
from mailstack.config.named.peers import Peer
from mailstack.config.named.resolving import PLAIN, Resolving
from mailstack.dns.cache import Cache, Entry
from mailstack.dns.inquiry import TRIES, Inquiry
from mailstack.dns.received import Verdict
from mailstack.dns.upstreams import Server, Upstreams
from mailstack.dns.waiting import Waiting
from mailstack.dns.zone import ANY, RRSIG
from mailstack.net.clock import Clock, SystemClock
from mailstack.net.tasks import TaskSet

__all__ = ["Forwarder", "Outcome", "Server", "raise_file_limit"]

OTHER_FILES = 1000
"""Descriptors for everything else."""
FAILURES = 10_000
"""Failures that are remembered at the most."""
UNDERWAY_EXTRA = 1000
"""Questions under way for nobody (prefetch, stale answers), at the most."""

_Key = tuple[bytes, int, bool, tuple[Server, ...]]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a question: entries, or none."""

    entries: Sequence[Entry] = ()
    timed_out: bool = False
    turned_away: bool = False
    """Too many wait: it says nothing of the name."""


FAILED = Outcome()
TURNED_AWAY = Outcome(turned_away=True)


class Forwarder:
    """Questions to upstream servers, and the cache. `payload` is `edns-udp-size`."""

    def __init__(
        self,
        resolving: Resolving = PLAIN,
        peers: Sequence[Peer] = (),
        keys: Iterable[TsigKey] = (),
        payload: int = 1232,
        clock: Clock | None = None,
    ) -> None:
        self.resolving = resolving
        self._clock: Clock = clock if clock is not None else SystemClock()
        self._upstreams = Upstreams(resolving, peers, keys, payload)
        # A quarter is for answers that are kept prepared (`mailstack.dns.ready`).
        stale = resolving.max_stale_ttl if resolving.stale_cache else 0
        self.cache = Cache(resolving.max_cache_size * 3 // 4, stale)
        self._underway: dict[_Key, asyncio.Task[Outcome]] = {}
        self._asking: dict[_Key, int] = {}
        """How many clients wait for each."""
        self._waiting = Waiting(resolving.recursive_clients)
        self._failures: dict[tuple[bytes, int, bool], int] = {}
        self._tasks = TaskSet(_unexpected)
        self.hits = self.misses = 0

    def now(self) -> int:
        """Seconds of the wall clock, as TTLs are counted."""
        return int(self._clock.time())

    @property
    def underway(self) -> int:
        """Questions that others are being asked."""
        return len(self._underway)

    # ---- what is known

    def known(self, name: bytes, rdtype: int, *, cd: bool) -> list[Entry]:
        """What is fresh in the cache for a question; `name` in lower case."""
        return self.cache.get(name, rdtype, self.now(), cd=cd)

    def stale(self, name: bytes, rdtype: int, *, cd: bool) -> list[Entry]:
        """What may be given though it has expired."""
        if not (self.resolving.stale_answers and self.resolving.stale_cache):
            return []
        return self.cache.get(name, rdtype, self.now(), cd=cd, stale=True)

    def failed_lately(self, name: bytes, rdtype: int, *, cd: bool) -> bool:
        """SERVFAIL was answered to it within `servfail-ttl`; `name` in lower case."""
        until = self._failures.get((name, rdtype, cd))
        return until is not None and self._clock.monotonic() < until

    def remember_failure(self, name: bytes, rdtype: int, *, cd: bool) -> None:
        """SERVFAIL is the answer."""
        if not self.resolving.servfail_ttl:
            return
        if len(self._failures) >= FAILURES:
            self._failures.clear()
        self._failures[name, rdtype, cd] = int(self._clock.monotonic()) + self.resolving.servfail_ttl

    def is_due(self, entry: Entry) -> bool:
        """It is to be asked for anew before it expires (`prefetch`)."""
        resolving = self.resolving
        return (
            resolving.prefetch_trigger > 0
            and entry.ttl >= resolving.prefetch_eligible
            and entry.expires - self.now() <= resolving.prefetch_trigger
        )

    # ---- questions

    def refresh(self, name: bytes, rdtype: int, servers: Sequence[Server], *, cd: bool) -> None:
        """Ask for nobody in particular."""
        if servers and len(self._underway) < self.resolving.recursive_clients + UNDERWAY_EXTRA:
            self._start(name, rdtype, servers, cd=cd)

    async def ask(
        self,
        name: bytes,
        rdtype: int,
        servers: Sequence[Server],
        host: str,
        port: int = 0,
        *,
        cd: bool,
        patience: float | None = None,
    ) -> Outcome | None:
        """What comes of a question of the client at `host` and `port`.

        None when `patience` (seconds) is over before that: the question goes on for the cache.
        """
        key = (name.lower(), rdtype, cd, tuple(servers))
        most = self.resolving.clients_per_query
        if most and self._asking.get(key, 0) >= most:
            return TURNED_AWAY
        turn = self._waiting.enter(host, port, self._clock.monotonic())
        if turn is None:
            return TURNED_AWAY
        task = self._start(name, rdtype, servers, cd=cd)
        self._asking[key] = self._asking.get(key, 0) + 1
        try:
            await asyncio.wait((task, turn.over), timeout=patience, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._waiting.leave(turn)
            left = self._asking[key] - 1
            if left:
                self._asking[key] = left
            else:
                del self._asking[key]
                if turn.over.done():
                    task.cancel()  # for nobody: a flood must not leave more questions than clients
        if turn.over.done() and not task.done():
            return TURNED_AWAY
        if task.done():
            return FAILED if task.cancelled() or task.exception() is not None else task.result()
        return None

    def _start(
        self, name: bytes, rdtype: int, servers: Sequence[Server], *, cd: bool
    ) -> asyncio.Task[Outcome]:
        key = (name.lower(), rdtype, cd, tuple(servers))
        task = self._underway.get(key)
        if task is None:
            task = self._underway[key] = self._tasks.start(self._ask(key, name), "forward")
            task.add_done_callback(lambda _: self._underway.pop(key, None))
        return task

    async def _ask(self, key: _Key, name: bytes) -> Outcome:
        lower, rdtype, cd, servers = key
        inquiry = Inquiry(self._upstreams, self.resolving, name, rdtype, cd=cd)
        verdict = await inquiry.run(servers)
        if verdict is None:
            if inquiry.timed_out:
                # Only silence opens the window, as with named: who answers SERVFAIL may be asked again.
                until = self.now() + self.resolving.stale_refresh_time
                for entry in self.stale(lower, rdtype, cd=cd):
                    entry.window = until
            return Outcome((), inquiry.timed_out)
        self._keep(verdict, rdtype, cd=cd)
        return Outcome([entry for entry, _ in verdict.entries])

    def _keep(self, verdict: Verdict, rdtype: int, *, cd: bool) -> None:
        resolving, now = self.resolving, self.now()
        for entry, kind in verdict.entries:
            if entry.rrset is None:
                low, high = resolving.min_ncache_ttl, resolving.max_ncache_ttl
                if not entry.authority:
                    continue  # RFC 2308 §5: without SOA it is not to be kept
            else:
                low, high = resolving.min_cache_ttl, resolving.max_cache_ttl
            entry.ttl = min(max(entry.ttl, low), high)
            if kind not in (RRSIG, ANY):
                self.cache.put(entry, kind, now, cd=cd)
            else:
                entry.expires = now + entry.ttl
        for entry in verdict.beside:
            assert entry.rrset is not None
            entry.ttl = min(max(entry.ttl, resolving.min_cache_ttl), resolving.max_cache_ttl)
            self.cache.put(entry, entry.rrset.rdtype, now, cd=cd)

    async def close(self) -> None:
        """End what is under way."""
        await self._tasks.drain(0)


def raise_file_limit(resolving: Resolving) -> None:
    """Let this process have the sockets that so many questions need, as far as it may."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = TRIES * resolving.recursive_clients + OTHER_FILES
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _unexpected(name: str, error: BaseException) -> None:
    """Whoever waits for the question answers SERVFAIL."""
