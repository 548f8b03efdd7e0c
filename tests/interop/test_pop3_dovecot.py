"""POP3 dialogues with the real Dovecot and with our service, on copies of one Maildir: the same answers.

What is compared of an answer: `+OK` or `-ERR`, its response code, the numbers and ids of STAT, LIST and UIDL, and
every octet of what follows; afterwards which messages are left, and their flags. The words are each server's own.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mailbox import running
from tests.ports import free_port

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(shutil.which("dovecot") is None, reason="dovecot-pop3d is missing"),
    pytest.mark.skipif(os.geteuid() != 0, reason="a real Dovecot starts only as root"),
]

NOBODY = 65534
CONFIG = """\
base_dir = {root}/run
state_dir = {root}/run
log_path = {root}/log
ssl = no
disable_plaintext_auth = no
auth_mechanisms = plain login
auth_failure_delay = 0
protocols = pop3
pop3_lock_session = yes
mail_location = maildir:{root}/mail/%n
first_valid_uid = 0
first_valid_gid = 0
listen = 127.0.0.1
service pop3-login {{
  inet_listener pop3 {{
    port = {port}
  }}
}}
service anvil {{
  unix_listener anvil-auth-penalty {{
    mode = 0
  }}
}}
passdb {{
  driver = static
  args = password=secret
}}
userdb {{
  driver = static
  args = uid=65534 gid=65534 home={root}/mail/%n
}}
"""
MESSAGES = (
    b"Subject: one\n\nline 1\n.dot\n..\nline 4\n",
    b"Subject: two\n\nno end of line",
    b"Subject: three\n",
    b"Subject: four\n\n",
    b"",
    b"\nno header\n",
    b"Subject: caf\xc3\xa9 \xff\n\n8 bit \xe9\n\n\n",
    b"Subject: eight\r\n\r\nCRLF on disk\r\n.\r\n",
    b"Subject: nine\n\n" + b".x\n" * 5000,
    b"Subject: ten\n\n" + b"y" * 10_000 + b"\n.\n",
)
LOGIN = ("USER {user}", "PASS secret")
AFTER_LOGIN: list[tuple[str, ...]] = [
    ("STAT",),
    ("LIST",),
    ("UIDL",),
    *[(f"RETR {number}",) for number in range(1, 11)],
    *[(f"TOP {number} 0", f"TOP {number} 1", f"TOP {number} 3") for number in range(1, 11)],
    *[(f"TOP {number} 1000000",) for number in (1, 2, 6, 8)],
    *[(f"LIST {number}", f"UIDL {number}") for number in (1, 5, 10)],
    ("LIST 0", "LIST 11", "LIST -1", "LIST x", "LIST 99999999999999999999"),
    ("UIDL 0", "UIDL 11", "UIDL x"),
    ("RETR", "RETR 0", "RETR 11", "RETR x"),
    ("TOP", "TOP 1", "TOP 0 1", "TOP 11 1", "TOP 1 x", "TOP x 1"),
    ("DELE", "DELE 0", "DELE 11", "DELE x"),
    ("DELE 1", "DELE 1", "RETR 1", "TOP 1 0", "LIST 1", "UIDL 1"),
    ("DELE 1", "STAT", "LIST", "UIDL"),
    ("DELE 1", "DELE 10", "RSET", "STAT", "LIST"),
    ("DELE 1", "DELE 2", "QUIT"),
    ("DELE 1", "RSET", "DELE 3", "QUIT"),
    ("RETR 2", "DELE 2", "QUIT"),
    ("RETR 1", "RETR 4", "QUIT"),
    ("TOP 1 0", "QUIT"),
    ("RETR 1", "RSET", "QUIT"),
    ("DELE 1", "DELE 2"),
    ("RETR 1", "DELE 2"),
    *[(f"DELE {number}", "STAT", f"LIST {11 - number}", "QUIT") for number in range(1, 11)],
    ("NOOP", "noop", "Stat", "retr 2", "tOp 2 0", "QUIT"),
    ("FROB", "USER zs", "PASS secret", "AUTH PLAIN", "APOP zs x", "LAST"),
    ("", " ", "STAT"),
    (*(f"DELE {number}" for number in range(1, 11)), "STAT", "LIST", "UIDL", "QUIT"),
    (*(f"DELE {number}" for number in range(1, 11)), "RSET", "STAT"),
    ("QUIT",),
]
BEFORE_LOGIN: list[tuple[str, ...]] = [
    ("STAT", "LIST"),
    ("RETR 1", "DELE 1"),
    ("TOP 1 1", "UIDL"),
    ("PASS secret", "FROB", "QUIT"),
    ("USER {user}", "PASS wrong", "USER {user}", "PASS secret", "STAT"),
    ("USER {user}", "QUIT"),
    ("USER {user}", "USER {user}", "PASS secret", "STAT"),
    ("AUTH PLAIN AGU{auth}", "AUTH FROB", "AUTH PLAIN !!!!", "QUIT"),
    ("AUTH PLAIN", "*", "USER {user}", "PASS secret", "STAT"),
    ("STLS", "QUIT"),
    ("QUIT",),
]
DIALOGUES = [(*LOGIN, *commands) for commands in AFTER_LOGIN] + BEFORE_LOGIN
assert len(DIALOGUES) >= 60
MULTILINE = re.compile(r"(?i)(LIST|UIDL|CAPA) *$|(RETR|TOP) ")
ANSWER = re.compile(rb"(\+OK|-ERR|\+)(?: (\[[A-Z/-]+\]))?(.*)\r\n")

Answers = list[tuple[str, bytes, bytes, bytes, bytes]]


def fill(mail: Path, number: int) -> None:
    root = mail / f"u{number}"
    for name in ("cur", "new", "tmp"):
        (root / name).mkdir(parents=True)
    lines = [f"3 V1700000000 N{len(MESSAGES) + 1} G{'0' * 31}1\n"]
    for at, message in enumerate(MESSAGES, 1):
        name = f"17000000{at:02d}.M1P1.host"
        (root / "cur" / f"{name}:2,").write_bytes(message)
        lines.append(f"{at} :{name}\n")
    (root / "dovecot-uidlist").write_text("".join(lines))
    for path in (root, *root.rglob("*")):
        os.chown(path, NOBODY, NOBODY)


def play(port: int, number: int) -> Answers:
    """What the server on `port` answers to each command of a dialogue."""
    answers: Answers = []
    with socket.create_connection(("127.0.0.1", port), 10) as sock, sock.makefile("rb") as replies:
        replies.readline()
        for command in DIALOGUES[number]:
            text = command.replace("{user}", f"u{number}").replace("{auth}", "A")
            sock.sendall(text.encode() + b"\r\n")
            found = ANSWER.fullmatch(replies.readline())
            if found is None:
                answers.append((command, b"closed", b"", b"", b""))
                break
            verdict, code, rest = found[1], found[2] or b"", found[3]
            numbers = b""
            if verdict == b"+OK" and (text.upper() == "STAT" or re.fullmatch(r"(?i)(LIST|UIDL) \d+", text)):
                numbers = rest
            body = b""
            if verdict == b"+OK" and MULTILINE.match(text):
                while not body.endswith(b"\r\n.\r\n") and body != b".\r\n":
                    line = replies.readline()
                    assert line, (command, body[-100:])
                    body += line
            answers.append((command, verdict, code, numbers, body))
    return answers


def left(mail: Path, number: int) -> list[str]:
    """The messages that are there afterwards, with their flags."""
    return sorted(
        re.sub(r",[SW]=\d+", "", path.name) for path in (mail / f"u{number}").glob("[cn][ue][rw]/*")
    )


@pytest.fixture(scope="module")
def reference() -> Iterator[list[tuple[Answers, list[str]]]]:
    """Dovecot's answers and what it leaves, for each dialogue."""
    root = Path(tempfile.mkdtemp(prefix="mailstack-dovecot-"))
    root.chmod(0o755)
    port = free_port()
    (root / "dovecot.conf").write_text(CONFIG.format(root=root, port=port))
    mail = root / "mail"
    mail.mkdir()
    os.chown(mail, NOBODY, NOBODY)
    for number in range(len(DIALOGUES)):
        fill(mail, number)
    process = subprocess.Popen(["dovecot", "-F", "-c", str(root / "dovecot.conf")])
    try:
        end = time.monotonic() + 30
        while time.monotonic() < end:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        answers = [play(port, number) for number in range(len(DIALOGUES))]
        time.sleep(0.5)  # the last sessions write their flags
        yield [(answer, left(mail, number)) for number, answer in enumerate(answers)]
    finally:
        process.terminate()
        process.wait(30)
        shutil.rmtree(root)


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Answers, list[str]]]:
    """The same of our service."""
    folder = tmp_path_factory.mktemp("ours")
    mail = folder / "mail" / "mail.test"
    for number in range(len(DIALOGUES)):
        fill(mail, number)
    users = "".join(f"u{number}@mail.test:{{PLAIN}}secret::::::\n" for number in range(len(DIALOGUES)))

    async def play_all() -> list[Answers]:
        async with running(folder, "", users) as mailbox:
            port = mailbox.port("pop3")
            return [await asyncio.to_thread(play, port, number) for number in range(len(DIALOGUES))]

    answers = asyncio.run(play_all())
    return [(answer, left(mail, number)) for number, answer in enumerate(answers)]


@pytest.mark.parametrize("number", range(len(DIALOGUES)))
def test_the_same_answers_and_messages(
    number: int, reference: list[tuple[Answers, list[str]]], ours: list[tuple[Answers, list[str]]]
) -> None:
    assert ours[number][0] == reference[number][0]
    assert ours[number][1] == reference[number][1]
