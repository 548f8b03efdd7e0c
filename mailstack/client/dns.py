"""Ask the stack's DNS server."""

from __future__ import annotations

import socket
import time
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING

from mailstack.client.endpoints import Endpoints
from mailstack.client.errors import ClientError

if TYPE_CHECKING:
    from dns.message import Message, QueryMessage
    from dns.rrset import RRset

EDNS_PAYLOAD = 1232
"""Octets of an answer over UDP (DNS flag day 2020)."""
TRIES = 3
"""Datagrams that are sent for one question, as dig(1) does."""


@dataclass(frozen=True, slots=True)
class Record:
    """One resource record in zone-file form."""

    name: str
    ttl: int
    type: str
    data: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What the server said; `rcode` and `flags` in DNS's own words (`NXDOMAIN`; `QR`, `AA`)."""

    name: str
    type: str
    server: str
    rcode: str
    flags: tuple[str, ...]
    answers: tuple[Record, ...]
    authority: tuple[Record, ...]
    additional: tuple[Record, ...]
    seconds: float


def in_order(first: str, second: str) -> tuple[str, str]:
    """Name and type, which people write in either order: `MX example.test` is `example.test MX`."""
    if _is_type(first) and not _is_type(second):
        return second, first
    return first, second


def _is_type(text: str) -> bool:
    import dns.rdatatype

    try:
        dns.rdatatype.from_text(text)
    except dns.exception.DNSException:
        return False
    return "." not in text


def question(name: str, kind: str) -> QueryMessage:
    """A query with EDNS. An address asked for its PTR becomes its reverse name. Raises `ValueError`."""
    import dns.message
    import dns.name
    import dns.rdatatype
    import dns.reversename

    try:
        rdtype = dns.rdatatype.from_text(kind)
    except dns.exception.DNSException:
        raise ValueError(f"'{kind}' is not a record type such as A, MX, TXT, SRV or PTR") from None
    try:
        target = dns.name.from_text(name)
        if rdtype == dns.rdatatype.PTR:
            try:
                target = dns.reversename.from_address(str(ip_address(name)))
            except ValueError:
                pass
    except dns.exception.DNSException as error:
        raise ValueError(f"'{name}' is not a domain name: {error}") from None
    return dns.message.make_query(target, rdtype, use_edns=0, payload=EDNS_PAYLOAD)


def ask(endpoints: Endpoints, query: QueryMessage, *, timeout: float = 5.0, tcp: bool = False) -> Answer:
    """Send a query over UDP, again over TCP when the answer is truncated. Raises `ClientError`.

    A datagram may be lost on the way to a container and back: it is sent `TRIES` times in `timeout` seconds.
    """
    import dns.exception
    import dns.flags
    import dns.query

    _, port = endpoints.port("dns")
    host = endpoints.host
    where = f"dns at {host} port {port}"
    started = time.perf_counter()
    try:
        if tcp:
            reply = dns.query.tcp(query, host, timeout, port)
        else:
            reply = _ask_by_udp(query, host, port, timeout)
            if reply.flags & dns.flags.TC:
                reply = dns.query.tcp(query, host, timeout, port)
    except (dns.exception.DNSException, OSError, EOFError) as error:
        reason = f"no answer within {timeout:g} s" if isinstance(error, dns.exception.Timeout) else error
        raise ClientError(
            "unreachable",
            f"{where}: {reason}",
            hint="is the stack up? See 'mailstack status'",
            unreachable=True,
        ) from None
    return _answer(reply, f"{host}:{port}", time.perf_counter() - started)


def _ask_by_udp(query: QueryMessage, host: str, port: int, timeout: float) -> Message:
    """The first answer, to whichever of the tries it is. Raises what dnspython raises."""
    import dns.exception
    import dns.query

    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        left = TRIES
        while True:
            left -= 1
            try:
                return dns.query.udp(query, host, timeout / TRIES, port, sock=sock)
            except dns.exception.Timeout:
                if not left:
                    raise


def _answer(reply: Message, server: str, seconds: float) -> Answer:
    import dns.flags
    import dns.rcode
    import dns.rdatatype

    asked = reply.question[0]
    return Answer(
        name=asked.name.to_text(),
        type=dns.rdatatype.to_text(asked.rdtype),
        server=server,
        rcode=dns.rcode.to_text(reply.rcode()),
        flags=tuple(dns.flags.to_text(reply.flags).split()),
        answers=_records(reply.answer),
        authority=_records(reply.authority),
        additional=_records(reply.additional),
        seconds=seconds,
    )


def _records(section: list[RRset]) -> tuple[Record, ...]:
    import dns.rdatatype

    return tuple(
        Record(rrset.name.to_text(), rrset.ttl, dns.rdatatype.to_text(rrset.rdtype), rdata.to_text())
        for rrset in section
        for rdata in rrset
    )
