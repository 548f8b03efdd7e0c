"""smtp(8): delivery to other domains' mail exchangers, or to a relay host. `lmtp` builds on it.

The hosts of a nexthop (`destination`) are tried until the message is away: recipients that a host has
answered 4xx, or that it could not be reached for, go on to the next, within `smtp_mx_address_limit` and
`smtp_mx_session_limit`; then come the hosts of `smtp_fallback_relay`. What the relay host or a fallback relay
itself is to blame for never bounces. Mail for a domain whose best exchanger is this host goes to
`best_mx_transport`, or bounces.

TLS as `tls_policy` and `dane` have it. With `may` a host whose handshake fails, or with which a conversation
in TLS breaks off, is tried again in plain text, once the message has waited for `minimal_backoff_time` and
there is no login that would be given away; until then a failed handshake does not count against the
destination.
Authentication is `sasl_client`'s.

Diagnostics, beside the line of each recipient: `connect to HOST[ADDRESS]:PORT: REASON`, `QUEUEID: REASON`
where the next host is tried, `TRUST TLS connection established to …`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from mailstack.config.postfix.main_cf import MainCf
from mailstack.mta.address_maps import DomainList, OpenTable
from mailstack.mta.cleanup.maps import MapError
from mailstack.mta.deliver.connection_cache import ConnectionCache, Demand
from mailstack.mta.deliver.delivery import Delivery
from mailstack.mta.deliver.destination import LOOP, SMTP_PORT, Destinations, family, split_host_port
from mailstack.mta.deliver.manners import manners, timeouts
from mailstack.mta.deliver.names import Daemon, Names
from mailstack.mta.deliver.notices import Notify
from mailstack.mta.deliver.opening import Login, open_session
from mailstack.mta.deliver.outgoing import Outgoing, restored
from mailstack.mta.deliver.probing import probe
from mailstack.mta.deliver.request import Agent, Bounced, Deferred, Outcome, Request, Result
from mailstack.mta.deliver.sasl_client import SASLClient
from mailstack.mta.deliver.session import ConnectionLost, Host, Session, SiteError, Transcript
from mailstack.mta.deliver.tls_policy import PLAIN, Policy, TLSLevel, TLSPolicies, Unusable
from mailstack.mta.lookup import settled
from mailstack.mta.rewrite import Rewriter
from mailstack.mta.verify import is_probe
from mailstack.net.clock import Clock
from mailstack.net.log import Log
from mailstack.net.resolver import Resolver
from mailstack.storage.queue import Queue
from mailstack.storage.tables import TableError, open_table
from mailstack.wire.sasl import Credentials
from mailstack.wire.smtp import Mode

if TYPE_CHECKING:
    from mailstack.mta.deliver.dane import Authority


class SMTPAgent:
    """The smtp daemon under one configuration (`smtp` and `relay` of master.cf are two).

    `other` gives another transport's agent, for best_mx_transport.
    """

    daemon = "smtp"
    client: Daemon = "smtp"
    mode = Mode.SMTP

    def __init__(
        self,
        conf: MainCf,
        queue: Queue,
        resolver: Resolver,
        clock: Clock,
        log: Log,
        *,
        is_own_address: Callable[[str], bool],
        shuffle: Callable[[list[str]], None] = random.shuffle,
        open_table: OpenTable = open_table,
        rewriter: Rewriter | None = None,
        other: Callable[[str], Agent] | None = None,
        notify: Notify | None = None,
    ) -> None:
        self._queue = queue
        self._clock = clock
        self._log = log
        self._other = other
        names = Names(conf, self.client)
        self._probe_data = names.str("address_verify_target") == "data"
        self._destinations = Destinations(
            conf,
            resolver,
            log,
            is_own_address=is_own_address,
            shuffle=shuffle,
            daemon=self.client,
            open_table=open_table,
        )
        self._own_name = conf.str("myhostname").lower() if names.smtp else ""
        self._address_limit = names.int("mx_address_limit")
        self._session_limit = names.int("mx_session_limit")
        self._fallback = names.list("fallback_relay")
        self._fallback_name = names.full("fallback_relay")
        self._relayhost = conf.str("relayhost").strip() if names.smtp else ""
        self._best_mx = conf.str("best_mx_transport") if names.smtp else ""
        self._bind = {4: names.str("bind_address") or None, 6: names.str("bind_address6") or None}
        self._plain_after = conf.time("minimal_backoff_time")
        self._timeouts = timeouts(names)
        self._manners = manners(names, open_table)
        self._policies = TLSPolicies(conf, open_table, log, self.client)
        self._authority: Authority | None = None
        self._names = names
        self._resolver = resolver
        self._sasl = (
            SASLClient(conf, open_table, clock, self.client) if names.bool("sasl_auth_enable") else None
        )
        self._outgoing = Outgoing(conf, queue, rewriter, open_table, log, self.client)
        self._notify = notify
        self._double_bounce = f"{conf.str('double_bounce_sender')}@{conf.str('myhostname')}"
        always = names.list("connection_cache_destinations")
        self._always = DomainList(list(always), open_table).match if always else None
        self._on_demand = names.bool("connection_cache_on_demand")
        self._demand = Demand(clock, on_demand=self._on_demand, always=self._always)
        self._cache = ConnectionCache(
            clock,
            names.time("connection_cache_time_limit"),
            names.time("connection_reuse_time_limit"),
            names.int("connection_reuse_count_limit"),
        )

    async def close(self) -> None:
        self._cache.close()

    async def deliver(self, request: Request) -> Sequence[Result]:
        self._demand.begin(request.nexthop)
        try:
            return await self._deliver(request)
        finally:
            self._demand.end(request.nexthop)

    async def _deliver(self, request: Request) -> Sequence[Result]:
        delivery = Delivery(request, self._log)
        try:
            tried = await self._over_kept_connection(request, delivery)
            await self._try_destinations(delivery, tried)
        except (TableError, MapError) as error:
            self._log.warning(f"{request.message.queue_id}: {error}")
            delivery.note(Deferred("table lookup problem", "4.3.0"))
        except OSError as error:
            self._log.warning(f"{request.message.queue_id}: {error}")
            delivery.note(Deferred("cannot read a table or the queue file", "4.3.0"))
        if delivery.open and delivery.loops and self._best_mx and self._other is not None:
            return [*delivery.results, *await self._pass_on(delivery.remaining())]
        request.site_failure = delivery.site_failure
        delivery.close()
        return delivery.results

    async def _go_on(self, request: Request, tried: Host, results: Sequence[Result]) -> Sequence[Result]:
        """What one host has deferred goes to the others, where there are any."""
        delivery = Delivery(request, self._log)
        delivery.take(results)
        await self._try_destinations(delivery, tried)
        delivery.close()
        return delivery.results

    async def _pass_on(self, request: Request) -> Sequence[Result]:
        """Mail whose best exchanger we are goes to best_mx_transport."""
        assert self._other is not None
        transport, _, nexthop = self._best_mx.partition(":")
        return await self._other(transport).deliver(
            Request(
                request.message,
                nexthop or request.nexthop,
                request.targets,
                request.entered,
                request.started,
                destination=request.destination,
            )
        )

    async def _over_kept_connection(self, request: Request, delivery: Delivery) -> Host | None:
        """Deliver over a connection that is there; the host that it leads to."""
        session = self._cache.take(self._key(request))
        if session is None:
            return None
        problem = self._unfit(session, request)
        if problem is not None:
            delivery.note(problem, session.host.relay)
        if problem is not None or await self._use(session, delivery, connect=0.0, cached=True):
            host = session.host
            await self._put_away(session, request)
            return host
        return None

    def _key(self, request: Request) -> str:
        """Sessions that may be used for a request: those of its nexthop, and of its sender's login."""
        if self._sasl is not None and self._sasl.by_sender:
            return f"{request.nexthop} {request.message.envelope.sender.lower()}"
        return request.nexthop

    async def _put_away(self, session: Session, request: Request) -> None:
        nexthop = request.nexthop
        try:
            kept = await self._wants(session, nexthop)
        except (TableError, OSError) as error:
            self._log.warning(str(error))
            kept = False
        if kept:
            self._cache.give(self._key(request), session)
        else:
            await session.leave()

    async def _wants(self, session: Session, nexthop: str) -> bool:
        """Whether a connection is to be kept. Raises `TableError` and `OSError`."""
        return session.kept and await settled(lambda: self._demand.wants(nexthop, _domain(nexthop)))

    # ---- destinations

    async def _try_destinations(self, delivery: Delivery, tried: Host | None) -> None:
        nexthop = delivery.request.nexthop
        # A nexthop may be a list, tried from left to right.
        own = [nexthop] if "," not in nexthop and " " not in nexthop else nexthop.replace(",", " ").split()
        for number, destination in enumerate((*own, *self._fallback)):
            if not delivery.open:
                return
            try:
                found = await self._destinations.find(destination)
            except SiteError as error:
                delivery.fail(error.outcome)
                if error.outcome.dsn == LOOP:
                    break  # a fallback would only make it worse
                continue
            await self._try_hosts(destination, found.hosts, delivery, tried, first=not number)
            if found.mail_exchanger:
                break
        if not delivery.open:
            return
        if number >= len(own):
            self._blame(delivery, self._fallback_name)
        elif self._relayhost and nexthop == self._relayhost:
            self._blame(delivery, "relayhost")

    def _blame(self, delivery: Delivery, parameter: str) -> None:
        """A host of our own choice does not work: that is no reason to return mail."""
        if isinstance(delivery.why, Bounced):
            self._log.warning(f"{parameter} configuration problem")
            delivery.fail(Deferred(delivery.why.text, "4.3.5"))

    async def _try_hosts(
        self, destination: str, hosts: Sequence[Host], delivery: Delivery, tried: Host | None, *, first: bool
    ) -> None:
        """Try the hosts of one destination, but not `tried`, until every recipient has a final result."""
        request = delivery.request
        sessions = 0
        for number, host in enumerate(hosts):
            if self._address_limit and number >= self._address_limit:
                return
            if host == tried:
                continue
            try:
                session = await self._open(destination, host, request)
            except SiteError as error:
                if error.unreachable:
                    self._log.info(error.outcome.text)
                    delivery.fail(error.outcome)
                    continue
                sessions += 1
                connect = self._clock.monotonic() - request.started
                delivery.harmless = error.harmless
                delivery.note(error.outcome, host.relay, error.reply, connect=connect)
            else:
                sessions += 1
                keep = first and tried is None and sessions == 1
                await self._try_session(session, delivery, keep=keep)
                if session.secured and session.severed and delivery.open:
                    await self._try_plain(destination, host, delivery, keep=keep)
            if not delivery.open or (self._session_limit and sessions >= self._session_limit):
                return

    async def _try_plain(self, destination: str, host: Host, delivery: Delivery, *, keep: bool) -> None:
        """The same host without TLS, in which the conversation broke off, if that may be."""
        request = delivery.request
        try:
            policy = await self._policy(destination, host)
            login = await self._credentials(destination, host, request) is not None
            if not self._plain_may_do(policy, login, request):
                return
            session = await self._connect(host, PLAIN, _domain(destination), None, request)
        except SiteError as error:
            delivery.note(error.outcome, host.relay, error.reply)
        else:
            await self._try_session(session, delivery, keep=keep)

    async def _try_session(self, session: Session, delivery: Delivery, *, keep: bool) -> None:
        """`keep`: the best host that answers is worth another delivery, not one for the leftovers."""
        connect = self._clock.monotonic() - delivery.request.started
        problem = self._unfit(session, delivery.request)
        if problem is not None:
            delivery.note(problem, session.host.relay, connect=connect)
            await session.leave()
        elif await self._use(session, delivery, connect=connect) and keep:
            await self._put_away(session, delivery.request)
        else:
            await session.leave()

    # ---- one host

    async def _open(self, destination: str, host: Host, request: Request) -> Session:
        """A session with a host; after a failed handshake in plain text, if it may. Raises `SiteError`."""
        domain = _domain(destination)
        policy = await self._policy(destination, host)
        credentials = await self._credentials(destination, host, request)
        login = self._login(credentials) if credentials is not None else None
        try:
            return await self._connect(host, policy, domain, login, request)
        except SiteError as error:
            if not error.tls or not self._plain_may_do(policy, login is not None, request):
                raise
            self._log.info(f"{request.message.queue_id}: {error.outcome.text}")
        return await self._connect(host, PLAIN, domain, login, request)

    def _plain_may_do(self, policy: Policy, login: bool, request: Request) -> bool:
        """Whether what TLS has spoilt may be tried without it."""
        age = self._clock.time() - request.message.envelope.arrival
        patient = age >= self._plain_after or is_probe(request.message)
        return policy.level is TLSLevel.MAY and not login and patient

    async def _connect(
        self, host: Host, policy: Policy, domain: str, login: Login | None, request: Request
    ) -> Session:
        history = Transcript() if self._notify is not None else None
        try:
            return await self._opened(host, policy, domain, login, history)
        except SiteError:
            if history is not None:
                await self._complain(host, history, request)
            raise

    async def _complain(self, host: Host, history: Transcript, request: Request) -> None:
        """Tell the postmaster of a session that went against the protocol; of a notice's nobody is told."""
        notice = request.message.envelope.sender == self._double_bounce
        if history.wrong and not notice and self._notify is not None:
            await self._notify(self.client, str(host), history.lines)
        history.lines, history.wrong = [], False

    async def _opened(
        self, host: Host, policy: Policy, domain: str, login: Login | None, history: Transcript | None
    ) -> Session:
        return await open_session(
            host,
            self.mode,
            self._manners,
            self._timeouts,
            self._clock.monotonic,
            self._log,
            policy=policy,
            nexthop=domain,
            local_address=self._bind[family(host.address)],
            login=login,
            history=history,
        )

    async def _policy(self, destination: str, host: Host) -> Policy:
        policies = self._policies
        try:
            if policies.tables:
                policy = await settled(lambda: policies.find(destination))
            elif policies.sites:
                policy = await settled(lambda: policies.for_site(destination, host.name))
            else:
                policy = policies.find(destination)
            return await self._by_dane(policy, host) if policy.level.dane else policy
        except (Unusable, TableError, OSError) as error:
            if isinstance(error, Unusable) and error.soft:
                self._log.warning(f"TLS policy lookup for {destination}/{host.name}: {error}")
                raise SiteError(Deferred(str(error), "4.7.5"), unreachable=True) from None
            self._log.warning(str(error))
            raise SiteError(Deferred("client TLS configuration problem", "4.7.5"), unreachable=True) from None

    async def _by_dane(self, policy: Policy, host: Host) -> Policy:
        if self._authority is None:
            from mailstack.mta.deliver.dane import Authority  # few ask the DNS

            dnssec = self._destinations.dnssec
            self._authority = Authority(self._names, self._resolver, self._log, dnssec=dnssec)
        return await self._authority.apply(policy, host)

    async def _credentials(self, destination: str, host: Host, request: Request) -> Credentials | None:
        if self._sasl is None:
            return None
        sasl, sender = self._sasl, request.message.envelope.sender
        return await settled(lambda: sasl.credentials(sender, destination, host.name))

    def _login(self, credentials: Credentials) -> Login:
        async def login(session: Session) -> None:
            assert self._sasl is not None
            await self._sasl.authenticate(session, credentials, verified=session.verified)

        return login

    async def _use(
        self, session: Session, delivery: Delivery, *, connect: float, cached: bool = False
    ) -> bool:
        """One transaction for the recipients left; False when the session is of no more use."""
        request = delivery.remaining()
        try:
            prepared = await self._outgoing.prepare(request, session)
            results: Sequence[Result]
            if is_probe(request.message):
                results = await probe(session, prepared, connect=connect, data=self._probe_data)
            else:
                results = await session.send(prepared, self._queue, connect=connect)
        except ConnectionLost as lost:
            session.stream.abort()
            if not cached:
                delivery.harmless = False
                delivery.note(Deferred(lost.text, lost.dsn), session.host.relay, connect=connect)
            return False
        except BaseException:
            session.stream.abort()
            raise
        delivery.take(results if prepared is request else restored(results, request))
        if session.history is not None and session.history.wrong:
            await self._complain(session.host, session.history, delivery.request)
        return session.usable

    def _unfit(self, session: Session, request: Request) -> Outcome | None:
        """What the message needs and the host does not have, or that the host is ourselves."""
        envelope, engine, host = request.message.envelope, session.engine, session.host
        if session.greeted_as.lower() == self._own_name and host.port == SMTP_PORT:
            return Bounced(f"mail for {request.nexthop} loops back to myself", LOOP)
        if engine.size_limit and envelope.size > engine.size_limit:
            return Bounced(
                f"message size {envelope.size} exceeds size limit {engine.size_limit} of server {host}",
                "5.3.4",
            )
        if envelope.smtputf8 and "SMTPUTF8" not in engine.extensions and self._needs_utf8(request):
            return Bounced(f"SMTPUTF8 is required, but was not offered by host {host}", "5.6.7")
        return None

    def _needs_utf8(self, request: Request) -> bool:
        """Whether addresses or headers are not ASCII (a client may ask for SMTPUTF8 without need)."""
        envelope = request.message.envelope
        if not envelope.sender.isascii() or not all(target.address.isascii() for target in request.targets):
            return True
        head = self._queue.read_content(request.message, 256 * 1024)
        return not head.partition(b"\r\n\r\n")[0].isascii()


def _domain(destination: str) -> str:
    return split_host_port(destination.removeprefix("inet:"))[0].lower()
