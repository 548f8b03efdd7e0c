"""lmtp(8): delivery by LMTP to a named server, over connections that are kept and used again.

The nexthop is `inet:host:port`, `host:port`, `[host]:port`, `host` (port `lmtp_tcp_port`) or `unix:/path`.
Several deliveries to one server run side by side, each over a connection of its own; an idle connection is
kept for `lmtp_connection_cache_time_limit` and used for `lmtp_connection_reuse_time_limit` at most. A
connection that turns out to be gone when it is used again costs nothing but a new one.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from mailstack.config.postfix.main_cf import MainCf
from mailstack.config.postfix.master_cf import port_number
from mailstack.mta.address_maps import OpenTable
from mailstack.mta.deliver.connection_cache import ConnectionCache
from mailstack.mta.deliver.destination import split_host_port
from mailstack.mta.deliver.manners import discarded
from mailstack.mta.deliver.opening import Manners, open_session
from mailstack.mta.deliver.probing import probe
from mailstack.mta.deliver.request import Bounced, Deferred, Request, Result
from mailstack.mta.deliver.session import ConnectionLost, Host, Session, SiteError, Timeouts
from mailstack.mta.verify import is_probe
from mailstack.net.clock import Clock
from mailstack.net.resolver import NoSuchDomain, Resolver, ResolveTemporary
from mailstack.storage.queue import Queue
from mailstack.storage.tables import open_table
from mailstack.wire.smtp import Mode


class LMTPAgent:
    """The lmtp daemon under one configuration."""

    daemon = "lmtp"

    def __init__(
        self,
        conf: MainCf,
        queue: Queue,
        resolver: Resolver,
        clock: Clock,
        *,
        open_table: OpenTable = open_table,
    ) -> None:
        self._queue = queue
        self._resolver = resolver
        self._clock = clock
        self._manners = Manners(
            conf.str("lmtp_lhlo_name"),
            skip_5xx_greeting=conf.bool("lmtp_skip_5xx_greeting"),
            line_limit=conf.int("lmtp_line_length_limit"),
            xforward=conf.bool("lmtp_send_xforward_command"),
            discard=discarded(
                conf, "lmtp_discard_lhlo_keywords", "lmtp_discard_lhlo_keyword_address_maps", open_table
            ),
        )
        self._host_name = conf.str("myhostname")
        self._probe_data = conf.str("lmtp_address_verify_target") == "data"
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
            reset=conf.time("lmtp_rset_timeout"),
            xforward=conf.time("lmtp_xforward_timeout"),
        )
        self._cache = ConnectionCache(
            clock,
            conf.time("lmtp_connection_cache_time_limit"),
            conf.time("lmtp_connection_reuse_time_limit"),
            conf.int("lmtp_connection_reuse_count_limit"),
        )

    async def deliver(self, request: Request) -> Sequence[Result]:
        session = self._cache.take(request.nexthop)
        if session is not None:
            try:
                results = await self._send(session, request, 0.0)
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
            results = await self._send(session, request, connected)
        except ConnectionLost as lost:
            session.stream.abort()
            request.site_failure = Deferred(lost.text, lost.dsn)
            return request.all(request.site_failure, session.host.relay)
        except BaseException:
            session.stream.abort()
            raise
        self._cache.give(request.nexthop, session)
        return results

    async def _send(self, session: Session, request: Request, connect: float) -> list[Result]:
        """A transaction, or a question. Raises `ConnectionLost`."""
        if is_probe(request.message):
            return await probe(session, request, connect=connect, data=self._probe_data)
        return await session.send(request, self._queue, connect=connect)

    async def _connect(self, nexthop: str) -> Session:
        """A new session. Raises `SiteError`."""
        failure: SiteError | None = None
        for host in await self._hosts(nexthop):
            try:
                return await open_session(
                    host, Mode.LMTP, self._manners, self._timeouts, self._clock.monotonic
                )
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
