"""What restrictions look at and what they say: the vocabulary of `restrictions`, `checks` and `access`."""

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


class Client(Protocol):
    """What a restriction may ask about the session."""

    client_name: str
    client_address: str
    helo: str
    recipient: str | None
    etrn_domain: str

    @property
    def sasl_user(self) -> str: ...

    @property
    def sender(self) -> str | None:
        """None before MAIL FROM."""
        ...

    @property
    def secured(self) -> bool: ...

    @property
    def pipelined(self) -> bool: ...

    @property
    def recipient_count(self) -> int: ...

    def warn_reject(self, reply: Reply) -> None:
        """Log what `warn_if_reject` has kept from being sent."""
        ...


class Permit(Enum):
    """The list is over, in the client's favour."""

    PERMIT = "permit"


PERMIT: Final = Permit.PERMIT


@dataclass(frozen=True, slots=True)
class Rejection:
    """The reply to send."""

    reply: Reply


Verdict = Permit | Rejection | None
Check = Callable[[Client], Verdict]
SlowCheck = Callable[[Client], Awaitable[Verdict]]


SUBJECT: dict[Phase, tuple[str, Callable[[Client], str]]] = {
    Phase.CLIENT: ("Client host", lambda c: f"{c.client_name}[{c.client_address}]"),
    Phase.HELO: ("Helo command", lambda c: c.helo),
    Phase.SENDER: ("Sender address", lambda c: c.sender or ""),
    Phase.RELAY: ("Recipient address", lambda c: c.recipient or ""),
    Phase.RECIPIENT: ("Recipient address", lambda c: c.recipient or ""),
    Phase.DATA: ("Data command", lambda c: "DATA"),
    Phase.END_OF_DATA: ("End-of-data", lambda c: "END-OF-MESSAGE"),
    Phase.ETRN: ("Etrn command", lambda c: c.etrn_domain),
}
"""Per phase: what a reply calls the thing that is judged, and the thing."""


def dsn_for(code: int, enhanced: str) -> str:
    """The enhanced code with the class of the reply code: a 5.7.1 sent as 450 is a 4.7.1."""
    return f"{code // 100}{enhanced[1:]}"


def rejection(code: int, enhanced: str, text: str) -> Rejection:
    """A rejection whose enhanced code has the class of its reply code."""
    return Rejection(Reply(code, dsn_for(code, enhanced), text))
