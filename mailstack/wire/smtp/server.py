"""The server's side of SMTP and LMTP, without I/O (RFC 5321, RFC 2033, RFC 4954, RFC 3207).

    connection = ServerConnection(Mode.SMTP)
    connection.greet(Reply(220, "", "mail.example.com ESMTP"))
    connection.receive_data(octets)
    while (event := connection.next_event()) is not NEED_DATA:
        connection.reply(...)               # for the events that wait for one, see events.py
    send(connection.data_to_send())

The engine parses, keeps commands in sequence and answers what breaks the protocol by itself, in Postfix's
words; such an answer is reported as `Refused`. Whether an address or a client is welcome is its owner's to
say. Replies to pipelined commands gather and go out together (RFC 2920 §3.1).

Holds always: `receive_data` and `next_event` raise nothing whatever the octets are; a command line holds at
most `Limits.line` octets, an AUTH response `Limits.auth_line`; memory is bounded by one line plus what the
owner feeds before it asks for events. `LocalError` is a mistake of the owner.
"""

from __future__ import annotations

import binascii
from collections.abc import Callable
from dataclasses import dataclass

from mailstack.wire.smtp import command, events
from mailstack.wire.smtp.address import NOTHING_ODD
from mailstack.wire.smtp.content import ChunkReader, ContentReader
from mailstack.wire.smtp.events import NEED_DATA, Event
from mailstack.wire.smtp.reply import Reply
from mailstack.wire.smtp.states import (
    AFTER,
    AFTER_BDAT,
    BEFORE_HELLO,
    BEFORE_TLS,
    COMMANDS,
    ETRN_HELLO_FIRST,
    HELLO_FIRST,
    LMTP_COMMANDS,
    LMTP_NO_RECIPIENTS,
    NO_RECIPIENTS,
    OUT_OF_SEQUENCE,
    Mode,
    State,
)
from mailstack.wire.smtp.verbs import (
    BDAT_SYNTAX,
    NOT_IMPLEMENTED,
    READERS,
    CommandReaders,
    decode_base64,
    read_bdat,
)

SYNTAX = Reply(500, "5.5.2", "Error: bad syntax")
UTF8_SYNTAX = Reply(500, "5.5.2", "Error: bad UTF-8 syntax")
UNKNOWN = Reply(500, "5.5.2", "Error: command not recognized")
LINE_TOO_LONG = Reply(500, "5.5.2", "Error: line too long")
IGNORED = Reply(250, "2.0.0", "Ok")
FOREIGN = Reply(221, "2.7.0", "Error: I can break rules, too. Goodbye.")
MUST_STARTTLS = Reply(530, "5.7.0", "Must issue a STARTTLS command first")
NOT_ENABLED = Reply(503, "5.5.1", "Error: authentication not enabled")
AUTH_ABORTED = Reply(501, "5.7.0", "Authentication aborted")
AUTH_TOO_LONG = Reply(500, "5.5.6", "SASL response limit exceeded")
NO_CHUNKING = Reply(521, "5.5.1", "Error: command not implemented")
NULL_BDAT = Reply(551, "5.7.1", "Null BDAT request")
CHUNK_TOO_BIG = Reply(552, "5.3.4", "Chunk exceeds message size limit")
AUTH_BASE64 = Reply(535, "5.7.8", "Error: authentication failed: Invalid base64 data in continued response")

_QUOTED_LINE = 100
"""Characters of a refused line that are reported."""


class LocalError(Exception):
    """The owner has called something out of turn."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one connection, in octets; 0 is no limit for `message` only."""

    line: int = 2048
    """A command line without its CRLF (Postfix `line_length_limit`)."""
    auth_line: int = 12288
    """A response in an authentication exchange, in base64 (RFC 4954 §4)."""
    message: int = 0
    """Content as announced with SIZE and as received."""


DEFAULT_LIMITS = Limits()


