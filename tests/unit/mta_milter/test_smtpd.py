"""Our smtpd before a scripted milter: large messages, slow milters, sockets, and nothing without milters."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from mailstack.net.stream import Stream
from tests.interop import scripted_milter as m
from tests.interop.scripted_milter import Script, ScriptedMilter
from tests.unit.mta_smtpd.serving import Smtpd, running

MAIL = b"EHLO c.test\r\nMAIL FROM:<a@b.test>\r\n"
RCPT = b"RCPT TO:<zs@dgtlinux.com>\r\n"
SHORT = b"DATA\r\nSubject: x\r\n\r\nhello\r\n.\r\n"


async def said(stream: Stream, wanted: bytes) -> bytes:
    """What the server says up to and including `wanted`."""
    text = b""
    while wanted not in text:
        data = await stream.read(10)
        assert data, text
        text += data
    return text


def with_milter(milter: ScriptedMilter, extra: str = "") -> str:
    return (
        f"smtpd_milters = inet:127.0.0.1:{milter.port}\nsmtpd_peername_lookup = no\n"
        f"local_header_rewrite_clients =\n{extra}"
    )


async def sent(smtpd: Smtpd, content: bytes) -> bytes:
    """The reply to a message."""
    stream = await smtpd.connect()
    await said(stream, b"220 ")
    stream.write(MAIL + RCPT)
    await said(stream, b"2.1.5")
    stream.write(b"DATA\r\n")
    await said(stream, b"354 ")
    for start in range(0, len(content), 65536):
        stream.write(content[start : start + 65536])
        await stream.drain(10)
    stream.write(b".\r\n")
    return await said(stream, b"\r\n")


@pytest.fixture
def milter() -> Iterator[ScriptedMilter]:
    milter = ScriptedMilter()
    yield milter
    milter.stop()


LINES = b"".join(b"%07d %s\r\n" % (number, b"x" * 70) for number in range(20_000))


@pytest.mark.parametrize("replace", [False, True])
def test_a_large_message_is_shown_whole_and_changed(
    tmp_path: Path, milter: ScriptedMilter, replace: bool
) -> None:
    body = [m.body(LINES[start : start + 60_000]) for start in range(0, len(LINES), 60_000)]
    edits = [*(body if replace else []), m.add_header("X-New", "1"), m.change_header(1, "Subject", "")]
    milter.begin(Script({"E": (m.changes(*edits),)}))
    content = b"Subject: large\r\nX-Old: 1\r\n\r\n" + b"old " * 15 + b"\r\n" + LINES

    async def work() -> bytes:
        async with running(tmp_path, with_milter(milter, "message_size_limit = 0\n")) as smtpd:
            assert b"250 2.0.0 Ok: queued as" in await sent(smtpd, content)
            [message] = smtpd.messages()
            return smtpd.content(message)

    stored = asyncio.run(work())
    head, _, text = stored.partition(b"\r\n\r\n")
    assert re.sub(rb"^Received:.*\r\n(?:\t.*\r\n)+", b"", head) == b"X-Old: 1\r\nX-New: 1"
    assert text == (LINES if replace else b"old " * 15 + b"\r\n" + LINES)
    shown = "".join(texts[0] for letter, texts in milter.heard()[0] if letter == "B")
    assert shown.encode() == b"old " * 15 + b"\r\n" + LINES
    assert not list((tmp_path / "queue/tmp").iterdir())


def test_a_refused_large_message_leaves_nothing(tmp_path: Path, milter: ScriptedMilter) -> None:
    milter.begin(Script({"E": (m.changes(m.body(LINES[:900_000]), end=m.REJECT),)}))

    async def work() -> None:
        async with running(tmp_path, with_milter(milter, "message_size_limit = 0\n")) as smtpd:
            assert b"550 5.7.1 Command rejected" in await sent(smtpd, b"Subject: x\r\n\r\n" + LINES)

    asyncio.run(work())
    queue = tmp_path / "queue"
    assert not list((queue / "tmp").iterdir()) and not list((queue / "incoming").iterdir())


def test_a_slow_milter_holds_up_its_own_session_only(tmp_path: Path, milter: ScriptedMilter) -> None:
    async def work() -> None:
        async with running(tmp_path, with_milter(milter)) as smtpd:
            milter.begin(Script({"R": (m.SILENCE,)}))
            slow = await smtpd.connect()
            await said(slow, b"220 ")
            slow.write(MAIL)
            await said(slow, b"250 2.1.0")
            slow.write(RCPT)
            milter.script = Script()
            assert b"queued as" in await sent(smtpd, b"Subject: x\r\n\r\nx\r\n")
            assert not slow.readable

    asyncio.run(work())


def test_a_milter_at_a_unix_socket(tmp_path: Path) -> None:
    milter = ScriptedMilter(str(tmp_path / "socket"))
    milter.begin(Script({"R": (m.REJECT,)}))

    async def work() -> list[str]:
        extra = f"smtpd_peername_lookup = no\nsmtpd_milters = unix:{tmp_path}/socket\n"
        async with running(tmp_path, extra) as smtpd:
            stream = await smtpd.connect()
            await said(stream, b"220 ")
            stream.write(MAIL + RCPT)
            await said(stream, b"550 5.7.1 Command rejected\r\n")
            return smtpd.log()

    log = asyncio.run(work())
    milter.stop()
    line = (
        "smtpd: NOQUEUE: milter-reject: RCPT from unknown[127.0.0.1]: 550 5.7.1 Command rejected; "
        "from=<a@b.test> to=<zs@dgtlinux.com> proto=ESMTP helo=<c.test>"
    )
    assert line in log


def test_without_milters_sessions_have_none(tmp_path: Path) -> None:
    async def work() -> None:
        async with running(tmp_path) as smtpd:
            assert smtpd.settings.milters is None
            stream = await smtpd.connect()
            await said(stream, b"220 ")
            [session] = smtpd.shared.sessions
            assert session._chain is None and session._content_filter() is None

    asyncio.run(work())
