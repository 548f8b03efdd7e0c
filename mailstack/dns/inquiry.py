"""One question to the forwarders, until one of them answers or all have had their chance.

A server that does not answer in time is not given up: the next one is asked beside it, and the first good
answer counts. One that answers SERVFAIL, REFUSED, nonsense, or a referral is not asked again.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Sequence
from dataclasses import dataclass

from mailstack.config.named.peers import Remote
from mailstack.config.named.resolving import Resolving
from mailstack.dns.asking import Address, Trouble, once
from mailstack.dns.message import BADCOOKIE, BADVERS, FORMERR, NOERROR, NOTIMP, NXDOMAIN, Malformed
from mailstack.dns.received import Received, Verdict, judge, matches, read
from mailstack.dns.tsig import Conversation, Untrusted
from mailstack.dns.upstreams import Datagram, Server, Upstream, Upstreams

TRIES = 4
"""Messages that are listened for at a time: each takes a socket."""
_OURS = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
"""Errors that say nothing of the server."""


@dataclass(slots=True)
class _Try:
    """One message to one server."""

    upstream: Upstream
    wire: bytes
    begun: float
    edns: bool
    tcp: bool
    again: bool
    """It has been asked because of a bad cookie."""
    talk: Conversation | None = None
    socket: Datagram | None = None
    task: asyncio.Task[None] | None = None

    def close(self) -> None:
        if self.socket is not None:
            self.socket.close()
        if self.task is not None:
            self.task.cancel()


class Inquiry:
    """A question, `name` in any case. `timed_out` says of one without answer that somebody was silent."""

    def __init__(
        self, upstreams: Upstreams, resolving: Resolving, name: bytes, rdtype: int, *, cd: bool
    ) -> None:
        self._upstreams = upstreams
        self._resolving = resolving
        self._name = name
        self._rdtype = rdtype
        self._cd = cd
        self._loop = asyncio.get_running_loop()
        self._tries: list[_Try] = []
        self._bad: set[Server] = set()
        self._arrivals: list[tuple[_Try, bytes | OSError]] = []
        self._arrival = asyncio.Event()
        self.timed_out = False

    async def run(self, servers: Sequence[Server]) -> Verdict | None:
        """The answer; None when there is none within `resolver-query-timeout`."""
        end = self._loop.time() + self._resolving.query_timeout
        turn = 0
        try:
            while True:
                order = self._upstreams.order(servers, self._loop.time())
                if all(one.address in self._bad for one in order):
                    return None
                for upstream in order:
                    if upstream.address in self._bad:
                        continue
                    left = end - self._loop.time()
                    if left <= 0:
                        self.timed_out = True
                        return None
                    shift = max(turn - self._resolving.nonbackoff_tries + 1, 0)
                    wait = min(upstream.patience(self._resolving.retry_interval, shift), left)
                    verdict = await self._one(upstream, wait, end)
                    if verdict is not None:
                        return verdict
                turn += 1
        finally:
            for one in self._tries:
                one.close()

    async def _one(self, upstream: Upstream, wait: float, end: float) -> Verdict | None:
        """Ask one server, and wait for it, or for any that was asked before."""
        current = self._send(upstream, tcp=upstream.tcp_only)
        until = self._loop.time() + wait
        while upstream.address not in self._bad:
            while self._arrivals:
                attempt, data = self._arrivals.pop(0)
                told = self._told(attempt, data)
                if isinstance(told, Verdict):
                    return told
                if told is not None and attempt is current:
                    # The same server, asked otherwise: it is there, and gets its time again.
                    current, until = told, min(self._loop.time() + max(wait, 2.0), end)
                if upstream.address in self._bad:
                    return None
            left = until - self._loop.time()
            if left <= 0:
                upstream.silent()
                return None
            self._arrival.clear()
            try:
                async with asyncio.timeout(left):
                    await self._arrival.wait()
            except TimeoutError:
                continue
        return None

    def _send(self, upstream: Upstream, *, tcp: bool, again: bool = False, edns: bool = True) -> _Try:
        now = self._loop.time()
        edns = edns and upstream.speaks_edns(now)
        wire = upstream.wire(self._name, self._rdtype, cd=self._cd, edns=edns)
        one = _Try(upstream, wire, now, edns, tcp, again)
        if len(self._tries) >= TRIES:
            self._tries.pop(0).close()
        self._tries.append(one)
        if tcp:
            one.task = self._loop.create_task(self._by_tcp(one))
            return one
        sent = wire
        if upstream.key is not None:
            one.talk = Conversation(upstream.key)
            sent = one.talk.sign(wire)
        try:
            one.socket = Datagram(
                upstream,
                wire,
                sent,
                lambda data: self._arrived(one, data),
                self._loop.add_reader,
                self._loop.remove_reader,
            )
        except OSError as error:
            self._arrived(one, error)
        return one

    async def _by_tcp(self, one: _Try) -> None:
        upstream = one.upstream
        whom = Address(Remote(*upstream.address), (upstream.source, 0), upstream.key)
        try:
            async with asyncio.timeout(self._resolving.query_timeout):
                data = await once(whom, one.wire, self._resolving.query_timeout)
            if not matches(one.wire, data):
                raise Malformed
        except (Trouble, TimeoutError, Malformed) as error:
            self._arrived(one, OSError(str(error)))
        else:
            self._arrived(one, data)

    def _arrived(self, one: _Try, data: bytes | OSError) -> None:
        self._arrivals.append((one, data))
        self._arrival.set()

    def _told(self, one: _Try, data: bytes | OSError) -> Verdict | _Try | None:
        """What an answer is worth; another try when the same server is to be asked otherwise."""
        upstream = one.upstream
        if upstream.address in self._bad:
            return None
        if isinstance(data, OSError):
            if data.errno not in _OURS:
                upstream.silent()
            self._bad.add(upstream.address)
            return None
        try:
            said = read(data)
            if one.talk is not None:
                one.talk.check(data)
        except Untrusted:
            return None  # forged, or nothing to go by: the server may still answer
        except Malformed:
            self._bad.add(upstream.address)
            return None
        if said.cookie and said.cookie[:8] != upstream.client_cookie:
            return None
        now = self._loop.time()
        upstream.answered(now - one.begun)
        return self._otherwise(one, said, now) or self._judged(upstream, said)

    def _otherwise(self, one: _Try, said: Received, now: float) -> _Try | None:
        """The same question to the same server, when that is what an answer asks for."""
        upstream = one.upstream
        expected = bool(upstream.server_cookie) and one.edns and upstream.cookies
        if 16 <= len(said.cookie) <= 40:
            upstream.server_cookie = said.cookie[8:]
        if one.edns and (said.rcode == BADVERS or (said.rcode in (FORMERR, NOTIMP) and not said.edns)):
            upstream.refused_edns(now)
            return self._send(upstream, tcp=one.tcp, edns=False)
        if said.edns:
            upstream.strikes = 0
        if said.rcode == BADCOOKIE and not one.tcp:
            return self._send(upstream, tcp=one.again, again=True)
        if not one.tcp and (said.truncated or (expected and not said.cookie)):
            # Without the cookie that it gave us it may be somebody else's (RFC 7873 §5.3).
            return self._send(upstream, tcp=True)
        return None

    def _judged(self, upstream: Upstream, said: Received) -> Verdict | None:
        verdict = None
        if said.rcode in (NOERROR, NXDOMAIN):
            verdict = judge(said, self._name, self._rdtype)
        if verdict is None:
            self._bad.add(upstream.address)
        return verdict
