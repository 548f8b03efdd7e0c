"""Message by message, our MTA and the real Postfix on the same main.cf: what arrives, as whom, and what is left.

Every recipient's mail lands in one Maildir by virtual(8), or at a sink over SMTP. Compared are the replies, the
delivered messages (queue ids and dates taken out), the log's verdicts on each recipient, and the queue. What
differs by intent stands in docs/differences.md.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import BinaryIO

import pytest

from mailstack.net.listen import bind_tcp
from tests.interop.delivery_cases import CASES, Case, Mail
from tests.interop.real_postfix import need_postfix, start_postfix, stop_postfix, wait_for
from tests.interop.test_smtp_differential import SERVICES
from tests.ports import free_port

pytestmark = pytest.mark.real

MAIN_CF = """\
compatibility_level = 3.6
maillog_file_prefixes = /tmp
inet_protocols = ipv4
inet_interfaces = 127.0.0.1
myhostname = mail.x.test
mydomain = x.test
myorigin = $mydomain
mydestination = $myhostname, localhost
mynetworks = 127.0.0.0/8
queue_directory = {dir}/queue
local_recipient_maps =
alias_maps =
local_transport = virtual
default_transport = virtual
relay_transport = virtual
virtual_mailbox_domains = box.test
virtual_mailbox_base = {dir}/mail
virtual_mailbox_maps = static:all/
virtual_uid_maps = static:{uid}
virtual_gid_maps = static:{gid}
virtual_minimum_uid = 100
recipient_delimiter = +
smtpd_relay_restrictions = permit_mynetworks, reject
smtpd_forbid_bare_newline = normalize
smtpd_error_sleep_time = 0
smtpd_hard_error_limit = 1000
smtp_dns_support_level = disabled
disable_dns_lookups = yes
notify_classes =
"""
POSTFIX_CF = """\
data_directory = {dir}/data
maillog_file = {dir}/log
"""
IDS = re.compile(r"\b[0-9A-F]{8,20}\b")
DATES = re.compile(r"\w{3}, +\d+ \w{3} \d{4} \d\d:\d\d:\d\d [+-]\d{4} \(\w+\)|(?<=<)\d{14}(?=\.)")
VERDICT = re.compile(r": (to=<.*?>(?:, orig_to=<.*?>)?, relay=.*?), .*?(dsn=.*)")


@dataclass
class Result:
    """What became of one mail."""

    replies: list[str] = field(default_factory=list)
    delivered: list[str] = field(default_factory=list)
    verdicts: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What cleanup has logged of it."""
    queue: str = ""


class World:
    """One MTA in a folder of its own."""

    def __init__(self, directory: Path, port: int) -> None:
        self.directory = directory
        self.port = port

    def run(self, mails: list[Mail]) -> list[Result]:
        """Send each and wait until nothing moves any more."""
        results = [Result() for _ in mails]
        ids: dict[str, int] = {}
        for index, mail in enumerate(mails):
            results[index].replies = self._send(mail)
            found = re.search(r"queued as (\w+)", results[index].replies[-1])
            if found:
                ids[found[1]] = index
        self._settle(list(ids))
        for path in sorted((self.directory / "mail").rglob("new/*")):
            text = path.read_bytes().decode("utf-8", "surrogateescape")
            known = re.search(r"\bid (\w+)", text)
            if known and known[1] in ids:
                results[ids[known[1]]].delivered.append(_neutral(text))
        for queue_id, index in ids.items():
            result = results[index]
            result.delivered.sort()
            result.queue = self._where(queue_id)
            for line in self._log():
                if f" {queue_id}: " not in line:
                    continue
                verdict = VERDICT.search(line)
                if verdict:
                    result.verdicts.append(_neutral(f"{verdict[1]}, {verdict[2]}"))
                elif "cleanup[" in line:
                    result.notes.append(_neutral(line.partition(f"{queue_id}: ")[2]))
            result.verdicts.sort()
            result.notes.sort()  # what is logged is the same, though not always in the same order
        for result in results:
            result.replies = [_neutral(reply) for reply in result.replies]
        return results

    def _send(self, mail: Mail) -> list[str]:
        with (
            socket.create_connection(("127.0.0.1", self.port), timeout=20) as sock,
            sock.makefile("rb") as stream,
        ):
            replies = [_reply(stream)]
            lines = ["EHLO client.test", f"MAIL FROM:<{mail.sender}>"]
            lines += [f"RCPT TO:<{recipient}>" for recipient in mail.recipients]
            for line in [*lines, "DATA"]:
                sock.sendall(line.encode() + b"\r\n")
                replies.append(_reply(stream))
            if replies[-1].startswith("354"):
                content = mail.content.replace(b"\n", b"\r\n")
                content = re.sub(rb"^\.", b"..", content, flags=re.MULTILINE)
                sock.sendall(content + b".\r\n")
                replies.append(_reply(stream))
            return replies[2:]

    def _settle(self, ids: list[str]) -> None:
        """Every message is gone, held or deferred."""
        end = time.monotonic() + 30
        while time.monotonic() < end:
            if all(self._where(queue_id) not in ("incoming", "active") for queue_id in ids):
                time.sleep(0.3)  # for the log, and notifications
                return
            time.sleep(0.05)
        raise AssertionError(f"not settled: {self._log()[-20:]}")

    def _where(self, queue_id: str) -> str:
        for name in ("incoming", "active", "deferred", "hold", "corrupt"):
            if list((self.directory / "queue" / name).glob(f"**/{queue_id}")):
                return name
        return ""

    def _log(self) -> list[str]:
        return (self.directory / "log").read_text("utf-8", "replace").splitlines()


