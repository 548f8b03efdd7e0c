"""The client's side of IMAP4rev1, sans-I/O: commands out, responses in (RFC 3501, RFC 9051).

    connection = ClientConnection()
    tag = connection.command(b"UID FETCH 1:* (UID FLAGS)")
    send(connection.data_to_send())
    connection.receive_data(octets)
    event = connection.next_event()         # `Untagged` …, then `Completed` with that tag, or `NEED_DATA`

Literals are taken out of a response: each stands in its text as one NUL, as `tokens.Cursor` reads it. The
greeting is an `Untagged` like any other. What the server announces with CAPABILITY, as a response or as a
code, is kept in `capabilities`.

Octets that are no response, and responses over `response_limit`, raise `RemoteError`; the connection is of no
use then. `LocalError` is a mistake of the owner.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from typing import Final

from mailstack.wire.imap.tokens import Cursor, ParseError

RESPONSE_LIMIT: Final = 1 << 30
"""Octets of one response with its literals, at the most: a message and a bit."""
STATUSES: Final = frozenset({"OK", "NO", "BAD", "BYE", "PREAUTH"})

_LITERAL = re.compile(rb"\{([0-9]{1,19})\}\Z")
_UNTAGGED = re.compile(rb"\* (?:([0-9]{1,19}) )?([A-Za-z][A-Za-z0-9.-]*)(?: (.*))?\Z", re.DOTALL)
_COMPLETED = re.compile(
    rb"([^\x00-\x20\x7f-\xff(){%*\"\\+]+) (OK|NO|BAD)(?: (.*))?\Z", re.DOTALL | re.IGNORECASE
)
_CAPABILITY_CODE = re.compile(rb"\[CAPABILITY ([^\]]*)\]", re.IGNORECASE)
_NUMBER_CODE = re.compile(rb"\[([A-Z]+) ([0-9]{1,19})\]", re.IGNORECASE)
_ITEM = re.compile(rb"([A-Z0-9.]+(?:\[[^\]]*\](?:<[0-9]+>)?)?) ", re.IGNORECASE)


class NeedData(Enum):
    """The engine can say nothing more before octets have come in."""

    NEED_DATA = "need data"


NEED_DATA: Final = NeedData.NEED_DATA


class RemoteError(Exception):
    """The server does not speak the protocol; `str()` says how."""


class LocalError(Exception):
    """The owner has asked for something that cannot be sent."""


@dataclass(frozen=True, slots=True)
class Untagged:
    """`* 3 EXISTS`: name `EXISTS`, number 3. `* OK …`: name `OK`. `text` is what follows the name."""

    name: str
    number: int | None
    text: bytes
    literals: tuple[bytes, ...] = ()

    @property
    def code(self) -> tuple[str, int] | None:
        """A response code that is a number: `("UIDNEXT", 42)`."""
        found = _NUMBER_CODE.match(self.text)
        return (found[1].decode().upper(), int(found[2])) if found else None


@dataclass(frozen=True, slots=True)
class Completed:
    """The end of a command; `status` is OK, NO or BAD, `text` the server's words with their response code."""

    tag: bytes
    status: str
    text: str


@dataclass(frozen=True, slots=True)
class Continuation:
    """`+ …`: the server waits for the rest of a command."""

    text: bytes


@dataclass(frozen=True, slots=True)
class Closed:
    """The server has closed its side: nothing follows."""


Event = Untagged | Completed | Continuation | Closed | NeedData


