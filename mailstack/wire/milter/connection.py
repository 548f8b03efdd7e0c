"""One milter's connection, the MTA's side, without I/O.

    connection = MilterConnection(terms)
    send(connection.begin()); receive(...)
    while (found := connection.next()) is NEED_DATA: ...        # Done() when it has been negotiated
    send(connection.event(Event.MAIL, macros, data))            # empty where it does not want to know
    while connection.waiting:
        match connection.next():
            case Done(verdict): ...                             # None: go on
            case Progress(): ...                                # still at work
            case edit: ...                                      # behind END_OF_MESSAGE only
            # or NEED_DATA

What it keeps is Postfix's state of a milter: whether it wants to hear of this connection, of this message,
what it has said for good. A milter that breaks the protocol is `State.ERROR` from then on, and what it is
said to have decided is what its `default_action` says; `warnings` says why, in Postfix's words.

Holds always: `receive_data` and `next` raise nothing, whatever the octets are; at most one packet
(`PACKET_LIMIT`) and what is fed at once is held; a body comes out as it comes in.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from typing import Final

from mailstack.wire.milter import protocol
from mailstack.wire.milter.protocol import (
    AddHeader,
    AddRecipient,
    ChangeHeader,
    ChangeSender,
    DeleteRecipient,
    Edit,
    Event,
    Fields,
    InsertHeader,
    MilterError,
    Progress,
    ReplaceBody,
    Stage,
    Verdict,
)
from mailstack.wire.smtp.reply import Reply, parse_reply

REJECTED = Reply(550, "5.7.1", "Command rejected")
UNAVAILABLE = Reply(451, "4.7.1", "Service unavailable - try again later")
MISCONFIGURED = Reply(451, "4.3.5", "Server configuration problem - try again later")
FAILED = Reply(550, "5.5.0", "Service unavailable")

FAILURES: dict[str, Verdict | None] = {
    "accept": None,
    "reject": Verdict(FAILED),
    "tempfail": Verdict(UNAVAILABLE),
    "quarantine": Verdict(hold=True, reason="default_action"),
    "shutdown": Verdict(shutdown=True),
}
"""What each milter_default_action makes of a milter that fails."""
_MISBEHAVING = {**FAILURES, "reject": Verdict(MISCONFIGURED), "tempfail": Verdict(MISCONFIGURED)}
"""The same for one that asks for what cannot be done."""

_SAID = 100
"""Characters of a quarantine's reason that are kept."""


class NeedData(Enum):
    """Nothing more can be said before octets have come in."""

    NEED_DATA = "need data"


NEED_DATA: Final = NeedData.NEED_DATA


class State(Enum):
    """What a milter still wants to hear."""

    CLOSED = "not negotiated"
    READY = "waits for CONNECT"
    ENVELOPE = "hears commands"
    MESSAGE = "hears content"
    ACCEPTED = "hears nothing more of this message"
    ACCEPTED_ALL = "hears nothing more of this connection"
    REJECTED_ALL = "has said no to this connection"
    ERROR = "has failed"

    __hash__ = object.__hash__


@dataclass(frozen=True, slots=True)
class Terms:
    """How a milter is spoken to."""

    version: int
    events: int
    """SMFIP_ flags that it is offered."""
    default_action: str
    soft_bounce: bool = False


@dataclass(frozen=True, slots=True)
class Done:
    """The answer to an event, or to the negotiation; None: go on."""

    verdict: Verdict | None


class _RequestError(MilterError):
    """It keeps to the protocol and asks for what cannot be done."""


