"""A queue manager that starts with a large deferred queue: how soon it delivers, and what memory it takes.

    python -m benchmarks.deferred [MESSAGES...]        (default: 50000 100000 200000)

For each size, twice: with every message due, and with none due and one new message in incoming/. Printed:
seconds from the start of the process to its first delivery, and the process's largest resident size (VmHWM,
which counts pages shared with other processes too), ten seconds after it began.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType

from benchmarks.qmgr import CONTENT, start_sink
from mailstack.storage.queue import Envelope, Queue, Recipient
from mailstack.storage.queue_file import encode_envelope, encode_header, encode_status

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
WATCHED = 10.0
"""Seconds after which the memory is read."""


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


def measure(count: int, *, due: bool, port: int) -> str:
    """One start."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        queue = Queue(f"{root}/queue")
        queue.create()
        when = time.time() + (-60 if due else 86_400)
        for number in range(count):
            write(queue, "deferred", f"user{number}@d{number % 1000}.test", when)
        if not due:
            write(queue, "incoming", "new@d0.test")
        ways = {f"d{number}.test": port for number in range(1000)}
        with QueueManagerProcess(root, ways) as qmgr:
            first = qmgr.until(b"status=sent", 120)
            time.sleep(max(0.0, WATCHED - first))
            return f"{count:>9} {'all due' if due else 'none due':>9} {first:8.2f} s {qmgr.peak():8.1f} MiB"


def main() -> None:
    sizes = [int(word) for word in sys.argv[1:]] or [50_000, 100_000, 200_000]
    pid, port = start_sink()
    try:
        print(f"{'messages':>9} {'':>9} {'delivery':>10} {'memory':>12}")
        for count in sizes:
            for due in (True, False):
                print(measure(count, due=due, port=port), flush=True)
    finally:
        os.kill(pid, 15)
        os.waitpid(pid, 0)


if __name__ == "__main__":
    main()
