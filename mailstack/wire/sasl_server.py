"""The server's half of SASL mechanisms beside PLAIN and LOGIN (`sasl.py`) and SCRAM (`sasl_scram.py`).

CRAM-MD5 (RFC 2195), EXTERNAL (RFC 4422 appendix A), ANONYMOUS (RFC 4505), OAUTHBEARER (RFC 7628), XOAUTH2
(Google's predecessor of it). Like those, a mechanism verifies no password itself. `step` gives

    Challenge    to be sent; the client's response goes into the next step
    Credentials  for whoever knows passwords; of XOAUTH2 and OAUTHBEARER the password is the token
    Lookup       of what is stored for a user; it goes into `known`, whose result is a step's
    Identity     that is proven

A mechanism with a `failure` has something to say before a refusal (RFC 7628 §3.2.3); whatever the client
responds to that, it is refused.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from mailstack.wire.sasl import (
    FIELD_LIMIT,
    Challenge,
    Credentials,
    LoginServer,
    Lookup,
    Mismatch,
    PlainServer,
    SASLError,
    Step,
    text_field,
)
from mailstack.wire.sasl import Identity as Identity
from mailstack.wire.sasl_scram import HASHES, Keys, ScramServer

TOKEN_LIMIT = 8192
"""Octets of a bearer token's message at the most."""
Digest = Callable[[bytes], bytes]
"""HMAC-MD5 of a challenge under a user's password (16 octets)."""


class Mechanism(Protocol):
    """The server's half of one exchange."""

    name: str

    def step(self, response: bytes | None) -> Step:
        """Take the client's response (None: the exchange began without one). Raises `SASLError`."""
        ...


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a mechanism needs to know of the connection and of the moment.

    `nonce`: random, printable, without commas; `challenge`: CRAM-MD5's, `<unique@host>`; `bindings`: channel
    binding types with their data (RFC 5056), empty where there are none; `plus`: whether a -PLUS mechanism is
    on offer on this connection; `certificate`: the name in the client's verified certificate.
    """

    nonce: str
    challenge: bytes
    bindings: Mapping[str, bytes]
    plus: bool = False
    certificate: str = ""
    anonymous: str = ""


class CramMD5Server:
    """`known` takes the user's digest function, or None where nothing fits; the proof then never does."""

    name = "CRAM-MD5"
    __slots__ = ("_challenge", "_proof", "_sent", "_user")

    def __init__(self, surroundings: Surroundings) -> None:
        self._challenge = surroundings.challenge
        self._sent = False
        self._user = ""
        self._proof = b""

    def step(self, response: bytes | None) -> Step:
        if not self._sent:
            if response:
                raise SASLError("Invalid CRAM-MD5 response: the server speaks first")
            self._sent = True
            return Challenge(self._challenge)
        user, space, self._proof = (response or b"").rpartition(b" ")
        if not space or len(self._proof) != 32:
            raise SASLError("Invalid CRAM-MD5 response: a user name and 32 hexadecimal digits are needed")
        self._user = text_field(user, "user name")
        return Lookup("", self._user)

    def known(self, digest: Digest | None) -> Step:
        """Compare the client's proof."""
        expected = digest(self._challenge).hex().encode() if digest else b"-" * 32
        if not hmac.compare_digest(expected, self._proof.lower()):
            raise Mismatch("Authentication failed")
        return Identity("", self._user)


class ExternalServer:
    """The name in the certificate, as Dovecot takes it: a passdb has to let it in with an empty password."""

    name = "EXTERNAL"
    __slots__ = ("_asked", "_certificate")

    def __init__(self, surroundings: Surroundings) -> None:
        self._asked = False
        self._certificate = surroundings.certificate

    def step(self, response: bytes | None) -> Step:
        if response is None and not self._asked:
            self._asked = True
            return Challenge(b"")
        authzid = text_field(response or b"", "authorization identity", empty=True)
        if not self._certificate:
            raise Mismatch("No certificate names a user")
        return Credentials(authzid, self._certificate, "")


class AnonymousServer:
    """Whatever trace the client leaves, it acts as `auth_anonymous_username`."""

    name = "ANONYMOUS"
    __slots__ = ("_asked", "_user")

    def __init__(self, surroundings: Surroundings) -> None:
        self._asked = False
        self._user = surroundings.anonymous

    def step(self, response: bytes | None) -> Step:
        if response is None and not self._asked:
            self._asked = True
            return Challenge(b"")
        text_field(response or b"", "trace information", empty=True)
        return Identity("", self._user)


