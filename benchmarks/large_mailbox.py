"""A message of 100 MiB in the mailbox service: what each way to read, search or store it adds to its memory.

    python -m benchmarks.large_mailbox [--size 100] [--limit 4] [--folder DIR] [--shape SHAPE] [OPERATION...]

For each shape of message and each operation the service is started anew and does the same with a small
message first; then the kernel is told to forget its largest resident size (clear_refs), the operation is done
with the large message, and printed is how far the process has grown beyond what it had: MiB of its largest
resident size (VmHWM). Exit status 1 when one adds more than `--limit`.
"""

from __future__ import annotations

import argparse
import poplib
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.large_rig import LIMIT, MIB, Memory, free_port

CONFIG = """\
base_dir = {root}/run
log_path = /dev/stderr
ssl = yes
ssl_cert = <{root}/cert.pem
ssl_key = <{root}/key.pem
protocols = imap pop3 lmtp
disable_plaintext_auth = no
mail_location = maildir:{root}/mail
imap_max_line_length = 64k
passdb {{
  driver = static
  args = password=x
}}
userdb {{
  driver = static
  args = home={root}
}}
service imap-login {{
  inet_listener imap {{
    address = 127.0.0.1
    port = {imap}
  }}
  inet_listener imaps {{
    port = 0
  }}
}}
service pop3-login {{
  inet_listener pop3 {{
    address = 127.0.0.1
    port = {pop3}
  }}
  inet_listener pop3s {{
    port = 0
  }}
}}
service lmtp {{
  inet_listener lmtp {{
    address = 127.0.0.1
    port = {lmtp}
  }}
}}
"""
HEAD = b"From: a@bench.test\nTo: b@bench.test\nSubject: large\nMessage-ID: <1@bench.test>\n"

# ---- messages, as they lie on disk


