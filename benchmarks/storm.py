"""A storm for one slow destination: what it does to new mail for others.

    python -m benchmarks.storm [MESSAGES]        (default: 20000, within about two seconds)

One LMTP server takes a second for each message, another answers at once. A message for the quick one is put
into the queue every 20 ms, before, during and after the storm; printed is the time from its wake-up call
until the quick server has it, and the queue manager's largest resident size.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import tempfile
import threading
import time
from pathlib import Path

from benchmarks.deferred import QueueManagerProcess, write
from mailstack.mta import trigger
from mailstack.net.loop import run
from mailstack.storage.queue import Queue

EVERY = 0.02
"""Seconds between two messages for the quick destination."""
SLOW = 1.0
"""Seconds that the slow destination takes for a message."""
CALM, AFTER = 2.0, 6.0
"""Seconds of measuring before the storm and after its first message."""


def start_server(pause: float, report: int | None = None) -> tuple[int, int]:
    """Fork an LMTP server that answers after `pause` seconds; (process id, port).

    With `report`, it writes the local part of each recipient that it has taken to that descriptor.
    """
    reading, writing = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writing)
        return pid, int(os.read(reading, 10))

    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await talk(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the queue manager has been stopped in the middle of a delivery
        writer.close()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 sink LMTP\r\n")
        recipient = b""
        while line := await reader.readline():
            verb = line[:4].upper()
            if verb == b"LHLO":
                writer.write(b"250-sink\r\n250-PIPELINING\r\n250 ENHANCEDSTATUSCODES\r\n")
            elif verb == b"DATA":
                writer.write(b"354 go\r\n")
                await reader.readuntil(b"\r\n.\r\n")
                await asyncio.sleep(pause)
                if report is not None:
                    os.write(report, recipient + b"\n")
                writer.write(b"250 2.0.0 Saved\r\n")
            else:
                if verb == b"RCPT":
                    recipient = line.partition(b"<")[2].partition(b"@")[0]
                writer.write(b"250 2.1.0 Ok\r\n")

    async def serve() -> None:
        server = await asyncio.start_server(client, "127.0.0.1", 0)
        os.write(writing, str(server.sockets[0].getsockname()[1]).encode())
        await server.serve_forever()

    run(serve())
    os._exit(0)


class Probe:
    """Messages for the quick destination, and how long each takes."""

    def __init__(self, queue: Queue, reports: int) -> None:
        self._queue = queue
        self._reports = reports
        self._sent: dict[str, float] = {}
        self.taken: list[tuple[float, float]] = []
        """(when it was sent, seconds until it was delivered)."""
        self.stop = False

    def send(self) -> None:
        """Until `stop`."""
        sock = trigger.connect(f"{self._queue.directory}/public")
        number = 0
        while not self.stop:
            number += 1
            queue_id = write(self._queue, "incoming", f"probe{number}@quick.test")
            self._sent[f"probe{number}"] = time.monotonic()
            wake(sock, queue_id)
            time.sleep(EVERY)
        sock.close()

    def receive(self) -> None:
        """Until the reports end."""
        with os.fdopen(self._reports) as lines:
            for line in lines:
                sent = self._sent[line.strip()]
                self.taken.append((sent, time.monotonic() - sent))

    def between(self, start: float, end: float) -> str:
        times = sorted(taken for sent, taken in self.taken if start <= sent < end)
        if not times:
            return "none delivered"
        median, most = times[len(times) // 2], times[int(len(times) * 0.95)]
        return f"median {median * 1e3:6.1f} ms   p95 {most * 1e3:6.1f} ms   of {len(times)}"


def wake(sock: socket.socket, queue_id: str) -> None:
    """Tell qmgr of a message, as smtpd does."""
    while True:
        try:
            sock.send(queue_id.encode())
            return
        except BlockingIOError:
            time.sleep(0.001)


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
