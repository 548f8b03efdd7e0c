"""The stack's certificates: a throwaway authority of its own, and one leaf with every name in use.

Files in the project's `tls/`: `ca.pem` (give this to clients), `ca-key.pem`, `cert.pem` (the leaf),
`key.pem`, and `issued.json`, from which a later run sees whether the leaf still covers everything without
loading a cryptographic library. The authority stays as it is when the leaf is made anew, so clients that
trust it go on.

Keys are ECDSA P-256; certificates follow RFC 5280 closely enough for OpenSSL's strict mode (key identifiers,
key usage), and carry names and addresses as subjectAltName only (RFC 9525 §2).
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import ssl
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING

from mailstack.runtime.errors import RuntimeFailure, UsageProblem

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

CA_DAYS = 3650
LEAF_DAYS = 397
RENEW_BEFORE = 30 * 86400
"""Seconds before its end at which a leaf is made anew."""


@dataclass(frozen=True, slots=True)
class Certificates:
    """Where the files are. `ca` is None when clients should use the system's authorities."""

    cert: Path
    key: Path
    ca: Path | None
    digest: str
    """sha256 hex over certificate and key: services start again when it changes."""
    issued: bool
    """A certificate was made (or copied anew) by this call."""


def ensure(folder: Path, project: str, subjects: Iterable[str], now: float) -> Certificates:
    """The stack's own authority and a leaf for `subjects` (names and address literals); made where needed.

    `now` in seconds since the epoch. Raises `RuntimeFailure` when the folder cannot be written.
    """
    wanted = sorted(set(subjects))
    current = reusable(folder, wanted, now)
    if current is not None:
        return current
    try:
        _issue(folder, project, wanted, datetime.fromtimestamp(now, UTC))
    except OSError as error:
        raise RuntimeFailure(f"{error.filename}: {error.strerror}") from error
    digest = _digest(folder)
    not_after = now + LEAF_DAYS * 86400
    _write(
        folder / "issued.json",
        json.dumps({"subjects": wanted, "not_after": not_after, "digest": digest}).encode(),
        0o600,
    )
    return Certificates(folder / "cert.pem", folder / "key.pem", folder / "ca.pem", digest, True)


def adopt(folder: Path, cert: Path, key: Path) -> Certificates:
    """Copy a certificate and its key from elsewhere. Raises `UsageProblem` when they cannot be used.

    The clients' authority is the last certificate of the chain when that one signed itself; else none.
    """
    try:
        chain, secret = cert.read_bytes(), key.read_bytes()
    except OSError as error:
        raise UsageProblem(
            f"{error.filename}: {error.strerror}", hint="see tls.cert and tls.key of the spec"
        ) from error
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key)
    except ssl.SSLError as error:
        raise UsageProblem(
            f"{cert} and {key} are not a certificate and its key: {error.reason or error}",
            hint="both must be PEM, the leaf certificate first, the key without a passphrase",
        ) from error
    before = _digest(folder)
    _write(folder / "cert.pem", chain, 0o644)
    _write(folder / "key.pem", secret, 0o600)
    root = _self_signed(chain)
    if root is None:
        (folder / "ca.pem").unlink(missing_ok=True)
    else:
        _write(folder / "ca.pem", root, 0o644)
    digest = _digest(folder)
    ca = folder / "ca.pem" if root is not None else None
    return Certificates(folder / "cert.pem", folder / "key.pem", ca, digest, digest != before)


def reusable(folder: Path, wanted: Iterable[str], now: float) -> Certificates | None:
    """What is there, if it covers `wanted` for a while yet; else None. Writes nothing."""
    try:
        data = json.loads((folder / "issued.json").read_text())
        digest = _digest(folder)
        if (
            set(wanted) <= set(data["subjects"])
            and data["not_after"] - now > RENEW_BEFORE
            and data["digest"] == digest
            and (folder / "ca.pem").exists()
        ):
            return Certificates(folder / "cert.pem", folder / "key.pem", folder / "ca.pem", digest, False)
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return None


def key_digest(chain: bytes) -> str | None:
    """SHA-256 of the public key of a PEM chain's first certificate, as hex (`3 1 1` of RFC 6698 §2.1).

    None when there is no certificate. The key is the seventh element of TBSCertificate, or the sixth where
    there is no version (RFC 5280 §4.1): read without a cryptographic library, whose import takes long.
    """
    try:
        first = chain[chain.index(b"-----BEGIN CERTIFICATE-----") :].split(b"-----END", 1)[0]
        der = base64.b64decode(b"".join(first.splitlines()[1:]))
        _, start, _ = _element(der, 0)
        _, place, end = _element(der, start)
        found: list[bytes] = []
        while place < end:
            tag, _, after = _element(der, place)
            if tag != 0xA0:
                found.append(der[place:after])
            place = after
        return hashlib.sha256(found[5]).hexdigest()
    except (ValueError, IndexError):
        return None


def _element(der: bytes, place: int) -> tuple[int, int, int]:
    """(tag, start of the content, end) of the DER element at `place`."""
    tag, length, start = der[place], der[place + 1], place + 2
    if length & 0x80:
        count = length & 0x7F
        length = int.from_bytes(der[start : start + count], "big")
        start += count
    return tag, start, start + length


