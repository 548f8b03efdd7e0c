"""Talking to a project's supervisor, and ending what one has left behind.

A pid is only trusted together with the start time that was written down for it (`supervisor.process_start`).
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from mailstack.runtime.errors import RuntimeFailure
from mailstack.runtime.supervisor import GRACE, process_start

RESTART_TIMEOUT = GRACE + 5.0
"""Seconds in which a service has ended, at the latest by SIGKILL, and runs again."""
TIMEOUT = 5.0
"""Seconds for an answer: the supervisor does nothing that takes time."""


class SupervisorGone(RuntimeFailure):
    """The supervisor has ended while it was being talked to."""


class Control:
    """A connection to a running supervisor. `connect` makes one."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._buffer = b""
        self._events: list[dict[str, Any]] = []

    def ask(self, command: str, **arguments: Any) -> dict[str, Any]:
        """One command, one answer. Raises `RuntimeFailure` when it is refused or nobody answers."""
        try:
            self._connection.sendall(json.dumps({"cmd": command, **arguments}).encode() + b"\n")
            while True:
                message = self._message(TIMEOUT)
                if message is None:
                    raise RuntimeFailure("the supervisor does not answer")
                if "event" not in message:
                    break
                self._events.append(message)
        except OSError as error:
            raise SupervisorGone(f"the supervisor is gone: {error}") from error
        if not message["ok"]:
            raise RuntimeFailure(f"the supervisor refused {command}: {message['error']}")
        return message

    def events(self) -> list[dict[str, Any]]:
        """What has happened since the last call; only after `ask("watch")`. Does not wait."""
        try:
            while (message := self._message(0.0)) is not None:
                self._events.append(message)
        except OSError:
            self._events.append({"event": "gone"})
        events, self._events = self._events, []
        return events

    def await_start(self, names: Collection[str], timeout: float) -> None:
        """Until each of the services has been started since `ask("watch")`. The events stay for `events`.

        Raises `RuntimeFailure` after `timeout` seconds, `SupervisorGone`.
        """
        deadline = time.monotonic() + timeout
        waiting, seen = set(names), 0
        while True:
            waiting -= {event["service"] for event in self._events[seen:] if event["event"] == "start"}
            seen = len(self._events)
            if not waiting:
                return
            try:
                message = self._message(max(0.0, deadline - time.monotonic()))
            except OSError as error:
                raise SupervisorGone(f"the supervisor is gone: {error}") from error
            if message is None:
                raise RuntimeFailure(f"{', '.join(sorted(waiting))} did not end within {timeout:g} s")
            self._events.append(message)

    def close(self) -> None:
        self._connection.close()

    def _message(self, timeout: float) -> dict[str, Any] | None:
        while b"\n" not in self._buffer:
            ready, _, _ = select.select([self._connection], [], [], timeout)
            if not ready:
                return None
            data = self._connection.recv(65536)
            if not data:
                raise ConnectionResetError("closed")
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        message: dict[str, Any] = json.loads(line)
        return message


def connect(base: str) -> Control | None:
    """A connection to the supervisor of the state folder at `base`; None when none runs."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(TIMEOUT)
    try:
        connection.connect(f"{base}/run/supervisor.sock")
    except OSError:
        connection.close()
        return None
    return Control(connection)


def launch(base: str, env: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start a supervisor; the process that is returned ends, with 0, once it can be connected to."""
    return subprocess.Popen(  # noqa: S603 our own interpreter and module
        [sys.executable, "-P", "-m", "mailstack.runtime.supervisor", base],
        env=dict(env),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def launched(process: subprocess.Popen[bytes], base: str) -> Control:
    """Wait for `launch` and connect. Raises `RuntimeFailure` with what it said."""
    try:
        _, said = process.communicate(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise RuntimeFailure("the supervisor did not start within 10 s") from None
    control = connect(base) if process.returncode == 0 else None
    if control is None:
        reason = said.decode(errors="replace").strip().rpartition("\n")[2]
        raise RuntimeFailure(f"the supervisor did not start: {reason or f'status {process.returncode}'}")
    return control


def leftovers(run: Path) -> dict[str, tuple[int, int]]:
    """Processes that a supervisor wrote down and that still run: name -> (pid, start time).

    `supervisor` is one of the names.
    """
    try:
        data = json.loads((run / "supervisor.json").read_text())
        noted = {"supervisor": data["supervisor"], **data["services"]}
        return _alive({name: (int(pid), int(ticks)) for name, (pid, ticks) in noted.items()})
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def end(run: Path) -> tuple[str, ...]:
    """End the processes of `run`: SIGTERM, after `GRACE` seconds SIGKILL. Returns their names.

    A live supervisor gets the signal alone: it ends its services the same way. Raises `RuntimeFailure` when
    a process outlives even that (it hangs in the kernel, or belongs to another user).
    """
    noted = left = leftovers(run)
    began = time.monotonic()
    patience = GRACE + (2.0 if "supervisor" in noted else 0.0)
    _signal({"supervisor": noted["supervisor"]} if "supervisor" in noted else noted, signal.SIGTERM)
    killed = False
    pause = 0.002
    while left := _alive(left):
        waited = time.monotonic() - began
        if waited > patience and not killed:
            killed = True
            _signal(left, signal.SIGKILL)
        elif waited > patience + 3.0:
            names = ", ".join(f"{name} (pid {pid})" for name, (pid, _) in left.items())
            raise RuntimeFailure(f"these processes do not end: {names}")
        time.sleep(pause)
        pause = min(pause * 1.5, 0.05)
    return tuple(noted)


def _alive(noted: Mapping[str, tuple[int, int]]) -> dict[str, tuple[int, int]]:
    return {
        name: (pid, ticks) for name, (pid, ticks) in noted.items() if ticks and process_start(pid) == ticks
    }


def _signal(processes: Mapping[str, tuple[int, int]], number: int) -> None:
    for name, (pid, _) in processes.items():
        try:
            if number == signal.SIGKILL and name != "supervisor":
                os.killpg(pid, number)
            else:
                os.kill(pid, number)
        except (ProcessLookupError, PermissionError):
            pass
