"""Clients that mean harm, and what becomes of one that does not: our MTA beside Postfix, in turn, in one run.

    python -m benchmarks.abuse [--seconds 10] [--scale 1] [ATTACK...]

Both run from the main.cf that mailstack renders for one domain, with queue and port of their own, and hand
their mail to the same mailbox service; Postfix has its usual 100 smtpd processes. The attacks are those of
`benchmarks.attackers`, each from many addresses and for so many seconds. All the while a polite client begins
a session with one message every 100 ms; a session that is not over in 20 s, or is refused, has failed.
Printed are the times of whole sessions and from the final dot to the file in new/, and the memory of every
process at its largest. Needs root and Debian's postfix.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import multiprocessing
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

from benchmarks import real
from benchmarks.attackers import ATTACKS, RECIPIENTS, STORM_DOMAIN, USER, Tally, attack
from benchmarks.mta import Sink
from benchmarks.stack import Stack
from mailstack.net.loop import run

EVERY = 0.1
"""Seconds between two polite sessions."""
LIMIT = 20.0
"""Seconds in which a polite session has to be over, and its message delivered."""
SPEC = """\
domains:
  bench.test:
    users:
      u0: {password: secret}
mta: {postfix: {smtpd_peername_lookup: "no"}}
mailbox: {allow_plaintext_auth: true}
"""
_CREATED, _MOVED_TO = 0x100, 0x80
"""Events of inotify(7)."""


# ---- the servers


class Tree:
    """A copy of the rendered postfix/ folder, for a queue and a port of its own."""

    def __init__(self, root: Path, rendered: Path, sink: int, processes: str) -> None:
        """`sink`: who takes the storms, by port; `processes`: maxproc of smtpd, `""`: as it is rendered."""
        self.root = root
        self.port = real.free_port()
        self.etc = root / "etc"
        root.mkdir()
        shutil.copytree(rendered, self.etc)
        text = (self.etc / "main.cf").read_text().replace(str(rendered), str(self.etc))
        text = re.sub(r"(?m)^(queue|data)_directory = .*$", "", text)
        text += (
            f"queue_directory = {root}/queue\ndata_directory = {root}/data\n"
            f"maillog_file = {root}/log\nmaillog_file_prefixes = {root}\n"
        )
        (self.etc / "main.cf").write_text(text)
        with (self.etc / "transport").open("a") as routes:
            routes.write(f"{STORM_DOMAIN} smtp:[127.0.0.1]:{sink}\n")
            for number in range(RECIPIENTS):
                place = f"127.0.{1 + number // 250}.{1 + number % 250}"
                routes.write(f"d{number}.{STORM_DOMAIN} smtp:[{place}]:{sink}\n")
        self._master(processes)

    def _master(self, processes: str) -> None:
        """One smtpd line for our port in place of those for the network."""
        kept, workers, network = [], "", False
        for line in (self.etc / "master.cf").read_text().splitlines():
            fields = line.split()
            if fields and line[0] not in " #":
                network = fields[1] == "inet"
                workers = workers or (fields[6] if network else "")
            if not network:
                kept.append(line)
        first = f"127.0.0.1:{self.port} inet n - n - {processes or workers} smtpd"
        (self.etc / "master.cf").write_text("\n".join([first, *kept, ""]))

    def answered(self) -> None:
        """Wait for the banner. Raises `RuntimeError`."""
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            try:
                with socket.create_connection(("127.0.0.1", self.port), 1) as sock:
                    if sock.recv(100):
                        return
            except OSError:
                time.sleep(0.02)
        raise RuntimeError(f"no answer: {self.root}/log")


@contextmanager
def ours(tree: Tree) -> Iterator[int]:
    """Our MTA on the tree; its master's process id."""
    with open(tree.root / "log", "wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "mailstack.mta", "--config", str(tree.etc)], stdout=log, stderr=log
        )
    try:
        tree.answered()
        yield process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(15)


@contextmanager
def postfix(tree: Tree) -> Iterator[int]:
    """Postfix on the tree; its master's process id."""
    real.make_folders(tree.root)
    subprocess.run(["postalias", "-c", str(tree.etc), f"hash:{tree.etc}/aliases"], check=True)
    command = ["postfix", "-c", str(tree.etc)]
    subprocess.run([*command, "start"], check=True, capture_output=True)
    try:
        tree.answered()
        yield int((tree.root / "queue/pid/master.pid").read_text())
    finally:
        subprocess.run([*command, "stop"], check=False, capture_output=True)


SIDES = {"mailstack": ours, "Postfix": postfix}


# ---- the polite client


