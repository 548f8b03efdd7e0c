"""smtpd_proxy_filter: what the client, the filter and the log see of ours and of Postfix's smtpd (SMTPD_PROXY_README).

Every case is a service of its own with a filter of its own, whose answers are scripted.
"""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from mailstack.net.listen import bind_tcp
from tests.interop.real_postfix import (
    let_daemons_in,
    make_aliases,
    need_postfix,
    start_postfix,
    stop_postfix,
    wait_for,
)
from tests.interop.scripted_proxy import HANG_UP, ScriptedProxy
from tests.interop.test_smtp_differential import BOTH, POSTFIX, SERVICES, Chunk, _reply
from tests.ports import free_ports
from tests.unit.mta_smtpd.serving import write_config
from tests.unit.mta_smtpd.test_worker import SCRIPT

pytestmark = pytest.mark.real

Lines = Sequence[bytes | str]
ENVELOPE = ["EHLO client.test", "MAIL FROM:<a@b.test>", "RCPT TO:<zs@dgtlinux.com>"]
CONTENT = "Subject: x\r\n\r\n..dot\r\nbody\r\n."
ONE = [*ENVELOPE, "DATA", CONTENT, "QUIT"]
TWO = [*ENVELOPE, "RCPT TO:<nobody@dgtlinux.com>", "RCPT TO:<bob@other.test>", "DATA", CONTENT, "QUIT"]
LARGE = "X: " + "x" * 300 + "\r\n\r\n" + ("..y" * 30 + "\r\n") * 1300 + "."
SPEED = {"smtpd_proxy_options": "speed_adjust"}


@dataclass(frozen=True)
class Case:
    lines: Lines
    replies: dict[str, str] = field(default_factory=dict)
    settings: dict[str, str] = field(default_factory=dict)
    unfinished: bool = False
    """Content is refused at its end: Postfix has given it to the filter by then, and ends it with QUIT."""


CASES = [
    Case(["EHLO client.test", "MAIL FROM:<a@b.test>", "QUIT"]),
    Case(["EHLO client.test", "MAIL FROM:<a@b.test>", "RCPT TO:<nobody@dgtlinux.com>", "QUIT"]),
    Case([*ENVELOPE, "RSET", "QUIT"]),
    Case([*ENVELOPE, "MAIL FROM:<>", "EHLO again", "QUIT"]),
    Case(["HELO client.test", *ENVELOPE[1:], "DATA", CONTENT, *ENVELOPE[1:], "DATA", "y\r\n.", "QUIT"]),
    Case(["EHLO x", "MAIL FROM:<a@b.test> SIZE=100 BODY=8BITMIME RET=HDRS ENVID=e+2B1",
          "RCPT TO:<zs@dgtlinux.com> NOTIFY=NEVER ORCPT=rfc822;a@b.test", "DATA", CONTENT, "QUIT"]),
    Case([*ENVELOPE, Chunk(b"a: b\r\n\r\n.x"), Chunk(b"y\r\n", "LAST"), "QUIT"]),
    Case(ONE, settings={"smtpd_proxy_ehlo": "other.name"}),
    Case(ONE, settings={"smtpd_end_of_data_restrictions": "reject"}, unfinished=True),
    Case(ONE, settings={"smtpd_data_restrictions": "reject"}),
    Case([*ENVELOPE, "DATA", LARGE, "NOOP", "QUIT"], unfinished=True),
    *(Case([*ENVELOPE, "DATA", LARGE[:-1] * 5 + ".", "NOOP", "QUIT"], settings={"message_size_limit": "0", **more})
      for more in ({}, SPEED)),
    Case(ONE, settings={"smtpd_client_restrictions": "check_client_access static:{PREPEND X-A: b}"}),
    *(Case(ONE, settings={"smtpd_client_restrictions": f"check_client_access static:{{{action}}}"})
      for action in ("HOLD", "FILTER smtp:x", "DISCARD", "REDIRECT a@b.test", "BCC a@b.test", "WARN x")),
    Case(TWO, settings={"smtpd_proxy_filter": "127.0.0.1:1"}),
    Case(TWO, settings={"smtpd_proxy_filter": "127.0.0.1:1", **SPEED}),
    Case(ONE, settings={"soft_bounce": "yes"}, replies={".": "550 5.7.1 spam"}),
    *(Case(TWO, replies, settings)
      for settings in ({}, SPEED)
      for replies in (
        {}, {"GREETING": "554 5.3.2 no"}, {"GREETING": HANG_UP}, {"EHLO": "500 no"},
        {"EHLO": "500 no", "HELO": "500 no"}, {"EHLO": "250 filter.test"}, {"EHLO": HANG_UP},
        {"EHLO": "250-filter.test\r\n250 XFORWARD ADDR HELO"}, {"XFORWARD": "501 no"},
        {"MAIL": "550 5.7.1 not you"}, {"MAIL": "450 4.7.1 later"}, {"MAIL": HANG_UP},
        {"RCPT": "550 5.1.1 nobody here"}, {"RCPT TO:<bob": "550 5.1.1 no bob"}, {"RCPT": HANG_UP},
        {"DATA": "451 4.3.0 not now"}, {"DATA": HANG_UP},
        {".": "550 5.7.1 spam"}, {".": "550-5.7.1 spam\r\n550 5.7.1 really"}, {".": "451 4.7.1 later"},
        {".": HANG_UP}, {".": "421 4.3.2 gone"}, {".": "250 fine"}, {"RCPT": "421 4.3.2 gone"},
      )),
]  # fmt: skip