def _repeat(block: bytes, size: int) -> Iterator[bytes]:
    """The block again and again, in pieces."""
    piece = block * max(1, 65536 // len(block))
    for _ in range(max(1, size // len(piece))):
        yield piece


def text(size: int) -> Iterator[bytes]:
    """Lines of 78 octets."""
    yield HEAD + b"\n"
    yield from _repeat(b"x" * 78 + b"\n", size)


def line(size: int) -> Iterator[bytes]:
    """One line."""
    yield HEAD + b"\n"
    yield from _repeat(b"y", size)


def non_ascii(size: int) -> Iterator[bytes]:
    """Text in UTF-8."""
    yield HEAD + b"Content-Type: text/plain; charset=utf-8\n\n"
    yield from _repeat("ä ö e ü".encode() * 8 + b"\n", size)


def _parts(first: bytes) -> bytes:
    return HEAD + b'MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary="b"\n\n--b\n' + first


def attachment(size: int) -> Iterator[bytes]:
    """A file in base64, and a text behind it."""
    yield _parts(b"Content-Type: application/pdf\nContent-Transfer-Encoding: base64\n\n")
    yield from _repeat(b"QUJD" * 19 + b"\n", size)
    yield b"--b\n\nthe text\n--b--\n"


def encoded(size: int) -> Iterator[bytes]:
    """A text in base64."""
    yield _parts(b"Content-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: base64\n\n")
    yield from _repeat(b"w6Qg" * 19 + b"\n", size)
    yield b"--b--\n"


def quoted(size: int) -> Iterator[bytes]:
    """A text in quoted-printable."""
    yield _parts(b"Content-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: quoted-printable\n\n")
    yield from _repeat(b"=C3=A4 e" * 9 + b"=\n", size)
    yield b"--b--\n"


def header(size: int) -> Iterator[bytes]:
    """A header that does not end."""
    yield HEAD + b"X-Large: begins\n"
    yield from _repeat(b"\t" + b"h" * 77 + b"\n", size)
    yield b"\nbody\n"


def headers(size: int) -> Iterator[bytes]:
    """Many short headers."""
    yield HEAD
    yield from _repeat(b"a:b\n", size)
    yield b"\nbody\n"


def subject(size: int) -> Iterator[bytes]:
    """A subject that does not end."""
    yield b"From: a@bench.test\nSubject:"
    yield from _repeat(b" =?utf-8?q?=C3=A4=C3=B6?=\n", size)
    yield b"\nbody\n"


def recipients(size: int) -> Iterator[bytes]:
    """Nothing but addresses."""
    yield b"From: a@bench.test\nSubject: large\nTo: a@b"
    yield from _repeat(b",\n a@b", size)
    yield b"\n\nbody\n"


def part_header(size: int) -> Iterator[bytes]:
    """A part whose header does not end."""
    yield _parts(b"Content-Type: text/plain\nContent-Description: begins\n")
    yield from _repeat(b"\t" + b"h" * 77 + b"\n", size)
    yield b"\nbody\n--b--\n"


def inner(size: int) -> Iterator[bytes]:
    """A message in the message."""
    yield HEAD + b"MIME-Version: 1.0\nContent-Type: message/rfc822\n\n"
    yield from text(size)


def parts(size: int) -> Iterator[bytes]:
    """Many parts."""
    yield _parts(b"")
    yield from _repeat(b"\nx\n--b\n", size)


def nested(size: int) -> Iterator[bytes]:
    """A multipart in a multipart in a …"""
    yield HEAD + b"MIME-Version: 1.0\n"
    total = number = 0
    pieces: list[bytes] = []
    while total < size:
        pieces.append(b'Content-Type: multipart/mixed; boundary="b%x"\n\n--b%x\n' % (number, number))
        total += len(pieces[-1])
        number += 1
        if len(pieces) == 1000:
            yield b"".join(pieces)
            pieces.clear()
    yield b"".join(pieces)


SHAPES: dict[str, Callable[[int], Iterator[bytes]]] = {
    function.__name__: function
    for function in (
        *(text, line, non_ascii, attachment, encoded, quoted, header, headers, subject, recipients),
        *(part_header, inner, parts, nested),
    )
}

# ---- clients


class Imap:
    """An IMAP connection in INBOX that throws away what it is told. `over`: plain, tls, deflate."""

    def __init__(self, port: int, over: str = "plain") -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), LIMIT)
        self._inflate = self._deflate = None
        self._wait(b"*")
        if over == "tls":
            self.say(b"STARTTLS")
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            self._socket = context.wrap_socket(self._socket)
        self.say(b"LOGIN u x")
        if over == "deflate":
            self.say(b"COMPRESS DEFLATE")
            self._inflate = zlib.decompressobj(-15)
            self._deflate = zlib.compressobj(1, zlib.DEFLATED, -15)
        self.say(b"SELECT INBOX")

    def send(self, data: bytes) -> None:
        if self._deflate is not None:
            data = self._deflate.compress(data) + self._deflate.flush(zlib.Z_SYNC_FLUSH)
        self._socket.sendall(data)

    def _wait(self, start: bytes) -> None:
        """For a line that begins so; only ends of what comes are kept."""
        data = b"\n"
        while True:
            piece = self._socket.recv(1 << 18)
            if not piece:
                raise EOFError(data[-200:])
            data = data[-2000:] + (self._inflate.decompress(piece) if self._inflate else piece)
            at = data.rfind(b"\n", 0, -1) + 1
            if data.endswith(b"\r\n") and data.startswith(start, at):
                if start != b"*" and not data.startswith(start + b"OK", at):
                    raise RuntimeError(data[at:])
                return

    def say(self, command: bytes) -> None:
        self.send(b"tag " + command + b"\r\n")
        self._wait(b"tag ")

    def append(self, content: Iterator[bytes], size: int, plus: bytes) -> None:
        self.send(b"tag APPEND INBOX {%d%b}\r\n" % (size, plus))
        if not plus:
            self._wait(b"+ ")
        for piece in content:
            self.send(piece)
        self.finish()

    def finish(self) -> None:
        """End a command whose literal has been sent."""
        self.send(b"\r\n")
        self._wait(b"tag ")

    def close(self) -> None:
        self._socket.close()


def lmtp(port: int, content: Iterator[bytes], recipients: int = 1) -> None:
    """Deliver by LMTP."""
    with (
        socket.create_connection(("127.0.0.1", port), LIMIT) as connection,
        connection.makefile("rb") as file,
    ):
        words = [b"LHLO c", b"MAIL FROM:<>", *(b"RCPT TO:<u>",) * recipients, b"DATA"]
        connection.sendall(b"\r\n".join(words) + b"\r\n")
        while not file.readline().startswith(b"354"):
            pass
        for piece in content:
            connection.sendall(piece.replace(b"\n", b"\r\n"))
        connection.sendall(b"\r\n.\r\n")
        reply = b""
        for _ in range(recipients):
            reply = file.readline()
        if not reply.startswith(b"250"):
            raise RuntimeError(reply)


# ---- operations

FETCHES = {
    "body": "BODY.PEEK[]",
    "rfc822": "RFC822",
    "text": "BODY.PEEK[TEXT]",
    "1": "BODY.PEEK[1]",
    "1-mime": "BODY.PEEK[1.MIME]",
    "header": "BODY.PEEK[HEADER]",
    "fields": "BODY.PEEK[HEADER.FIELDS (SUBJECT X-LARGE TO)]",
    "not": "BODY.PEEK[HEADER.FIELDS.NOT (SUBJECT)]",
    "1-fields": "BODY.PEEK[1.HEADER.FIELDS (SUBJECT)]",
    "partial": "BODY.PEEK[]<700000.9000000>",
    "binary": "BINARY.PEEK[1]",
    "binary-size": "BINARY.SIZE[1]",
    "binary-all": "BINARY.PEEK[]",
    "structure": "BODYSTRUCTURE",
    "envelope": "ENVELOPE",
    "preview": "PREVIEW",
    "size": "(RFC822.SIZE ENVELOPE BODY PREVIEW)",
}
COMMANDS = {
    **{name: f"FETCH %d {items}" for name, items in FETCHES.items()},
    "search-body": "SEARCH %d BODY zzz",
    "search-text": "SEARCH %d TEXT zzz",
    "search-found": "SEARCH %d BODY e",
    "search-words": 'SEARCH CHARSET UTF-8 %d TEXT "body =?utf"',
    "search-header": "SEARCH %d HEADER X-LARGE zzz",
    "search-subject": "SEARCH %d SUBJECT zzz",
    "sort": "SORT (SUBJECT FROM DATE) UTF-8 %d",
    "thread": "THREAD REFERENCES UTF-8 %d",
    "copy": "COPY %d INBOX",
}
OVER = ("tls:body", "deflate:body", "tls:1", "deflate:binary")
POP3 = ("pop3-retr", "pop3-top", "pop3-top-all")
STORING = ("append", "append-plus", "append-binary", "tls:append", "deflate:append", "lmtp", "lmtp-five")
OPERATIONS = (*COMMANDS, *OVER, *POP3, *STORING)


class Service:
    """The mailbox service for the message in `mail/cur` below `root`; it is number 2, a small one is 1."""

    def __init__(self, root: Path, shape: str, size: int) -> None:
        self.root, self.content, self.size = root, SHAPES[shape], size
        self.ports = {name: free_port() for name in ("imap", "pop3", "lmtp")}
        command = f"openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=b -keyout {root}/key.pem"
        subprocess.run([*command.split(), "-out", f"{root}/cert.pem"], check=True, capture_output=True)
        (root / "dovecot.conf").write_text(CONFIG.format(root=root, **self.ports))
        self._large = root / "large"
        with self._large.open("wb") as file:
            file.writelines(self.content(size))

    def __enter__(self) -> Service:
        shutil.rmtree(self.root / "mail", ignore_errors=True)
        for place in ("cur", "new", "tmp"):
            (self.root / "mail" / place).mkdir(parents=True)
        (self.root / "mail" / "cur" / "1.M1.x:2,S").write_bytes(b"".join(self.content(2000)))
        (self.root / "mail" / "cur" / "2.M1.x:2,S").hardlink_to(self._large)
        with (self.root / "log").open("ab") as log:
            command = [sys.executable, "-m", "mailstack.mailbox", "--config", str(self.root)]
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        end = time.monotonic() + 20
        while True:
            try:
                for port in self.ports.values():
                    socket.create_connection(("127.0.0.1", port), 1).close()
                return self
            except OSError:
                if time.monotonic() > end:
                    raise RuntimeError((self.root / "log").read_text()) from None
                time.sleep(0.02)

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    @property
    def pid(self) -> int:
        return self._process.pid

    def do(self, operation: str, number: int) -> None:
        """An operation with message 1 or 2."""
        if operation.startswith("pop3"):
            self._pop3(operation, number)
        elif operation.startswith("lmtp"):
            content = self.content(self.size if number == 2 else 2000)
            lmtp(self.ports["lmtp"], content, 5 if operation == "lmtp-five" else 1)
        else:
            over, _, name = operation.rpartition(":")
            client = Imap(self.ports["imap"], over or "plain")
            try:
                if name in COMMANDS:
                    client.say((COMMANDS[name] % number).encode())
                else:
                    self._append(client, name, number)
            finally:
                client.close()

    def _append(self, client: Imap, name: str, number: int) -> None:
        size = self.size if number == 2 else 2000
        octets = sum(map(len, self.content(size)))
        if name == "append-binary":
            client.send(b"tag APPEND INBOX ~{%d+}\r\n" % octets)
            for piece in self.content(size):
                client.send(piece)
            client.finish()
            return
        client.append(self.content(size), octets, b"+" if name == "append-plus" else b"")

    def _pop3(self, operation: str, number: int) -> None:
        client = poplib.POP3("127.0.0.1", self.ports["pop3"], LIMIT)
        try:
            client.user("u")
            client.pass_("x")
            command = {"pop3-retr": "RETR {}", "pop3-top": "TOP {} 0", "pop3-top-all": "TOP {} 99999999"}
            client._putcmd(command[operation].format(number))  # type: ignore[attr-defined]
            tail = b""
            while not tail.endswith(b"\r\n.\r\n"):
                tail = (tail + client.file.read1(1 << 18))[-8:]  # type: ignore[attr-defined]
            client.quit()
        finally:
            client.close()


def measure(service: Service, operation: str) -> float:
    """MiB by which the service has grown."""
    with service:
        service.do(operation, 1)
        memory = Memory({"mailbox": service.pid})
        service.do(operation, 2)
        return memory.growth()["mailbox"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("operations", nargs="*", metavar="OPERATION", help=" ".join(OPERATIONS))
    parser.add_argument("--size", type=int, default=100, help="MiB of a message")
    parser.add_argument("--limit", type=float, default=4.0, help="MiB that an operation may add")
    parser.add_argument("--folder", help="where mail lies")
    parser.add_argument("--shape", action="append", choices=SHAPES, help="all without one")
    options = parser.parse_args()
    worst = 0.0
    print("| message | operation | grown by, MiB | seconds |\n|---|---|---|---|")
    for shape in options.shape or SHAPES:
        with tempfile.TemporaryDirectory(prefix="large-", dir=options.folder) as place:
            service = Service(Path(place), shape, options.size * MIB)
            for operation in options.operations or OPERATIONS:
                started = time.monotonic()
                try:
                    grown = measure(service, operation)
                    worst = max(worst, grown)
                    shown = f"{grown:.1f}"
                except (OSError, RuntimeError, EOFError) as error:
                    worst, shown = 1e9, f"failed: {error!r}"
                print(f"| {shape} | {operation} | {shown} | {time.monotonic() - started:.1f} |", flush=True)
    print(f"the most: {worst:.1f} MiB (limit {options.limit:g})")
    sys.exit(worst > options.limit)


if __name__ == "__main__":
    main()
