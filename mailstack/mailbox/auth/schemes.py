"""Stored passwords as `doveadm pw` writes them: `{SCHEME}data` or `{SCHEME.ENCODING}data`.

Known is what Dovecot 2.3 lists, but OTP:

    PLAIN CLEAR CLEARTEXT PLAIN-TRUNC       the password; `12-text` has lost what was behind 12 octets
    PLAIN-MD4 PLAIN-MD5 LDAP-MD5 SHA SHA1 SHA256 SHA512 DIGEST-MD5      a digest in hex or base64
    SMD5 SSHA SSHA256 SSHA512               digest followed by salt
    CRYPT DES-CRYPT MD5-CRYPT MD5 SHA256-CRYPT SHA512-CRYPT BLF-CRYPT   the system's crypt(3)
    ARGON2I ARGON2ID                        `$argon2id$v=19$m=…`, by the cryptography package
    PBKDF2                                  `$1$salt$rounds$hex`: HMAC-SHA1, 20 octets
    CRAM-MD5 HMAC-MD5                       two states of MD5 (`md.py`), for the mechanism of that name
    SCRAM-SHA-1 SCRAM-SHA-256               `rounds,salt,stored key,server key`, likewise

Encodings `.HEX`, `.B64` and `.BASE64` override how the data is written. Every comparison takes constant time.
"""

from __future__ import annotations

import binascii
import hashlib
import hmac
import struct
from dataclasses import dataclass, field

from mailstack.mailbox.auth import crypt, md
from mailstack.wire.sasl_scram import Keys, raw_keys

SLOW_ROUNDS = 500
"""From here on a PBKDF2 check is too long for the event loop (1,000 rounds take about 0.25 ms)."""
ROUNDS_LIMIT = 10_000_000

_DIGESTS = {
    "DIGEST-MD5": "md5",
    "PLAIN-MD4": "md4",
    "PLAIN-MD5": "md5",
    "LDAP-MD5": "md5",
    "SHA": "sha1",
    "SHA1": "sha1",
    "SHA256": "sha256",
    "SHA512": "sha512",
}
_SALTED = {"SMD5": "md5", "SSHA": "sha1", "SSHA256": "sha256", "SSHA512": "sha512"}
_SIZES = {"md4": 16, "md5": 16, "sha1": 20, "sha256": 32, "sha512": 64}
_PLAIN = ("PLAIN", "CLEAR", "CLEARTEXT")
CRAM_MD5 = (*_PLAIN, "CRAM-MD5")
"""Schemes that CRAM-MD5 can be checked with."""
_SCRAM = {"SCRAM-SHA-1": "sha1", "SCRAM-SHA-256": "sha256"}
_CRYPT = {
    "CRYPT": "",
    "DES-CRYPT": "",
    "MD5-CRYPT": "$1$",
    "MD5": "$1$",
    "SHA256-CRYPT": "$5$",
    "SHA512-CRYPT": "$6$",
    "BLF-CRYPT": "$2",
}
_ARGON2 = {"ARGON2I": "$argon2i$", "ARGON2ID": "$argon2id$"}


