"""smtp(8): delivery to other domains' mail exchangers, or to a relay host.

A nexthop is `domain` (its MX hosts in order of preference, those of equal preference shuffled; without MX
records the domain itself, RFC 5321 §5.1), `[host]` (that host, no MX look-up), each with an optional `:port`.
Hosts are tried until the message is away: recipients that a host has answered 4xx, or that it could not be
reached for, go on to the next, within `smtp_mx_address_limit` and `smtp_mx_session_limit`. Domains that take
no mail (RFC 7505) bounce, and so does mail that would come back to ourselves (RFC 5321 §5.1).

TLS as `smtp_tls_security_level` has it; with `may` a host whose handshake fails is tried again in plain text.
"""

from __future__ import annotations

import ipaddress
import random
import ssl
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from mailstack.config.postfix.main_cf import MainCf
from mailstack.config.postfix.master_cf import port_number
from mailstack.mta.deliver.lmtp import ConnectionCache, split_host_port
from mailstack.mta.deliver.request import Bounced, Deferred, Outcome, Request, Result, Sent
from mailstack.mta.deliver.session import (
    ConnectionLost,
    Host,
    Session,
    SiteError,
    Timeouts,
    TLSLevel,
    open_session,
)
from mailstack.net.clock import Clock
from mailstack.net.log import Log
from mailstack.net.resolver import NoSuchDomain, NullMX, Resolver, ResolveTemporary
from mailstack.net.tls import client_context, describe
from mailstack.storage.queue import Queue
from mailstack.wire.smtp import Mode

SMTP_PORT = 25


