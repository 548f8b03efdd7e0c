"""The real Postfix and our MTA, each with the same main.cf and a world of its own to deliver to.

Mail for `box.test` lands in Maildirs; `dsn.test`, `plain.test`, `refuse.test`, `reject.test` and `later.test`
are servers in this process: one that announces DSN, one that does not, and three that refuse at RCPT, after
the content, and for now.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from mailstack.net.listen import bind_tcp
from tests.interop.real_postfix import make_aliases, start_postfix, stop_postfix, wait_for
from tests.ports import free_port

MAIN_CF = """\
compatibility_level = 3.6
maillog_file_prefixes = /tmp
inet_protocols = ipv4
myhostname = mail.x.test
mydomain = x.test
myorigin = $mydomain
mydestination = $myhostname, $mydomain
mynetworks = 127.0.0.0/8
inet_interfaces = 127.0.0.1
queue_directory = {dir}/queue
local_recipient_maps =
alias_maps = {aliases}:{dir}/aliases
mailbox_transport = virtual
virtual_mailbox_domains = box.test
virtual_mailbox_base = {dir}/mail
virtual_mailbox_maps = texthash:{dir}/boxes
virtual_uid_maps = static:{uid}
virtual_gid_maps = static:{gid}
virtual_alias_maps = texthash:{dir}/virtual
transport_maps = texthash:{dir}/transport
recipient_delimiter = +
smtpd_relay_restrictions = permit_mynetworks, reject_unauth_destination
smtpd_error_sleep_time = 0
smtp_dns_support_level = disabled
disable_dns_lookups = yes
notify_classes = bounce, 2bounce, delay, data, policy, protocol, resource, software
bounce_notice_recipient = notices@box.test
2bounce_notice_recipient = double@box.test
delay_notice_recipient = delays@box.test
error_notice_recipient = errors@box.test
smtpd_forbid_bare_newline = normalize
bounce_size_limit = 3000
delay_warning_time = {warning}
smtpd_client_restrictions = reject_unlisted_sender
"""
POSTFIX_CF = """\
data_directory = {dir}/data
maillog_file = {dir}/log
"""
SERVICES = """\
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
local unix - n n - - local
virtual unix - n n - - virtual
smtp unix - - n - - smtp
relay unix - - n - - smtp
lmtp unix - - n - - lmtp
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
anvil unix - - n - 1 anvil
postlog unix-dgram n - n - 1 postlogd
"""
TABLES = {
    "boxes": "@box.test all/\n",
    "aliases": (
        "list: a@box.test, b@dsn.test\nowned: a@box.test, b@dsn.test\nowner-owned: owner@box.test\n"
        "one: a@box.test\nbad: u@refuse.test, v@refuse.test\npostmaster: postmaster@box.test\n"
    ),
    "virtual": "many@x.test a@box.test, b@dsn.test\nsingle@x.test c@dsn.test\nwrong@x.test w@refuse.test\n",
}


class Sink:
    """An SMTP server that records what it is told."""

    def __init__(self, extensions: tuple[str, ...], rcpt: str, end: str = "250 2.0.0 Ok") -> None:
        self._extensions, self._rcpt, self._end = extensions, rcpt, end
        self.commands: list[str] = []
        self._sock = bind_tcp("127.0.0.1", 0)
        self._sock.setblocking(True)
        self._sock.listen(20)
        self.port = int(self._sock.getsockname()[1])
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                conn, _ = self._sock.accept()
            except OSError:
                return
            threading.Thread(target=self._talk, args=(conn,), daemon=True).start()

    def _talk(self, conn: socket.socket) -> None:
        with conn, conn.makefile("rwb") as stream:

            def say(*lines: str) -> None:
                for number, line in enumerate(lines):
                    mark = " " if number == len(lines) - 1 else "-"
                    stream.write(f"{line[:3]}{mark}{line[4:]}\r\n".encode())
                stream.flush()

            say("220 sink ESMTP")
            while line := stream.readline():
                text = line.decode().strip()
                verb = text.split()[0].upper()
                if verb == "EHLO":
                    say("250 sink", *(f"250 {word}" for word in self._extensions))
                elif verb == "DATA":
                    say("354 go")
                    while stream.readline() not in (b".\r\n", b""):
                        pass
                    say(self._end)
                elif verb == "QUIT":
                    say("221 bye")
                    return
                elif verb == "RCPT":
                    self.commands.append(text)
                    say(self._rcpt)
                elif verb == "MAIL":
                    self.commands.append(text)
                    say("250 2.1.0 Ok")
                else:
                    say("250 2.0.0 Ok")

    def change(self, rcpt: str) -> None:
        """Answer RCPT otherwise from now on."""
        self._rcpt = rcpt

    def close(self) -> None:
        self._sock.close()


@dataclass
class World:
    """One MTA and what is around it."""

    directory: Path
    port: int
    sinks: dict[str, Sink] = field(default_factory=dict)

    def send(self, mail: str, rcpts: list[str], content: bytes) -> list[bytes]:
        """One transaction; the replies to its commands."""
        with (
            socket.create_connection(("127.0.0.1", self.port), timeout=20) as sock,
            sock.makefile("rb") as stream,
        ):
            reply(stream)
            replies = []
            for line in ["EHLO client.test", f"MAIL FROM:{mail}", *(f"RCPT TO:{to}" for to in rcpts), "DATA"]:
                sock.sendall(line.encode() + b"\r\n")
                replies.append(reply(stream))
            sock.sendall(content + b".\r\n")
            replies.append(reply(stream))
            sock.sendall(b"QUIT\r\n")
            reply(stream)
            return replies

    def talk(self, lines: list[bytes]) -> list[bytes]:
        """The greeting, and one reply to each line; stops where the server hangs up."""
        with (
            socket.create_connection(("127.0.0.1", self.port), timeout=20) as sock,
            sock.makefile("rb") as stream,
        ):
            replies = [reply(stream)]
            for line in lines:
                sock.sendall(line + b"\r\n")
                replies.append(reply(stream))
                if not replies[-1]:
                    break
            return replies

    def delivered(self) -> list[bytes]:
        """Everything in the Maildir, LF line ends, oldest first."""
        folder = self.directory / "mail" / "all" / "new"
        if not folder.is_dir():
            return []
        files = sorted(folder.iterdir(), key=lambda path: (path.stat().st_mtime_ns, path.name))
        return [path.read_bytes().replace(b"\r\n", b"\n") for path in files]

    def wait(self, count: int, *, seconds: float = 20) -> list[bytes]:
        """What has been delivered when there are `count` messages and, for a moment, no more come."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and len(self.delivered()) < count:
            time.sleep(0.05)
        time.sleep(0.5)
        return self.delivered()

    def clear(self) -> None:
        for path in (self.directory / "mail" / "all").glob("new/*"):
            path.unlink()
        for sink in self.sinks.values():
            sink.commands.clear()

    def log(self) -> str:
        return (self.directory / "log").read_text()


