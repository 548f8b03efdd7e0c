"""Trust anchors that TLSA records name (DANE-TA, RFC 7671 §5.2): whether a server's chain leads to one.

Loaded when such a record is met: nothing else here takes certificates apart. A chain is followed from the
server's certificate upward, each signature and date looked at, until a certificate or a key is what a record
says. Anchors that only the record has, and not the chain, count, too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, load_der_public_key
from cryptography.x509.oid import ExtensionOID, NameOID

from mailstack.mta.deliver.certificates import name_matches

if TYPE_CHECKING:
    from mailstack.mta.deliver.dane import Dane, Record

_DEPTH = 20
"""Certificates of a chain that are looked at."""


def leads_to(chain: Sequence[bytes], anchors: Sequence[Record], dane: Dane) -> bool:
    """Whether a chain (DER, the server's certificate first) is signed by an anchor, and for the host."""
    try:
        certificates = [x509.load_der_x509_certificate(der) for der in chain[:_DEPTH]]
        leaf = certificates[0]
        if not any(
            name_matches(wanted, name, wide=dane.wide) for wanted in dane.names for name in _names(leaf)
        ):
            return False
        return _climb(leaf, certificates[1:], anchors, dane)
    except ValueError:
        return False  # what cannot be read proves nothing


def _climb(
    leaf: x509.Certificate, others: Sequence[x509.Certificate], anchors: Sequence[Record], dane: Dane
) -> bool:
    current, left = leaf, list(others)
    while _is_current(current):
        if any(_signed_by_record(current, record) for record in anchors):
            return True
        issuer = next((one for one in left if _issued(one, current)), None)
        if issuer is None:
            return False
        left.remove(issuer)
        der = issuer.public_bytes(Encoding.DER)
        if any(dane.is_of(record, der) for record in anchors):
            return _is_current(issuer)
        current = issuer
    return False


def _issued(issuer: x509.Certificate, subject: x509.Certificate) -> bool:
    try:
        subject.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    try:
        constraints = issuer.extensions.get_extension_for_class(x509.BasicConstraints).value
    except x509.ExtensionNotFound:
        return issuer.version is x509.Version.v1
    return constraints.ca


def _signed_by_record(subject: x509.Certificate, record: Record) -> bool:
    """Whether the anchor itself stands in the record, and has signed a certificate."""
    if record.matching:
        return False
    if record.selector == 0:
        issuer = x509.load_der_x509_certificate(record.data)
        return _issued(issuer, subject) and _is_current(issuer)
    key = load_der_public_key(record.data)
    digest = subject.signature_hash_algorithm
    signature, signed = subject.signature, subject.tbs_certificate_bytes
    try:
        if isinstance(key, rsa.RSAPublicKey) and digest is not None:
            parameters = subject.signature_algorithm_parameters
            if not isinstance(parameters, (padding.PSS, padding.PKCS1v15)):
                return False
            key.verify(signature, signed, parameters, digest)
        elif isinstance(key, ec.EllipticCurvePublicKey) and digest is not None:
            key.verify(signature, signed, ec.ECDSA(digest))
        elif isinstance(key, ed25519.Ed25519PublicKey | ed448.Ed448PublicKey):
            key.verify(signature, signed)
        else:
            return False
    except InvalidSignature:
        return False
    return True


def _is_current(certificate: x509.Certificate) -> bool:
    return certificate.not_valid_before_utc <= datetime.now(UTC) <= certificate.not_valid_after_utc


def _names(certificate: x509.Certificate) -> Iterator[str]:
    """Its DNS names, or its common name where it has none (RFC 6125 §6.4.4)."""
    try:
        extension = certificate.extensions.get_extension_for_oid(ExtensionOID.SUBJECT_ALTERNATIVE_NAME)
        names = extension.value.get_values_for_type(x509.DNSName)  # type: ignore[attr-defined]
    except x509.ExtensionNotFound:
        names = []
    found = names or [
        str(attribute.value) for attribute in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    ]
    return (str(name).lower().rstrip(".") for name in found)
