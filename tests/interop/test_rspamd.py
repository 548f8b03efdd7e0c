"""Debian's rspamd as a milter before our smtpd: it refuses, adds headers, rewrites the subject, and edits."""

from __future__ import annotations

import asyncio
import shutil
import smtplib
import socket
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ports import free_port
from tests.unit.mta_smtpd.serving import Smtpd, running

pytestmark = pytest.mark.real

GTUBE = "XJS*C4JDBQADN1.NSBN3*2IDNEN*GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X"
CONF = """\
options {{
  pidfile = "{dir}/pid"; hs_cache_dir = "{dir}"; history_file = "{dir}/history"; tempdir = "{dir}";
  filters = ""; dns {{ nameserver = ["127.0.0.1:1"]; timeout = 0.1s; retransmits = 1; }}
}}
logging {{ type = "console"; level = "warning"; }}
actions {{ reject = 15; rewrite_subject = 8; add_header = 6; subject = "*** %s ***"; }}
lua = "{dir}/rules.lua";
worker "rspamd_proxy" {{
  bind_socket = "127.0.0.1:{port}"; count = 1; milter = yes; timeout = 60s;
  upstream "local" {{ default = yes; self_scan = yes; }}
}}
"""
RULES = """\
local function rule(name, score, subject)
  rspamd_config:register_symbol{ name = name, score = score, callback = function(task)
    return task:get_header('Subject') == subject
  end }
end
rule('SPAM', 7.0, 'spam')
rule('WORSE', 9.0, 'worse')
rule('WORST', 20.0, 'worst')
rspamd_config:register_symbol{ name = 'EDIT', type = 'postfilter', callback = function(task)
  if task:get_header('Subject') == 'edit' then
    task:set_milter_reply({
      add_headers = { ['X-Seen'] = { value = task:get_queue_id() ~= 'undef' and 'yes' or 'no', order = 1 } },
      remove_headers = { ['X-Secret'] = 0 },
      add_rcpt = { 'bob@other.test' },
      change_from = 'new@sender.test',
    })
  end
end }
"""


@pytest.fixture(scope="module")
def rspamd() -> Iterator[int]:
    """A running rspamd's port."""
    if shutil.which("rspamd") is None:
        pytest.skip("rspamd is missing (apt-get install rspamd)")
    with tempfile.TemporaryDirectory(prefix="rspamd-") as name:
        directory, port = Path(name), free_port()
        (directory / "conf").write_text(CONF.format(dir=directory, port=port))
        (directory / "rules.lua").write_text(RULES)
        with (directory / "log").open("w") as log:
            process = subprocess.Popen(
                ["rspamd", "-f", "-i", "-c", str(directory / "conf")], stdout=log, stderr=log
            )
        try:
            _wait(process, port, directory / "log")
            yield port
        finally:
            process.terminate()
            process.wait(60)


def _wait(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    """Return when rspamd negotiates: it listens long before."""
    end = time.monotonic() + 120
    while time.monotonic() < end and process.poll() is None:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=5) as sock:
                sock.sendall(struct.pack("!IcIII", 13, b"O", 6, 0x1FF, 0))
                if sock.recv(100):
                    return
        except OSError:
            time.sleep(0.1)
    raise AssertionError(log.read_text())


def _message(subject: str, body: str = "hello") -> bytes:
    return (
        f"From: a@b.test\r\nTo: zs@dgtlinux.com\r\nSubject: {subject}\r\nX-Secret: 1\r\nMessage-ID: <1@b.test>\r\n"
        f"Date: Sun, 22 Nov 2026 12:00:00 +0000\r\n\r\n{body}\r\n"
    ).encode()


def _send(port: int, content: bytes) -> tuple[int, bytes]:
    """The reply to a message."""
    with smtplib.SMTP("127.0.0.1", port, "c.test", timeout=120) as smtp:
        smtp.ehlo()
        smtp.mail("a@b.test")
        assert smtp.rcpt("zs@dgtlinux.com")[0] == 250
        return smtp.data(content)


async def said(smtpd: Smtpd, content: bytes) -> tuple[int, bytes]:
    return await asyncio.to_thread(_send, smtpd.port, content)


def test_rspamd_decides_and_edits(rspamd: int, tmp_path: Path) -> None:
    async def go() -> None:
        extra = f"smtpd_milters = inet:127.0.0.1:{rspamd}\nsmtpd_peername_lookup = no\n"
        async with running(tmp_path, extra) as smtpd:
            assert await said(smtpd, _message("x", GTUBE)) == (554, b"5.7.1 Gtube pattern")
            assert await said(smtpd, _message("worst")) == (554, b"5.7.1 Spam message rejected")
            assert smtpd.messages() == []
            for subject in ("plain", "spam", "worse", "edit"):
                assert (await said(smtpd, _message(subject)))[0] == 250, subject
            plain, spam, worse, edited = smtpd.messages()
            heads = [smtpd.content(one).partition(b"\r\n\r\n")[0] for one in (plain, spam, worse, edited)]
            assert b"X-Spam" not in heads[0] and b"\r\nX-Spam: Yes" in heads[1]
            assert b"\r\nSubject: *** worse ***\r\n" in heads[2]
            assert b"\r\nX-Seen: yes" in heads[3] and b"X-Secret" not in heads[3]
            assert edited.envelope.sender == "new@sender.test"
            assert {one.address for one in edited.envelope.recipients} == {
                "zs@dgtlinux.com",
                "bob@other.test",
            }

    asyncio.run(go())
