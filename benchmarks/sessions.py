"""What idle IMAP sessions cost in memory: connected, logged in, INBOX selected, IDLE.

    python -m benchmarks.sessions [--sessions 5000] [--users 500] [--messages 100000]
                                  [--engines mailstack,dovecot]

Plain text and TLS over loopback, to many addresses of 127/8. Memory is the proportional set size (PSS) of
all the server's processes, above what they take before the first session; for one large mailbox that many
sessions have open, above the first one's. Needs root and, for Dovecot beside it (with 100 sessions: it takes
a process for each), Debian's dovecot-imapd.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import socket
import ssl
import subprocess
import tempfile
import time
from pathlib import Path

from benchmarks.mailbox import Server
from benchmarks.real import free_port

TLS = """\
ssl = yes
ssl_cert = <{root}/cert.pem
ssl_key = <{root}/key.pem
"""


class Many(Server):
    """A server with `users` accounts `m0`… and `large`."""

    def __init__(self, name: str, root: Path, users: int, *, tls: bool) -> None:
        super().__init__(name, root)
        self.imaps = free_port()
        self.users = users
        self.tls = tls

    def prepare(self, messages: int, large: int) -> None:
        super().prepare(messages, large)
        with open(self.root / "users", "a") as file:
            owner = (self.root / "mail").stat()
            for number in range(self.users):
                home = f"{self.root}/mail/m{number}"
                file.write(f"m{number}:{{PLAIN}}x:{owner.st_uid}:{owner.st_gid}::{home}\n")
        config = (self.root / "dovecot.conf").read_text()
        if self.tls:
            certificate = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-subj", "/CN=localhost"]
            files = ["-keyout", f"{self.root}/key.pem", "-out", f"{self.root}/cert.pem"]
            command = ["openssl", "req", "-x509", "-nodes", "-days", "2", *certificate, *files]
            subprocess.run(command, check=True, capture_output=True)
            config = config.replace("ssl = no\n", TLS.format(root=self.root))
            config = re.sub(r"(inet_listener imaps \{\s*)port = 0", rf"\1port = {self.imaps}", config)
        config = config.replace("address = 127.0.0.1", "address = *")
        limits = "default_vsz_limit = 0\nservice imap {\n  process_limit = 100000\n}\n"
        (self.root / "dovecot.conf").write_text(config + (limits if self.name == "dovecot" else ""))

    def memory(self) -> int:
        """PSS of all its processes, in octets."""
        assert self._process is not None
        return sum(map(_pss, _family(self._process.pid)))


def _family(pid: int) -> list[int]:
    found = [pid]
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        children = [child for task in tasks for child in (task / "children").read_text().split()]
    except FileNotFoundError:
        return []
    for child in children:
        found += _family(int(child))
    return found


def _pss(pid: int) -> int:
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except FileNotFoundError:
        return 0  # it has just ended
    return int(text.partition("\nPss:")[2].split()[0]) * 1024


class Sleeper:
    """A session that idles."""

    def __init__(self, server: Many, number: int, user: str) -> None:
        target = f"127.0.{number >> 8 & 15}.{number & 255 or 1}"
        port = server.imaps if server.tls else server.imap
        self._socket = socket.create_connection((target, port), 60)
        if server.tls:
            self._socket = _context().wrap_socket(self._socket)
        self._until(b"* OK")
        for command in (f"LOGIN {user} x", "SELECT INBOX"):
            self._socket.sendall(b"t " + command.encode() + b"\r\n")
            self._until(b"t OK")
        self._socket.sendall(b"t IDLE\r\n")
        self._until(b"+ ")

    def _until(self, end: bytes) -> None:
        data = b""
        while not (data.endswith(b"\n") and (data.startswith(end) or b"\n" + end in data)):
            piece = self._socket.recv(1 << 16)
            if not piece:
                raise EOFError(data)
            data += piece

    def close(self) -> None:
        self._socket.close()


_made: list[ssl.SSLContext] = []


def _context() -> ssl.SSLContext:
    if not _made:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        _made.append(context)
    return _made[0]


def settled(server: Many) -> int:
    """Memory once it does not change any more."""
    last = server.memory()
    for _ in range(20):
        time.sleep(0.5)
        now = server.memory()
        if abs(now - last) < 100_000:
            return now
        last = now
    return last


def idle(server: Many, count: int) -> tuple[float, float, float]:
    """MB of the base, KB a session, sessions begun a second."""
    # Whoever has served one of each kind has loaded what it needs.
    Sleeper(server, 1, "m0").close()
    base = settled(server)
    start = time.monotonic()
    sleepers = [Sleeper(server, number, f"m{number % server.users}") for number in range(count)]
    took = time.monotonic() - start
    used = settled(server) - base
    for sleeper in sleepers:
        sleeper.close()
    return base / 1e6, used / count / 1e3, count / took


def shared(server: Many, count: int) -> tuple[float, float]:
    """MB of the large mailbox in the first session, KB of each further one."""
    Sleeper(server, 1, "m0").close()
    base = settled(server)
    first = Sleeper(server, 1, "large")
    one = settled(server)
    others = [Sleeper(server, number, "large") for number in range(2, count + 1)]
    all_of_them = settled(server)
    for sleeper in (first, *others):
        sleeper.close()
    # What the reading of the directory took for a while goes back meanwhile: that is no gain.
    return (one - base) / 1e6, max(0, all_of_them - one) / max(1, len(others)) / 1e3


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sessions")
    parser.add_argument("--sessions", type=int, default=5000)
    parser.add_argument("--users", type=int, default=500)
    parser.add_argument("--messages", type=int, default=100_000)
    parser.add_argument("--engines", default="mailstack")
    options = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = options.sessions * 2 + 1000
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(hard, wanted), max(hard, wanted)))
    with tempfile.TemporaryDirectory(prefix="mailstack-bench-") as folder:
        for name in options.engines.split(","):
            count = options.sessions if name == "mailstack" else min(options.sessions, 100)
            for tls in (False, True):
                root = Path(folder) / f"{name}-{'tls' if tls else 'plain'}"
                server = Many(name, root, options.users, tls=tls)
                server.prepare(0, options.messages if not tls else 0)
                os.chmod(root, 0o755)
                server.start()
                try:
                    base, each, speed = idle(server, count)
                    kind = "TLS" if tls else "plain text"
                    print(
                        f"| {name} | {count} idle sessions, {kind} | base {base:.1f} MB | {each:.1f} KB each "
                        f"| {speed:.0f} begun /s |",
                        flush=True,
                    )
                    if not tls:
                        one, more = shared(server, 50)
                        print(
                            f"| {name} | {options.messages} messages open in 50 sessions "
                            f"| {one:.1f} MB the first | {more:.1f} KB each further | |",
                            flush=True,
                        )
                finally:
                    server.stop()


if __name__ == "__main__":
    main()