@dataclass
class Manners:
    """What a polite client has met with. Times in seconds."""

    sessions: list[float] = field(default_factory=list)
    deliveries: list[float] = field(default_factory=list)
    failures: Counter[str] = field(default_factory=Counter)
    """Of sessions, by reason."""
    lost: int = 0
    """Messages that were taken, and not delivered in time."""


def be_polite(port: int, maildir: Path, pipe: Connection) -> None:
    """Send a message every `EVERY` seconds until the pipe has something to say; then send it a `Manners`."""
    manners = Manners()
    dotted: dict[str, float] = {}
    arrivals = Arrivals(maildir / "new")

    async def one(number: int) -> None:
        started = time.monotonic()
        try:
            async with asyncio.timeout(LIMIT):
                await session(port, f"{os.getpid()}.{number}", dotted)
        except TimeoutError:
            manners.failures["not in time"] += 1
        except (OSError, asyncio.IncompleteReadError):
            manners.failures["no connection, or lost"] += 1
        except Refused as refused:
            manners.failures[str(refused)] += 1
        else:
            manners.sessions.append(time.monotonic() - started)

    def collect() -> None:
        now = time.monotonic()
        for name in arrivals.read():
            sent = dotted.pop(name, None)
            if sent is not None:
                manners.deliveries.append(now - sent)

    async def whole() -> None:
        asyncio.get_running_loop().add_reader(arrivals.fd, collect)
        begun, number, tasks = time.monotonic(), 0, []
        while not pipe.poll():
            tasks.append(asyncio.create_task(one(number)))
            number += 1
            await asyncio.sleep(max(0.0, begun + number * EVERY - time.monotonic()))
        await asyncio.wait(tasks)
        deadline = time.monotonic() + LIMIT
        while dotted and time.monotonic() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(0.05)

    run(whole())
    manners.lost = len(dotted)
    pipe.send(manners)


class Refused(Exception):  # noqa: N818
    """The server has said no; `str()` is the reply's code and command."""


