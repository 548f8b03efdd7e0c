"""curl and fetchmail read a mailbox over POP3 with TLS; each message once, also after the service restarts."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.mailbox import Mailbox, running

pytestmark = pytest.mark.real
MESSAGE = b"From: a@b.test\r\nSubject: hello\r\nMessage-ID: <%d@b.test>\r\n\r\nbody\r\n.dot\r\n"

FETCHMAILRC = """\
poll localhost protocol POP3 port {port} uidl
  user "zs@mail.test" password "secret" ssl sslcertck sslcertfile "{cert}" keep
  mda "cat >> {out}"
"""


async def call(*command: str) -> subprocess.CompletedProcess[bytes]:
    """Run a client while the service goes on."""
    return await asyncio.to_thread(subprocess.run, command, capture_output=True, check=False, timeout=30)


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is missing")
@pytest.mark.parametrize(
    "way", [["--sasl-ir"], ["--login-options", "AUTH=LOGIN"], ["--login-options", "AUTH=PLAIN"]]
)
def test_curl(tmp_path: Path, way: list[str]) -> None:
    async def check(mailbox: Mailbox) -> None:
        await mailbox.deliver("zs", MESSAGE % 1)
        common = ["curl", "-sS", "--cacert", str(tmp_path / "cert.pem"), "-u", "zs@mail.test:secret", *way]
        secure = f"pop3s://localhost:{mailbox.port('pop3s')}"
        plain = f"pop3://localhost:{mailbox.port('pop3')}"
        assert (await call(*common, f"{secure}/1")).stdout == MESSAGE % 1
        assert (await call(*common, "--ssl-reqd", f"{plain}/1")).stdout == MESSAGE % 1
        assert (await call(*common, f"{secure}/")).stdout.split() == [b"1", b"%d" % len(MESSAGE % 1)]
        wrong = await call(*common, "-u", "zs@mail.test:wrong", f"{secure}/")
        assert wrong.returncode == 67  # CURLE_LOGIN_DENIED
        refused = await call(*common, f"{plain}/1")
        assert refused.returncode != 0, "a password was taken in plain text"

    async def main() -> None:
        async with running(tmp_path, "disable_plaintext_auth = yes\n", tls=True) as mailbox:
            await check(mailbox)

    asyncio.run(main())


@pytest.mark.skipif(shutil.which("fetchmail") is None, reason="fetchmail is missing")
def test_fetchmail_fetches_each_message_once(tmp_path: Path) -> None:
    rc = tmp_path / "fetchmailrc"

    async def fetch(mailbox: Mailbox) -> int:
        rc.write_text(
            FETCHMAILRC.format(port=mailbox.port("pop3s"), cert=tmp_path / "cert.pem", out=tmp_path / "got")
        )
        rc.chmod(0o600)
        done = await call(
            "fetchmail",
            "-f",
            str(rc),
            "-i",
            str(tmp_path / "ids"),
            "--pidfile",
            str(tmp_path / "pid"),
            "--nosyslog",
        )
        assert done.returncode in (0, 1), done.stdout + done.stderr  # 1: nothing new
        return (tmp_path / "got").read_bytes().count(b"Subject: hello")

    async def main() -> None:
        async with running(tmp_path, tls=True) as mailbox:
            for number in (1, 2):
                await mailbox.deliver("zs", MESSAGE % number)
            assert await fetch(mailbox) == 2
            assert await fetch(mailbox) == 2
        async with running(tmp_path, tls=True) as mailbox:
            await mailbox.deliver("zs", MESSAGE % 3)
            assert await fetch(mailbox) == 3

    asyncio.run(main())
