"""Whether a name server says of a domain what the spec says, record by record."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from mailstack.client.errors import ClientError

if TYPE_CHECKING:
    from dns.rdata import Rdata

_TAGS = ("v=spf1", "v=DMARC1", "v=STSv1", "v=TLSRPTv1")
"""What a TXT record begins with of which there must be one only; others beside it are nobody's business."""


_ABOVE = ("PTR", "DS")
"""Types whose records are in others' zones: the network's, and the one above."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A record that there should be. `name` is absolute, `data` in zone-file form."""

    name: str
    ttl: int
    type: str
    data: str


@dataclass(frozen=True, slots=True)
class Finding:
    """One record: it is there (`ok`), it should be (`missing`: add it), should not (`wrong`: remove it)."""

    state: Literal["ok", "missing", "wrong", "elsewhere"]
    """`elsewhere`: the server has no say in it, so that another one must be asked."""
    record: Wanted


class ElsewhereError(Exception):
    """The server that was asked is not one that could know."""


Ask = Callable[[str, str], Sequence[tuple[int, str]]]
"""The records of a name and a type, as TTL and data. Raises `ClientError` (no answer), `ElsewhereError`."""


def check(wanted: Iterable[Wanted], ask: Ask) -> list[Finding]:
    """What a server says, in the order of what is wanted. Raises `ClientError`."""
    sets: dict[tuple[str, str], list[Wanted]] = {}
    for record in wanted:
        sets.setdefault((record.name, record.type), []).append(record)
    findings: list[Finding] = []
    for (name, kind), records in sets.items():
        try:
            found = {_key(kind, data): Wanted(name, ttl, kind, data) for ttl, data in ask(name, kind)}
        except ElsewhereError:
            findings += [Finding("elsewhere", record) for record in records]
            continue
        if kind == "CNAME" and not found:
            findings += _flattened(records[0], ask)
            continue
        keys = {_key(kind, record.data): record for record in records}
        findings += [Finding("ok" if key in found else "missing", record) for key, record in keys.items()]
        tags = {tag for record in records for tag in _TAGS if _text(record.data).startswith(tag)}
        for key, record in found.items():
            rival = kind != "TXT" or any(_text(record.data).startswith(tag) for tag in tags)
            if kind == "CAA":  # without an authority of ours nobody's is in the way
                rival = any(" issue " in wanted.data for wanted in records)
            if key not in keys and rival:
                findings.append(Finding("wrong", record))
    return findings


def _flattened(alias: Wanted, ask: Ask) -> list[Finding]:
    """What is under the name of an alias that is not there: the same addresses will do."""
    target = {data for _, data in ask(alias.data, "A")}
    there = [Wanted(alias.name, ttl, "A", data) for ttl, data in ask(alias.name, "A")]
    if there and {record.data for record in there} == target:
        return [Finding("ok", alias)]
    return [Finding("missing", alias), *(Finding("wrong", record) for record in there)]


def _rdata(kind: str, data: str) -> Rdata:
    import dns.rdata
    import dns.rdataclass

    return dns.rdata.from_text(dns.rdataclass.IN, kind, data)


def _key(kind: str, data: str) -> bytes:
    """Equal for records that mean the same: names in any case, text in any pieces."""
    return _text(data).encode() if kind == "TXT" else _rdata(kind, data).to_digestable()


def _text(data: str) -> str:
    """The text of a TXT record; of another one, nothing that begins with a tag."""
    if not data.startswith('"'):
        return ""
    strings: tuple[bytes, ...] = _rdata("TXT", data).strings  # type: ignore[attr-defined]
    return b"".join(strings).decode("utf-8", "replace")


def address(server: str) -> tuple[str, int]:
    """`ADDR`, `ADDR:PORT`, `[ADDR]:PORT` or a host's name as address and port. Raises `ValueError`."""
    host, port = server, "53"
    if server.startswith("["):
        host, bracket, rest = server[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise ValueError(f"'{server}' is not [ADDRESS]:PORT")
        port = rest[1:] or "53"
    elif server.count(":") == 1:
        host, _, port = server.partition(":")
    if not port.isdecimal() or not 0 < int(port) < 65536:
        raise ValueError(f"'{port}' is not a port")
    try:
        return str(ipaddress.ip_address(host)), int(port)
    except ValueError:
        pass
    try:
        return str(socket.getaddrinfo(host, int(port), type=socket.SOCK_DGRAM)[0][4][0]), int(port)
    except (OSError, UnicodeError) as error:
        raise ValueError(f"'{host}' is not an address, and no host of that name is known: {error}") from None


def system_server() -> tuple[str, int]:
    """The first name server that this machine asks. Raises `ClientError` when it has none."""
    import dns.exception
    import dns.resolver

    try:
        resolver = dns.resolver.Resolver()
        return str(resolver.nameservers[0]), int(resolver.port)
    except (dns.exception.DNSException, IndexError):
        raise ClientError(
            "no-server", "this machine has no name server", hint="say which: --server ADDRESS"
        ) from None


def asker(host: str, port: int, timeout: float) -> Ask:
    """Questions to one server over UDP, and TCP when an answer is cut off."""

    def ask(name: str, kind: str) -> list[tuple[int, str]]:
        import dns.exception
        import dns.message
        import dns.query
        import dns.rcode
        import dns.rdatatype

        query = dns.message.make_query(name, kind, use_edns=0, payload=1232)
        try:
            reply, _ = dns.query.udp_with_fallback(query, host, timeout, port)
        except (dns.exception.DNSException, OSError, EOFError) as error:
            reason = f"no answer within {timeout:g} s" if isinstance(error, dns.exception.Timeout) else error
            raise ClientError(
                "unreachable",
                f"dns at {host} port {port}: {reason}",
                hint="say another one: --server ADDRESS",
                unreachable=True,
            ) from None
        if kind in _ABOVE:
            child = any(
                rrset.rdtype == dns.rdatatype.SOA and rrset.name == query.question[0].name
                for rrset in reply.authority
            )
            if reply.rcode() not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN) or (kind == "DS" and child):
                raise ElsewhereError
        return [
            (int(rrset.ttl), rdata.to_text())
            for rrset in reply.answer
            if dns.rdatatype.to_text(rrset.rdtype) == kind
            for rdata in rrset
        ]

    return ask
