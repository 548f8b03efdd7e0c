"""Floods and idle connections against our DNS server and BIND, and how legitimate clients fare meanwhile.

    python -m benchmarks.dns_flood [--seconds 5] [--rounds 1] [--rows REGEX]

Needs named (bind9). Both servers have the same zones and options, `tcp-clients` as it is by default. One
legitimate client asks by UDP every 5 ms, another opens a connection every 20 ms after it was answered; both
wait for a second and ask once. The table has the share of their questions that was answered, the median of
how long that took, what the attackers did in a second, and the most memory (PSS) that the server had.

The attackers run on the same two processors; where they send as much as they can, every server loses some.
"""

from __future__ import annotations

import argparse
import re
import secrets
import select
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import dns.exception
import dns.message
import dns.query

from tests.interop.dns_servers import WORLD, bind, configure, ours
from tests.ports import free_port

WAIT = 1.0
"""Seconds that a legitimate client waits for its answer; it asks once."""
PAUSE = 0.005
TCP_PAUSE = 0.02
HOST = "127.0.0.1"
CONNECTIONS = 2000
KEPT = ExitStack()
"""An attacker's sockets."""
QUESTION = "mail.rich.test A"
FORWARDED = "known.example A"
Attack = Callable[[int], Iterator[int]]
"""Goes on for ever, and says now and then how many things it has done since."""


@dataclass
class Client:
    """What a legitimate client has seen."""

    asked: int = 0
    times: list[float] = field(default_factory=list)

    def ask_by_tcp(self, port: int, question: str) -> None:
        """Ask once."""
        name, rdtype = question.split()
        self.asked += 1
        begun = time.monotonic()
        try:
            reply = dns.query.tcp(dns.message.make_query(name, rdtype), HOST, port=port, timeout=WAIT)
        except (OSError, EOFError, dns.exception.DNSException):
            return
        if reply.answer:
            self.times.append(time.monotonic() - begun)

    def ask_by_udp(self, port: int, question: str, seconds: float) -> None:
        """Ask every `PAUSE` seconds, whether or not what was asked before has been answered."""
        name, rdtype = question.split()
        wire = dns.message.make_query(name, rdtype).to_wire()[2:]
        begun: dict[int, float] = {}
        with datagrams(port, HOST) as sock:
            start = time.monotonic()
            while (now := time.monotonic()) < start + seconds + WAIT:
                if now < start + seconds and now >= start + self.asked * PAUSE:
                    self.asked += 1
                    begun[self.asked] = now
                    sent(sock, self.asked.to_bytes(2, "big") + wire)
                select.select([sock], [], [], PAUSE / 2)
                try:
                    data = sock.recv(4096)
                except OSError:
                    continue
                took = time.monotonic() - begun.pop(int.from_bytes(data[:2], "big"), 0)
                if data[6:8] != b"\0\0" and took <= WAIT:
                    self.times.append(took)

    @property
    def share(self) -> float:
        """Of the questions, those that were answered."""
        return len(self.times) / max(self.asked, 1)

    def __str__(self) -> str:
        middle = f"{median(self.times) * 1000:.1f} ms" if self.times else "-"
        return f"{self.share:6.1%} {middle:>9}"


def flooded(port: int, question: str, seconds: float) -> tuple[float, float]:
    """The share of legitimate questions (`NAME TYPE`) that were answered, and the flood's own a second."""
    with attacked("random names", port) as done:
        client = Client()
        begun = time.monotonic()
        client.ask_by_udp(port, question, seconds)
        elapsed = time.monotonic() - begun
    return client.share, sum(done) / elapsed


# ---- attackers; each in a process of its own


def question(labels: bytes, tail: bytes = b"\4rich\4test\0") -> bytes:
    """A query for A under some labels."""
    return struct.pack("!6H", 1, 0x0100, 1, 0, 0, 0) + labels + tail + struct.pack("!HH", 1, 1)


