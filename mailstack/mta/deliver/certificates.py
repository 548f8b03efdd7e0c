"""What is read from a server's certificate: its names, its fingerprints, its key, and how long its chain is.

Standards: RFC 5280 §4.1 (certificates), RFC 6125 §6.4 (names).
"""

from __future__ import annotations

import hashlib
import ssl
from typing import cast


def fingerprints(der: bytes, digest: str) -> tuple[str, ...]:
    """Of a certificate and of its public key, as `postfix tls` writes them: `AB:CD:…`."""
    parts = (der, public_key(der))
    return tuple(hashlib.new(digest, part, usedforsecurity=False).digest().hex(":").upper() for part in parts)


def public_key(der: bytes) -> bytes:
    """The SubjectPublicKeyInfo of an X.509 certificate (RFC 5280 §4.1); empty where it is none.

    The seventh element of TBSCertificate, or the sixth where there is no version.
    """
    try:
        _, start, _ = _element(der, 0)  # Certificate
        _, place, end = _element(der, start)  # TBSCertificate
        fields: list[tuple[int, int]] = []
        while place < end:
            tag, _, after = _element(der, place)
            if tag != 0xA0:
                fields.append((place, after))
            place = after
        first, last = fields[5]
        return der[first:last]
    except IndexError:
        return b""


def chain_length(obj: ssl.SSLObject) -> int:
    """Certificates of the chain that has been verified, the anchor included."""
    public = getattr(obj, "get_verified_chain", None)  # Python 3.13
    return len((public() if public is not None else obj._sslobj.get_verified_chain()) or ())  # type: ignore[attr-defined]


def _element(der: bytes, place: int) -> tuple[int, int, int]:
    """(tag, start of the content, end) of the DER element at `place`."""
    tag, length, start = der[place], der[place + 1], place + 2
    if length & 0x80:
        count = length & 0x7F
        length = int.from_bytes(der[start : start + count], "big")
        start += count
    return tag, start, start + length


def certificate_names(obj: ssl.SSLObject) -> list[str]:
    """The DNS names of a verified certificate; its common name where it has none (RFC 6125 §6.4.4)."""
    found = obj.getpeercert() or {}
    alternatives = cast("tuple[tuple[str, str], ...]", found.get("subjectAltName", ()))
    names = [value for kind, value in alternatives if kind == "DNS"]
    if not names:
        subject = cast("tuple[tuple[tuple[str, str], ...], ...]", found.get("subject", ()))
        names += [value for group in subject for kind, value in group if kind == "commonName"]
    return [name.lower().rstrip(".") for name in names]


def name_matches(pattern: str, name: str, *, wide: bool = False) -> bool:
    """Whether a certificate's name is what is asked for: `.example.com` is any name below example.com.

    In the certificate's name `*` stands for one whole label at the front (RFC 6125 §6.4.3), with `wide` for
    one or more (tls_wildcard_matches_multiple_labels).
    """
    if pattern.startswith("."):
        return name.endswith(pattern) and len(name) > len(pattern)
    if name.startswith("*.") and wide:
        return pattern.endswith(name[1:]) and len(pattern) > len(name) - 1
    if name.startswith("*."):
        return "." in pattern and pattern.partition(".")[2] == name[2:]
    return pattern == name
