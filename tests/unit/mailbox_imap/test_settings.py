"""Settings of dovecot.conf that IMAP clients notice."""

from __future__ import annotations

import asyncio
import errno
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from mailstack.config.errors import ConfigError
from mailstack.net.stream import Stream
from mailstack.storage.maildir import tree
from tests.mailbox import running


async def ask(stream: Stream, command: bytes) -> bytes:
    """What is said until the command is answered."""
    stream.write(b"t " + command + b"\r\n")
    answer = b""
    while not answer.endswith(b"\r\n") or b"\nt " not in b"\n" + answer:
        data = await stream.read(5)
        assert data
        answer += data
    return answer


def said(tmp_path: Path, extra: str, *commands: bytes) -> tuple[list[bytes], str]:
    """The answers, and the log."""

    async def main() -> tuple[list[bytes], str]:
        async with running(tmp_path, extra) as mailbox:
            stream = await mailbox.connect("imap")
            await stream.read(5)
            return [await ask(stream, command) for command in commands], mailbox.log()

    return asyncio.run(main())


LOGIN = b'LOGIN zs "secret"'


def test_imap_capability_replaces_what_is_announced(tmp_path: Path) -> None:
    before, _, after = said(
        tmp_path, "imap_capability = IMAP4rev1 IDLE\n", b"CAPABILITY", LOGIN, b"CAPABILITY"
    )[0]
    assert before.startswith(b"* CAPABILITY IMAP4rev1 IDLE AUTH=PLAIN AUTH=LOGIN\r\n")
    assert after.startswith(b"* CAPABILITY IMAP4rev1 IDLE\r\n")


def test_imap_capability_adds_to_it(tmp_path: Path) -> None:
    plain = said(tmp_path, "", b"CAPABILITY")[0][0].splitlines()[0].split()
    more = said(tmp_path, "imap_capability = +XFOO IDLE XBAR\n", b"CAPABILITY")[0][0].splitlines()[0].split()
    assert more == [*plain, b"XFOO", b"XBAR"]


@pytest.mark.parametrize(
    ("setting", "sent"),
    [
        ("", b'("name" "mailstack")'),
        ("imap_id_send = name mine support-url *\n", b'("name" "mine" "support-url" NIL)'),
        ("imap_id_send = name * version 9\n", b'("name" "mailstack" "version" "9")'),
        ("imap_id_send =\n", b"NIL"),
    ],
)
def test_imap_id_send(tmp_path: Path, setting: str, sent: bytes) -> None:
    assert said(tmp_path, setting, b"ID NIL")[0][0].splitlines()[0] == b"* ID " + sent


def test_imap_id_log(tmp_path: Path) -> None:
    name = b'ID ("name" "mut\tt" "VERSION" "1" "x" NIL "os" "y")'
    assert "ID sent" not in said(tmp_path, "", name)[1]
    log = said(tmp_path, "imap_id_log = name version\n", name, LOGIN, name)[1]
    assert "imap-login: ID sent: name=mut?t, VERSION=1: user=<>, rip=127.0.0.1, lip=127.0.0.1, ses" in log
    assert re.search(r"imap\(zs@mail\.test\)<\d+><\S+>: ID sent: name=mut\?t, VERSION=1\n", log)
    (tmp_path / "log").unlink()
    assert "ID sent: name=mut?t, VERSION=1, os=y" in said(tmp_path, "imap_id_log = *\n", name)[1]


