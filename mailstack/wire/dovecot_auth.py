"""The Dovecot authentication protocol, version 1.2, both sides (doc.dovecot.org, Design/AuthProtocol).

One line is one command: words separated by TAB, ended by LF; inside a word `\\001` escapes NUL, TAB, CR, LF
and itself. Both sides open with `VERSION`; the client adds `CPID`, the server `SPID`, `CUID`, `COOKIE`, one
`MECH` per mechanism and `DONE`. Afterwards the client sends `AUTH` and `CONT`, the server `CONT`, `OK` and
`FAIL`, matched by request id, in any order.

Always: another major version, a line over `LINE_LIMIT` octets or a command without its needed words raises
`AuthProtocolError` from `next_event`, and the connection is of no more use. Unknown commands and unknown
parameters are passed over, as the protocol asks. SASL data that is not base64 fails its request, not the
connection.
"""

from __future__ import annotations

import binascii
import re
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, Literal

LINE_LIMIT = 16384
"""Octets of one line at the most (AUTH_CLIENT_MAX_LINE_LENGTH)."""
MAJOR, MINOR = 1, 2


class _Signal(Enum):
    NEED_DATA = "NEED_DATA"
    CLOSED = "CLOSED"


NEED_DATA: Final = _Signal.NEED_DATA
"""No event yet: receive more."""
CLOSED: Final = _Signal.CLOSED
"""The peer has closed its side; whatever was outstanding will not be answered."""
Signal = Literal[_Signal.NEED_DATA, _Signal.CLOSED]


class AuthProtocolError(Exception):
    """The peer does not speak this protocol."""


@dataclass(frozen=True, slots=True)
class Mechanism:
    """One mechanism on offer. `properties` are the protocol's words: plaintext, dictionary, anonymous…"""

    name: str
    properties: tuple[str, ...] = ()


PLAINTEXT_MECHANISMS = (Mechanism("PLAIN", ("plaintext",)), Mechanism("LOGIN", ("plaintext",)))

# ---- what a client hears


@dataclass(frozen=True, slots=True)
class Handshake:
    """The server's greeting is complete. `mechs`: names in upper case, in the server's order."""

    mechs: tuple[str, ...]
    offered: tuple[Mechanism, ...] = ()
    server_pid: str = ""
    connection: str = ""
    cookie: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Continue:
    """The server's challenge to request `id`."""

    id: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Ok:
    """Request `id` has succeeded for `user` (canonical form); `fields` are all parameters, unescaped."""

    id: int
    user: str
    fields: Mapping[str, str | None]


@dataclass(frozen=True, slots=True)
class Fail:
    """Request `id` has failed; with `temp` for a reason that is not the user's fault."""

    id: int
    user: str
    temp: bool
    reason: str
    fields: Mapping[str, str | None] = field(default_factory=dict)


ClientEvent = Handshake | Continue | Ok | Fail | Signal

# ---- what a server hears


@dataclass(frozen=True, slots=True)
class AuthRequest:
    """`AUTH`: begin an exchange. `params` lacks service and resp; a flag's value is None."""

    id: int
    mech: str
    service: str
    params: Mapping[str, str | None]
    resp: bytes | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class ContinueRequest:
    """`CONT`: the client's response in exchange `id`."""

    id: int
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Cancelled:
    """Exchange `id` is over without a result: the client gave up, or sent what is not base64."""

    id: int


ServerEvent = AuthRequest | ContinueRequest | Cancelled | Signal


class _Connection:
    """What both sides share: the line buffer and the version check."""

    def __init__(self) -> None:
        self._received = bytearray()
        self._searched = 0
        self._eof = False
        self._versioned = False
        self._out: list[bytes] = []

    def receive_data(self, data: bytes) -> None:
        """Octets from the peer; `b""` says that it has closed its side."""
        if data:
            self._received += data
        else:
            self._eof = True

    def data_to_send(self) -> bytes:
        """What is to be written now; may be empty."""
        data = b"".join(self._out)
        self._out.clear()
        return data

    def _send(self, *words: str) -> None:
        self._out.append("\t".join(map(escape, words)).encode() + b"\n")

    def _line(self) -> list[str] | None:
        """The next line's words (still escaped), or None while it is not whole."""
        end = self._received.find(b"\n", self._searched)
        if end < 0:
            self._searched = len(self._received)
            if self._searched > LINE_LIMIT:
                raise AuthProtocolError("line too long")
            return None
        if end > LINE_LIMIT:
            raise AuthProtocolError("line too long")
        line = bytes(self._received[:end])
        del self._received[: end + 1]
        self._searched = 0
        return line.decode("utf-8", "replace").split("\t")

    def _version(self, words: list[str]) -> None:
        if len(words) < 3 or not words[1] or not words[2]:
            raise AuthProtocolError("malformed VERSION")
        if words[1] != str(MAJOR):
            raise AuthProtocolError(f"protocol version {words[1][:10]} is not {MAJOR}")
        self._versioned = True


