"""SMTP dialogues against smtpd, each whole and octet by octet."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.dialogs.play import play
from tests.unit.mta_smtpd.serving import running

HERE = Path(__file__).parent
BANNER = "smtpd_banner = Welcome to my $myhostname ESMTP!\nstrict_smtputf8 = no\n"
ACCEPTED = {"chunks": 2, "seed": 1, "session": 1, "smuggling": 1}
"""Messages that a dialogue leaves in the queue; the others leave none."""


@pytest.mark.parametrize("bytewise", [False, True], ids=["whole", "bytewise"])
@pytest.mark.parametrize("path", sorted((HERE / "smtp").glob("*.txt")), ids=lambda path: path.stem)
def test_smtp(tmp_path: Path, path: Path, bytewise: bool) -> None:
    async def check() -> None:
        # The document's own telnet client sits on the machine itself.
        extra = "mynetworks = 127.0.0.0/8\n" if path.stem == "seed" else ""
        async with running(tmp_path, BANNER + extra) as smtpd:
            await play(path, smtpd.connect, bytewise=bytewise)
            assert len(smtpd.messages()) == ACCEPTED.get(path.stem, 0)
            assert set(smtpd.queue.names("incoming")) == {message.queue_id for message in smtpd.messages()}

    asyncio.run(check())
