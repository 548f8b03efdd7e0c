"""Change the zones of the stack's DNS server: dynamic updates (RFC 2136) signed with its key (RFC 8945).

`Change` is what is wanted, checked before anything is sent; `send` carries it out. A server ignores some
updates in silence (an alias beside other records, §3.4.2.2): those are found out and are errors here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mailstack.client import dns as questions
from mailstack.client.endpoints import Endpoints
from mailstack.client.errors import ClientError

if TYPE_CHECKING:
    from dns.message import Message
    from dns.rdata import Rdata
    from dns.update import UpdateMessage

KEY = "mailstack"
"""The name that the rendered configuration gives to the key."""
DEFAULT_TTL = 3600
"""Seconds, where the zone does not say."""
_SERVERS_OWN = frozenset(
    ("SOA", "RRSIG", "NSEC", "NSEC3", "NSEC3PARAM", "DNSKEY", "CDS", "CDNSKEY", "SIG", "NXT")
)


@dataclass(frozen=True, slots=True)
class Change:
    """What is to become of a name. All names are absolute, with their final dot."""

    zone: str
    name: str
    type: str | None
    """None: every type (only to remove)."""
    records: tuple[str, ...]
    """Data in zone-file form; none: the whole set (only to remove)."""


def change(name: str, kind: str | None, values: Sequence[str], zones: Sequence[str]) -> Change:
    """Check what was written. Raises `ValueError` that says what to write instead."""
    import dns.name
    import dns.rdatatype

    if kind is not None:
        name, kind = questions.in_order(name, kind)
    # the checks of a question hold here too, and an address becomes its reverse name
    asked = questions.question(name, kind or "A").question[0]
    if kind is not None:
        kind = dns.rdatatype.to_text(asked.rdtype)
        if kind in _SERVERS_OWN or dns.rdatatype.is_metatype(asked.rdtype):
            raise ValueError(f"{kind} records are the name server's own; others can be changed")
    origins = [dns.name.from_text(zone) for zone in zones]
    # a zone's DS record is the business of the zone above it (RFC 4035 §2.4)
    around = [one for one in origins if asked.name.is_subdomain(one) and (kind != "DS" or one != asked.name)]
    if not around and asked.name in origins:
        raise ValueError(f"the zone above '{name}' is not the stack's: its registrar takes the DS record")
    if not around:
        raise ValueError(f"'{name}' does not lie in a zone of the stack; they are {', '.join(zones)}")
    zone = max(around, key=len)
    if asked.name == zone and kind in ("NS", "CNAME"):
        raise ValueError(f"the {kind} record of a zone itself cannot be changed; write a name in it")
    records = tuple(rdata.to_text() for rdata in _rdatas(kind, values)) if kind is not None else ()
    if kind == "CNAME" and len(records) > 1:
        raise ValueError("a name is an alias of one name only; write one VALUE")
    return Change(zone.to_text(), asked.name.to_text(), kind, tuple(dict.fromkeys(records)))


def _rdatas(kind: str, values: Sequence[str]) -> list[Rdata]:
    """Each value is a record; where they are none, all of them together may be one: `MX 10 mail.x.test`."""
    try:
        return [_rdata(kind, value) for value in values]
    except ValueError:
        if len(values) < 2:
            raise
        try:
            return [_rdata(kind, " ".join(values))]
        except ValueError:
            pass
        raise


def _rdata(kind: str, value: str) -> Rdata:
    import dns.exception
    import dns.name
    import dns.rdata
    import dns.rdataclass

    text = value
    if kind in ("TXT", "SPF") and not value.lstrip().startswith('"'):
        octets = value.encode()
        parts = [octets[at : at + 255] for at in range(0, len(octets), 255)] or [b""]
        text = " ".join('"' + "".join(f"\\{octet:03d}" for octet in part) + '"' for part in parts)
    try:
        rdata = dns.rdata.from_text(dns.rdataclass.IN, kind, text, origin=dns.name.root, relativize=False)
        rdata.to_wire()
        return rdata
    except (dns.exception.DNSException, ValueError, OverflowError) as error:
        reason = str(error) or type(error).__name__
        raise ValueError(f"'{value}' is not the data of a record of type {kind}: {reason}") from None


def send(
    endpoints: Endpoints, secret: str, wanted: Change, *, remove: bool, ttl: int | None, timeout: float
) -> int:
    """Carry out a change; returns the time to live of what was set, in seconds. Raises `ClientError`."""
    import dns.tsigkeyring
    import dns.update

    keys = dns.tsigkeyring.from_text({KEY: secret})
    update = dns.update.UpdateMessage(wanted.zone, keyring=keys, keyalgorithm="hmac-sha256")
    there = _existing(endpoints, wanted, timeout)
    if remove:
        _removal(update, wanted, there)
        _exchange(endpoints, update, wanted, timeout)
        return 0
    assert wanted.type is not None
    life = ttl if ttl is not None else _ttl(endpoints, wanted, there, timeout)
    if wanted.type != "CNAME":
        alias = questions.ask(endpoints, questions.question(wanted.name, "CNAME"), timeout=timeout)
        if any(
            record.type == "CNAME" and record.name.lower() == wanted.name.lower() for record in alias.answers
        ):
            raise ClientError(
                "alias",
                f"{wanted.name} is an alias, beside which there can be nothing else",
                hint=f"remove that first: mailstack dns unset {wanted.name} CNAME",
            )
    update.delete(wanted.name, wanted.type)
    for data in wanted.records:
        update.add(wanted.name, life, wanted.type, data)
    _exchange(endpoints, update, wanted, timeout)
    if wanted.type == "CNAME":
        now = questions.ask(endpoints, questions.question(wanted.name, "CNAME"), timeout=timeout)
        if now.rcode == "NOERROR" and not any(record.type == "CNAME" for record in now.answers):
            raise ClientError(
                "not-alone",
                f"{wanted.name} has other records, beside which it cannot be an alias",
                hint=f"remove them first: mailstack dns unset {wanted.name}",
            )
    return life


def _existing(endpoints: Endpoints, wanted: Change, timeout: float) -> list[questions.Record]:
    """What there is under the name and type."""
    if wanted.type is None:
        return []
    answer = questions.ask(endpoints, questions.question(wanted.name, wanted.type), timeout=timeout)
    return [
        record
        for record in answer.answers
        if record.type == wanted.type and record.name.lower() == wanted.name.lower()
    ]


def _ttl(endpoints: Endpoints, wanted: Change, there: Sequence[questions.Record], timeout: float) -> int:
    """That of the records which are replaced, else that of the zone's SOA."""
    if there:
        return there[0].ttl
    answer = questions.ask(endpoints, questions.question(wanted.zone, "SOA"), timeout=timeout)
    return next((record.ttl for record in answer.answers if record.type == "SOA"), DEFAULT_TTL)


