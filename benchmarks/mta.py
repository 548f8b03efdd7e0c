"""The MTA alone beside Postfix, both from the same main.cf and master.cf, in turn, in one run.

    python -m benchmarks.mta [--messages 2000] [--sessions 20 1] [--rounds 5] [SCENARIO...]

| scenario | what happens to a message | the clock stops when |
|---|---|---|
| maildir | virtual(8) puts it into a Maildir | the last one stands in new/ |
| lmtp | lmtp(8) hands it to Postfix's smtp-sink | the sink has had the last one |
| relay | smtp(8) hands it to the sink | the sink has had the last one |
| latency | as maildir, one message at a time | (median from the final dot to the file) |

The load is Postfix's smtp-source: a connection for every message, 4 KiB. Both sides flush to disk before they
say 250 and before they report delivery. Needs root and Debian's postfix.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from benchmarks import real

SIZE = 4096
LIMIT = 120.0
"""Seconds after which a run is given up."""
USERS = ["u0", "u1", "u2", "u3"]
SCENARIOS = ("maildir", "lmtp", "relay", "latency")


class Ours:
    """Our MTA on the configuration of a `real.Postfix` that is not running: another port, queue and mail."""

    def __init__(self, root: Path, users: list[str], extra: str = "") -> None:
        self._config = real.Postfix(root, users, extra)
        self.port = self._config.port
        (root / "queue").chmod(0o755)

    def __enter__(self) -> Ours:
        log = open(self._config.root / "log", "wb")
        command = [sys.executable, "-m", "mailstack.mta", "--config", str(self._config.root / "etc")]
        self._process = subprocess.Popen(command, stdout=log, stderr=log)
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
            except OSError:
                time.sleep(0.02)
            else:
                return self
        raise RuntimeError(f"our MTA does not answer: {self._config.root}/log")

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(15)

    def maildirs(self) -> list[Path]:
        return self._config.maildirs()


class Sink:
    """Postfix's smtp-sink, counting messages."""

    def __init__(self, *, lmtp: bool, everywhere: bool = False) -> None:
        """`everywhere`: it listens on every address, and does not count."""
        self.port = real.free_port()
        command = [
            "smtp-sink",
            "-u",
            "nobody",
            *(["-L"] if lmtp else []),
            *(["-m", "2000"] if everywhere else ["-c"]),
            f"{'' if everywhere else '127.0.0.1'}:{self.port}",
            "1000",
        ]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        os.set_blocking(self._process.stdout.fileno(), False)
        self._text = b""

    def __enter__(self) -> Sink:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()

    def count(self) -> int:
        """Messages so far: the counters are written again and again, `sess=.. quit=.. mesg=..`."""
        assert self._process.stdout is not None
        self._text = (self._text + (self._process.stdout.read() or b""))[-200:]
        found = re.findall(rb"mesg=(\d+)", self._text.rpartition(b"\r")[0])
        return int(found[-1]) if found else 0


def load(port: int, users: list[str], messages: int, sessions: int, count: Callable[[], int]) -> float:
    """Messages per second from the first connection to the last delivery."""
    before, share = count(), messages // len(users)
    started = time.perf_counter()
    sources = [
        subprocess.Popen(
            f"smtp-source -s {max(1, sessions // len(users))} -m {share} -l {SIZE} -f sender@bench.test "
            f"-t {user}@bench.test 127.0.0.1:{port}".split()
        )
        for user in users
    ]
    try:
        for source in sources:
            if source.wait(LIMIT) != 0:
                raise RuntimeError("smtp-source failed")
        while (now := count() - before) < share * len(users):
            if time.perf_counter() - started > LIMIT:
                raise RuntimeError(f"only {now} of {share * len(users)} were delivered")
            time.sleep(0.005)
    finally:
        for source in sources:
            source.kill()
    return share * len(users) / (time.perf_counter() - started)


def delivered(maildirs: list[Path]) -> Callable[[], int]:
    return lambda: sum(len(os.listdir(maildir / "new")) for maildir in maildirs)


def latency(port: int, maildir: Path, messages: int) -> float:
    """Median milliseconds from the final dot to the file in new/."""
    times = []
    for number in range(messages):
        with socket.create_connection(("127.0.0.1", port), 10) as sock, sock.makefile("rwb") as file:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            file.readline()
            for line in (
                b"HELO bench.test",
                b"MAIL FROM:<s@bench.test>",
                b"RCPT TO:<u0@bench.test>",
                b"DATA",
            ):
                file.write(line + b"\r\n")
                file.flush()
                file.readline()
            file.write(b"Subject: %d\r\n\r\n" % number + (b"x" * 78 + b"\r\n") * 50)
            file.flush()
            before = len(os.listdir(maildir / "new"))
            file.write(b".\r\n")
            started = time.perf_counter()
            file.flush()
            while len(os.listdir(maildir / "new")) == before and time.perf_counter() - started < 10:
                time.sleep(0.0001)
            times.append(time.perf_counter() - started)
            file.readline()
            file.write(b"QUIT\r\n")
        for path in (maildir / "new").iterdir():
            path.unlink()
        time.sleep(0.02)  # both sides at rest again
    return statistics.median(times) * 1000


def measure(scenario: str, messages: int, sessions: int, rounds: int) -> list[tuple[float, float]]:
    """Pairs of (ours, Postfix): messages/s, or milliseconds."""
    users = USERS[: max(1, min(len(USERS), sessions // 5))]
    with (
        tempfile.TemporaryDirectory(prefix="mailstack-bench-") as folder,
        Sink(lmtp=scenario == "lmtp") as sink,
    ):
        extra = {
            "lmtp": f"virtual_transport = lmtp:inet:127.0.0.1:{sink.port}\n",
            "relay": f"virtual_transport = smtp:[127.0.0.1]:{sink.port}\n",
        }.get(scenario, "")
        root = Path(folder)
        with (
            Ours(root / "ours", users, extra) as ours,
            real.Postfix(root / "postfix", users, extra) as postfix,
        ):

            def run(side: Ours | real.Postfix, count: int) -> float:
                if scenario == "latency":
                    return latency(side.port, side.maildirs()[0], max(20, count // 20))
                counter = delivered(side.maildirs()) if scenario == "maildir" else sink.count
                return load(side.port, users, count, sessions, counter)

            for side in (ours, postfix):
                run(side, messages // 5)
            return [(run(ours, messages), run(postfix, messages)) for _ in range(rounds)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("scenarios", nargs="*", default=SCENARIOS, metavar="SCENARIO")
    parser.add_argument("--messages", type=int, default=2000)
    parser.add_argument("--sessions", type=int, nargs="*", default=[20, 1])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    missing = real.available()
    if missing:
        raise SystemExit(f"benchmarks.mta: needs {missing}")
    print("| scenario | sessions | mailstack | Postfix | ratio |")
    print("|---|---|---|---|---|")
    for scenario in options.scenarios:
        for sessions in [1] if scenario == "latency" else options.sessions:
            count = options.messages if sessions > 1 else options.messages // 4
            pairs = measure(scenario, count, sessions, options.rounds)
            ours = statistics.median(a for a, _ in pairs)
            theirs = statistics.median(b for _, b in pairs)
            ratio = statistics.median(a / b for a, b in pairs)
            unit = "ms" if scenario == "latency" else "/s"
            print(
                f"| {scenario} | {sessions} | {ours:.4g} {unit} | {theirs:.4g} {unit} | {ratio:.2f} x |",
                flush=True,
            )


if __name__ == "__main__":
    main()
