"""`service quota-status` (smtpd's policy protocol) of Dovecot and of ours: the same actions for the same requests."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(shutil.which("dovecot") is None, reason="dovecot is missing"),
    pytest.mark.skipif(os.geteuid() != 0, reason="a real Dovecot starts only as root"),
]

CONFIG = """\
base_dir = {root}/run
log_path = /dev/stderr
ssl = no
protocols = imap
mail_location = maildir:~/
first_valid_uid = 0
first_valid_gid = 0
mail_plugins = quota
passdb {{
  driver = passwd-file
  args = {root}/users
}}
userdb {{
  driver = passwd-file
  args = {root}/users
}}
plugin {{
  quota = maildir:User quota
  quota_grace = 0
  quota_rule = *:storage=10k
{extra}
}}
service imap-login {{
  inet_listener imap {{
    port = 0
  }}
  inet_listener imaps {{
    port = 0
  }}
}}
service quota-status {{
  executable = quota-status -p postfix
  client_limit = 1
  unix_listener {root}/status {{
    mode = 0666
  }}
}}
"""
OWN = """\
  quota_status_success = DUNNO
  quota_status_nouser = DUNNO
  quota_status_overquota = "552 5.2.2 Mailbox is full"
"""
BEGIN = b"request=smtpd_access_policy\n"
REQUESTS = [
    BEGIN + b"protocol_state=RCPT\nrecipient=zs@mail.test\nsize=0\n\n",
    BEGIN + b"recipient=zs@mail.test\nsize=100\n\n",
    BEGIN + b"recipient=zs@mail.test\nsize=20000\n\n",
    BEGIN + b"recipient=zs+work@mail.test\nsize=20000\n\n",
    BEGIN + b"recipient=<ZS@mail.test>\nsize=20000\n\n",
    BEGIN + b"recipient=nobody@mail.test\nsize=0\n\n",
    BEGIN + b"recipient=zs\nsize=20000\n\n",
    BEGIN + b"recipient=\n\n",
    BEGIN + b"\n",
    BEGIN + b"protocol_state=DATA\nrecipient=zs@mail.test\nsize=20000\n\n",
    b"garbage\nrecipient=zs@mail.test\nsize=x\n\n",
    b"\n",
]


@contextmanager
def _server(real: bool, extra: str) -> Iterator[Path]:
    """One of the two; its socket."""
    root = Path(tempfile.mkdtemp(prefix="mailstack-status-"))
    root.chmod(0o755)
    (root / "run").mkdir()
    (root / "mail").mkdir()
    os.chown(root / "mail", 65534, 65534)
    (root / "users").write_text(f"zs@mail.test:{{PLAIN}}x:65534:65534::{root}/mail/zs\n")
    (root / "dovecot.conf").write_text(CONFIG.format(root=root, extra=extra))
    command = (
        ["dovecot", "-F", "-c", str(root / "dovecot.conf")]
        if real
        else [sys.executable, "-m", "mailstack.mailbox", "--config", str(root)]
    )
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 60
        while not (root / "status").exists():
            assert time.monotonic() < end
            assert process.poll() is None
            time.sleep(0.05)
        yield root / "status"
    finally:
        process.terminate()
        process.wait(60)
        shutil.rmtree(root)


def _ask(path: Path) -> list[bytes]:
    answers = []
    for request in REQUESTS:
        with closing(socket.socket(socket.AF_UNIX)) as connection:
            connection.settimeout(60)
            connection.connect(str(path))
            connection.sendall(request)
            answer = b""
            while not answer.endswith(b"\n\n") and (piece := connection.recv(4096)):
                answer += piece
            answers.append(answer)
    return answers


@pytest.mark.parametrize("extra", ["", OWN], ids=["default", "actions"])
def test_the_same_actions(extra: str) -> None:
    with _server(True, extra) as real, _server(False, extra) as ours:
        expected, found = _ask(real), _ask(ours)
    assert {
        request: pair for request, *pair in zip(REQUESTS, found, expected, strict=True) if len(set(pair)) > 1
    } == {}
    full = (
        b"554 5.2.2 Quota exceeded (mailbox for user is full)" if not extra else b"552 5.2.2 Mailbox is full"
    )
    assert found[2] == b"action=" + full + b"\n\n"