def services(hosts: list[str], proxies: list[ScriptedProxy]) -> str:
    lines = []
    for host, proxy, case in zip(hosts, proxies, CASES, strict=True):
        settings = {"smtpd_proxy_filter": f"127.0.0.1:{proxy.port}", **case.settings}
        words = "".join(f" -o {{ {name} = {value} }}" for name, value in settings.items())
        lines.append(f"{host} inet n - n - - smtpd{words}\n")
    return "".join(lines)


def _ports() -> tuple[list[int], list[socket.socket]]:
    socks = [bind_tcp("127.0.0.1", 0) for _ in CASES]
    return [sock.getsockname()[1] for sock in socks], socks


@contextmanager
def postfix(directory: Path, proxies: list[ScriptedProxy]) -> Iterator[list[int]]:
    let_daemons_in(directory)
    write_config(directory, BOTH + POSTFIX.format(dir=directory))
    shutil.rmtree(directory / "queue")
    (directory / "queue").mkdir()
    (directory / "data").mkdir()
    shutil.chown(directory / "data", "postfix")
    ports = free_ports(len(CASES))
    master = services([f"127.0.0.1:{port}" for port in ports], proxies) + SERVICES
    (directory / "master.cf").write_text(master)
    make_aliases(directory)
    start_postfix(directory)
    try:
        wait_for(ports[-1])
        yield ports
    finally:
        stop_postfix(directory)


@contextmanager
def ours(directory: Path, proxies: list[ScriptedProxy]) -> Iterator[list[int]]:
    write_config(directory, BOTH)
    ports, socks = _ports()
    fds = [sock.fileno() for sock in socks]
    lines = services([str(number + 1) for number in range(len(socks))], proxies)
    command = [sys.executable, "-c", SCRIPT, str(directory), lines, *map(str, fds)]
    with (directory / "log").open("w") as log:
        process = subprocess.Popen(command, pass_fds=fds, stdout=subprocess.DEVNULL, stderr=log)
        for sock in socks:
            sock.close()
        try:
            yield ports
        finally:
            process.terminate()
            process.wait(30)
    assert "Traceback" not in (directory / "log").read_text()


@dataclass
class Pair:
    theirs: list[int]
    ours: list[int]
    proxies: list[ScriptedProxy]
    logs: tuple[Path, Path]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    need_postfix()
    proxies = [ScriptedProxy(case.replies) for case in CASES]
    real, own = tmp_path_factory.mktemp("postfix"), tmp_path_factory.mktemp("ours")
    with ExitStack() as stack:
        for proxy in proxies:
            stack.callback(proxy.close)
        theirs = stack.enter_context(postfix(real, proxies))
        mine = stack.enter_context(ours(own, proxies))
        yield Pair(theirs, mine, proxies, (real / "mail.log", own / "log"))


def converse(port: int, lines: Lines) -> list[bytes]:
    with socket.create_connection(("127.0.0.1", port), timeout=20) as sock, sock.makefile("rb") as stream:
        replies = [_reply(stream.readline)]
        for line in lines:
            data = line.encode() if isinstance(line, str) else line
            try:
                sock.sendall(data if isinstance(data, Chunk) else data + b"\r\n")
                reply = _reply(stream.readline)
            except OSError:
                reply = b""
            if not reply:
                break
            replies.append(reply)
        return replies


_VARIES = (
    (re.compile(r"(; )?\w{3}, [ \d]\d \w{3} \d{4} [\d:]{8} [+-]\d{4} \(\w+\)"), r"\1DATE"),
    (re.compile(r"PORT=\d+"), "PORT=N"),
    (re.compile(r"IDENT=\w+"), "IDENT=ID"),
    (re.compile(r"\b[0-9A-F]{8,}\b"), "ID"),
    (re.compile(r"127\.0\.0\.1:\d+"), "127.0.0.1:N"),
)


def same(text: str) -> str:
    for pattern, word in _VARIES:
        text = pattern.sub(word, text)
    return text


_ELSEWHERE = (
    "connect from", "disconnect from", "lost connection after", "warning: /",
    "daemon started", "master.cf", "warning: hostname",
)  # fmt: skip


def logged(log: Path, before: int) -> list[str]:
    """What smtpd has logged of a session, without times."""
    end = time.monotonic() + 10
    while "disconnect from" not in (lines := log.read_text()[before:]) and time.monotonic() < end:
        time.sleep(0.01)
    found = []
    for line in lines.splitlines():
        text = line.partition("postfix/smtpd[")[2].partition("]: ")[2]
        if text and not text.startswith(_ELSEWHERE):
            found.append(same(text))
    return found


@pytest.mark.parametrize("number", range(len(CASES)))
def test_client_filter_and_log(pair: Pair, number: int) -> None:
    case, proxy = CASES[number], pair.proxies[number]
    seen = []
    for ports, log in ((pair.theirs, pair.logs[0]), (pair.ours, pair.logs[1])):
        before = len(log.read_text())
        proxy.said.clear()
        replies = converse(ports[number], case.lines)
        proxy.settle()
        told = [[same(line) for line in session] for session in proxy.said]
        seen.append((replies, told, logged(log, before)))
    theirs, own = seen
    for name, a, b in zip(("client", "filter", "log"), theirs, own, strict=True):
        if name == "client" or not case.unfinished:
            assert b == a, name
