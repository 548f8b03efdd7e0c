"""What a server engine tells its owner.

`Hello`, `Mail`, `Rcpt`, `Data`, `Chunk`, `ChunkEnd`, `Reset`, `Noop`, `Verify`, `Etrn`, `Help`, `Quit`,
`StartTLS`, `Auth`, `AuthResponse`, `Proxied`, `Unknown` and `ContentEnd` each wait for a reply
(`ServerConnection.reply` or `challenge`). `Content`, `Refused`, `Ignored` and `Closed` do not.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

from mailstack.wire.smtp.command import NO_RCPT_PARAMETERS, MailParameters, RcptParameters
from mailstack.wire.smtp.reply import Reply


class NeedData(Enum):
    """The engine can say nothing more before octets have come in."""

    NEED_DATA = "need data"


NEED_DATA: Final = NeedData.NEED_DATA


@dataclass(frozen=True, slots=True)
class Hello:
    """EHLO, HELO or LHLO; `name` is safe for headers and log lines."""

    verb: str
    name: str


@dataclass(frozen=True, slots=True)
class Mail:
    """MAIL FROM; `sender` in internal form, `""` the null sender."""

    sender: str
    parameters: MailParameters


@dataclass(frozen=True, slots=True)
class Rcpt:
    """RCPT TO; `recipient` in internal form."""

    recipient: str
    parameters: RcptParameters = NO_RCPT_PARAMETERS


@dataclass(frozen=True, slots=True)
class Data:
    """DATA, with at least one accepted recipient."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """BDAT with `size` octets to follow (RFC 3030); accepted by `ServerConnection.take_chunk`."""

    size: int
    last: bool
    first: bool


@dataclass(frozen=True, slots=True)
class ChunkEnd:
    """A chunk that is not the last is in; `size`: its octets as they were announced."""

    size: int


@dataclass(frozen=True, slots=True)
class Content:
    """Octets of the message: lines ending in CRLF, dots unstuffed, cut anywhere, never empty."""

    data: bytes


@dataclass(frozen=True, slots=True)
class ContentEnd:
    """The dot. `size` in octets; `too_big`: what came is not the whole message; `bare_newline`: repaired."""

    size: int
    too_big: bool
    bare_newline: bool


@dataclass(frozen=True, slots=True)
class Reset:
    """RSET."""


@dataclass(frozen=True, slots=True)
class Noop:
    """NOOP."""


@dataclass(frozen=True, slots=True)
class Verify:
    """VRFY; `address` in internal form, `argument` as it was spelled."""

    address: str
    argument: str


@dataclass(frozen=True, slots=True)
class Etrn:
    """ETRN; `domain` is a valid host name in lower case."""

    domain: str


@dataclass(frozen=True, slots=True)
class Help:
    """HELP."""


@dataclass(frozen=True, slots=True)
class Quit:
    """QUIT; after the reply the connection is over."""


@dataclass(frozen=True, slots=True)
class StartTLS:
    """STARTTLS; after a positive reply has been sent the owner shakes hands and calls `tls_started`."""


@dataclass(frozen=True, slots=True)
class Auth:
    """AUTH; `mechanism` in upper case, `initial` decoded, None where there was no initial response."""

    mechanism: str
    initial: bytes | None


@dataclass(frozen=True, slots=True)
class Proxied:
    """XCLIENT or XFORWARD (`verb`), not taken apart yet (`xclient.parse`): who may say so is the owner's."""

    verb: str
    argument: str


@dataclass(frozen=True, slots=True)
class AuthResponse:
    """The answer to a challenge, decoded."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Unknown:
    """A command that is not known, where the owner wants to answer it (`ServerConnection.asks_unknown`)."""

    line: str


@dataclass(frozen=True, slots=True)
class Refused:
    """The engine has refused a line and queued `reply`. `verb` is `""` where there was none."""

    verb: str
    reply: Reply
    line: str
    """The line as far as it is printable, at most 100 characters."""


class Ignored(Refused):
    """A command that does nothing has been answered 250 (`ServerConnection.ignore`)."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Closed:
    """The client is gone, or QUIT has been answered: nothing follows."""


Event = (
    Hello
    | Mail
    | Rcpt
    | Data
    | Chunk
    | ChunkEnd
    | Content
    | ContentEnd
    | Reset
    | Noop
    | Verify
    | Etrn
    | Help
    | Quit
    | StartTLS
    | Auth
    | AuthResponse
    | Proxied
    | Unknown
    | Refused
    | Closed
    | NeedData
)