class ServerConnection(CommandReaders):
    """One client, from greeting to close."""

    __slots__ = (
        "_awaiting",
        "_buffer",
        "_chunk_size",
        "_content",
        "_discarding",
        "_eof",
        "_last",
        "_left",
        "_out",
        "_position",
        "_recorded",
        "_replies_due",
        "_skipping",
        "argument",
        "asks_unknown",
        "auth_refusal",
        "bare_newline",
        "chunking",
        "commands",
        "denial",
        "footer",
        "foreign",
        "helo_required",
        "ignored",
        "mode",
        "recipients",
        "require_tls",
        "rewrite",
        "soft_bounce",
        "state",
        "stays",
        "transcript",
        "verp",
    )

    def __init__(
        self, mode: Mode = Mode.SMTP, limits: Limits = DEFAULT_LIMITS, *, helo_required: bool | None = None
    ) -> None:
        self.mode = mode
        self.limits = limits
        self.state = State.START
        self.hello = ""
        """The name the client gave, `""` before that."""
        self.helo_required = mode is Mode.LMTP if helo_required is None else helo_required
        self.require_tls = False
        """Only EHLO, STARTTLS, NOOP and QUIT are taken."""
        self.starttls_refusal: Reply | None = NOT_IMPLEMENTED
        """What STARTTLS is told; None where it is offered."""
        self.auth_refusal: Reply | None = NOT_ENABLED
        """What AUTH is told; None where it is offered."""
        self.commands = COMMANDS if mode is Mode.SMTP else LMTP_COMMANDS
        """What is known; see `ignore`."""
        self.ignored: frozenset[str] = frozenset()
        self.foreign: Callable[[str], bool] = command.is_foreign
        """Whether a line that is no command is of another protocol: it ends the session."""
        self.rewrite: Callable[[str], str] | None = None
        """What a command line becomes before it is looked at."""
        self.bare_newline = False
        """A command line has ended in a bare LF."""
        self.soft_bounce = False
        """Refusals are temporary: 4xx in place of 5xx (Postfix `soft_bounce`)."""
        self.footer: Callable[[Reply], Reply] | None = None
        """What a refusal becomes before it is sent."""
        self.denial: Reply | None = None
        """What every command but QUIT is told, where the client is not welcome."""
        self.chunking = True
        """BDAT is taken; otherwise it is the end, as nobody knows whether its octets will follow."""
        self.strict_paths = False
        """Addresses without angle brackets are refused (Postfix `strict_rfc821_envelopes`)."""
        self.allowed = NOTHING_ODD
        """Odd addresses that are taken all the same."""
        self.utf8 = True
        """SMTPUTF8 is offered."""
        self.strict_utf8 = True
        """A local part outside ASCII needs SMTPUTF8 (a domain always does)."""
        self.dsn = False
        """RET, ENVID, NOTIFY and ORCPT are taken (RFC 3461)."""
        self.verp: tuple[str, str] | None = None
        """Default delimiters and allowed ones of XVERP, for a client that may use it."""
        self.authenticated = False
        self.recipients = 0
        """Recipients accepted in this transaction."""
        self.stays = False
        """A greeting that is not positive does not end the session."""
        self.asks_unknown = False
        """What a command that is not known is told is the owner's to say."""
        self.argument = ""
        """What stood behind the verb of the last command."""
        self.transcript: list[bytes] | None = None
        """Where it is a list: what is said, in order, commands without their line ends, replies with theirs.
        Answers to challenges are left out."""
        self._buffer = b""
        self._position = 0
        self._out: list[bytes] = []
        self._recorded = 0
        """Replies in `_out` that stand in the transcript already."""
        self._awaiting = ""
        """The verb whose reply is due."""
        self._replies_due = 0
        self._content: ContentReader | ChunkReader | None = None
        self._left = 0
        """Octets of a BDAT chunk that are still to come."""
        self._chunk_size = 0
        """Octets that it was announced with."""
        self._last = True
        """They are the last, or the content came behind DATA."""
        self._discarding = False
        """A chunk has failed: those that follow it are read and thrown away."""
        self._skipping = False
        self._eof = False
        self._utf8 = False

    # ---- octets in and out

    def receive_data(self, data: bytes) -> None:
        """Take octets from the client; `b""` says that it has closed its side."""
        if not data:
            self._eof = True
        elif self.state in (State.TLS, State.CLOSED):
            return  # plain text behind STARTTLS, or behind the end: never read
        elif self._position >= len(self._buffer):
            self._buffer = data
            self._position = 0
        else:
            self._buffer = self._buffer[self._position :] + data
            self._position = 0

    def ignore(self, verbs: frozenset[str]) -> None:
        """Answer 250 to commands (upper case) and do nothing (Postfix `smtpd_noop_commands`)."""
        self.ignored = verbs
        self.commands -= verbs

    def data_to_send(self) -> bytes:
        """What has to be sent, once."""
        if not self._out:
            return b""
        data = self._out[0] if len(self._out) == 1 else b"".join(self._out)
        if self.transcript is not None:
            self.transcript += self._out[self._recorded :]
            self._recorded = 0
        self._out.clear()
        return data

    @property
    def pipelined(self) -> bool:
        """More has come in behind the command that waits for its reply."""
        return self._position < len(self._buffer)

    def pending(self, limit: int = 100) -> bytes:
        """The first octets of what has come in and has not been read yet."""
        return self._buffer[self._position : self._position + limit]

    # ---- replies

    def greet(self, reply: Reply) -> None:
        """Send the greeting; one that is not positive ends the session, unless there is a `denial`."""
        if self.state is not State.START:
            raise LocalError("the greeting has been sent")
        self._out.append(self._spoken(reply))
        self.state = State.IDLE
        if not reply.positive and self.denial is None and not self.stays:
            self.close()

    def reply(self, reply: Reply) -> None:
        """Answer the event that waits; 421 and 521 end the session (RFC 5321 §3.8, RFC 7504)."""
        verb = self._awaiting
        if not verb:
            raise LocalError("no command waits for a reply")
        if verb == "BDAT":
            if reply.positive:
                raise LocalError("a chunk is accepted by take_chunk")
            self._refuse_chunk(reply)
            if reply.code in (421, 521):
                self.close()
            return
        self._out.append(reply.encode() if self.footer is None else self._spoken(reply))
        if verb == "CONTENT" and self._last:
            self._replies_due -= 1
            if self._replies_due <= 0:
                self._awaiting = ""
                self._end_transaction()
        else:
            self._awaiting = ""
            self._advance(verb, reply)
        if reply.code in (421, 521):
            self.close()

    def challenge(self, data: bytes) -> None:
        """Answer AUTH, or a response to it, with a challenge (RFC 4954 §4)."""
        if self._awaiting != "AUTH":
            raise LocalError("no authentication goes on")
        self._awaiting = ""
        self._out.append(b"334 " + binascii.b2a_base64(data, newline=False) + b"\r\n")
        self.state = State.AUTH

    def take_chunk(self) -> None:
        """Accept the chunk that BDAT announces: its octets follow as `Content`."""
        if self._awaiting != "BDAT":
            raise LocalError("no chunk has been announced")
        self._awaiting = ""
        self.state = State.CHUNK
        if self._content is None:
            self._content = ChunkReader(self.limits.message)

    def say(self, reply: Reply) -> None:
        """Send a reply that answers nothing (421 on a time-out or at shutdown) and end the session."""
        self._out.append(self._spoken(reply))
        self.close()

    def close(self) -> None:
        """Read nothing more; what is queued may still be sent."""
        self.state = State.CLOSED
        self._awaiting = ""
        self._buffer = b""
        self._position = 0
        self._content = None

    def restart(self, greeting: Reply) -> None:
        """Answer XCLIENT with another greeting: the session begins anew, as another client's."""
        if self._awaiting != "XCLIENT":
            raise LocalError("no XCLIENT waits for a reply")
        self._awaiting = ""
        self._out.append(self._spoken(greeting))
        self.hello = ""
        self.authenticated = False
        self._end_transaction()
        if not greeting.positive and self.denial is None and not self.stays:
            self.close()

    def tls_started(self) -> None:
        """The handshake is over: everything learnt in plain text is forgotten (RFC 3207 §4.2)."""
        if self.state is not State.TLS:
            raise LocalError("STARTTLS has not been accepted")
        self._buffer = b""
        self._position = 0
        self._end_transaction()
        self.state = State.IDLE
        self.hello = ""

    def _spoken(self, reply: Reply) -> bytes:
        if self.footer is not None and reply.code >= 400:
            reply = self.footer(reply)
        return reply.encode()

    def _advance(self, verb: str, reply: Reply) -> None:
        if verb == "AUTH":
            self.authenticated = reply.code == 235
            self.state = State.READY
            return
        if not reply.positive:
            if verb in ("EHLO", "HELO", "LHLO"):
                self.hello = ""
            elif verb == "CONTENT":
                self._discard()
            return
        if verb == "RCPT":
            self.recipients += 1
        elif verb == "DATA":
            self._content = ContentReader(self.limits.message)
            self._last = True
        elif verb == "CONTENT":
            self.state = State.CHUNKS
        elif verb in ("EHLO", "HELO", "LHLO", "RSET"):
            self._end_transaction()
        elif verb == "STARTTLS":
            self._buffer = b""
            self._position = 0
        after = AFTER.get((self.state, verb))
        if after is State.CLOSED:
            self.close()
        elif after is not None:
            self.state = after

    def _end_transaction(self) -> None:
        self.recipients = 0
        self._content = None
        self._discarding = False
        self._utf8 = False
        if self.state is not State.CLOSED:
            self.state = State.READY if self.hello else State.IDLE

    # ---- events

    def next_event(self) -> Event:
        """The next thing the client has said, or `NEED_DATA`. Raises `LocalError` while a reply is due."""
        if self._awaiting:
            raise LocalError(f"{self._awaiting} has not been answered")
        state = self.state
        if state is State.CONTENT:
            return self._next_content()
        if state is State.DONE:
            return self._content_end()
        if state is State.CLOSED:
            return events.Closed()
        if state is State.START or state is State.TLS:
            return events.Closed() if self._eof else NEED_DATA
        if state is State.CHUNK:
            return self._next_of_chunk()
        if self._left:
            self._skip()
        line = self._next_line()
        if line is None:
            if self._eof:
                self.close()
                return events.Closed()
            return NEED_DATA
        if line is LINE_TOO_LONG:
            return self._too_long()
        assert isinstance(line, bytes)
        if self.state is State.AUTH:
            return self._auth_response(line)
        return self._command(line)

    def _next_line(self) -> bytes | Reply | None:
        """One line without its end; `LINE_TOO_LONG` once such a line is over; None while there is none."""
        buffer, start = self._buffer, self._position
        if start >= len(buffer):
            return None
        limit = self.limits.auth_line if self.state is State.AUTH else self.limits.line
        end = buffer.find(b"\n", start)
        if end < 0:
            if len(buffer) - start > limit + 1:
                # Keep nothing of it: the reply goes out when its end has been found.
                self._buffer, self._position = b"", 0
                self._skipping = True
            return None
        self._position = end + 1
        if end > start and buffer[end - 1] == 0x0D:
            end -= 1
        else:
            self.bare_newline = True
        if self._skipping or end - start > limit:
            self._skipping = False
            return LINE_TOO_LONG
        return buffer[start:end]

    def _too_long(self) -> Event:
        if self.state is State.AUTH:
            self.state = State.READY
            return self._refuse("AUTH", AUTH_TOO_LONG, "")
        return self._refuse("", LINE_TOO_LONG, "")

    def _next_content(self) -> Event:
        reader = self._content
        assert isinstance(reader, ContentReader)
        data = self._buffer[self._position :] if self._position else self._buffer
        piece, used = reader.feed(data) if data else (b"", -1)
        if used < 0:
            self._buffer, self._position = b"", 0
            if piece:
                return events.Content(piece)
            if self._eof:
                self.close()
                return events.Closed()
            return NEED_DATA
        self._buffer, self._position = data, used
        self.state = State.DONE
        if piece:
            return events.Content(piece)
        return self._content_end()

    def _next_of_chunk(self) -> Event:
        reader = self._content
        assert isinstance(reader, ChunkReader)
        data = self._buffer[self._position : self._position + self._left]
        self._position += len(data)
        self._left -= len(data)
        if not data and self._left:
            if self._eof:
                self.close()
                return events.Closed()
            return NEED_DATA
        piece = reader.feed(data, last=self._last and not self._left)
        if not self._left:
            self.state = State.DONE
        return events.Content(piece) if piece else self.next_event()

    def _skip(self) -> None:
        """Throw away what has come of a chunk that nobody wants."""
        skipped = min(self._left, len(self._buffer) - self._position)
        self._position += skipped
        self._left -= skipped

    def _discard(self) -> None:
        """A chunk has failed: the last one ends the transaction; behind another one only RSET, or the last
        one, does (RFC 3030 §2)."""
        if self._last:
            self._end_transaction()
            return
        self._discarding = True
        if self.state in (State.RCPT, State.DONE):
            self.state = State.CHUNKS

    def _refuse_chunk(self, reply: Reply) -> None:
        """Say no to BDAT. The last chunk has one reply for each accepted recipient in LMTP, also when it is
        refused as a whole: that is how many a client waits for (RFC 2033 §4.2)."""
        self._awaiting = ""
        times = self.recipients if self._last and self.mode is Mode.LMTP else 1
        self._out.append(self._spoken(reply) * max(times, 1))
        self._discard()

    def _content_end(self) -> Event:
        reader = self._content
        assert reader is not None
        self._awaiting = "CONTENT"
        if not self._last:
            return events.ChunkEnd(self._chunk_size)
        self._replies_due = self.recipients if self.mode is Mode.LMTP else 1
        return events.ContentEnd(reader.size, reader.too_big, reader.bare_newline)

    def _refuse(self, verb: str, reply: Reply, line: str) -> Event:
        if self.soft_bounce:
            reply = reply.softened()
        self._out.append(self._spoken(reply))
        shown = _escaped(line[:_QUOTED_LINE]) if reply is FOREIGN else _printable(line[:_QUOTED_LINE])
        return events.Refused(verb, reply, shown)

    def _record(self, transcript: list[bytes], line: bytes) -> None:
        """Replies that wait to be sent have been said before this line."""
        transcript += self._out[self._recorded :]
        self._recorded = len(self._out)
        transcript.append(line)

    def _command(self, raw: bytes) -> Event:
        if self.transcript is not None:
            self._record(self.transcript, raw)
        try:
            line = raw.decode("utf-8")
        except UnicodeDecodeError:
            return self._refuse("", UTF8_SYNTAX, raw[:_QUOTED_LINE].decode("ascii", "replace"))
        if self.rewrite is not None:
            line = self.rewrite(line)
        words = line.split(None, 1)
        if not words or "\0" in line:
            return self._refuse("", SYNTAX, line)
        verb = words[0].upper()
        self.argument = argument = words[1].rstrip() if len(words) > 1 else ""
        if verb not in self.commands:
            if verb in self.ignored:
                self._out.append(IGNORED.encode())
                return events.Ignored(verb, IGNORED, _printable(line[:_QUOTED_LINE]))
            if self.foreign(line.lstrip()):
                event = self._refuse(verb, FOREIGN, line)
                self.close()
                return event
            if self.asks_unknown:
                self._awaiting = "unknown"
                return events.Unknown(line)
            return self._refuse("", UNKNOWN, line)
        refusal = self._out_of_place(verb)
        if verb == "BDAT":
            return self._bdat(argument, line, refusal)
        if refusal is not None:
            return self._refuse(verb, refusal, line)
        try:
            event = READERS[verb](self, argument)
        except command.SyntaxRefusal as error:
            return self._refuse(verb, error.reply, line)
        self._awaiting = verb
        return event

    def _out_of_place(self, verb: str) -> Reply | None:
        """What a known command is told when it may not come now."""
        if self.denial is not None and verb != "QUIT":
            return self.denial
        if self.require_tls and verb not in BEFORE_TLS:
            return MUST_STARTTLS
        if self.helo_required and self.state is State.IDLE and verb in BEFORE_HELLO:
            return ETRN_HELLO_FIRST if verb == "ETRN" else HELLO_FIRST
        if verb == "AUTH" and self.auth_refusal is not None:
            return self.auth_refusal
        refusal = OUT_OF_SEQUENCE.get((self.state, verb))
        if self._discarding and (refusal is None or verb == "DATA"):
            return AFTER_BDAT.get(verb)
        if refusal is NO_RECIPIENTS and self.mode is Mode.LMTP:
            return LMTP_NO_RECIPIENTS
        return refusal

    def _bdat(self, argument: str, line: str, refusal: Reply | None) -> Event:
        """BDAT (RFC 3030 §2): what follows is read whatever the answer is, so a size that cannot be read is
        the end of the session."""
        announced = read_bdat(argument) if self.chunking else None
        if announced is None:
            event = self._refuse("BDAT", BDAT_SYNTAX if self.chunking else NO_CHUNKING, line)
            self.close()
            return event
        self._left, self._last = announced
        self._chunk_size = self._left
        so_far = self._content.size if self._content is not None else 0
        if refusal in (MUST_STARTTLS, HELLO_FIRST):
            pass
        elif not self._left and not self._last:
            refusal = NULL_BDAT
        elif self._discarding:
            refusal = Reply(551, "5.0.0", f"Discarded {self._left} bytes after earlier error")
        elif refusal is None and self.limits.message and so_far + self._left > self.limits.message:
            refusal = CHUNK_TOO_BIG
        if refusal is not None:
            if self.soft_bounce:
                refusal = refusal.softened()
            self._refuse_chunk(refusal)
            return events.Refused("BDAT", refusal, _printable(line[:_QUOTED_LINE]))
        self._awaiting = "BDAT"
        return events.Chunk(self._left, self._last, self._content is None)

    def _auth_response(self, line: bytes) -> Event:
        line = line.strip()
        if line == b"*":
            self.state = State.READY
            return self._refuse("AUTH", AUTH_ABORTED, "*")
        data = decode_base64(line)
        if data is None:
            self.state = State.READY
            return self._refuse("AUTH", AUTH_BASE64, "")
        self._awaiting = "AUTH"
        return events.AuthResponse(data)


_C_ESCAPES = {7: "\\a", 8: "\\b", 9: "\\t", 10: "\\n", 11: "\\v", 12: "\\f", 13: "\\r", 92: "\\\\"}


def _escaped(line: str) -> str:
    """The line in ASCII, other octets as in C (`\\r`, `\\303`), as Postfix logs what is not SMTP."""
    if line.isascii() and line.isprintable() and "\\" not in line:
        return line
    octets = line.encode("utf-8", "replace")
    return "".join(
        _C_ESCAPES.get(octet) or (chr(octet) if 32 <= octet < 127 else f"\\{octet:03o}") for octet in octets
    )


def _printable(line: str) -> str:
    return line if line.isprintable() else "".join(char if char.isprintable() else "?" for char in line)
