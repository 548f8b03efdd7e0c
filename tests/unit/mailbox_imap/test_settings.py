"""Settings of dovecot.conf that IMAP clients notice."""

from __future__ import annotations

import asyncio
import errno
import os
from pathlib import Path

import pytest

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
    assert "imap-login: ID sent: name=mut?t, VERSION=1: user=<>, rip=127.0.0.1, lip=127.0.0.1\n" in log
    assert "imap(zs@mail.test): ID sent: name=mut?t, VERSION=1\n" in log
    (tmp_path / "log").unlink()
    assert "ID sent: name=mut?t, VERSION=1, os=y" in said(tmp_path, "imap_id_log = *\n", name)[1]


def test_a_full_disk_keeps_nobody_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def create(root: str, name: str) -> bool:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(tree, "create", create)
    (answer,), log = said(tmp_path, "", LOGIN)
    assert b"t OK" in answer
    assert "mailbox INBOX: [Errno 28] No space left on device" in log
