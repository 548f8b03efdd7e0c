"""The mailbox service beside Dovecot, both from the same dovecot.conf, in turn, in one run.

    python -m benchmarks.mailbox [--messages 10000] [--large 100000] [--rounds 3] [ROW...]

Plain text over loopback, the same filesystem, a Maildir each with the same messages (see `corpus`). A round
asks both servers, one after the other; a row shows the medians and their ratio. Needs root and Debian's
dovecot-imapd and dovecot-lmtpd.

| row | what is measured |
|---|---|
| login | connect, LOGIN, SELECT INBOX, LOGOUT, one after the other |
| append | APPEND of 4 KiB by eight sessions at once |
| structure | FETCH 1:* (ENVELOPE BODYSTRUCTURE), the first time (no index, no cache) and again |
| bodies | FETCH 1:* BODY.PEEK[] |
| header, text | SEARCH HEADER, SEARCH BODY for words that one message has |
| common | SEARCH BODY for a word that all messages have |
| sort | SORT (SUBJECT), the first time (no index, no cache) and again |
| thread | THREAD REFERENCES, the first time and again |
| sent | SEARCH SENTSINCE, the first time |
| store, noop | STORE n +FLAGS.SILENT and -FLAGS.SILENT, NOOP, one after the other |
| lmtp | deliveries of 4 KiB by LMTP, eight connections |
| select | SELECT of a large mailbox whose index is warm |
| idle | from LMTP's 250 to EXISTS in a session that idles |
"""

from __future__ import annotations

import argparse
import itertools
import os
import pwd
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.corpus import fill
from benchmarks.real import free_port, let_pass

ROWS = (
    *("login", "append", "structure", "bodies", "header", "text", "common"),
    *("sort", "thread", "sent", "store", "noop", "lmtp", "select", "idle"),
)
CONFIG = """\
base_dir = {root}/run
state_dir = {root}/run
log_path = {root}/log
ssl = no
protocols = imap lmtp
disable_plaintext_auth = no
auth_mechanisms = plain login
mail_location = maildir:~/
first_valid_uid = 1
mail_max_userip_connections = 0
postmaster_address = postmaster@bench.test
passdb {{
  driver = passwd-file
  args = {root}/users
}}
userdb {{
  driver = passwd-file
  args = {root}/users
}}
service imap-login {{
  inet_listener imap {{
    address = 127.0.0.1
    port = {imap}
  }}
  inet_listener imaps {{
    port = 0
  }}
}}
service lmtp {{
  inet_listener lmtp {{
    address = 127.0.0.1
    port = {lmtp}
  }}
}}
"""
MESSAGE = b"From: a@bench.test\r\nTo: b@bench.test\r\nSubject: one more\r\n\r\n" + (b"x" * 78 + b"\r\n") * 50


