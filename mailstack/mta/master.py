"""master(8): binds the sockets, starts the smtpd workers and the queue manager, and keeps them running.

The processes are few: `maxproc` smtpd workers (the largest of the smtpd lines of master.cf, but no more than
one for each processor; where it says `-`, as many), each of which serves every smtpd line, and one qmgr,
which also does the delivering and the picking up. Lines that name other daemons are for a real Postfix and
start nothing here (`services.warnings` tells of those that somebody would miss).

Invariants: sockets are bound before the modules that children need are imported, so clients that come early
wait instead of being refused; there is no event loop and no thread before the last fork; a child that fails
is replaced, at once the first time and then after a growing pause, at most `service_throttle_time`. A worker
that has served `max_use` clients says so, takes no more, and has a successor from that moment on; one that
has been idle for `max_idle` ends, and the next client starts another.

SIGTERM: children drain and end, all within 10 s. SIGHUP: the configuration is checked in a process of its
own; a bad one is one log line and changes nothing, a good one gets new smtpd workers, while the old ones end
with their last session, and qmgr reads it in place. Exit status: 0; `EX_CONFIG` for a configuration that
cannot be used (one `fatal:` line names file and line); 1 when a port is taken or another master works on the
queue.
"""

from __future__ import annotations

import fcntl
import gc
import os
import select
import signal
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from mailstack.config.errors import EX_CONFIG, ConfigError
from mailstack.config.postfix import MainCf, MasterService, enabled, read_master
from mailstack.mta.maillog import redirect
from mailstack.mta.services import Workers, listen_addresses, resolve_host, smtpd_lines, warnings
from mailstack.net.listen import bind_tcp
from mailstack.net.log import Log
from mailstack.storage.queue import Queue