class SchemeError(Exception):
    """A stored password that cannot be checked: an unknown scheme, or data that is not the scheme's."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A stored password, taken apart. `slow`: check it off the event loop."""

    scheme: str
    digest: bytes = field(repr=False)
    salt: bytes = field(default=b"", repr=False)
    rounds: int = 0
    slow: bool = False

    def verify(self, password: str, user: str = "") -> bool:
        """Whether `password` is the one; DIGEST-MD5 has the user's full name in it. Raises `SchemeError`."""
        given = password.encode("utf-8", "surrogateescape")
        scheme = self.scheme
        if scheme in _ARGON2:
            return _argon2(self.digest.decode(), given)
        if scheme in _PLAIN:
            computed = given
        elif scheme == "PLAIN-TRUNC":
            computed = given[: self.rounds] if self.rounds else given
        elif scheme == "PBKDF2":
            computed = hashlib.pbkdf2_hmac("sha1", given, self.salt, self.rounds, len(self.digest))
        elif scheme in _SCRAM:
            computed = raw_keys(_SCRAM[scheme], given, self.salt, self.rounds).stored
            return hmac.compare_digest(computed, self.digest[: len(computed)])
        elif scheme in _CRYPT:
            try:
                computed = crypt.crypt(given, self.digest)
            except crypt.CryptError as error:
                raise SchemeError(f"{scheme}: {error}") from None
        elif scheme == "CRAM-MD5":
            computed = cram_md5_state(given)
        elif scheme == "DIGEST-MD5":
            local, _, realm = user.encode().partition(b"@")
            computed = _hash("md5", local + b":" + realm + b":" + given)
        else:
            computed = _hash(_DIGESTS.get(scheme) or _SALTED[scheme], given + self.salt)
        return hmac.compare_digest(computed, self.digest)

    @property
    def plain(self) -> str | None:
        """The password itself, where it is stored so that any mechanism can be served from it."""
        return self.digest.decode("utf-8", "surrogateescape") if self.scheme in _PLAIN else None

    def cram_md5(self, challenge: bytes) -> bytes:
        """HMAC-MD5 of `challenge` under the password, for the schemes in `CRAM_MD5`."""
        if self.scheme in _PLAIN:
            return hmac.new(self.digest, challenge, "md5").digest()
        outer, inner = self.digest[:16], self.digest[16:]
        inside = md.md5_continued(_state(inner), challenge)
        return md.md5_continued(_state(outer), inside)

    def scram(self, digest: str) -> Keys | None:
        """The stored keys for SCRAM with `digest` (sha1, sha256); None: this scheme has none."""
        if _SCRAM.get(self.scheme) != digest:
            return None
        size = _SIZES[digest]
        return Keys(self.salt, self.rounds, self.digest[:size], self.digest[size:])


def parse(text: str, default: str) -> Stored:
    """Take apart what stands in a password field; `default` is the scheme where none is named.

    Raises `SchemeError`.
    """
    scheme = default
    if text.startswith("{") and "}" in text:
        scheme, _, text = text[1:].partition("}")
    scheme, _, encoding = scheme.upper().partition(".")
    if scheme == "MD5" and not text.startswith("$1$"):
        scheme = "PLAIN-MD5"  # as Dovecot: also a bare digest
    if scheme == "HMAC-MD5":
        scheme = "CRAM-MD5"
    if scheme in (*_PLAIN, *_CRYPT, *_ARGON2, "PLAIN-TRUNC"):
        return _text(scheme, _decode(text, encoding) if encoding else text.encode("utf-8", "surrogateescape"))
    if scheme == "PBKDF2":
        return _pbkdf2(text)
    if scheme in _SCRAM:
        return _scram(scheme, text)
    if scheme == "CRAM-MD5":
        states = _decode(text, encoding or "HEX")
        if len(states) != 32:
            raise SchemeError(f"CRAM-MD5: {len(states)} octets instead of 32")
        return Stored(scheme, states)
    if scheme in _DIGESTS:
        size = _SIZES[_DIGESTS[scheme]]
        data = _decode(text, encoding or ("HEX" if len(text) == 2 * size else "B64"))
        if len(data) != size:
            raise SchemeError(f"{scheme}: {len(data)} octets instead of {size}")
        return Stored(scheme, data)
    if scheme in _SALTED:
        size = _SIZES[_SALTED[scheme]]
        data = _decode(text, encoding or "B64")
        if len(data) <= size:
            raise SchemeError(f"{scheme}: no salt")
        return Stored(scheme, data[:size], data[size:])
    raise SchemeError(f"password scheme {scheme[:40]} is not supported")


def cram_md5_state(password: bytes) -> bytes:
    """What the scheme CRAM-MD5 stores of a password: outer state, inner state."""
    key = _hash("md5", password) if len(password) > 64 else password
    key = key.ljust(64, b"\0")
    states = [md.md5_state(bytes(octet ^ pad for octet in key)) for pad in (0x5C, 0x36)]
    return b"".join(struct.pack("<4I", *state) for state in states)


