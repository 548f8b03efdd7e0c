"""The lives of smtpd workers under a running master: max_use, max_idle, failures, wake-ups."""

from __future__ import annotations

import os
import re
import signal
import smtplib
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.test_mta import MTA, Sinks, sinks, wait_for

__all__ = ["sinks"]


@pytest.fixture
def mta(tmp_path: Path, sinks: Sinks) -> Iterator[MTA]:
    mta = MTA(tmp_path, sinks)
    yield mta
    if mta.process is not None and mta.process.poll() is None:
        mta.process.terminate()
        mta.process.wait(15)


def configure(mta: MTA, text: str, workers: int = 1) -> None:
    with (mta.config / "main.cf").open("a") as file:
        file.write(text)
    master = mta.config / "master.cf"
    master.write_text(re.sub(r"n - n - \d smtpd", f"n - n - {workers} smtpd", master.read_text()))


def processes(mta: MTA) -> set[int]:
    """The master's children."""
    assert mta.process is not None
    pid = mta.process.pid
    return {int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}


def test_a_worker_is_relieved_after_max_use_clients_while_a_session_goes_on(mta: MTA, sinks: Sinks) -> None:
    configure(mta, "max_use = 3\n")
    mta.start()
    before = processes(mta)
    with smtplib.SMTP("127.0.0.1", mta.port, timeout=10) as client:
        client.ehlo()
        for _ in range(3):
            assert mta.answers()
        wait_for(lambda: len(processes(mta)) == 3, "the successor beside the worker that still serves us")
        assert before < processes(mta)
        mta.send("zs@x.test")  # taken by the successor
        client.sendmail("a@x.test", ["zs@x.test"], b"Subject: t\r\n\r\nfrom the old worker\r\n")
    wait_for(lambda: len(sinks.lmtp.contents) == 2, "both deliveries")
    wait_for(lambda: len(processes(mta)) == 2, "the end of the old worker")
    assert processes(mta) != before
    assert mta.log("warning: process") == []
    assert mta.stop() == 0


def test_idle_workers_end_and_the_next_client_starts_one(mta: MTA, sinks: Sinks) -> None:
    configure(mta, "max_idle = 1s\n", workers=2)
    mta.start()
    assert len(processes(mta)) == 1 + min(2, os.cpu_count() or 1)
    wait_for(lambda: len(processes(mta)) == 1, "the end of both workers")
    mta.send("zs@x.test")
    wait_for(lambda: sinks.lmtp.contents, "the delivery")
    assert len(processes(mta)) >= 2
    wait_for(lambda: len(processes(mta)) == 1, "the end of the worker")
    assert mta.log("warning: process") == []
    assert mta.stop() == 0


def test_a_worker_that_fails_again_and_again_is_throttled(mta: MTA, sinks: Sinks) -> None:
    configure(mta, "service_throttle_time = 1s\n")
    mta.start()
    mta.send("zs@x.test")
    wait_for(lambda: mta.log(": removed"), "the first delivery")
    [qmgr] = mta.children("qmgr")
    for number in range(2):
        [worker] = processes(mta) - {qmgr}
        os.kill(worker, signal.SIGKILL)
        wait_for(lambda n=number: len(mta.log("killed by signal 9")) == n + 1, "the report")  # type: ignore[misc]
        started = time.monotonic()
        wait_for(lambda: len(processes(mta)) == 2, "the replacement")
    assert time.monotonic() - started > 0.9
    assert mta.log(r"warning: process /usr/lib/postfix/sbin/smtpd pid \d+ killed by signal 9$")
    assert len(mta.log(r"warning: /usr/lib/postfix/sbin/smtpd: bad command startup -- throttling$")) == 1
    mta.send("zs@x.test")
    wait_for(lambda: len(sinks.lmtp.contents) == 2, "the delivery")


def test_what_master_cf_asks_for_in_vain_is_in_the_log(mta: MTA, sinks: Sinks) -> None:
    with (mta.config / "master.cf").open("a") as file:
        file.write("127.0.0.1:1 inet n - n - 1 postscreen\n")
    mta.start()
    assert mta.log(r"warning: .*/master\.cf, line \d+: 127\.0\.0\.1:1/inet: postscreen is not served here")


def test_mail_of_local_programs_outlives_its_queue_manager(mta: MTA, sinks: Sinks) -> None:
    with (mta.config / "master.cf").open("a") as file:
        file.write("pickup unix n - n 1 1 pickup\n")
    mta.start()
    mta.send("zs@x.test")
    wait_for(lambda: mta.log(": removed"), "the first delivery")
    [qmgr] = mta.children("qmgr")
    command = [
        sys.executable,
        "-m",
        "mailstack.mta.sendmail",
        "--config",
        str(mta.config),
        "-f",
        "a@x.test",
        "zs@x.test",
    ]
    wanted = [b"number %d." % number for number in range(16)]
    for start in range(0, len(wanted), 4):
        programs = [subprocess.Popen(command, stdin=subprocess.PIPE) for _ in range(4)]
        for program, text in zip(programs, wanted[start:], strict=False):
            assert program.stdin is not None
            program.stdin.write(b"Subject: t\n\n" + text + b"\n")
            program.stdin.close()
        if start == 8:
            os.kill(qmgr, signal.SIGKILL)
        assert [program.wait(30) for program in programs] == [0] * 4
    wait_for(
        lambda: all(any(text in found for found in sinks.lmtp.contents) for text in wanted),
        "all messages",
        30,
    )
    wait_for(lambda: mta.queue() == [], "the empty queue")
    assert len(mta.log(r"postfix/pickup\[\d+\]: [0-9A-F]+: uid=\d+ from=<a@x\.test>$")) >= len(wanted)
    assert not list((mta.root / "queue/corrupt").iterdir())
