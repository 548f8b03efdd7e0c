"""The server's side of POP3, sans-I/O.

Octets go in with `receive_data`, events come out of `next_event`; an event that waits is answered with `ok`,
`logged_in`, `error`, `listing` or `challenge`. The text of a message does not pass through here: after the
`ok` of RETR or TOP has been sent, its owner writes what `text.Stuffer` gives. The engine answers by itself
what is not well formed or not allowed in the state, so an owner sees only commands that can be carried out.

Always: any octets give events, never an exception; a line over its limit is answered once and skipped to its
end; nothing that came before STLS's handshake is read after it. A line may end in LF alone.
"""

from __future__ import annotations

import binascii
from base64 import b64encode
from collections.abc import Iterable

from mailstack.wire.pop3.events import NEED_DATA, Auth, AuthResponse, Closed, Command, Event, Refused
from mailstack.wire.pop3.states import COMMANDS, Arguments, State

LINE_LIMIT = 4096
"""Octets of one command (RFC 2449 §4 asks for 255; PASS and AUTH of real users are longer)."""
SASL_LIMIT = 12288
"""Octets of one response in base64 (RFC 5034 §4)."""
NUMBER_DIGITS = 10
UNKNOWN_LIMIT = 20
"""Commands that nobody understands, in a row, before the connection is closed."""


class LocalError(Exception):
    """The owner answered what was not asked."""


