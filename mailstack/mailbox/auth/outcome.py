"""Who asks, and what the answer may be."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum

from mailstack.mailbox.auth.users import User


class Denied(Enum):
    """Why credentials do not let anybody in."""

    CREDENTIALS = "authentication failed"
    AUTHORIZATION = "may not act for that user"
    UNAVAILABLE = "temporary failure"
    DISABLED = "account is disabled"
    EXPIRED = "password expired"
    TOO_MANY = "too many connections from that user and address"


@dataclass(frozen=True, slots=True)
class NoLogin:
    """The credentials are good, but the user is not to log in here (the passdb's fields `nologin`, `reason`,
    `host`, `port`, `destuser`). With `host` there is another server for `user`; `port` is empty for its usual
    one."""

    reason: str = ""
    host: str = ""
    port: str = ""
    user: str = ""


Refused = Denied | NoLogin


def no_bindings() -> Mapping[str, bytes]:
    """Without TLS there is nothing to bind to."""
    return {}


@dataclass(frozen=True, slots=True)
class Client:
    """The connection on which somebody logs in. `certificate`: the name in its verified certificate."""

    service: str
    rip: str = ""
    lip: str = ""
    rport: int = 0
    lport: int = 0
    secured: bool = False
    session: str = ""
    certificate: str = ""
    verified: bool = False
    """A certificate has been verified, whether it names somebody or not."""
    bindings: Callable[[], Mapping[str, bytes]] = no_bindings
    counted: bool = True
    """Failures count against the address."""


@dataclass(frozen=True, slots=True)
class Success:
    """Who is in; `data` goes to the client beside the success (SCRAM's signature)."""

    user: User
    data: bytes = b""