class AuthClientConnection(_Connection):
    """The side that asks: an SMTP server, say. `pid` tells the server who we are."""

    def __init__(self, pid: int) -> None:
        super().__init__()
        self._next_id = 0
        self._mechs: list[Mechanism] = []
        self._greeting: dict[str, str] = {}
        self._ready = False
        self._send("VERSION", str(MAJOR), str(MINOR))
        self._send("CPID", str(pid))

    def authenticate(
        self, mech: str, service: str, params: Mapping[str, str | None], resp: bytes | None
    ) -> int:
        """Begin an exchange and return its request id. `params`: rip, lip, secured… (None: a flag).

        `resp` is the initial response, not yet in base64; None when the client sent none.
        """
        self._next_id = self._next_id % 0xFFFFFFFF + 1
        words = ["AUTH", str(self._next_id), mech, f"service={service}"]
        words += [name if value is None else f"{name}={value}" for name, value in params.items()]
        if resp is not None:
            words.append("resp=" + b64encode(resp).decode())  # has to be the last one
        self._send(*words)
        return self._next_id

    def cont(self, id: int, data: bytes) -> None:  # noqa: A002 -- the protocol's word
        """Answer the challenge of exchange `id`."""
        self._send("CONT", str(id), b64encode(data).decode())

    def cancel(self, id: int) -> None:  # noqa: A002
        """Give exchange `id` up; the server does not answer."""
        self._send("CANCEL", str(id))

    def next_event(self) -> ClientEvent:
        """The next event, or a signal. Raises `AuthProtocolError`."""
        while (words := self._line()) is not None:
            event = self._command(words)
            if event is not None:
                return event
        return CLOSED if self._eof else NEED_DATA

    def _command(self, words: list[str]) -> ClientEvent | None:
        command = words[0]
        if command == "VERSION":
            self._version(words)
        elif command in ("SPID", "CUID", "COOKIE") and len(words) > 1:
            self._greeting[command] = unescape(words[1])
        elif command == "MECH" and len(words) > 1:
            self._mechs.append(Mechanism(words[1].upper(), tuple(word.lower() for word in words[2:])))
        elif command == "DONE" and not self._ready:
            if not self._versioned:
                raise AuthProtocolError("DONE before VERSION")
            self._ready = True
            return Handshake(
                tuple(mech.name for mech in self._mechs),
                tuple(self._mechs),
                self._greeting.get("SPID", ""),
                self._greeting.get("CUID", ""),
                self._greeting.get("COOKIE", ""),
            )
        elif command in ("CONT", "OK", "FAIL"):
            return self._reply(command, words)
        return None

    def _reply(self, command: str, words: list[str]) -> ClientEvent:
        number = _request_id(words)
        if command == "CONT":
            data = _decode(words[2] if len(words) > 2 else "")
            if data is None:
                raise AuthProtocolError("CONT is not base64")
            return Continue(number, data)
        fields = _parameters(words[2:])
        user = fields.get("user") or ""
        if command == "OK":
            return Ok(number, user, fields)
        temp = "temp" in fields or fields.get("code") == "temp_fail"
        return Fail(number, user, temp, fields.get("reason") or "", fields)


