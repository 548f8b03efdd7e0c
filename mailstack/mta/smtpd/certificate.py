"""A client's certificate: names and fingerprints, for permit_tls_clientcerts and check_ccert_access."""

from __future__ import annotations

import hashlib
import ssl

from mailstack.mta.smtpd.verdicts import Certificate

_SEQUENCE = 0x30
_VERSION = 0xA0


def read_certificate(session: ssl.SSLObject, digest: str) -> Certificate | None:
    """The verified certificate of the other side; None when it has none. `digest`: of the fingerprints."""
    der = session.getpeercert(binary_form=True)
    names = session.getpeercert()
    if der is None or not names:
        return None
    return Certificate(
        _common_name(names.get("subject")),
        _common_name(names.get("issuer")),
        fingerprint(der, digest),
        fingerprint(public_key(der), digest),
    )


def fingerprint(data: bytes, digest: str) -> str:
    """`AA:BB:CC…`, as Postfix and openssl write it."""
    return hashlib.new(digest, data).digest().hex(":").upper()


def public_key(certificate: bytes) -> bytes:
    """The SubjectPublicKeyInfo of a DER certificate (RFC 5280 §4.1). Raises `ValueError`."""
    whole, _ = _element(certificate, 0, _SEQUENCE)
    body, _ = _element(whole, 0, _SEQUENCE)
    position = 0
    if body[:1] == bytes([_VERSION]):
        _, position = _element(body, 0, _VERSION)
    for _ in range(5):  # serialNumber, signature, issuer, validity, subject
        _, position = _element(body, position)
    _, end = _element(body, position, _SEQUENCE)
    return body[position:end]


def _element(data: bytes, start: int, tag: int | None = None) -> tuple[bytes, int]:
    """Content and end of the DER element at `start`."""
    if len(data) < start + 2 or (tag is not None and data[start] != tag):
        raise ValueError("not the DER element that was expected")
    length, begin = data[start + 1], start + 2
    if length & 0x80:
        count = length & 0x7F
        length = int.from_bytes(data[begin : begin + count], "big")
        begin += count
    if begin + length > len(data):
        raise ValueError("truncated DER element")
    return data[begin : begin + length], begin + length


def _common_name(name: object) -> str:
    """The commonName of a name as `getpeercert` gives it."""
    if isinstance(name, tuple):
        for part in name:
            for key, value in part:
                if key == "commonName":
                    return str(value)
    return ""
