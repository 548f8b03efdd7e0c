"""NAME: supervisor, the parent of a project's processes. `python -m mailstack.runtime.supervisor STATE`

DESCRIPTION
    Becomes a daemon (double fork, session of its own), listens on `STATE/run/supervisor.sock` and returns to
    its caller once it does. It then starts what it is told to, each service in a process group of its own
    with its output appended to `STATE/log/<service>.log`, and starts again, after a doubling pause, what
    crashes. A service that ends with status 78 (EX_CONFIG) is not tried again: its configuration has to
    change first.

    Commands are JSON objects, one a line, on the socket; each gets one answer line:

        {"cmd": "start", "services": {NAME: {"argv": [...], "env": {...}}}}     also: restarts with new ones
        {"cmd": "restart"|"reload"|"stop", "names": [NAME, ...]}
        {"cmd": "status"}      -> {"ok": true, "pid": …, "services": {NAME: {"state", "pid", …}}}
        {"cmd": "watch"}       -> the same, then one {"event": "exit"|"start", …} line per event
        {"cmd": "quit"}        stops everything, then ends; the answer comes before the end

    SIGTERM and SIGINT do as `quit`; SIGHUP is passed on to every service. The services end when this
    process dies, however it dies (PR_SET_PDEATHSIG).

HOLDS ALWAYS
    Standard library only, one thread, no import of anything else of mailstack: the process stays below 10 MB.
    `STATE/run/supervisor.json` (pids and their start times, see proc(5)) is written before a service runs,
    so that leftovers can be ended by a later command and a recycled pid never is.

DIAGNOSTICS
    `STATE/log/supervisor.log`; exit status 75 (EX_TEMPFAIL) when another supervisor has the folder.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Iterator
from typing import Any, NoReturn

GRACE = 10.0
"""Seconds between SIGTERM and SIGKILL."""
BACKOFF_FIRST = 0.1
BACKOFF_LAST = 30.0
STEADY = 60.0
"""Seconds after which a service that runs has its pause set back."""
LOG_LIMIT = 16 * 1024 * 1024
"""Octets of a log file at which it is moved aside when its service starts."""
EX_CONFIG = 78
EX_TEMPFAIL = 75
LINE_LIMIT = 1 << 20
PR_SET_PDEATHSIG = 1


def process_start(pid: int) -> int:
    """When a process began, in clock ticks since boot (proc(5) stat, field 22); 0 when there is none."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            data = file.read()
    except OSError:
        return 0
    fields = data[data.rfind(b")") + 2 :].split()
    # a zombie has ended: only its parent still has to look
    return 0 if fields[0] in (b"Z", b"X") else int(fields[19])


class Service:
    """One supervised process and what is known about it."""

    __slots__ = (
        "argv", "due", "env", "kill_at", "last_exit", "name", "pause", "pid", "restarts", "started", "state",
        "ticks", "wanted",
    )  # fmt: skip

    def __init__(self, name: str) -> None:
        self.name = name
        self.argv: list[str] = []
        self.env: dict[str, str] = {}
        self.wanted = False
        self.state = "stopped"
        """running, backoff (waits until `due`), failed (bad configuration), stopping, stopped."""
        self.pid = 0
        self.ticks = 0
        self.started = 0.0
        self.restarts = 0
        self.pause = BACKOFF_FIRST
        self.due = 0.0
        self.kill_at = 0.0
        self.last_exit = ""

    def describe(self) -> dict[str, Any]:
        return {
            "state": self.state, "pid": self.pid or None, "ticks": self.ticks, "started": self.started,
            "restarts": self.restarts, "last_exit": self.last_exit,
        }  # fmt: skip


