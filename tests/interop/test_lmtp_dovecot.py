"""The LMTP delivery agent against the real Dovecot and against our own service: the same results from both."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mailstack.mta.deliver.lmtp import LMTPAgent
from mailstack.net.clock import SystemClock
from mailstack.storage.queue import Queue
from tests.mailbox import running
from tests.ports import free_port
from tests.unit.mta_deliver.certificates import certificate
from tests.unit.mta_deliver.support import QUIET, Names, configuration, request, summary

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(shutil.which("dovecot") is None, reason="dovecot is missing"),
    pytest.mark.skipif(os.geteuid() != 0, reason="a real Dovecot starts only as root"),
]

NOBODY = 65534
CONFIG = """\
base_dir = {root}/run
state_dir = {root}/run
log_path = {root}/log
ssl = no
protocols = lmtp
hostname = mx.mail.test
postmaster_address = postmaster@mail.test
mail_location = maildir:{root}/mail/%n
first_valid_uid = 0
first_valid_gid = 0
passdb {{
  driver = passwd-file
  args = {root}/users
}}
userdb {{
  driver = passwd-file
  args = {root}/users
}}
service lmtp {{
  unix_listener {root}/lmtp {{
    mode = 0666
  }}
}}
"""
MESSAGES: list[tuple[bytes, tuple[str, ...]]] = [
    (b"Subject: one\r\n\r\n.dot\r\n..\r\n.\r\nlast\r\n", ("zs@mail.test",)),
    (b"Subject: two\r\n\r\nx\r\n", ("zs@mail.test", "nobody@mail.test", "support@mail.test")),
    # Nobody takes it; the next one goes over the same connection.
    (b"Subject: three\r\n\r\nx\r\n", ("nobody@mail.test", "none@mail.test")),
    (b"Subject: four\r\n\r\nx\r\n", ("support@mail.test",)),
    (b"Subject: large\r\n\r\n" + b".dots and text\r\n" * 20_000, ("support@mail.test", "zs@mail.test")),
    (b"Subject: five\r\n\r\nx\r\n", ("zs@mail.test",)),
]


@contextmanager
def dovecot(more: str = "") -> Iterator[Path]:
    """A Dovecot that takes mail at the socket `lmtp` in this folder and puts it into `mail/USER`."""
    root = Path(tempfile.mkdtemp(prefix="mailstack-dovecot-"))
    root.chmod(0o755)
    (root / "dovecot.conf").write_text(CONFIG.format(root=root) + more)
    (root / "mail").mkdir()
    os.chown(root / "mail", NOBODY, NOBODY)
    (root / "users").write_text(
        "".join(
            f"{name}@mail.test:{{PLAIN}}x:{NOBODY}:{NOBODY}::/nonexistent\n" for name in ("zs", "support")
        )
    )
    process = subprocess.Popen(["dovecot", "-F", "-c", str(root / "dovecot.conf")])
    try:
        end = time.monotonic() + 30
        while not (root / "lmtp").exists() and time.monotonic() < end:
            time.sleep(0.05)
        yield root
    finally:
        process.terminate()
        process.wait(30)
        shutil.rmtree(root)


async def deliver(
    folder: Path, nexthop: str, conf: str = ""
) -> tuple[list[list[tuple[str, str, str, str]]], set[int]]:
    """What became of each message at that server, ids and host names taken out; how often a connection served."""
    queue = Queue(str(folder / "queue"))
    queue.create()
    agent = LMTPAgent(configuration(conf), queue, Names({}, {}), SystemClock(), QUIET)
    found, uses = [], set()
    for content, recipients in MESSAGES:
        results = await agent.deliver(await request(queue, nexthop, *recipients, content=content))
        uses |= {result.uses for result in results}
        found.append(
            [
                (name, kind, dsn, re.sub(r"host \S+ said|> \S+ Saved", "", text))
                for name, kind, dsn, text in summary(results)
            ]
        )
    await agent.close()
    await asyncio.sleep(0.2)  # both sides of TLS say good-bye
    return found, uses


def stored(folder: Path) -> list[bytes]:
    """The bodies in a Maildir, in some order of their own."""
    return sorted(
        path.read_bytes().replace(b"\r\n", b"\n").partition(b"\nSubject: ")[2]
        for path in (folder / "new").iterdir()
    )


def test_both_take_the_same_messages(tmp_path: Path) -> None:
    for name in ("theirs", "ours"):
        (tmp_path / name).mkdir()

    async def with_ours() -> tuple[list[list[tuple[str, str, str, str]]], set[int]]:
        async with running(tmp_path / "ours") as mailbox:
            return await deliver(tmp_path / "ours", f"inet:127.0.0.1:{mailbox.port('lmtp')}")

    own = asyncio.run(with_ours())
    with dovecot() as root:
        theirs = asyncio.run(deliver(tmp_path / "theirs", f"unix:{root}/lmtp"))
        assert own == theirs
        assert own[1] == set(range(1, len(MESSAGES) + 1))
        for name, number in (("zs", 4), ("support", 3)):
            assert len(stored(root / "mail" / name)) == number
            assert stored(tmp_path / "ours/mail/mail.test" / name) == stored(root / "mail" / name)


@pytest.mark.parametrize("level", ["may", "encrypt", "verify"])
def test_inside_tls(level: str, tmp_path: Path) -> None:
    _, pem = certificate(tmp_path, "mail.test")
    port = free_port()
    conf = (
        f"lmtp_tls_security_level = {level}\nlmtp_tls_CAfile = {pem}\nlmtp_tls_verify_cert_match = mail.test\n"
        "lmtp_tls_connection_reuse = yes\n"
    )
    listener = f"inet_listener lmtp {{\n address = 127.0.0.1\n port = {port}\n }}"
    more = f"ssl = yes\nssl_cert = <{pem}\nssl_key = <{pem}\nservice lmtp {{\n {listener}\n}}\n"
    with dovecot(more) as root:
        results, uses = asyncio.run(deliver(tmp_path, f"inet:127.0.0.1:{port}", conf))
        assert [kind for one in results for _, kind, _, _ in one].count("Sent") == 7
        assert uses == set(range(1, len(MESSAGES) + 1))
        assert (len(stored(root / "mail/zs")), len(stored(root / "mail/support"))) == (4, 3)


def test_a_server_without_tls_gets_nothing_where_it_is_demanded(tmp_path: Path) -> None:
    with dovecot() as root:
        nexthop = f"unix:{root}/lmtp"
        results, _ = asyncio.run(deliver(tmp_path, nexthop, "lmtp_tls_security_level = encrypt\n"))
    assert {(kind, dsn) for one in results for _, kind, dsn, _ in one} == {("Deferred", "4.7.4")}
