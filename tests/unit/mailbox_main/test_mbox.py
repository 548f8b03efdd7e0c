"""An mbox file as an INBOX: read over IMAP and POP3, delivered to by LMTP, written by nobody else."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from mailstack.storage.maildir.from_mbox import messages
from tests.mailbox import Mailbox, running
from tests.unit.mailbox_main.test_locations import Imap
from tests.unit.mailbox_pop3.test_session import Client

ONE = "From a@b.test  Sun Nov 22 12:05:06 2026\nSubject: one\nStatus: RO\nX-UID: 7\n\n>From here\nline\n\n"
TWO = "From MAILER-DAEMON  Sun Nov 22 12:05:07 2026\nSubject: two\n\nFrom is no beginning here\n\n"

F = b"From a@b.test Sun Nov  1 12:05:06 2026\n"


async def raw(mailbox: Mailbox, *commands: str) -> str:
    stream = await mailbox.connect("imap")
    stream.write("".join(f"{line}\r\n" for line in ("a LOGIN zs secret", *commands, "z LOGOUT")).encode())
    data = b""
    while piece := await stream.read(10):
        data += piece
    return data.decode()


def test_reading(tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    spool.mkdir()
    (spool / "zs").write_text(ONE + TWO)

    async def check() -> None:
        extra = f"mail_location = mbox:~/mail:INBOX={spool}/%n\n"
        async with running(tmp_path, extra) as mailbox:
            imap = Imap(mailbox)
            lines = await imap.session("SELECT INBOX", "FETCH 1:* (UID FLAGS INTERNALDATE BODY.PEEK[])")
            assert "b OK [READ-ONLY] Select completed." in lines
            text = "\n".join(lines)
            assert "* 2 EXISTS" in lines
            assert "Subject: one\n\n>From here\nline\n)" in text
            assert "Subject: two\n\nFrom is no beginning here\n)" in text
            assert "1 FETCH (UID 1 FLAGS (\\Seen" in text
            assert '"22-Nov-2026 12:05:06' in text
            answers = await raw(
                mailbox,
                "b SELECT INBOX",
                "c STORE 1 +FLAGS (\\Deleted)",
                "d COPY 1 INBOX",
                "e CREATE Work",
                "f STATUS INBOX (MESSAGES)",
                "g APPEND INBOX {3+}\r\nx\r\n",
            )
            for tag in "deg":
                assert f"\r\n{tag} NO " in answers, answers
            assert "FETCH" not in answers
            client = await Client.login(mailbox)
            uids = await client.lines("UIDL")
            assert await client.lines("RETR 2") == ["Subject: two", "", "From is no beginning here"]
            assert await client.say("DELE 1") == "-ERR [SYS/PERM] Mailbox is read-only."
            assert await client.say("QUIT") == "+OK Logging out."

            # Another program removes the first; what is left keeps its UID, and LMTP adds one.
            (spool / "zs").write_text(TWO)
            stream = await mailbox.connect("lmtp")
            stream.write(b"LHLO x\r\nMAIL FROM:<a@b.test>\r\nRCPT TO:<zs@mail.test>\r\nDATA\r\n")
            stream.write(b"Subject: three\r\n\r\nFrom x\r\n.\r\nQUIT\r\n")
            data = b""
            while piece := await stream.read(5):
                data += piece
            assert b" Saved\r\n" in data
            client = await Client.login(mailbox)
            after = await client.lines("UIDL")
            assert after[0].split()[1] == uids[1].split()[1]
            assert after[1].split()[1][:8] == "00000003"
            assert ">From x" in await client.lines("RETR 2")

    asyncio.run(check())
    assert (spool / "zs").read_text().startswith(TWO + "From a@b.test  ")


@pytest.mark.parametrize(
    ("data", "texts"),
    [
        (b"", []),
        (b"no mbox\n", []),
        (F + b"X: 1\n\nb\n\n" + F + b"X: 2\n\n", [b"X: 1\n\nb\n", b"X: 2\n"]),
        (F + b"X: 1\n\nb\nFrom b\nc", [b"X: 1\n\nb\nFrom b\nc"]),
        (F + b"X: 1\n\nb\n" + F + b"c\n", [b"X: 1\n\nb\n", b"c\n"]),
        (F + b"X: 1\r\n\r\n" + F + b"X: 2\r\n", [b"X: 1\r\n", b"X: 2\r\n"]),
        (
            F + b"Subject: DON'T DELETE THIS MESSAGE -- FOLDER INTERNAL DATA\n\nx\n\n" + F + b"\nc\n",
            [b"\nc\n"],
        ),
    ],
)
def test_where_messages_begin_and_end(data: bytes, texts: list[bytes]) -> None:
    assert [text for _, text in messages(data)] == texts
