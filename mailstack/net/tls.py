"""TLS contexts for servers and clients.

Server contexts are made once per configuration load. A client context either verifies the peer against a
given CA file or the system's, or encrypts without looking (opportunistic TLS, RFC 3207 §4.1; RFC 7435).
"""

from __future__ import annotations

import ssl
import warnings
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
    """Versions of TLS: from `low` to `high`, without those that `gaps` (options of OpenSSL) takes out."""

    low: ssl.TLSVersion = ssl.TLSVersion.TLSv1_2
    high: ssl.TLSVersion = ssl.TLSVersion.MAXIMUM_SUPPORTED
    gaps: int = 0

    def limit(self, context: ssl.SSLContext) -> None:
        """Have a context speak these versions and no others."""
        with warnings.catch_warnings():
            # TLS 1.0 and 1.1 are deprecated (RFC 8996): whoever lists them has been told.
            warnings.simplefilter("ignore", DeprecationWarning)
            context.minimum_version = self.low
            context.maximum_version = self.high
            if self.gaps:
                context.options |= self.gaps


_VERSIONS = ("SSLv2", "SSLv3", "TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3")
# By number: the names of the old ones warn of themselves.
_OFFERED = {
    "TLSv1": ssl.TLSVersion(0x0301),
    "TLSv1.1": ssl.TLSVersion(0x0302),
    "TLSv1.2": ssl.TLSVersion.TLSv1_2,
    "TLSv1.3": ssl.TLSVersion.TLSv1_3,
}
_BOUNDS = {f"{number:04x}": name.lower() for name, number in _OFFERED.items()} | {"0300": "sslv3"}
_WITHOUT = {"TLSv1": 1 << 26, "TLSv1.1": 1 << 28, "TLSv1.2": 1 << 27, "TLSv1.3": 1 << 29}
"""OpenSSL's SSL_OP_NO_TLSv1 and so on, whose names in `ssl` warn of themselves too."""


def parse_protocols(text: str, oldest: str = "TLSv1.2") -> Protocols:
    """Postfix's lists: `>=TLSv1.2`, `<=TLSv1.3`, `!TLSv1.3`, or the versions themselves.

    Bounds may also be the protocol's own numbers (`>=0303`).

    Versions before `oldest` are known and never offered. Raises `ValueError` when a word is not understood,
    and when nothing is left.
    """
    names = _VERSIONS[_VERSIONS.index(oldest) :]
    known = {name.lower(): number for number, name in enumerate(_VERSIONS)}
    low, high, excluded, included = 0, len(_VERSIONS) - 1, set[int](), set[int]()
    for word in text.replace(",", " ").split():
        mark = next((mark for mark in (">=", "<=", "!") if word.startswith(mark)), "")
        name = word[len(mark) :].lower()
        number = known.get(_BOUNDS.get(name, name) if mark in (">=", "<=") else name)
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
        and name in names
    ]
    if not allowed:
        raise ValueError(f'no TLS protocol is left of "{text}" ({oldest} and newer are known)')
    between = names[names.index(allowed[0]) : names.index(allowed[-1])]
    gaps = sum(_WITHOUT[name] for name in between if name not in allowed)
    return Protocols(_OFFERED[allowed[0]], _OFFERED[allowed[-1]], gaps)


def client_context(
    *,
    verify: bool,
    ca_file: Path | None = None,
    ca_path: Path | None = None,
    protocols: Protocols = Protocols(),
    append_default: bool = False,
) -> ssl.SSLContext:
    """A context for connecting. With `verify`, names and chain are checked, against `ca_file` and `ca_path`
    where given, with `append_default` against the system's authorities, too."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    protocols.limit(context)
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif ca_file is not None or ca_path is not None:
        context.load_verify_locations(ca_file, ca_path)
        if append_default:
            context.set_default_verify_paths()
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