class SMTPAgent:
    """The smtp daemon under one configuration (`smtp` and `relay` of master.cf are two)."""

    daemon = "smtp"

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
    ) -> None:
        self._queue = queue
        self._resolver = resolver
        self._clock = clock
        self._log = log
        self._log_tls = conf.int("smtp_tls_loglevel") > 0
        self._is_own_address = is_own_address
        self._shuffle = shuffle if conf.bool("smtp_randomize_addresses") else lambda names: None
        self._name = conf.str("smtp_helo_name")
        self._own_name = conf.str("myhostname").lower()
        self._origin = conf.origin("smtp_tcp_port")
        self._port = port_number(conf.str("smtp_tcp_port"), self._origin)
        self._families = _families(conf)
        self._address_limit = conf.int("smtp_mx_address_limit")
        self._session_limit = conf.int("smtp_mx_session_limit")
        self._fallback = conf.list("smtp_fallback_relay")
        self._bind = conf.str("smtp_bind_address") or None
        self._skip_5xx = conf.bool("smtp_skip_5xx_greeting")
        self._level = _tls_level(conf)
        self._tls = _tls_context(conf, self._level)
        self._timeouts = Timeouts(
            connect=conf.time("smtp_connect_timeout"),
            hello=conf.time("smtp_helo_timeout"),
            starttls=conf.time("smtp_starttls_timeout"),
            mail=conf.time("smtp_mail_timeout"),
            rcpt=conf.time("smtp_rcpt_timeout"),
            data_init=conf.time("smtp_data_init_timeout"),
            data_transfer=conf.time("smtp_data_xfer_timeout"),
            data_done=conf.time("smtp_data_done_timeout"),
        )
        self._cache = ConnectionCache(
            clock,
            conf.time("smtp_connection_cache_time_limit"),
            conf.time("smtp_connection_reuse_time_limit"),
        )

    async def close(self) -> None:
        self._cache.close()

    async def deliver(self, request: Request) -> Sequence[Result]:
        delivery = _Delivery(request)
        tried: Host | None = None
        session = self._cache.take(request.nexthop)
        if session is not None:
            problem = self._unfit(session, request)
            if problem is not None:
                delivery.note(problem, session.host.relay)
            if problem is not None or await self._use(session, delivery, connect=0.0, cached=True):
                tried = session.host
                self._cache.give(request.nexthop, session)
        for nexthop in (request.nexthop, *self._fallback):
            if not delivery.open:
                break
            await self._try_destination(nexthop, delivery, tried, keep=nexthop == request.nexthop)
        request.site_failure = delivery.site_failure
        delivery.close()
        return delivery.results

    async def _try_destination(
        self, nexthop: str, delivery: _Delivery, tried: Host | None, *, keep: bool
    ) -> None:
        """Try the hosts of one destination, but not `tried`, until every recipient has a final result."""
        try:
            hosts = await self._hosts(nexthop)
        except SiteError as error:
            delivery.note(error.outcome)
            return
        sessions = 0
        for number, host in enumerate(hosts):
            if self._address_limit and number >= self._address_limit:
                break
            if host == tried:
                continue
            try:
                session = await self._open(host)
            except SiteError as error:
                delivery.note(error.outcome, "none" if error.unreachable else host.relay)
                if isinstance(error.outcome, Bounced):
                    return
                continue
            connect = self._clock.monotonic() - delivery.request.started
            problem = self._unfit(session, delivery.request)
            if problem is not None:
                session.say_goodbye()
                delivery.note(problem, host.relay)
                return
            sessions += 1
            good = await self._use(session, delivery, connect=connect)
            if good and keep and tried is None and sessions == 1:
                self._cache.give(nexthop, session)  # the best host that answers, not one for the leftovers
            else:
                session.say_goodbye()
            if not delivery.open or (self._session_limit and sessions >= self._session_limit):
                return

    async def _open(self, host: Host) -> Session:
        """A session with a host; plain text after a failed handshake where TLS is not demanded."""
        for level in (self._level, TLSLevel.NONE):
            try:
                session = await open_session(
                    host,
                    Mode.SMTP,
                    self._name,
                    self._timeouts,
                    self._clock.monotonic,
                    tls=self._tls,
                    level=level,
                    local_address=self._bind,
                    skip_5xx_greeting=self._skip_5xx,
                )
            except SiteError as error:
                if not error.tls or level is not TLSLevel.MAY:
                    raise
                continue
            if self._log_tls and session.stream.tls is not None:
                trust = "Verified" if self._level is TLSLevel.VERIFY else "Untrusted"
                text = describe(session.stream.tls)
                self._log.info(f"{trust} TLS connection established to {host.relay}: {text}")
            return session
        raise AssertionError("not reached: the second level never fails on TLS")

    async def _use(
        self, session: Session, delivery: _Delivery, *, connect: float, cached: bool = False
    ) -> bool:
        """One transaction for the recipients left; False when the session is of no more use."""
        try:
            results = await session.send(delivery.remaining(), self._queue, connect=connect)
        except ConnectionLost as lost:
            session.stream.abort()
            if not cached:
                delivery.note(Deferred(lost.text, lost.dsn), session.host.relay)
            return False
        delivery.take(results)
        return session.usable

    def _unfit(self, session: Session, request: Request) -> Outcome | None:
        """What the message needs and the host does not have, or that the host is ourselves."""
        envelope, engine, host = request.message.envelope, session.engine, session.host
        if session.greeted_as.lower() == self._own_name and host.port == SMTP_PORT:
            return Bounced(f"mail for {request.nexthop} loops back to myself", "5.4.6")
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

    # ---- where to

    async def _hosts(self, nexthop: str) -> list[Host]:
        """Addresses to try, in order. Raises `SiteError`."""
        name, port_text = split_host_port(nexthop.removeprefix("inet:"))
        try:
            port = port_number(port_text, self._origin) if port_text else self._port
        except Exception:
            raise SiteError(Deferred(f"unknown service: {port_text}", "4.3.5")) from None
        if nexthop.startswith(("[", "inet:")) or _is_address(name):
            addresses = [name] if _is_address(name) else await self._addresses(name)
            return self._without_ourselves(
                nexthop, [Host(name, a, port) for a in self._usable(addresses)], port
            )
        return await self._exchangers(name, port)

    async def _exchangers(self, domain: str, port: int) -> list[Host]:
        """The hosts that take a domain's mail. Raises `SiteError`."""
        try:
            records = await self._resolver.mx(domain)
        except NullMX as error:
            raise SiteError(Bounced(str(error), "5.1.0")) from None
        except ResolveTemporary as error:
            raise SiteError(Deferred(str(error), "4.4.3")) from None
        except NoSuchDomain as error:
            raise SiteError(Bounced(str(error), "5.4.4")) from None
        hosts: list[Host] = []
        failure: SiteError | None = None
        preferences = sorted({preference for preference, _ in records})
        for preference in preferences:
            names = [name for value, name in records if value == preference]
            self._shuffle(names)
            found: list[Host] = []
            for name in names:
                try:
                    found += [Host(name, a, port) for a in self._usable(await self._addresses(name))]
                except SiteError as error:
                    failure = error if failure is None or isinstance(error.outcome, Deferred) else failure
            if port == SMTP_PORT and any(self._ourselves(host) for host in found):
                # Hosts that are no better than we are would send it back (RFC 5321 §5.1).
                if not hosts:
                    raise SiteError(Bounced(f"mail for {domain} loops back to myself", "5.4.6"))
                return hosts
            hosts += found
        if not hosts:
            raise failure or SiteError(Bounced(f"unable to find a mail exchanger of {domain}", "5.4.4"))
        return hosts

    async def _addresses(self, name: str) -> list[str]:
        try:
            return await self._resolver.addresses(name)
        except ResolveTemporary as error:
            raise SiteError(Deferred(str(error), "4.4.3")) from None
        except NoSuchDomain as error:
            raise SiteError(Bounced(str(error), "5.4.4")) from None

    def _usable(self, addresses: Iterable[str]) -> list[str]:
        """Of the families we speak, preferred family first."""
        found = [address for address in addresses if _version(address) in self._families]
        self._shuffle(found)
        found.sort(key=lambda address: self._families.index(_version(address)))
        return found

    def _ourselves(self, host: Host) -> bool:
        return host.name.lower() == self._own_name or self._is_own_address(host.address)

    def _without_ourselves(self, nexthop: str, hosts: list[Host], port: int) -> list[Host]:
        if not hosts:
            raise SiteError(Deferred(f"no address of {nexthop} can be used", "4.4.4"))
        if port == SMTP_PORT and any(self._ourselves(host) for host in hosts):
            raise SiteError(Bounced(f"mail for {nexthop} loops back to myself", "5.4.6"))
        return hosts


