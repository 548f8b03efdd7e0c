"""How soon a stack is usable and how much memory it takes, beside the real servers and bare containers.

    python -m benchmarks.ready [--rounds 5]

*Process runtime*: wall time of `mailstack up` in an empty state folder, which ends when every service has
answered its own protocol; the memory is the proportional set size (PSS) of all its processes afterwards.
*Docker*: the same with containers, beside the time that the daemon itself takes for a network and three bare
containers started in parallel (the floor).
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.stack import Stack, bench_spec


def pss(pid: int) -> int:
    """Proportional set size in KiB; 0 for a process that has gone."""
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1])
    except OSError:
        pass
    return 0


def memory_of(pids: list[int]) -> dict[str, int]:
    """PSS in KiB by the module that a Python process runs."""
    memory: dict[str, int] = {}
    for pid in pids:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        name = words[words.index(b"-m") + 1].decode() if b"-m" in words else words[0].decode()
        memory[name] = memory.get(name, 0) + pss(pid)
    return memory


def process_runtime(rounds: int) -> None:
    times = []
    memory: dict[str, int] = {}
    for _ in range(rounds):
        with (
            tempfile.TemporaryDirectory(prefix="ms-bench-") as folder,
            Stack(Path(folder), bench_spec(["u0"])) as stack,
        ):
            times.append(stack.seconds)
            time.sleep(1.0)
            memory = memory_of(stack.processes())
    spread = f"{min(times):.2f} to {max(times):.2f}"
    print(f"process runtime: up in {statistics.median(times):.2f} s (median of {rounds}: {spread})")
    services = sum(size for name, size in memory.items() if "runtime" not in name)
    for name, size in sorted(memory.items()):
        print(f"  {name:32} {size / 1024:6.1f} MB PSS")
    print(f"  {'the three services':32} {services / 1024:6.1f} MB PSS")


def bare_containers(image: str) -> float:
    """Seconds for a network and three containers of `image`, started in parallel."""
    import docker

    client = docker.from_env()
    name = f"mailstack-bench-{os.getpid()}"
    started = time.perf_counter()
    network = client.networks.create(name)
    try:
        with ThreadPoolExecutor(3) as pool:
            containers = list(
                pool.map(
                    lambda number: client.containers.run(
                        image, ["sleep", "60"], detach=True, network=name, name=f"{name}-{number}"
                    ),
                    range(3),
                )
            )
        seconds = time.perf_counter() - started
        for container in containers:
            container.remove(force=True)
    finally:
        network.remove()
        client.close()
    return seconds


def docker_runtime(rounds: int) -> None:
    image = os.environ.get("MAILSTACK_TEST_BASE", "mailstack-base:bookworm")
    pairs = []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory(prefix="mailstack-bench-") as folder:
            floor = bare_containers(image)
            with Stack(Path(folder), bench_spec(["u0"]), runtime="docker") as stack:
                pairs.append((stack.seconds, floor))
    ratio = statistics.median(a / b for a, b in pairs)
    ours, floor = statistics.median(a for a, _ in pairs), statistics.median(b for _, b in pairs)
    print(f"docker runtime: up in {ours:.2f} s; three bare containers {floor:.2f} s; ratio {ratio:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--runtime", choices=["process", "docker", "both"], default="both")
    options = parser.parse_args()
    if options.runtime in ("process", "both"):
        process_runtime(options.rounds)
    if options.runtime in ("docker", "both"):
        docker_runtime(options.rounds)


if __name__ == "__main__":
    main()
