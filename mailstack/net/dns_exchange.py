"""One question to one name server: by UDP, by TCP where the answer is cut short; what the answer says.

A question goes out from a socket of its own with a random id, and an answer counts only when it comes from
the server asked and carries that id and question (RFC 5452 §9). dnspython is imported with the first one.

Standards: RFC 2308 (negative answers), RFC 4035 §3.2.3 and RFC 6840 §5.7 (AD), RFC 6891 (EDNS), RFC 7766
(TCP).
"""

from __future__ import annotations

import asyncio
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, cast

from mailstack.net.stream import connect

if TYPE_CHECKING:
    import dns.message
    import dns.name
    import dns.rrset

Nameserver = tuple[str, int]
"""Address literal and port."""
RecordType = Literal["A", "AAAA", "CNAME", "DNSKEY", "MX", "NS", "PTR", "SOA", "TLSA", "TXT"]

TRY_TIMEOUT = 2.0
"""Seconds that one server gets for one attempt."""
PAYLOAD = 1232
"""Octets of a UDP answer that cross any path unfragmented (DNS flag day 2020)."""
ALIAS_LIMIT = 8
"""CNAMEs followed before a name counts as broken."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What is known of one name and type. `records` are (preference, text); preference is 0 but for MX."""

    status: Literal["found", "nodata", "nxdomain", "temporary"]
    records: tuple[tuple[int, str], ...] = ()
    ttl: int = 0
    reason: str = ""
    alias: str | None = None
    """A CNAME target that the answer stopped at, to be asked for next."""
    name: str = ""
    """Whose the records are, aliases followed."""
    secure: bool = False
    """The server says that it has validated the answer (the AD bit, RFC 4035 §3.2.3)."""


class Unusable(Exception):  # noqa: N818 - a condition, named as callers speak of it
    """The server answered, but not the question (SERVFAIL, REFUSED, garbage over TCP)."""


async def ask_server(server: Nameserver, qname: dns.name.Name, rdtype: RecordType, dnssec: bool) -> Outcome:
    """One question to one server: UDP, then TCP when truncated. Raises `OSError` or `Unusable`."""
    import dns.flags
    import dns.message
    import dns.rcode

    for edns in (True, False):
        query = dns.message.make_query(
            qname, rdtype, use_edns=0 if edns else False, payload=PAYLOAD if edns else None
        )
        if dnssec:
            # Whoever wants DNSSEC says that he understands AD, too (RFC 6840 §5.7).
            query.flags |= dns.flags.AD
            if edns:
                query.want_dnssec()
        response = await _ask_udp(server, query)
        if response.flags & dns.flags.TC:
            response = await _ask_tcp(server, query)
        if response.rcode() not in (dns.rcode.FORMERR, dns.rcode.BADVERS, dns.rcode.NOTIMP):
            break  # those three come from servers that do not know EDNS (RFC 6891 §7)
    if response.rcode() not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
        raise Unusable(dns.rcode.to_text(response.rcode()))
    return _read(response, qname, rdtype)


class _Exchange(asyncio.DatagramProtocol):
    """Waits on a connected socket for the one datagram that answers `query`; others are ignored."""

    def __init__(self, query: dns.message.Message, answer: asyncio.Future[dns.message.Message]) -> None:
        self._query = query
        self._answer = answer

    def datagram_received(self, data: bytes, addr: tuple[str | object, int]) -> None:
        response = _parse(data, self._query)
        if response is not None and not self._answer.done():
            self._answer.set_result(response)

    def error_received(self, exc: Exception) -> None:
        if not self._answer.done():
            self._answer.set_exception(exc)


async def _ask_udp(server: Nameserver, query: dns.message.Message) -> dns.message.Message:
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[dns.message.Message] = loop.create_future()
    # Connected: the kernel drops what comes from elsewhere and reports a closed port at once.
    transport, _ = await loop.create_datagram_endpoint(lambda: _Exchange(query, answer), remote_addr=server)
    try:
        transport.sendto(query.to_wire())
        return await answer
    finally:
        transport.close()


