"""What restrictions look at and what they say: the vocabulary of `restrictions` and of all its words."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum
from typing import Final, Protocol

from mailstack.wire.smtp.reply import Reply


class Phase(Enum):
    """The protocol stage a list belongs to; the value is the word for log lines."""

    CLIENT = "CONNECT"
    HELO = "HELO"
    SENDER = "MAIL"
    RELAY = "RCPT"
    RECIPIENT = "RCPT "
    DATA = "DATA"
    END_OF_DATA = "END-OF-MESSAGE"
    ETRN = "ETRN"


@dataclass(frozen=True, slots=True)
class Certificate:
    """A client certificate that has been verified: common names, fingerprints as `AA:BB:…`."""

    subject: str
    issuer: str
    fingerprint: str
    key_fingerprint: str


class Client(Protocol):
    """What a restriction may ask about the session, and ask of it."""

    client_name: str
    client_address: str
    client_port: str
    reverse_client_name: str
    """The name in the reverse zone, confirmed or not; `unknown`."""
    name_failed_for_now: bool
    """The name is unknown because the DNS gave no answer."""
    reverse_name_failed_for_now: bool
    helo: str
    recipient: str | None
    etrn_domain: str
    discarding: bool
    """DISCARD has been said: nothing is judged any more."""

    @property
    def peer(self) -> str:
        """`name[address]`, with `:port` where ports are logged."""
        ...

    @property
    def server_address(self) -> str: ...

    @property
    def server_port(self) -> str: ...

    @property
    def where(self) -> str:
        """The protocol state, as policy services are told: CONNECT, EHLO, MAIL, RCPT, DATA, …"""
        ...

    @property
    def protocol_name(self) -> str:
        """SMTP or ESMTP."""
        ...

    @property
    def instance(self) -> str:
        """The same for all requests of one message."""
        ...

    @property
    def queue_id(self) -> str: ...

    @property
    def message_size(self) -> int:
        """Octets: as received, before that as announced."""
        ...

    @property
    def sasl_user(self) -> str: ...

    @property
    def sasl_method(self) -> str: ...

    @property
    def sasl_sender(self) -> str: ...

    @property
    def sender(self) -> str | None:
        """None before MAIL FROM."""
        ...

    @property
    def secured(self) -> bool: ...

    @property
    def tls_facts(self) -> tuple[str, str, int]:
        """Protocol, cipher, key size in bits; `("", "", 0)` in plain text."""
        ...

    @property
    def certificate(self) -> Certificate | None: ...

    @property
    def pipelined(self) -> bool: ...

    @property
    def recipient_count(self) -> int: ...

    @property
    def deferrals(self) -> Deferrals: ...

    @property
    def stressed(self) -> bool:
        """The session began under stress."""
        ...

    def warn_reject(self, reply: Reply) -> None:
        """Log what `warn_if_reject` has kept from being sent."""
        ...

    def warn(self, text: str) -> None:
        """Log a warning."""
        ...

    def permitted(self, text: str) -> None:
        """Log a permission (smtpd_log_access_permit_actions)."""
        ...

    def change(self, action: str, argument: str, text: str) -> None:
        """Log an access(5) action that does not decide (`text` says what triggered it) and do it to the
        message: `filter`, `hold`, `prepend`, `redirect`, `bcc`, `discard`; `info` and `warn` only log."""
        ...


class Permit(Enum):
    """The list is over, in the client's favour."""

    PERMIT = "permit"


PERMIT: Final = Permit.PERMIT


@dataclass(frozen=True, slots=True)
class Rejection:
    """The reply to send."""

    reply: Reply


@dataclass(frozen=True, slots=True)
class Deferral:
    """`reply` takes the place of a later permission (`on_permit`), or of a later 5xx rejection."""

    reply: Reply
    on_permit: bool


