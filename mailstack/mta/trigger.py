"""Wake the queue manager: datagrams to `<queue_directory>/public/qmgr`.

A datagram holds queue ids that have just become durable in incoming/, separated by spaces; an id behind `+`
is that of a message that is being flushed there, and that may be prepared. `T` in front of them: a table has
changed, and they may have been taken by it. Or it is one letter: `I` (scan incoming), `D` (scan deferred),
`F` (try everything deferred now), `P` (for pickup: look into maildrop), or words: `deliver ID` (try that
deferred message now), `flush DOMAIN` (what is deferred for that domain), `verify NUMBER ADDRESS`
(mta/verify/service.py).
A lost datagram is harmless, for what it tells of is looked for now and then; but that takes seconds, so ids
that find the socket full are sent again together.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable

from mailstack.net.log import Log
from mailstack.storage.tables.fresh import files

SCAN_INCOMING, SCAN_DEFERRED, FLUSH, SCAN_MAILDROP = "I", "D", "F", "P"
TABLES = "T"
DATAGRAM = 4096
"""Octets of one datagram at the most."""
_RETRY = 0.005
_PATH_LIMIT = 100
"""Octets that a socket's path may have (sockaddr_un has room for 107)."""


class Trigger:
    """The sender's side. Belongs to one event loop; costs one system call per message."""

    def __init__(self, queue_directory: str, log: Log) -> None:
        self._directory = os.path.join(queue_directory, "public")
        self._log = log
        self._socket: socket.socket | None = None
        self._waiting: list[str] = []
        self._retry: asyncio.TimerHandle | None = None

    def new_mail(self, queue_id: str) -> None:
        """Tell qmgr of a message in incoming/. Never fails and never blocks."""
        self._waiting.append(queue_id)
        if self._retry is None:
            self._send()

    def expect(self, queue_id: str) -> None:
        """Tell qmgr of a message that is being flushed in incoming/, if it listens just now."""
        if self._retry is not None:
            return
        try:
            if self._socket is None:
                self._socket = connect(self._directory)
            self._socket.send(f"{_news()}+{queue_id}".encode())
        except OSError:
            pass  # it will be told of the message itself

    def close(self) -> None:
        """Give up what is unsent; qmgr will find it."""
        if self._retry is not None:
            self._retry.cancel()
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self) -> None:
        self._retry = None
        while self._waiting:
            count = DATAGRAM // 40
            try:
                if self._socket is None:
                    self._socket = connect(self._directory)
                self._socket.send((_news() + " ".join(self._waiting[:count])).encode())
            except BlockingIOError:
                self._retry = asyncio.get_running_loop().call_later(_RETRY, self._send)
                return
            except OSError as error:
                # No queue manager at the moment: it scans incoming when it starts.
                self._log.debug(f"wake up qmgr: {error}")
                self._waiting.clear()
                if self._socket is not None:
                    self._socket.close()
                    self._socket = None
                return
            del self._waiting[:count]


def _news() -> str:
    return f"{TABLES} " if files.changed_lately() else ""


def send_now(queue_directory: str, request: str) -> None:
    """Send one request and return. Raises `OSError` when no queue manager is there."""
    sock = connect(os.path.join(queue_directory, "public"))
    try:
        sock.settimeout(5)
        sock.send(request.encode())
    finally:
        sock.close()


def connect(directory: str, *, named: bool = False) -> socket.socket:
    """A non-blocking datagram socket to `directory/qmgr`; `named`: one that can be answered (Linux).

    Raises `OSError`.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)
        if named:
            sock.bind("")  # a name that the kernel chooses, and that no file stands for
        _with_short_path(directory, sock.connect)
    except OSError:
        sock.close()
        raise
    return sock


def bind(directory: str) -> socket.socket:
    """The queue manager's side; an older socket file is replaced. Raises `OSError`."""
    os.makedirs(directory, mode=0o710, exist_ok=True)
    try:
        os.unlink(os.path.join(directory, "qmgr"))
    except FileNotFoundError:
        pass
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)
        _with_short_path(directory, sock.bind)
        os.chmod(os.path.join(directory, "qmgr"), 0o622)  # noqa: S103 - anybody may wake it, and only that
    except OSError:
        sock.close()
        raise
    return sock


def _with_short_path(directory: str, use: Callable[[str], object]) -> None:
    """Call `use(path)`; a path too long for a socket address goes through the folder's descriptor (Linux)."""
    path = os.path.join(directory, "qmgr")
    if len(os.fsencode(path)) <= _PATH_LIMIT:
        use(path)
        return
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        use(f"/proc/self/fd/{fd}/qmgr")
    finally:
        os.close(fd)
