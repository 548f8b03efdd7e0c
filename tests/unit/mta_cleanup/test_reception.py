"""What checks, filters and maps make of mail on its way through smtpd."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from mailstack.mta.cleanup import FILTER
from mailstack.net.stream import Stream
from tests.unit.mta_smtpd.serving import Smtpd, running

CHECKS = """\
header_checks = regexp:{dir}/header
body_checks = regexp:{dir}/body
message_size_limit = 0
"""
HEADER = "/^X-Hold:/ HOLD\n/^X-Gone:/ DISCARD\n/^X-Filter:/ FILTER smtp:[f]:1\n/^X-To:/ REDIRECT r@x.test\n"
BODY = "/^secret$/ REPLACE public\n/^bad$/ REJECT no\n"


async def send(smtpd: Smtpd, content: bytes) -> bytes:
    """The reply to the dot."""
    client = await smtpd.connect()
    await read(client)
    for line in (b"EHLO h.test", b"MAIL FROM:<a@b.test>", b"RCPT TO:<zs@dgtlinux.com>", b"DATA"):
        client.write(line + b"\r\n")
        await read(client)
    client.write(content + b".\r\n")
    return await read(client)


async def read(client: Stream) -> bytes:
    data = b""
    while not data.endswith(b"\r\n") or data.rpartition(b"\r\n")[0].rpartition(b"\r\n")[2][3:4] == b"-":
        data += await client.read(5.0)
    return data


def play(
    directory: Path, extra: str, content: bytes
) -> tuple[bytes, dict[str, bytes], list[str], dict[str, str]]:
    """(reply, content of what is queued by queue, recipients, attributes)."""
    (directory / "header").write_text(HEADER)
    (directory / "body").write_text(BODY)

    async def main() -> tuple[bytes, dict[str, bytes], list[str], dict[str, str]]:
        conf = "local_header_rewrite_clients =\n" + extra.format(dir=directory)
        async with running(directory, conf) as smtpd:
            reply = await send(smtpd, content)
            queued, recipients, attributes = {}, [], {}
            for name in ("incoming", "hold"):
                for entry in smtpd.queue.scan(name):
                    message = smtpd.queue.read(name, entry.queue_id)
                    queued[name] = smtpd.content(message)
                    recipients = [one.address for one in message.envelope.recipients]
                    attributes = dict(message.envelope.attributes)
            assert not list((directory / "queue" / "tmp").iterdir())
            return reply, queued, recipients, attributes

    return asyncio.run(main())


def test_hold(tmp_path: Path) -> None:
    reply, queued, _, _ = play(tmp_path, CHECKS, b"X-Hold: yes\r\n\r\nx\r\n")
    assert reply.startswith(b"250 2.0.0 Ok: queued as") and list(queued) == ["hold"]


def test_discard(tmp_path: Path) -> None:
    reply, queued, _, _ = play(tmp_path, CHECKS, b"X-Gone: yes\r\n\r\nx\r\n")
    assert reply.startswith(b"250 2.0.0 Ok: queued as") and not queued


def test_a_header_block_beyond_what_is_held_of_a_message(tmp_path: Path) -> None:
    block = b"".join(b"X-Header-%d: %s\r\n" % (number, b"h" * 980) for number in range(500))
    content = block + b"X-Hold: yes\r\n\r\nbody\r\n" + (b"x" * 78 + b"\r\n") * 5000
    reply, queued, _, _ = play(tmp_path, CHECKS, content)
    assert reply.startswith(b"250 ") and list(queued) == ["hold"]
    assert queued["hold"].endswith(content)


def test_filter_and_redirect(tmp_path: Path) -> None:
    _, queued, recipients, attributes = play(tmp_path, CHECKS, b"X-Filter: yes\r\nX-To: x\r\n\r\nx\r\n")
    assert list(queued) == ["incoming"]
    assert recipients == ["r@x.test"] and attributes[FILTER] == "smtp:[f]:1"


def test_content_filter(tmp_path: Path) -> None:
    assert play(tmp_path, "content_filter = scan\n", b"A: b\r\n\r\nx\r\n")[3][FILTER] == "scan:"


@pytest.mark.parametrize("size", [10, 700_000])
def test_bodies_are_checked_to_their_end(tmp_path: Path, size: int) -> None:
    extra = CHECKS + "body_checks_size_limit = 0\n"
    body = b"A: b\r\n\r\nsecret\r\n" + (b"y" * 98 + b"\r\n") * (size // 100)
    _, queued, _, _ = play(tmp_path, extra, body + b"secret\r\n")
    assert queued["incoming"].endswith(body.replace(b"secret", b"public") + b"public\r\n")
    (again := tmp_path / "again").mkdir()
    reply, queued, _, _ = play(again, extra, body + b"bad\r\n")
    assert reply == b"550 5.7.1 no\r\n" and not queued


def test_lines_of_an_mbox_in_front(tmp_path: Path) -> None:
    _, queued, _, _ = play(tmp_path, "", b"From me Mon\r\n>From you\r\nA: b\r\n\r\nFrom x\r\n")
    assert queued["incoming"].endswith(
        b"X-Mailbox-Line: From me Mon\r\nX-Mailbox-Line: >From you\r\nA: b\r\n\r\nFrom x\r\n"
    )


def test_canonical_sender(tmp_path: Path) -> None:
    async def main() -> str:
        extra = "sender_canonical_maps = inline:{ a@b.test=c@d.test }\n"
        async with running(tmp_path, extra) as smtpd:
            await send(smtpd, b"A: b\r\n\r\nx\r\n")
            return smtpd.messages()[0].envelope.sender

    assert asyncio.run(main()) == "c@d.test"