class Server:
    """One of the two, with a Maildir for each of `users`: `u0` (the corpus), `large`, `w0`… (to write to)."""

    def __init__(self, name: str, root: Path) -> None:
        self.name, self.root = name, root
        self.imap, self.lmtp = free_port(), free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def prepare(self, messages: int, large: int) -> None:
        owner = pwd.getpwnam("nobody")
        (self.root / "run").mkdir(parents=True)
        users = ["u0", "large", *(f"w{number}" for number in range(8))]
        home = f"{owner.pw_uid}:{owner.pw_gid}::{self.root}/mail"
        (self.root / "users").write_text("".join(f"{user}:{{PLAIN}}x:{home}/{user}\n" for user in users))
        (self.root / "dovecot.conf").write_text(CONFIG.format(root=self.root, imap=self.imap, lmtp=self.lmtp))
        for user in users:
            count = {"u0": messages, "large": large}.get(user, 0)
            fill(self.root / "mail" / user, count, alike=user == "large")
        for place in (self.root / "mail", *(self.root / "mail").rglob("*")):
            os.chown(place, owner.pw_uid, owner.pw_gid)
        let_pass(self.root)

    def start(self) -> None:
        config = str(self.root / "dovecot.conf")
        command = (
            ["dovecot", "-F", "-c", config]
            if self.name == "dovecot"
            else [sys.executable, "-m", "mailstack.mailbox", "--config", str(self.root)]
        )
        with open(self.root / "log", "ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        end = time.monotonic() + 20
        while time.monotonic() < end:
            try:
                Client(self.imap).close()
                socket.create_connection(("127.0.0.1", self.lmtp), 1).close()
            except (OSError, EOFError):
                time.sleep(0.05)
            else:
                return
        raise RuntimeError(f"{self.name} does not answer: see {self.root}/log")

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(30)
            self._process = None

    def forget(self) -> None:
        """Stop, and remove what makes the next reading of u0 a quick one; start again."""
        self.stop()
        for place in (self.root / "mail" / "u0").glob("*"):
            if place.name.startswith(("dovecot.index", "mailstack.")):
                place.unlink()
        self.start()


class Client:
    """An IMAP connection; `ask` returns the octets of the answer."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), 120)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.until(b"\n")

    def until(self, end: bytes) -> bytes:
        """Everything up to the line that begins with `end` (or ends so, when that is a line end)."""
        data = bytearray()
        while True:
            piece = self._socket.recv(1 << 18)
            if not piece:
                raise EOFError(bytes(data[-200:]))
            data += piece
            if data.endswith(b"\n") and (end == b"\n" or data.find(end, max(0, len(data) - 2000)) >= 0):
                return bytes(data)

    def ask(self, command: bytes) -> bytes:
        self._socket.sendall(b"t " + command + b"\r\n")
        return self.until(b"t OK")

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def close(self) -> None:
        self._socket.close()


def logged_in(server: Server, user: str = "u0", select: bool = True) -> Client:
    client = Client(server.imap)
    client.ask(b"LOGIN %b x" % user.encode())
    if select:
        client.ask(b"SELECT INBOX")
    return client


def rate(count: int, work: Callable[[], object]) -> float:
    """Times a second."""
    start = time.perf_counter()
    for _ in range(count):
        work()
    return count / (time.perf_counter() - start)


def at_once(workers: int, work: Callable[[int], int]) -> float:
    """What `workers` threads do, by the counts they return, a second."""
    done: list[int] = []
    threads = [
        threading.Thread(target=lambda number=number: done.append(work(number))) for number in range(workers)
    ]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(done) / (time.perf_counter() - start)


# ---- rows: a figure, larger is better


def login(server: Server) -> float:
    def once() -> None:
        client = Client(server.imap)
        client.ask(b"LOGIN w0 x")
        client.ask(b"SELECT INBOX")
        client.ask(b"LOGOUT")
        client.close()

    return rate(100, once)


def append(server: Server, each: int = 100) -> float:
    def work(number: int) -> int:
        client = logged_in(server, f"w{number}", select=False)
        for _ in range(each):
            client.ask(b"APPEND INBOX {%d+}\r\n%b" % (len(MESSAGE), MESSAGE))
        client.close()
        return each

    return at_once(8, work)


def timed(server: Server, command: bytes) -> float:
    client = logged_in(server)
    start = time.perf_counter()
    client.ask(command)
    elapsed = time.perf_counter() - start
    client.close()
    return elapsed


def lmtp(server: Server, each: int = 100) -> float:
    def work(number: int) -> int:
        session = LMTP(server.lmtp)
        for _ in range(each):
            session.deliver(f"w{number}")
        session.close()
        return each

    return at_once(8, work)


class LMTP:
    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), 60)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._file = self._socket.makefile("rb")
        self._file.readline()
        self._ask(b"LHLO bench\r\n")

    def _ask(self, data: bytes, answers: int = 1) -> None:
        self._socket.sendall(data)
        while answers:
            line = self._file.readline()
            if line[:1] not in b"23":
                raise RuntimeError(line.decode())
            answers -= line[3:4] == b" "

    def deliver(self, user: str) -> None:
        self._ask(b"MAIL FROM:<a@bench.test>\r\nRCPT TO:<%b>\r\nDATA\r\n" % user.encode(), 3)
        self._ask(MESSAGE + b".\r\n")

    def close(self) -> None:
        self._socket.close()


def select(server: Server) -> float:
    client = logged_in(server, "large")
    client.close()
    client = logged_in(server, "large", select=False)
    found = rate(10, lambda: client.ask(b"SELECT INBOX"))
    client.close()
    return found


def idle(server: Server) -> float:
    """Milliseconds, median of 50."""
    client = logged_in(server, "w0")
    session = LMTP(server.lmtp)
    client.send(b"t IDLE\r\n")
    client.until(b"+ ")
    times = []
    for _ in range(50):
        told: list[float] = []
        listener = threading.Thread(
            target=lambda told=told: (client.until(b"EXISTS"), told.append(time.perf_counter()))
        )
        listener.start()
        session.deliver("w0")
        accepted = time.perf_counter()
        listener.join()
        times.append((told[0] - accepted) * 1000)
        time.sleep(0.03)
    client.close()
    session.close()
    return statistics.median(times)


def measure(row: str, server: Server, messages: int) -> dict[str, float]:
    """The figures of a row: a name with its unit each."""
    u0 = sum(entry.stat().st_size for entry in os.scandir(server.root / "mail" / "u0" / "cur"))
    match row:
        case "login":
            return {"connect+LOGIN+SELECT+LOGOUT /s": login(server)}
        case "append":
            return {"APPEND, 8 sessions /s": append(server)}
        case "structure":
            server.forget()
            fetch = b"FETCH 1:* (ENVELOPE BODYSTRUCTURE)"
            return {
                "FETCH structure, first /s": messages / timed(server, fetch),
                "FETCH structure, again /s": messages / timed(server, fetch),
            }
        case "bodies":
            return {"FETCH bodies MB/s": u0 / 1e6 / timed(server, b"FETCH 1:* BODY.PEEK[]")}
        case "header":
            return {"SEARCH header /s": 1 / timed(server, b'SEARCH HEADER X-Note "rare 77"')}
        case "text":
            return {"SEARCH body text MB/s": u0 / 1e6 / timed(server, b'SEARCH BODY "needle 77 in"')}
        case "common":
            return {"SEARCH body text, common word MB/s": u0 / 1e6 / timed(server, b'SEARCH BODY "alpha"')}
        case "sort":
            server.forget()
            command = b"SORT (SUBJECT) UTF-8 ALL"
            return {
                "SORT (SUBJECT), first /s": 1 / timed(server, command),
                "SORT (SUBJECT), again /s": 1 / timed(server, command),
            }
        case "thread":
            server.forget()
            command = b"THREAD REFERENCES UTF-8 ALL"
            return {
                "THREAD, first /s": 1 / timed(server, command),
                "THREAD, again /s": 1 / timed(server, command),
            }
        case "sent":
            server.forget()
            return {"SEARCH SENTSINCE, first /s": 1 / timed(server, b"SEARCH SENTSINCE 10-Jan-2024")}
        case "store":
            client = logged_in(server)
            # Each sets a flag or takes it away again: none finds the message as it should be.
            steps = itertools.product(range(1, messages + 1), b"+-")
            return {
                "STORE /s": rate(
                    500, lambda: client.ask(b"STORE %d %cFLAGS.SILENT (\\Flagged)" % next(steps))
                )
            }
        case "noop":
            client = logged_in(server)
            return {"NOOP /s": rate(2000, lambda: client.ask(b"NOOP"))}
        case "lmtp":
            return {"LMTP deliveries, 8 connections /s": lmtp(server)}
        case "select":
            return {"SELECT of the large mailbox /s": select(server)}
        case "idle":
            return {"LMTP 250 to EXISTS ms": idle(server)}
    raise SystemExit(f"no such row: {row}; one of {' '.join(ROWS)}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mailbox")
    parser.add_argument("--messages", type=int, default=10_000)
    parser.add_argument("--large", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=None, help="where the Maildirs are made")
    parser.add_argument("rows", nargs="*", default=ROWS)
    options = parser.parse_args()
    if os.geteuid() != 0 or shutil.which("dovecot") is None:
        raise SystemExit("a comparison with Dovecot needs root and dovecot")
    with tempfile.TemporaryDirectory(prefix="mailstack-bench-", dir=options.folder) as folder:
        servers = [Server(name, Path(folder) / name) for name in ("mailstack", "dovecot")]
        for server in servers:
            print(f"preparing {server.name} ...", file=sys.stderr, flush=True)
            server.prepare(options.messages, options.large if "select" in options.rows else 0)
            server.start()
        try:
            print("| what | mailstack | Dovecot | ratio |\n|---|---|---|---|", flush=True)
            for row in options.rows:
                compare(row, servers, options.messages, options.rounds)
        finally:
            for server in servers:
                server.stop()


def compare(row: str, servers: list[Server], messages: int, rounds: int) -> None:
    found: dict[str, tuple[list[float], list[float]]] = {}
    for _ in range(rounds):
        for side, server in enumerate(servers):
            for name, figure in measure(row, server, messages).items():
                found.setdefault(name, ([], []))[side].append(figure)
    for name, sides in found.items():
        ours, theirs = (statistics.median(side) for side in sides)
        # A client may be told before the 250 is read: then it has not waited at all.
        ratio = theirs / max(0.01, ours) if name.endswith(" ms") else ours / theirs
        print(f"| {name} | {ours:.4g} | {theirs:.4g} | {ratio:.2f} x |", flush=True)


if __name__ == "__main__":
    main()
