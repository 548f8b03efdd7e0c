"""`python -m mailstack.mta` as a whole: processes, signals, crashes, queue, against an LMTP and an SMTP sink."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import smtplib
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.ports import free_port
from tests.unit.mta_deliver.support import Peer, listening

MAIN_CF = """\
compatibility_level = 3.6
myhostname = mail.x.test
mydomain = x.test
myorigin = $mydomain
mydestination = $myhostname, $mydomain
mynetworks = 127.0.0.0/8
queue_directory = {root}/queue
alias_maps = hash:{root}/cf/aliases
local_recipient_maps =
mailbox_transport = lmtp:inet:127.0.0.1:{lmtp}
relayhost = [127.0.0.1]:{smtp}
minimal_backoff_time = 1s
maximal_backoff_time = 2s
queue_run_delay = 1s
"""
MASTER_CF = """\
127.0.0.1:{port} inet n - n - 2 smtpd
127.0.0.1:{other} inet n - n - 1 smtpd
  -o smtpd_banner=other
qmgr unix n - n 300 1 qmgr
lmtp unix - - n - - lmtp
smtp unix - - n - - smtp
local unix - n n - - local
error unix - - n - - error
retry unix - - n - - error
"""


def wait_for(condition: Callable[[], object], what: str, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not in time: {what}"
        time.sleep(0.01)


class Sinks:
    """The LMTP and the SMTP peer, on a thread of their own."""

    def __init__(self) -> None:
        self.lmtp = Peer(lmtp=True)
        self.smtp = Peer()
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._main(),))
        self._thread.start()
        assert self._ready.wait(5)

    async def _main(self) -> None:
        async with listening(self.lmtp), listening(self.smtp):
            self._ready.set()
            await self._stop.wait()

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()


class MTA:
    """A running MTA."""

    def __init__(self, root: Path, sinks: Sinks) -> None:
        self.root = root
        self.port, self.other = free_port(), free_port()
        self.config = root / "cf"
        self.config.mkdir()
        self.log_path = root / "log"
        (self.config / "aliases").write_text("postmaster: zs\nteam: zs, out@other.test\n")
        (self.config / "main.cf").write_text(
            MAIN_CF.format(root=root, lmtp=sinks.lmtp.port, smtp=sinks.smtp.port)
        )
        (self.config / "master.cf").write_text(MASTER_CF.format(port=self.port, other=self.other))
        (self.config / "mailstack.toml").write_text('[resolver]\nnameservers = ["127.0.0.1:9"]\n')
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *, wait: bool = True, prefix: tuple[str, ...] = ()) -> None:
        """`prefix`: a command that runs another one."""
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [*prefix, sys.executable, "-m", "mailstack.mta", "--config", str(self.config)], stderr=log
            )
        if wait:
            wait_for(self.answers, "the greeting")

    def answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=5) as sock:
                return sock.recv(100).startswith(b"220 ")
        except ConnectionRefusedError:
            return False

    def stop(self) -> int:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(15)

    def log(self, pattern: str = "") -> list[str]:
        return [line for line in self.log_path.read_text().splitlines() if re.search(pattern, line)]

    def send(self, *recipients: str, sender: str = "a@x.test", body: str = "hello") -> None:
        with smtplib.SMTP("127.0.0.1", self.port, timeout=10) as client:
            client.sendmail(sender, list(recipients), f"Subject: t\r\n\r\n{body}\r\n")

    def queue(self) -> list[dict[str, object]]:
        said = subprocess.run(
            [sys.executable, "-m", "mailstack.mta.postqueue", "--config", str(self.config), "-j"],
            capture_output=True,
            check=True,
        )
        return [json.loads(line) for line in said.stdout.splitlines()]

    def children(self, role: str) -> list[int]:
        """Process ids of a role that is alive, from the log."""
        pids = {
            int(found[1]) for line in self.log() if (found := re.search(rf"postfix/{role}\[(\d+)\]", line))
        }
        return sorted(pid for pid in pids if Path(f"/proc/{pid}").exists())


@pytest.fixture
def sinks() -> Iterator[Sinks]:
    sinks = Sinks()
    yield sinks
    sinks.close()


@pytest.fixture
def mta(tmp_path: Path, sinks: Sinks) -> Iterator[MTA]:
    mta = MTA(tmp_path, sinks)
    yield mta
    if mta.process is not None and mta.process.poll() is None:
        mta.process.terminate()
        mta.process.wait(15)


def test_mail_goes_through(mta: MTA, sinks: Sinks) -> None:
    mta.start()
    mta.send("postmaster@x.test", "out@other.test")
    wait_for(lambda: sinks.lmtp.contents and sinks.smtp.contents, "both deliveries")
    assert "RCPT TO:<zs@x.test>" in sinks.lmtp.commands
    assert "RCPT TO:<out@other.test>" in sinks.smtp.commands
    assert b"Received: from " in sinks.lmtp.contents[0]
    wait_for(lambda: mta.log(": removed"), "the end in the log")
    line = mta.log("to=<zs@x.test>")[0]
    assert re.search(
        r"postfix/lmtp\[\d+\]: [0-9A-F]+: to=<zs@x.test>, orig_to=<postmaster@x.test>, "
        r"relay=127\.0\.0\.1\[127\.0\.0\.1\]:\d+, delay=[\d.]+, delays=[\d./]+, dsn=2\.0\.0, "
        r"status=sent \(250 2\.0\.0 Ok: queued as X\)$",
        line,
    )
    assert mta.queue() == []
    assert mta.stop() == 0


def test_a_failing_destination(mta: MTA, sinks: Sinks) -> None:
    sinks.lmtp.replies["RCPT"] = "450 4.2.0 busy"
    sinks.smtp.replies["RCPT"] = "550 5.1.1 unknown"
    mta.start()
    mta.send("zs@x.test", "out@other.test", sender="")
    wait_for(lambda: mta.log("status=deferred") and mta.log("status=bounced"), "both failures")
    wait_for(lambda: [entry["queue_name"] for entry in mta.queue()] == ["deferred"], "the deferred queue")
    [entry] = mta.queue()
    assert entry["sender"] == "MAILER-DAEMON"
    assert entry["recipients"] == [
        {
            "address": "zs@x.test",
            "delay_reason": "host 127.0.0.1[127.0.0.1] said: 450 4.2.0 busy (in reply to RCPT TO command)",
        }
    ]
    del sinks.lmtp.replies["RCPT"]
    wait_for(lambda: sinks.lmtp.contents, "the second attempt")
    wait_for(lambda: mta.queue() == [], "the empty queue")
    mta.send("out@other.test", sender="zs@x.test")
    wait_for(lambda: len(sinks.lmtp.contents) == 2, "the bounce")
    assert b"Subject: Undelivered Mail Returned to Sender" in sinks.lmtp.contents[1]
    assert len(mta.log("sender non-delivery notification")) == 1


def test_nothing_is_lost_when_qmgr_is_killed(mta: MTA, sinks: Sinks) -> None:
    mta.start()
    mta.send("zs@x.test")
    wait_for(lambda: mta.log(": removed"), "the first delivery")
    [qmgr] = mta.children("qmgr")
    for number in range(20):
        mta.send("zs@x.test", body=f"number {number}.")
        if number == 10:
            os.kill(qmgr, signal.SIGKILL)
    wait_for(lambda: mta.log("warning: process .*/qmgr pid .* killed by signal 9"), "the report")
    wanted = [b"number %d." % number for number in range(20)]
    wait_for(lambda: all(any(word in c for c in sinks.lmtp.contents) for word in wanted), "all messages")
    wait_for(lambda: mta.queue() == [], "the empty queue")


def test_a_killed_worker_is_replaced(mta: MTA, sinks: Sinks) -> None:
    mta.start()
    for _ in range(6):
        mta.answers()
    for pid in mta.children("smtpd"):
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: mta.log("warning: process .*/smtpd pid .* killed by signal 9"), "the report")
    mta.send("zs@x.test")
    wait_for(lambda: sinks.lmtp.contents, "the delivery")


def test_mail_waits_for_the_next_start(mta: MTA, sinks: Sinks) -> None:
    sinks.lmtp.replies["GREETING"] = "421 4.3.2 not now"
    mta.start()
    mta.send("zs@x.test")
    wait_for(lambda: mta.log("status=deferred"), "the deferral")
    assert mta.stop() == 0
    assert mta.log("terminating on signal 15")
    del sinks.lmtp.replies["GREETING"]
    mta.start()
    wait_for(lambda: sinks.lmtp.contents, "the delivery after the restart")


def test_reload(mta: MTA, sinks: Sinks) -> None:
    mta.start()
    assert mta.process is not None
    with smtplib.SMTP("127.0.0.1", mta.port, timeout=10) as session:
        text = (mta.config / "main.cf").read_text()
        (mta.config / "main.cf").write_text(
            text + "smtpd_banner = new banner\nsmtpd_helo_required = perhaps\n"
        )
        mta.process.send_signal(signal.SIGHUP)
        wait_for(lambda: mta.log("smtpd_helo_required: expected yes or no"), "the refusal")
        assert mta.answers()
        (mta.config / "main.cf").write_text(text + "smtpd_banner = new banner\n")
        mta.process.send_signal(signal.SIGHUP)
        wait_for(lambda: mta.log("qmgr.*refresh configuration"), "qmgr's new configuration")

        def greeting() -> bytes:
            with socket.create_connection(("127.0.0.1", mta.port), timeout=5) as sock:
                return sock.recv(100)

        wait_for(lambda: greeting() == b"220 new banner\r\n", "the new banner")
        # The session that began before goes on.
        session.sendmail("a@x.test", ["zs@x.test"], "Subject: t\r\n\r\nhello\r\n")
    wait_for(lambda: sinks.lmtp.contents, "the delivery")


def test_a_configuration_broken_meanwhile_ends_nobody(mta: MTA, sinks: Sinks) -> None:
    """A process that starts anew while main.cf is being edited fails; the others go on until it is mended."""
    mta.start()
    wait_for(lambda: mta.log("daemon started"), "the start")
    assert mta.process is not None
    text = (mta.config / "main.cf").read_text()
    (mta.config / "main.cf").write_text(text + "smtpd_helo_required = perhaps\n")
    master = mta.process.pid
    qmgr = Path(f"/proc/{master}/task/{master}/children").read_text().split()[-1]
    os.kill(int(qmgr), signal.SIGKILL)
    wait_for(lambda: mta.log("exit status 78"), "the failed start of another")
    assert mta.answers()
    (mta.config / "main.cf").write_text(text)
    mta.send("zs@x.test")
    wait_for(lambda: sinks.lmtp.contents, "the delivery")
    assert mta.stop() == 0


def test_a_reload_waits_for_a_queue_manager_that_is_starting(mta: MTA) -> None:
    mta.start()
    assert mta.process is not None
    children = Path(f"/proc/{mta.process.pid}/task/{mta.process.pid}/children")
    before = children.read_text().split()
    os.kill(int(before[-1]), signal.SIGKILL)
    wait_for(lambda: set(children.read_text().split()) - set(before), "another queue manager")
    os.kill(int(children.read_text().split()[-1]), signal.SIGHUP)
    wait_for(lambda: mta.log("refresh configuration"), "the reload")
    assert not mta.log("killed by signal 1")
    assert mta.stop() == 0


def test_overrides_belong_to_their_port(mta: MTA) -> None:
    mta.start()
    with socket.create_connection(("127.0.0.1", mta.other), timeout=5) as sock:
        assert sock.recv(100) == b"220 other\r\n"


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("main.cf", "nonsense\n", "main.cf:15: missing '=' after attribute name"),
        ("main.cf", "smtpd_delay_reject = maybe\n", "main.cf:15: smtpd_delay_reject: expected yes or no"),
        ("main.cf", "smtpd_client_restrictions = permt\n", "main.cf:15: "),
        (
            "main.cf",
            "smtp_tls_security_level = verify\nsmtp_tls_CAfile = /none\n",
            "main.cf:16: smtp_tls_CAfile",
        ),
        ("master.cf", "smtp inet n\n", "master.cf:10: missing "),
        ("mailstack.toml", "x = [\n", "mailstack.toml"),
    ],
)
def test_a_bad_configuration_is_one_line(mta: MTA, file: str, text: str, message: str) -> None:
    with (mta.config / file).open("a") as config:
        config.write(text)
    mta.start(wait=False)
    assert mta.process is not None
    assert mta.process.wait(10) == 78
    [line] = mta.log()
    assert f"fatal: {mta.config}/{message}" in line


def test_a_taken_port_is_named(mta: MTA) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", mta.port))
        sock.listen()
        mta.start(wait=False)
        assert mta.process is not None
        assert mta.process.wait(10) == 1
    [line] = mta.log()
    assert f"fatal: bind 127.0.0.1 port {mta.port}: Address already in use" in line


def test_only_one_master_per_queue(mta: MTA) -> None:
    mta.start()
    assert mta.process is not None
    first = mta.process
    mta.start(wait=False)
    assert mta.process.wait(10) == 1
    assert mta.log(f"fatal: the mail system is already running on .* \\(process {first.pid}\\)")
    mta.process = first
