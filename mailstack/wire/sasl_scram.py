"""The server's half of SCRAM (RFC 5802; SHA-256: RFC 7677), with channel binding (RFC 5929, RFC 9266).

    C: gs2-header n=USER,r=NONCE        `step` asks for the user's keys (`Lookup`), `known` takes them
    S: r=NONCE+OURS,s=SALT,i=ROUNDS
    C: c=BINDING,r=NONCE+OURS,p=PROOF   `Identity`, whose `data` is to be sent, or `Mismatch`
    S: v=SIGNATURE

Always: the proof is compared in constant time; a client that could bind and thinks that we cannot, while we
offered it, is refused (somebody has taken -PLUS out of the list: RFC 5802 §6).
"""

from __future__ import annotations

import binascii
import hashlib
import hmac
import unicodedata
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field

from mailstack.wire.sasl import Challenge, Identity, Lookup, Mismatch, SASLError, Step, text_field

HASHES: Mapping[str, str] = {"SHA-1": "sha1", "SHA-256": "sha256"}
"""Names in mechanisms, names in hashlib."""
MESSAGE_LIMIT = 4096
ROUNDS = 4096
"""For keys that are made of a password while the client waits (RFC 7677 §4)."""


@dataclass(frozen=True, slots=True)
class Keys:
    """What is stored instead of a password (RFC 5802 §3)."""

    salt: bytes
    rounds: int
    stored: bytes = field(repr=False)
    server: bytes = field(repr=False)


def keys(digest: str, password: str, salt: bytes, rounds: int = ROUNDS) -> Keys:
    """The keys of a password, whose characters are brought to one form (RFC 4013); takes `rounds` HMACs."""
    given = unicodedata.normalize("NFKC", password).encode("utf-8", "surrogateescape")
    return raw_keys(digest, given, salt, rounds)


def raw_keys(digest: str, password: bytes, salt: bytes, rounds: int) -> Keys:
    """The keys of a password's very octets."""
    salted = hashlib.pbkdf2_hmac(digest, password, salt, rounds)
    client = hmac.digest(salted, b"Client Key", digest)
    return Keys(
        salt, rounds, hashlib.new(digest, client).digest(), hmac.digest(salted, b"Server Key", digest)
    )


class ScramServer:
    """One exchange. `digest`: sha1 or sha256; `nonce`: ours; `bindings`: types with their data."""

    __slots__ = (
        "_bare",
        "_binding",
        "_bindings",
        "_digest",
        "_first",
        "_keys",
        "_nonce",
        "_plus_offered",
        "_stage",
        "_user",
        "_zid",
        "name",
    )

    def __init__(
        self, name: str, digest: str, nonce: str, bindings: Mapping[str, bytes], *, plus_offered: bool
    ) -> None:
        self.name = name
        self._digest = digest
        self._nonce = nonce
        self._bindings = bindings
        self._plus_offered = plus_offered
        self._stage = 0
        self._bare = self._first = b""
        self._binding = b""
        self._user = self._zid = ""
        self._keys: Keys | None = None

    def step(self, response: bytes | None) -> Step:
        if response is None and self._stage == 0:
            self._stage = 1
            return Challenge(b"")
        if response is None or len(response) > MESSAGE_LIMIT:
            raise SASLError("Invalid SCRAM message: it is missing or too long")
        if self._keys is None:
            return self._client_first(response)
        return self._client_final(response)

    def known(self, keys: Keys) -> Step:
        """The user's keys; for a user who does not exist, some that nobody knows."""
        self._keys = keys
        self._first = f"r={self._nonce},s={b64encode(keys.salt).decode()},i={keys.rounds}".encode()
        return Challenge(self._first)

    def _client_first(self, message: bytes) -> Step:
        flag, _, rest = message.partition(b",")
        zid, comma, self._bare = rest.partition(b",")
        if not comma or (zid and not zid.startswith(b"a=")):
            raise SASLError("Invalid SCRAM message: its GS2 header is wrong")
        self._binding = flag + b"," + zid + b"," + self._bound(flag)
        fields = self._bare.split(b",")
        if len(fields) < 2 or not fields[0].startswith(b"n=") or not fields[1].startswith(b"r="):
            raise SASLError("Invalid SCRAM message: user name and nonce are needed")
        if any(extension.startswith(b"m=") for extension in fields):
            raise SASLError("Invalid SCRAM message: an extension that is not supported")
        theirs = text_field(fields[1][2:], "nonce")
        if not all("!" <= char <= "~" for char in theirs):
            raise SASLError("Invalid SCRAM message: the nonce is not printable")
        self._user = _name(fields[0][2:], "user name")
        self._zid = _name(zid[2:], "authorization identity") if zid else ""
        self._nonce = theirs + self._nonce
        return Lookup(self._zid, self._user)

    def _bound(self, flag: bytes) -> bytes:
        """The data of the channel binding that the client has chosen (RFC 5802 §6)."""
        if flag.startswith(b"p="):
            if not self.name.endswith("-PLUS"):
                raise SASLError("Invalid SCRAM message: channel binding belongs to the -PLUS mechanism")
            data = self._bindings.get(flag[2:].decode("ascii", "replace"))
            if data is None:
                raise SASLError("Unsupported channel binding type")
            return data
        if flag not in (b"n", b"y"):
            raise SASLError("Invalid SCRAM message: its GS2 header is wrong")
        if self.name.endswith("-PLUS"):
            raise SASLError("Invalid SCRAM message: the -PLUS mechanism needs channel binding")
        if flag == b"y" and self._plus_offered:
            raise SASLError("Server does support channel binding")
        return b""

    def _client_final(self, message: bytes) -> Step:
        assert self._keys is not None
        without, _, proof_text = message.rpartition(b",p=")
        fields = without.split(b",")
        if len(fields) < 2 or not fields[0].startswith(b"c=") or not fields[1].startswith(b"r="):
            raise SASLError("Invalid SCRAM message: channel binding and nonce are needed")
        try:
            binding = binascii.a2b_base64(fields[0][2:], strict_mode=True)
            proof = binascii.a2b_base64(proof_text, strict_mode=True)
        except ValueError:
            raise SASLError("Invalid SCRAM message: it is not base64") from None
        if not hmac.compare_digest(fields[1][2:], self._nonce.encode()):
            raise SASLError("Invalid SCRAM message: another nonce")
        if not hmac.compare_digest(binding, self._binding):
            raise Mismatch("Channel bindings do not match")
        signed = b",".join((self._bare, self._first, without))
        signature = hmac.digest(self._keys.stored, signed, self._digest)
        if len(proof) != len(signature):
            raise SASLError("Invalid SCRAM message: the proof's length is wrong")
        client = bytes(a ^ b for a, b in zip(proof, signature, strict=True))
        if not hmac.compare_digest(hashlib.new(self._digest, client).digest(), self._keys.stored):
            raise Mismatch("Authentication failed")
        verifier = b64encode(hmac.digest(self._keys.server, signed, self._digest))
        return Identity(self._zid, self._user, b"v=" + verifier)


def _name(data: bytes, what: str) -> str:
    """A saslname: `=2C` is a comma, `=3D` an equals sign, and no other `=` is allowed (RFC 5802 §5.1)."""
    text = text_field(data, what)
    if text.count("=") != text.count("=2C") + text.count("=3D"):
        raise SASLError(f"Invalid SCRAM message: {what} is wrong")
    return text.replace("=2C", ",").replace("=3D", "=")
