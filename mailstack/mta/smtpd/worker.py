"""The smtpd process: one worker serves every smtpd line of master.cf (25, 587, 465…), each with its own `-o`.

`master` binds the sockets and forks; the worker loads main.cf, accepts on the sockets it was given and ends
on SIGTERM: it accepts no more, idle clients get 421 at once, the others when their message is in, all within
`DRAIN` seconds. On SIGUSR1 (after a reload `master` has new workers) it accepts no more and ends when its
last session has. It also ends when its parent is gone.

Exit status: 0; `EX_CONFIG` for a configuration that cannot be used (one `fatal:` line says where).
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Callable, Sequence, Set
from pathlib import Path

from mailstack.config.errors import EX_CONFIG, ConfigError
from mailstack.config.postfix.main_cf import MainCf
from mailstack.config.postfix.master_cf import MasterService
from mailstack.mta.bounce.transcript import Notices
from mailstack.mta.cleanup import AliasExpansionError, MapError
from mailstack.mta.lookup import opener, settled
from mailstack.mta.site import load_resolver
from mailstack.mta.smtpd.anvil import SHARED, Anvil
from mailstack.mta.smtpd.capacity import Capacity, Load
from mailstack.mta.smtpd.gone import farewell
from mailstack.mta.smtpd.life import Life
from mailstack.mta.smtpd.peer import ClientNames, look_up_names
from mailstack.mta.smtpd.session import Session
from mailstack.mta.smtpd.settings import Settings, load_settings
from mailstack.mta.trigger import Trigger, send_now
from mailstack.net import loop
from mailstack.net.clock import Clock, SystemClock
from mailstack.net.listen import Server
from mailstack.net.log import Log
from mailstack.net.resolver import Resolver
from mailstack.net.stream import Stream
from mailstack.net.tasks import TaskSet, Turns
from mailstack.storage.durable import GroupCommit
from mailstack.storage.queue import Queue
from mailstack.storage.tables import TableError
from mailstack.wire.smtp.reply import Reply

DRAIN = 8.0
"""Seconds that transactions get to finish after SIGTERM."""
PARENT_CHECK = 2.0
LIFE_CHECK = 0.5
"""Seconds between two looks whether a worker has served enough or has been idle for too long."""
NAMES = 2000
NAME_LIFE = 5.0
"""Clients' names remembered at once, and for how many seconds: a burst from one client asks once."""
BACKLOG = 512
"""Connections that may wait to be accepted: few enough for the last of them to have its turn soon. Where more
come, TCP makes them come again, which is hardest on those that come fastest."""
HURRY = 1.0
"""Seconds between two times that all sessions are told to hurry."""
COMPLAIN = 10.0
"""Seconds between two warnings that there is no room for more sessions."""
ROOM_CHECK = 1.0
"""Seconds for which a look at the free space counts."""

Service = tuple[MasterService, socket.socket]


