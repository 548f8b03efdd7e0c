"""Conversation by conversation, our smtpd and the real Postfix on the same main.cf.

What may differ is listed in `DIFFERENT`, with what we say instead; docs/differences.md has the reasons.
"""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
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
from tests.ports import free_port
from tests.unit.mta_smtpd.serving import write_config
from tests.unit.mta_smtpd.test_worker import SCRIPT

pytestmark = pytest.mark.real

TRUSTED, OUTSIDE = 0, 1
BOTH = """\
maillog_file_prefixes = /tmp
inet_protocols = ipv4
defer_transports = local virtual relay smtp
smtpd_forbid_bare_newline = normalize
smtpd_forbid_bare_newline_exclusions =
smtpd_relay_restrictions = permit_mynetworks, reject_unauth_destination
"""
POSTFIX = """\
data_directory = {dir}/data
maillog_file = {dir}/mail.log
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
error unix - - n - - error
retry unix - - n - - error
anvil unix - - n - 1 anvil
postlog unix-dgram n - n - 1 postlogd
"""


class Chunk(bytes):
    """A BDAT command and its octets, which are sent as they are: no CRLF belongs behind them."""

    def __new__(cls, content: bytes, last: str = "") -> Chunk:
        return super().__new__(cls, f"BDAT {len(content)} {last}".rstrip().encode() + b"\r\n" + content)


@dataclass(frozen=True)
class Server:
    ports: tuple[int, int]
    """Where clients are trusted, and where they are not."""

    def converse(self, lines: list[bytes | str], where: int) -> list[bytes]:
        """The greeting and one reply per line, queue ids taken out; stops where the server hangs up."""
        with (
            socket.create_connection(("127.0.0.1", self.ports[where]), timeout=15) as sock,
            sock.makefile("rb") as stream,
        ):
            replies = [_reply(stream.readline)]
            for line in lines:
                data = line.encode() if isinstance(line, str) else line
                try:
                    whole = data.endswith(b"\n") or isinstance(data, Chunk)
                    sock.sendall(data if whole else data + b"\r\n")
                    reply = _reply(stream.readline)
                except OSError:
                    reply = b""
                if not reply:
                    return replies
                replies.append(re.sub(rb"queued as \w+", b"queued as ID", reply))
            return replies


def _reply(readline: object) -> bytes:
    assert callable(readline)
    reply = b""
    while line := readline():
        reply += line
        if line[3:4] != b"-":
            break
    return reply


@contextmanager
def postfix(directory: Path) -> Iterator[Server]:
    ports = (free_port(), free_port())
    write_config(directory, BOTH + POSTFIX.format(dir=directory))
    shutil.rmtree(directory / "queue")
    (directory / "queue").mkdir()
    (directory / "data").mkdir()
    shutil.chown(directory / "data", "postfix")
    master = _smtpd_lines(*(f"127.0.0.1:{port}" for port in ports)) + SERVICES
    (directory / "master.cf").write_text(master)
    make_aliases(directory)
    start_postfix(directory)
    try:
        for port in ports:
            wait_for(port)
        yield Server(ports)
    finally:
        stop_postfix(directory)


@contextmanager
def ours(directory: Path) -> Iterator[Server]:
    write_config(directory, BOTH)
    socks = [bind_tcp("127.0.0.1", 0) for _ in range(2)]
    fds = [sock.fileno() for sock in socks]
    command = [sys.executable, "-c", SCRIPT, str(directory), _smtpd_lines("1", "2"), *map(str, fds)]
    log = (directory / "log").open("w")
    process = subprocess.Popen(command, pass_fds=fds, stdout=subprocess.DEVNULL, stderr=log)
    ports = (socks[0].getsockname()[1], socks[1].getsockname()[1])
    for sock in socks:
        sock.close()
    try:
        yield Server(ports)
    finally:
        process.terminate()
        process.wait(30)
        log.close()
        assert "Traceback" not in (directory / "log").read_text()


def _smtpd_lines(trusted: str, outside: str) -> str:
    return f"{trusted} inet n - n - - smtpd -o mynetworks=127.0.0.0/8\n{outside} inet n - n - - smtpd\n"


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Server]]:
    need_postfix()
    real = tmp_path_factory.mktemp("postfix")
    let_daemons_in(real)
    with postfix(real) as theirs, ours(tmp_path_factory.mktemp("ours")) as own:
        yield theirs, own