def dkim_text(key: Path, what: str) -> str:
    """The TXT record that publishes a DKIM key (RFC 6376 §3.6.1, RFC 8463 §4). `what`: for which domain.

    `key` is a PEM file with the public key, or the private one. Raises `UsageProblem`.
    """
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ed25519, rsa

    try:
        data = key.read_bytes()
        if b"PRIVATE KEY-----" in data:
            private = serialization.load_pem_private_key(data, None)
            public = private.public_key()
        else:
            public = serialization.load_pem_public_key(data)
    except OSError as error:
        raise UsageProblem(f"{key} ({what}) cannot be read: {error.strerror}") from error
    except (ValueError, TypeError) as error:
        raise UsageProblem(
            f"{key} ({what}) is no key: {error}", hint="it is PEM, public or private, without a passphrase"
        ) from error
    encoding, form = serialization.Encoding, serialization.PublicFormat
    match public:
        case rsa.RSAPublicKey():
            kind, octets = "rsa", public.public_bytes(encoding.DER, form.SubjectPublicKeyInfo)
        case ed25519.Ed25519PublicKey():
            kind, octets = "ed25519", public.public_bytes(encoding.Raw, form.Raw)
        case _:
            raise UsageProblem(f"{key} ({what}) is neither an RSA nor an Ed25519 key", hint="DKIM has these")
    return f"v=DKIM1; k={kind}; p={base64.b64encode(octets).decode()}"


def _digest(folder: Path) -> str:
    total = hashlib.sha256()
    for name in ("cert.pem", "key.pem"):
        try:
            total.update((folder / name).read_bytes())
        except FileNotFoundError:
            total.update(b"-")
    return total.hexdigest()


def _issue(folder: Path, project: str, subjects: Sequence[str], now: datetime) -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID

    ca, ca_key = _authority(folder, project, now)
    key = ec.generate_private_key(ec.SECP256R1())
    leaf = (
        _builder(f"mailstack {project}", ca.subject, key, now, LEAF_DAYS)
        .add_extension(x509.SubjectAlternativeName(_general_names(subjects)), False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), True)
        .add_extension(_usage(signs_certificates=False), True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), False)
    )
    _write_pair(folder / "cert.pem", folder / "key.pem", leaf, key, ca_key)


def _authority(
    folder: Path, project: str, now: datetime
) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """The authority that is there while it lives longer than a new leaf would; else a new one."""
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        cert = x509.load_pem_x509_certificate((folder / "ca.pem").read_bytes())
        key = load_pem_private_key((folder / "ca-key.pem").read_bytes(), None)
        if cert.not_valid_after_utc > now + timedelta(days=LEAF_DAYS) and isinstance(
            key, ec.EllipticCurvePrivateKey
        ):
            return cert, key
    except (OSError, ValueError, TypeError):
        pass  # missing or damaged: a new one
    fresh = ec.generate_private_key(ec.SECP256R1())
    name = f"mailstack {project} CA"
    builder = (
        _builder(name, None, fresh, now, CA_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), True)
        .add_extension(_usage(signs_certificates=True), True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(fresh.public_key()), False)
    )
    return _write_pair(folder / "ca.pem", folder / "ca-key.pem", builder, fresh, fresh), fresh


def _builder(
    name: str, issuer: x509.Name | None, key: ec.EllipticCurvePrivateKey, now: datetime, days: int
) -> x509.CertificateBuilder:
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer or subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))  # a client's clock may be behind
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    from cryptography import x509

    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _general_names(subjects: Sequence[str]) -> list[x509.GeneralName]:
    """Names as names, addresses as addresses (RFC 5280 §4.2.1.6) and, IPv4 ones, as names once more.

    The second form is not the standard's, but fetchmail and mbsync compare an address that they were given
    with names only; whoever keeps to RFC 9525 looks at the first form and never at the second.
    """
    from cryptography import x509

    names: list[x509.GeneralName] = []
    for text in subjects:
        try:
            address = ip_address(text)
        except ValueError:
            names.append(x509.DNSName(text))
            continue
        names.append(x509.IPAddress(address))
        if address.version == 4:
            names.append(x509.DNSName(text))
    return names


def _write_pair(
    cert_path: Path,
    key_path: Path,
    builder: x509.CertificateBuilder,
    key: ec.EllipticCurvePrivateKey,
    signer: ec.EllipticCurvePrivateKey,
) -> x509.Certificate:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    cert = builder.sign(signer, hashes.SHA256())
    _write(key_path, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), 0o600)
    _write(cert_path, cert.public_bytes(Encoding.PEM), 0o644)
    return cert


def _self_signed(chain: bytes) -> bytes | None:
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    last = x509.load_pem_x509_certificates(chain)[-1]
    return last.public_bytes(Encoding.PEM) if last.subject == last.issuer else None


def _write(path: Path, data: bytes, mode: int) -> None:
    temporary = f"{path}.new"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    with os.fdopen(fd, "wb") as file:
        file.write(data)
    os.rename(temporary, path)