class _Delivery:
    """A request while host after host is tried: final results, and the last word on the others."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.results: list[Result] = []
        self._open = {target.index: target for target in request.targets}
        self._last: dict[int, Result] = {}
        self._answered = False
        """Some host has said something about a recipient."""

    @property
    def site_failure(self) -> Deferred | None:
        """Why no host could be used at all, whoever the recipients are."""
        if self._answered or not self._open:
            return None
        last = self._last.get(next(iter(self._open)))
        return last.outcome if last is not None and isinstance(last.outcome, Deferred) else None

    @property
    def open(self) -> bool:
        """Whether some recipient could still go to another host."""
        return bool(self._open)

    def remaining(self) -> Request:
        """The request for the recipients left."""
        if len(self._open) == len(self.request.targets):
            return self.request
        request = self.request
        return Request(
            request.message, request.nexthop, list(self._open.values()), request.entered, request.started
        )

    def take(self, results: Iterable[Result]) -> None:
        """Results of a transaction: what is final stays, what is deferred may go on."""
        self._answered = True
        for result in results:
            if isinstance(result.outcome, Deferred):
                self._last[result.target.index] = result
            else:
                self.results.append(result)
                del self._open[result.target.index]

    def note(self, outcome: Outcome, relay: str = "none") -> None:
        """An outcome for every recipient left."""
        final = isinstance(outcome, Bounced | Sent)
        for target in list(self._open.values()):
            result = Result(target, outcome, relay)
            if final:
                self.results.append(result)
                del self._open[target.index]
            else:
                self._last[target.index] = result

    def close(self) -> None:
        """No host is left: what was deferred last stands."""
        for index, target in self._open.items():
            self.results.append(
                self._last.get(index) or Result(target, Deferred("no host could be tried", "4.4.4"))
            )
        self._open.clear()


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _version(address: str) -> int:
    return 6 if ":" in address else 4


def _families(conf: MainCf) -> list[int]:
    """IP versions in the order in which they are tried."""
    protocols = conf.list("inet_protocols")
    wanted = [v for v in (6, 4) if "all" in protocols or f"ipv{v}" in protocols]
    return wanted if conf.str("smtp_address_preference") == "ipv6" else sorted(wanted)


def _tls_level(conf: MainCf) -> TLSLevel:
    match conf.str("smtp_tls_security_level"):
        case "" | "none":
            return TLSLevel.NONE
        case "may":
            return TLSLevel.MAY
        case "encrypt":
            return TLSLevel.ENCRYPT
        case _:
            return TLSLevel.VERIFY


def _tls_context(conf: MainCf, level: TLSLevel) -> ssl.SSLContext | None:
    """Raises `ConfigError` when smtp_tls_CAfile cannot be read."""
    if level is TLSLevel.NONE:
        return None
    ca_file = conf.str("smtp_tls_CAfile")
    try:
        return client_context(verify=level is TLSLevel.VERIFY, ca_file=Path(ca_file) if ca_file else None)
    except OSError as error:
        raise conf.error("smtp_tls_CAfile", f"{ca_file}: {error.strerror or error}") from None