START = ["MAIL FROM:<a@b.test>", "RCPT TO:<zs@dgtlinux.com>", "DATA"]
PATHS = [
    "<>", "<a@b@c.test>", '<"a b"@c.test>', '<"a@b"@c.test>', "<@x.test,@y.test:u@z.test>", "<a@>",
    "<a@[127.0.0.1]>", "<a@[IPv6:::1]>", "<a@127.0.0.1>", "<a@b..c>", "<a@.b>", "a..b@c.test", "<a.@c.test>",
    "<.a@c.test>", "<a@c.test.>", "<a@c.test..>", "<a@c_d.test>", "<a@-c.test>", '"a"@c.test', '<"a@c.test>',
    "<a\\ b@c.test>", "<ü@c.test>", "<a@ü.test>", "<ü@c.test> SMTPUTF8", "<a,b@c.test>", "<a;b@c.test>",
    "<a@c.test>x", "<a@c.test> <b@c.test>", "a@c.test b@c.test", "Foo <a@c.test>", "<(c)a@c.test>",
    "<a(c)@c.test>", "<<a@c.test>>", "<a@c.test", "< a@c.test >", "<a%b@c.test>", "<host!user>",
    "<a@" + "x" * 250 + ".test>", "<" + "a" * 300 + "@c.test>", '<a"b@c.test>', "<a>", ":a@c.test",
    "a:b@c.test", "<a:b@c.test>", "<a@b:c.test>", "<a b@c.test>", "<a@b c.test>", "<a@[1.2.3]>",
    "<a@1.2.3.4.>", "<a@[IPv6:xx]>", "<a@x[1.2.3.4]>", "<a@b.c,d@e.f>", ">a@b<", "<> SIZE=5", "<.>",
    "<a@b.test> SIZE= 5", "<a@b.test> size=5 body=7bit", "<a@b.test> BODY", "<a@b.test> SMTPUTF8=1",
    "<a@b.test>SIZE=5", "<a@b.test> SIZE=99999999999999999999999", "<a@b.test> SIZE=200000",
    "<-a@b.test>", "<->", "<@@dgtlinux.com>", "<-a@b.test> X", '<"-a"@b.test>', "<a@b.test> SIZE=100001 SIZE=x", "<a@b.test> SIZE=-1", "<a@b.test> NONSENSE", "<a@b.test> BODY=BINARYMIME",
]  # fmt: skip
RECIPIENTS = [
    "<>", "<zs>", "<root>", "<nobody>", "<zs@dgtlinux.com>", "<ZS+tag@DGTLINUX.com.>", "<x@dgtlinux.com>",
    "<zs@localhost>", "<postmaster>", "<postmaster@dgtlinux.com>", "<postmaster@other.test>", "<bob@other.test>",
    "<x@other.test>", "<r@relay.test>", "<x@relay.test>", "<r@deep.relay.test>", "<ali@alias.test>",
    "<ali+x@alias.test>", "<x@alias.test>", "<old@dgtlinux.com>", "<old+x@dgtlinux.com>", "<x@far.test>",
    "<x%far.test@dgtlinux.com>", '<"x@far.test"@dgtlinux.com>', "<far.test!x>", "<@dgtlinux.com:x@far.test>",
    "<x%far.test@relay.test>", "<x%far.test@other.test>", "<x@[127.0.0.1]>", "<x@[192.0.2.1]>",
    "<-x@dgtlinux.com>", "<zs@[IPv6:::1]>", "<zs%dgtlinux.com@localhost>", "<zs@dgtlinux.com> NOTHING",
]  # fmt: skip
ENVELOPE = START[:2]
MALFORMED: list[list[bytes | str]] = [
    [*ENVELOPE, f"BDAT{rest}", "NOOP"]
    for rest in (
        *("", " x", " -1", " +5", " 0x5", " 5 LASTT", " 5 FIRST", " 5 LAST x"),
        " 99999999999999999999999 LAST",
    )
]
BDAT: list[list[bytes | str]] = [
    # Good ones.
    ["EHLO x.test", *ENVELOPE, Chunk(b"hello\r\n", "LAST"), "NOOP", "QUIT"],
    ["HELO x.test", *ENVELOPE, Chunk(b"hello", "LAST"), *ENVELOPE, "DATA", "x\r\n."],
    [*ENVELOPE, Chunk(b"hello"), Chunk(b" world"), Chunk(b"\n", "LAST"), *ENVELOPE, Chunk(b"abc", "LAST")],
    [*ENVELOPE, Chunk(b"hello\r"), Chunk(b"\n.\r\n.."), Chunk(b"", "LAST"), "NOOP"],
    [*ENVELOPE, Chunk(b"", "LAST"), "NOOP"],
    [*ENVELOPE, Chunk(b"a\nb\rc.\r\n.\r\n", "LAST"), "NOOP"],
    [*ENVELOPE, Chunk(b"hello", "last"), "NOOP"],
    [*ENVELOPE, b"bdat  6 \tLAST \r\nhello\n", "NOOP"],
    [*ENVELOPE, Chunk(b"hello"), "NOOP", "VRFY zs@dgtlinux.com", Chunk(b"hello", "LAST"), "NOOP"],
    [*ENVELOPE, Chunk(b"x" * 60_000), Chunk(b"x" * 40_000, "LAST"), "NOOP"],
    [*START, "x\r\n.", *ENVELOPE, Chunk(b"abc", "LAST"), *START, "x\r\n."],
    [*ENVELOPE, Chunk(b"Received: x\n"), Chunk(b"Received: x\n" * 50, "LAST"), "NOOP"],
    # The size cannot be read, so that nobody knows where the next command is.
    *MALFORMED,
    ["BDAT x", "NOOP"],
    # Out of turn, and too much.
    [Chunk(b"hello", "LAST"), "NOOP", *ENVELOPE],
    [Chunk(b"hello"), "NOOP", *ENVELOPE, "DATA", "RSET", *ENVELOPE],
    [Chunk(b"hello"), Chunk(b"hello"), Chunk(b"hello", "LAST"), *ENVELOPE],
    [Chunk(b"hello"), "HELO x", *ENVELOPE],
    ["BDAT 0", *ENVELOPE, "BDAT 0 LAST", *ENVELOPE],
    [ENVELOPE[0], Chunk(b"hello", "LAST"), "RCPT TO:<zs>", *ENVELOPE],
    [ENVELOPE[0], Chunk(b"hello"), "RCPT TO:<zs>", "DATA", Chunk(b"hello", "LAST"), "RCPT TO:<zs>", *ENVELOPE],
    [ENVELOPE[0], "RCPT TO:<x@dgtlinux.com>", Chunk(b"x" * 200_000, "LAST"), *ENVELOPE],
    [ENVELOPE[0], "BDAT 0", "RCPT TO:<zs>", *ENVELOPE],
    [*ENVELOPE, "BDAT 0", "NOOP", Chunk(b"hello"), Chunk(b"hello", "LAST"), "NOOP", "MAIL FROM:<>"],
    [*ENVELOPE, "BDAT 0", *ENVELOPE, "DATA", "RSET", *ENVELOPE, Chunk(b"hello", "LAST")],
    [*ENVELOPE, *["BDAT 0"] * 20],
    [*ENVELOPE, Chunk(b"x" * 100_001), "NOOP", Chunk(b"x" * 100_001), Chunk(b"abcd", "LAST"), "NOOP", *ENVELOPE],
    [*ENVELOPE, Chunk(b"x" * 100_001, "LAST"), "NOOP", *ENVELOPE],
    [*ENVELOPE, Chunk(b"x" * 60_000), Chunk(b"x" * 60_000, "LAST"), "NOOP", *ENVELOPE],
    [*ENVELOPE, Chunk(b"x" * 60_000), Chunk(b"x" * 60_000), "BDAT 0 LAST", *ENVELOPE],
    [*ENVELOPE, Chunk(b"\n" * 60_000, "LAST"), "NOOP", *ENVELOPE],
    [*ENVELOPE, Chunk(b"hello"), "MAIL FROM:<>", "RCPT TO:<zs>", "DATA", "RSET", "DATA", *ENVELOPE],
    [*ENVELOPE, Chunk(b"hello"), "ETRN relay.test", "AUTH PLAIN", "STARTTLS", "FOO", Chunk(b"", "LAST")],
    [*ENVELOPE, Chunk(b"hello"), "EHLO x", *ENVELOPE],
    [*ENVELOPE, Chunk(b"hello"), "QUIT"],
    ["MAIL FROM:<a@b.test> BODY=BINARYMIME", *ENVELOPE],
]  # fmt: skip
CONVERSATIONS: list[list[bytes | str]] = [
    ["EHLO a.test", "EHLO", "HELO", "HELO a b", "NOOP x", "RSET x", "RSET", "DATA", "QUIT"],
    [
        "RCPT TO:<zs@dgtlinux.com>",
        "MAIL",
        "MAIL FROM",
        "MAIL FROM:",
        "MAIL TO:<a@b>",
        "MAIL FROM:<>",
        "MAIL FROM:<>",
    ],
    [b"\xc3\xbc x\r\n", "NOOP"],
    ["ETRN [192.0.2.1]", "ETRN @far.test", "ETRN #far.test", "VRFY -x@dgtlinux.com", "VRFY -x"],
    ["VRFY zs@dgtlinux.com", "VRFY x@dgtlinux.com", "VRFY <zs>", "VRFY", "VRFY x@far.test"],
    [
        "ETRN",
        "ETRN far.test",
        "ETRN @@",
        "AUTH PLAIN",
        "STARTTLS",
        "HELP",
        "EXPN x",
        "XYZ",
        "LHLO x",
        "QUIT now",
    ],
    ["MAIL FROM:<a@b>", "DATA", "RCPT TO:<zs>", "DATA x", "ETRN relay.test", "AUTH PLAIN", "HELO x", "DATA"],
    [*START, "Subject: x\r\n\r\nhello\r\n.", "DATA", *START, ".", "QUIT"],
    [*START, "Received: from x by y\r\n" * 50 + "\r\nx\r\n.", "NOOP"],
    [*START, "Received: from x by y\r\n" * 49 + "\r\nx\r\n.", "NOOP"],
    [*START, "Received: from x by y\r\n" * 48 + "\r\nx\r\n.", "NOOP"],
    [*START, b"x" * 150_000 + b"\r\n.\r\n", "NOOP"],
    [*START, b"a\n.\nNOOP\n\r\n.\r\n", "NOOP"],
    *BDAT,
    ["GET / HTTP/1.0"],
    ["CONNECT x:25"],
    ["Subject: x"],
    ["#"],
    [b"\x80\r\n", b"\x16\x03\x01\xfe\r\n"],
    [b"\r\n", b" \r\n", b"noop\n", b" NOOP\r\n"],
    ["XX"] * 20,
    ["NOOP"] * 120,
    ["NOOP", "XX"] * 19,
    ["EHLO x"] * 118,
]