def random_names(port: int, tail: bytes = b"\4rich\4test\0") -> Iterator[int]:
    """Questions that nobody has asked before, as fast as it goes."""
    with datagrams(port, HOST) as sock:
        while True:
            yield sum(
                sent(sock, question(b"\x10" + secrets.token_hex(8).encode(), tail)) for _ in range(1000)
            )


def forwarded_names(port: int) -> Iterator[int]:
    """The same, of names that are not the server's."""
    yield from random_names(port, b"\7example\0")


def junk(port: int) -> Iterator[int]:
    """Octets at random, half of them behind the header of a query, from a thousand addresses."""
    socks = [KEPT.enter_context(datagrams(port, f"127.1.{n // 200}.{n % 200 + 1}")) for n in range(1000)]
    head = struct.pack("!6H", 1, 0, 1, 0, 0, 1)
    while True:
        yield sum(
            sent(sock, head * (n % 2) + secrets.token_bytes(10 + n % 90)) for n, sock in enumerate(socks)
        )


@contextmanager
def datagrams(port: int, source: str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        sock.bind((source, 0))
        sock.connect((HOST, port))
        yield sock


def sent(sock: socket.socket, data: bytes) -> bool:
    """Whether a datagram or a segment went out."""
    try:
        sock.send(data)
    except OSError:
        return False  # the socket is full, or nobody is there
    return True


def connections(port: int, begin: bytes, drip: bytes) -> Iterator[int]:
    """As many connections as there are to be, opened again when they end; each sends `drip` once a second."""
    held: dict[socket.socket, float] = {}
    while True:
        opened = 0
        while len(held) < CONNECTIONS and opened < 100:
            sock = socket.socket()
            sock.settimeout(0.05)
            try:
                sock.connect((HOST, port))
                sock.setblocking(False)
                sock.send(begin)
            except OSError:
                sock.close()
                break
            held[sock] = time.monotonic()
            opened += 1
        for sock, last in list(held.items()):
            try:
                if sock.recv(1) == b"":
                    raise ConnectionResetError
            except BlockingIOError:
                if drip and time.monotonic() - last > 1:
                    held[sock] = time.monotonic()
                    if sent(sock, drip):
                        continue
                else:
                    continue
            except OSError:
                pass
            del held[sock]
            sock.close()
        yield opened
        time.sleep(0.01)


def never_read(port: int) -> Iterator[int]:
    """Connections with thousands of questions for large answers, which are never read."""
    wire = struct.pack("!6H", 1, 0, 1, 0, 0, 0) + b"\3big\4rich\4test\0" + struct.pack("!HH", 16, 1)
    block = (len(wire).to_bytes(2, "big") + wire) * 2000
    held: list[socket.socket] = []
    while True:
        if len(held) < 140:
            sock = socket.create_connection((HOST, port))
            sock.setblocking(False)
            held.append(sock)
        yield sum(sent(sock, block) for sock in held)
        time.sleep(0.01)


def pipelined(port: int) -> Iterator[int]:
    """Four connections with random names, as fast as the answers are read."""
    ends = [KEPT.enter_context(socket.create_connection((HOST, port))) for _ in range(4)]
    while True:
        wires = [question(b"\x10" + secrets.token_hex(8).encode()) for _ in range(200)]
        data = b"".join(len(wire).to_bytes(2, "big") + wire for wire in wires)
        for sock in ends:
            sock.sendall(data)
        for sock in ends:
            with sock.makefile("rb", buffering=65536) as file:
                for _ in wires:
                    file.read(int.from_bytes(file.read(2), "big"))
        yield len(wires) * len(ends)


ATTACKS: dict[str, Attack] = {
    "nobody": lambda _port: iter(()),
    "random names": random_names,
    "junk from 1,000 addresses": junk,
    "2,000 connections that say nothing": lambda port: connections(port, b"", b""),
    "2,000 connections, an octet a second": lambda port: connections(port, b"\0\x40", b"x"),
    "2,000 connections with a length only": lambda port: connections(port, b"\xff\xff", b""),
    "140 connections that read nothing": never_read,
    "random names over TCP": pipelined,
    "random names for a forwarder": forwarded_names,
}


@contextmanager
def attacked(name: str, port: int) -> Iterator[list[int]]:
    """An attacker at work; the list gets what it does."""
    command = [sys.executable, "-m", "benchmarks.dns_flood", "--attack", name, "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    done: list[int] = []

    def count() -> None:
        assert process.stdout is not None
        done.extend(int(line) for line in process.stdout)

    reader = threading.Thread(target=count)
    reader.start()
    try:
        yield done
    finally:
        process.kill()
        process.wait()
        reader.join()


# ---- the table


def pss(pid: int) -> float:
    """Proportional set size in MiB."""
    match = re.search(r"^Pss:\s+(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
    assert match is not None
    return int(match[1]) / 1024


@contextmanager
def upstream() -> Iterator[int]:
    """A resolver that answers one name and nothing else."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((HOST, 0))
        port = int(sock.getsockname()[1])

        def answer() -> None:
            while True:
                data, peer = sock.recvfrom(4096)
                if b"\5known" in data[12:]:
                    end = data.index(b"\0", 12) + 5
                    record = b"\xc0\x0c" + struct.pack("!HHIH4B", 1, 1, 0, 4, 192, 0, 2, 1)
                    head = data[:2] + b"\x81\x80" + struct.pack("!4H", 1, 1, 0, 0)
                    sock.sendto(head + data[12:end] + record, peer)
                elif data == b"end":
                    return

        thread = threading.Thread(target=answer)
        thread.start()
        try:
            yield port
        finally:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
                other.sendto(b"end", (HOST, port))
            thread.join()


def measure(server: object, attack: str, options: str, seconds: float) -> str:
    """One cell of the table."""
    with tempfile.TemporaryDirectory(prefix="dns-flood-") as folder:
        root, port = Path(folder), free_port()
        root.chmod(0o755)
        configure(root / "s", port, options, WORLD)
        assert callable(server)
        with server(root / "s", port) as process, attacked(attack, port) as done:
            by_udp, by_tcp, most = Client(), Client(), 0.0
            time.sleep(1)  # the attack is under way
            done.clear()
            begun = time.monotonic()
            asks = FORWARDED if "forwarder" in attack else QUESTION
            udp = threading.Thread(target=by_udp.ask_by_udp, args=(port, asks, seconds))
            udp.start()
            while udp.is_alive():
                by_tcp.ask_by_tcp(port, QUESTION)
                most = max(most, pss(process.pid))
                time.sleep(TCP_PAUSE)
            rate = sum(done) / (time.monotonic() - begun)
    return f"{by_udp} {by_tcp} {rate:9,.0f}/s {most:6.1f} MiB"


def main() -> int:
    """Print one table; with --attack, be an attacker."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--rows", default="")
    parser.add_argument("--attack")
    parser.add_argument("--port", type=int)
    arguments = parser.parse_args()
    if arguments.attack:
        for done in ATTACKS[arguments.attack](arguments.port):
            print(done, flush=True)
        return 0
    print(f"{'':38}{'':8}{'UDP':>17}{'TCP':>17}{'the attack':>12}{'memory':>10}", flush=True)
    with upstream() as port:
        for attack in ATTACKS:
            if not re.search(arguments.rows, attack):
                continue
            options = "recursion no;"
            if "forwarder" in attack:
                options = (
                    f"recursion yes; forward only; dnssec-validation no; empty-zones-enable no;"
                    f" forwarders {{ {HOST} port {port}; }};"
                )
            for _ in range(arguments.rounds):
                for whose, server in (("ours", ours), ("named", bind)):
                    print(
                        f"{attack:38}{whose:8}{measure(server, attack, options, arguments.seconds)}",
                        flush=True,
                    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
