"""A milter that does what a script says, and notes what it is told. Speaks the protocol by itself.

It runs in threads, so that servers in this and in other processes can talk to it.
"""

from __future__ import annotations

import re
import socket
import struct
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

CONTINUE, ACCEPT, REJECT, TEMPFAIL = (b"c",), (b"a",), (b"r",), (b"t",)
DISCARD, SKIP, PROGRESS, SHUTDOWN, LOST = (b"d",), (b"s",), (b"p", b"c"), (b"4",), (b"f",)
CLOSE, SILENCE, GARBAGE, HUGE, EMPTY = (b"!close",), (b"!wait",), (b"!\xff\xff",), (b"!\x7f",), (b"!\0",)
NO_REPLIES = 0x80 | 0x1000 | 0x2000 | 0x4000 | 0x8000 | 0x10000 | 0x20000 | 0x40000 | 0x80000


def reply(text: str) -> tuple[bytes]:
    return (b"y" + text.encode() + b"\0",)


def quarantine(reason: str) -> bytes:
    return b"q" + reason.encode() + b"\0"


def add_header(name: str, value: str) -> bytes:
    return b"h" + name.encode() + b"\0" + value.encode() + b"\0"


def insert_header(index: int, name: str, value: str) -> bytes:
    return b"i" + struct.pack("!I", index) + name.encode() + b"\0" + value.encode() + b"\0"


def change_header(index: int, name: str, value: str) -> bytes:
    return b"m" + struct.pack("!I", index) + name.encode() + b"\0" + value.encode() + b"\0"


def change_from(address: str, parameters: str | None = None) -> bytes:
    return b"e" + address.encode() + b"\0" + (b"" if parameters is None else parameters.encode() + b"\0")


def add_rcpt(address: str) -> bytes:
    return b"+" + address.encode() + b"\0"


def add_rcpt_with(address: str, parameters: str) -> bytes:
    return b"2" + address.encode() + b"\0" + parameters.encode() + b"\0"


def del_rcpt(address: str) -> bytes:
    return b"-" + address.encode() + b"\0"


def body(text: bytes) -> bytes:
    return b"b" + text


def changes(*edits: bytes, end: tuple[bytes, ...] = CONTINUE) -> tuple[bytes, ...]:
    return (*edits, *end)


@dataclass(frozen=True)
class Script:
    """`answers`: by the event's letter, one for each time it comes; then `CONTINUE`."""

    answers: Mapping[str, Sequence[tuple[bytes, ...]]] = field(default_factory=dict)
    version: int = 6
    actions: int = 0x1FF
    events: int = 0
    """What it does not want to be told, or does not answer."""
    symbols: bytes = b""
    """The lists of macros that it asks for."""
    negotiation: bytes | None = None
    """Instead of an answer to the negotiation."""


_UNANSWERED = {
    "C": 0x1000, "H": 0x2000, "M": 0x4000, "R": 0x8000, "T": 0x10000, "U": 0x20000, "L": 0x80,
    "N": 0x40000, "B": 0x80000,
}  # fmt: skip


