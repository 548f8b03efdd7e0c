"""NOOP that comes alone is answered on the shortest way; what there is to tell is told all the same."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from mailstack.net.stream import Stream
from tests.mailbox import Mailbox, running

USER = "zs@mail.test"


@pytest.mark.parametrize(
    ("sent", "answers"),
    [
        (b"a NOOP\r\n", 1),
        (b"a NOOP\r\nb NOOP\r\n", 2),
        (b"a noop\r\n", 1),
        (b"a NoOp \r\n", 1),
    ],
)
def test_every_spelling_is_answered(tmp_path: Path, sent: bytes, answers: int) -> None:
    async def main() -> None:
        async with running(tmp_path) as mailbox:
            stream = await _selected(mailbox)
            stream.write(sent)
            got = b""
            while got.count(b" OK NOOP completed.\r\n") < answers:
                got += await stream.read(5)

    asyncio.run(main())


def test_news_come_before_the_answer(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path) as mailbox:
            stream = await _selected(mailbox)
            (tmp_path / "mail/mail.test/zs/new/1.M1.other").write_text("Subject: x\n\n")
            stream.write(b"a NOOP\r\n")
            assert (await _until(stream, b"a ")).startswith(b"* 1 EXISTS\r\n")
            stream.write(b"b NOOP\r\n")
            assert await _until(stream, b"b ") == b"b OK NOOP completed.\r\n"
            await mailbox.deliver(USER, b"Subject: y\r\n\r\n")
            stream.write(b"c NOOP\r\n")
            assert (await _until(stream, b"c ")).startswith(b"* 2 EXISTS\r\n")

    asyncio.run(main())


async def _selected(mailbox: Mailbox) -> Stream:
    stream = await mailbox.connect("imap")
    await stream.read(5)
    for line in (b"l LOGIN zs secret\r\n", b"s SELECT INBOX\r\n"):
        stream.write(line)
        await _until(stream, line[:2])
    return stream


async def _until(stream: Stream, tag: bytes) -> bytes:
    got = b""
    while not got.startswith(tag) and b"\n" + tag not in got:
        got += await stream.read(5)
    return got