STOP_TIME = 9.5
"""Seconds after SIGTERM in which children that are left are killed."""
STEADY = 2.0
"""Seconds after which a child has started well: one that dies later is replaced at once, as in Postfix, where
only a daemon that dies before it has served anybody is throttled."""
SIGNALS = frozenset({signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
RETIRE = signal.SIGUSR1
"""To a worker: accept no more and end with the last session."""
START_TIME = 0.5
"""Seconds that a worker gets to take the client that it was started for, before another is started."""

Bound = tuple[MasterService, socket.socket]


@dataclass(slots=True)
class _Child:
    """A process of ours. `retired`: its end is not a reason to start another."""

    role: str
    pid: int
    started: float
    retired: bool = False


class StartError(Exception):
    """The MTA cannot run here; `str()` says why."""


def run_master(config_dir: Path) -> int:
    """Run the MTA until SIGTERM; return the exit status."""
    log = Log("postfix/master", socket.gethostname().partition(".")[0])
    try:
        master = Master(config_dir, log)
        master.start()
    except ConfigError as error:
        log.fatal(str(error))
        return EX_CONFIG
    except (StartError, OSError) as error:
        log.fatal(_why(error))
        return 1
    return master.run()


def _why(error: Exception) -> str:
    """What is wrong, without the number of an `OSError`, but with the file that it names."""
    if not isinstance(error, OSError) or error.strerror is None:
        return str(error)
    return f"{error.filename}: {error.strerror}" if error.filename else error.strerror


class Master:
    """The parent process."""

    def __init__(self, config_dir: Path, log: Log) -> None:
        self._config_dir = config_dir
        self._log = log
        self._children: dict[int, _Child] = {}
        self._restarts: list[tuple[float, str]] = []
        self._failures: dict[str, int] = {}
        self._sockets: dict[tuple[str, int], socket.socket] = {}
        self._bound: list[Bound] = []
        self._workers = Workers(0, 0, 0.0)
        self._started = 0.0
        """When a worker was last started for a client (monotonic seconds)."""
        self._signals = (-1, -1)
        self._status = (-1, -1)
        """Pipes: numbers of signals that have come; process ids of workers that take no more clients."""
        self._lock = -1
        self._conf, self._services = self._read()
        redirect(log, self._conf)
        log.host = self._conf.str("myhostname").partition(".")[0]
        log.tag = f"{self._conf.str('syslog_name')}/master"

    def _read(self) -> tuple[MainCf, tuple[MasterService, ...]]:
        """Raises `ConfigError`."""
        services = read_master(self._config_dir)
        conf = MainCf.load(
            self._config_dir,
            transports=[service.name for service in services],
            overrides=[value for service in services for value in service.overrides.values()],
        )
        for service in services:
            conf.with_overrides(service.overrides, service.origin)
        return conf, enabled(services, conf.list("master_service_disable"))

    # ---- start

    def start(self) -> None:
        """Bind, check and fork. Raises `ConfigError`, `StartError`, `OSError`."""
        conf = self._conf
        self._workers = Workers.read(conf, self._services)
        self._lock = self._take_lock()
        queue = Queue(conf.str("queue_directory"), hash_depth=conf.int("hash_queue_depth"))
        queue.create()
        queue.clear_temporary()
        self._bound = self._bind(conf, self._services)
        preload()
        if not self._check():
            raise SystemExit(EX_CONFIG)
        self._warn(conf, self._services)
        gc.collect()
        gc.freeze()
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        self._signals = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._status = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(self._signals[1], warn_on_full_buffer=False)
        for number in SIGNALS:
            signal.signal(number, _noted)
        for _ in range(self._workers.count if self._bound else 0):
            self._fork("smtpd")
        self._fork("qmgr")
        self._log.info(
            f"daemon started -- version {conf.str('mail_version')}, configuration {self._config_dir}"
        )

    def _warn(self, conf: MainCf, services: Sequence[MasterService]) -> None:
        for warning in (*conf.warnings, *warnings(services)):
            self._log.warning(warning)

    def _take_lock(self) -> int:
        directory = os.path.join(self._conf.str("queue_directory"), self._conf.str("process_id_directory"))
        os.makedirs(directory, mode=0o700, exist_ok=True)
        fd = os.open(os.path.join(directory, "master.pid"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(fd, 20).decode("ascii", "replace").strip()
            os.close(fd)
            raise StartError(
                f"the mail system is already running on {directory} (process {holder})"
            ) from None
        os.ftruncate(fd, 0)
        os.write(fd, f"{os.getpid()}\n".encode())
        return fd

    def _bind(self, conf: MainCf, services: Sequence[MasterService]) -> list[Bound]:
        """Sockets for the smtpd lines; those that are bound already are used again. Raises `OSError`."""
        bound: list[Bound] = []
        wanted: dict[tuple[str, int], socket.socket] = {}
        for service in smtpd_lines(services):
            host, port = service.endpoint()
            for address in [host] if host else listen_addresses(conf):
                for literal in resolve_host(address):
                    key = (literal, port)
                    sock = wanted.get(key) or self._sockets.get(key)
                    if sock is None:
                        try:
                            sock = bind_tcp(literal, port)
                        except OSError:
                            for new in wanted.keys() - self._sockets.keys():
                                wanted[new].close()
                            raise
                    wanted[key] = sock
                    bound.append((service, sock))
        for key in self._sockets.keys() - wanted.keys():
            self._sockets[key].close()
        self._sockets = wanted
        return bound

    def _check(self) -> bool:
        """Load everything as the children will, in a process of its own, so that nothing of it stays here.

        Raises `StartError` when that process does not come to an answer: somebody killed it, or memory is
        short, which says nothing about the configuration.
        """
        pid = os.fork()
        if pid == 0:
            _leave(lambda: self._check_here())
        _, status = os.waitpid(pid, 0)
        code = os.waitstatus_to_exitcode(status)
        if code not in (0, EX_CONFIG):
            how = f"was killed by signal {-code}" if code < 0 else f"ended with exit status {code}"
            raise StartError(f"the process that checks the configuration {how}")
        return code == 0

    def _check_here(self) -> int:
        from mailstack.mta import check

        try:
            check.check(self._config_dir, self._log)
        except ConfigError as error:
            self._log.fatal(str(error))
            return EX_CONFIG
        return 0

    # ---- children

    def _fork(self, role: str) -> None:
        pid = os.fork()
        if pid:
            self._children[pid] = _Child(role, pid, time.monotonic())
            return
        _leave(lambda: self._child(role))

    def _child(self, role: str) -> int:
        """The rest of a child's life."""
        signal.set_wakeup_fd(-1)
        for number in SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        # A reload may come before the queue manager can take one: it waits until it can.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS - ({signal.SIGHUP} if role == "qmgr" else set()))
        for fd in (self._lock, *self._signals, self._status[0]):
            os.close(fd)
        name = self._conf.str("syslog_name")
        if role == "smtpd":
            from mailstack.mta.smtpd.life import Life
            from mailstack.mta.smtpd.worker import run_worker

            life = Life(self._workers.max_use, self._workers.max_idle, self._status[1])
            return run_worker(self._config_dir, self._bound, self._log.child(f"{name}/smtpd"), life)
        os.close(self._status[1])
        from mailstack.mta.qmgr.main import run_qmgr

        for sock in self._sockets.values():
            sock.close()
        return run_qmgr(self._config_dir, self._log.child(f"{name}/qmgr"))

    # ---- life

    def run(self) -> int:
        """Supervise until SIGTERM; return the exit status."""
        while True:
            numbers = self._wait()
            if signal.SIGTERM in numbers or signal.SIGINT in numbers:
                break
            if signal.SIGHUP in numbers:
                self._reload()
            self._relieve()
            self._reap()
            self._restart_due()
        self._stop()
        return 0

    def _wait(self) -> bytes:
        """Wait for something to do; the numbers of the signals that have come."""
        now = time.monotonic()
        times = [3600.0] + [when - now for when, _ in self._restarts]
        poll = select.poll()
        poll.register(self._signals[0], select.POLLIN)
        poll.register(self._status[0], select.POLLIN)
        places = self._idle_places()
        if places and now < self._started + START_TIME:
            times.append(self._started + START_TIME - now)
        elif places:
            for sock in self._sockets.values():
                poll.register(sock, select.POLLIN)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        ready = poll.poll(max(0, int(min(times) * 1000) + 1))
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        if any(fd not in (self._signals[0], self._status[0]) for fd, _ in ready):
            self._started = time.monotonic()
            self._fork("smtpd")
        return _read(self._signals[0])

    def _idle_places(self) -> bool:
        """Whether a client's coming starts a worker: some have ended because they were idle."""
        if not self._workers.max_idle or any(role == "smtpd" for _, role in self._restarts):
            return False
        return bool(self._bound) and self._serving() < self._workers.count

    def _serving(self) -> int:
        return sum(child.role == "smtpd" and not child.retired for child in self._children.values())

    def _relieve(self) -> None:
        """Give workers that take no more clients a successor."""
        data = _read(self._status[0])
        for start in range(0, len(data), 4):
            child = self._children.get(int.from_bytes(data[start : start + 4], "big"))
            if child is not None and not child.retired:
                child.retired = True
                self._fork("smtpd")

    def _restart_due(self) -> None:
        now = time.monotonic()
        due = [entry for entry in self._restarts if entry[0] <= now]
        for entry in due:
            self._restarts.remove(entry)
            self._fork(entry[1])

    def _reap(self) -> None:
        """Note the children that have ended, and plan their replacement."""
        for child, status in self._ended():
            if child.retired:
                continue
            # Also EX_CONFIG: the files were good when they were checked, and are being edited now.
            code = os.waitstatus_to_exitcode(status)
            how = f"killed by signal {-code}" if code < 0 else f"exit status {code}"
            path = f"{self._conf.str('daemon_directory')}/{child.role}"
            if code == 0 and child.role == "smtpd" and self._workers.max_idle:
                continue  # it was idle; the next client starts another
            self._log.warning(f"process {path} pid {child.pid} {how}")
            steady = time.monotonic() - child.started >= STEADY
            failures = self._failures[child.role] = 0 if steady else self._failures.get(child.role, 0) + 1
            pause = 0.0
            if failures > 1:
                pause = min(self._conf.time("service_throttle_time"), 0.25 * 2.0 ** min(failures, 20))
                self._log.warning(f"{path}: bad command startup -- throttling")
            self._restarts.append((time.monotonic() + pause, child.role))

    def _ended(self) -> list[tuple[_Child, int]]:
        ended = []
        while self._children:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break
            child = self._children.pop(pid, None)
            if child is not None:
                ended.append((child, status))
        return ended

    def _reload(self) -> None:
        """Take another configuration, or keep the old one."""
        version = self._conf.str("mail_version")
        self._log.info(f"reload -- version {version}, configuration {self._config_dir}")
        try:
            conf, services = self._read()
            if conf.str("queue_directory") != self._conf.str("queue_directory"):
                raise conf.error("queue_directory", "cannot change while the mail system runs")
            if not self._check():
                self._log.error("reload: the old configuration goes on")
                return
            workers = Workers.read(conf, services)
            bound = self._bind(conf, services)
            redirect(self._log, conf)
        except (ConfigError, StartError, OSError) as error:
            self._log.error(f"reload: {_why(error)}; the old configuration goes on")
            return
        self._conf, self._services, self._bound = conf, services, bound
        self._workers = workers
        self._warn(conf, services)
        self._restarts.clear()
        self._failures.clear()
        old = list(self._children.values())
        for _ in range(workers.count if bound else 0):
            self._fork("smtpd")
        running = [child for child in old if child.role == "qmgr" and not child.retired]
        for child in old:
            if child.role == "smtpd" and not child.retired:
                child.retired = True
                _send(child.pid, RETIRE)
        for child in running:
            _send(child.pid, signal.SIGHUP)
        if not running:
            self._fork("qmgr")

    def _stop(self) -> None:
        """End the children, all of them and in time."""
        self._log.info("terminating on signal 15")
        for sock in self._sockets.values():
            sock.close()
        for pid in self._children:
            _send(pid, signal.SIGTERM)
        deadline = time.monotonic() + STOP_TIME
        while self._children and (left := deadline - time.monotonic()) > 0:
            self._ended()
            if self._children:
                signal.sigtimedwait({signal.SIGCHLD}, min(left, 0.5))
        for pid in self._children:
            self._log.warning(f"process {self._children[pid].role} pid {pid} does not end: killed")
            _send(pid, signal.SIGKILL)
        os.close(self._lock)


def preload() -> None:
    """Import what children need, so that they share its memory and start at once."""
    import mailstack.mta.qmgr.main
    import mailstack.mta.smtpd.worker  # noqa: F401

    try:
        import uvloop  # noqa: F401
    except ImportError:
        pass


def _leave(run: Callable[[], int]) -> None:
    """Run a child to its end; never returns to the parent's code."""
    status = 1
    try:
        status = run()
    except BaseException as error:
        Log("postfix/master", "").exception("child", error)
    finally:
        os._exit(status)


def _noted(number: int, frame: FrameType | None) -> None:
    """The wake-up pipe has the signal's number; the loop does the rest."""


def _read(fd: int) -> bytes:
    """What a pipe holds now."""
    try:
        return os.read(fd, 4096)
    except BlockingIOError:
        return b""


def _send(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass
