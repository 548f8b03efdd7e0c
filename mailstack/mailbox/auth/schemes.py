"""Stored passwords as `doveadm pw` writes them: `{SCHEME}data` or `{SCHEME.ENCODING}data`.

Known: PLAIN and CLEARTEXT; PLAIN-MD5, LDAP-MD5, SHA, SHA1, SHA256, SHA512 (the digest in hex or base64);
SMD5, SSHA, SSHA256, SSHA512 (digest followed by salt); PBKDF2 (`$1$salt$rounds$hex`: HMAC-SHA1, 20 octets).
Encodings `.HEX`, `.B64` and `.BASE64` override how the data is written. Every comparison takes constant time.
"""

from __future__ import annotations

import binascii
import hashlib
import hmac
from dataclasses import dataclass, field

SLOW_ROUNDS = 500
"""From here on a PBKDF2 check is too long for the event loop (1,000 rounds take about 0.25 ms)."""
ROUNDS_LIMIT = 10_000_000

_DIGESTS = {
    "PLAIN-MD5": "md5",
    "LDAP-MD5": "md5",
    "SHA": "sha1",
    "SHA1": "sha1",
    "SHA256": "sha256",
    "SHA512": "sha512",
}
_SALTED = {"SMD5": "md5", "SSHA": "sha1", "SSHA256": "sha256", "SSHA512": "sha512"}
_PLAIN = ("PLAIN", "CLEAR", "CLEARTEXT")


class SchemeError(Exception):
    """A stored password that cannot be checked: an unknown scheme, or data that is not the scheme's."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A stored password, taken apart. `slow`: check it off the event loop."""

    scheme: str
    digest: bytes = field(repr=False)
    salt: bytes = field(default=b"", repr=False)
    rounds: int = 0

    @property
    def slow(self) -> bool:
        return self.rounds >= SLOW_ROUNDS

    def verify(self, password: str) -> bool:
        """Whether `password` is the one."""
        given = password.encode("utf-8", "surrogateescape")
        if self.scheme in _PLAIN:
            computed = given
        elif self.scheme == "PBKDF2":
            computed = hashlib.pbkdf2_hmac("sha1", given, self.salt, self.rounds, len(self.digest))
        else:
            name = _DIGESTS.get(self.scheme) or _SALTED[self.scheme]
            computed = hashlib.new(name, given + self.salt, usedforsecurity=False).digest()
        return hmac.compare_digest(computed, self.digest)


def parse(text: str, default: str) -> Stored:
    """Take apart what stands in a password field; `default` is the scheme where none is named.

    Raises `SchemeError`.
    """
    scheme = default
    if text.startswith("{") and "}" in text:
        scheme, _, text = text[1:].partition("}")
    scheme, _, encoding = scheme.upper().partition(".")
    if scheme in _PLAIN:
        return Stored(
            scheme, _decode(text, encoding) if encoding else text.encode("utf-8", "surrogateescape")
        )
    if scheme == "PBKDF2":
        return _pbkdf2(text)
    if scheme in _DIGESTS:
        size = hashlib.new(_DIGESTS[scheme], usedforsecurity=False).digest_size
        encoding = encoding or ("HEX" if len(text) == 2 * size else "B64")
        data = _decode(text, encoding)
        if len(data) != size:
            raise SchemeError(f"{scheme}: {len(data)} octets instead of {size}")
        return Stored(scheme, data)
    if scheme in _SALTED:
        size = hashlib.new(_SALTED[scheme], usedforsecurity=False).digest_size
        data = _decode(text, encoding or "B64")
        if len(data) <= size:
            raise SchemeError(f"{scheme}: no salt")
        return Stored(scheme, data[:size], data[size:])
    raise SchemeError(f"password scheme {scheme} is not supported")


def _pbkdf2(text: str) -> Stored:
    parts = text.split("$")
    if len(parts) != 5 or parts[0] or parts[1] != "1":
        raise SchemeError("PBKDF2: not $1$salt$rounds$hex")
    rounds = parts[3]
    if not (rounds.isascii() and rounds.isdecimal() and len(rounds) < 9 and 1 <= int(rounds) <= ROUNDS_LIMIT):
        raise SchemeError(f"PBKDF2: rounds are not 1 to {ROUNDS_LIMIT}")
    digest = _decode(parts[4], "HEX")
    if len(digest) != 20:
        raise SchemeError(f"PBKDF2: {len(digest)} octets instead of 20")
    return Stored("PBKDF2", digest, parts[2].encode("utf-8", "surrogateescape"), int(rounds))


def _decode(text: str, encoding: str) -> bytes:
    try:
        if encoding == "HEX":
            return binascii.unhexlify(text)
        if encoding in ("B64", "BASE64"):
            return binascii.a2b_base64(text, strict_mode=True)
    except ValueError as error:
        raise SchemeError(f"stored password: {error}") from None
    raise SchemeError(f"password encoding {encoding} is not supported")
