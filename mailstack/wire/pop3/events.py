"""What a POP3 server engine tells its owner.

`Command`, `Auth` and `AuthResponse` each wait for a reply (`ok`, `error`, `challenge`, …); `Refused` and
`Closed` do not.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Final


class NeedData(Enum):
    """The engine can say nothing more before octets have come in."""

    NEED_DATA = "need data"


NEED_DATA: Final = NeedData.NEED_DATA


@dataclass(frozen=True, slots=True)
class Command:
    """A command that the state allows, with well-formed arguments.

    `verb` is in upper case. `number` is the message number of LIST, UIDL, RETR, DELE and TOP (0: none was
    given), `lines` TOP's second argument, `text` the argument of USER and PASS.
    """

    verb: str
    number: int = 0
    lines: int = 0
    text: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Auth:
    """AUTH (RFC 5034): mechanism in upper case (empty: the list is asked for) and initial response."""

    mechanism: str
    initial: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class AuthResponse:
    """The client's answer to a challenge."""

    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Refused:
    """Something wrong, which the engine has answered itself with `-ERR text`."""

    text: str


@dataclass(frozen=True, slots=True)
class Closed:
    """The client has closed its side, or the session is over."""


Event = Command | Auth | AuthResponse | Refused | Closed | NeedData
