"""named(8)'s place: `python -m mailstack.dns --config DIR`, where DIR holds named.conf.

Serves until SIGTERM or SIGINT; SIGHUP reads configuration and zones again; SIGUSR1 adds what was asked and
answered to the statistics file, as `rndc stats` has named do. A configuration or zone file that cannot be
used is one line `fatal: FILE:LINE: …` and exit status 78 at start; on reload it is one line in the log, and
what was in service stays: the whole configuration when named.conf is wrong, the zone as it was last loaded
when a zone file is.

`faults.conf` beside named.conf, if it is there, makes answers wrong on purpose
(`mailstack.config.named.faults`).

Diagnostics go to standard error under the tag `named`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from mailstack.config.errors import EX_CONFIG, ConfigError
from mailstack.config.named import NamedConf, load
from mailstack.config.named import Zone as ZoneConf
from mailstack.config.named.channels import PLAIN
from mailstack.config.named.faults import Fault, load_faults
from mailstack.dns.emptyzones import empty_zones
from mailstack.dns.exchange import Exchange
from mailstack.dns.forward import Forwarder, raise_file_limit
from mailstack.dns.interfaces import locality, sockets_of, watch
from mailstack.dns.logs import NamedLog
from mailstack.dns.reading import Read, read, read_ahead
from mailstack.dns.responder import Responder
from mailstack.dns.server import DnsServer
from mailstack.dns.update import loaded
from mailstack.dns.zone import Zone
from mailstack.net import loop
from mailstack.net.log import Log

if TYPE_CHECKING:
    from mailstack.dns.ahead import Ahead
    from mailstack.dns.session import Session

USAGE = "usage: python -m mailstack.dns --config DIR"
RENEWAL = 3600.0
"""Seconds between looks at the age of signatures."""
GRACE = 5.0
"""Seconds that questions under way get when the server stops."""


class Named:
    """One running server: configuration, zones, sockets."""

    def __init__(self, path: Path, log: Log) -> None:
        self.path = path
        self.log = log
        self.zones: dict[str, Zone] = {}
        self.faults: tuple[Fault, ...] = ()
        self.conf: NamedConf
        self.server: DnsServer
        self.stopping = asyncio.Event()
        self._forwarder: Forwarder | None = None
        self._exchange: Exchange | None = None
        self._session: Session | None = None
        self._ahead: Ahead | None = None

    async def start(self) -> None:
        """Read everything, then listen. Raises `ConfigError` or `OSError`."""
        self.conf = self._with_session_key(load(self.path))
        self._log_as(self.conf)
        self._enter(self.conf, keep=False)
        responder = self._responder(self.conf, keep=False, ahead={})
        self.server = DnsServer(responder, self.log)
        await self._listen(self.conf, first=True)
        assert self._exchange is not None
        self._exchange.start({})
        self._sign_ahead()

    async def reload(self) -> None:
        """Read everything again; what cannot be used leaves the old in service."""
        self.log.info("received SIGHUP signal to reload zones")
        try:
            conf = self._with_session_key(load(self.path))
            self._log_as(conf)
        except ConfigError as error:
            self.log.error(f"reloading configuration failed: {error}")
            return
        self._enter(conf, keep=True)
        ahead = await read_ahead(conf)
        previous, exchange = self._forwarder, self._exchange
        before = dict(self.server.responder.in_service)
        self.server.replace(self._responder(conf, keep=True, ahead=ahead))
        self.conf = conf
        if exchange is not None:
            await exchange.close()
        await self._listen(conf, first=False)
        if self._exchange is not None:
            self._exchange.start(before)
        if previous is not None:
            await previous.close()
        self._sign_ahead()
        self.log.info("reloading configuration succeeded")

    def _with_session_key(self, conf: NamedConf) -> NamedConf:
        """With the key of `update-policy local`, where that is used. Raises `ConfigError`."""
        if conf.session_key is None:
            return conf
        if self._session is None:
            from mailstack.dns.session import Session

            self._session = Session()
        return self._session.with_key(conf)

    def _log_as(self, conf: NamedConf) -> None:
        """Log as a configuration says. Raises `ConfigError`."""
        if isinstance(self.log, NamedLog):
            self.log.configure(conf.logging)

    async def end(self) -> None:
        """Let what is under way end."""
        if self._ahead is not None:
            self._ahead.close()
        if self._exchange is not None:
            await self._exchange.close(stopping=True)
        await self.server.close(GRACE)

    def write_pid(self) -> None:
        """Write the process's number where `pid-file` says."""
        path = self.conf.options.pid_file
        if path:
            try:
                Path(path).write_text(f"{os.getpid()}\n")
            except OSError as error:
                self.log.warning(f"pid-file {path}: {error.strerror}")

    def remove_pid(self) -> None:
        """The process ends."""
        if self.conf.options.pid_file:
            with contextlib.suppress(OSError):
                os.unlink(self.conf.options.pid_file)

    def dump_statistics(self, now: float) -> None:
        """Add what was asked and answered to the statistics file."""
        if not hasattr(self, "server"):
            return
        path = self.conf.options.statistics_file
        apart = [zone.name or "." for zone in self.conf.zones if zone.statistics]
        text = self.server.responder.count().dump(apart, now)
        try:
            with open(path, "a") as file:
                file.write(text)
        except OSError as error:
            self.log.error(f"dumpstats failed: {path}: {error.strerror}")
        else:
            self.log.info("dumpstats complete")

    async def rescan(self) -> None:
        """The machine's addresses have changed: listen where the configuration now says."""
        await self._listen(self.conf, first=False)

    def _enter(self, conf: NamedConf, *, keep: bool) -> None:
        """Go where named would be: relative $INCLUDEs are relative to `directory`."""
        try:
            os.chdir(conf.options.directory)
        except OSError as error:
            failure = ConfigError(conf.path, 0, f"directory '{conf.options.directory}': {error.strerror}")
            if not keep:
                raise failure from error
            self.log.error(str(failure))

    def _responder(self, conf: NamedConf, *, keep: bool, ahead: Mapping[str, Read]) -> Responder:
        """Load the zones of `conf` that were not read `ahead`. With `keep`, one that fails stays."""
        # Said only when everything is loaded: a configuration that is wrong is one line.
        warnings, notes = list(conf.warnings), []
        zones: dict[str, Zone] = {}
        zoneload = self.log.category("zoneload")
        for zone_conf in conf.zones:
            if zone_conf.kind != "primary":
                continue
            shown = zone_conf.name or "."
            try:
                found = ahead.get(zone_conf.name)
                if isinstance(found, ConfigError):
                    raise found
                zone, odd = found or read(zone_conf)
                zone = loaded(zone, zone_conf, self.zones.get(zone_conf.name), self.log)
                if zone_conf.dnssec is not None:
                    _sign(zone, zone_conf, time.time())
            except ConfigError as error:
                if not keep:
                    raise
                zoneload.error(f"zone {shown}/IN: loading failed: {error}")
                if zone_conf.name in self.zones:
                    zones[zone_conf.name] = self.zones[zone_conf.name]
                    zoneload.warning(f"zone {shown}/IN: the zone as last loaded stays in service")
                continue
            warnings += [f"zone {shown}/IN: {text}" for text in odd]
            notes.append(f"zone {shown}/IN: loaded serial {zone.serial}")
            zones[zone_conf.name] = zone
        self.zones = zones
        self._exchange = Exchange(conf, self.log, lambda: self.server.bound, self._exchange)
        served = [*zones.values(), *self._exchange.zones()]
        options = conf.options
        forwarding_only = options.forward_only and bool(options.forwarders)
        if options.recursion and options.empty_zones and not forwarding_only:
            served += empty_zones(
                (zone.name for zone in conf.zones),
                options.disabled_empty_zones,
                options.empty_server,
                options.empty_contact,
            )
        if options.recursion and not options.forwarders and not any(z.forwarders for z in conf.zones):
            notes.append("no forwarders: names outside the zones are refused")
        for text in warnings:
            self.log.warning(text)
        for text in notes:
            zoneload.info(text)
        if options.forwarders or any(zone.forwarders for zone in conf.zones):
            raise_file_limit(options.resolving)
        self._forwarder = Forwarder(options.resolving, conf.peers, conf.keys, options.edns_udp_size)
        faults = self._faults(keep=keep)
        responder = Responder(conf, served, locality(), self._forwarder, self.log, faults, _sign)
        responder.changed = self._changed
        self._exchange.attach(responder)
        return responder

    def _changed(self, name: str, zone: Zone) -> None:
        """An update, or new signatures."""
        self.zones[name] = zone
        if self._ahead is not None:
            self._ahead.changed(name, zone)
        if self._exchange is not None:
            self._exchange.announce(name, zone)

    def _sign_ahead(self) -> None:
        """Other zones are in service: have the large ones signed that the server signs."""
        if self._ahead is None and any(zone.signer is not None for zone in self.zones.values()):
            from mailstack.dns.ahead import Ahead

            self._ahead = Ahead(self.log)
        if self._ahead is not None:
            self._ahead.start(self.zones)

    def _faults(self, *, keep: bool) -> tuple[Fault, ...]:
        """What is to be wrong on purpose. With `keep`, a file that cannot be used leaves the old in force."""
        path = self.path.with_name("faults.conf")
        try:
            self.faults = load_faults(path)
        except ConfigError as error:
            if not keep:
                raise
            self.log.error(f"reloading the faults failed: {error}")
        if self.faults:
            self.log.warning(f"{path}: WRONG ON PURPOSE: {len(self.faults)} fault(s) in force")
        return self.faults

    async def renew(self) -> None:
        """Sign the zones whose signatures come near their end anew, once an hour."""
        while True:
            await asyncio.sleep(RENEWAL)
            self.renew_due(time.time())

    def renew_due(self, now: float) -> None:
        """The same, once. A zone that cannot be signed keeps its signatures, and is tried again."""
        renewed = False
        for conf in self.conf.zones:
            zone = self.zones.get(conf.name)
            if zone is None or zone.signer is None or now < zone.signer.renewal:
                continue
            shown = conf.name or "."
            try:
                _sign(zone, conf, now)
            except ConfigError as error:
                self.log.category("dnssec").error(f"zone {shown}/IN: signing failed: {error}")
            else:
                renewed = True
                self.log.category("dnssec").info(f"zone {shown}/IN: signed anew, serial {zone.serial}")
                self._changed(conf.name, zone)
        if renewed:
            self.server.responder.forget_prepared()

    async def _listen(self, conf: NamedConf, *, first: bool) -> None:
        wanted = {
            (host, port): listener for host, port, listener in sockets_of(conf.options.listen_on, locality())
        }
        for address in self.server.bound:
            if address not in wanted:
                self.server.forget(address)
                self.log.category("network").info(f"no longer listening on {address[0]}#{address[1]}")
        for address, listener in wanted.items():
            if address in self.server.bound:
                continue
            try:
                host, port = await self.server.listen(*address)
            except OSError as error:
                if first and listener.line:
                    raise ConfigError(listener.path, listener.line, str(error.strerror)) from error
                self.log.category("network").error(
                    f"could not listen on {address[0]}#{address[1]}: {error.strerror}"
                )
            else:
                self.log.category("network").info(f"listening on {host}#{port}")
        if first and not self.server.bound:
            raise ConfigError(conf.path, 0, "not listening on any address")


