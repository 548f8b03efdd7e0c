"""POP3 and LMTP dialogues against the service, each whole and octet by octet."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.dialogs.play import play
from tests.mailbox import client_tls, running

HERE = Path(__file__).parent
MESSAGES = (b"Subject: one\r\n\r\nfirst\r\n.dot\r\n", b"Subject: two\n\nline 1\nline 2\n")


@pytest.mark.parametrize("bytewise", [False, True], ids=["whole", "bytewise"])
@pytest.mark.parametrize("path", sorted((HERE / "pop3").glob("*.txt")), ids=lambda path: path.stem)
def test_pop3(tmp_path: Path, path: Path, bytewise: bool) -> None:
    async def check() -> None:
        tls = path.stem == "tls"
        extra = "disable_plaintext_auth = yes\n" if tls else ""
        async with running(tmp_path, extra, tls=tls) as mailbox:
            for message in MESSAGES:
                await mailbox.deliver("zs@mail.test", message)
            context = client_tls(tmp_path) if tls else None
            await play(path, lambda: mailbox.connect("pop3"), bytewise=bytewise, tls=context)

    asyncio.run(check())


@pytest.mark.parametrize("bytewise", [False, True], ids=["whole", "bytewise"])
@pytest.mark.parametrize("path", sorted((HERE / "lmtp").glob("*.txt")), ids=lambda path: path.stem)
def test_lmtp(tmp_path: Path, path: Path, bytewise: bool) -> None:
    async def check() -> None:
        async with running(tmp_path) as mailbox:
            await play(path, lambda: mailbox.connect("lmtp"), bytewise=bytewise)

    asyncio.run(check())
    if path.stem == "wrong":
        assert not list(tmp_path.glob("mail/*/*/new/*"))
