"""The PROXY protocol's header, versions 1 and 2: which client a proxy in front of us stands for.

Source: "The PROXY protocol, versions 1 & 2" (HAProxy). Both are read as Postfix reads them
(`smtpd_upstream_proxy_protocol = haproxy`): TCP over IPv4 or IPv6, and connections of the proxy itself
(`UNKNOWN`, `LOCAL`), which stand for nobody.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import ip_address

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
V1_LIMIT = 107
"""Octets of a version 1 line with its CRLF."""
V2_LIMIT = 536
"""Octets of a version 2 header, extensions included; more is refused."""
_FIXED = 16


class ProxyError(Exception):
    """What has come is no header that we can use; `str()` says why."""


@dataclass(frozen=True, slots=True)
class ProxyHeader:
    """The connection at the proxy's other side, and how many octets told of it. Ports are decimal."""

    client: str
    client_port: str
    server: str
    server_port: str
    length: int

    @property
    def local(self) -> bool:
        """The proxy speaks for itself (a health check): the connection is what it seems to be."""
        return not self.client


def parse_header(data: bytes) -> ProxyHeader | None:
    """The header at the beginning of `data`; None while it is not complete. Raises `ProxyError`."""
    head = data[: len(SIGNATURE)]
    if head == SIGNATURE[: len(head)]:
        return _version_2(data) if len(data) >= _FIXED else None
    if not b"PROXY ".startswith(data[:6]):
        raise ProxyError("missing protocol header")
    end = data.find(b"\n", 0, V1_LIMIT)
    if end < 0:
        if len(data) >= V1_LIMIT:
            raise ProxyError("protocol header too long")
        return None
    return _version_1(data[: end + 1])


def _version_1(line: bytes) -> ProxyHeader:
    try:
        words = line.decode("ascii").split()
    except UnicodeDecodeError:
        raise ProxyError("unexpected octets in the protocol header") from None
    if words[1:2] == ["UNKNOWN"]:
        return ProxyHeader("", "", "", "", len(line))
    if len(words) != 6 or words[1] not in ("TCP4", "TCP6"):
        raise ProxyError("unexpected protocol type or number of fields")
    client, server = (_address(word, 4 if words[1] == "TCP4" else 6) for word in words[2:4])
    return ProxyHeader(client, _port(words[4]), server, _port(words[5]), len(line))


def _version_2(data: bytes) -> ProxyHeader | None:
    version, family, size = struct.unpack_from("!BBH", data, len(SIGNATURE))
    if version >> 4 != 2:
        raise ProxyError(f"unexpected version {version >> 4}")
    end = _FIXED + size
    if end > V2_LIMIT:
        raise ProxyError("protocol header too long")
    if len(data) < end:
        return None
    if version & 15 == 0:
        return ProxyHeader("", "", "", "", end)
    if version & 15 != 1:
        raise ProxyError(f"unexpected command {version & 15}")
    if family == 0x11 and size >= 12:
        width = 4
    elif family == 0x21 and size >= 36:
        width = 16
    else:
        raise ProxyError(f"unexpected address family or protocol {family:#x}")
    client = str(ip_address(data[_FIXED : _FIXED + width]))
    server = str(ip_address(data[_FIXED + width : _FIXED + 2 * width]))
    ports = struct.unpack_from("!HH", data, _FIXED + 2 * width)
    return ProxyHeader(client, str(ports[0]), server, str(ports[1]), end)


def _address(text: str, version: int) -> str:
    try:
        address = ip_address(text)
    except ValueError:
        raise ProxyError(f"bad address {text!r}") from None
    if address.version != version:
        raise ProxyError(f"address {text!r} is of another family")
    return str(address)


def _port(text: str) -> str:
    if not text.isdecimal() or int(text) > 65535:
        raise ProxyError(f"bad port {text!r}")
    return text
