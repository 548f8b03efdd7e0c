"""The client's half of SASL mechanisms that do not send the password: CRAM-MD5 and SCRAM-SHA-256.

PLAIN and LOGIN are in `sasl.py`. `choose` picks what a server offers and the security options allow.

Standards: RFC 2195 (CRAM-MD5), RFC 5802 and RFC 7677 (SCRAM-SHA-256, without channel binding).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Iterable

from mailstack.wire.sasl import ClientMechanism, LoginClient, PlainClient, SASLError

ITERATION_LIMIT = 600_000
"""Rounds of PBKDF2 that a server may ask for: about a second's work."""
FLAGS = {
    "SCRAM-SHA-256": frozenset(("noplaintext", "noanonymous", "noactive", "mutual_auth")),
    "CRAM-MD5": frozenset(("noplaintext", "noanonymous")),
    "PLAIN": frozenset(("noanonymous",)),
    "LOGIN": frozenset(("noanonymous",)),
}
"""Mechanisms, best first, and the security options that they satisfy."""
OPTIONS = frozenset(
    ("noplaintext", "noactive", "nodictionary", "noanonymous", "forward_secrecy", "mutual_auth")
)


def choose(offered: Iterable[str], options: Iterable[str]) -> str | None:
    """The best mechanism of those offered (upper case) that satisfies every option, or None."""
    wanted, known = frozenset(options), frozenset(offered)
    return next((name for name, flags in FLAGS.items() if name in known and wanted <= flags), None)


def mechanism(name: str, authcid: str, password: str, nonce: str) -> ClientMechanism:
    """The client's half of mechanism `name` (one of `FLAGS`); `nonce`: random, printable, without commas."""
    match name:
        case "PLAIN":
            return PlainClient(authcid, password)
        case "LOGIN":
            return LoginClient(authcid, password)
        case "CRAM-MD5":
            return CramMD5Client(authcid, password)
        case "SCRAM-SHA-256":
            return ScramClient(authcid, password, nonce)
    raise SASLError(f"unsupported authentication mechanism {name}")


class CramMD5Client:
    """The server's challenge, signed with the password (RFC 2195 §2)."""

    name = "CRAM-MD5"
    __slots__ = ("_authcid", "_password", "_sent")

    def __init__(self, authcid: str, password: str) -> None:
        self._authcid, self._password = authcid.encode(), password.encode()
        self._sent = False

    def initial(self) -> bytes | None:
        return None

    def step(self, challenge: bytes) -> bytes:
        if self._sent:
            raise SASLError("the server sent a challenge that CRAM-MD5 does not have")
        self._sent = True
        return self._authcid + b" " + hmac.new(self._password, challenge, "md5").hexdigest().encode()


class ScramClient:
    """Proof of the password to the server, and of having it to the client (RFC 5802 §3, §5)."""

    name = "SCRAM-SHA-256"
    __slots__ = ("_bare", "_nonce", "_password", "_signature", "_stage")

    def __init__(self, authcid: str, password: str, nonce: str) -> None:
        self._bare = f"n={_sasl_name(authcid)},r={nonce}"
        self._nonce = nonce
        self._password = password.encode()
        self._signature = b""
        self._stage = 0

    def initial(self) -> bytes | None:
        return f"n,,{self._bare}".encode()

    def step(self, challenge: bytes) -> bytes:
        self._stage += 1
        match self._stage:
            case 1:
                return self._prove(challenge)
            case 2:
                return self._verify(challenge)
        raise SASLError("the server sent a challenge that SCRAM does not have")

    def _prove(self, challenge: bytes) -> bytes:
        fields = _fields(challenge, "r", "s", "i")
        nonce, rounds = fields["r"], fields["i"]
        if not nonce.startswith(self._nonce) or nonce == self._nonce:
            raise SASLError("the server's nonce does not begin with ours")
        if not (rounds.isascii() and rounds.isdigit()) or not 0 < int(rounds) <= ITERATION_LIMIT:
            raise SASLError(f"an iteration count of {rounds[:20]}")
        try:
            salt = base64.b64decode(fields["s"], validate=True)
        except binascii.Error:
            raise SASLError("the salt is not base64") from None
        salted = hashlib.pbkdf2_hmac("sha256", self._password, salt, int(rounds))
        key = hmac.digest(salted, b"Client Key", "sha256")
        final = f"c=biws,r={nonce}"
        message = b",".join((self._bare.encode(), challenge, final.encode()))
        signature = hmac.digest(hashlib.sha256(key).digest(), message, "sha256")
        proof = bytes(a ^ b for a, b in zip(key, signature, strict=True))
        self._signature = hmac.digest(hmac.digest(salted, b"Server Key", "sha256"), message, "sha256")
        return f"{final},p={base64.b64encode(proof).decode()}".encode()

    def _verify(self, challenge: bytes) -> bytes:
        """The server proves that it knows the password too."""
        value = _fields(challenge, "v")["v"]
        if not hmac.compare_digest(value, base64.b64encode(self._signature).decode()):
            raise SASLError("the server does not know the password")
        return b""

    @property
    def verified(self) -> bool:
        """The server has proved itself."""
        return self._stage == 2


def _fields(challenge: bytes, *names: str) -> dict[str, str]:
    try:
        text = challenge.decode("ascii")
    except UnicodeDecodeError:
        raise SASLError("the server's SCRAM message is not ASCII") from None
    found = {part[:1]: part[2:] for part in text.split(",") if part[1:2] == "="}
    if "e" in found:
        raise SASLError(f"the server says: {found['e'][:80]}")
    if "m" in found or not all(name in found for name in names):
        raise SASLError("the server's SCRAM message is not understood")
    return found


def _sasl_name(name: str) -> str:
    return name.replace("=", "=3D").replace(",", "=2C")
