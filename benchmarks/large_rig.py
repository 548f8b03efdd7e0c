"""What `benchmarks.large` needs: an MTA, servers that throw away what they get, a client, a look at memory.

The messages are made as they are sent.
"""

from __future__ import annotations

import os
import pwd
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

MIB = 1 << 20
LIMIT = 600.0
"""Seconds after which a path is given up."""
MAIN_CF = """\
compatibility_level = 3.6
myhostname = mail.bench.test
mydomain = bench.test
mydestination = local.test
mynetworks = 127.0.0.0/8
queue_directory = {root}/queue
alias_maps = hash:{root}/aliases
local_recipient_maps =
message_size_limit = 1000000000
mailbox_size_limit = 0
virtual_mailbox_limit = 0
virtual_mailbox_domains = virtual.test
virtual_mailbox_base = {root}/mail
virtual_mailbox_maps = inline:{{ {{ user@virtual.test = user/ }} {{ mbox@virtual.test = mbox }} }}
virtual_uid_maps = static:{uid}
virtual_gid_maps = static:{gid}
virtual_minimum_uid = 1
transport_maps = texthash:{root}/transport
default_privs = {owner}
"""
MASTER_CF = """\
127.0.0.1:{port} inet n - n - 1 smtpd
pickup unix n - n 60 1 pickup
qmgr unix n - n 300 1 qmgr
lmtp unix - - n - - lmtp
smtp unix - - n - - smtp
local unix - n n - - local
virtual unix - n n - - virtual
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
cat unix - n n - - pipe flags=BFRhu.> user={user} argv=/bin/sh -c cat>/dev/null
false unix - n n - - pipe user={user} argv=/bin/false
"""
TRANSPORT = """\
discard.test discard:
lmtp.test lmtp:inet:127.0.0.1:{lmtp}
smtp.test smtp:[127.0.0.1]:{smtp}
seven.test smtp:[127.0.0.1]:{seven}
pipe.test cat:
false.test false:
bench.test discard:
"""

# ---- messages