class BearerServer:
    """What XOAUTH2 and OAUTHBEARER share: key=value fields, each ended by ^A."""

    name = ""
    __slots__ = ("_asked",)

    def __init__(self, surroundings: Surroundings) -> None:
        self._asked = False

    def step(self, response: bytes | None) -> Step:
        if response is None and not self._asked:
            self._asked = True
            return Challenge(b"")
        if response is None or len(response) > TOKEN_LIMIT:
            raise SASLError(f"Invalid {self.name} response: it is missing or too long")
        head, *fields = response.split(b"\1")
        if len(fields) < 2 or fields[-2:] != [b"", b""]:
            raise SASLError(f"Invalid {self.name} response: it does not end in two separators")
        pairs = dict(field.partition(b"=")[::2] for field in fields[:-2])
        kind, _, token = pairs.get(b"auth", b"").partition(b" ")
        if kind.lower() != b"bearer" or not token.strip():
            raise SASLError(f"Invalid {self.name} response: there is no bearer token")
        try:
            return Credentials("", self._user(head), token.strip().decode("ascii"))
        except UnicodeDecodeError:
            raise SASLError(f"Invalid {self.name} response: the token is not ASCII") from None

    def _user(self, head: bytes) -> str:
        raise NotImplementedError

    def failure(self, scope: str, configuration: str) -> bytes:
        """What to say before a refusal. `scope`, `configuration` (a URL) may be empty."""
        raise NotImplementedError


class OAuthBearerServer(BearerServer):
    """`n,a=USER, ^A host=… ^A port=… ^A auth=Bearer TOKEN ^A ^A` (RFC 7628 §3.1)."""

    name = "OAUTHBEARER"
    __slots__ = ()

    def _user(self, head: bytes) -> str:
        parts = head.split(b",")
        if len(parts) != 3 or parts[0] not in (b"n", b"y") or parts[2]:
            raise SASLError("Invalid OAUTHBEARER response: its GS2 header is not n,a=USER,")
        if not parts[1].startswith(b"a="):
            raise SASLError("Invalid OAUTHBEARER response: it names no user")
        name = parts[1][2:].replace(b"=2C", b",").replace(b"=3D", b"=")
        return text_field(name, "user name")

    def failure(self, scope: str, configuration: str) -> bytes:
        said = {"status": "invalid_token"}
        if scope:
            said["scope"] = scope
        if configuration:
            said["openid-configuration"] = configuration
        return json.dumps(said, separators=(",", ":")).encode()


class XOAuth2Server(BearerServer):
    """`user=USER ^A auth=Bearer TOKEN ^A ^A`."""

    name = "XOAUTH2"
    __slots__ = ()

    def _user(self, head: bytes) -> str:
        if not head.startswith(b"user="):
            raise SASLError("Invalid XOAUTH2 response: it does not begin with user=")
        return text_field(head[5:], "user name")

    def failure(self, scope: str, configuration: str) -> bytes:
        said = {"status": "401", "schemes": "bearer", "scope": scope or "mail"}
        return json.dumps(said, separators=(",", ":")).encode()


_SIMPLE: dict[str, Callable[[Surroundings], Mechanism]] = {
    "PLAIN": lambda surroundings: PlainServer(),
    "LOGIN": lambda surroundings: LoginServer(),
    "CRAM-MD5": CramMD5Server,
    "EXTERNAL": ExternalServer,
    "ANONYMOUS": AnonymousServer,
    "OAUTHBEARER": OAuthBearerServer,
    "XOAUTH2": XOAuth2Server,
}
PLUS = tuple(f"SCRAM-{name}-PLUS" for name in HASHES)
"""Mechanisms that need a TLS connection whose bindings we know."""
NAMES = (*_SIMPLE, *(f"SCRAM-{name}" for name in HASHES), *PLUS)
"""Every mechanism there is."""
REVEALING = ("PLAIN", "LOGIN", "OAUTHBEARER", "XOAUTH2")
"""Mechanisms that show a password or a token to whoever listens (RFC 7628 §5: such need TLS)."""
PROPERTIES: Mapping[str, tuple[str, ...]] = {
    "PLAIN": ("plaintext",),
    "LOGIN": ("plaintext",),
    "CRAM-MD5": ("dictionary", "active"),
    "EXTERNAL": (),
    "ANONYMOUS": ("anonymous",),
    "OAUTHBEARER": (),
    "XOAUTH2": (),
    "SCRAM-SHA-1": ("mutual-auth",),
    "SCRAM-SHA-256": ("mutual-auth",),
}
"""What the Dovecot authentication protocol says of mechanisms that do not depend on the connection."""


def mechanism(name: str, surroundings: Surroundings) -> Mechanism:
    """The server's half of mechanism `name` (upper case). Raises `SASLError` for one that is not known."""
    if name in _SIMPLE:
        return _SIMPLE[name](surroundings)
    if name not in NAMES:
        raise SASLError("Unsupported authentication mechanism")
    around = surroundings
    digest = name.removeprefix("SCRAM-").removesuffix("-PLUS")
    return ScramServer(name, HASHES[digest], around.nonce, around.bindings, plus_offered=around.plus)


__all__ = ["FIELD_LIMIT", "Keys", "Mechanism", "Surroundings", "mechanism"]
