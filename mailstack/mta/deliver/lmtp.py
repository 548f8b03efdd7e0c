"""lmtp(8): delivery by LMTP to a named server, over connections that are kept and used again (RFC 2033).

The nexthop is `inet:host:port`, `host:port`, `[host]:port`, `host` (port `lmtp_tcp_port`) or `unix:/path`;
there are no MX records. All else is as in `smtp`: TLS, logins, checks and rewriting, each by the `lmtp_`
parameter of the same name.

Several deliveries to one server run side by side, each over a connection of its own; an idle connection is
kept for `lmtp_connection_cache_time_limit` and used for `lmtp_connection_reuse_time_limit` at most, unless
`lmtp_connection_cache_on_demand = no`. A connection that turns out to be gone when it is used again costs
nothing but a new one.
"""

from __future__ import annotations

from collections.abc import Sequence

from mailstack.config.postfix.main_cf import MainCf
from mailstack.mta.address_maps import OpenTable
from mailstack.mta.deliver.names import Daemon
from mailstack.mta.deliver.notices import Notify
from mailstack.mta.deliver.request import Deferred, Request, Result
from mailstack.mta.deliver.session import ConnectionLost, Session
from mailstack.mta.deliver.smtp import SMTPAgent
from mailstack.mta.rewrite import Rewriter
from mailstack.mta.verify import is_probe
from mailstack.net.clock import Clock
from mailstack.net.log import Log
from mailstack.net.resolver import Resolver
from mailstack.storage.queue import Queue
from mailstack.storage.tables import open_table
from mailstack.wire.smtp import Mode


class LMTPAgent(SMTPAgent):
    """The lmtp daemon under one configuration."""

    daemon = "lmtp"
    client: Daemon = "lmtp"
    mode = Mode.LMTP

    def __init__(
        self,
        conf: MainCf,
        queue: Queue,
        resolver: Resolver,
        clock: Clock,
        log: Log,
        *,
        open_table: OpenTable = open_table,
        rewriter: Rewriter | None = None,
        notify: Notify | None = None,
    ) -> None:
        super().__init__(
            conf,
            queue,
            resolver,
            clock,
            log,
            is_own_address=lambda address: False,
            open_table=open_table,
            rewriter=rewriter,
            notify=notify,
        )
        by_sender = self._sasl is not None and self._sasl.by_sender
        self._direct = self._outgoing.idle and not by_sender and notify is None
        """A message goes out as it is, whoever sent it."""

    async def deliver(self, request: Request) -> Sequence[Result]:
        # The way of nearly every message: a connection is there, and the message goes over it.
        session = self._cache.take(request.nexthop) if self._direct else None
        if session is None:
            return await self._deliver(request)
        if not self._takes(session, request):
            self._cache.give(request.nexthop, session)
            return await self._deliver(request)
        try:
            results = await session.send(request, self._queue, connect=0.0)
        except ConnectionLost:
            session.stream.abort()  # the server had closed it while it was idle
            return await self._deliver(request)
        except BaseException:
            session.stream.abort()
            raise
        self._cache.give(request.nexthop, session)
        for result in results:
            if isinstance(result.outcome, Deferred):
                return await self._go_on(request, session.host, results)
        return results

    def _takes(self, session: Session, request: Request) -> bool:
        """Whether nothing has to be done to a message for this server."""
        envelope, extensions = request.message.envelope, session.engine.extensions
        return (
            (envelope.body != "8bitmime" or "8BITMIME" in extensions)
            and (not envelope.smtputf8 or "SMTPUTF8" in extensions)
            and not 0 < session.engine.size_limit < envelope.size
            and not is_probe(request.message)
        )

    async def _wants(self, session: Session, nexthop: str) -> bool:
        # The server is most often the one beside us: its connections are worth keeping without waiting for
        # a second delivery.
        return session.kept and (self._on_demand or await super()._wants(session, nexthop))
