"""Delivery transports from master.cf: which agent serves which line, with which limits."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence

from mailstack.config.errors import ConfigError
from mailstack.config.postfix.main_cf import MainCf
from mailstack.config.postfix.master_cf import MasterService
from mailstack.mta.deliver.error import ErrorAgent, Unavailable
from mailstack.mta.deliver.lmtp import LMTPAgent
from mailstack.mta.deliver.local import ForwardMail, LocalAgent, LocalRouter
from mailstack.mta.deliver.notices import Notify
from mailstack.mta.deliver.request import Agent
from mailstack.mta.deliver.smtp import SMTPAgent
from mailstack.mta.deliver.status_filter import filtered
from mailstack.mta.deliver.virtual import VirtualAgent
from mailstack.mta.qmgr.concurrency import Feedback, Policy
from mailstack.mta.qmgr.scheduler import Run, Transport
from mailstack.mta.rewrite import Rewriter
from mailstack.net.clock import Clock
from mailstack.net.log import Log
from mailstack.net.resolver import Resolver
from mailstack.net.tasks import TaskSet
from mailstack.storage.durable import GroupCommit
from mailstack.storage.queue import Queue
from mailstack.storage.tables import Table


class Transports:
    """The transports of one configuration, made when mail first needs them."""

    def __init__(
        self,
        conf: MainCf,
        services: Sequence[MasterService],
        queue: Queue,
        commit: GroupCommit,
        resolver: Resolver,
        clock: Clock,
        log: Log,
        open_table: Callable[[str], Table],
        rewriter: Rewriter,
        local_router: LocalRouter,
        forward: ForwardMail,
        notify: Notify | None = None,
    ) -> None:
        self._conf = conf
        self._services = {service.name: service for service in services if service.type == "unix"}
        self._queue = queue
        self._commit = commit
        self._resolver = resolver
        self._clock = clock
        self._log = log
        self._open_table = open_table
        self._rewriter = rewriter
        self._local_router = local_router
        self._forward = forward
        self._notify = notify
        self._own = own_addresses(conf, services)
        self._made: dict[str, Transport] = {}

    def command(self, name: str) -> str:
        """The daemon that serves a transport, "" for an unknown one."""
        service = self._services.get(name)
        return service.command if service is not None else ""

    def get(self, name: str) -> Transport:
        """The transport called `name`. Raises `ConfigError` when its parameters cannot be used."""
        made = self._made.get(name)
        if made is None:
            made = self._made[name] = self._make(name)
        return made

    def check(self) -> None:
        """Make every transport that mail may need. Raises `ConfigError`."""
        for name, service in self._services.items():
            if service.command in ("lmtp", "smtp", "virtual", "local", "error", "discard"):
                self.get(name)

    @property
    def busy(self) -> bool:
        return any(transport.busy for transport in self._made.values())

    def tick(self, tasks: TaskSet, run: Run) -> float:
        """Go on with destinations whose pause is over; seconds until the next one's."""
        return min((transport.tick(tasks, run) for transport in self._made.values()), default=float("inf"))

    def revive(self) -> None:
        """Forget which destinations are dead."""
        for transport in self._made.values():
            transport.revive()

    async def close(self) -> None:
        for transport in self._made.values():
            await transport.agent.close()

    def _make(self, name: str) -> Transport:
        service = self._services.get(name)
        conf = self._conf
        if service is not None:
            conf = conf.with_overrides(service.overrides, service.origin)
        agent = self._agent(name, service, conf)
        daemon = "error" if agent.daemon == "retry" else agent.daemon  # one program, two names
        log = self._log.child(f"{conf.str('syslog_name')}/{daemon}")
        agent = filtered(agent, conf, self._open_table, log)
        if isinstance(agent, Unavailable):
            log.warning(f"transport {name}: not in master.cf, or served by a daemon that we do not have")
        limit = service.maxproc if service is not None else None
        return Transport(
            name,
            agent,
            log,
            self._clock,
            policy=_policy(conf, name, log),
            recipients=_limit(conf, name, "default_destination_recipient_limit"),
            single=name not in ("error", "retry"),
            delimiters=conf.str("recipient_delimiter"),
            process_limit=conf.int("default_process_limit") if limit is None else limit,
        )

    def _agent(self, name: str, service: MasterService | None, conf: MainCf) -> Agent:
        match service.command if service is not None else "":
            case "lmtp":
                log = self._log.child(f"{conf.str('syslog_name')}/lmtp")
                return LMTPAgent(
                    conf,
                    self._queue,
                    self._resolver,
                    self._clock,
                    log,
                    open_table=self._open_table,
                    rewriter=self._rewriter,
                    notify=self._notify,
                )
            case "smtp":
                log = self._log.child(f"{conf.str('syslog_name')}/smtp")
                return SMTPAgent(
                    conf,
                    self._queue,
                    self._resolver,
                    self._clock,
                    log,
                    is_own_address=self._own.__contains__,
                    open_table=self._open_table,
                    rewriter=self._rewriter,
                    other=lambda name: self.get(name).agent,
                    notify=self._notify,
                )
            case "virtual":
                log = self._log.child(f"{conf.str('syslog_name')}/virtual")
                return VirtualAgent(conf, self._queue, self._commit, self._open_table, self._clock, log)
            case "local":
                return self._local(conf)
            case "pipe":
                return self._pipe(service, conf)
            case "error" if name == "retry":
                return ErrorAgent("retry")
            case "error" | "discard" as daemon:
                return ErrorAgent(daemon)
            case _ if name in ("error", "retry", "discard"):
                # The resolver itself answers by these, with or without a line in master.cf.
                return ErrorAgent(name)
            case _:
                return Unavailable()

    def _local(self, conf: MainCf) -> Agent:
        log = self._log.child(f"{conf.str('syslog_name')}/local")
        return LocalAgent(
            conf,
            self._local_router,
            self._forward,
            self._queue,
            self._commit,
            self._open_table,
            self._clock,
            log,
            lambda name: self.get(name).agent,
        )

    def _pipe(self, service: MasterService | None, conf: MainCf) -> Agent:
        """A pipe; one that its line does not describe is unavailable, and the rest of the MTA is not."""
        from mailstack.mta.deliver.pipe import PipeAgent  # many have none

        assert service is not None
        log = self._log.child(f"{conf.str('syslog_name')}/pipe")
        try:
            return PipeAgent(service, conf, self._queue, self._clock)
        except ConfigError as error:
            log.fatal(str(error))
            return Unavailable()


