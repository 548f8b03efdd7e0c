"""What a message costs the queue manager, from wake-up to `removed`, delivered by LMTP.

    python -m benchmarks.qmgr [MESSAGES]

The messages lie in incoming/ when the clock starts; the LMTP server is a process of its own that answers at
once and keeps nothing. Printed: messages per second, and processor time of the queue manager per message.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import cast

from mailstack.mta.qmgr.main import Service
from mailstack.net.clock import SystemClock
from mailstack.net.log import Log
from mailstack.net.loop import run
from mailstack.storage.queue import Envelope, Queue, Recipient
from mailstack.storage.queue_file import encode_envelope, encode_header

CONTENT = b"Subject: benchmark\r\n\r\n" + (b"x" * 78 + b"\r\n") * 51
MAIN_CF = """\
compatibility_level = 3.6
myhostname = mail.bench.test
mydomain = bench.test
mydestination = $mydomain
queue_directory = {root}/queue
alias_maps = texthash:{root}/aliases
mailbox_transport = lmtp:inet:127.0.0.1:{port}
"""
MASTER_CF = "lmtp unix - - n - - lmtp\nlocal unix - n n - - local\nsmtp unix - - n - - smtp\n"


class Sink(asyncio.Protocol):
    """An LMTP server that throws everything away."""

    def __init__(self) -> None:
        self._buffer = b""
        self._content = False
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's has no common base class
        self._transport.write(b"220 sink LMTP\r\n")

    def data_received(self, data: bytes) -> None:
        assert self._transport is not None
        self._buffer += data
        out = []
        while True:
            end = self._buffer.find(b"\r\n.\r\n" if self._content else b"\r\n")
            if end < 0:
                break
            if self._content:
                self._buffer = self._buffer[end + 5 :]
                self._content = False
                out.append(b"250 2.0.0 Saved\r\n")
                continue
            verb, self._buffer = self._buffer[:4].upper(), self._buffer[end + 2 :]
            if verb == b"LHLO":
                out.append(b"250-sink\r\n250-PIPELINING\r\n250 ENHANCEDSTATUSCODES\r\n")
            elif verb == b"DATA":
                self._content = True
                out.append(b"354 go\r\n")
            else:
                out.append(b"250 2.1.0 Ok\r\n")
        if out:
            self._transport.write(b"".join(out))


def start_sink() -> tuple[int, int]:
    """Fork the LMTP server; (process id, port)."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writing)
        return pid, int(os.read(reading, 10))

    async def serve() -> None:
        server = await asyncio.get_running_loop().create_server(Sink, "127.0.0.1", 0)
        os.write(writing, str(server.sockets[0].getsockname()[1]).encode())
        await server.serve_forever()

    run(serve())
    os._exit(0)


def fill(queue: Queue, count: int) -> list[str]:
    """Put messages into incoming/, not flushed; return their ids."""
    ids = []
    for number in range(count):
        envelope = Envelope("a@bench.test", (Recipient(f"user{number % 20}@bench.test"),), time.time())
        records = encode_envelope(envelope)
        queue_id = queue.new_id(time.time())
        path = Path(queue.path("incoming", queue_id))
        path.write_bytes(encode_header(len(CONTENT), records) + CONTENT + records)
        ids.append(queue_id)
    return ids


async def measure(root: Path, queue: Queue, ids: list[str]) -> tuple[float, float]:
    """Seconds, and seconds of processor time, until the queue is empty."""
    log = Log("postfix/qmgr", "mail", os.open(root / "log", os.O_WRONLY | os.O_CREAT))
    service = Service(root, queue, SystemClock(), log)
    service.load()
    started, used = time.perf_counter(), time.process_time()
    for queue_id in ids:
        service.manager.new_mail(queue_id)
    runner = asyncio.ensure_future(service.run())
    while os.listdir(f"{queue.directory}/incoming") or service.manager.active:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    result = time.perf_counter() - started, time.process_time() - used
    service.stopping.set()
    await runner
    return result


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 5000
    pid, port = start_sink()
    try:
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            (root / "aliases").write_text("postmaster: user0\n")
            (root / "main.cf").write_text(MAIN_CF.format(root=root, port=port))
            (root / "master.cf").write_text(MASTER_CF)
            queue = Queue(f"{root}/queue")
            queue.create()
            elapsed, used = run(measure(root, queue, fill(queue, count)))
            # An empty incoming/ alone could also mean that everything has been deferred.
            sent = (root / "log").read_bytes().count(b"status=sent")
            if sent != count or any(queue.scan("deferred")):
                sys.exit(f"only {sent} of {count} messages have been delivered: no figure")
    finally:
        os.kill(pid, 15)
        os.waitpid(pid, 0)
    print(f"{count / elapsed:.0f} messages/s, {used / count * 1e6:.0f} us of processor time per message")


if __name__ == "__main__":
    main()