def reply(stream: object) -> bytes:
    """One reply, all its lines."""
    text = b""
    while line := stream.readline():  # type: ignore[attr-defined]
        text += line
        if line[3:4] != b"-":
            break
    return text


def _prepare(directory: Path, extra: str, *, aliases: str, warning: str, owner: int) -> dict[str, Sink]:
    both = ("PIPELINING", "SIZE", "ENHANCEDSTATUSCODES", "8BITMIME", "SMTPUTF8")
    sinks = {
        "dsn.test": Sink((*both, "DSN"), "250 2.1.5 Ok"),
        "plain.test": Sink(both, "250 2.1.5 Ok"),
        "refuse.test": Sink((*both, "DSN"), "550 5.1.1 <x>: Recipient address rejected: User unknown"),
        "reject.test": Sink(both, "250 2.1.5 Ok", "554 5.7.1 Content is not welcome here"),
        "later.test": Sink(both, "450 4.2.0 try again"),
    }
    for name, text in TABLES.items():
        (directory / name).write_text(text)
    routes = [f"{domain} smtp:[127.0.0.1]:{sink.port}" for domain, sink in sinks.items()]
    (directory / "transport").write_text("\n".join([*routes, "error.test error:5.7.1 not here", ""]))
    (directory / "mail").mkdir()
    os.chown(directory / "mail", owner, owner)
    text = MAIN_CF.format(
        dir=directory, aliases=aliases, uid=owner or 65534, gid=owner or 65534, warning=warning
    )
    (directory / "main.cf").write_text(text + extra)
    return sinks


@contextmanager
def postfix(directory: Path, extra: str = "", *, warning: str = "0h") -> Iterator[World]:
    """A real Postfix; needs root."""
    sinks = _prepare(directory, extra, aliases="hash", warning=warning, owner=65534)
    with (directory / "main.cf").open("a") as file:
        file.write(POSTFIX_CF.format(dir=directory))
    (directory / "queue").mkdir()
    (directory / "data").mkdir()
    shutil.chown(directory / "data", "postfix")
    port = free_port()
    (directory / "master.cf").write_text(f"127.0.0.1:{port} inet n - n - - smtpd\n{SERVICES}")
    make_aliases(directory)
    start_postfix(directory)
    try:
        wait_for(port)
        yield World(directory, port, sinks)
    finally:
        stop_postfix(directory)
        for sink in sinks.values():
            sink.close()


@contextmanager
def ours(directory: Path, extra: str = "", *, warning: str = "0h") -> Iterator[World]:
    """Our MTA."""
    owner = 65534 if os.geteuid() == 0 else os.geteuid()
    sinks = _prepare(directory, extra, aliases="hash", warning=warning, owner=owner)
    port = free_port()
    (directory / "master.cf").write_text(f"127.0.0.1:{port} inet n - n - 1 smtpd\n{SERVICES}")
    log = (directory / "log").open("w")
    process = subprocess.Popen(
        [sys.executable, "-m", "mailstack.mta", "--config", str(directory)],
        stdout=subprocess.DEVNULL,
        stderr=log,
    )
    try:
        wait_for(port)
        yield World(directory, port, sinks)
    finally:
        process.terminate()
        process.wait(30)
        log.close()
        for sink in sinks.values():
            sink.close()