class ClientConnection:
    """One server, from greeting to close."""

    __slots__ = ("_buffer", "_count", "_eof", "_out", "capabilities", "response_limit")

    def __init__(self, response_limit: int = RESPONSE_LIMIT) -> None:
        self.capabilities: frozenset[str] = frozenset()
        """As last announced, in upper case."""
        self.response_limit = response_limit
        self._buffer = bytearray()
        self._count = 0
        self._eof = False
        self._out: list[bytes] = []

    # ---- octets in and out

    def receive_data(self, data: bytes) -> None:
        """Take octets from the server; `b""` says that it has closed its side."""
        if data:
            self._buffer += data
        else:
            self._eof = True

    def data_to_send(self) -> list[bytes]:
        """What has to be sent, once."""
        parts, self._out = self._out, []
        return parts

    def command(self, line: bytes) -> bytes:
        """Queue a command without its tag; return the tag that its `Completed` will carry."""
        if b"\r" in line or b"\n" in line or b"\0" in line:
            raise LocalError("a command is one line")
        self._count += 1
        tag = b"M%d" % self._count
        self._out.append(b"%b %b\r\n" % (tag, line))
        return tag

    def append(self, line: bytes, message: bytes) -> tuple[bytes, bool]:
        """Queue `APPEND …` with a literal at its end; its tag, and whether the message is on its way too.

        Without LITERAL+ (RFC 7888) it is not: `literal` sends it once the server has asked for it.
        """
        at_once = "LITERAL+" in self.capabilities
        tag = self.command(b"%b {%d%b}" % (line, len(message), b"+" if at_once else b""))
        if at_once:
            self.literal(message)
        return tag, at_once

    def literal(self, data: bytes) -> None:
        """Queue the literal that ends a command."""
        self._out += (data, b"\r\n")

    def answer(self, line: bytes) -> None:
        """Queue the answer to a `Continuation` (SASL's in base64), or `DONE` to end IDLE."""
        if b"\r" in line or b"\n" in line:
            raise LocalError("an answer is one line")
        self._out.append(line + b"\r\n")

    def tls_started(self) -> None:
        """The handshake is over: what was said in plain text counts no more (RFC 9051 §6.2.1).

        Octets that came before the handshake are whoever's in between (CVE-2011-0411): `RemoteError`.
        """
        self.capabilities = frozenset()
        if self._buffer:
            raise RemoteError("octets before the TLS handshake")

    # ---- events

    def next_event(self) -> Event:
        """The next response, `Closed` or `NEED_DATA`. Raises `RemoteError`."""
        cut = self._cut()
        if cut is None:
            if len(self._buffer) > self.response_limit:
                raise RemoteError("a response is too long")
            return Closed() if self._eof else NEED_DATA
        text, literals = cut
        if text.startswith(b"+"):
            return Continuation(text[1:].lstrip(b" "))
        found = _UNTAGGED.match(text)
        if found is not None:
            number = int(found[1]) if found[1] is not None else None
            event = Untagged(found[2].decode().upper(), number, found[3] or b"", literals)
            self._digest(event)
            return event
        found = _COMPLETED.match(text)
        if found is None:
            raise RemoteError(f"not a response: {text[:80]!r}")
        self._announced(found[3] or b"")
        return Completed(found[1], found[2].decode().upper(), (found[3] or b"").decode("utf-8", "replace"))

    def _digest(self, event: Untagged) -> None:
        if event.name == "CAPABILITY":
            self.capabilities = frozenset(event.text.decode("ascii", "replace").upper().split())
        elif event.name in STATUSES:
            self._announced(event.text)

    def _announced(self, text: bytes) -> None:
        found = _CAPABILITY_CODE.match(text)
        if found is not None:
            self.capabilities = frozenset(found[1].decode("ascii", "replace").upper().split())

    def _cut(self) -> tuple[bytes, tuple[bytes, ...]] | None:
        """Take one response off the buffer, once it is there to its end."""
        text = bytearray()
        literals: list[bytes] = []
        start = 0
        while True:
            end = self._buffer.find(b"\r\n", start)
            if end < 0:
                return None
            line = bytes(self._buffer[start:end])
            if b"\0" in line or b"\n" in line:
                raise RemoteError(f"not a response: {line[:80]!r}")
            found = _LITERAL.search(line)
            if found is None:
                text += line
                del self._buffer[: end + 2]
                return bytes(text), tuple(literals)
            size = int(found[1])
            if end + 2 + size > self.response_limit:
                raise RemoteError("a response is too long")
            if len(self._buffer) < end + 2 + size:
                return None
            text += line[: found.start()] + b"\0"
            literals.append(bytes(self._buffer[end + 2 : end + 2 + size]))
            start = end + 2 + size


@dataclass(frozen=True, slots=True)
class MessageData:
    """What one FETCH response says; an item that is not in it is empty. `body` is that of its one BODY[…]."""

    uid: int
    flags: tuple[str, ...]
    internal_date: str
    size: int
    body: bytes


def message_data(event: Untagged) -> MessageData:
    """Read UID, FLAGS, INTERNALDATE, RFC822.SIZE and BODY[…] of a FETCH response. Raises `RemoteError`."""
    try:
        return _message_data(Cursor(event.text, event.literals))
    except (ParseError, StopIteration) as error:
        raise RemoteError(f"bad FETCH data: {error}") from None


def _message_data(cursor: Cursor) -> MessageData:
    uid = size = 0
    flags: tuple[str, ...] = ()
    internal_date = ""
    body = b""
    cursor.expect(b"(")
    while not cursor.take(b")"):
        found = _ITEM.match(cursor.text, cursor.at)
        if found is None:
            raise ParseError("an item is missing")
        cursor.at = found.end()
        name = found[1].upper()
        if name == b"UID":
            uid = cursor.number()
        elif name == b"RFC822.SIZE":
            size = cursor.number()
        elif name == b"FLAGS":
            flags = cursor.flag_list()
        elif name == b"INTERNALDATE":
            internal_date = cursor.string().decode("ascii", "replace")
        elif name.startswith(b"BODY["):
            body = cursor.nstring() or b""
        else:
            raise ParseError(f"{name.decode()} was not asked for")
        if not cursor.take(b" ") and cursor.peek() != b")":
            raise ParseError("items run together")
    return MessageData(uid, flags, internal_date, size, body)
