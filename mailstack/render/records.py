"""The DNS records of each domain: what the zone files hold, and what to give to a registrar.

Owners are absolute and lower-case without the final dot; data is in zone-file form with absolute names.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from ipaddress import IPv4Address
from typing import Any, Literal

from mailstack.render import escape
from mailstack.render.site import OWNERS, STANDARD_PORTS, ServiceName, Site
from mailstack.spec import records as extra
from mailstack.spec.model import Stack

_READERS: tuple[Literal["imap", "pop3"], ...] = ("imap", "pop3")


@dataclass(frozen=True, slots=True)
class Record:
    """One resource record of class IN. `ttl` is None where the zone's own holds."""

    owner: str
    type: str
    data: str
    ttl: int | None = None

    def zone_form(self) -> str:
        """The record as a line of a zone file, with an absolute name."""
        ttl = "" if self.ttl is None else f"{self.ttl} "
        return f"{self.owner}. {ttl}IN {self.type} {self.data}"

    def as_json(self) -> dict[str, Any]:
        """The record as plain values."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Group:
    """Records that belong together, under a heading that says what they are for."""

    title: str
    records: tuple[Record, ...]


def domain_records(stack: Stack, site: Site, name: str) -> tuple[Record, ...]:
    """Every record of the domain but its SOA, in the zone file's order."""
    return tuple(record for group in domain_groups(stack, site, name) for record in group.records)


def domain_groups(stack: Stack, site: Site, name: str) -> tuple[Group, ...]:
    """The same under headings."""
    domain = stack.domains[name]
    own = [_own_record(line, name) for line in domain.records]
    children = [other for other in stack.domains if other != name and other.endswith(f".{name}")]
    spf = any(record.owner == name and record.data.lower().startswith('"v=spf1') for record in own)
    groups = (
        Group("Name servers of this zone.", (Record(name, "NS", f"dns.{name}."),)),
        Group("Mail for the domain goes to this host.", (Record(name, "MX", f"10 {domain.hostname}."),)),
        Group("Addresses.", tuple(_addresses(stack, site, name))),
        Group(
            "Who may send mail with this domain: its MX hosts, nobody else (RFC 7208).",
            () if spf else (Record(name, "TXT", escape.zone_text("v=spf1 mx -all")),),
        ),
        Group(
            "Where mail programs find their servers (RFC 6186, RFC 8314).",
            tuple(_services(stack, site, name)),
        ),
        Group("Zones below this one.", tuple(_delegations(stack, site, children))),
        Group("From mailstack.yaml.", tuple(own)),
    )
    seen: set[tuple[str, str, str]] = set()
    return tuple(Group(group.title, tuple(_fresh(group.records, children, seen))) for group in groups)


def address_of(stack: Stack, site: Site, name: str, service: ServiceName) -> IPv4Address:
    """The address that the zone `name` publishes for a service."""
    published = stack.domains[name].address
    if published is not None:
        return published
    where = site.reachable.get(service)
    if where is not None and where.address:
        address = IPv4Address(where.address)
        if not address.is_unspecified:
            return address
    return IPv4Address(getattr(site.addresses, OWNERS[service]))


def port_of(stack: Stack, site: Site, name: str, service: ServiceName) -> int:
    """The port that the zone publishes: the standard one where the spec gives a public address."""
    where = site.reachable.get(service)
    if where is None or stack.domains[name].address is not None:
        return STANDARD_PORTS[service]
    return where.port


def _own_record(line: str, name: str) -> Record:
    parsed = extra.parse(line, name)
    return Record(parsed.owner, parsed.type, parsed.data, parsed.ttl)


def _addresses(stack: Stack, site: Site, name: str) -> Iterator[Record]:
    hosts: list[tuple[str, ServiceName]] = [(stack.domains[name].hostname, "smtp"), (f"dns.{name}", "dns")]
    hosts += [(f"{word}.{name}", word) for word in _READERS if word in stack.mailbox.protocols]
    done: set[str] = set()
    for host, service in hosts:
        if host not in done:
            done.add(host)
            yield Record(host, "A", str(address_of(stack, site, name, service)))


def _services(stack: Stack, site: Site, name: str) -> Iterator[Record]:
    hosts = {
        "submission": stack.domains[name].hostname,
        "submissions": stack.domains[name].hostname,
        "imap": f"imap.{name}",
        "imaps": f"imap.{name}",
        "pop3": f"pop3.{name}",
        "pop3s": f"pop3.{name}",
    }
    for service in STANDARD_PORTS:
        if service in hosts and service in stack.services:
            # Priority: what is encrypted from the first octet comes first (RFC 8314 §3.3).
            priority = 0 if service.endswith("s") else 10
            port = port_of(stack, site, name, service)
            yield Record(f"_{service}._tcp.{name}", "SRV", f"{priority} 1 {port} {hosts[service]}.")


def _delegations(stack: Stack, site: Site, children: Sequence[str]) -> Iterator[Record]:
    for child in children:
        if any(child.endswith(f".{other}") for other in children):
            continue  # that one's own parent zone delegates it
        yield Record(child, "NS", f"dns.{child}.")
        yield Record(f"dns.{child}", "A", str(address_of(stack, site, child, "dns")))


def _fresh(
    records: Sequence[Record], children: Sequence[str], seen: set[tuple[str, str, str]]
) -> Iterator[Record]:
    """Records that were not there before and that do not lie in a zone of their own."""
    for record in records:
        key = (record.owner, record.type, record.data)
        below = any(record.owner == child or record.owner.endswith(f".{child}") for child in children)
        glue = record.type == "NS" or (record.type == "A" and record.owner.removeprefix("dns.") in children)
        if key not in seen and (glue or not below):
            seen.add(key)
            yield record