class Deferrals:
    """DEFER_IF_PERMIT and DEFER_IF_REJECT of one session; the first of each kind counts."""

    __slots__ = ("_after", "active", "if_permit", "if_reject")

    def __init__(self) -> None:
        self.active = False
        """Whether there has ever been one: the bookkeeping below is for such sessions only."""
        self.if_permit: Reply | None = None
        self.if_reject: Reply | None = None
        self._after: dict[Phase, Reply | None] = {}

    @property
    def decided(self) -> bool:
        """Both are due: whatever follows, the outcome is a deferral."""
        return self.if_permit is not None and self.if_reject is not None

    def add(self, deferral: Deferral) -> None:
        self.active = True
        if deferral.on_permit:
            self.if_permit = self.if_permit or deferral.reply
        else:
            self.if_reject = self.if_reject or deferral.reply

    def begin(self, phase: Phase, *, more: bool) -> None:
        """A stage begins: what an earlier stage has left counts, what an earlier run of it has left does not.

        `more`: it is the second list of a stage that has two.
        """
        self.if_reject = None
        if more:
            return
        if phase in _FIRST:
            for later in _ORDER[_ORDER.index(phase) :]:
                self._after.pop(later, None)
            before = _ORDER[: _ORDER.index(phase)]
        else:
            before = () if phase in (Phase.DATA, Phase.END_OF_DATA) else _ORDER
            if phase is Phase.ETRN:
                before = _ORDER[:2]
        self.if_permit = next((self._after[one] for one in reversed(before) if one in self._after), None)

    def end(self, phase: Phase) -> None:
        """The stage is over."""
        if phase in _FIRST:
            self._after[phase] = self.if_permit


_ORDER = (Phase.CLIENT, Phase.HELO, Phase.SENDER)
_FIRST = frozenset(_ORDER)

Verdict = Permit | Rejection | Deferral | None
Check = Callable[[Client], Verdict]
SlowCheck = Callable[[Client], Awaitable[Verdict]]
CONFIGURATION_ERROR: Final = Rejection(Reply(451, "4.3.5", "Server configuration error"))


Subject = tuple[str, Callable[[Client], str]]
"""What a reply calls the thing that is judged, and the thing."""
SUBJECT: dict[Phase, Subject] = {
    Phase.CLIENT: ("Client host", lambda c: c.peer),
    Phase.HELO: ("Helo command", lambda c: c.helo),
    Phase.SENDER: ("Sender address", lambda c: c.sender or ""),
    Phase.RELAY: ("Recipient address", lambda c: c.recipient or ""),
    Phase.RECIPIENT: ("Recipient address", lambda c: c.recipient or ""),
    Phase.DATA: ("Data command", lambda c: "DATA"),
    Phase.END_OF_DATA: ("End-of-data", lambda c: "END-OF-MESSAGE"),
    Phase.ETRN: ("Etrn command", lambda c: c.etrn_domain),
}
"""By phase."""


_SENDER_STATUS = {"1": "1.7", "2": "1.8", "3": "1.7", "4": "1.7", "6": "1.7", "7": "1.7", "8": "1.8"}
_RECIPIENT_STATUS = {
    "1": "1.1",
    "2": "1.2",
    "3": "1.3",
    "4": "1.4",
    "5": "1.5",
    "6": "1.6",
    "7": "1.3",
    "8": "1.2",
}


def fitting_dsn(enhanced: str, label: str) -> str:
    """An enhanced code from a table, for what is judged: address codes are made the sender's or the
    recipient's own, and neutral for anything else, as Postfix does."""
    if enhanced[1:4] != ".1.":
        return enhanced
    digits = enhanced[4:]
    if label == "Sender address":
        return f"{enhanced[0]}.{_SENDER_STATUS.get(digits, '1.0')}"
    if label == "Recipient address":
        return f"{enhanced[0]}.{_RECIPIENT_STATUS.get(digits, '1.0')}"
    return f"{enhanced[0]}.0.0"


def dsn_for(code: int, enhanced: str) -> str:
    """The enhanced code with the class of the reply code: a 5.7.1 sent as 450 is a 4.7.1."""
    return f"{code // 100}{enhanced[1:]}"


def rejection(code: int, enhanced: str, text: str) -> Rejection:
    """A rejection whose enhanced code has the class of its reply code."""
    return Rejection(Reply(code, dsn_for(code, enhanced), text))