class ScriptedMilter:
    """A milter on a port of its own, or on a unix-domain socket."""

    def __init__(self, path: str = "") -> None:
        self.script = Script()
        self.told: list[list[tuple[str, list[str]]]] = []
        """Of each connection: an event's letter and its texts; `D` with macros before it."""
        self._connections: list[socket.socket] = []
        if path:
            self._server = socket.socket(socket.AF_UNIX)
            self._server.bind(path)
        else:
            self._server = socket.create_server(("127.0.0.1", 0))
        self._server.listen(50)
        self._threads: list[threading.Thread] = []
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def port(self) -> int:
        return int(self._server.getsockname()[1])

    def stop(self) -> None:
        with suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        for one in self._connections:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def begin(self, script: Script) -> None:
        """Follow `script` for the connections that come from now on; forget what was told."""
        self.script = script
        self.told = []
        self._threads = []

    def heard(self, timeout: float = 60.0) -> list[list[tuple[str, list[str]]]]:
        """What has been told, when all connections are over."""
        end = time.monotonic() + timeout
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))
        return self.told

    def _accept(self) -> None:
        while True:
            try:
                sock = self._server.accept()[0]
            except OSError:
                return
            self._connections.append(sock)
            told: list[tuple[str, list[str]]] = []
            self.told.append(told)
            thread = threading.Thread(target=self._serve, args=(sock, self.script, told), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, sock: socket.socket, script: Script, told: list[tuple[str, list[str]]]) -> None:
        counts: dict[str, int] = {}
        with sock, sock.makefile("rb") as stream, suppress(OSError):
            while len(head := stream.read(4)) == 4:
                packet = stream.read(struct.unpack("!I", head)[0])
                letter, data = chr(packet[0]), packet[1:]
                if letter == "O":
                    told.append(("O", [data.hex()]))
                    self._negotiate(sock, script)
                    continue
                told.append((letter, _texts(letter, data)))
                if letter == "Q":
                    return
                if letter in "DA":
                    continue
                count = counts[letter] = counts.get(letter, 0) + 1
                answers = script.answers.get(letter, ())
                answer = answers[count - 1] if count <= len(answers) else CONTINUE
                if not script.events & _UNANSWERED.get(letter, 0):
                    for one in answer:
                        if one[:1] != b"!":
                            sock.sendall(struct.pack("!I", len(one)) + one)
                        elif one == b"!close":
                            sock.shutdown(socket.SHUT_RDWR)
                            return
                        elif one == b"!wait":
                            stream.read(1)
                            return
                        elif one == b"!\0":
                            sock.sendall(b"\0\0\0\0c")
                        else:
                            sock.sendall(one[1:2] + b"\xff\xff\xff" + b"c")

    def _negotiate(self, sock: socket.socket, script: Script) -> None:
        answer = script.negotiation
        if answer is None:
            answer = b"O" + struct.pack("!III", script.version, script.actions, script.events)
            answer += script.symbols
        if answer == b"!close":
            sock.shutdown(socket.SHUT_RDWR)
        else:
            sock.sendall(struct.pack("!I", len(answer)) + answer)


def _texts(letter: str, data: bytes) -> list[str]:
    if letter == "D":
        pairs = data[1:].split(b"\0")[:-1]
        names = [pair.decode("utf-8", "replace") for pair in pairs]
        return [
            chr(data[0]),
            *(f"{name}={value}" for name, value in zip(names[::2], names[1::2], strict=True)),
        ]
    if letter == "C":
        name, _, rest = data.partition(b"\0")
        return [name.decode(), chr(rest[0]), rest[3:].rstrip(b"\0").decode()]
    if letter == "B":
        return [data.decode("utf-8", "replace")]
    return [text.decode("utf-8", "replace") for text in data.split(b"\0")[:-1]]


_VARYING = [
    (re.compile(r"^i=\w+$"), "i=ID"),
    (re.compile(r"^(\{?(?:client|daemon)_port\}?)=\d+$"), r"\1=PORT"),
    (re.compile(r"^ ?\w{3}, \d+ \w{3} \d{4} .*"), "DATE"),
    (re.compile(r"^( ?)<[\d.]+\w+@(.*)>$"), r"\1<ID@\2>"),
    (re.compile(r"^(\{client_connections\})=\d+$"), r"\1=N"),
    (re.compile(r"^v=Postfix .*"), "v=Postfix"),
]


def comparable(told: list[list[tuple[str, list[str]]]]) -> list[list[tuple[str, list[str]]]]:
    """What two servers should have told alike."""

    def plain(text: str) -> str:
        for pattern, instead in _VARYING:
            text = pattern.sub(instead, text)
        return text

    return [[(letter, [plain(text) for text in texts]) for letter, texts in one] for one in told]
