"""What a TLS connection says: channel bindings for SCRAM's -PLUS, the name in the client's certificate.

tls-unique (RFC 5929 §3) is TLS 1.2's; tls-server-end-point (§4) is the server certificate's hash;
tls-exporter (RFC 9266) is there where Python's ssl can export keying material, which 3.11 to 3.13 cannot.
"""

from __future__ import annotations

import hashlib
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast
from weakref import WeakKeyDictionary

from mailstack.net.stream import Stream

_SHORT = {"cn": "commonname", "uid": "userid", "email": "emailaddress", "2.5.4.3": "commonname"}
_NUMBERS = {
    "2.5.4.45": "x500uniqueidentifier",
    "0.9.2342.19200300.100.1.1": "userid",
    "1.2.840.113549.1.9.1": "emailaddress",
    "2.5.4.5": "serialnumber",
}
_certificates: WeakKeyDictionary[ssl.SSLContext, bytes] = WeakKeyDictionary()
_hashes: dict[bytes, bytes] = {}


def remember(context: ssl.SSLContext, chain: Path) -> None:
    """Know the server certificate (DER) of a context; Python's ssl does not tell it. Raises `OSError`."""
    text = chain.read_text("ascii", "replace")
    begin, end = text.find(ssl.PEM_HEADER), text.find(ssl.PEM_FOOTER)
    if 0 <= begin < end:
        _certificates[context] = ssl.PEM_cert_to_DER_cert(text[begin : end + len(ssl.PEM_FOOTER)])


def bindings(stream: Stream) -> Mapping[str, bytes]:
    """The channel bindings of a connection by type; empty without TLS."""
    tls = stream.tls
    if tls is None:
        return {}
    found: dict[str, bytes] = {}
    certificate = _certificates.get(tls.context)
    if certificate is not None and (digest := _end_point(certificate)):
        found["tls-server-end-point"] = digest
    if tls.version() in ("TLSv1", "TLSv1.1", "TLSv1.2") and (unique := tls.get_channel_binding("tls-unique")):
        found["tls-unique"] = unique
    exporter = getattr(tls, "export_keying_material", None)
    if exporter is not None and tls.version() == "TLSv1.3":
        found["tls-exporter"] = exporter("EXPORTER-Channel-Binding", 32, b"")
    return found


def _end_point(certificate: bytes) -> bytes:
    """The hash of the certificate, by the hash of its signature; SHA-256 for MD5 and SHA-1."""
    if certificate not in _hashes:
        try:
            from cryptography.x509 import load_der_x509_certificate

            algorithm = load_der_x509_certificate(certificate).signature_hash_algorithm
            name = algorithm.name if algorithm is not None else ""
            if name in ("md5", "sha1"):
                name = "sha256"
            # RFC 5929 §4.1 knows nothing for a signature without one hash (Ed25519).
            _hashes[certificate] = hashlib.new(name, certificate).digest() if name else b""
        except (ImportError, ValueError):
            _hashes[certificate] = b""
    return _hashes[certificate]


def certificate(stream: Stream, field: str) -> tuple[bool, str]:
    """Whether the client has shown a certificate that `ssl_ca` verifies, and the name in its `field`."""
    tls = stream.tls
    if tls is None:
        return False, ""
    shown = cast("dict[str, Any] | None", tls.getpeercert())
    if not shown:
        return False, ""
    wanted = field.lower()
    wanted = _SHORT.get(wanted) or _NUMBERS.get(wanted) or wanted
    names = [
        value for parts in shown.get("subject", ()) for key, value in parts if key.lower() == wanted and value
    ]
    return True, names[-1] if names else ""