SOME = (
    LOGIN,
    b"CREATE Bin",
    b"APPEND INBOX {14+}\r\nSubject: x\r\n\r\n",
    b"APPEND INBOX {14+}\r\nSubject: y\r\n\r\n",
    b"SELECT INBOX",
    b"FETCH 1:2 (BODY.PEEK[HEADER] RFC822.HEADER BODY[]<0.7> BODY[TEXT])",
    b"UID MOVE 1 Bin",
    b"STORE 1 +FLAGS (\\Deleted)",
    b"EXPUNGE",
    b"LOGOUT",
)
BIN = "namespace inbox {\n  inbox = yes\n  mailbox Bin {\n    special_use = \\Trash\n  }\n}\n"


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        (
            "",
            (
                r"<\d+><\S{16}>: Disconnected: Logged out in=\d{3} out=\d{3,4} deleted=1 expunged=1 trashed=1 "
                "hdr_count=4 hdr_bytes=56 body_count=4 body_bytes=14\n"
            ),
        ),
        ("imap_logout_format = %{appended} saved, 100%%\n", r": Disconnected: Logged out 2 saved, 100%\n"),
        ("imap_logout_format =\n", r": Disconnected: Logged out\n"),
        ('mail_log_prefix = "%s %n at %d: "\n', r"\]: imap zs at mail\.test: Disconnected: Logged out in="),
        ("login_log_format = %s (%$)\n", r"imap-login: user=<zs@mail\.test>, method=PLAIN, .* \(Login\)\n"),
        (
            "login_log_format_elements = %c tls=%c user=%u [%{rip}]:%b %{session}\n",
            r"imap-login: Login: user=zs@mail\.test, \[127\.0\.0\.1\]:\d+, \S{16}\n",
        ),
    ],
)
def test_log_formats(tmp_path: Path, settings: str, line: str) -> None:
    assert re.search(line, said(tmp_path, BIN + settings, *SOME)[1])


def test_logins_that_fail_are_logged(tmp_path: Path) -> None:
    """As Dovecot has it, so that fail2ban finds them."""

    async def main() -> None:
        async with running(tmp_path) as mailbox:
            for name, commands in {
                "imap": ((b'a LOGIN zs "wrong"', b'b LOGIN "z<s" wrong', b"c LOGOUT"), (b"a LOGOUT",), ()),
                "pop3": ((b"USER zs", b"PASS wrong", b"QUIT"), (b"QUIT",), ()),
            }.items():
                for session in commands:
                    stream = await mailbox.connect(name)
                    for command in session:
                        stream.write(command + b"\r\n")
                    stream.transport.write_eof()  # type: ignore[union-attr]
                    while await stream.read(5):
                        pass

    asyncio.run(main())
    log = (tmp_path / "log").read_text()
    rest = r", rip=127\.0\.0\.1, lip=127\.0\.0\.1, session=<\S{16}>\n"
    for name, user, count in (("imap", r"z\?s", 2), ("pop3", "zs", 1)):
        start = f"{name}-login: Disconnected: "
        logout = r"Aborted login by logging out"
        tried = rf"\(auth failed, {count} attempts in 0 secs\): user=<{user}>, method=PLAIN"
        assert re.search(start + logout + " " + tried + rest, log)
        assert re.search(start + logout + r" \(no auth attempts in 0 secs\): user=<>" + rest, log)
        assert re.search(start + r"Connection closed \(no auth attempts in 0 secs\): user=<>" + rest, log)
    if shutil.which("fail2ban-regex") is None:
        pytest.skip("fail2ban-regex is missing (apt-get install fail2ban)")
    command = ["fail2ban-regex", str(tmp_path / "log"), "dovecot[mode=normal]"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert re.search(r"\b2 matched", done.stdout), done.stdout


@pytest.mark.parametrize(
    "setting",
    [
        "imap_logout_format = %Li",
        "imap_logout_format = %{deleted",
        "login_log_format = %s %x",
        "login_log_format_elements = user=<%Lu>",
        "mail_log_prefix = %{nothing}",
        "mail_log_prefix = 100%",
    ],
)
def test_wrong_log_formats(tmp_path: Path, setting: str) -> None:
    key = setting.partition(" ")[0]
    with pytest.raises(ConfigError, match=rf"dovecot\.conf:\d+: {key}: unsupported variable %"):
        said(tmp_path, setting + "\n")


def test_a_full_disk_keeps_nobody_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def create(root: str, name: str) -> bool:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(tree, "create", create)
    (answer,), log = said(tmp_path, "", LOGIN)
    assert b"t OK" in answer
    assert "mailbox INBOX: [Errno 28] No space left on device" in log


def test_metadata_of_any_octets(tmp_path: Path) -> None:
    """A literal8 comes back as one (RFC 5464 §5)."""
    answers, _ = said(
        tmp_path,
        "",
        LOGIN,
        b"SETMETADATA INBOX (/private/comment ~{4+}\r\na\0\xff\r /private/x ~{2+}\r\nok)",
        b"GETMETADATA INBOX (/private/comment /private/x)",
    )
    assert answers[1] == b"t OK Setmetadata completed.\r\n"
    assert answers[2].startswith(b'* METADATA INBOX (/private/comment ~{4}\r\na\0\xff\r /private/x "ok")\r\n')
