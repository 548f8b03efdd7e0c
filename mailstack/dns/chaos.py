"""Other classes than IN. Something there is of class CH only, for monitoring:
`version.bind`, `hostname.bind`, `authors.bind` and `id.server`.

Each is a zone of its own with SOA and NS and, when its text is told, a TXT record, as named has them.
"""

from __future__ import annotations

import socket
import struct
from typing import Final

from mailstack.config.named import Options
from mailstack.dns import names
from mailstack.dns.message import (
    AA,
    FORMERR,
    HEADER,
    NOTIMP,
    NXDOMAIN,
    OPCODE_MASK,
    QR,
    RD,
    REFUSED,
    Query,
)
from mailstack.dns.replies import Replies
from mailstack.dns.rights import View
from mailstack.dns.zone import ANY, AXFR, CH, CLASS_ANY, CLASS_NONE, IXFR, NS, OPT, SOA, TKEY, TSIG

HESIOD: Final = 4
"""A class that named knows and has nothing for."""
NXNAME: Final = 128
"""Stands in NSEC records only (RFC 9824 §3.5)."""
META: Final = frozenset((OPT, TKEY, TSIG, NXNAME))
"""Types that are nobody's records."""
_TXT: Final = 16
_SOA_TTL: Final = 86_400
_TIMES: Final = struct.pack("!5I", 0, 28_800, 7_200, 604_800, _SOA_TTL)
_VERSION, _HOSTNAME, _AUTHORS, _SERVER = map(
    names.from_text, ("version.bind", "hostname.bind", "authors.bind", "id.server")
)


def other_class(query: Query, view: View, replies: Replies, options: Options, *, tcp: bool) -> bytes:
    """The answer to a message about another class than IN."""
    if query.rdclass in (0, CLASS_NONE, CLASS_ANY):
        return replies.plain(query, view, FORMERR)
    if query.rdclass == HESIOD:
        return replies.prohibited(query, view)
    if query.rdclass != CH or query.flags & OPCODE_MASK:
        return replies.plain(query, view, NOTIMP)
    if query.rdtype in META or (query.rdtype in (AXFR, IXFR) and not tcp):
        return replies.plain(query, view, FORMERR)
    if query.rdtype in (AXFR, IXFR):
        return replies.plain(query, view, REFUSED)
    return answer(query, options, replies.opt_record(query, 0), small=replies.small(query, tcp=tcp))


def answer(query: Query, options: Options, opt_record: bytes, *, small: bool) -> bytes:
    """The whole message. With `small`, no more than what was asked for."""
    texts = {
        _VERSION: options.version,
        _HOSTNAME: socket.gethostname() if options.hostname == "" else options.hostname,
        _AUTHORS: None,
        _SERVER: socket.gethostname() if options.server_id == "" else options.server_id,
    }
    name = query.name.lower()
    origin = next((zone for zone in texts if names.is_below(name, zone)), None)
    flags = QR | query.flags & RD
    if origin is None:
        return _message(query, flags | REFUSED, (), (), opt_record)
    # The origin is the end of the question's name, which starts behind the header.
    at = (0xC000 | 12 + len(name) - len(origin)).to_bytes(2, "big")
    soa = _record(at, SOA, _SOA_TTL, at + b"\x0ahostmaster" + at + _TIMES)
    ns = _record(at, NS, 0, at)
    if name != origin:
        return _message(query, flags | AA | NXDOMAIN, (), (soa,), opt_record)
    held = {NS: ns, SOA: soa}
    text = texts[origin]
    if text is not None:
        string = text.encode("utf-8")[:255]
        held[_TXT] = _record(at, _TXT, 0, bytes((len(string),)) + string)
    found = (
        list(held.values()) if query.rdtype == ANY else [held[query.rdtype]] if query.rdtype in held else []
    )
    authority: tuple[bytes, ...] = ()
    if not found:
        authority = (soa,)
    elif query.rdtype not in (NS, ANY) and not query.flags & RD and not small:
        authority = (ns,)
    return _message(query, flags | AA, found, authority, opt_record)


def _record(owner: bytes, rdtype: int, ttl: int, rdata: bytes) -> bytes:
    return owner + struct.pack("!HHIH", rdtype, CH, ttl, len(rdata)) + rdata


def _message(
    query: Query, flags: int, found: list[bytes] | tuple[()], authority: tuple[bytes, ...], opt_record: bytes
) -> bytes:
    header = HEADER.pack(query.id, flags, 1, len(found), len(authority), 1 if opt_record else 0)
    return b"".join((header, query.question, *found, *authority, opt_record))