class Shared:
    """What the sessions of one worker have in common."""

    def __init__(
        self,
        queue: Queue,
        commit: GroupCommit,
        resolver: Resolver,
        log: Log,
        clock: Clock | None = None,
        *,
        anvil: Anvil | None = None,
        capacity: Capacity | None = None,
    ) -> None:
        self.queue = queue
        self.commit = commit
        self.resolver = resolver
        self.log = log
        self.cleanup_log = log.child("postfix/cleanup")
        self.clock = clock or SystemClock()
        self.sessions: set[Session] = set()
        self.turns = Turns()
        self.life = Life()
        self.anvil = anvil or Anvil()
        self.capacity = capacity or Capacity()
        self._names: dict[str, tuple[float, ClientNames]] = {}
        self._logs: dict[str, Log] = {}
        self._complained = -COMPLAIN
        self._hurried = -HURRY
        self._room: tuple[float, int] = (-ROOM_CHECK, 0)
        self._trigger = Trigger(queue.directory, log)

    def log_for(self, settings: Settings) -> Log:
        """The log under the service's own `syslog_name`."""
        tag = settings.conf.str("syslog_name") + "/smtpd"
        if tag not in self._logs:
            self._logs[tag] = self.log.child(tag)
        return self._logs[tag]

    async def client_names(self, address: str, timeout: float) -> ClientNames:
        """What the DNS calls an address, as far as it says so within `timeout` seconds."""
        now = self.clock.monotonic()
        known = self._names.get(address)
        if known is not None and now < known[0]:
            return known[1]
        names = await look_up_names(self.resolver, address, timeout)
        if not names.failed_for_now:
            if len(self._names) >= NAMES:
                self._names.clear()
            self._names[address] = (now + NAME_LIFE, names)
        return names

    def hurry(self) -> None:
        """There is hardly room for another session: all that there are get the limits of stress."""
        now = self.clock.monotonic()
        if now - self._hurried >= HURRY:
            self._hurried = now
            for session in self.sessions:
                session.hurry()

    def refuse(self, stream: Stream, settings: Settings) -> None:
        """Turn a client away: there is no room for another session."""
        now = self.clock.monotonic()
        if now - self._complained >= COMPLAIN:
            self._complained = now
            self.log_for(settings).warning(
                f"too many sessions ({len(self.sessions)}): turning clients away, such as [{stream.peer[0]}]"
            )
        stream.write(Reply(421, "4.3.2", f"{settings.host} Service unavailable - try again later").encode())

    def is_own(self, address: str, local: str) -> bool:
        """Whether a client's address is one of this machine's own."""
        return address in ("127.0.0.1", "::1", local)

    def has_room(self, settings: Settings) -> bool:
        """Whether the queue's file system has space for one more message, as Postfix reckons."""
        now = self.clock.monotonic()
        if now - self._room[0] >= ROOM_CHECK:
            stat = os.statvfs(self.queue.directory)
            self._room = (now, stat.f_bavail * stat.f_frsize)
        free = self._room[1]
        return free >= settings.minimum_free and free >= settings.message_limit * 3 // 2

    def wake_qmgr(self, queue_id: str) -> None:
        """Tell qmgr of a message that is durable in incoming/."""
        self._trigger.new_mail(queue_id)

    def expect(self, queue_id: str) -> None:
        """Let qmgr prepare the delivery of a message that is being flushed in incoming/."""
        self._trigger.expect(queue_id)

    def flush(self, domain: str) -> bool:
        """Ask qmgr to try a domain's deferred mail now (ETRN); False when there is no qmgr."""
        try:
            send_now(self.queue.directory, f"flush {domain}")
        except OSError:
            return False
        return True

    async def notify(
        self, notices: Notices, errors: Set[str], peer: str, history: Sequence[bytes], reason: str
    ) -> None:
        """Send the postmaster the transcript of a session with such errors. Problems are logged."""
        now = self.clock.time()
        queue_id = self.queue.new_id(now)
        try:
            envelope = await settled(lambda: notices.envelope(errors, queue_id, now))
            message_id, content = notices.compose(peer, history, reason, queue_id, now)
            where = await notices.enqueue(envelope, content, self.queue, self.commit, self.cleanup_log)
        except (OSError, AliasExpansionError, MapError, TableError) as error:
            self.log.warning(f"postmaster notify: {error}")
            return
        if where:
            self.cleanup_log.info(f"{queue_id}: message-id={message_id}")
        if where == "incoming":
            self.wake_qmgr(queue_id)

    def close(self) -> None:
        self._trigger.close()
        self.commit.close()


