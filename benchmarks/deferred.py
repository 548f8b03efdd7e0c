"""A queue manager that starts with a large deferred queue: how soon it delivers, and what memory it takes.

    python -m benchmarks.deferred [MESSAGES...] [--folder DIR]        (default: 200000 500000 1000000)

For each size, printed is for a queue of which nothing is due and one new message in incoming/: seconds
from the start of the process to its first delivery, seconds of processor time until all of deferred/ has
been looked through, and the process's largest resident size (VmHWM, which counts pages shared with other
too). Then a message for a quick destination is put into the queue every 20 ms, at rest and during another
look through deferred/: the time from its wake-up call until the server has it, median, 95th percentile
and longest. Last, the same queue with every message due: first delivery, and memory ten seconds after it
began.

A million messages take 4 GB of disk, and about two minutes to be made.
"""

from __future__ import annotations

import argparse
import os
import socket
import tempfile
import threading
import time
from pathlib import Path

from benchmarks.probe import Probe, QueueManagerProcess, start_server, wake, write
from benchmarks.qmgr import start_sink
from mailstack.mta import trigger
from mailstack.storage.queue import Queue

WATCHED = 10.0
"""Seconds after which the memory is read."""
CALM = 2.0
"""Seconds of measuring at rest."""
DESTINATIONS = 1000


def fill(queue: Queue, count: int) -> None:
    """Deferred messages, none of them due."""
    when = time.time() + 86_400
    for number in range(count):
        write(queue, "deferred", f"user{number}@d{number % DESTINATIONS}.test", when)


def make_due(queue: Queue) -> None:
    when = time.time() - 60
    for entry in queue.scan("deferred"):
        os.utime(queue.path("deferred", entry.queue_id), (when, when))


def none_due(root: Path, queue: Queue, ways: dict[str, int], reports: int) -> str:
    """Start, look through everything, and what that is to new mail."""
    write(queue, "incoming", "new@d0.test")
    with QueueManagerProcess(root, ways) as qmgr:
        first = qmgr.until(b"status=sent", 120)
        looked = at_rest(qmgr)
        peak = qmgr.peak()
        probe = Probe(queue, reports)
        threading.Thread(target=probe.receive, daemon=True).start()
        sender = threading.Thread(target=probe.send)
        sender.start()
        time.sleep(0.5)
        begun = time.monotonic()
        time.sleep(CALM)
        struck = time.monotonic()
        sock = trigger.connect(f"{queue.directory}/public")
        wake(sock, trigger.SCAN_DEFERRED)
        sock.close()
        time.sleep(max(CALM, looked))
        ended = time.monotonic()
        probe.stop = True
        sender.join()
        time.sleep(0.5)
        rest, scan = probe.between(begun, struck), probe.between(struck, ended)
    return f"{first:8.2f} s {looked:8.2f} s {peak:8.1f} MiB   at rest {rest}   looking {scan}"


def at_rest(qmgr: QueueManagerProcess) -> float:
    """Processor time until the process needs none any more."""
    used = -1.0
    while (now := qmgr.processor()) - used > 0.05:
        used = now
        time.sleep(1.0)
    return now


def all_due(root: Path, ways: dict[str, int]) -> str:
    (root / "log").unlink()
    with QueueManagerProcess(root, ways) as qmgr:
        first = qmgr.until(b"status=sent", 120)
        time.sleep(max(0.0, WATCHED - first))
        return f"{first:8.2f} s {qmgr.peak():8.1f} MiB"


def measure(count: int, folder: str | None, port: int) -> None:
    """One size."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        root = Path(place)
        queue = Queue(f"{root}/queue")
        queue.create()
        fill(queue, count)
        ours, theirs = socket.socketpair()
        quick, quick_port = start_server(0.0, theirs.fileno())
        theirs.close()
        ways = {f"d{number}.test": port for number in range(DESTINATIONS)} | {"quick.test": quick_port}
        try:
            print(f"{count:>9} none due {none_due(root, queue, ways, ours.detach())}", flush=True)
            make_due(queue)
            print(f"{count:>9}  all due {all_due(root, ways)}", flush=True)
        finally:
            os.kill(quick, 15)
            os.waitpid(quick, 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("messages", nargs="*", type=int, default=[200_000, 500_000, 1_000_000])
    parser.add_argument("--folder", help="where the queue lies")
    options = parser.parse_args()
    pid, port = start_sink()
    try:
        for count in options.messages:
            measure(count, options.folder, port)
    finally:
        os.kill(pid, 15)
        os.waitpid(pid, 0)


if __name__ == "__main__":
    main()
