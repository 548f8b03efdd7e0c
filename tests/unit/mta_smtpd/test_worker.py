"""The worker process: several services, overrides, an orderly end, a wrong configuration."""

from __future__ import annotations

import os
import signal
import smtplib
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mailstack.net.listen import bind_tcp
from tests.unit.mta_smtpd.serving import write_config

SCRIPT = """
import socket, sys
from pathlib import Path
from mailstack.config.postfix.master_cf import parse_master
from mailstack.mta.smtpd.worker import run_worker
from mailstack.net.log import Log
services = parse_master(sys.argv[2], Path("master.cf"))
pairs = [(service, socket.socket(fileno=int(fd))) for service, fd in zip(services, sys.argv[3:])]
for _, sock in pairs:
    sock.setblocking(False)
print("ready", flush=True)
sys.exit(run_worker(Path(sys.argv[1]), pairs, Log("postfix/smtpd", "mail")))
"""
MASTER_CF = """\
25 inet n - n - - smtpd
587 inet n - n - - smtpd
  -o syslog_name=postfix/submission -o smtpd_banner=submission
"""


@contextmanager
def worker(directory: Path, *, descriptors: int = 0) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    socks = [bind_tcp("127.0.0.1", 0) for _ in range(2)]
    fds = [sock.fileno() for sock in socks]
    command = [sys.executable, "-c", SCRIPT, str(directory), MASTER_CF, *map(str, fds)]
    if descriptors:
        command = ["sh", "-c", f'ulimit -n {descriptors}; exec "$@"', "sh", *command]
    process = subprocess.Popen(
        command, pass_fds=fds, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    ports = [sock.getsockname()[1] for sock in socks]
    for sock in socks:
        sock.close()
    try:
        yield process, ports
    finally:
        process.kill()
        process.communicate()


def test_one_worker_serves_every_line_and_ends_in_order(tmp_path: Path) -> None:
    write_config(tmp_path)
    with worker(tmp_path) as (process, ports):
        with smtplib.SMTP("127.0.0.1", ports[0], timeout=20) as client:
            client.sendmail("a@b.test", ["zs@dgtlinux.com"], b"Subject: x\n\nhello\n")
        with socket.create_connection(("127.0.0.1", ports[1]), timeout=20) as idle:
            stream = idle.makefile("rb")
            assert stream.readline() == b"220 submission\r\n"
            process.send_signal(signal.SIGTERM)
            assert stream.readline().startswith(b"421 4.3.2 mail.dgtlinux.com ")
            assert stream.readline() == b""
        _, log = process.communicate(timeout=20)
        assert process.returncode == 0
        assert "postfix/submission/smtpd[" in log and "Traceback" not in log
        assert len(list((tmp_path / "queue/incoming").iterdir())) == 1


def test_a_wrong_configuration_is_one_fatal_line(tmp_path: Path) -> None:
    write_config(tmp_path, "smtpd_client_restrictions = permit_everybody\n")
    with worker(tmp_path) as (process, _):
        _, log = process.communicate(timeout=20)
        assert process.returncode == 78
        lines = [line for line in log.splitlines() if "fatal:" in line]
        assert len(lines) == 1
        assert "main.cf:24: smtpd_client_restrictions: unknown smtpd restriction" in lines[0]


def test_without_descriptors_clients_are_turned_away_and_the_others_served(tmp_path: Path) -> None:
    write_config(tmp_path, "smtpd_client_connection_count_limit = 0\n")
    with worker(tmp_path, descriptors=40) as (process, ports):
        crowd = [socket.create_connection(("127.0.0.1", ports[0]), timeout=20) for _ in range(60)]
        greetings = [_greeting(sock) for sock in crowd]
        served = [number for number, greeting in enumerate(greetings) if greeting.startswith(b"220 ")]
        turned_away = [greeting for greeting in greetings if not greeting.startswith(b"220 ")]
        assert len(served) == 8
        assert set(turned_away) <= {
            b"421 4.3.2 mail.dgtlinux.com Service unavailable - try again later\r\n",
            b"",
        }
        crowd[served[0]].sendall(b"NOOP\r\n")
        assert _greeting(crowd[served[0]]) == b"250 2.0.0 Ok\r\n"
        used = os.times()
        for sock in crowd:
            sock.close()
        with smtplib.SMTP("127.0.0.1", ports[0], timeout=20) as client:
            assert client.noop()[0] == 250
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=20)
        assert log.count("turning clients away") == 1 and "Traceback" not in log
        spent = os.times()
        assert spent.children_user + spent.children_system - used.children_user - used.children_system < 5


def _greeting(sock: socket.socket) -> bytes:
    """One line; empty where the connection was closed."""
    try:
        return sock.makefile("rb").readline()
    except OSError:
        return b""