class ServerConnection:
    """One connection."""

    __slots__ = ("_buffer", "_eof", "_out", "_skipping", "_unknown", "_waiting", "state")

    def __init__(self) -> None:
        self.state = State.AUTHORIZATION
        self._buffer = b""
        self._eof = False
        self._out: list[bytes] = []
        self._skipping = False
        self._unknown = 0
        self._waiting = ""

    # ---- octets

    def receive_data(self, data: bytes) -> None:
        """Octets from the client; `b""` says that it has closed its side."""
        if not data:
            self._eof = True
        elif self.state is not State.TLS:
            self._buffer = self._buffer + data if self._buffer else data

    def data_to_send(self) -> bytes:
        """What is to be written now; may be empty."""
        data = b"".join(self._out)
        self._out.clear()
        return data

    # ---- replies

    def greet(self, text: str) -> None:
        """The banner."""
        self._line(f"+OK {text}")

    def ok(self, text: str = "") -> None:
        """`+OK`; after STLS a TLS handshake is expected, after QUIT nothing."""
        verb = self._answered()
        self._line(f"+OK {text}" if text else "+OK")
        if verb == "STLS":
            self.state = State.TLS
            self._buffer = b""
        elif verb == "QUIT":
            self.state = State.CLOSED

    def logged_in(self, text: str) -> None:
        """`+OK` to PASS or AUTH: the mailbox is open."""
        self._answered()
        self._line(f"+OK {text}")
        self.state = State.TRANSACTION

    def error(self, text: str, code: str = "") -> None:
        """`-ERR [CODE] text` (RFC 2449 §8, RFC 3206); a QUIT is over even so."""
        verb = self._answered()
        self._line(f"-ERR [{code}] {text}" if code else f"-ERR {text}")
        if verb == "QUIT":
            self.state = State.CLOSED
        elif self.state is State.SASL:
            self.state = State.AUTHORIZATION

    def listing(self, text: str, lines: Iterable[str]) -> None:
        """`+OK`, then lines of our own making (none begins with a dot), then the dot."""
        self._answered()
        self._out.append("\r\n".join([f"+OK {text}".rstrip(), *lines, ".\r\n"]).encode())

    def challenge(self, data: bytes) -> None:
        """`+ base64` (RFC 5034 §4); the response comes as `AuthResponse`."""
        self._answered()
        self._out.append(b"+ " + b64encode(data) + b"\r\n")
        self.state = State.SASL

    def say(self, text: str) -> None:
        """`-ERR text` that nobody asked for, and the end."""
        self._line(f"-ERR {text}")
        self.close()

    def tls_started(self) -> None:
        """The handshake that STLS announced is done (RFC 2595 §4: the state begins anew)."""
        if self.state is not State.TLS:
            raise LocalError("STLS was not accepted")
        self.state = State.AUTHORIZATION

    def close(self) -> None:
        """Read nothing more."""
        self.state = State.CLOSED
        self._buffer = b""

    # ---- events

    def next_event(self) -> Event:
        """The next event; call it until `NEED_DATA` or `Closed`. The event before must have been answered."""
        if self._waiting:
            raise LocalError(f"{self._waiting} has not been answered")
        if self.state is State.CLOSED:
            return Closed()
        if self.state is State.TLS:
            return Closed() if self._eof else NEED_DATA
        limit = SASL_LIMIT if self.state is State.SASL else LINE_LIMIT
        end = self._buffer.find(b"\n")
        if self._skipping:
            if end < 0:
                self._buffer = b""
                return Closed() if self._eof else NEED_DATA
            self._buffer = self._buffer[end + 1 :]
            self._skipping = False
            end = self._buffer.find(b"\n")
        if end < 0:
            if len(self._buffer) > limit:
                self._buffer = b""
                self._skipping = True
                return self._refuse("Command line too long.")
            return Closed() if self._eof else NEED_DATA
        line = self._buffer[:end].removesuffix(b"\r")
        self._buffer = self._buffer[end + 1 :]
        if len(line) > limit:
            return self._refuse("Command line too long.")
        if self.state is State.SASL:
            return self._response(line)
        return self._command(line)

    def _response(self, line: bytes) -> Event:
        if line == b"*":
            return self._refuse("Authentication aborted by client.")
        data = _base64(line)
        if data is None:
            return self._refuse("[AUTH] Invalid base64 data in continued response.")
        self._waiting = "AUTH"
        return AuthResponse(data)

    def _command(self, line: bytes) -> Event:
        try:
            text = line.decode()
        except UnicodeDecodeError:
            return self._refuse("Command is not UTF-8.")
        verb, space, rest = text.partition(" ")
        verb = verb.upper()
        arguments = COMMANDS[self.state].get(verb)
        if arguments is None:
            self._unknown += 1
            known = self.state is State.TRANSACTION and verb.isprintable()
            refused = self._refuse(f"Unknown command: {verb[:40]}" if known else "Unknown command.")
            if self._unknown >= UNKNOWN_LIMIT:
                self.say("Too many invalid commands.")
            return refused
        self._unknown = 0
        event = self._parse(verb, arguments, rest, bool(space))
        if not isinstance(event, Refused):
            self._waiting = verb
        return event

    def _parse(self, verb: str, arguments: Arguments, rest: str, given: bool) -> Event:
        match arguments:
            case Arguments.TEXT:
                if not rest or "\0" in rest:
                    return self._refuse(f"{verb} needs an argument.")
                return Command(verb, text=rest)
            case Arguments.SASL:
                return self._auth(rest.split())
            case Arguments.NONE:
                return self._refuse(f"{verb} takes no argument.") if rest.strip() else Command(verb)
            case Arguments.OPTIONAL_NUMBER if not rest.strip():
                return Command(verb)
        words = rest.split()
        wanted = 2 if arguments is Arguments.NUMBER_AND_LINES else 1
        if len(words) != wanted:
            return self._refuse(f"{verb} needs {arguments.value}.")
        numbers = [_number(word) for word in words]
        if numbers[0] is None or numbers[0] == 0 or numbers[-1] is None:
            shown = words[0] if numbers[0] in (None, 0) else words[-1]
            return self._refuse(f"Invalid message number: {_printable(shown[:20])}")
        return Command(verb, numbers[0], numbers[1] or 0 if wanted == 2 else 0)

    def _auth(self, words: list[str]) -> Event:
        if not words:
            return Auth("")
        if len(words) > 2:
            return self._refuse("AUTH needs a mechanism and at most an initial response.")
        initial: bytes | None = None
        if len(words) == 2:
            initial = b"" if words[1] == "=" else _base64(words[1].encode())
            if initial is None:
                return self._refuse("[AUTH] Invalid base64 data in initial response.")
        return Auth(words[0].upper(), initial)

    def _refuse(self, text: str) -> Refused:
        self._line(f"-ERR {text}")
        if self.state is State.SASL:
            self.state = State.AUTHORIZATION
        return Refused(text)

    def _answered(self) -> str:
        if not self._waiting:
            raise LocalError("nothing was asked")
        verb, self._waiting = self._waiting, ""
        return verb

    def _line(self, text: str) -> None:
        self._out.append(f"{text}\r\n".encode("utf-8", "replace"))


def _number(word: str) -> int | None:
    if word.isascii() and word.isdecimal() and len(word) <= NUMBER_DIGITS:
        return int(word)
    return None


def _base64(data: bytes) -> bytes | None:
    try:
        return binascii.a2b_base64(data, strict_mode=True) if data else b""
    except binascii.Error:
        return None


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in text)