class MilterConnection:
    """One milter and one client."""

    __slots__ = (
        "_buffer",
        "_eof",
        "_held",
        "_replacing",
        "_skipping",
        "_undefined",
        "events",
        "lasting",
        "macros",
        "replaced",
        "state",
        "terms",
        "waiting",
        "warnings",
    )

    def __init__(self, terms: Terms) -> None:
        self.terms = terms
        self.state = State.CLOSED
        self.events = 0
        """SMFIP_ flags that the milter has chosen."""
        self.lasting: Verdict | None = None
        """What it has said for the rest of the session."""
        self.macros: dict[Stage, list[str]] = {}
        """The macros that it wants instead of those of main.cf."""
        self.waiting: Event | None = None
        """The event whose answer is due."""
        self.warnings: list[str] = []
        """For the log; the owner empties it."""
        self._buffer = bytearray()
        self._eof = ""
        self._undefined = 0
        self._skipping: Event | None = None
        self._held: Verdict | None = None
        self._replacing = False
        self.replaced = False
        """A new body is complete; no other may follow."""

    # ---- out

    def begin(self) -> bytes:
        """The octets that open the negotiation."""
        numbers = (self.terms.version, protocol.ACTIONS, self.terms.events)
        return protocol.pack(protocol.NEGOTIATE, b"".join(one.to_bytes(4, "big") for one in numbers))

    def listens(self, event: Event) -> bool:
        """Whether the milter is in a state in which it hears of `event`."""
        if event is Event.CONNECT:
            return self.state is State.READY
        if event is Event.HELO:
            return self.state in (State.ENVELOPE, State.ACCEPTED)
        return self.state is State.ENVELOPE

    def event(self, event: Event, macros: bytes, data: bytes = b"") -> bytes:
        """The octets that report an event, none where the milter does not want them.

        `macros`: names and values, each with a NUL behind it. `waiting` is set where an answer is due.
        """
        if event is Event.CONNECT:
            self.state = State.ENVELOPE
        if self._undefined & event.unwanted:
            return b""
        if self._skipping is event:
            return b""
        self._skipping = None
        out = protocol.pack(protocol.MACRO, event.code + macros)
        if self.events & event.unwanted:
            return out
        if not self.events & event.unanswered:
            self.waiting = event
            self._held = None
        return out + protocol.pack(event.code, data)

    def skips(self, event: Event) -> bool:
        """Whether the milter wants no more events of this kind in a row."""
        return self._skipping is event

    def abort(self) -> bytes:
        """The octets that end the message, or what there is of it; none where the milter hears nothing."""
        if self.state not in (State.ENVELOPE, State.MESSAGE, State.ACCEPTED):
            return b""
        self.state = State.ENVELOPE
        return protocol.pack(protocol.ABORT)

    def quit(self) -> bytes:
        """The octets that end the connection."""
        if self.state not in (State.ENVELOPE, State.MESSAGE, State.ACCEPTED):
            return b""
        self.state = State.CLOSED
        return protocol.pack(protocol.QUIT)

    def fail(self) -> Verdict | None:
        """The milter cannot be spoken to any more; what that means for the client."""
        self.state = State.ERROR
        self.waiting = None
        self._buffer.clear()
        self.lasting = FAILURES[self.terms.default_action]
        return self.lasting

    def begin_message(self) -> None:
        """Content follows."""
        self.state = State.MESSAGE
        self.replaced = self._replacing = False

    def end_message(self) -> None:
        """The content has been told, or as much of it as the milter wanted."""
        if self.state in (State.MESSAGE, State.ACCEPTED):
            self.state = State.ENVELOPE

    # ---- in

    def receive_data(self, data: bytes) -> None:
        """Take octets from the milter; `b""` says that it has closed its side."""
        if data:
            self._buffer += data
        else:
            self.lose("Application error")

    def lose(self, reason: str) -> None:
        """Nothing more will come, and why."""
        self._eof = reason

    def next(self) -> Done | Edit | Progress | NeedData:
        """What the milter has said; call it while an answer is due."""
        try:
            packet = self._packet()
            if packet is None:
                return NEED_DATA
            code, data = packet
            if self.waiting is None:
                return self._negotiated(code, data)
            return self._reply(self.waiting, code, data)
        except _RequestError as error:
            self.warnings.append(str(error))
            self.fail()
            self.lasting = _MISBEHAVING[self.terms.default_action]
        except MilterError as error:
            self.warnings.append(str(error))
            self.fail()
        return Done(self.lasting)

    def _packet(self) -> tuple[int, bytes] | None:
        buffer = self._buffer
        length = int.from_bytes(buffer[:4], "big") if len(buffer) >= 4 else 0
        if len(buffer) >= 4:
            if not length:
                raise MilterError("bad packet length: 0")
            if length > protocol.PACKET_LIMIT:
                raise MilterError(f"unreasonable packet length: {length} > {protocol.PACKET_LIMIT}")
            if len(buffer) >= 4 + length:
                code, data = buffer[4], bytes(buffer[5 : 4 + length])
                del buffer[: 4 + length]
                return code, data
        if self._eof:
            name = self.waiting.label if self.waiting is not None else "SMFIC_OPTNEG"
            if len(buffer) < 4:
                text = f"can't read {name} reply packet header: {self._eof}"
            elif len(buffer) == 4:
                text = f"EOF while reading command code: {self._eof}"
            else:
                text = f"EOF while reading data: {self._eof}"
            if self.waiting is None:
                text += "\nread error in initial handshake"
            raise MilterError(text)
        return None

    # ---- negotiation

    def _negotiated(self, code: int, data: bytes) -> Done:
        if code != protocol.NEGOTIATE[0]:
            raise MilterError(f'unexpected reply "{chr(code)}" in initial handshake')
        fields = Fields(data)
        try:
            version, actions, events = fields.number(), fields.number(), fields.number()
        except MilterError as error:
            raise MilterError(f"{error}\nread error in initial handshake") from None
        if version > self.terms.version:
            raise MilterError(
                f"protocol version {version} conflict with MTA protocol version {self.terms.version}"
            )
        if actions & ~protocol.ACTIONS:
            raise MilterError(
                f"request mask 0x{actions:x} conflict with MTA request mask 0x{protocol.ACTIONS:x}"
            )
        self._undefined = protocol.undefined_events(version, self.terms.events)
        while fields.left:
            number, names = fields.number(), fields.text().decode("ascii", "replace")
            if number > Stage.UNKNOWN.value:
                self.warnings.append(f"ignoring unknown macro type {number}")
            else:
                self.macros[Stage(number)] = names.replace(",", " ").split()
        self.events = events
        self.state = State.READY
        return Done(None)

    # ---- replies

    def _reply(self, event: Event, code: int, data: bytes) -> Done | Edit | Progress:
        if self._replacing and code != protocol.REPLACE_BODY:
            self._replacing = False
            self.replaced = True
        if event is Event.END_OF_MESSAGE:
            edit = self._edit(code, data)
            if edit is not None:
                return edit
        if code == protocol.REPLY_CODE:
            return self._decided(event, Verdict(self._given(data)))
        if code == protocol.QUARANTINE:
            # No decision: that follows.
            reason = data.partition(b"\0")[0].decode("utf-8", "replace")[:_SAID]
            self._held = Verdict(hold=True, reason=reason)
            return Progress()
        name = protocol.REPLY_NAMES.get(code)
        if code not in _PLAIN:
            raise MilterError(
                f"unexpected filter response {name or '(unknown filter reply)'} after event {event.label}"
            )
        if data:
            raise MilterError(f"reply {name} was followed by {len(data)} data bytes")
        return self._plain(event, code)

    def _plain(self, event: Event, code: int) -> Done | Progress:
        early = event is Event.CONNECT or event is Event.HELO
        match code:
            case protocol.PROGRESS:
                return Progress()
            case protocol.SKIP:
                self._skipping = event
            case protocol.ACCEPT:
                self.state = State.ACCEPTED_ALL if early else State.ACCEPTED
            case protocol.DISCARD if early:
                self.warnings.append("DISCARD action is not allowed for connect or helo")
            case protocol.DISCARD:
                self.state = State.ACCEPTED
                return self._answered(Verdict(discard=True))
            case protocol.REJECT:
                return self._decided(event, Verdict(self._soft(REJECTED)))
            case protocol.TEMPFAIL:
                return self._decided(event, Verdict(UNAVAILABLE))
            case protocol.SHUTDOWN:
                self.state = State.REJECTED_ALL
                self.lasting = Verdict(shutdown=True)
                return self._answered(self.lasting)
        return self._answered(self._held)

    def _answered(self, verdict: Verdict | None) -> Done:
        self.waiting = None
        return Done(verdict)

    def _decided(self, event: Event, verdict: Verdict) -> Done:
        """A refusal: of the connection for good, or of one command."""
        if event is Event.CONNECT or event is Event.HELO:
            self.state = State.REJECTED_ALL
            self.lasting = verdict
        return self._answered(verdict)

    def _soft(self, reply: Reply) -> Reply:
        return reply.softened() if self.terms.soft_bounce else reply

    def _given(self, data: bytes) -> Reply:
        """The reply that a milter gives in its own words."""
        text = data.partition(b"\0")[0]
        if not _REPLY.match(text) or (text[4:5].isdigit() and text[4:5] != text[:1]):
            raise _RequestError(f"malformed reply: {text.decode('utf-8', 'replace')}")
        # libmilter's replies have been formats once: %% is one, and a single one is none.
        text = _PERCENT.sub(rb"\1", text)
        lines = [line.rstrip(b"\r") for line in text.rstrip(b"\r\n").split(b"\n")]
        try:
            return self._soft(parse_reply([line.replace(b"\r", b" ") for line in lines]))
        except ValueError:
            raise _RequestError(f"malformed reply: {text.decode('utf-8', 'replace')}") from None

    # ---- what is to be changed

    def _edit(self, code: int, data: bytes) -> Edit | None:
        """The change that a packet asks for; None where it is none."""
        fields = Fields(data)
        edit: Edit
        match code:
            case protocol.ADD_HEADER:
                edit = AddHeader(fields.text(), fields.text())
            case protocol.INSERT_HEADER:
                edit = InsertHeader(fields.number(), fields.text(), fields.text())
            case protocol.CHANGE_HEADER:
                edit = ChangeHeader(fields.number() or 1, fields.text(), fields.text())
                if not edit.name:
                    raise _RequestError("null change header name")
            case protocol.CHANGE_SENDER:
                edit = ChangeSender(fields.address(), fields.address() if fields.left else "")
            case protocol.ADD_RECIPIENT:
                edit = AddRecipient(fields.address(), "")
            case protocol.ADD_RECIPIENT_WITH:
                edit = AddRecipient(fields.address(), fields.address() if fields.left else "")
            case protocol.DELETE_RECIPIENT:
                edit = DeleteRecipient(fields.address())
            case protocol.REPLACE_BODY:
                if self.replaced:
                    raise _RequestError(
                        "body replacement requests can't currently be mixed with other requests"
                    )
                self._replacing = True
                return ReplaceBody(data)
            case _:
                return None
        fields.end()
        return edit


_PLAIN = frozenset(
    (
        protocol.ACCEPT,
        protocol.CONTINUE,
        protocol.DISCARD,
        protocol.PROGRESS,
        protocol.REJECT,
        protocol.SHUTDOWN,
        protocol.SKIP,
        protocol.TEMPFAIL,
    )
)
_REPLY = re.compile(rb"[45]\d\d[ -]")
_PERCENT = re.compile(rb"%(.?)", re.DOTALL)
