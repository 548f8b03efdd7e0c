"""Messages per second from connection to Maildir: ours beside Postfix, in turn, in one run.

    python -m benchmarks.smtp [--messages 2000] [--sessions 20] [--rounds 5]

The load is Postfix's own `smtp-source` (a new connection for every message, 4 KiB), over loopback. Both
sides promise the same: the message is on disk before 250, and again before delivery is reported. The
clock stops when the last message stands in `new/`.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks import real
from benchmarks.stack import Stack, bench_spec

SIZE = 4096
USERS = [f"u{number}" for number in range(8)]


def count(maildirs: list[Path]) -> int:
    """Messages delivered so far."""
    total = 0
    for maildir in maildirs:
        for name in ("new", "cur"):
            folder = maildir / name
            if folder.is_dir():
                total += sum(1 for _ in os.scandir(folder))
    return total


def run(port: int, maildirs: list[Path], messages: int, sessions: int, limit: float = 120.0) -> float:
    """Send, wait until all are delivered, return messages per second."""
    before = count(maildirs)
    share = messages // len(maildirs)
    started = time.perf_counter()
    load = f"smtp-source -s {max(1, sessions // len(maildirs))} -m {share} -l {SIZE} -f sender@bench.test"
    sources = [
        subprocess.Popen([*load.split(), "-t", f"{maildir.name}@bench.test", f"127.0.0.1:{port}"])
        for maildir in maildirs
    ]
    try:
        for source in sources:
            if source.wait(limit) != 0:
                raise RuntimeError("smtp-source failed")
        wanted = before + share * len(maildirs)
        while count(maildirs) < wanted:
            if time.perf_counter() - started > limit:
                raise RuntimeError(f"only {count(maildirs) - before} of {wanted - before} were delivered")
            time.sleep(0.005)
    finally:
        for source in sources:
            source.kill()
    return share * len(maildirs) / (time.perf_counter() - started)


def compare(messages: int, sessions: int, rounds: int) -> list[tuple[float, float]]:
    """Pairs of (ours, Postfix) in messages/s, measured in turn."""
    users = USERS[: max(1, min(len(USERS), sessions // 5))]
    pairs = []
    with tempfile.TemporaryDirectory(prefix="mailstack-bench-") as folder:
        root = Path(folder)
        with (
            Stack(root / "ours", bench_spec(users)) as ours,
            real.Postfix(root / "postfix", users) as postfix,
        ):
            maildirs = [ours.maildir(f"{user}@bench.test") for user in users]
            sides: list[Callable[[int], float]] = [
                lambda n: run(ours.port("smtp"), maildirs, n, sessions),
                lambda n: run(postfix.port, postfix.maildirs(), n, sessions),
            ]
            for side in sides:
                side(messages // 5)
            pairs = [(sides[0](messages), sides[1](messages)) for _ in range(rounds)]
    return pairs


def report(messages: int, sessions: int, rounds: int) -> str:
    """The table row for one load."""
    pairs = compare(messages, sessions, rounds)
    ours = statistics.median(a for a, _ in pairs)
    theirs = statistics.median(b for _, b in pairs)
    ratio = statistics.median(a / b for a, b in pairs)
    return f"| {sessions:>3} sessions | {ours:8.0f} | {theirs:8.0f} | {ratio:5.2f} x |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--messages", type=int, default=2000)
    parser.add_argument("--sessions", type=int, nargs="*", default=[20, 1])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    missing = real.available()
    if missing:
        raise SystemExit(f"benchmarks.smtp: needs {missing}")
    print("| load | mailstack msg/s | Postfix msg/s | ratio |")
    print("|---|---|---|---|")
    for sessions in options.sessions:
        print(
            report(options.messages if sessions > 1 else options.messages // 4, sessions, options.rounds),
            flush=True,
        )


if __name__ == "__main__":
    main()
