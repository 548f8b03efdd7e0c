"""What main.cf says to the queue manager, and what is made of one configuration."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mailstack.config.errors import ConfigError
from mailstack.config.postfix import MainCf, enabled, read_master
from mailstack.config.postfix.master_cf import MasterService
from mailstack.mta.bounce.bouncer import Bouncer
from mailstack.mta.bounce.transcript import internal_filter
from mailstack.mta.cleanup import Cleanup
from mailstack.mta.deliver.local import ForwardMail, LocalRouter
from mailstack.mta.deliver.notices import notifier
from mailstack.mta.lines import Show, show_addresses
from mailstack.mta.lookup import opener
from mailstack.mta.pickup import Settings as Pickup
from mailstack.mta.qmgr.router import Router
from mailstack.mta.qmgr.transports import Transports
from mailstack.mta.rewrite import Rewriter
from mailstack.mta.site import load_resolver
from mailstack.mta.verify.routing import probing_rewriter
from mailstack.net.clock import Clock
from mailstack.net.log import Log
from mailstack.net.resolver import Resolver
from mailstack.storage.durable import GroupCommit
from mailstack.storage.queue import Queue
from mailstack.storage.tables import TableError


@dataclass(frozen=True, slots=True)
class Limits:
    """Numbers of main.cf; times in seconds."""

    active_messages: int
    active_recipients: int
    recipient_minimum: int
    clog_warning: float
    in_flow: int
    """New messages waiting from which on smtpd is asked to be slower."""
    run_delay: float
    minimal_backoff: float
    maximal_backoff: float
    lifetime: float
    bounce_lifetime: float
    warning_time: float
    """delay_warning_time; 0: no warnings."""
    soft_bounce: bool
    digits: int
    confirm_cleared: bool
    """confirm_delay_cleared: tell of the delivery of what had been late."""
    show: Show
    """How addresses stand in log lines."""
    defer_transports: frozenset[str]
    probes: int
    """Questions about addresses that are under way at once (address_verify_pending_request_limit)."""

    @classmethod
    def read(cls, conf: MainCf) -> Limits:
        """Raises `ConfigError`."""
        return cls(
            active_messages=conf.int("qmgr_message_active_limit"),
            active_recipients=conf.int("qmgr_message_recipient_limit"),
            recipient_minimum=conf.int("qmgr_message_recipient_minimum"),
            clog_warning=conf.time("qmgr_clog_warn_time"),
            in_flow=conf.int("default_process_limit"),
            run_delay=conf.time("queue_run_delay"),
            minimal_backoff=conf.time("minimal_backoff_time"),
            maximal_backoff=max(conf.time("maximal_backoff_time"), conf.time("minimal_backoff_time")),
            lifetime=conf.time("maximal_queue_lifetime"),
            bounce_lifetime=min(conf.time("bounce_queue_lifetime"), conf.time("maximal_queue_lifetime")),
            warning_time=conf.time("delay_warning_time"),
            soft_bounce=conf.bool("soft_bounce"),
            digits=conf.int("delay_logging_resolution_limit"),
            confirm_cleared=conf.bool("confirm_delay_cleared"),
            show=show_addresses(conf),
            defer_transports=frozenset(conf.list("defer_transports")),
            probes=conf.int("address_verify_pending_request_limit"),
        )

    def backoff(self, attempts: int) -> float:
        """Seconds until the next attempt after `attempts` that failed: doubled each time, within bounds."""
        return min(self.maximal_backoff, self.minimal_backoff * 2.0 ** min(attempts - 1, 30))


@dataclass(frozen=True, slots=True)
class Configuration:
    """One reading of main.cf, master.cf and the tables, ready to work with."""

    conf: MainCf
    limits: Limits
    transports: Transports
    router: Router
    bouncer: Bouncer
    cleanup: Cleanup
    rewriter: Rewriter
    resolver: Resolver
    pickup: Pickup | None
    """None where master.cf has no pickup line."""


def _local_conf(conf: MainCf, services: Sequence[MasterService]) -> MainCf:
    """main.cf as local's line of master.cf sees it. Raises `ConfigError`."""
    for service in services:
        if (service.name, service.type, service.command) == ("local", "unix", "local"):
            return conf.with_overrides(service.overrides, service.origin)
    return conf


def load(
    config_dir: Path,
    queue: Queue,
    commit: GroupCommit,
    clock: Clock,
    log: Log,
    forward: ForwardMail,
    wake: Callable[[str], None],
) -> Configuration:
    """Read a configuration. Raises `ConfigError`."""
    services = read_master(config_dir)
    conf = MainCf.load(config_dir, transports=[service.name for service in services])
    services = enabled(services, conf.list("master_service_disable"))
    resolver = load_resolver(config_dir)
    open_table = opener(log.warning)
    try:
        rewriter = Rewriter(conf, open_table)
        cleanup = Cleanup(conf, rewriter, open_table)
        local = LocalRouter(
            _local_conf(conf, services),
            rewriter,
            open_table,
            log.child(f"{conf.str('syslog_name')}/local"),
            clock=clock,
        )
        notify = notifier(conf, rewriter, cleanup, queue, commit, clock, log, wake, open_table, resolver)
        transports = Transports(
            conf, services, queue, commit, resolver, clock, log, open_table, rewriter, local, forward, notify
        )
        transports.check()
        pickup = Pickup.read(conf, services, cleanup, open_table, resolver)
        probing = probing_rewriter(conf, open_table)
        internal = internal_filter(conf, "bounce", cleanup, rewriter, open_table, resolver)
    except (TableError, OSError) as error:
        raise ConfigError(conf.path, 0, str(error)) from None
    bouncer = Bouncer(conf, queue, commit, rewriter, cleanup, clock, log, wake, internal)
    if conf.time("bounce_queue_lifetime") > conf.time("maximal_queue_lifetime"):
        log.warning(
            "bounce_queue_lifetime is larger than maximal_queue_lifetime - adjusting bounce_queue_lifetime"
        )
    router = Router(
        rewriter,
        transports,
        local,
        queue,
        conf.str("default_filter_nexthop"),
        probing,
        conf.str("double_bounce_sender"),
    )
    return Configuration(
        conf, Limits.read(conf), transports, router, bouncer, cleanup, rewriter, resolver, pickup
    )