class AuthServerConnection(_Connection):
    """The side that knows. `pid`, `connection` and `cookie` (32 hex digits) go into the greeting."""

    def __init__(self, mechs: Sequence[Mechanism], *, pid: int, connection: int, cookie: str) -> None:
        super().__init__()
        self._offered = {mech.name for mech in mechs}
        self._send("VERSION", str(MAJOR), str(MINOR))
        for mech in mechs:
            self._send("MECH", mech.name, *mech.properties)
        self._send("SPID", str(pid))
        self._send("CUID", str(connection))
        self._send("COOKIE", cookie)
        self._send("DONE")

    def next_event(self) -> ServerEvent:
        """The next event, or a signal. Raises `AuthProtocolError`."""
        while (words := self._line()) is not None:
            event = self._command(words)
            if event is not None:
                return event
        return CLOSED if self._eof else NEED_DATA

    def challenge(self, id: int, data: bytes) -> None:  # noqa: A002
        """`CONT`: ask the client for more."""
        self._send("CONT", str(id), b64encode(data).decode())

    def ok(self, id: int, user: str, fields: Iterable[str] = ()) -> None:  # noqa: A002
        """`OK`: exchange `id` succeeded for `user`; `fields`: further parameters (`name=value` or a flag)."""
        self._send("OK", str(id), f"user={user}", *fields)

    def fail(
        self,
        id: int,  # noqa: A002
        user: str = "",
        *,
        temp: bool = False,
        reason: str = "",
        code: str = "",
    ) -> None:
        """`FAIL`: exchange `id` is over. Name the user where one is known, for the client's log."""
        words = ["FAIL", str(id)]
        if user:
            words.append(f"user={user}")
        if temp:
            words += ["temp", "code=temp_fail"]
        elif code:
            words.append(f"code={code}")
        if reason:
            words.append(f"reason={reason}")
        self._send(*words)

    def _command(self, words: list[str]) -> ServerEvent | None:
        command = words[0]
        if command == "VERSION":
            self._version(words)
            return None
        if not self._versioned:
            raise AuthProtocolError("the client did not begin with VERSION")
        if command == "AUTH":
            return self._auth(words)
        if command == "CONT":
            number = _request_id(words)
            data = _decode(words[2] if len(words) > 2 else "")
            if data is None:
                self.fail(number, reason="Invalid base64 data in continued response")
                return Cancelled(number)
            return ContinueRequest(number, data)
        if command == "CANCEL":
            return Cancelled(_request_id(words))
        return None

    def _auth(self, words: list[str]) -> ServerEvent | None:
        number = _request_id(words)
        if len(words) < 3:
            raise AuthProtocolError("AUTH without a mechanism")
        mech = unescape(words[2]).upper()
        params = _parameters(words[3:])
        service = params.pop("service", None)
        if not service:
            self.fail(number, reason="BUG: Authentication client sent no service")
            return None
        if mech not in self._offered:
            self.fail(number, reason="Unsupported authentication mechanism")
            return None
        resp: bytes | None = None
        if "resp" in params:
            resp = _decode(params.pop("resp") or "")
            if resp is None:
                self.fail(number, reason="Invalid base64 data in initial response")
                return None
        return AuthRequest(number, mech, service, params, resp)


_ESCAPES = {"\0": "0", "\x01": "1", "\t": "t", "\r": "r", "\n": "n"}
_UNESCAPES = {letter: char for char, letter in _ESCAPES.items()} | {"l": "\n"}
_SPECIAL = re.compile("[\0\x01\t\r\n]")
_ESCAPED = re.compile("\x01(.?)", re.DOTALL)


def escape(text: str) -> str:
    """`text` as one word of a line (str_tabescape)."""
    return _SPECIAL.sub(lambda match: "\x01" + _ESCAPES[match[0]], text)


def unescape(word: str) -> str:
    """The text of one word; never fails (str_tabunescape)."""
    if "\x01" not in word:
        return word
    return _ESCAPED.sub(lambda match: _UNESCAPES.get(match[1], match[1]), word)


def _parameters(words: Iterable[str]) -> dict[str, str | None]:
    result: dict[str, str | None] = {}
    for word in words:
        name, equals, value = unescape(word).partition("=")
        result[name] = value if equals else None
    return result


def _request_id(words: list[str]) -> int:
    if len(words) < 2 or not words[1].isascii() or not words[1].isdecimal() or len(words[1]) > 10:
        raise AuthProtocolError(f"{words[0]} without a request id")
    return int(words[1])


def _decode(text: str) -> bytes | None:
    """The octets behind base64 `text`, which may be empty, or None when it is not base64."""
    try:
        return binascii.a2b_base64(text.encode("ascii"), strict_mode=True) if text else b""
    except (binascii.Error, UnicodeEncodeError):
        return None
