"""Transcripts of SMTP sessions for the postmaster, as smtpd sends them."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from mailstack.config.errors import ConfigError
from mailstack.mta.bounce.transcript import transcript
from tests.unit.mta_smtpd.serving import running, settings_of

ALL = "bounce, data, policy, protocol, resource, software"
START = [b"EHLO x.test", b"MAIL FROM:<a@b.test>"]
SESSIONS: list[tuple[str, str, list[bytes], str]] = [
    # classes, further configuration, what is said, who is told
    (ALL, "", [*START, b"RCPT TO:<zs@dgtlinux.com>", b"QUIT"], ""),
    (ALL, "", [b"FOO", b"QUIT"], "errors@dgtlinux.com"),
    ("policy", "", [b"FOO", b"QUIT"], ""),
    ("policy", "", [*START, b"RCPT TO:<far@far.test>", b"QUIT"], "errors@dgtlinux.com"),
    ("protocol", "", [*START, b"RCPT TO:<far@far.test>", b"QUIT"], ""),
    (ALL, "", [*START, b"RCPT TO:<nobody@other.test>", b"QUIT"], "bounces@dgtlinux.com"),
    ("policy", "", [b"MAIL FROM:<a@b.test> SIZE=99999999", b"QUIT"], "errors@dgtlinux.com"),
    ("resource, software", "queue_minfree = 999999999999999\n", [*START, b"QUIT"], "errors@dgtlinux.com"),
]
NAMES = (
    "error_notice_recipient = errors@dgtlinux.com\nbounce_notice_recipient = bounces@dgtlinux.com\n"
    "smtpd_reject_unlisted_recipient = yes\n"
)


@pytest.mark.parametrize(("classes", "extra", "lines", "told"), SESSIONS)
def test_who_is_told(tmp_path: Path, classes: str, extra: str, lines: list[bytes], told: str) -> None:
    async def main() -> None:
        async with running(tmp_path, f"notify_classes = {classes}\n{NAMES}{extra}") as smtpd:
            client = await smtpd.connect()
            client.write(b"".join(line + b"\r\n" for line in lines))
            while await client.read(5.0):
                pass
            while smtpd.shared.sessions:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
            messages = smtpd.messages()
            assert [one.envelope.recipients[0].address for one in messages] == ([told] if told else [])
            if told:
                assert messages[0].envelope.sender == "double-bounce@mail.dgtlinux.com"
                content = smtpd.content(messages[0]).decode()
                assert f" In:  {lines[0].decode()}\r\n Out: " in content
                assert content.endswith(
                    " Out: 221 2.0.0 Bye\r\n\r\n\r\nFor other details, see the local mail logfile\r\n"
                )

    asyncio.run(main())


def test_why_a_session_was_broken_off(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path, f"notify_classes = protocol\n{NAMES}") as smtpd:
            client = await smtpd.connect()
            await client.read(5.0)
            client.write(b"FOO\r\n")
            await client.read(5.0)
            client.close()
            while not smtpd.messages():  # noqa: ASYNC110
                await asyncio.sleep(0.001)
            [message] = smtpd.messages()
            assert "\r\nSession aborted, reason: lost connection\r\n" in smtpd.content(message).decode()

    asyncio.run(main())


def test_a_class_that_does_not_exist_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r'notify_classes.*unknown value "bounces" in "policy bounces"'):
        settings_of(tmp_path, "notify_classes = policy, bounces\n")


def test_lines_are_folded_and_secrets_left_out() -> None:
    history = [
        b"250-a\r\n250 b\r\n",
        b"AUTH PLAIN c2VjcmV0",
        b"NOOP \x07\xff",
        b"RCPT TO:<" + b"x" * 80 + b">",
    ]
    assert transcript(history) == [
        " Out: 250-a",
        " Out: 250 b",
        " In:  AUTH PLAIN ...",
        " In:  NOOP ?\ufffd",
        " In:  RCPT",
        "     TO:<" + "x" * 80 + ">",
    ]