def lines(size: int) -> Iterator[bytes]:
    """A message of `size` octets, lines of 78."""
    yield b"Subject: large\r\nFrom: a@bench.test\r\nTo: b@bench.test\r\n\r\n"
    block = (b"x" * 78 + b"\r\n") * 800
    for _ in range(max(1, size // len(block))):
        yield block


def one_line(size: int) -> Iterator[bytes]:
    """Its body is one line."""
    yield b"Subject: large\r\n\r\n"
    block = b"y" * 64000
    for _ in range(max(1, size // len(block))):
        yield block
    yield b"\r\n"


def many_headers(size: int) -> Iterator[bytes]:
    """A header block of 1 MiB (at most half the size)."""
    yield b"".join(
        b"X-Header-%d: %s\r\n" % (number, b"h" * 990) for number in range(min(size, 2 * MIB) // 2000)
    )
    yield from lines(size)


def header_line(size: int) -> Iterator[bytes]:
    """One header of that size, folded."""
    yield b"Subject: large\r\nX-Large: begins\r\n"
    block = (b"\t" + b"h" * 77 + b"\r\n") * 800
    for _ in range(max(1, size // len(block))):
        yield block
    yield b"\r\nbody\r\n"


def eight_bit(size: int) -> Iterator[bytes]:
    """Eight-bit lines, and a last one that is half of the message."""
    yield b"Subject: large\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n"
    yield b"Content-Transfer-Encoding: 8bit\r\n\r\n"
    block = ("ä" * 35 + "\r\n").encode() * 800
    for _ in range(max(1, size // 2 // len(block))):
        yield block
    line = "ö".encode() * 32000
    for _ in range(max(1, size // 2 // len(line))):
        yield line
    yield b"\r\n"


def part_header(size: int) -> Iterator[bytes]:
    """A part whose header does not end."""
    yield b'Subject: large\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary="b"\r\n\r\n--b\r\n'
    yield from header_line(size)
    yield b"--b--\r\n"


# ---- ways in


class Client:
    """An SMTP client that sends what it is told."""

    def __init__(self, port: int, host: str = "127.0.0.1", *, first: bytes = b"") -> None:
        self.sock = socket.create_connection((host, port), LIMIT)
        self.file = self.sock.makefile("rb")
        try:
            self.sock.sendall(first)
            self.expect(b"220")
            self.say(b"EHLO client.test", b"250")
        except BaseException:
            self.close()
            raise

    def expect(self, code: bytes) -> bytes:
        while True:
            line = self.file.readline()
            if line[3:4] != b"-":
                break
        if not line.startswith(code):
            raise RuntimeError(f"{line!r} instead of {code.decode()}")
        return line

    def say(self, line: bytes, code: bytes) -> bytes:
        self.sock.sendall(line + b"\r\n")
        return self.expect(code)

    def start_tls(self) -> None:
        self.say(b"STARTTLS", b"220")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        self.sock = context.wrap_socket(self.sock)
        self.file = self.sock.makefile("rb")
        self.say(b"EHLO client.test", b"250")

    def envelope(self, recipient: str, parameters: str = "") -> None:
        self.say(f"MAIL FROM:<sender@bench.test>{parameters}".encode(), b"250")
        self.say(f"RCPT TO:<{recipient}>".encode(), b"250")

    def data(self, recipient: str, content: Iterator[bytes], parameters: str = "") -> None:
        self.envelope(recipient, parameters)
        self.say(b"DATA", b"354")
        for part in content:
            self.sock.sendall(part)
        self.say(b".", b"250")

    def bdat(self, recipient: str, content: Iterator[bytes], chunk: int) -> None:
        """`chunk`: octets of a chunk; 0: all in one."""
        self.envelope(recipient)
        if not chunk:
            parts = list(content)  # this is not the process that is measured
            self.sock.sendall(b"BDAT %d LAST\r\n" % sum(map(len, parts)))
            for part in parts:
                self.sock.sendall(part)
            self.expect(b"250")
            return
        reader = threading.Thread(target=self._replies)
        reader.start()
        for part in content:
            for start in range(0, len(part), chunk):
                piece = part[start : start + chunk]
                self.sock.sendall(b"BDAT %d\r\n" % len(piece) + piece)
        self.sock.sendall(b"BDAT 0 LAST\r\nNOOP end\r\nQUIT\r\n")
        reader.join()

    def _replies(self) -> None:
        while line := self.file.readline():
            if not line.startswith(b"2"):
                raise RuntimeError(line.decode())

    def close(self) -> None:
        self.file.close()
        self.sock.close()


# ---- servers that throw away

SINK = """\
import asyncio, socket, sys
greeting, words = sys.argv[1], sys.argv[2:]
async def milter(reader, writer):
    try:
        while size := int.from_bytes(await reader.readexactly(4), "big"):
            data = await reader.readexactly(size)
            if data[:1] == b"O":
                writer.write((13).to_bytes(4, "big") + b"O" + (6).to_bytes(4, "big") + bytes(8))
            elif data[:1] not in (b"D", b"A", b"Q"):
                writer.write((1).to_bytes(4, "big") + b"c")
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()
async def client(reader, writer):
    if greeting == "milter":
        return await milter(reader, writer)
    if greeting:
        writer.write(greeting.encode() + b"\\r\\n")
    try:
        while line := await reader.readline():
            verb = line[:4].upper()
            if verb in (b"EHLO", b"LHLO"):
                writer.write("".join(f"250-{word}\\r\\n" for word in words).encode() + b"250 ok\\r\\n")
            elif verb == b"get ".upper():
                writer.write(b"500 none\\n")
            elif verb == b"DATA":
                writer.write(b"354 go\\r\\n")
                tail = b""
                while not tail.endswith(b"\\r\\n.\\r\\n"):
                    data = await reader.read(65536)
                    if not data:
                        return
                    tail = (tail + data)[-5:]
                writer.write(b"250 2.0.0 Saved\\r\\n")
            else:
                writer.write(b"250 2.1.0 Ok\\r\\n")
    except ConnectionError:
        pass
    finally:
        writer.close()
async def main():
    server = await asyncio.start_server(client, "127.0.0.1", 0, limit=1 << 18)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()
asyncio.run(main())
"""


class Sink:
    """An SMTP or LMTP server that keeps nothing, in a process of its own."""

    def __init__(self, greeting: str, *extensions: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", SINK, greeting, *extensions], stdout=subprocess.PIPE
        )
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


# ---- the MTA


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Memory:
    """How far processes have grown beyond what they had at the beginning."""

    def __init__(self, processes: dict[str, int]) -> None:
        self._processes = processes
        self._before = {}
        for name, pid in processes.items():
            Path(f"/proc/{pid}/clear_refs").write_text("5")
            self._before[name] = _status(pid, "VmRSS")

    def growth(self) -> dict[str, float]:
        """MiB by name."""
        return {
            name: (_status(pid, "VmHWM") - self._before[name]) / 1024 for name, pid in self._processes.items()
        }


def _status(pid: int, field: str) -> int:
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.partition(f"{field}:")[2].split()[0])


class MTA:
    """An MTA with one smtpd, whose queue, mail and configuration lie below `root`."""

    def __init__(self, root: Path, extra: str = "") -> None:
        """`extra`: further lines of main.cf."""
        self.root = root
        self.port = free_port()
        self._sinks = [
            Sink("220 sink LMTP", "PIPELINING", "8BITMIME", "ENHANCEDSTATUSCODES"),
            Sink("220 sink ESMTP", "PIPELINING", "8BITMIME", "SIZE"),
            Sink("220 sink ESMTP", "SIZE"),
            Sink(""),
            Sink("milter"),
        ]
        owner = pwd.getpwnam("nobody") if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())
        mail = root / "mail"
        mail.mkdir()
        (mail / "theirs").mkdir()
        os.chown(mail / "theirs", owner.pw_uid, owner.pw_gid)
        for folder in (root, mail):
            folder.chmod(0o755)
        (root / "aliases").write_text(
            f"maildir: {mail}/theirs/maildir/\nfile: {mail}/theirs/file\n"
            'command: "|cat >/dev/null"\nforward: user@discard.test\n'
        )
        lmtp, smtp, seven, table, milter = (sink.port for sink in self._sinks)
        (root / "transport").write_text(TRANSPORT.format(lmtp=lmtp, smtp=smtp, seven=seven))
        (root / "checks").write_text("/^(?:Subject: no|z{20})/ REJECT no\n/never matches/ WARN\n")
        (root / "generic").write_text("sender@bench.test outside@example.net\n")
        (root / "mailstack.toml").write_text('[resolver]\nnameservers = ["127.0.0.1:9"]\n')
        (root / "main.cf").write_text(
            MAIN_CF.format(root=root, uid=os.geteuid(), gid=os.getegid(), owner=owner.pw_name)
            + extra.format(root=root, smtp=smtp, table=table, milter=milter)
        )
        (root / "master.cf").write_text(MASTER_CF.format(port=self.port, user=owner.pw_name))
        self.log = root / "log"

    def __enter__(self) -> MTA:
        command = [sys.executable, "-m", "mailstack.mta", "--config", str(self.root)]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
            except OSError:
                time.sleep(0.02)
            else:
                return self
        raise RuntimeError(f"the MTA does not answer: {self.log.read_text()}")

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(20)
        for sink in self._sinks:
            sink.close()

    def processes(self) -> dict[str, int]:
        """master, smtpd and qmgr, those that have said something: name → process id."""
        found = {"master": self._process.pid}
        for daemon in ("smtpd", "qmgr"):
            ids = re.findall(rf"postfix/{daemon}\[(\d+)\]", self.log.read_text())
            if ids:
                found[daemon] = int(ids[-1])
        return found

    def count(self, recipient: str, status: str) -> int:
        """How often that recipient has come to that end."""
        text = self.log.read_text("utf-8", "replace")
        return len(re.findall(rf"to=<{re.escape(recipient)}>.*{status}", text))

    def until(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + LIMIT
        while not condition():
            if time.monotonic() > deadline:
                raise RuntimeError(f"no {what}: {self.log.read_text()[-2000:]}")
            time.sleep(0.02)

    def queued(self) -> int:
        folders = (self.root / "queue" / name for name in ("maildrop", "incoming", "active"))
        return sum(1 for folder in folders for path in folder.iterdir() if path.stat().st_size)
