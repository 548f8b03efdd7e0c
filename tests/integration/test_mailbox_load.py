"""IMAP clients that mean harm, in small: others are served meanwhile, and the service does not grow."""

from __future__ import annotations

import socket
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.crash.mailbox_load import Client, Service

SECONDS = 2.0
"""How long an attack lasts."""
PATIENCE = 1.0
"""Seconds that a session of somebody else may take meanwhile."""
GROWTH = 24.0
"""MiB that the service may grow."""
pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    users = "".join(f"u{number}:{{PLAIN}}x:0:0::{tmp_path}/mail{number}::\n" for number in range(40))
    service = Service(tmp_path, "service imap-login {\n}\n")
    with (tmp_path / "users").open("a") as file:
        file.write(users)
    cur = tmp_path / "mail" / "cur"
    cur.mkdir(parents=True)
    for number in range(200):
        (cur / f"{1_700_000_000 + number}.M1.x:2,S").write_bytes(b"Subject: x\n\n" + b"y" * 79 * 4000)
    service.start()
    service.wait()
    yield service
    service.kill()


def memory(service: Service) -> float:
    """Resident now, in MiB."""
    text = Path(f"/proc/{service.pid}/status").read_text()
    return int(text.partition("VmRSS:")[2].split()[0]) / 1024


def polite(service: Service) -> float:
    """Seconds that a short session takes."""
    started = time.monotonic()
    with Client(service.imap) as client:
        client.ask(b"LOGIN u39 x")
        client.ask(b"SELECT INBOX")
        client.ask(b"NOOP")
    return time.monotonic() - started


class Attack:
    """What runs beside: `threads` times `work`, which gets a socket and whether to go on."""

    def __init__(
        self, service: Service, work: Callable[[socket.socket, threading.Event], None], threads: int
    ) -> None:
        self._service = service
        self._work = work
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(threads)]

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                with socket.create_connection(("127.0.0.1", self._service.imap), 10) as connection:
                    self._work(connection, self._stop)
            except OSError:
                pass

    def measure(self) -> tuple[float, float]:
        """Seconds of the longest session of somebody else, MiB that the service has grown at the most."""
        before = memory(self._service)
        for thread in self._threads:
            thread.start()
        worst = grown = 0.0
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            worst = max(worst, polite(self._service))
            grown = max(grown, memory(self._service) - before)
            time.sleep(0.02)
        self._stop.set()
        for thread in self._threads:
            thread.join(5)
        return worst, grown


def login(connection: socket.socket) -> None:
    connection.sendall(b"a LOGIN u x\r\nb SELECT INBOX\r\n")
    data = b""
    while b"\r\nb OK" not in data:
        data += connection.recv(1 << 16)


def deaf(connection: socket.socket, stop: threading.Event) -> None:
    """Asks for 60 MB and reads nothing."""
    login(connection)
    connection.sendall(b"c FETCH 1:* BODY.PEEK[]\r\nd FETCH 1:* (FLAGS BODY.PEEK[])\r\n")
    stop.wait()


def chatter(connection: socket.socket, stop: threading.Event) -> None:
    """Sends commands without waiting for answers, which it does not read either."""
    login(connection)
    connection.settimeout(0.2)
    while not stop.is_set():
        try:
            connection.sendall(b"c NOOP\r\nd FETCH 1:* FLAGS\r\ne STATUS INBOX (MESSAGES)\r\n" * 500)
        except TimeoutError:
            pass


def reading_chatter(connection: socket.socket, stop: threading.Event) -> None:
    """The same, and takes what it is told."""
    login(connection)
    reader = threading.Thread(target=_swallow, args=(connection,), daemon=True)
    reader.start()
    while not stop.is_set():
        connection.sendall(b"c NOOP\r\nd FETCH 1:* FLAGS\r\ne SEARCH FLAGGED\r\n" * 500)


def _swallow(connection: socket.socket) -> None:
    try:
        while connection.recv(1 << 16):
            pass
    except OSError:
        pass


def stranger_with_literals(connection: socket.socket, stop: threading.Event) -> None:
    """Announces what it never ends, without having logged in."""
    connection.sendall(b"a LOGIN {4294967295+}\r\n")
    junk = b"x" * (1 << 16)
    while not stop.is_set():
        connection.sendall(junk)


def appender(connection: socket.socket, stop: threading.Event) -> None:
    """Messages for mailboxes that are not there, lines without end, literals over every limit."""
    login(connection)
    reader = threading.Thread(target=_swallow, args=(connection,), daemon=True)
    reader.start()
    connection.sendall(b"c APPEND nowhere {100000000+}\r\n")
    for _ in range(1600):
        connection.sendall(b"x" * 62500)
        if stop.is_set():
            return
    connection.sendall(b"\r\nd SEARCH SUBJECT {99999999+}\r\n")
    while not stop.is_set():
        connection.sendall(b"y" * (1 << 16))


def slow(connection: socket.socket, stop: threading.Event) -> None:
    """Many connections that say a word at a time before the login."""
    others = [socket.create_connection(connection.getpeername(), 10) for _ in range(100)]
    try:
        while not stop.is_set():
            for other in others:
                other.sendall(b"a")
            time.sleep(0.1)
    finally:
        for other in others:
            other.close()


def bomber(connection: socket.socket, stop: threading.Event) -> None:
    """A megabyte that becomes a gigabyte (RFC 4978)."""
    login(connection)
    connection.sendall(b"c COMPRESS DEFLATE\r\n")
    connection.recv(100)
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    piece = b"".join(packer.compress(b"x" * (1 << 20)) for _ in range(64)) + packer.flush()
    while not stop.is_set():
        connection.sendall(piece)


def fickle(connection: socket.socket, stop: threading.Event) -> None:
    """IDLE and DONE, over and over, in a mailbox whose flags change all the while."""
    login(connection)
    reader = threading.Thread(target=_swallow, args=(connection,), daemon=True)
    reader.start()
    while not stop.is_set():
        connection.sendall(b"c IDLE\r\nDONE\r\nd STORE 1:50 FLAGS (\\Seen)\r\ne STORE 1:50 FLAGS ()\r\n" * 20)


@pytest.mark.parametrize(
    ("work", "threads"),
    [
        (deaf, 12),
        (chatter, 6),
        (reading_chatter, 3),
        (stranger_with_literals, 4),
        (appender, 4),
        (slow, 3),
        (bomber, 4),
        (fickle, 3),
    ],
)
def test_others_are_served(
    service: Service, work: Callable[[socket.socket, threading.Event], None], threads: int
) -> None:
    worst, grown = Attack(service, work, threads).measure()
    print(f"{work.__name__}: {worst:.3f} s, {grown:.1f} MiB")
    assert worst < PATIENCE
    assert grown < GROWTH
    assert polite(service) < PATIENCE
    assert "Traceback" not in (service.root / "log").read_text()
