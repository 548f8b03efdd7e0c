"""Load a configuration as the daemons will, to see whether they could work with it."""

from __future__ import annotations

from pathlib import Path

from mailstack.config.postfix import MainCf, enabled, read_master
from mailstack.mta.lookup import opener
from mailstack.mta.qmgr import settings as qmgr_settings
from mailstack.mta.site import load_resolver
from mailstack.mta.smtpd.settings import load_settings
from mailstack.net.clock import SystemClock
from mailstack.net.log import Log
from mailstack.storage.durable import GroupCommit
from mailstack.storage.queue import Queue


def check(config_dir: Path, log: Log) -> None:
    """Compile every smtpd line's settings and the queue manager's. Raises `ConfigError`."""
    services = read_master(config_dir)
    conf = MainCf.load(config_dir, transports=[service.name for service in services])
    services = enabled(services, conf.list("master_service_disable"))
    resolver = load_resolver(config_dir)
    quiet = Log(log.tag, log.host, fd=-1)  # the daemons themselves will warn
    for service in services:
        if service.type == "inet" and service.command == "smtpd":
            load_settings(
                service.name,
                conf.with_overrides(service.overrides, service.origin),
                config_dir,
                resolver=resolver,
                open_table=opener(quiet.warning),
                log=quiet,
            )

    async def forward(*_: object) -> str:
        raise AssertionError("nothing is forwarded here")

    queue = Queue(conf.str("queue_directory"))
    qmgr_settings.load(config_dir, queue, GroupCommit(), SystemClock(), quiet, forward, lambda queue_id: None)
