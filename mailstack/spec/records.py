"""Extra DNS records of a spec: parsed by dnspython, checked against the zone that they go into.

`parse` turns one line of a zone file into an owner, a TTL, a type and the data in canonical text; what comes
out is what is written into the rendered zone, so nothing of the line's own spelling survives. dnspython is
imported only when a record needs it: addresses, by far the most common ones, do not.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from ipaddress import AddressValueError, IPv4Address
from typing import NamedTuple

from mailstack.spec.fields import printable, quoted
from mailstack.spec.model import Stack

_SIMPLE = re.compile(
    r"(@|[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,62})(?:\.[A-Za-z0-9_][A-Za-z0-9_-]{0,62}){0,3})"
    r"[ \t]+(?:([0-9]{1,9})[ \t]+)?(?:[Ii][Nn][ \t]+)?[Aa][ \t]+([0-9.]{7,15})[ \t]*\Z"
)
MAX_LINE = 4096
_REFUSED = frozenset(
    ("SOA", "DNSKEY", "RRSIG", "NSEC", "NSEC3", "NSEC3PARAM", "OPT", "TSIG", "TKEY", "SIG", "NXT")
)
_HOST_FIELD = {"NS": 0, "MX": 1, "SRV": 3}
"""Where the data of a type names a host, which must then have an address."""


class Record(NamedTuple):
    """One record. `owner` is absolute, lower-case, without the final dot; names in `data` are absolute."""

    owner: str
    ttl: int | None
    type: str
    data: str


def parse(line: str, domain: str) -> Record:
    """Read one record of the zone `domain`. Raises `ValueError` saying what to write instead."""
    if len(line.encode("utf-8", "replace")) > MAX_LINE:
        raise ValueError(f"is longer than {MAX_LINE} octets; split it into several records")
    if not line.isascii() or not line.replace("\t", " ").isprintable():
        raise ValueError(
            "holds a line break or a character outside ASCII; write one record, names in their xn-- form"
        )
    if line[:1] in ("", " ", "\t", ";", "$", "("):
        raise ValueError(
            f"{quoted(line)} does not begin with a name; write one record, such as www IN A 192.0.2.80"
        )
    simple = _SIMPLE.match(line)
    if simple is not None:
        try:
            address = IPv4Address(simple[3])
        except AddressValueError:
            raise ValueError(
                f"{quoted(simple[3])} is not an IPv4 address; write one such as 192.0.2.80"
            ) from None
        owner = domain if simple[1] == "@" else f"{simple[1].lower()}.{domain}"
        if len(owner) <= 253:
            return Record(owner, _ttl(simple[2]), "A", str(address))
    return _parse_any(line, domain)


def _ttl(text: str | None) -> int | None:
    if text is None:
        return None
    if int(text) > 0x7FFFFFFF:
        raise ValueError(f"{text} is too long a time to live; write one of at most 2147483647 seconds")
    return int(text)


def _parse_any(line: str, domain: str) -> Record:
    import dns.exception
    import dns.name
    import dns.rdataclass
    import dns.rdatatype
    import dns.zonefile

    origin = dns.name.from_text(f"{domain}.")
    try:
        # A TTL that no record would give marks those without one.
        rrsets = dns.zonefile.read_rrsets(
            line, rdclass=None, origin=origin, relativize=False, default_ttl=0x7FFFFFFE
        )
    except (dns.exception.DNSException, ValueError, OSError) as error:
        reason = printable(str(error).strip() or type(error).__name__).removeprefix("<input>:1: ").rstrip(".")
        raise ValueError(
            f"{quoted(line)} is not a record in zone-file form ({reason}); "
            "write NAME IN TYPE DATA, such as www IN A 192.0.2.80"
        ) from None
    if not rrsets:  # dnspython drops what does not belong to the zone
        owner = quoted(line.split()[0])
        raise ValueError(f"{owner} does not lie in {domain}; leave the final dot out, or move the record")
    if len(rrsets) != 1 or len(rrsets[0]) != 1:
        raise ValueError(f"{quoted(line)} is not one record; write one record, such as www IN A 192.0.2.80")
    rrset = rrsets[0]
    kind = dns.rdatatype.to_text(rrset.rdtype)
    if rrset.rdclass != dns.rdataclass.IN:
        raise ValueError(f"{quoted(line)} is not of class IN; write IN")
    if kind.startswith("TYPE"):
        raise ValueError(
            f"{quoted(line)} has a type that is not known here; write a known type such as A, TXT or CNAME"
        )
    ttl = None if rrset.ttl == 0x7FFFFFFE else rrset.ttl
    owner = rrset.name.to_text(omit_final_dot=True).lower()
    return Record(owner, ttl, kind, rrset[0].to_text(origin=None, relativize=False))


def generated_owners(stack: Stack, name: str) -> dict[str, set[str]]:
    """Owner -> types of the records that every zone has, whatever `records` adds.

    Others that are made (DMARC, TLSA, `autoconfig` and the like) give way to a record under their name.
    """
    host = stack.domains[name].hostname
    owners: dict[str, set[str]] = {name: {"SOA", "NS", "MX", "TXT"}}
    hosts = {host, f"dns.{name}"}
    for protocol in ("imap", "pop3"):
        if protocol in stack.mailbox.protocols:
            hosts.add(f"{protocol}.{name}")
    kinds = {"A"} if stack.domains[name].address6 is None else {"A", "AAAA"}
    for owner in hosts:
        owners.setdefault(owner, set()).update(kinds)
    for service in stack.services:
        if service not in ("smtp", "lmtp", "dns"):
            owners.setdefault(f"_{service}._tcp.{name}", set()).add("SRV")
    if name == stack.primary and stack.domains[name].address is None:
        # Names for every other address of the stack's own network.
        owners |= {f"host-{number}.{name}": {"A"} for number in range(256)}
    return owners


def problems(stack: Stack, name: str) -> Iterator[tuple[int, str]]:
    """What is wrong with each record of the domain `name`: its index and the message."""
    generated = generated_owners(stack, name)
    children = [other for other in stack.domains if other.endswith(f".{name}")]
    seen: dict[tuple[str, str], list[Record]] = {}
    types: dict[str, set[str]] = {owner: set(kinds) for owner, kinds in generated.items()}
    hosts: dict[int, str] = {}
    for index, line in enumerate(stack.domains[name].records):
        try:
            record = parse(line, name)
        except ValueError as error:
            yield index, str(error)
            continue
        fault = _conflict(record, name, children, generated, types, seen)
        if fault is not None:
            yield index, fault
            continue
        if record.ttl not in (None, stack.dns.ttl) and record.type in generated.get(record.owner, ()):
            yield index, f"adds to {record.type} records that the stack makes; leave its time to live out"
            continue
        types.setdefault(record.owner, set()).add(record.type)
        seen.setdefault((record.owner, record.type), []).append(record)
        if record.type in _HOST_FIELD:
            hosts[index] = record.data.split()[_HOST_FIELD[record.type]].removesuffix(".").lower()
    for index, host in hosts.items():
        inside = (host == name or host.endswith(f".{name}")) and not _below(host, children)
        if inside and not types.get(host, set()) & {"A", "AAAA"} and not _delegated(host, name, types):
            yield index, f"{host} has no address in this zone; add a record such as '{host}. IN A 192.0.2.80'"


def _below(owner: str, names: list[str]) -> str | None:
    """The one of `names` that `owner` is or lies under."""
    return next((name for name in names if owner == name or owner.endswith(f".{name}")), None)


def _delegated(host: str, name: str, types: dict[str, set[str]]) -> bool:
    return (
        _below(host, [owner for owner, kinds in types.items() if "NS" in kinds and owner != name]) is not None
    )


def _conflict(
    record: Record,
    name: str,
    children: list[str],
    generated: dict[str, set[str]],
    types: dict[str, set[str]],
    seen: dict[tuple[str, str], list[Record]],
) -> str | None:
    owner, kind = record.owner, record.type
    child = _below(owner, children)
    if child is not None:
        return f"{owner} belongs to the zone {child}, which this file has too; move it there"
    if kind in _REFUSED:
        return f"{kind} records are made by the name server itself; remove it"
    if kind == "NS" and owner != name and types.get(owner, set()) - {"NS"}:
        return f"{owner} has other records; a delegated name has only NS records: use another name"
    if kind != "NS" and owner != name and "NS" in types.get(owner, ()):
        return f"{owner} is delegated by an NS record already; use another name"
    if kind in ("A", "AAAA") and kind in generated.get(owner, ()):
        key = "address" if kind == "A" else "address6"
        return f"{owner} has its {kind} record already; set {key}: of the domain instead, or use another name"
    others = types.get(owner, set())
    if kind == "CNAME" and others:
        what = "made by the stack" if owner in generated else "given above"
        known = ", ".join(sorted(others))
        return f"{owner} has other records ({known}, {what}); a CNAME must be alone: use another name"
    if kind != "CNAME" and "CNAME" in others:
        return f"{owner} is a CNAME already; a CNAME must be alone: use another name"
    if kind == "DNAME" and any(known.endswith(f".{owner}") for known in types):
        return f"there are records below {owner}; a DNAME must have none: use another name"
    same = seen.get((owner, kind), [])
    if any(other.data == record.data for other in same):
        return "is given twice; keep one"
    if any(other.ttl != record.ttl for other in same):
        return f"has another time to live than the {kind} record of {owner} above; give both the same"
    return None
