"""Clients that mean harm, in small: others are served meanwhile, nothing grows, and no session is dropped."""

from __future__ import annotations

import os
import signal
import smtplib
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.test_master import processes
from tests.integration.test_mta import MTA, Sinks, wait_for
from tests.ports import free_port
from tests.unit.mta_smtpd.serving import TLS_CF, make_certificate

ATTACK = """\
import sys
from benchmarks.attackers import attack
name, port, seconds, scale = sys.argv[1:]
print(attack(name, int(port), float(seconds), float(scale)))
"""


@pytest.fixture
def mta(tmp_path: Path) -> Iterator[MTA]:
    sinks = Sinks()
    mta = MTA(tmp_path, sinks)
    with (mta.config / "main.cf").open("a") as file:
        file.write(
            "smtpd_peername_lookup = no\nsmtpd_client_connection_count_limit = 0\n"
            "virtual_mailbox_domains = bench.test\nvirtual_mailbox_maps = static:yes\n"
            f"virtual_transport = lmtp:inet:127.0.0.1:{sinks.lmtp.port}\n"
        )
    yield mta
    if mta.process is not None and mta.process.poll() is None:
        assert mta.stop() == 0
    sinks.close()


def attacking(name: str, port: int, seconds: float, scale: float) -> subprocess.Popen[str]:
    """The attack, in a process of its own."""
    words = [name, str(port), str(seconds), str(scale)]
    return subprocess.Popen([sys.executable, "-c", ATTACK, *words], stdout=subprocess.PIPE, text=True)


def polite_session(port: int) -> float:
    """Send a message; how many seconds that took."""
    started = time.monotonic()
    with smtplib.SMTP("127.0.0.1", port, timeout=30, source_address=("127.0.9.9", 0)) as client:
        client.sendmail("a@x.test", ["zs@x.test"], "Subject: polite\r\n\r\nhello\r\n")
    return time.monotonic() - started


def memory(pids: set[int]) -> float:
    """The largest resident size of some processes, in MiB."""
    lines = [line for pid in pids for line in Path(f"/proc/{pid}/status").read_text().splitlines()]
    return max(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))


def test_others_are_served_whatever_the_attack(mta: MTA) -> None:
    mta.start()
    for name, scale in (
        ("junk", 0.5),
        ("hold", 0.05),
        ("slow", 0.05),
        ("flood", 0.5),
        ("recipients", 0.04),
        ("churn", 0.3),
    ):
        attacker = attacking(name, mta.port, 1.0, scale)
        times: list[float] = []
        while attacker.poll() is None or len(times) < 4:
            times.append(polite_session(mta.port))
            time.sleep(0.05)
        assert attacker.returncode == 0 and attacker.stdout is not None
        assert "connected" in attacker.stdout.read(), name
        attacker.stdout.close()
        assert sorted(times)[len(times) // 2] < 5.0, (name, times)
        assert memory(processes(mta)) < 100, name
    assert not mta.log("warning: process")
    assert not mta.log("Traceback")


def test_clients_that_take_all_room_lose_it_soon(mta: MTA) -> None:
    """Under stress those who say nothing, or an octet at a time, have a second left, and others get in."""
    with (mta.config / "main.cf").open("a") as file:
        file.write("smtpd_timeout = ${stress?{1}:{300}}s\n")
    mta.start(prefix=("prlimit", "--nofile=200:200"))  # some 36 sessions for each process
    attackers = [attacking("slow", mta.port, 60, 0.02)]
    wait_for(lambda: len(mta.log(": client=")) >= 8, "content that comes slowly", 60)
    attackers.append(attacking("hold", mta.port, 60, 0.02))
    wait_for(lambda: mta.log("turning clients away"), "a full house", 60)
    assert all(attacker.poll() is None for attacker in attackers)
    wait_for(lambda: served(mta.port), "room for others", 60)
    wait_for(lambda: mta.log("timeout after DATA "), "the end of those who send an octet a second", 60)
    wait_for(lambda: mta.log("timeout after EHLO from "), "the end of those in a command", 60)
    for attacker in attackers:
        attacker.terminate()
        attacker.communicate()
    assert not mta.log("killed|Traceback|exit status")


def test_who_never_shakes_hands_loses_his_place_soon(mta: MTA) -> None:
    """Silent connections to a port that begins with TLS take all room; under stress they have a second."""
    make_certificate(mta.config)
    port = free_port()
    with (mta.config / "main.cf").open("a") as file:
        file.write(TLS_CF.format(dir=mta.config) + "smtpd_starttls_timeout = ${stress?{1}:{300}}s\n")
    with (mta.config / "master.cf").open("a") as file:
        file.write(f"127.0.0.1:{port} inet n - n - - smtpd -o smtpd_tls_wrappermode=yes\n")
    mta.start(prefix=("prlimit", "--nofile=200:200"))
    attacker = attacking("hold", port, 60, 0.02)
    wait_for(lambda: mta.log("turning clients away"), "a full house", 60)
    wait_for(lambda: served(mta.port), "room for others", 60)
    wait_for(
        lambda: mta.log("SSL_accept error from .*: Connection timed out"), "the end of those who wait", 60
    )
    context = ssl.create_default_context(cafile=mta.config / "cert.pem")

    def served_in_tls() -> bool:
        try:
            with smtplib.SMTP_SSL("localhost", port, timeout=10, context=context) as client:
                return client.noop()[0] == 250
        except (smtplib.SMTPException, OSError):
            return False

    wait_for(served_in_tls, "room there, too", 60)
    attacker.terminate()
    attacker.communicate()
    assert not mta.log("killed|Traceback|exit status")


def served(port: int) -> bool:
    try:
        polite_session(port)
    except (smtplib.SMTPException, OSError):
        return False
    return True


def test_no_session_is_dropped_by_reloads_under_load(mta: MTA) -> None:
    mta.start()
    assert mta.process is not None
    stop, failures, times = threading.Event(), [], []

    def load() -> None:
        while not stop.is_set():
            try:
                times.append(polite_session(mta.port))
            except (smtplib.SMTPException, OSError) as error:
                failures.append(repr(error))

    threads = [threading.Thread(target=load) for _ in range(8)]
    for thread in threads:
        thread.start()
    for number in range(1, 5):
        mta.process.send_signal(signal.SIGHUP)
        wait_for(lambda n=number: len(mta.log("refresh configuration")) == n, "the reload", 60)  # type: ignore[misc]
    stop.set()
    for thread in threads:
        thread.join()
    assert failures == [] and len(times) > 8  # each within the time-out of `polite_session`
    wait_for(lambda: len(mta.log(": removed")) == len(times), "every delivery", 60)
    wait_for(
        lambda: len(processes(mta)) == 1 + min(2, os.cpu_count() or 1), "the end of the old processes", 60
    )
