"""Users who are not to log in: the real Dovecot and our service tell them the same, in IMAP and in POP3."""

from __future__ import annotations

import asyncio
import base64
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.mailbox import running
from tests.ports import free_ports

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(shutil.which("dovecot") is None, reason="dovecot-imapd is missing"),
    pytest.mark.skipif(os.geteuid() != 0, reason="a real Dovecot starts only as root"),
]

NOBODY = 65534
USERS = """\
plain:{PLAIN}x::::::
no:{PLAIN}x::::::nologin
why:{PLAIN}x::::::nologin reason=Go_away
there:{PLAIN}x::::::nologin host=other.test
moved:{PLAIN}x::::::nologin host=other.test reason=Moved_there
port:{PLAIN}x::::::nologin host=other.test port=1143 destuser=fred
usual:{PLAIN}x::::::nologin host=other.test port=143
host:{PLAIN}x::::::host=other.test
reason:{PLAIN}x::::::reason=hello
"""
NAMES = [line.partition(":")[0] for line in USERS.splitlines()]
COMMON = """\
ssl = no
protocols = imap pop3
disable_plaintext_auth = no
auth_failure_delay = 0
auth_mechanisms = plain login cram-md5
mail_location = maildir:{root}/mail/%u
passdb {{
  driver = passwd-file
  args = username_format=%u {root}/users
}}
userdb {{
  driver = static
  args = uid=65534 gid=65534 home={root}/mail/%u
}}
"""
REAL = """\
base_dir = {root}/run
state_dir = {root}/run
log_path = {root}/log
first_valid_uid = 0
first_valid_gid = 0
listen = 127.0.0.1
service imap-login {{
  inet_listener imap {{
    port = {imap}
  }}
}}
service pop3-login {{
  inet_listener pop3 {{
    port = {pop3}
  }}
}}
service anvil {{
  unix_listener anvil-auth-penalty {{
    mode = 0
  }}
}}
"""


def answers(imap: int, pop3: int) -> list[tuple[str, str, bytes]]:
    """What each user is told, by each way to log in."""
    found = []
    for name in NAMES:
        plain = base64.b64encode(f"\0{name}\0x".encode()).decode()
        for port, how, lines in (
            (imap, "LOGIN", [f"a LOGIN {name} x"]),
            (imap, "wrong", [f"a LOGIN {name} y"]),
            (imap, "PLAIN", [f"a AUTHENTICATE PLAIN {plain}"]),
            (imap, "AUTH", ["a AUTHENTICATE LOGIN", *(_encoded(text) for text in (name, "x"))]),
            (pop3, "PASS", [f"USER {name}", "PASS x"]),
        ):
            answer = _said(port, lines)
            # Names of what works are each server's own; so is what it calls a login.
            found.append((name, how, re.sub(rb"\[CAPABILITY .*", b"[CAPABILITY", answer)))
    return found


def _encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _said(port: int, lines: list[str]) -> bytes:
    with socket.create_connection(("127.0.0.1", port), 10) as sock, sock.makefile("rb") as replies:
        greeting = replies.readline()
        assert greeting.startswith(b"+OK") or b" LOGIN-REFERRALS " in greeting
        for line in lines:
            sock.sendall(line.encode() + b"\r\n")
            answer = replies.readline()
            while answer.startswith(b"* "):
                answer = replies.readline()
        return answer


@contextmanager
def real() -> Iterator[tuple[int, int]]:
    """Dovecot; its ports for IMAP and POP3."""
    root = Path(tempfile.mkdtemp(prefix="mailstack-dovecot-"))
    root.chmod(0o755)
    (root / "users").write_text(USERS)
    (root / "mail").mkdir()
    os.chown(root / "mail", NOBODY, NOBODY)
    imap, pop3 = free_ports(2)
    text = COMMON.format(root=root) + REAL.format(root=root, imap=imap, pop3=pop3)
    (root / "dovecot.conf").write_text(text)
    process = subprocess.Popen(["dovecot", "-F", "-c", str(root / "dovecot.conf")])
    try:
        end = time.monotonic() + 30
        for port in (imap, pop3):
            while time.monotonic() < end:
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.05)
        yield imap, pop3
    finally:
        process.terminate()
        process.wait(30)
        shutil.rmtree(root)


def test_users_are_told_the_same(tmp_path: Path) -> None:
    with real() as ports:
        theirs = answers(*ports)
    (tmp_path / "users").write_text(USERS)

    async def check() -> list[tuple[str, str, bytes]]:
        async with running(tmp_path, COMMON.format(root=tmp_path), whole=True) as mailbox:
            return await asyncio.to_thread(answers, mailbox.port("imap"), mailbox.port("pop3"))

    assert asyncio.run(check()) == theirs
