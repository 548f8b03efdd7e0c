"""The client's side of SMTP and LMTP, without I/O (RFC 5321, RFC 2033, RFC 2920, RFC 3207, RFC 4954).

    connection = ClientConnection(Mode.LMTP)
    connection.receive_data(octets)
    reply = connection.next_event()         # a `Response` per command, in order; `NEED_DATA` in between
    connection.hello("mta.example.com")
    send(connection.data_to_send())

Commands are queued by methods and answered by `Response` events in the same order, so that any number may be
under way where the server announces PIPELINING (`connection.pipelining`); where it does not, the owner waits
for each. After an accepted `data()` the content goes out with `content(...)`; its `Response` comes once, in
LMTP once per accepted recipient, in their order.

Octets that are no SMTP reply raise `RemoteError`; the connection is of no use then.
"""

from __future__ import annotations

import binascii
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from mailstack.wire.smtp.address import quote
from mailstack.wire.smtp.command import encode_uxtext, encode_xtext
from mailstack.wire.smtp.content import stuff
from mailstack.wire.smtp.events import NEED_DATA, Closed, NeedData
from mailstack.wire.smtp.reply import Reply, parse_reply
from mailstack.wire.smtp.states import ClientState, Mode

LINE_LIMIT = 4096
"""Octets of one reply line at the most (RFC 5321 §4.5.3.1.5 asks for 512)."""
REPLY_LIMIT = 64 * 1024
"""Octets of all lines of one reply at the most."""

GREETING = "greeting"
CONTENT = "content"
CHUNK = "chunk"
"""Names in `Response.verb` beside those of commands; replies to `chunk` are `CONTENT`."""


class RemoteError(Exception):
    """The server does not speak the protocol; `str()` says how."""


class LocalError(Exception):
    """The owner has asked for something the state does not allow."""


@dataclass(frozen=True, slots=True)
class Response:
    """One reply. `verb`: the command, `GREETING` or `CONTENT`; `argument`: its address or name.

    For the content of an LMTP transaction `argument` is the recipient that the reply is about.
    """

    verb: str
    argument: str
    reply: Reply