def _removal(update: UpdateMessage, wanted: Change, there: Sequence[questions.Record]) -> None:
    if wanted.type is None:
        update.present(wanted.name)
        update.delete(wanted.name)
        return
    update.present(wanted.name, wanted.type)
    if not wanted.records:
        update.delete(wanted.name, wanted.type)
        return
    have = {_rdata(wanted.type, record.data) for record in there}
    for data in wanted.records:
        if have and _rdata(wanted.type, data) not in have:
            raise ClientError("absent", f"there is no record {wanted.name} {wanted.type} {data}")
        update.delete(wanted.name, wanted.type, data)


def _exchange(endpoints: Endpoints, update: UpdateMessage, wanted: Change, timeout: float) -> Message:
    """Send an update over TCP. Raises `ClientError`."""
    import dns.exception
    import dns.query
    import dns.rcode

    _, port = endpoints.port("dns")
    where = f"dns at {endpoints.host} port {port}"
    try:
        reply = dns.query.tcp(update, endpoints.host, timeout, port)
    except dns.exception.Timeout:
        reason: object = f"no answer within {timeout:g} s"
    except (dns.exception.DNSException, OSError, EOFError) as error:
        reason = error
    else:
        if reply.rcode() in (dns.rcode.NXDOMAIN, dns.rcode.NXRRSET):
            what = f"{wanted.type} record of {wanted.name}" if wanted.type else f"record of {wanted.name}"
            raise ClientError("absent", f"there is no {what}")
        if reply.rcode() != dns.rcode.NOERROR:
            raise ClientError(
                f"dns-{dns.rcode.to_text(reply.rcode()).lower()}",
                f"{where} refuses the change: {dns.rcode.to_text(reply.rcode())}",
                hint="see 'mailstack logs dns'; 'mailstack up' gives the server this version's configuration",
            )
        return reply
    raise ClientError(
        "unreachable", f"{where}: {reason}", hint="is the stack up? See 'mailstack status'", unreachable=True
    ) from None