async def session(port: int, name: str, dotted: dict[str, float]) -> None:
    """One session with one message; when its final dot went out is noted under its `name`."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=("127.0.9.9", 0))

    async def reply(after: str) -> None:
        while (line := await reader.readline())[3:4] == b"-":
            pass
        if not line:
            raise ConnectionResetError
        if line[:1] not in b"23":
            raise Refused(f"{line[:3].decode()} after {after}")

    try:
        await reply("connect")
        for command in ("EHLO polite.test", "MAIL FROM:<p@bench.test>", f"RCPT TO:<{USER}>", "DATA"):
            writer.write(f"{command}\r\n".encode())
            await reply(command[:4])
        writer.write(f"Subject: {name}\r\n\r\n".encode() + (b"x" * 78 + b"\r\n") * 50 + b".\r\n")
        dotted[name] = time.monotonic()
        try:
            await reply("the final dot")
        except BaseException:
            del dotted[name]
            raise
        writer.write(b"QUIT\r\n")
        await reply("QUIT")
    finally:
        writer.close()


class Arrivals:
    """Tells of messages that come into a folder new/, by inotify(7), and takes them away."""

    def __init__(self, folder: Path) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._folder = folder
        self.fd = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if libc.inotify_add_watch(self.fd, os.fsencode(folder), _CREATED | _MOVED_TO) < 0:
            raise OSError(ctypes.get_errno(), f"inotify: {folder}")

    def read(self) -> Iterator[str]:
        """The subjects of messages that have come."""
        data = os.read(self.fd, 65536)
        while data:
            length = int.from_bytes(data[12:16], sys.byteorder)
            path = self._folder / os.fsdecode(data[16 : 16 + length].rstrip(b"\0"))
            data = data[16 + length :]
            with path.open("rb") as file:
                found = re.search(rb"\nSubject: (\S+)", file.read(4096))
            path.unlink()
            if found is not None:
                yield found[1].decode()


# ---- memory


class Memory:
    """The largest sizes of a process and its children, by name. PSS, in octets."""

    def __init__(self, master: int) -> None:
        self._master = master
        self.processes: Counter[str] = Counter()
        """The largest process of a name."""
        self.counts: Counter[str] = Counter()
        self.total = 0

    def look(self) -> None:
        sizes: dict[str, list[int]] = {}
        for pid in (self._master, *_children(self._master)):
            try:
                rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
                name = "master" if pid == self._master else _name(pid)
            except OSError:
                continue
            found = re.search(r"(?m)^Pss:\s+(\d+)", rollup)
            sizes.setdefault(name, []).append(int(found[1]) * 1024 if found else 0)
        for name, found_sizes in sizes.items():
            self.processes[name] = max(self.processes[name], *found_sizes)
            self.counts[name] = max(self.counts[name], len(found_sizes))
        self.total = max(self.total, sum(map(sum, sizes.values())))

    def __str__(self) -> str:
        words = [
            f"{name} {f'{self.counts[name]} x ' if self.counts[name] > 1 else ''}{size / 2**20:.0f}"
            for name, size in self.processes.most_common(4)
        ]
        return f"{self.total / 2**20:.0f} MB ({', '.join(words)})"


def _name(pid: int) -> str:
    """Of a child of a master. Those of ours have their parent's name; one of them holds the queue's lock."""
    word = Path(f"/proc/{pid}/cmdline").read_bytes().partition(b"\0")[0]
    if b"python" not in word:
        return os.path.basename(word.decode())
    files = [os.readlink(entry.path) for entry in os.scandir(f"/proc/{pid}/fd") if int(entry.name) < 64]
    return "qmgr" if any(name.endswith("/qmgr.lock") for name in files) else "smtpd"


def _children(pid: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


# ---- a run


@dataclass
class Outcome:
    """One attack on one server."""

    manners: Manners
    memory: Memory
    tally: Tally


def measure(port: int, master: int, maildir: Path, name: str, seconds: float, scale: float) -> Outcome:
    """One attack; `""` is none."""
    spawn = multiprocessing.get_context("spawn")
    near, far = spawn.Pipe()
    client = spawn.Process(target=be_polite, args=(port, maildir, far))
    memory, tally = Memory(master), Counter[str]()
    client.start()
    far.close()
    time.sleep(1.0)
    end = time.monotonic() + seconds
    reading, writing = spawn.Pipe(duplex=False)
    attacker = spawn.Process(target=_attack, args=(name, port, seconds, scale, writing)) if name else None
    if attacker is not None:
        attacker.start()
        writing.close()
    try:
        while attacker.is_alive() if attacker is not None else time.monotonic() < end:
            memory.look()
            time.sleep(0.5)
        if attacker is not None:
            tally = reading.recv()
        memory.look()
        near.send("stop")
        manners: Manners = near.recv()
        client.join()
    finally:
        for process in (client, attacker):
            if process is not None and process.is_alive():
                process.kill()
    return Outcome(manners, memory, tally)


def _attack(name: str, port: int, seconds: float, scale: float, pipe: Connection) -> None:
    pipe.send(attack(name, port, seconds, scale))


def spread(times: list[float]) -> str:
    """Median, 95th percentile and maximum, in milliseconds."""
    if not times:
        return "-"
    ordered = sorted(times)
    middle, late = ordered[len(ordered) // 2], ordered[int(len(ordered) * 0.95)]
    values = (middle * 1000, late * 1000, ordered[-1] * 1000)
    return " / ".join(f"{value:.0f}" if value >= 10 else f"{value:.1f}" for value in values)


def row(name: str, side: str, outcome: Outcome) -> str:
    manners = outcome.manners
    failed = sum(manners.failures.values()) + manners.lost
    share = failed / max(1, len(manners.sessions) + sum(manners.failures.values()))
    return (
        f"| {name or 'none'} | {side} | {spread(manners.sessions)} | {spread(manners.deliveries)} "
        f"| {share:.0%} | {outcome.memory} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("attacks", nargs="*", default=["", *ATTACKS], metavar="ATTACK")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--verbose", action="store_true", help="say what came of the attackers, too")
    parser.add_argument("--side", choices=SIDES, action="append")
    options = parser.parse_args()
    missing = real.available()
    if missing:
        raise SystemExit(f"benchmarks.abuse: needs {missing}")
    print("| attack | | session, ms: median / p95 / max | delivery, ms | failed | memory (PSS) |")
    print("|---|---|---|---|---|---|", flush=True)
    with (
        tempfile.TemporaryDirectory(prefix="mailstack-abuse-") as folder,
        Stack(Path(folder) / "stack", SPEC) as stack,
        Sink(lmtp=False, everywhere=True) as sink,
    ):
        real.let_pass(Path(folder), stack.state / "run/auth-client")
        maildir = stack.maildir(USER)
        stack.cli("send", "--to", USER, check=True)
        while not (maildir / "new").is_dir() or not os.listdir(maildir / "new"):
            time.sleep(0.05)
        for name in options.attacks:
            for side in options.side or SIDES:
                processes = "100" if side == "Postfix" else ""
                tree = Tree(
                    Path(folder) / f"{name or 'none'}-{side}",
                    stack.state / "rendered/postfix",
                    sink.port,
                    processes,
                )
                with SIDES[side](tree) as master:
                    outcome = measure(tree.port, master, maildir, name, options.seconds, options.scale)
                print(row(name, side, outcome), flush=True)
                if options.verbose:
                    print(f"{dict(outcome.tally)} {dict(outcome.manners.failures)}", file=sys.stderr)


if __name__ == "__main__":
    main()
