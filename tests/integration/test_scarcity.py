"""A disk that is full, descriptors and memory that run out: clients hear of it, nothing dies, and it passes."""

from __future__ import annotations

import os
import resource
import smtplib
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mailstack.mta.smtpd.capacity import MEMORY_CHECK
from tests.integration.test_mta import MTA, Sinks, wait_for

FULL = "452 4.3.1 Insufficient system storage"


@pytest.fixture
def mta(tmp_path: Path) -> Iterator[MTA]:
    sinks = Sinks()
    mta = MTA(tmp_path, sinks)
    yield mta
    if mta.process is not None and mta.process.poll() is None:
        mta.stop()
    sinks.close()


@pytest.fixture
def small_disk(mta: MTA) -> Iterator[Path]:
    """The queue on a filesystem of 4 MiB."""
    queue = mta.root / "queue"
    queue.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(queue)], check=True)
    yield queue
    if mta.process is not None:
        mta.stop()
    subprocess.run(["umount", str(queue)], check=True)


class Client:
    """A client that says one line after the other."""

    def __init__(self, port: int) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), timeout=10)
        self.file = self.sock.makefile("rb")
        self.greeting = self.reply()

    def reply(self) -> str:
        try:
            while (line := self.file.readline())[3:4] == b"-":
                pass
        except ConnectionResetError:
            return ""
        return line.decode().rstrip("\r\n")

    def say(self, *lines: str | bytes) -> str:
        """The reply to the last line."""
        for line in lines:
            self.sock.sendall((line.encode() if isinstance(line, str) else line) + b"\r\n")
            said = self.reply()
        return said

    def close(self) -> None:
        self.file.close()
        self.sock.close()


def fill(folder: Path, leave: int) -> Path:
    """A file that takes all of a filesystem but for `leave` octets."""
    path = folder / "ballast"
    found = os.statvfs(folder)
    path.write_bytes(b"\0" * (found.f_bavail * found.f_frsize - leave))
    return path


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a filesystem needs root")
@pytest.mark.parametrize("size, leave", [(3_000, 0), (900_000, 300_000)], ids=["commit", "content"])
def test_a_full_disk(mta: MTA, small_disk: Path, size: int, leave: int) -> None:
    with (mta.config / "main.cf").open("a") as file:
        file.write("message_size_limit = 1000000\nqueue_minfree = 2000000\n")
    mta.start()
    mta.send("zs@x.test")
    wait_for(lambda: mta.log(": removed"), "the first delivery")
    client = Client(mta.port)
    envelope = ("MAIL FROM:<a@x.test>", "RCPT TO:<zs@x.test>")
    assert client.say("EHLO c.test", *envelope, "DATA").startswith("354 ")
    ballast = fill(small_disk, leave)
    content = b"Subject: x\r\n\r\n" + (b"x" * 98 + b"\r\n") * (size // 100)
    client.sock.sendall(content + b".\r\n")
    assert client.reply() == FULL
    assert not list((small_disk / "tmp").iterdir()) and mta.queue() == []
    # queue_minfree says no before the content, in the same words; and the session goes on.
    wait_for(lambda: client.say("RSET", envelope[0]) == FULL, "the refusal of MAIL")
    ballast.unlink()
    wait_for(lambda: client.say("RSET", envelope[0]).startswith("250 "), "room again")
    assert client.say(envelope[1], "DATA").startswith("354 ")
    client.sock.sendall(content + b".\r\n")
    reply = client.reply()
    assert reply.startswith("250 2.0.0 Ok: queued as ")
    client.close()
    wait_for(lambda: mta.log(f"{reply.split()[-1]}: removed"), "the delivery")
    assert mta.log("queue file write error: No space left on device")
    assert not mta.log("killed|Traceback|exit status")


def test_few_descriptors(mta: MTA) -> None:
    """With 160 descriptors a process has sixteen sessions; the others are told to come again."""
    with (mta.config / "main.cf").open("a") as file:
        file.write("smtpd_client_connection_count_limit = 0\nsmtpd_peername_lookup = no\n")
    mta.start(prefix=("prlimit", "--nofile=160:160"))
    clients = [Client(mta.port) for _ in range(60)]
    taken = [client for client in clients if client.greeting.startswith("220 ")]
    refused = [client for client in clients if client.greeting.startswith("421 ")]
    assert 8 <= len(taken) <= 32 and len(taken) + len(refused) == 60
    assert refused[0].greeting == "421 4.3.2 mail.x.test Service unavailable - try again later"
    lines = (
        "EHLO c.test",
        "MAIL FROM:<a@x.test>",
        "RCPT TO:<zs@x.test>",
        "DATA",
        b"Subject: x\r\n\r\nx\r\n.",
    )
    assert all(client.say(*lines).startswith("250 2.0.0 Ok: queued as ") for client in taken)
    for client in clients:
        client.close()
    wait_for(lambda: len(mta.log(": removed")) == len(taken), "every delivery")
    wait_for(mta.answers, "a greeting")
    assert mta.log("turning clients away") and not mta.log("killed|Traceback|exit status")


def test_little_memory(mta: MTA) -> None:
    """A process that may not grow begins no session, and those that it has go on."""
    mta.start()
    client = Client(mta.port)
    wait_for(lambda: mta.answers() and len(mta.children("smtpd")) == 2, "both processes")
    workers = mta.children("smtpd")
    for pid in workers:
        size = int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * resource.getpagesize()
        resource.prlimit(pid, resource.RLIMIT_AS, (size + 1_500_000, resource.RLIM_INFINITY))
    refusal = "421 4.3.2 mail.x.test Service unavailable - try again later"

    def greeting() -> str:
        other = Client(mta.port)
        other.close()
        return other.greeting

    wait_for(lambda: [greeting() for _ in range(4)] == [refusal] * 4, "the refusals")
    lines = (
        "EHLO c.test",
        "MAIL FROM:<a@x.test>",
        "RCPT TO:<zs@x.test>",
        "DATA",
        b"Subject: x\r\n\r\nx\r\n.",
    )
    assert client.say(*lines).startswith("250 2.0.0 Ok: queued as ")
    for pid in workers:
        resource.prlimit(pid, resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    time.sleep(MEMORY_CHECK)  # for so long a look counts, in each process
    client.close()
    assert mta.children("smtpd") == workers
    with smtplib.SMTP("127.0.0.1", mta.port, timeout=10) as again:
        again.sendmail("a@x.test", ["zs@x.test"], "Subject: again\r\n\r\nx\r\n")
    wait_for(lambda: len(mta.log("to=<zs@x.test>.*status=sent")) == 2, "both deliveries")