class Supervisor:
    """The event loop: one poll over the control socket, its connections and the signal pipe."""

    def __init__(self, base: str, listener: socket.socket, prctl: Any) -> None:
        self.base = base
        self.listener = listener
        self.prctl = prctl
        self.services: dict[str, Service] = {}
        self.connections: dict[int, tuple[socket.socket, bytearray]] = {}
        self.watchers: set[int] = set()
        self.quitting = False
        self.poll = select.poll()
        self.signal_read, signal_write = os.pipe()
        for fd in (self.signal_read, signal_write):
            os.set_blocking(fd, False)
        signal.set_wakeup_fd(signal_write, warn_on_full_buffer=False)
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda _number, _frame: None)
        self.poll.register(self.signal_read, select.POLLIN)
        self.poll.register(listener.fileno(), select.POLLIN)

    def run(self) -> None:
        """Until told to quit and every service has ended."""
        while not (self.quitting and not any(s.pid for s in self.services.values())):
            for fd, _ in self.poll.poll(self._wait_ms()):
                if fd == self.signal_read:
                    self._signals()
                elif fd == self.listener.fileno():
                    self._accept()
                else:
                    self._readable(fd)
            self._tick(time.monotonic())

    # ---- time

    def _wait_ms(self) -> int | None:
        times = [s.kill_at for s in self.services.values() if s.kill_at]
        times += [s.due for s in self.services.values() if s.state == "backoff"]
        return max(0, int((min(times) - time.monotonic()) * 1000) + 1) if times else None

    def _tick(self, now: float) -> None:
        for service in self.services.values():
            if service.kill_at and now >= service.kill_at:
                service.kill_at = 0.0
                self._signal(service, signal.SIGKILL)
            if service.state == "backoff" and now >= service.due:
                service.restarts += 1
                self._spawn(service)

    # ---- processes

    def _spawn(self, service: Service) -> None:
        path = f"{self.base}/log/{service.name}.log"
        try:
            if os.stat(path).st_size > LOG_LIMIT:
                os.rename(path, path + ".1")
        except OSError:
            pass
        log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        me = os.getpid()
        pid = os.fork()
        if pid == 0:
            self._become(service, log, me)
        os.close(log)
        with contextlib.suppress(OSError):
            os.setpgid(pid, pid)
        service.pid = pid
        service.ticks = process_start(pid)
        service.started = time.time()
        service.state = "running"
        service.kill_at = 0.0
        self._write_pids()
        self._say(f"{service.name}: started, pid {pid}")
        self._event({"event": "start", "service": service.name, "pid": pid})

    def _become(self, service: Service, log: int, parent: int) -> NoReturn:
        """In the child: never returns, whatever happens."""
        try:
            os.setpgid(0, 0)
            if self.prctl is not None:
                self.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
                if os.getppid() != parent:
                    os._exit(1)
            for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
                signal.signal(number, signal.SIG_DFL)
            null = os.open("/dev/null", os.O_RDONLY)
            os.dup2(null, 0)
            os.dup2(log, 1)
            os.dup2(log, 2)
            os.execve(service.argv[0], service.argv, service.env)  # noqa: S606 the argv is ours
        except BaseException as error:
            with contextlib.suppress(OSError):
                os.write(log, f"fatal: {service.argv[:1]}: {error}\n".encode())
        finally:
            os._exit(127)

    def _signal(self, service: Service, number: int) -> None:
        """To the whole group when it is the end, else to the process (which passes it on itself)."""
        if not service.pid:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if number == signal.SIGKILL:
                os.killpg(service.pid, number)
            else:
                os.kill(service.pid, number)

    def _stop(self, service: Service) -> None:
        service.wanted = False
        if service.pid:
            if service.state != "stopping":
                service.state = "stopping"
                service.kill_at = time.monotonic() + GRACE
                self._signal(service, signal.SIGTERM)
        else:
            service.state = "stopped"

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            for service in self.services.values():
                if service.pid == pid:
                    self._ended(service, os.waitstatus_to_exitcode(status))

    def _ended(self, service: Service, code: int) -> None:
        # what the service itself had started must not outlive it and hold its ports
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(service.pid, signal.SIGKILL)
        service.last_exit = f"signal {-code}" if code < 0 else f"status {code}"
        service.pid = service.ticks = 0
        service.kill_at = 0.0
        again = service.wanted and not self.quitting
        ran = time.time() - service.started
        if not again:
            service.state = "stopped"
        elif service.state == "stopping":  # a restart was asked for
            self._say(f"{service.name}: ended ({service.last_exit})")
            self._spawn(service)
            return
        elif code == EX_CONFIG:
            service.state = "failed"
        else:
            service.pause = BACKOFF_FIRST if ran > STEADY else min(service.pause * 2, BACKOFF_LAST)
            service.due = time.monotonic() + (service.pause if ran <= STEADY else 0.0)
            service.state = "backoff"
        self._write_pids()
        self._say(f"{service.name}: ended ({service.last_exit}), {service.state}")
        self._event(
            {
                "event": "exit",
                "service": service.name,
                "code": code,
                "state": service.state,
                "ran": round(ran, 3),
            }
        )

    # ---- control

    def _signals(self) -> None:
        try:
            numbers = os.read(self.signal_read, 512)
        except BlockingIOError:
            return
        if signal.SIGCHLD in numbers:
            self._reap()
        if signal.SIGHUP in numbers:
            for service in self.services.values():
                self._signal(service, signal.SIGHUP)
        if signal.SIGTERM in numbers or signal.SIGINT in numbers:
            self._quit()

    def _quit(self) -> None:
        self.quitting = True
        for service in self.services.values():
            self._stop(service)

    def _accept(self) -> None:
        try:
            connection, _ = self.listener.accept()
        except OSError:
            return
        connection.setblocking(False)
        self.connections[connection.fileno()] = (connection, bytearray())
        self.poll.register(connection.fileno(), select.POLLIN)

    def _drop(self, fd: int) -> None:
        connection, _ = self.connections.pop(fd)
        self.watchers.discard(fd)
        self.poll.unregister(fd)
        connection.close()

    def _readable(self, fd: int) -> None:
        connection, buffer = self.connections[fd]
        try:
            data = connection.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        buffer += data
        if not data or len(buffer) > LINE_LIMIT:
            self._drop(fd)
            return
        while (end := buffer.find(b"\n")) >= 0:
            line = bytes(buffer[:end])
            del buffer[: end + 1]
            try:
                answer = self._command(fd, json.loads(line))
            except Exception as error:  # a client's mistake must not end the services
                answer = {"ok": False, "error": f"{type(error).__name__}: {error}"}
            if not self._send(fd, answer):
                return

    def _send(self, fd: int, message: dict[str, Any]) -> bool:
        try:
            # answers are far smaller than a socket buffer: one that does not fit has a reader that is gone
            self.connections[fd][0].sendall(json.dumps(message).encode() + b"\n")
        except OSError:
            self._drop(fd)
            return False
        return True

    def _event(self, event: dict[str, Any]) -> None:
        for fd in list(self.watchers):
            self._send(fd, event)

    def _command(self, fd: int, request: dict[str, Any]) -> dict[str, Any]:
        match request["cmd"]:
            case "start":
                for name, what in request["services"].items():
                    self._start(name, what["argv"], what["env"])
            case "restart":
                for name in request["names"]:
                    service = self.services[name]
                    self._start(name, service.argv, service.env)
            case "reload":
                for name in request["names"]:
                    self._signal(self.services[name], signal.SIGHUP)
            case "stop":
                for name in request["names"]:
                    if name in self.services:
                        self._stop(self.services[name])
            case "watch":
                self.watchers.add(fd)
            case "quit":
                self._quit()
            case "status":
                pass
            case other:
                raise ValueError(f"unknown command {other!r}")
        services = {name: service.describe() for name, service in self.services.items()}
        return {"ok": True, "pid": os.getpid(), "services": services}

    def _start(self, name: str, argv: list[str], env: dict[str, str]) -> None:
        if self.quitting:
            raise ValueError("the supervisor is ending")
        service = self.services.setdefault(name, Service(name))
        service.argv, service.env = argv, env
        service.pause = BACKOFF_FIRST
        service.restarts = 0
        if service.pid:
            self._stop(service)  # `_ended` starts it again
            service.wanted = True
        else:
            service.wanted = True
            self._spawn(service)

    # ---- what is left on disk

    def _write_pids(self) -> None:
        write_pids(self.base, self.services.values())

    def _say(self, text: str) -> None:
        stamp = time.strftime("%b %e %H:%M:%S")
        with contextlib.suppress(OSError):
            os.write(2, f"{stamp} {os.uname().nodename} supervisor[{os.getpid()}]: {text}\n".encode())