def _name(conf: MainCf, transport: str, default: str) -> str:
    """TRANSPORT_…, where master.cf has that transport, or the parameter that holds for all."""
    name = f"{transport}_{default.removeprefix('default_')}"
    return name if conf.knows(name) else default


def _limit(conf: MainCf, transport: str, default: str) -> int:
    return conf.int(_name(conf, transport, default))


def _policy(conf: MainCf, transport: str, log: Log) -> Policy:
    """The limits of a transport for one destination."""
    delay = conf.time(_name(conf, transport, "default_destination_rate_delay"))
    return Policy(
        initial=_limit(conf, transport, "initial_destination_concurrency"),
        limit=1 if delay else _limit(conf, transport, "default_destination_concurrency_limit"),
        positive=_feedback(conf, transport, "default_destination_concurrency_positive_feedback", log),
        negative=_feedback(conf, transport, "default_destination_concurrency_negative_feedback", log),
        cohorts=_limit(conf, transport, "default_destination_concurrency_failed_cohort_limit"),
        rate_delay=delay,
        transport_delay=conf.time(_name(conf, transport, "default_transport_rate_delay")),
        dead_time=conf.time("minimal_backoff_time"),
    )


def _feedback(conf: MainCf, transport: str, default: str, log: Log) -> Feedback:
    name = _name(conf, transport, default)
    found = Feedback.parse(conf.str(name))
    if found is None:
        log.warning(f"{name}: ignoring malformed or unreasonable feedback: {conf.str(name)}")
        return Feedback(1.0)
    return found


def own_addresses(conf: MainCf, services: Sequence[MasterService]) -> frozenset[str]:
    """Addresses at which we listen: where mail for ourselves would come back (RFC 5321 §5.1).

    inet_interfaces and proxy_interfaces name them, and so do the inet lines of master.cf; `all` and
    `loopback-only` stand for the loopback addresses and those that this host's name has.
    """
    found = {word.strip("[]") for word in conf.list("proxy_interfaces")}
    interfaces = conf.list("inet_interfaces")
    hosts = [service.endpoint()[0] for service in services if service.type == "inet"]
    found.update(host for host in hosts if host)
    if not all(hosts) or not hosts:
        found.update(word.strip("[]") for word in interfaces if word not in ("all", "loopback-only"))
        if "all" in interfaces or "loopback-only" in interfaces:
            found.update(("127.0.0.1", "::1"))
        if "all" in interfaces:
            found.update(_host_addresses())
    return frozenset(found)


def _host_addresses() -> set[str]:
    try:
        infos = socket.getaddrinfo(socket.gethostname(), None, flags=socket.AI_NUMERICHOST)
    except OSError:
        infos = []
    addresses = {str(info[4][0]) for info in infos}
    # The address that packets to the world would come from; nothing is sent.
    for family, probe in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as sock:
                sock.connect((probe, 9))
                addresses.add(str(sock.getsockname()[0]))
        except OSError:
            continue
    return addresses