def test_conversations(servers: tuple[Server, Server]) -> None:
    for lines in CONVERSATIONS:
        for where in (TRUSTED, OUTSIDE):
            _compare(servers, lines, where)


def test_senders(servers: tuple[Server, Server]) -> None:
    for path in PATHS:
        _compare(servers, [f"MAIL FROM:{path}"], OUTSIDE)


def test_recipients(servers: tuple[Server, Server]) -> None:
    for where in (TRUSTED, OUTSIDE):
        for start in range(0, len(RECIPIENTS), 8):
            some = [f"RCPT TO:{path}" for path in RECIPIENTS[start : start + 8]]
            _compare(servers, ["MAIL FROM:<a@b.test>", *some], where)


DIFFERENT: dict[str, bytes] = {
    "MAIL FROM:<@x.test>": b"501 5.1.7 Bad sender address syntax\r\n",
    "MAIL FROM:<@@b.test>": b"501 5.1.7 Bad sender address syntax\r\n",
    "MAIL FROM:a@c.test>": b"501 5.1.7 Bad sender address syntax\r\n",
    'MAIL FROM:<""@c.test>': b"501 5.1.7 Bad sender address syntax\r\n",
    'MAIL FROM:<"">': b"501 5.1.7 Bad sender address syntax\r\n",
    "MAIL FROM:<\x07a@c.test>": b"501 5.1.7 Bad sender address syntax\r\n",
    "NOOP\0": b"500 5.5.2 Error: bad syntax\r\n",
    "NOOP " + "x" * 3000: b"500 5.5.2 Error: line too long\r\n",
}


@pytest.mark.parametrize("line", DIFFERENT, ids=range(len(DIFFERENT)))
def test_what_differs_differs_as_documented(servers: tuple[Server, Server], line: str) -> None:
    theirs, own = (server.converse([line], OUTSIDE)[1] for server in servers)
    assert own == DIFFERENT[line]
    assert theirs[:3] == b"250"


def _compare(servers: tuple[Server, Server], lines: list[bytes | str], where: int) -> None:
    theirs, own = (server.converse(lines, where) for server in servers)
    for index, (wanted, got) in enumerate(zip(theirs, own, strict=False)):
        said = lines[index - 1][:80] if index else "(greeting)"
        assert got == wanted, f"after {said!r}: Postfix says {wanted!r}, we say {got!r}"
    assert len(theirs) == len(own), f"{lines[:3]!r}: {len(theirs)} replies of Postfix, {len(own)} of ours"