def write_pids(base: str, services: Any) -> None:
    """`run/supervisor.json`: who runs, with start times that make a pid unmistakable."""
    me = os.getpid()
    pids = {s.name: [s.pid, s.ticks] for s in services if s.pid}
    text = json.dumps({"supervisor": [me, process_start(me)], "services": pids})
    path = f"{base}/run/supervisor.json"
    with contextlib.suppress(OSError):  # the folder may be on its way out
        with open(path + ".new", "w") as file:
            file.write(text)
        os.rename(path + ".new", path)


@contextlib.contextmanager
def _only_one(base: str) -> Iterator[None]:
    """Hold the folder against a second supervisor; exits 75 when there is one."""
    fd = os.open(f"{base}/run/supervisor.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        sys.exit(EX_TEMPFAIL)
    yield
    os.close(fd)


def _listen(base: str) -> socket.socket:
    path = f"{base}/run/supervisor.sock"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(path)
    os.chmod(path, 0o600)
    listener.listen(16)
    listener.setblocking(False)
    return listener


def _death_signal() -> Any:
    """libc's prctl, loaded before any fork so that a child only has to call it; None: there is none."""
    try:
        import ctypes

        return ctypes.CDLL(None).prctl
    except (ImportError, OSError, AttributeError):
        return None


def main(argv: list[str]) -> None:
    """Daemonize on `argv[1]`. The caller's process exits 0 once the control socket listens."""
    base = argv[1]
    ready_read, ready_write = os.pipe()
    if os.fork():
        os.close(ready_write)
        answer = os.read(ready_read, 1)
        os._exit(0 if answer == b"1" else EX_TEMPFAIL)
    os.close(ready_read)
    os.setsid()
    if os.fork():
        os._exit(0)
    os.umask(0o077)
    os.chdir("/")
    with _only_one(base):
        listener = _listen(base)
        null = os.open("/dev/null", os.O_RDWR)
        log = os.open(f"{base}/log/supervisor.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        for target, source in ((0, null), (1, log), (2, log)):
            os.dup2(source, target)
        supervisor = Supervisor(base, listener, _death_signal())
        write_pids(base, ())
        os.write(ready_write, b"1")
        os.close(ready_write)
        supervisor.run()
        for name in ("supervisor.sock", "supervisor.json"):
            with contextlib.suppress(OSError):
                os.unlink(f"{base}/run/{name}")


if __name__ == "__main__":
    main(sys.argv)