class ClientConnection:
    """One server, from greeting to close."""

    __slots__ = (
        "_accepted",
        "_buffer",
        "_eof",
        "_lines",
        "_out",
        "_pending",
        "_reply_size",
        "extensions",
        "mode",
        "quoting",
        "reply_filter",
        "state",
    )

    def __init__(self, mode: Mode = Mode.SMTP) -> None:
        self.mode = mode
        self.state = ClientState.GREETING
        self.extensions: dict[str, str] = {}
        """What EHLO or LHLO announced: keyword in upper case -> its parameters."""
        self.quoting = True
        """Local parts are quoted where RFC 5321 §4.1.2 asks for it."""
        self.reply_filter: Callable[[bytes], bytes] | None = None
        """What each line of a reply, without its end, is taken for."""
        self._buffer = b""
        self._eof = False
        self._lines: list[bytes] = []
        self._reply_size = 0
        self._out: list[bytes] = []
        self._pending: deque[tuple[str, str]] = deque([(GREETING, "")])
        self._accepted: list[str] = []

    # ---- octets in and out

    def receive_data(self, data: bytes) -> None:
        """Take octets from the server; `b""` says that it has closed its side."""
        if data:
            self._buffer = self._buffer + data if self._buffer else data
        else:
            self._eof = True

    def data_to_send(self) -> list[bytes]:
        """What has to be sent, once, as parts (content parts are passed through, not copied together)."""
        parts = self._out
        self._out = []
        return parts

    # ---- what the server has announced

    @property
    def pipelining(self) -> bool:
        """Commands may be sent without waiting (RFC 2920)."""
        return "PIPELINING" in self.extensions

    @property
    def chunking(self) -> bool:
        """A message may be sent with `chunk`."""
        return "CHUNKING" in self.extensions

    @property
    def dsn(self) -> bool:
        """The server takes RET, ENVID, NOTIFY and ORCPT (RFC 3461)."""
        return "DSN" in self.extensions

    @property
    def size_limit(self) -> int:
        """The largest message the server takes, in octets; 0: it says nothing or sets no limit (RFC 1870)."""
        value = self.extensions.get("SIZE", "")
        return int(value) if value.isascii() and value.isdigit() else 0

    @property
    def auth_mechanisms(self) -> tuple[str, ...]:
        """SASL mechanisms offered, in upper case, in the server's order."""
        return tuple(self.extensions.get("AUTH", "").upper().split())

    @property
    def pending(self) -> int:
        """Replies that are still to come."""
        return len(self._pending)

    @property
    def accepted(self) -> tuple[str, ...]:
        """Recipients accepted so far in this transaction, in order."""
        return tuple(self._accepted)

    # ---- commands

    def hello(self, name: str, *, helo: bool = False) -> None:
        """EHLO (LHLO in LMTP); with `helo`, the old HELO for servers that refuse EHLO."""
        verb = "LHLO" if self.mode is Mode.LMTP else "HELO" if helo else "EHLO"
        self.extensions = {}
        self._command(verb, name, f"{verb} {name}")

    def starttls(self) -> None:
        """STARTTLS. After its 220 the owner shakes hands, calls `tls_started` and says hello again."""
        self._command("STARTTLS", "", "STARTTLS")

    def tls_started(self) -> None:
        """The handshake is over: what was announced in plain text counts no more (RFC 3207 §4.2)."""
        if self.state is not ClientState.TLS:
            raise LocalError("STARTTLS has not been accepted")
        self.state = ClientState.READY
        self.extensions = {}
        self._buffer = b""

    def auth(self, mechanism: str, initial: bytes | None = None) -> None:
        """AUTH, with an initial response where one is given. A 334 reply asks for `auth_response`."""
        text = f"AUTH {mechanism}"
        if initial is not None:
            text += " " + (binascii.b2a_base64(initial, newline=False).decode() or "=")
        self._command("AUTH", mechanism, text)

    def auth_response(self, data: bytes | None) -> None:
        """Answer a challenge; None cancels the exchange."""
        line = b"*" if data is None else binascii.b2a_base64(data, newline=False)
        self._command("AUTH", "", line.decode())

    def mail(
        self,
        sender: str,
        *,
        size: int = 0,
        body: str = "",
        smtputf8: bool = False,
        ret: str = "",
        envid: str = "",
        auth: str = "",
    ) -> None:
        """MAIL FROM. Parameters that the server has not announced are left out, SMTPUTF8 excepted.

        `envid` is what ENVID stands for, not in xtext (RFC 3461 §4.4); `auth` is as it stands (RFC 4954 §5).
        """
        text = f"MAIL FROM:<{quote(sender) if self.quoting else sender}>"
        if size and "SIZE" in self.extensions:
            text += f" SIZE={size}"
        if body and "8BITMIME" in self.extensions:
            text += f" BODY={body}"
        if (ret or envid) and "DSN" in self.extensions:
            text += f" ENVID={encode_xtext(envid)}" if envid else ""
            text += f" RET={ret}" if ret else ""
        if auth:
            text += f" AUTH={auth}"
        if smtputf8:
            text += " SMTPUTF8"
        self._accepted.clear()
        self._command("MAIL", sender, text)

    def rcpt(self, recipient: str, *, notify: str = "", orcpt: str = "") -> None:
        """RCPT TO. `orcpt` is `type;address`, the address not in xtext; it and `notify` are left out where
        the server has not announced DSN (RFC 3461 §5.2.2)."""
        text = f"RCPT TO:<{quote(recipient) if self.quoting else recipient}>"
        if (orcpt or notify) and "DSN" in self.extensions:
            text += f" ORCPT={_coded(orcpt)}" if orcpt else ""
            text += f" NOTIFY={notify}" if notify else ""
        self._command("RCPT", recipient, text)

    def xforward(self, attributes: str) -> None:
        """XFORWARD, with `NAME=value` pairs, values in xtext."""
        self._command("XFORWARD", "", f"XFORWARD {attributes}")

    def data(self) -> None:
        """DATA."""
        self._command("DATA", "", "DATA")

    def content(self, parts: Iterable[bytes]) -> None:
        """The message after 354: parts whose lines end in CRLF, cut anywhere; dots are stuffed here."""
        if self.state is not ClientState.CONTENT:
            raise LocalError("DATA has not been accepted")
        self.state = ClientState.READY
        self._out.extend(stuff(parts))
        if self.mode is Mode.LMTP:
            self._pending.extend((CONTENT, recipient) for recipient in self._accepted)
            self._accepted.clear()
        else:
            self._pending.append((CONTENT, ""))

    def chunk(self, content: bytes) -> None:
        """BDAT: the whole message in one chunk (RFC 3030). It may go out behind MAIL and RCPT at once.

        Answered as content is; in LMTP, once when the server has accepted no recipient.
        """
        if self.state is not ClientState.READY:
            raise LocalError("the connection is not ready")
        self._pending.append((CHUNK, ""))
        self._out.append(b"BDAT %d LAST\r\n" % len(content))
        self._out.append(content)

    def rset(self) -> None:
        """RSET."""
        self._accepted.clear()
        self._command("RSET", "", "RSET")

    def noop(self) -> None:
        """NOOP."""
        self._command("NOOP", "", "NOOP")

    def quit(self) -> None:
        """QUIT."""
        self._command("QUIT", "", "QUIT")

    def _command(self, verb: str, argument: str, line: str) -> None:
        if self.state is ClientState.CLOSED:
            raise LocalError("the connection is over")
        if "\r" in line or "\n" in line or "\0" in line:
            raise LocalError("a command is one line")
        self._pending.append((verb, argument))
        self._out.append(line.encode() + b"\r\n")

    # ---- events

    def next_event(self) -> Response | Closed | NeedData:
        """The reply to the oldest command that has none, `Closed` or `NEED_DATA`. Raises `RemoteError`."""
        reply = self._next_reply()
        if reply is None:
            if self._eof:
                self.state = ClientState.CLOSED
                return Closed()
            return NEED_DATA
        if not self._pending:
            if reply.code == 421:  # RFC 5321 §3.8: a server may say so at any time
                self.state = ClientState.CLOSED
                return Closed()
            raise RemoteError(f"a reply to no command: {reply}")
        verb, argument = self._pending.popleft()
        if verb is CHUNK:
            verb, argument = CONTENT, self._first_of_chunk()
        self._digest(verb, argument, reply)
        return Response(verb, argument, reply)

    def _first_of_chunk(self) -> str:
        """Whose the reply is: in LMTP each accepted recipient has one to come, and this is the first."""
        if self.mode is Mode.SMTP or not self._accepted:
            return ""
        first, *others = self._accepted
        self._pending.extendleft((CONTENT, recipient) for recipient in reversed(others))
        self._accepted.clear()
        return first

    def _digest(self, verb: str, argument: str, reply: Reply) -> None:
        if verb == GREETING:
            self.state = ClientState.READY
        elif verb in ("EHLO", "LHLO") and reply.positive:
            self.extensions = _extensions(reply)
        elif verb == "RCPT" and reply.positive:
            self._accepted.append(argument)
        elif verb == "DATA" and reply.code == 354:
            self.state = ClientState.CONTENT
        elif verb == "STARTTLS" and reply.code == 220:
            # Octets behind the reply came in plain text, from whoever sits in between.
            self._buffer = b""
            self.state = ClientState.TLS
        elif verb == "QUIT" or reply.code == 421:
            self.state = ClientState.CLOSED

    def _next_reply(self) -> Reply | None:
        while True:
            end = self._buffer.find(b"\n")
            if end < 0:
                if len(self._buffer) > LINE_LIMIT:
                    raise RemoteError("a reply line is too long")
                return None
            line = self._buffer[:end].removesuffix(b"\r")
            self._buffer = self._buffer[end + 1 :]
            self._reply_size += len(line)
            if len(line) > LINE_LIMIT or self._reply_size > REPLY_LIMIT:
                raise RemoteError("a reply is too long")
            if self.reply_filter is not None:
                line = self.reply_filter(line)
            self._lines.append(line)
            if line[3:4] != b"-":
                break
        lines, self._lines, self._reply_size = self._lines, [], 0
        try:
            return parse_reply(lines)
        except ValueError as error:
            raise RemoteError(str(error)) from None


def _coded(orcpt: str) -> str:
    kind, _, address = orcpt.partition(";")
    return f"{kind};{(encode_uxtext if kind.lower() == 'utf-8' else encode_xtext)(address)}"


def _extensions(reply: Reply) -> dict[str, str]:
    """The keywords of an EHLO reply; `AUTH=PLAIN` of old servers is read as `AUTH PLAIN`."""
    found: dict[str, str] = {}
    for line in reply.text.split("\n")[1:]:
        keyword, _, parameters = line.strip().partition(" ")
        if keyword.upper().startswith("AUTH="):
            found.setdefault("AUTH", f"{keyword[5:]} {parameters}".strip())
        else:
            found[keyword.upper()] = parameters.strip()
    return found