def _lines(stream: BinaryIO) -> Iterator[bytes]:
    """The lines until the client goes away, in whatever way."""
    with suppress(OSError):
        yield from stream


def _neutral(text: str) -> str:
    return IDS.sub("ID", DATES.sub("DATE", text))


def _reply(stream: BinaryIO) -> str:
    reply = ""
    while line := stream.readline().decode():
        reply += line
        if line[3:4] != "-":
            break
    return reply


class Sink:
    """An SMTP server that takes everything and remembers nothing."""

    def __init__(self) -> None:
        self._sock = bind_tcp("127.0.0.1", 0)
        self._sock.setblocking(True)
        self._sock.listen(20)
        self.port = self._sock.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                peer, _ = self._sock.accept()
            except OSError:
                return
            threading.Thread(target=self._talk, args=(peer,), daemon=True).start()

    def _talk(self, peer: socket.socket) -> None:
        with peer, peer.makefile("rb") as stream:
            peer.sendall(b"220 sink ESMTP\r\n")
            content = False
            for line in _lines(stream):
                if content:
                    content = line != b".\r\n"
                    if not content:
                        peer.sendall(b"250 2.0.0 Ok\r\n")
                elif line[:4].upper() == b"DATA":
                    content = True
                    peer.sendall(b"354 go\r\n")
                else:
                    peer.sendall(b"250 sink\r\n" if line[:4].upper() != b"QUIT" else b"221 bye\r\n")

    def close(self) -> None:
        self._sock.close()


def _prepare(directory: Path, case: Case, sinks: list[Sink]) -> None:
    nobody = 65534
    values = {"dir": str(directory), "uid": nobody, "gid": nobody}
    for index, sink in enumerate(sinks):
        values[f"sink{index}"] = str(sink.port)
    for name in ("queue", "data", "mail"):
        (directory / name).mkdir()
    maildir = directory / "mail" / "all"
    for folder in (maildir, maildir / "new", maildir / "cur", maildir / "tmp"):
        folder.mkdir()
        os.chown(folder, nobody, nobody)
    os.chown(directory / "mail", nobody, nobody)
    for name, text in case.tables.items():
        for key, value in values.items():
            text = text.replace("{" + key + "}", str(value))
        (directory / name).write_text(text)
    extra = case.extra
    for key, value in values.items():
        extra = extra.replace("{" + key + "}", str(value))
    (directory / "main.cf").write_text(MAIN_CF.format(**values) + extra)


@contextmanager
def theirs(directory: Path, case: Case, sinks: list[Sink]) -> Iterator[World]:
    _prepare(directory, case, sinks)
    shutil.chown(directory / "data", "postfix")
    with (directory / "main.cf").open("a") as file:
        file.write(POSTFIX_CF.format(dir=directory))
    port = free_port()
    master = f"127.0.0.1:{port} inet n - n - - smtpd\n{SERVICES}discard unix - - n - - discard\n"
    (directory / "master.cf").write_text(master)
    start_postfix(directory)
    try:
        wait_for(port)
        yield World(directory, port)
    finally:
        stop_postfix(directory)


@contextmanager
def ours(directory: Path, case: Case, sinks: list[Sink]) -> Iterator[World]:
    _prepare(directory, case, sinks)
    port = free_port()
    master = f"127.0.0.1:{port} inet n - n - 1 smtpd\n" + "".join(
        f"{name} unix - - n - - {command}\n" for name, command in _OUR_SERVICES
    )
    (directory / "master.cf").write_text(master)
    log = (directory / "log").open("w")
    command = [sys.executable, "-m", "mailstack.mta", "--config", str(directory)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=log)
    try:
        wait_for(port)
        yield World(directory, port)
    finally:
        process.terminate()
        process.wait(30)
        log.close()
    assert "Traceback" not in (directory / "log").read_text()


_OUR_SERVICES = (
    ("cleanup", "cleanup"),
    ("qmgr", "qmgr"),
    ("rewrite", "trivial-rewrite"),
    ("bounce", "bounce"),
    ("virtual", "virtual"),
    ("local", "local"),
    ("smtp", "smtp"),
    ("relay", "smtp"),
    ("error", "error"),
    ("retry", "error"),
    ("discard", "discard"),
)


@pytest.fixture(scope="module")
def sinks() -> Iterator[list[Sink]]:
    found = [Sink() for _ in range(3)]
    yield found
    for sink in found:
        sink.close()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_both_deliver_the_same(case: Case, sinks: list[Sink]) -> None:
    need_postfix()
    # Not tmp_path: the daemons run as other users, and each run of pytest closes the folder above it to them.
    with TemporaryDirectory(prefix="delivery-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        for side in ("theirs", "ours"):
            (folder / side).mkdir()
        with theirs(folder / "theirs", case, sinks) as world:
            expected = world.run(case.mails)
        with ours(folder / "ours", case, sinks) as world:
            actual = world.run(case.mails)
    different = [
        f"{mail}\n  Postfix {reference}\n  ours    {result}"
        for mail, reference, result in zip(case.mails, expected, actual, strict=True)
        if reference != result
    ]
    assert not different, "\n".join(different)


def test_there_are_enough_of_them() -> None:
    assert sum(len(case.mails) for case in CASES) >= 60
