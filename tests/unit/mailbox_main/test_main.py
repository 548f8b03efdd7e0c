"""The command: start, signals, exit status, what it says of its configuration."""

from __future__ import annotations

import imaplib
import os
import poplib
import signal
import smtplib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mailbox import USERS, certificate, client_tls
from tests.ports import free_ports

CONFIG = """\
protocols = pop3 lmtp imap
listen = 127.0.0.1
ssl = yes
ssl_cert = <cert.pem
ssl_key = <key.pem
hostname = mx.mail.test
auth_default_realm = mail.test
auth_failure_delay = 0
mail_location = maildir:~/
mail_home = {dir}/mail/%d/%n
base_dir = {dir}/run
passdb {{
  driver = passwd-file
  args = users
}}
service imap-login {{
  inet_listener imap {{
    port = {imap}
  }}
  inet_listener imaps {{
    port = 0
  }}
}}
service pop3-login {{
  inet_listener pop3 {{
    port = {pop3}
  }}
  inet_listener pop3s {{
    port = {pop3s}
  }}
}}
service lmtp {{
  inet_listener lmtp {{
    port = {lmtp}
  }}
}}
service auth {{
  unix_listener client {{
    mode = 0600
  }}
}}
"""
NAMES = ("imap", "pop3", "pop3s", "lmtp")


