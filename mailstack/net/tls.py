"""TLS contexts for servers and clients.

Server contexts are made once per configuration load. A client context either verifies the peer against a
given CA file or the system's, or encrypts without looking (opportunistic TLS, RFC 3207 §4.1; RFC 7435).
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class Protocols:
    """Versions of TLS: from `low` to `high`."""

    low: ssl.TLSVersion = ssl.TLSVersion.TLSv1_2
    high: ssl.TLSVersion = ssl.TLSVersion.MAXIMUM_SUPPORTED


_VERSIONS = ("SSLv2", "SSLv3", "TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3")
_OFFERED = {"TLSv1.2": ssl.TLSVersion.TLSv1_2, "TLSv1.3": ssl.TLSVersion.TLSv1_3}


def parse_protocols(text: str) -> Protocols:
    """Postfix's lists: `>=TLSv1.2`, `<=TLSv1.3`, `!TLSv1.3`, or the versions themselves.

    Versions before TLS 1.2 are known and never offered. Raises `ValueError` when a word is not understood,
    and when nothing is left.
    """
    known = {name.lower(): number for number, name in enumerate(_VERSIONS)}
    low, high, excluded, included = 0, len(_VERSIONS) - 1, set[int](), set[int]()
    for word in text.replace(",", " ").split():
        mark = next((mark for mark in (">=", "<=", "!") if word.startswith(mark)), "")
        number = known.get(word[len(mark) :].lower())
        if number is None:
            raise ValueError(f'invalid TLS protocol "{word}"')
        match mark:
            case ">=":
                low = number
            case "<=":
                high = number
            case "!":
                excluded.add(number)
            case _:
                included.add(number)
    allowed = [
        name
        for number, name in enumerate(_VERSIONS)
        if low <= number <= high
        and number not in excluded
        and (not included or number in included)
        and name in _OFFERED
    ]
    if not allowed:
        raise ValueError(f'no TLS protocol is left of "{text}" (TLSv1.2 and newer are known)')
    return Protocols(_OFFERED[allowed[0]], _OFFERED[allowed[-1]])


def client_context(
    *,
    verify: bool,
    ca_file: Path | None = None,
    ca_path: Path | None = None,
    protocols: Protocols = Protocols(),
) -> ssl.SSLContext:
    """A context for connecting. With `verify`, names and chain are checked, against `ca_file` and `ca_path`
    where given."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = protocols.low
    context.maximum_version = protocols.high
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif ca_file is not None or ca_path is not None:
        context.load_verify_locations(ca_file, ca_path)
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
