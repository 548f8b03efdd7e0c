"""TLS contexts for servers and clients.

Server contexts are made once per configuration load. A client context either verifies the peer against a
given CA file or the system's, or encrypts without looking (opportunistic TLS, RFC 3207 §4.1; RFC 7435).
"""

from __future__ import annotations

import ssl
from pathlib import Path


def server_context(cert: Path, key: Path) -> ssl.SSLContext:
    """A context for accepting: TLS 1.2 or newer, the given chain.

    Raises `OSError` when a file cannot be read and `ssl.SSLError` when it holds no usable certificate or key.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_CIPHER_SERVER_PREFERENCE | ssl.OP_NO_RENEGOTIATION
    context.load_cert_chain(cert, key)
    return context


def client_context(*, verify: bool, ca_file: Path | None = None) -> ssl.SSLContext:
    """A context for connecting. With `verify`, names and chain are checked, against `ca_file` where given."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif ca_file is not None:
        context.load_verify_locations(ca_file)
    else:
        context.load_default_certs()
    return context


def describe(obj: ssl.SSLObject | ssl.SSLSocket) -> str:
    """`TLSv1.3 with cipher TLS_AES_256_GCM_SHA384 (256/256 bits)`, as Postfix's log and Received: say it."""
    cipher = obj.cipher()
    if cipher is None:
        return "TLS not established"
    name, _, bits = cipher
    return f"{obj.version()} with cipher {name} ({bits}/{bits} bits)"