class Process:
    """The service as a process of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ports = dict(zip(NAMES, free_ports(len(NAMES)), strict=True))
        self.log = folder / "log"
        certificate(folder)
        (folder / "users").write_text(USERS)
        self.write(CONFIG)
        self.child: subprocess.Popen[bytes] | None = None

    def write(self, text: str) -> None:
        """Write dovecot.conf."""
        (self.folder / "dovecot.conf").write_text(text.format(dir=self.folder, **self.ports))

    def start(self) -> None:
        """Start it and wait until it answers."""
        command = [sys.executable, "-m", "mailstack.mailbox", "--config", str(self.folder)]
        with open(self.log, "ab") as log:
            self.child = subprocess.Popen(command, stderr=log)
        self.wait_for("pop3")

    def wait_for(self, name: str) -> None:
        """Wait until the listener accepts."""
        self.wait(lambda: self.accepts(name))

    def accepts(self, name: str) -> bool:
        """Whether somebody listens there."""
        try:
            socket.create_connection(("127.0.0.1", self.ports[name]), 1).close()
        except OSError:
            return False
        return True

    def greeting(self) -> bytes:
        """What POP3 says to a new client."""
        client = poplib.POP3("127.0.0.1", self.ports["pop3"])
        client.close()
        return client.getwelcome()

    def wait(self, condition: object, seconds: float = 10.0) -> None:
        """Wait until `condition()` holds."""
        assert callable(condition)
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.01)

    def signal(self, number: int) -> None:
        """Send a signal."""
        assert self.child is not None
        self.child.send_signal(number)

    def end(self) -> int:
        """Ask it to stop; the exit status."""
        assert self.child is not None
        self.child.send_signal(signal.SIGTERM)
        return self.child.wait(10)


@pytest.fixture
def process(tmp_path: Path) -> Iterator[Process]:
    """A process that is not started yet."""
    made = Process(tmp_path)
    yield made
    if made.child is not None and made.child.poll() is None:
        made.child.kill()
        made.child.wait()


def test_from_lmtp_to_pop3_and_imap_and_a_clean_end(process: Process) -> None:
    process.start()
    context = client_tls(process.folder)
    with smtplib.LMTP("127.0.0.1", process.ports["lmtp"]) as lmtp:
        assert lmtp.sendmail("a@b.test", ["zs@mail.test"], "Subject: hello\r\n\r\nbody\r\n") == {}
    pop3 = poplib.POP3_SSL("localhost", process.ports["pop3s"], context=context)
    pop3.user("zs")
    pop3.pass_("secret")
    assert b"Subject: hello" in pop3.retr(1)[1]
    imap = imaplib.IMAP4("localhost", process.ports["imap"])
    imap.starttls(context)
    imap.login("zs", "secret")
    assert imap.select() == ("OK", [b"1"])
    assert (process.folder / "run/client").is_socket()
    began = time.monotonic()
    process.signal(signal.SIGTERM)
    assert imap.readline() == b"* BYE Server shutting down.\r\n"
    assert pop3.file.readline() == b"-ERR [SYS/TEMP] Server shutting down.\r\n"
    assert process.child is not None
    assert process.child.wait(10) == 0
    assert time.monotonic() - began < 3
    assert not (process.folder / "run/client").exists()
    imap.shutdown()
    pop3.close()


def test_reload_opens_closes_and_keeps(process: Process) -> None:
    process.start()
    held = poplib.POP3("127.0.0.1", process.ports["pop3"])
    changed = CONFIG.replace("port = {lmtp}", "port = 0").replace(
        "protocols", "login_greeting = Anew\nprotocols"
    )
    process.write(changed)
    process.signal(signal.SIGHUP)
    process.wait(lambda: "reloading configuration" in process.log.read_text())
    assert not process.accepts("lmtp")
    assert process.greeting() == b"+OK Anew"
    assert held.noop() == b"+OK"
    held.close()

    process.write(changed + "ssl = perhaps\n")
    process.signal(signal.SIGHUP)
    process.wait(lambda: "reload failed" in process.log.read_text())
    line = len(changed.split("\n"))
    assert f"{process.folder}/dovecot.conf:{line}: Invalid value: perhaps" in process.log.read_text()
    assert process.greeting() == b"+OK Anew"

    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        process.ports["lmtp"] = holder.getsockname()[1]
        process.write(CONFIG)
        process.signal(signal.SIGHUP)
        process.wait(
            lambda: f"port {process.ports['lmtp']}: Address already in use" in process.log.read_text()
        )
    assert process.accepts("pop3")
    assert process.end() == 0


def test_a_new_certificate_is_used_after_a_reload(process: Process) -> None:
    process.start()
    (process.folder / "cert.pem").unlink()
    certificate(process.folder)
    process.signal(signal.SIGHUP)
    process.wait(lambda: "reloading configuration" in process.log.read_text())
    context = client_tls(process.folder)
    for _ in range(5):
        poplib.POP3_SSL("localhost", process.ports["pop3s"], context=context).quit()
    client = poplib.POP3("localhost", process.ports["pop3"])
    client.stls(context)
    client.quit()
    assert process.end() == 0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("ssl = perhaps\n", "fatal: {conf}:1: Invalid value: perhaps"),
        ("passdb {{\n", "fatal: {conf}: Missing '}}' (section started at {conf}:1)"),
        ("ssl = yes\nssl_cert = <users\nssl_key = <key.pem\n", "fatal: {dir}/users: ssl_cert, ssl_key: "),
    ],
)
def test_a_wrong_configuration_is_one_line_and_status_78(process: Process, text: str, said: str) -> None:
    process.write(text)
    command = [sys.executable, "-m", "mailstack.mailbox", "--config", str(process.folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 78
    assert done.stderr.count("\n") == 1
    assert said.format(conf=process.folder / "dovecot.conf", dir=process.folder) in done.stderr


def test_a_port_that_is_taken_is_named(process: Process) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        process.ports["pop3"] = holder.getsockname()[1]
        process.write(CONFIG)
        command = [sys.executable, "-m", "mailstack.mailbox", f"--config={process.folder}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 1
        port = process.ports["pop3"]
        assert f"fatal: bind 127.0.0.1 port {port}: Address already in use" in done.stderr


def test_settings_without_effect_are_named_at_start(process: Process) -> None:
    process.write(CONFIG + "mail_debug = yes\nfrobnicate = 1\n")
    process.start()
    process.wait(lambda: "starting up" in process.log.read_text())
    log = process.log.read_text()
    assert "warning: " in log
    assert log.count("setting mail_debug has no effect: there are no debug lines") == 1
    assert log.count("setting frobnicate is unknown here and has no effect") == 1
    assert process.end() == 0


@pytest.mark.parametrize(
    ("arguments", "status"), [(["--help"], 0), ([], 2), (["--config"], 2), (["--frobnicate", "x"], 2)]
)
def test_usage(arguments: list[str], status: int) -> None:
    command = [sys.executable, "-m", "mailstack.mailbox", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == status
    assert "usage: python -m mailstack.mailbox --config DIR" in done.stdout + done.stderr


def test_it_does_not_import_what_servers_must_not() -> None:
    code = (
        "import sys, mailstack.mailbox.main\n"
        "heavy = 'email http urllib.request multiprocessing yaml pydantic jinja2 typer rich docker dns'.split()\n"
        "print([name for name in heavy if name in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ}
    )
    assert done.stdout == "[]\n"
