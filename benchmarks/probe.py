"""A queue manager in a process of its own, and messages that tell how long it takes (`deferred`, `storm`)."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType

from benchmarks.qmgr import CONTENT
from mailstack.mta import trigger
from mailstack.net.loop import run
from mailstack.storage.queue import Envelope, Queue, Recipient
from mailstack.storage.queue_file import encode_envelope, encode_header, encode_status

EVERY = 0.02
"""Seconds between two messages for the quick destination."""
MAIN_CF = """\
compatibility_level = 3.6
myhostname = mail.bench.test
mydestination =
queue_directory = {root}/queue
transport_maps = texthash:{root}/transport
"""
MASTER_CF = "lmtp unix - - n - - lmtp\nsmtp unix - - n - - smtp\nretry unix - - n - - error\n"
CHILD = """\
import os, sys
from pathlib import Path
from mailstack.mta.qmgr.main import run_qmgr
from mailstack.net.log import Log
log = Log("postfix/qmgr", "mail", os.open(sys.argv[2], os.O_WRONLY | os.O_CREAT))
sys.exit(run_qmgr(Path(sys.argv[1]), log))
"""


class QueueManagerProcess:
    """A queue manager on `root/queue`, in a process of its own. `ways`: domain → port of an LMTP server."""

    def __init__(self, root: Path, ways: dict[str, int]) -> None:
        self.log = root / "log"
        self._root = root
        (root / "main.cf").write_text(MAIN_CF.format(root=root))
        (root / "master.cf").write_text(MASTER_CF)
        lines = (f"{domain} lmtp:inet:127.0.0.1:{port}\n" for domain, port in ways.items())
        (root / "transport").write_text("".join(lines))

    def __enter__(self) -> QueueManagerProcess:
        self.started = time.monotonic()
        self._process = subprocess.Popen([sys.executable, "-c", CHILD, str(self._root), str(self.log)])
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(12)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def until(self, text: bytes, seconds: float) -> float:
        """Seconds from the start until the log has that text."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self.log.exists() and text in self.log.read_bytes():
                return time.monotonic() - self.started
            time.sleep(0.01)
        raise SystemExit(f"no {text.decode()} in the log after {seconds:.0f} s")

    def processor(self) -> float:
        """Seconds of processor time so far."""
        words = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")

    def peak(self) -> float:
        """The largest resident size so far, in MiB."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def write(queue: Queue, folder: str, recipient: str, mtime: float | None = None) -> str:
    """A message in a queue, not flushed; return its id."""
    envelope = Envelope("a@bench.test", (Recipient(recipient),), time.time())
    records = encode_envelope(envelope)
    data = encode_header(len(CONTENT), records) + CONTENT + records
    queue_id = queue.new_id(time.time())
    path = Path(queue.path(folder, queue_id))
    try:
        path.write_bytes(data if mtime is None else data + encode_status(1, {}))
    except FileNotFoundError:
        path.parent.mkdir(parents=True)
        path.write_bytes(data if mtime is None else data + encode_status(1, {}))
    if mtime is not None:
        os.utime(path, (mtime, mtime))
    return queue_id


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
        figures = (("median", median), ("p95", most), ("longest", times[-1]))
        return "   ".join(f"{name} {value * 1e3:6.1f} ms" for name, value in figures) + f"   of {len(times)}"


def wake(sock: socket.socket, queue_id: str) -> None:
    """Tell qmgr of a message, as smtpd does."""
    while True:
        try:
            sock.send(queue_id.encode())
            return
        except BlockingIOError:
            time.sleep(0.001)
