"""Our DNS server beside BIND, both forwarding: answers out of the cache, and such that have to be asked for.

    python -m benchmarks.dns_forward [--seconds 3] [--rounds 3] [--names 10000]

Needs named (bind9) and dnsperf. The forwarder is the same named for both, with a zone of hosts; what is
measured stands before it, one after the other, and dnsperf beside it all on the same processors. Rounds
alternate between the two; the table has the medians, and the ratio of ours to named's. The cache is warm for
all rows but the last, for which every question is a new name.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path
from statistics import median

from benchmarks.dns_qps import dnsperf, processor, pss, started, write_large, zone
from tests.interop.dns_servers import configure
from tests.ports import free_ports

TOOLS = ("named", "dnsperf")
FEW = "host1.large.test A\nhost2.large.test A\nhost3.large.test AAAA\nnothere.large.test A\nlarge.test NS\n"


def main() -> int:
    """Print one table. Exit status 4 when a tool is missing."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--names", type=int, default=10_000)
    arguments = parser.parse_args()
    for tool in TOOLS:
        if shutil.which(tool) is None:
            print(f"needs {tool}", file=sys.stderr)
            return 4
    found: dict[str, dict[str, list[float]]] = {"ours": {}, "named": {}}
    with tempfile.TemporaryDirectory(prefix="dns-forward-") as folder:
        root = Path(folder)
        root.chmod(0o755)
        write_large(root / "large.zone", arguments.names)
        for _ in range(arguments.rounds):
            for name, into in found.items():
                for title, value in measure(name, root, arguments.names, arguments.seconds).items():
                    into.setdefault(title, []).append(value)
    print(f"{'':44}{'ours':>12}{'named':>12}{'ratio':>8}")
    for title in found["ours"]:
        mine, theirs = median(found["ours"][title]), median(found["named"][title])
        print(f"{title:44}{mine:12.2f}{theirs:12.2f}{mine / theirs:8.2f}")
    return 0


def measure(name: str, root: Path, count: int, seconds: int) -> dict[str, float]:
    """One round of one server."""
    above, port = free_ports(2)
    upstream, home = root / "upstream", root / name
    for place in (upstream, home):
        shutil.rmtree(place, ignore_errors=True)
    configure(upstream, above, "recursion no;", zone("large.test", root / "large.zone"))
    options = (
        f"recursion yes; allow-recursion {{ any; }}; forward only; dnssec-validation no;"
        f" forwarders {{ 127.0.0.1 port {above}; }};"
    )
    configure(home, port, options, "")
    few, many, new = root / "few.txt", root / "many.txt", root / "new.txt"
    few.write_text(FEW)
    many.write_text("".join(f"host{number}.large.test A\n" for number in range(count)))
    new.write_text("".join(f"new{number}.large.test A\n" for number in range(1_000_000)))
    found: dict[str, float] = {}
    with (
        started("named", upstream, above, "host1.large.test"),
        started(name, home, port, "host1.large.test") as process,
    ):
        for title, file, more in (
            ("five names", few, ()),
            (f"{count} names", many, ()),
            (f"{count} names, TCP", many, ("-m", "tcp")),
            ("new names", new, ()),
        ):
            if file is not new:
                dnsperf(port, 30, ("-d", str(file), "-n", "2"))
            before = processor(process.pid)
            found[f"{title}, queries/s"] = rate = dnsperf(port, seconds, ("-d", str(file), *more))
            used = processor(process.pid) - before
            found[f"{title}, processor us/query"] = used / (rate * seconds) * 1e6
        found["memory after it MiB"] = pss(process.pid)
    return found


if __name__ == "__main__":
    sys.exit(main())
