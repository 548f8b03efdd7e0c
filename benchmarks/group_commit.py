"""How many files a second `storage.durable` makes durable, by concurrency.

    python -m benchmarks.group_commit [FOLDER]

FOLDER must be on the filesystem in question (default: the system's temporary folder). Beside the rate stands
the busy time of the whole machine per file: on a machine that also runs everything else, that is what counts.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from pathlib import Path

from mailstack.net.loop import run
from mailstack.storage.durable import GroupCommit, Publication

FILES = 3000
CONTENT = (b"x" * 4096,)


def busy_seconds() -> float:
    """Busy time of all processors since boot (Linux)."""
    fields = [int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
    return (sum(fields) - fields[3] - fields[4]) / 100


async def measure(folder: Path, sessions: int) -> tuple[float, float]:
    """Files per second, and busy microseconds per file."""
    (folder / "tmp").mkdir(parents=True)
    (folder / "new").mkdir()
    commit = GroupCommit()
    numbers = iter(range(FILES))

    async def session() -> None:
        for number in numbers:
            await commit.publish(Publication(f"{folder}/tmp/{number}", f"{folder}/new/{number}", CONTENT))

    busy, start = busy_seconds(), time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(sessions):
            group.create_task(session())
    elapsed, busy = time.perf_counter() - start, busy_seconds() - busy
    commit.close()
    return FILES / elapsed, busy / FILES * 1e6


def main() -> None:
    base = sys.argv[1] if len(sys.argv) > 1 else None
    print("sessions   files/s   busy us/file")
    for sessions in (1, 5, 10, 20, 50):
        with tempfile.TemporaryDirectory(dir=base) as folder:
            rate, busy = run(measure(Path(folder) / "queue", sessions))
        print(f"{sessions:8d} {rate:9.0f} {busy:14.0f}", flush=True)


if __name__ == "__main__":
    main()
