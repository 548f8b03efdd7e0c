"""Class CH: `version.bind`, `hostname.bind` and `id.server`, as monitoring asks for them."""

from __future__ import annotations

import socket
from typing import Final

from mailstack.config.named import Options
from mailstack.dns.message import AA, NOERROR, QR, RD, REFUSED, Query, error
from mailstack.dns.zone import ANY, CH

_TXT: Final = 16


def answer(data: bytes, query: Query, options: Options) -> bytes:
    """The whole message. What is not told, or not asked for as TXT, is refused."""
    text = _said(query.name.lower(), options)
    if text is None or query.rdtype not in (_TXT, ANY):
        return error(data, REFUSED)
    string = text.encode("utf-8")[:255]
    rdata = bytes((len(string),)) + string
    record = b"\xc0\x0c" + _TXT.to_bytes(2, "big") + CH.to_bytes(2, "big") + bytes(4)
    record += len(rdata).to_bytes(2, "big") + rdata
    flags = QR | AA | query.flags & RD | NOERROR
    header = data[:2] + flags.to_bytes(2, "big") + b"\0\1\0\1\0\0\0\0"
    return header + query.question + record


def _said(name: bytes, options: Options) -> str | None:
    match name:
        case b"\7version\4bind\0":
            return options.version
        case b"\x08hostname\4bind\0":
            return socket.gethostname() if options.hostname == "" else options.hostname
        case b"\2id\6server\0":
            return socket.gethostname() if options.server_id == "" else options.server_id
    return None
