"""SASL mechanisms as step functions: PLAIN (RFC 4616) and LOGIN (draft-murchison-sasl-login-00).

A mechanism never verifies anything: the server side turns what the client sends into `Credentials` for
somebody who knows passwords, the client side turns credentials into responses. Octets here are what the
protocol around it (SMTP, IMAP, POP3, the Dovecot authentication protocol) has already decoded from base64.

Everything that is wrong with the client's input raises `SASLError`, whose text may be shown to the client.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

FIELD_LIMIT = 1024
"""Octets of one field at the most; RFC 4616 §2 asks for 255 at the least."""


class SASLError(Exception):
    """A response that the mechanism does not allow; the exchange is over."""


class Mismatch(SASLError):  # noqa: N818  # an answer: "no"
    """The response is well formed and proves nothing: a wrong password, no certificate."""


@dataclass(frozen=True, slots=True)
class Challenge:
    """The server's next challenge; `data` may be empty (RFC 4422 §3)."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Credentials:
    """What the client claims. `authzid` is empty when it acts as itself (RFC 4422 §3.4.1)."""

    authzid: str
    authcid: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Lookup:
    """The exchange goes on with what is stored for this user; `authzid` as in `Credentials`."""

    authzid: str
    authcid: str


@dataclass(frozen=True, slots=True)
class Identity:
    """The client has proved who it is; `data`, where there is any, goes to it beside the success."""

    authzid: str
    authcid: str
    data: bytes = b""


Step = Challenge | Credentials | Lookup | Identity
"""What the step of a mechanism may give (`sasl_server.py`)."""


class ServerMechanism(Protocol):
    """The server's half of one exchange; made anew for each attempt."""

    name: str

    def step(self, response: bytes | None) -> Challenge | Credentials:
        """Take the client's response (None: the exchange began without one) and answer it.

        Raises `SASLError`.
        """
        ...


class ClientMechanism(Protocol):
    """The client's half of one exchange."""

    name: str

    def initial(self) -> bytes | None:
        """The initial response, or None for a mechanism in which the server speaks first."""
        ...

    def step(self, challenge: bytes) -> bytes:
        """The response to the server's challenge. Raises `SASLError` when no challenge is due."""
        ...


class PlainServer:
    """`[authzid] NUL authcid NUL password`, in one response (RFC 4616 §2)."""

    name = "PLAIN"
    __slots__ = ("_asked",)

    def __init__(self) -> None:
        self._asked = False

    def step(self, response: bytes | None) -> Challenge | Credentials:
        if response is None and not self._asked:
            self._asked = True
            return Challenge(b"")
        parts = (response or b"").split(b"\0")
        if len(parts) != 3:
            raise SASLError("Invalid PLAIN response: three fields separated by NUL are needed")
        return Credentials(
            text_field(parts[0], "authorization identity", empty=True),
            text_field(parts[1], "user name"),
            text_field(parts[2], "password"),
        )


class LoginServer:
    """`Username:`, then `Password:`. An initial response is the user name, as Dovecot and Cyrus take it."""

    name = "LOGIN"
    __slots__ = ("_asked", "_user")

    def __init__(self) -> None:
        self._user: str | None = None
        self._asked = False

    def step(self, response: bytes | None) -> Challenge | Credentials:
        if response is None:
            if self._asked:
                raise SASLError("Invalid LOGIN response: it is missing")
            self._asked = True
            return Challenge(b"Username:")
        self._asked = True
        if self._user is None:
            self._user = text_field(response, "user name")
            return Challenge(b"Password:")
        return Credentials("", self._user, text_field(response, "password"))


class PlainClient:
    """The client's side of PLAIN: everything in the initial response."""

    name = "PLAIN"
    __slots__ = ("_message", "_sent")

    def __init__(self, authcid: str, password: str, authzid: str = "") -> None:
        self._message = plain_initial(authcid, password, authzid)
        self._sent = False

    def initial(self) -> bytes | None:
        self._sent = True
        return self._message

    def step(self, challenge: bytes) -> bytes:
        if self._sent:
            raise SASLError("the server sent a challenge that PLAIN does not have")
        self._sent = True
        return self._message


class LoginClient:
    """The client's side of LOGIN: the challenges' texts differ between servers and are not looked at."""

    name = "LOGIN"
    __slots__ = ("_answers",)

    def __init__(self, authcid: str, password: str) -> None:
        self._answers = [password.encode(), authcid.encode()]

    def initial(self) -> bytes | None:
        return None

    def step(self, challenge: bytes) -> bytes:
        if not self._answers:
            raise SASLError("the server sent a challenge that LOGIN does not have")
        return self._answers.pop()


_SERVER: dict[str, type[PlainServer] | type[LoginServer]] = {"PLAIN": PlainServer, "LOGIN": LoginServer}
MECHANISMS = ("PLAIN", "LOGIN")
"""What `server_mechanism` and `client_mechanism` know, best first."""


def server_mechanism(name: str) -> ServerMechanism:
    """The server's half of mechanism `name` (any case). Raises `SASLError` for one that is not known."""
    try:
        return _SERVER[name.upper()]()
    except KeyError:
        raise SASLError("Unsupported authentication mechanism") from None


def client_mechanism(name: str, authcid: str, password: str) -> ClientMechanism:
    """The client's half of mechanism `name` (any case). Raises `SASLError` for one that is not known."""
    match name.upper():
        case "PLAIN":
            return PlainClient(authcid, password)
        case "LOGIN":
            return LoginClient(authcid, password)
    raise SASLError(f"unsupported authentication mechanism {name}")


def plain_initial(authcid: str, password: str, authzid: str = "") -> bytes:
    """The PLAIN message (RFC 4616 §2), not yet in base64. Raises `SASLError` for a NUL in a field."""
    if "\0" in authcid + password + authzid:
        raise SASLError("a NUL cannot be sent")
    return f"{authzid}\0{authcid}\0{password}".encode()


def text_field(data: bytes, what: str, *, empty: bool = False) -> str:
    """`data` as text. Raises `SASLError`, which names `what`, for one too long, empty, or not UTF-8."""
    if len(data) > FIELD_LIMIT:
        raise SASLError(f"Invalid response: {what} is too long")
    if not data and not empty:
        raise SASLError(f"Invalid response: {what} is empty")
    if 0 in data:
        raise SASLError(f"Invalid response: NUL in {what}")
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise SASLError(f"Invalid response: {what} is not UTF-8") from None
