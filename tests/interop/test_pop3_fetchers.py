"""fdm and getmail at our POP3: each message once, with a file of the ids they have seen, fdm also over TLS."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.interop.conftest import need
from tests.mailbox import Mailbox, running

pytestmark = pytest.mark.real

ODD = [
    b"Subject: no final line end\r\n\r\nbody",
    b"Subject: a header only\r\n",
    b"no header at all\r\n",
    b"Subject: dots\r\n\r\n.\r\n..\r\n.x\r\n",
    b"Subject: from\r\n\r\nFrom somebody\r\n",
    b"Subject: \xe4\r\n\r\n\xf6\r\n",
    b"Subject: large\r\n\r\n" + b"x" * 76 + b"\r\n" * 5000,
]

FDM = """\
set lock-types flock
set default-user "{user}"
account "a" pop3{s} server "127.0.0.1" port {port} user "zs" pass "secret" {more}
action "keep" maildir "{out}"
match all action "keep"
"""

GETMAIL = """\
[retriever]
type = SimplePOP3Retriever
server = 127.0.0.1
port = {port}
username = zs
password = secret
[destination]
type = Maildir
path = {out}/
{owner}
[options]
read_all = false
delete = {delete}
verbose = 2
"""


async def call(*command: str, home: Path) -> str:
    """Run a program; what it says."""
    process = await asyncio.create_subprocess_exec(
        *command,
        env={"HOME": str(home), "PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    assert process.returncode == 0, said.decode(errors="replace")[-3000:]
    return said.decode(errors="replace")


@pytest.fixture
def home() -> Iterator[Path]:
    """A folder that the accounts which the programs change to may write to, with a Maildir `out` in it."""
    with tempfile.TemporaryDirectory(prefix="fetchers-") as place:
        for name in ("", "out", "out/cur", "out/new", "out/tmp"):
            folder = Path(place, name)
            folder.mkdir(exist_ok=True)
            folder.chmod(0o777)
            if name and os.geteuid() == 0:
                shutil.chown(folder, "nobody")
        yield Path(place)


async def left(mailbox: Mailbox) -> int:
    """How many messages the mailbox has."""
    user = mailbox.service.lookup("zs")
    assert user is not None
    box = await mailbox.service.store.open(user.mail_root)
    try:
        return len(box.folder.uids)
    finally:
        mailbox.service.store.unpin(box)


@pytest.mark.parametrize("s", ["", "s"])
def test_fdm(tmp_path: Path, home: Path, s: str) -> None:
    """First with a cache of ids, leaving everything there; then all is fetched and deleted."""
    out = home / "out"

    async def fetch(mailbox: Mailbox, more: str) -> None:
        rc = tmp_path / "fdm.conf"
        rc.write_text(
            FDM.format(
                user="root" if os.geteuid() == 0 else "nobody",
                s=s,
                port=mailbox.port("pop3" + s),
                out=out,
                more=more,
            )
        )
        rc.chmod(0o600)
        said = await call(need("fdm"), "-vv", "-f", str(rc), "fetch", home=home)
        assert "abort" not in said, said

    async def main() -> None:
        async with running(tmp_path, tls=True) as mailbox:
            for message in ODD:
                await mailbox.deliver("zs", message)
            options = "no-apop no-verify" if s else "no-apop"
            cached = f'new-only cache "{home}/ids" {options} keep'
            for _ in range(2):
                await fetch(mailbox, cached)
                assert len(os.listdir(out / "new")) == len(ODD)
            assert await left(mailbox) == len(ODD)
            await fetch(mailbox, options)
            assert len(os.listdir(out / "new")) == 2 * len(ODD)
            assert await left(mailbox) == 0

    asyncio.run(main())


def test_getmail(tmp_path: Path, home: Path) -> None:
    out = home / "out"

    async def fetch(mailbox: Mailbox, delete: str) -> None:
        rc = tmp_path / "getmailrc"
        rc.write_text(
            GETMAIL.format(
                port=mailbox.port("pop3"),
                out=out,
                owner="user = nobody" if os.geteuid() == 0 else "",
                delete=delete,
            )
        )
        await call(need("getmail"), f"--getmaildir={tmp_path}", "--rcfile=getmailrc", home=tmp_path)

    async def main() -> None:
        async with running(tmp_path, tls=True) as mailbox:
            for message in ODD:
                await mailbox.deliver("zs", message)
            for _ in range(2):
                await fetch(mailbox, "false")
                assert len(os.listdir(out / "new")) == len(ODD)
            await mailbox.deliver("zs", b"Subject: one more\r\n\r\nbody\r\n")
            await fetch(mailbox, "true")
            assert len(os.listdir(out / "new")) == len(ODD) + 1
            assert await left(mailbox) == 0

    asyncio.run(main())
