"""NAME: mailbox - IMAP, POP3, LMTP and authentication, from a dovecot.conf

SYNOPSIS: python -m mailstack.mailbox --config DIR

DIR holds `dovecot.conf` (see `mailstack.config.dovecot`) and perhaps `mailstack.toml`.

SIGNALS: TERM and INT: accept no more, let what is under way end, at most 10 seconds. HUP: read the
configuration again; sockets that are no longer named are closed, new ones opened; a configuration that cannot
be used is logged and the old one goes on.

DIAGNOSTICS: one line `fatal: FILE:LINE: …` and exit status 78 for a configuration that cannot be used; exit
status 1 when a socket cannot be opened. Log lines go to standard error in Dovecot's words under the tag
`dovecot`. A setting that has no effect here is named in one warning at start.
"""

from __future__ import annotations

import asyncio
import gc
import signal
import socket
import ssl
import sys
from pathlib import Path

from mailstack.config.dovecot import DovecotConfig, load
from mailstack.config.errors import EX_CONFIG, ConfigError
from mailstack.mailbox.handlers import handlers
from mailstack.mailbox.listeners import Listeners
from mailstack.mailbox.service import MailboxService, tls_context
from mailstack.net.clock import SystemClock
from mailstack.net.log import Log
from mailstack.net.loop import run
from mailstack.net.tasks import TaskSet
from mailstack.storage.durable import GroupCommit

DRAIN_SECONDS = 8.0
USAGE = "usage: python -m mailstack.mailbox --config DIR"


class Process:
    """The service while it runs."""

    def __init__(self, directory: Path, config: DovecotConfig, tls: ssl.SSLContext | None, log: Log) -> None:
        self._directory = directory
        self._log = log
        self._tasks = TaskSet(log.exception)
        self._auth_tasks = TaskSet(log.exception)
        self._service = MailboxService(config, tls, GroupCommit(), SystemClock(), log)
        self._listeners = Listeners(
            handlers(self._service),
            self._tasks,
            self._auth_tasks,
            log,
        )
        self._stop = asyncio.Event()
        self._changing = asyncio.Lock()

    async def run(self) -> int:
        """Serve until a signal says to stop; the exit status."""
        service = self._service
        # Before the sockets are open: whoever sees them may send a signal.
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._hangup)
        try:
            async with self._changing:
                await self._listeners.apply(service.config, service.tls)
        except (OSError, LookupError) as error:
            self._log.fatal(_text(error))
            self._listeners.stop()
            return 1
        self._warn(service.config)
        protocols = " ".join(sorted(service.config.protocols)) or "none"
        self._log.info(f"master: mailstack starting up for {protocols}")
        gc.collect()
        gc.freeze()
        await self._stop.wait()
        await self._drain()
        return 0

    def _hangup(self) -> None:
        self._auth_tasks.start(self._reload(), "reload")

    async def _reload(self) -> None:
        """Read the configuration again; keep the old one when it cannot be used."""
        try:
            async with self._changing:
                config = load(self._directory)
                tls = _context(config)
                await self._listeners.apply(config, tls)
        except (ConfigError, OSError, LookupError) as error:
            self._log.error(f"master: reload failed, the old configuration goes on: {_text(error)}")
            return
        self._service.configure(config, tls)
        self._warn(config)
        self._log.info("master: SIGHUP received - reloading configuration")

    async def _drain(self) -> None:
        self._log.info("master: SIGTERM received - shutting down")
        self._listeners.stop()
        self._service.stop()
        await self._tasks.drain(DRAIN_SECONDS)
        await self._auth_tasks.drain(0)
        self._service.close()

    def _warn(self, config: DovecotConfig) -> None:
        for text in config.warnings:
            self._log.warning(text)


def _text(error: Exception) -> str:
    """What an error says, without the number of an `OSError`."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _context(config: DovecotConfig) -> ssl.SSLContext | None:
    """The TLS context; what is wrong with the files is an error of the configuration."""
    try:
        return tls_context(config)
    except (OSError, ssl.SSLError) as error:
        path = config.ssl_cert or config.path
        raise ConfigError(path, 0, f"ssl_cert, ssl_key: {error}") from None


def _directory(arguments: list[str]) -> Path | None:
    """DIR of the command line; None when the usage is wrong."""
    if len(arguments) == 2 and arguments[0] == "--config":
        return Path(arguments[1]).absolute()
    if len(arguments) == 1 and arguments[0].startswith("--config="):
        return Path(arguments[0].removeprefix("--config=")).absolute()
    return None


async def _serve(directory: Path, config: DovecotConfig, tls: ssl.SSLContext | None, log: Log) -> int:
    return await Process(directory, config, tls, log).run()


def main() -> None:
    """The command."""
    arguments = sys.argv[1:]
    if arguments in (["--help"], ["-h"]):
        sys.stdout.write(USAGE + "\n")
        sys.exit(0)
    directory = _directory(arguments)
    if directory is None:
        sys.stderr.write(USAGE + "\n")
        sys.exit(2)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # the configuration is about to be read anyway
    log = Log("dovecot", socket.gethostname().partition(".")[0] or "localhost")
    try:
        config = load(directory)
        tls = _context(config)
    except ConfigError as error:
        log.fatal(str(error))
        sys.exit(EX_CONFIG)
    sys.exit(run(_serve(directory, config, tls, log), log))
