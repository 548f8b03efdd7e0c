"""The queue manager's process: its socket, its clockwork, its signals.

Listens on `<queue_directory>/public/qmgr` (see `mta.trigger`), scans incoming/ every few seconds and
deferred/ every `queue_run_delay`. SIGHUP reads the configuration again (a bad one: one line in the log, and
the old one goes on); SIGTERM takes up nothing more, lets deliveries end for `DRAIN` seconds and exits 0. It
also ends when its parent is gone. Exit status `EX_CONFIG` for a configuration that cannot be used.

Only one queue manager works on a queue: the lock is `<queue_directory>/<process_id_directory>/qmgr.lock`.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path

from mailstack.config.errors import EX_CONFIG, ConfigError
from mailstack.config.postfix.main_cf import MainCf
from mailstack.mta import trigger
from mailstack.mta.maillog import redirect
from mailstack.mta.pickup import Pickup
from mailstack.mta.qmgr.manager import PAUSE, QueueManager
from mailstack.mta.qmgr.settings import Configuration, load
from mailstack.net import loop
from mailstack.net.clock import Clock, SystemClock
from mailstack.net.log import Log
from mailstack.net.tasks import TaskSet
from mailstack.storage.durable import GroupCommit
from mailstack.storage.queue import Queue
from mailstack.storage.tables import look_again

DRAIN = 8.0
"""Seconds that deliveries get to end after SIGTERM."""
INCOMING_SCAN = 5.0
"""Seconds between two looks into incoming/, for datagrams that were lost."""
ANSWER_RETRY = 0.01
"""Seconds until an answer is sent again that there was no room for."""
LOCK_WAIT = 12.0
"""Seconds that an earlier queue manager gets to end."""


def run_qmgr(config_dir: Path, log: Log) -> int:
    """Work until SIGTERM; return the exit status. Call it after the last fork.

    The caller may have blocked SIGHUP: what has come until then reloads the configuration at the start.
    """
    try:
        conf = MainCf.load(config_dir)
        queue = Queue(
            conf.str("queue_directory"),
            hash_depth=conf.int("hash_queue_depth"),
            long_ids=conf.bool("enable_long_queue_ids"),
        )
    except ConfigError as error:
        log.fatal(str(error))
        return EX_CONFIG
    lock_directory = f"{queue.directory}/{conf.str('process_id_directory')}"
    return loop.run(_serve(config_dir, queue, lock_directory, log), log)


async def _serve(config_dir: Path, queue: Queue, lock_directory: str, log: Log) -> int:
    lock = await _lock(lock_directory, log)
    if lock is None:
        return 1
    service = Service(config_dir, queue, SystemClock(), log)
    try:
        service.load()
    except ConfigError as error:
        log.fatal(str(error))
        return EX_CONFIG
    running = asyncio.get_running_loop()
    running.add_signal_handler(signal.SIGTERM, service.stopping.set)
    running.add_signal_handler(signal.SIGHUP, service.reload)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent's business
    try:
        await service.run()
    finally:
        os.close(lock)
    return 0


async def _lock(directory: str, log: Log) -> int | None:
    """Take the queue's lock, or None when another queue manager keeps it."""
    os.makedirs(directory, mode=0o700, exist_ok=True)
    fd = os.open(os.path.join(directory, "qmgr.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    for _ in range(int(LOCK_WAIT / 0.1)):
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return fd
        except BlockingIOError:
            await asyncio.sleep(0.1)
    log.fatal(f"another queue manager works on {os.path.dirname(directory)}")
    os.close(fd)
    return None


class Service:
    """A queue manager with everything around it; belongs to the running event loop."""

    def __init__(self, config_dir: Path, queue: Queue, clock: Clock, log: Log) -> None:
        self.stopping = asyncio.Event()
        self._config_dir = config_dir
        self._clock = clock
        self._log = log
        self._commit = GroupCommit()
        self._tasks = TaskSet(lambda name, error: log.exception(name, error))
        self._upkeep = TaskSet(lambda name, error: log.exception(name, error))
        self.manager = QueueManager(queue, self._commit, clock, log, self._tasks)
        self._queue = queue
        self._pickup = Pickup(queue, self._commit, clock, log, self._upkeep, self.manager.new_mail)

    def load(self) -> None:
        """Read the configuration. Raises `ConfigError`."""
        configuration = load(
            self._config_dir,
            self._queue,
            self._commit,
            self._clock,
            self._log,
            self.manager.forward,
            self.manager.new_mail,
        )
        before = self.manager.configure(configuration)
        name = configuration.conf.str("syslog_name")
        self._pickup.configure(configuration.pickup, configuration.bouncer.send, name)
        if before is not None:
            self._upkeep.start(_retire(before), "retire a configuration")

    def reload(self) -> None:
        """Read the configuration again; keep the old one when the new one is bad."""
        try:
            self.load()
            redirect(self._log, self.manager.configuration.conf)
        except ConfigError as error:
            self._log.error(f"reload: {error}; the old configuration goes on")
        else:
            self._log.info("refresh configuration")

    async def run(self) -> None:
        """Work until `stopping` is set or the parent is gone, then drain."""
        manager = self.manager
        sock = trigger.bind(os.path.join(self._queue.directory, "public"))
        running = asyncio.get_running_loop()
        running.add_reader(sock.fileno(), self._read, sock)
        try:
            manager.recover()
            self._upkeep.start(manager.run(), "queue scan")
            await self._clockwork()
        finally:
            running.remove_reader(sock.fileno())
            sock.close()
            manager.stop()
            cut = await self._tasks.drain(DRAIN)
            if cut:
                self._log.warning(f"{cut} deliveries have been broken off; they will be tried again")
            await manager.configuration.transports.close()
            await manager.configuration.resolver.close()
            await manager.close()
            await self._upkeep.drain(0.5)
            self._commit.close()

    async def _clockwork(self) -> None:
        parent = os.getppid()
        next_incoming = self._clock.monotonic() + INCOMING_SCAN
        next_deferred = self._clock.monotonic() + self.manager.configuration.limits.run_delay
        pause = PAUSE
        while not self.stopping.is_set() and os.getppid() == parent:
            try:
                async with asyncio.timeout(max(pause, 0.01)):
                    await self.stopping.wait()
            except TimeoutError:
                pass
            now = self._clock.monotonic()
            pause = self.manager.tick()
            self._pickup.tick()
            if now >= next_incoming:
                next_incoming = now + INCOMING_SCAN
                self.manager.scan_incoming()
            if now >= next_deferred:
                next_deferred = now + self.manager.configuration.limits.run_delay
                self.manager.scan_deferred()

    def _read(self, sock: socket.socket) -> None:
        """Take the datagrams that have come."""
        for _ in range(100):
            try:
                data, peer = sock.recvfrom(trigger.DATAGRAM)
            except BlockingIOError:
                return
            except OSError as error:
                self._log.warning(f"wake-up socket: {error}")
                return
            words = data.decode("ascii", "replace").split()
            if peer and words[:1] == ["verify"]:
                self._verify(words, partial(_answer, sock, peer))
            else:
                self._obey(words)

    def _verify(self, words: list[str], reply: Callable[[bytes], None]) -> None:
        """Answer a question of smtpd's."""
        if len(words) == 3:
            self.manager.verification().request(words[1], words[2], reply)

    def _obey(self, words: list[str]) -> None:
        match words:
            case [trigger.SCAN_INCOMING]:
                self.manager.scan_incoming()
            case [trigger.SCAN_MAILDROP]:
                self._pickup.wake()
            case [trigger.SCAN_DEFERRED]:
                self.manager.scan_deferred()
            case [trigger.FLUSH]:
                self.manager.scan_incoming()
                self.manager.scan_deferred(ignore_time=True)
            case ["flush", domain]:
                self.manager.scan_incoming()
                self.manager.scan_deferred(ignore_time=True, domain=domain)
            case ["deliver", queue_id]:
                self.manager.deliver_now(queue_id)
            case _:
                if words[:1] == [trigger.TABLES]:
                    look_again()
                for queue_id in words:
                    if queue_id[0] == "+" and queue_id[1:].isalnum() and len(queue_id) > 6:
                        self.manager.expect(queue_id[1:])
                    elif queue_id.isalnum() and len(queue_id) >= 6:
                        self.manager.new_mail(queue_id)


def _answer(sock: socket.socket, peer: str, data: bytes, tries: int = 100) -> None:
    """Answer a datagram; whoever is gone, or has no room for it for long, asks again."""
    try:
        sock.sendto(data, peer)
    except BlockingIOError:
        if tries:
            again = partial(_answer, sock, peer, data, tries - 1)
            asyncio.get_running_loop().call_later(ANSWER_RETRY, again)
    except OSError:
        pass


async def _retire(configuration: Configuration) -> None:
    """Let go of a configuration when the deliveries that it has begun are over."""
    while configuration.transports.busy:  # noqa: ASYNC110 - nothing hurries
        await asyncio.sleep(1)
    await configuration.transports.close()
    await configuration.resolver.close()
