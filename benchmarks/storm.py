"""A storm for one slow destination: what it does to new mail for others.

    python -m benchmarks.storm [MESSAGES]        (default: 20000, within about two seconds)

One LMTP server takes a second for each message, another answers at once. A message for the quick one is put
into the queue every 20 ms, before, during and after the storm; printed is the time from its wake-up call
until the quick server has it, and the queue manager's largest resident size.
"""

from __future__ import annotations

import os
import sys
import tempfile
import threading
import time
from pathlib import Path

from benchmarks.probe import Probe, QueueManagerProcess, start_server, wake, write
from mailstack.mta import trigger
from mailstack.storage.queue import Queue

SLOW = 1.0
"""Seconds that the slow destination takes for a message."""
CALM, AFTER = 2.0, 6.0
"""Seconds of measuring before the storm and after its first message."""


def storm(queue: Queue, count: int) -> float:
    """Put messages for the slow destination into the queue; how long that took."""
    sock = trigger.connect(f"{queue.directory}/public")
    started = time.monotonic()
    for number in range(count):
        wake(sock, write(queue, "incoming", f"user{number}@slow.test"))
    sock.close()
    return time.monotonic() - started


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
    reading, writing = os.pipe()
    slow, slow_port = start_server(SLOW)
    quick, quick_port = start_server(0.0, writing)
    os.close(writing)
    try:
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            queue = Queue(f"{root}/queue")
            queue.create()
            write(queue, "incoming", "user@slow.test")
            probe = Probe(queue, reading)
            receiver = threading.Thread(target=probe.receive, daemon=True)
            receiver.start()
            with QueueManagerProcess(root, {"slow.test": slow_port, "quick.test": quick_port}) as qmgr:
                qmgr.until(b"status=sent", 30)
                sender = threading.Thread(target=probe.send)
                begun = time.monotonic()
                sender.start()
                time.sleep(CALM)
                struck = time.monotonic()
                took = storm(queue, count)
                time.sleep(AFTER)
                probe.stop = True
                sender.join()
                time.sleep(1)
                print(f"before: {probe.between(begun, struck)}")
                print(f"during: {probe.between(struck, struck + took)}   ({count} messages in {took:.1f} s)")
                print(f"after:  {probe.between(struck + took, struck + took + AFTER)}")
                print(f"queue manager: {qmgr.peak():.1f} MiB")
    finally:
        for pid in (slow, quick):
            os.kill(pid, 15)
            os.waitpid(pid, 0)


if __name__ == "__main__":
    main()