def _sign(zone: Zone, conf: ZoneConf, now: float) -> None:
    # Most servers sign nothing, and cryptography is large.
    try:
        from mailstack.dns.signing import sign
    except ModuleNotFoundError as error:
        text = f"zone '{conf.name}': dnssec-policy needs the {error.name} package, which is not installed"
        raise ConfigError(conf.path, conf.line, text) from error

    sign(zone, conf, now)


async def serve(directory: Path, log: Log) -> int:
    """Run until a signal; returns the exit status."""
    named = Named(directory / "named.conf", log)
    running = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        running.add_signal_handler(number, named.stopping.set)
    reload_wanted = asyncio.Event()
    running.add_signal_handler(signal.SIGHUP, reload_wanted.set)
    running.add_signal_handler(signal.SIGUSR1, lambda: named.dump_statistics(time.time()))
    try:
        await named.start()
    except ConfigError as error:
        if isinstance(log, NamedLog):
            log.configure(PLAIN)
        log.fatal(str(error))
        return EX_CONFIG
    named.write_pid()
    log.notice("running")
    rescan_wanted = asyncio.Event()
    unwatch = watch(rescan_wanted.set)
    background = (
        named.server.tasks.start(_when(reload_wanted, named.reload, log), "reload"),
        named.server.tasks.start(_when(rescan_wanted, named.rescan, log), "interface scan"),
        named.server.tasks.start(named.renew(), "signatures"),
    )
    await named.stopping.wait()
    log.info("shutting down")
    unwatch()
    for task in background:
        task.cancel()
    await named.end()
    named.remove_pid()
    log.notice("exiting")
    return 0


async def _when(wanted: asyncio.Event, action: Callable[[], Awaitable[None]], log: Log) -> None:
    """Run `action` each time that `wanted` is set; a fault is logged, and what was in service goes on."""
    while True:
        await wanted.wait()
        wanted.clear()
        try:
            await action()
        except Exception as fault:
            log.exception("reloading failed", fault)


def main(arguments: list[str]) -> int:
    """The command. Exit status 0, 2 (usage) or 78 (configuration)."""
    match arguments:
        case ["--config", directory]:
            pass
        case ["-h" | "--help"]:
            os.write(1, (USAGE + "\n").encode())
            return 0
        case _:
            os.write(2, (USAGE + "\n").encode())
            return 2
    log = NamedLog("named", socket.gethostname().partition(".")[0])
    return loop.run(serve(Path(directory).absolute(), log), log)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
