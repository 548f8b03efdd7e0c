"""What a client wants to be told gets into the envelope (RFC 3461), and where DSN is hidden it is refused."""

from __future__ import annotations

import asyncio
from pathlib import Path

from mailstack.mta.dsn import REPLACED
from mailstack.net.stream import Stream
from mailstack.storage.queue import Recipient
from tests.unit.mta_smtpd.serving import running


async def say(client: Stream, *lines: str) -> str:
    """Everything that the server has said up to its good-bye."""
    client.write("".join(f"{line}\r\n" for line in (*lines, "QUIT")).encode())
    said = b""
    while data := await client.read(5.0):
        said += data
    return said.decode()


def test_wishes_are_kept(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path) as smtpd:
            said = await say(
                await smtpd.connect(),
                "EHLO x",
                "MAIL FROM:<a@b.test> RET=HDRS ENVID=my+20id",
                "RCPT TO:<zs@dgtlinux.com> NOTIFY=DELAY,SUCCESS ORCPT=rfc822;o+2Bz@y.test",
                "RCPT TO:<ali@alias.test> NOTIFY=SUCCESS,FAILURE",
                "DATA",
                "Subject: x",
                "",
                ".",
            )
            assert "250-DSN\r\n" in said
            [message] = smtpd.messages()
            envelope = message.envelope
            assert (envelope.ret, envelope.envid) == ("HDRS", "my id")
            first, *others = envelope.recipients
            assert first == Recipient("zs@dgtlinux.com", "", "SUCCESS,DELAY", "rfc822;o+z@y.test")
            made = [one for one in others if one.original]
            assert made and all((one.original, one.notify) == ("ali@alias.test", "FAILURE") for one in made)
            assert envelope.attributes == {REPLACED: "ali@alias.test\trfc822;ali@alias.test"}

    asyncio.run(main())


def test_it_can_be_hidden(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path, "smtpd_discard_ehlo_keywords = dsn\n") as smtpd:
            said = await say(
                await smtpd.connect(),
                "EHLO x",
                "MAIL FROM:<a@b.test> ENVID=x",
                "MAIL FROM:<a@b.test>",
                "RCPT TO:<zs@dgtlinux.com> NOTIFY=NEVER",
            )
            assert "250-DSN" not in said
            assert said.count("501 5.7.1 DSN support is disabled\r\n") == 2

    asyncio.run(main())