def run_worker(config_dir: Path, services: Sequence[Service], log: Log, life: Life | None = None) -> int:
    """Serve `services` until SIGTERM, or the end of `life`; return the exit status.

    Call it after the last fork.
    """
    try:
        conf = MainCf.load(config_dir)
        resolver = load_resolver(config_dir)
        settings = [
            (
                load_settings(
                    service.name,
                    conf.with_overrides(service.overrides, service.origin),
                    config_dir,
                    resolver=resolver,
                    open_table=opener(log.warning),
                    log=log,
                ),
                sock,
            )
            for service, sock in services
        ]
    except ConfigError as error:
        log.fatal(str(error))
        return EX_CONFIG
    queue = Queue(
        conf.str("queue_directory"),
        hash_depth=conf.int("hash_queue_depth"),
        long_ids=conf.bool("enable_long_queue_ids"),
    )
    return loop.run(_serve(settings, queue, resolver, log, life or Life()), log)


async def _serve(
    settings: Sequence[tuple[Settings, socket.socket]],
    queue: Queue,
    resolver: Resolver,
    log: Log,
    life: Life,
) -> int:
    shared = Shared(queue, GroupCommit(), resolver, log, anvil=Anvil(SHARED), capacity=Capacity.of_process())
    shared.anvil.join()
    tasks = TaskSet(lambda name, error: log.exception(name, error))
    servers = [make_server(sock, one, shared, tasks) for one, sock in settings]
    stop = asyncio.Event()
    running = asyncio.get_running_loop()
    running.add_signal_handler(signal.SIGTERM, stop.set)
    retired = asyncio.Event()

    def retire() -> None:
        retired.set()
        for server in servers:
            server.stop()

    running.add_signal_handler(signal.SIGUSR1, retire)
    upkeep = TaskSet(lambda name, error: log.exception(name, error))
    if life.limited:
        shared.life = life
        upkeep.start(_end_of_life(shared, life, retire), "end of life")
    for ignored in (signal.SIGHUP, signal.SIGINT):
        signal.signal(ignored, signal.SIG_IGN)  # the parent's business
    try:
        for server in servers:
            await server.start()
        await _until(stop, retired, tasks)
        for server in servers:
            server.stop()
        for session in list(shared.sessions):
            session.stop()
        await tasks.drain(DRAIN)
    finally:
        await upkeep.drain(0)
        for authenticator in {one.authenticator for one, _ in settings if one.authenticator is not None}:
            await authenticator.close()
        for one, _ in settings:
            one.compiler.close()
        await resolver.close()
        shared.close()
    return 0


def make_server(sock: socket.socket, settings: Settings, shared: Shared, tasks: TaskSet) -> Server:
    """A server that runs a `Session` for each connection to `sock`; not started yet."""

    async def handle(stream: Stream) -> None:
        capacity = shared.capacity
        load = capacity.load(len(shared.sessions), shared.clock.monotonic(), stream.descriptor)
        if load is not Load.LIGHT:
            shared.hurry()
        if load is Load.FULL:
            shared.refuse(stream, settings)
            return
        effective = settings
        if load is Load.STRESS and settings.stressed is not None:
            effective = settings.stressed
        session = Session(stream, effective, shared)
        shared.sessions.add(session)
        shared.life.served += 1
        try:
            await session.run()
        finally:
            shared.sessions.discard(session)

    return Server(
        sock,
        handle,
        tasks,
        name=f"smtpd {settings.service}",
        tls_first=settings.tls_wrapper and settings.tls is not None,
        gone=farewell(settings, shared),
        backlog=BACKLOG,
    )


async def _end_of_life(shared: Shared, life: Life, retire: Callable[[], None]) -> None:
    while not life.is_over(len(shared.sessions), shared.clock.monotonic()):  # noqa: ASYNC110 - nothing hurries
        await asyncio.sleep(LIFE_CHECK)
    retire()


async def _until(stop: asyncio.Event, retired: asyncio.Event, tasks: TaskSet) -> None:
    """Return when `stop` is set, after `retired` with the last session, or when the parent is gone."""
    parent = os.getppid()
    while os.getppid() == parent and (tasks or not retired.is_set()):
        try:
            async with asyncio.timeout(PARENT_CHECK):
                await stop.wait()
                return
        except TimeoutError:
            await asyncio.sleep(0)  # a connection accepted just now becomes a session in the next turn
