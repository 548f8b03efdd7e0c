"""An IMAP conversation, one command at a time (RFC 9051, RFC 3501).

Untagged responses are looked at as they come, whichever command brought them: what matters here are message
data, counts and whether something has arrived.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Sequence
from dataclasses import dataclass

from mailstack.client.channel import Channel
from mailstack.client.endpoints import Endpoints
from mailstack.client.errors import ClientError
from mailstack.wire.imap.tokens import Cursor as Tokens
from mailstack.wire.imap.tokens import ParseError
from mailstack.wire.sasl import plain_initial

_LITERAL = re.compile(rb"\{([0-9]{1,19})\}\Z")
_RESPONSE = re.compile(rb"\* (?:([0-9]+) )?([A-Z]+)(?: (.*))?\Z", re.IGNORECASE | re.DOTALL)
_ITEM = re.compile(rb"([A-Z0-9.]+(?:\[[^\]]*\](?:<[0-9]+>)?)?) ", re.IGNORECASE)
_CODE = re.compile(rb"\[(UIDVALIDITY|UIDNEXT) ([0-9]+)\]", re.IGNORECASE)
_STATUS = re.compile(rb"([A-Z]+) ([0-9]+)", re.IGNORECASE)
RESPONSE_LIMIT = 1 << 30
"""Octets of one response at the most: a whole message and a bit."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """The data of one message; what was not asked for is empty. `body` is the one BODY[…] asked for."""

    uid: int
    flags: tuple[str, ...]
    internal_date: str
    size: int
    body: bytes


@dataclass(frozen=True, slots=True)
class _Response:
    """One response; each literal stands in `text` as a NUL."""

    text: bytes
    literals: Sequence[bytes]


class Conversation:
    """One logged-in connection. Every method raises `ClientError` when the server says no or goes away."""

    def __init__(self, channel: Channel) -> None:
        self.arrived = False
        """The server has told of new messages (EXISTS) since this was last set to False."""
        self._channel = channel
        self._buffer = bytearray()
        self._count = 0
        self._capabilities: frozenset[bytes] = frozenset()

    @classmethod
    def open(cls, endpoints: Endpoints, user: str) -> Conversation:
        """Connect, with TLS verified where the stack has it, and log in."""
        wanted = ("imaps", "imap") if endpoints.tls else ("imap",)
        protocol, _ = endpoints.port(*wanted)
        conversation = cls(Channel(endpoints, protocol))
        try:
            conversation._begin(endpoints, user)
        except BaseException:
            conversation.close()
            raise
        return conversation

    def _begin(self, endpoints: Endpoints, user: str) -> None:
        greeting = self._next()
        if not greeting.text.upper().startswith(b"* OK"):
            raise ClientError("refused", f"{self._channel.where}: {_words(greeting.text)}")
        if endpoints.tls and not self._channel.secured:
            self.run(b"STARTTLS")
            if self._buffer:
                # What came before the handshake is whoever's in between (CVE-2011-0411).
                raise ClientError("protocol", f"{self._channel.where} spoke before the handshake")
            self._channel.start_tls()
        self.run(b"CAPABILITY")
        initial = binascii.b2a_base64(plain_initial(user, endpoints.password(user)), newline=False)
        if b"SASL-IR" in self._capabilities:
            self.run(b"AUTHENTICATE PLAIN " + initial, what=f"log in as {user}")
        else:
            self.run(b"AUTHENTICATE PLAIN", answer=initial, what=f"log in as {user}")

    # ---- commands

    def run(self, command: bytes, *, answer: bytes = b"", what: str = "") -> list[_Response]:
        """Send a command, wait for its end; `answer` replies to a continuation request."""
        tag = self._send(command)
        untagged: list[_Response] = []
        while True:
            response = self._next()
            if response.text.startswith(b"+"):
                self._channel.send([answer, b"\r\n"])
            elif response.text.startswith(tag + b" "):
                status = response.text[len(tag) + 1 :]
                if status[:2].upper() != b"OK":
                    name = what or " ".join(command.decode("utf-8", "replace").split()[:2])
                    raise ClientError("refused", f"{name}: {status.decode('utf-8', 'replace')}")
                return untagged
            else:
                self._notice(response)
                untagged.append(response)

    def select(self, command: bytes) -> tuple[int, int]:
        """SELECT or EXAMINE; UIDVALIDITY and UIDNEXT."""
        codes = {}
        for response in self.run(command):
            for name, value in _CODE.findall(response.text):
                codes[name.upper()] = int(value)
        try:
            return codes[b"UIDVALIDITY"], codes[b"UIDNEXT"]
        except KeyError:
            raise ClientError("protocol", f"{self._channel.where} gives no UIDVALIDITY and UIDNEXT") from None

    def status(self, mailbox: bytes, items: Sequence[str]) -> dict[str, int]:
        """STATUS of a mailbox: item -> number."""
        found: dict[str, int] = {}
        for response in self.run(b"STATUS %b (%b)" % (mailbox, " ".join(items).encode())):
            if response.text[:9].upper() == b"* STATUS ":
                for name, value in _STATUS.findall(response.text.rpartition(b"(")[2]):
                    found[name.decode().upper()] = int(value)
        return found

    def fetch(self, uids: bytes, items: bytes) -> list[Fetched]:
        """UID FETCH; messages that are not there are no error."""
        found = []
        for response in self.run(b"UID FETCH %b %b" % (uids, items)):
            match = _RESPONSE.match(response.text)
            if match is not None and match[2].upper() == b"FETCH":
                try:
                    data = _fetched(Tokens(match[3] or b"", response.literals))
                except ParseError as error:
                    raise ClientError("protocol", f"{self._channel.where}: bad FETCH data: {error}") from None
                if data is not None:
                    found.append(data)
        return found

    def idle(self, deadline: float) -> bool:
        """Wait until the server tells of something new; False when `deadline` (monotonic) passes first."""
        if b"IDLE" not in self._capabilities:
            raise ClientError("not-offered", f"{self._channel.where} does not offer IDLE")
        tag = self._send(b"IDLE")
        try:
            while not self.arrived:
                self._notice(self._next(deadline))
        except TimeoutError:
            pass
        self._channel.send([b"DONE\r\n"])
        while not (response := self._next()).text.startswith(tag + b" "):
            self._notice(response)
        return self.arrived

    def log_out(self) -> None:
        """Say good-bye; a server that has gone already is not an error."""
        try:
            self._send(b"LOGOUT")
        except ClientError:
            pass

    def close(self) -> None:
        """Close at once."""
        self._channel.close()

    # ---- octets

    def _send(self, command: bytes) -> bytes:
        self._count += 1
        tag = b"M%d" % self._count
        self._channel.send([tag, b" ", command, b"\r\n"])
        return tag

    def _notice(self, response: _Response) -> None:
        match = _RESPONSE.match(response.text)
        if match is None:
            return
        kind = match[2].upper()
        if kind == b"EXISTS":
            self.arrived = True
        elif kind == b"CAPABILITY":
            self._capabilities = frozenset((match[3] or b"").upper().split())
        elif kind == b"BYE":
            raise ClientError(
                "connection-lost", f"{self._channel.where}: {_words(response.text)}", unreachable=True
            )

    def _next(self, deadline: float | None = None) -> _Response:
        """The next response, whole. Raises `TimeoutError` when `deadline` passes, and keeps what has come."""
        while (response := self._cut()) is None:
            data = self._channel.receive(deadline)
            if not data:
                raise ClientError(
                    "connection-lost", f"{self._channel.where} closed the connection", unreachable=True
                )
            self._buffer += data
            if len(self._buffer) > RESPONSE_LIMIT:
                raise ClientError("protocol", f"{self._channel.where}: a response is too long")
        return response

    def _cut(self) -> _Response | None:
        """Take one response off the buffer, if it is there to its end."""
        text = bytearray()
        literals: list[bytes] = []
        start = 0
        while True:
            end = self._buffer.find(b"\r\n", start)
            if end < 0:
                return None
            line = bytes(self._buffer[start:end])
            match = _LITERAL.search(line)
            if match is None:
                text += line
                del self._buffer[: end + 2]
                return _Response(bytes(text), literals)
            size = int(match[1])
            if len(self._buffer) < end + 2 + size:
                return None
            text += line[: match.start()] + b"\0"
            literals.append(bytes(self._buffer[end + 2 : end + 2 + size]))
            start = end + 2 + size


def _fetched(tokens: Tokens) -> Fetched | None:
    """The parenthesised list of a FETCH response; None for one without UID, which nobody asked for."""
    uid = size = 0
    flags: tuple[str, ...] = ()
    internal_date = ""
    body = b""
    tokens.expect(b"(")
    while not tokens.take(b")"):
        match = _ITEM.match(tokens.text, tokens.at)
        if match is None:
            raise ParseError("no item")
        tokens.at = match.end()
        name = match[1].upper()
        if name == b"UID":
            uid = tokens.number()
        elif name == b"RFC822.SIZE":
            size = tokens.number()
        elif name == b"FLAGS":
            flags = tokens.flag_list()
        elif name == b"INTERNALDATE":
            internal_date = tokens.string().decode("ascii", "replace")
        elif name.startswith(b"BODY["):
            body = tokens.nstring() or b""
        else:
            raise ParseError(f"unexpected {name.decode()}")
        tokens.take(b" ")
    return Fetched(uid, flags, internal_date, size, body) if uid else None


def _words(text: bytes) -> str:
    return text.decode("utf-8", "replace").removeprefix("* ")
