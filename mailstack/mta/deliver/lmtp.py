"""lmtp(8): delivery by LMTP to a named server, over connections that are kept and used again.

The nexthop is `inet:host:port`, `host:port`, `[host]:port`, `host` (port `lmtp_tcp_port`) or `unix:/path`.
Several deliveries to one server run side by side, each over a connection of its own; an idle connection is
kept for `lmtp_connection_cache_time_limit` and used for `lmtp_connection_reuse_time_limit` at most. A
connection that turns out to be gone when it is used again costs nothing but a new one.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Sequence

from mailstack.config.postfix.main_cf import MainCf
from mailstack.config.postfix.master_cf import port_number
from mailstack.mta.deliver.request import Bounced, Deferred, Request, Result
from mailstack.mta.deliver.session import ConnectionLost, Host, Session, SiteError, Timeouts, open_session
from mailstack.net.clock import Clock
from mailstack.net.resolver import NoSuchDomain, Resolver, ResolveTemporary
from mailstack.storage.queue import Queue
from mailstack.wire.smtp import Mode


class ConnectionCache:
    """Idle sessions by destination, last used first, closed when they have been idle too long."""

    def __init__(self, clock: Clock, idle_limit: float, age_limit: float) -> None:
        self._clock = clock
        self._idle_limit = idle_limit
        self._age_limit = age_limit
        self._idle: dict[str, list[Session]] = {}
        self._sweep: asyncio.TimerHandle | None = None

    def take(self, destination: str) -> Session | None:
        """A session to use again, or None."""
        sessions = self._idle.get(destination)
        while sessions:
            session = sessions.pop()
            if session.usable:
                return session
            session.stream.close()
        return None

    def give(self, destination: str, session: Session) -> None:
        """Keep a session for the next delivery, or close it."""
        now = self._clock.monotonic()
        if not session.usable or not self._idle_limit or now - session.opened >= self._age_limit:
            session.say_goodbye()
            return
        session.idle_since = now
        self._idle.setdefault(destination, []).append(session)
        if self._sweep is None:
            self._sweep = asyncio.get_running_loop().call_later(self._idle_limit, self._expire)

    def _expire(self) -> None:
        """Close what has been idle for too long."""
        self._sweep = None
        limit = self._clock.monotonic() - self._idle_limit
        expired: list[Session] = []
        for destination, sessions in list(self._idle.items()):
            expired += [session for session in sessions if session.idle_since <= limit]
            self._idle[destination] = [session for session in sessions if session.idle_since > limit]
            if not self._idle[destination]:
                del self._idle[destination]
        for session in expired:
            session.say_goodbye()
        if self._idle:
            self._sweep = asyncio.get_running_loop().call_later(self._idle_limit, self._expire)

    def close(self) -> None:
        """Close every idle session."""
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        for sessions in self._idle.values():
            for session in sessions:
                session.say_goodbye()
        self._idle.clear()


class LMTPAgent:
    """The lmtp daemon under one configuration."""

    daemon = "lmtp"

    def __init__(self, conf: MainCf, queue: Queue, resolver: Resolver, clock: Clock) -> None:
        self._queue = queue
        self._resolver = resolver
        self._clock = clock
        self._name = conf.str("lmtp_lhlo_name")
        self._host_name = conf.str("myhostname")
        self._port = port_number(conf.str("lmtp_tcp_port"), conf.origin("lmtp_tcp_port"))
        self._origin = conf.origin("lmtp_tcp_port")
        self._timeouts = Timeouts(
            connect=conf.time("lmtp_connect_timeout"),
            hello=conf.time("lmtp_lhlo_timeout"),
            starttls=conf.time("lmtp_lhlo_timeout"),
            mail=conf.time("lmtp_mail_timeout"),
            rcpt=conf.time("lmtp_rcpt_timeout"),
            data_init=conf.time("lmtp_data_init_timeout"),
            data_transfer=conf.time("lmtp_data_xfer_timeout"),
            data_done=conf.time("lmtp_data_done_timeout"),
        )
        self._cache = ConnectionCache(
            clock,
            conf.time("lmtp_connection_cache_time_limit"),
            conf.time("lmtp_connection_reuse_time_limit"),
        )

    async def deliver(self, request: Request) -> Sequence[Result]:
        session = self._cache.take(request.nexthop)
        if session is not None:
            try:
                results = await session.send(request, self._queue, connect=0.0)
            except ConnectionLost:
                session.stream.abort()  # the server had closed it while it was idle
            else:
                self._cache.give(request.nexthop, session)
                return results
        try:
            session = await self._connect(request.nexthop)
        except SiteError as error:
            if isinstance(error.outcome, Deferred):
                request.site_failure = error.outcome
            return request.all(error.outcome)
        connected = self._clock.monotonic() - request.started
        try:
            results = await session.send(request, self._queue, connect=connected)
        except ConnectionLost as lost:
            session.stream.abort()
            request.site_failure = Deferred(lost.text, lost.dsn)
            return request.all(request.site_failure, session.host.relay)
        except BaseException:
            session.stream.abort()
            raise
        self._cache.give(request.nexthop, session)
        return results

    async def _connect(self, nexthop: str) -> Session:
        """A new session. Raises `SiteError`."""
        failure: SiteError | None = None
        for host in await self._hosts(nexthop):
            try:
                return await open_session(host, Mode.LMTP, self._name, self._timeouts, self._clock.monotonic)
            except SiteError as error:
                failure = error
        assert failure is not None  # `_hosts` never returns nothing
        raise failure

    async def _hosts(self, nexthop: str) -> list[Host]:
        """Where a nexthop is. Raises `SiteError`."""
        if nexthop.startswith("unix:"):
            return [Host(self._host_name, nexthop[5:], 0)]
        name, port = split_host_port(nexthop.removeprefix("inet:"))
        number = self._port
        if port:
            try:
                number = int(port) if port.isdecimal() else port_number(port, self._origin)
            except Exception:
                raise SiteError(Deferred(f"unknown service: {port}", "4.3.5")) from None
        try:
            ipaddress.ip_address(name)
            return [Host(name, name, number)]
        except ValueError:
            pass
        try:
            addresses = await self._resolver.addresses(name)
        except ResolveTemporary as error:
            raise SiteError(Deferred(str(error), "4.4.3")) from None
        except NoSuchDomain as error:
            raise SiteError(Bounced(str(error), "5.4.4")) from None
        return [Host(name, address, number) for address in addresses]

    async def close(self) -> None:
        self._cache.close()


def split_host_port(text: str) -> tuple[str, str]:
    """(host without brackets, port or "") of `host`, `host:port`, `[host]`, `[host]:port`."""
    if text.startswith("["):
        host, _, rest = text[1:].partition("]")
        return host.removeprefix("ipv6:").removeprefix("IPv6:"), rest.removeprefix(":")
    if text.count(":") > 1:
        return text, ""
    host, _, port = text.partition(":")
    return host, port
