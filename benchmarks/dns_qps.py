"""Our DNS server beside BIND: queries a second, start-up, memory.

    python -m benchmarks.dns_qps [--seconds 3] [--names 5000]

Needs named (bind9) and dnsperf. Both servers serve the same zones from the same named.conf on 127.0.0.1, one
after the other; dnsperf runs beside them on the same processors. Rounds alternate between the two, and the
best one counts. Three loads: five names over and over, random names of a larger zone, five names over TCP.
"""

from __future__ import annotations

import argparse
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from tests.interop.dns_servers import WORLD, bind, configure, ours
from tests.ports import free_port

Starter = Callable[[Path, int], AbstractContextManager["subprocess.Popen[bytes]"]]

FEW = """rich.test MX
mail.rich.test A
_imaps._tcp.rich.test SRV
4.2.0.192.in-addr.arpa PTR
nothere.rich.test A
"""
ROUNDS = 2


def main() -> int:
    """Print one table. Exit status 4 when a tool is missing."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--names", type=int, default=5000)
    arguments = parser.parse_args()
    for tool in ("named", "dnsperf"):
        if shutil.which(tool) is None:
            print(f"needs {tool}", file=sys.stderr)
            return 4
    with tempfile.TemporaryDirectory(prefix="dns-qps-") as folder:
        root = Path(folder)
        root.chmod(0o755)
        large = root / "large.zone"
        write_large(large, arguments.names)
        loads = write_loads(root, arguments.names)
        results: dict[str, dict[str, float]] = {"ours": {}, "named": {}}
        for _ in range(ROUNDS):
            for name, starter in (("ours", ours), ("named", bind)):
                measure(name, starter, root, large, loads, arguments.seconds, results[name])
    print(f"{'':28}{'ours':>12}{'named':>12}{'ratio':>8}")
    for row in results["ours"]:
        mine, theirs = results["ours"][row], results["named"][row]
        print(f"{row:28}{mine:12.2f}{theirs:12.2f}{mine / theirs:8.2f}")
    return 0


def write_large(path: Path, count: int) -> None:
    """A zone of `count` hosts and as many MX sets."""
    lines = ["$TTL 3600", "@ IN SOA ns hostmaster 1 3600 600 86400 300", "@ NS ns", "ns A 192.0.2.1"]
    for number in range(count):
        lines.append(f"host{number} A 10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}")
        lines.append(f"d{number} MX 10 host{number}")
    path.write_text("\n".join(lines) + "\n")


def write_loads(root: Path, count: int) -> dict[str, list[str]]:
    """dnsperf's arguments by the name of the load."""
    few, many = root / "few.txt", root / "many.txt"
    few.write_text(FEW)
    chance = random.Random(1)  # the same questions each time
    asked = [f"host{chance.randrange(count)}.large.test A" for _ in range(50_000)]
    asked += [f"d{chance.randrange(count)}.large.test MX" for _ in range(50_000)]
    chance.shuffle(asked)
    many.write_text("\n".join(asked) + "\n")
    return {
        "five names, queries/s": ["-d", str(few)],
        f"{2 * count} names, queries/s": ["-d", str(many)],
        "five names TCP, queries/s": ["-d", str(few), "-m", "tcp"],
    }


def measure(
    name: str,
    starter: Starter,
    root: Path,
    large: Path,
    loads: dict[str, list[str]],
    seconds: int,
    into: dict[str, float],
) -> None:
    """One round of one server; the better of two rounds stays in `into`."""
    port = free_port()
    home = configure(root / name, port)
    begun = time.monotonic()
    with starter(home, port) as process:
        keep(into, "start, small zones, s", time.monotonic() - begun, best=min)
        keep(into, "memory, idle, MiB (PSS)", pss(process.pid), best=min)
    zones = WORLD + f'zone "large.test" {{ type master; file "{large}"; }};\n'
    home = configure(root / name, port, "recursion no;", zones)
    begun = time.monotonic()
    with starter(home, port) as process:
        keep(
            into,
            f"start, {len(large.read_bytes().splitlines())} records, s",
            time.monotonic() - begun,
            best=min,
        )
        for title, arguments in loads.items():
            keep(into, title, dnsperf(port, seconds, arguments), best=max)
        keep(into, "memory after it, MiB (PSS)", pss(process.pid), best=min)


def keep(into: dict[str, float], title: str, value: float, best: Callable[[float, float], float]) -> None:
    into[title] = best(into.get(title, value), value)


def dnsperf(port: int, seconds: int, arguments: list[str]) -> float:
    command = ["dnsperf", "-s", "127.0.0.1", "-p", str(port), "-l", str(seconds), "-c", "4", *arguments]
    output = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 30, check=True).stdout
    match = re.search(r"Queries per second:\s+([\d.]+)", output)
    lost = re.search(r"Queries lost:\s+(\d+)", output)
    if match is None or lost is None or int(lost[1]) > 100:
        raise RuntimeError(output)
    return float(match[1])


def pss(pid: int) -> float:
    """Proportional set size in MiB."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    match = re.search(r"^Pss:\s+(\d+) kB", text, re.MULTILINE)
    assert match is not None
    return int(match[1]) / 1024


if __name__ == "__main__":
    sys.exit(main())