async def _ask_tcp(server: Nameserver, query: dns.message.Message) -> dns.message.Message:
    stream = await connect(server[0], server[1], TRY_TIMEOUT)
    try:
        wire = query.to_wire()
        stream.write(struct.pack("!H", len(wire)) + wire)
        data = b""
        while len(data) < 2 or len(data) < 2 + struct.unpack_from("!H", data)[0]:
            more = await stream.read(TRY_TIMEOUT)
            if not more:
                raise ConnectionResetError("connection closed before the answer")
            data += more
    finally:
        stream.close()
    response = _parse(data[2 : 2 + struct.unpack_from("!H", data)[0]], query)
    if response is None:
        raise Unusable("with a message that does not fit the question")
    return response


def _parse(data: bytes, query: dns.message.Message) -> dns.message.Message | None:
    """The message if it answers `query` (QR, id, question), else None."""
    import dns.exception
    import dns.message

    try:
        response = dns.message.from_wire(data, ignore_trailing=True)
        return response if query.is_response(response) else None
    except (dns.exception.DNSException, ValueError, IndexError, struct.error):
        return None


def _read(response: dns.message.Message, qname: dns.name.Name, rdtype: RecordType) -> Outcome:
    """The records of the answer, aliases followed as far as it goes."""
    import dns.flags
    import dns.rcode
    import dns.rdataclass
    import dns.rdatatype

    kind = dns.rdatatype.from_text(rdtype)
    name, ttl = qname, 1 << 31
    for _ in range(ALIAS_LIMIT):
        rrset = response.get_rrset(response.answer, name, dns.rdataclass.IN, kind)
        if rrset is not None:
            secure = bool(response.flags & dns.flags.AD)
            return Outcome(
                "found", _records(rrset), min(ttl, rrset.ttl), name=_name_text(name).lower(), secure=secure
            )
        alias = response.get_rrset(response.answer, name, dns.rdataclass.IN, dns.rdatatype.CNAME)
        if alias is None:
            break
        name, ttl = cast("dns.name.Name", alias[0].target), min(ttl, alias.ttl)
    final, secure = _name_text(name).lower(), bool(response.flags & dns.flags.AD)
    soa = next((rrset for rrset in response.authority if rrset.rdtype == dns.rdatatype.SOA), None)
    negative = min(soa.ttl, soa[0].minimum) if soa is not None else 0
    if response.rcode() == dns.rcode.NXDOMAIN:
        return Outcome("nxdomain", ttl=min(ttl, negative), reason="name not found", secure=secure)
    if name != qname and soa is None:
        return Outcome("nodata", ttl=ttl, alias=name.to_text(omit_final_dot=True), secure=secure)
    return Outcome("nodata", ttl=min(ttl, negative), name=final, secure=secure)


def _records(rrset: dns.rrset.RRset) -> tuple[tuple[int, str], ...]:
    import dns.rdatatype

    match rrset.rdtype:
        case dns.rdatatype.MX:
            return tuple((rd.preference, _name_text(rd.exchange)) for rd in rrset)
        case dns.rdatatype.PTR | dns.rdatatype.NS | dns.rdatatype.CNAME:
            return tuple((0, _name_text(rd.target)) for rd in rrset)
        case dns.rdatatype.TXT:
            return tuple((0, b"".join(rd.strings).decode("utf-8", "replace")) for rd in rrset)
        case dns.rdatatype.A | dns.rdatatype.AAAA:
            return tuple((0, rd.address) for rd in rrset)
        case dns.rdatatype.TLSA:
            return tuple((0, f"{rd.usage} {rd.selector} {rd.mtype} {rd.cert.hex()}") for rd in rrset)
        case _:
            return tuple((0, rd.to_text()) for rd in rrset)


def _name_text(name: dns.name.Name) -> str:
    """Without the final dot; the root, and so a null MX, is ''."""
    text: Final = name.to_text(omit_final_dot=True)
    return "" if text in (".", "@") else text