def _state(data: bytes) -> md.State:
    a, b, c, d = struct.unpack("<4I", data)
    return a, b, c, d


def _text(scheme: str, data: bytes) -> Stored:
    """Schemes whose data is kept as it is written."""
    if scheme in _CRYPT:
        if len(data) < 13 or not data.startswith(_CRYPT[scheme].encode()):
            raise SchemeError(f"{scheme}: not what crypt(3) makes of it")
        return Stored(scheme, data, slow=True)
    if scheme in _ARGON2:
        if not data.startswith(_ARGON2[scheme].encode()) or not data.isascii():
            raise SchemeError(f"{scheme}: not {_ARGON2[scheme]}…")
        return Stored(scheme, data, slow=True)
    if scheme == "PLAIN-TRUNC":
        count, dash, rest = data.partition(b"-")
        if dash and count.isdigit() and len(count) < 5:
            return Stored(scheme, rest, rounds=int(count))
    return Stored(scheme, data)


def _hash(name: str, data: bytes) -> bytes:
    return md.md4(data) if name == "md4" else hashlib.new(name, data, usedforsecurity=False).digest()


def _argon2(stored: str, password: bytes) -> bool:
    try:
        from cryptography.exceptions import InvalidKey, UnsupportedAlgorithm
        from cryptography.hazmat.primitives.kdf import argon2
    except ImportError:
        raise SchemeError("ARGON2: the Python package cryptography (44 or newer) is not installed") from None
    kind = getattr(argon2, "Argon2id" if stored.startswith("$argon2id$") else "Argon2i", None)
    if kind is None or not hasattr(kind, "verify_phc_encoded"):
        raise SchemeError("ARGON2: the Python package cryptography is too old")
    try:
        kind.verify_phc_encoded(password, stored)
    except InvalidKey:
        return False
    except (ValueError, MemoryError, UnsupportedAlgorithm) as error:
        raise SchemeError(f"ARGON2: {error}") from None
    return True


def _scram(scheme: str, text: str) -> Stored:
    parts = text.split(",")
    if len(parts) != 4:
        raise SchemeError(f"{scheme}: not rounds,salt,stored key,server key")
    salt, stored, server = (_decode(part, "B64") for part in parts[1:])
    size = _SIZES[_SCRAM[scheme]]
    if len(stored) != size or len(server) != size or not salt:
        raise SchemeError(f"{scheme}: a key is not {size} octets")
    return Stored(scheme, stored + server, salt, _rounds(scheme, parts[0]), slow=True)


def _pbkdf2(text: str) -> Stored:
    parts = text.split("$")
    if len(parts) != 5 or parts[0] or parts[1] != "1":
        raise SchemeError("PBKDF2: not $1$salt$rounds$hex")
    rounds = _rounds("PBKDF2", parts[3])
    digest = _decode(parts[4], "HEX")
    if len(digest) != 20:
        raise SchemeError(f"PBKDF2: {len(digest)} octets instead of 20")
    salt = parts[2].encode("utf-8", "surrogateescape")
    return Stored("PBKDF2", digest, salt, rounds, slow=rounds >= SLOW_ROUNDS)


def _rounds(scheme: str, text: str) -> int:
    if text.isascii() and text.isdecimal() and len(text) < 9 and 1 <= int(text) <= ROUNDS_LIMIT:
        return int(text)
    raise SchemeError(f"{scheme}: rounds are not 1 to {ROUNDS_LIMIT}")


def _decode(text: str, encoding: str) -> bytes:
    try:
        if encoding == "HEX":
            return binascii.unhexlify(text)
        if encoding in ("B64", "BASE64"):
            return binascii.a2b_base64(text, strict_mode=True)
    except ValueError as error:
        raise SchemeError(f"stored password: {error}") from None
    raise SchemeError(f"password encoding {encoding[:20]} is not supported")
