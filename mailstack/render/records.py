"""The DNS records of each domain: what the zone files hold, and what to give to a registrar.

Owners are absolute and lower-case without the final dot; data is in zone-file form with absolute names.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from ipaddress import IPv4Address
from typing import Any, Literal

from mailstack.render import escape
from mailstack.render.site import OWNERS, STANDARD_PORTS, ServiceName, Site
from mailstack.spec import records as extra
from mailstack.spec.model import Stack

_READERS: tuple[Literal["imap", "pop3"], ...] = ("imap", "pop3")
_SRV: tuple[ServiceName, ...] = ("submission", "submissions", "imap", "imaps", "pop3", "pop3s")
TLSA_TTL = 3600
"""Seconds, at most: a record that outlives its certificate keeps others from sending (RFC 7671 §8.1)."""
POLICY_AGE = 604_800
"""Seconds for which others keep an MTA-STS policy (RFC 8461 §3.2)."""
NO_SERVICE = "0 0 0 ."
"""An SRV record's data: there is no such service here (RFC 2782)."""


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
    taken = {record.owner for record in own}
    caa = any((record.owner, record.type) == (name, "CAA") for record in own)
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
            "What others do with mail that only claims to be from here, and whom they tell (RFC 7489).",
            _unless(taken, _dmarc(stack, name)),
        ),
        Group("Keys of the signatures under outgoing mail (RFC 6376).", _unless(taken, _dkim(site, name))),
        Group(
            "Where mail programs find their servers; '.': there is no such service (RFC 6186, RFC 8314).",
            _unless(taken, _services(stack, site, name), absent_only=True),
        ),
        Group("Names that mail programs try for their settings.", _unless(taken, _settings(stack, name))),
        Group(
            "That there is an MTA-STS policy, and whom others tell about TLS (RFC 8461, RFC 8460).",
            _unless(taken, _transport(stack, name)),
        ),
        Group(
            "The key in the servers' certificate, for those who check it by DNSSEC (RFC 6698, RFC 7672).",
            _unless(taken, _tlsa(stack, site, name)),
        ),
        Group(
            "Who may issue certificates, and whom the others tell that they were asked to (RFC 8659).",
            () if caa else tuple(_authorities(stack, name)),
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
            if stack.domains[name].address6 is not None:
                yield Record(host, "AAAA", str(stack.domains[name].address6))


def _services(stack: Stack, site: Site, name: str) -> Iterator[Record]:
    hosts = {
        "submission": stack.domains[name].hostname,
        "submissions": stack.domains[name].hostname,
        "imap": f"imap.{name}",
        "imaps": f"imap.{name}",
        "pop3": f"pop3.{name}",
        "pop3s": f"pop3.{name}",
    }
    for service in _SRV:
        owner = f"_{service}._tcp.{name}"
        if service not in stack.services:
            yield Record(owner, "SRV", NO_SERVICE)
            continue
        # Priority: what is encrypted from the first octet comes first (RFC 8314 §3.3).
        priority = 0 if service.endswith("s") else 10
        yield Record(owner, "SRV", f"{priority} 1 {port_of(stack, site, name, service)} {hosts[service]}.")


def _unless(taken: set[str], records: Iterator[Record], *, absent_only: bool = False) -> tuple[Record, ...]:
    """Records whose names the spec has none under; with `absent_only` just "no such service" gives way."""
    return tuple(
        record
        for record in records
        if record.owner not in taken or (absent_only and record.data != NO_SERVICE)
    )


def reports_to(stack: Stack, name: str) -> str:
    """The address that gets others' reports about the domain."""
    given = stack.domains[name].reports or "postmaster"
    return given if "@" in given else f"{given}@{name}"


def _dmarc(stack: Stack, name: str) -> Iterator[Record]:
    policy = stack.domains[name].dmarc
    if policy != "off":
        text = f"v=DMARC1; p={policy}; rua=mailto:{reports_to(stack, name)}"
        yield Record(f"_dmarc.{name}", "TXT", escape.zone_text(text))


def _dkim(site: Site, name: str) -> Iterator[Record]:
    for (domain, selector), text in site.facts.dkim.items():
        if domain == name:
            yield Record(f"{selector}._domainkey.{name}", "TXT", escape.zone_text(text))


def _settings(stack: Stack, name: str) -> Iterator[Record]:
    host = stack.domains[name].hostname
    for word in ("autoconfig", "autodiscover"):
        if host != f"{word}.{name}":
            yield Record(f"{word}.{name}", "CNAME", f"{host}.")


def mta_sts_policy(stack: Stack, name: str) -> str | None:
    """What to serve at `https://mta-sts.DOMAIN/.well-known/mta-sts.txt` (RFC 8461 §3.2); None: nothing."""
    domain = stack.domains[name]
    if stack.tls.mode == "off" or domain.mta_sts == "off":
        return None
    own = (_own_record(line, name) for line in domain.records)
    exchangers = [record.data.split()[1] for record in own if (record.owner, record.type) == (name, "MX")]
    hosts = dict.fromkeys((domain.hostname, *(host.lower().removesuffix(".") for host in exchangers)))
    lines = ("version: STSv1", f"mode: {domain.mta_sts}", *(f"mx: {host}" for host in hosts))
    return "".join(f"{line}\n" for line in (*lines, f"max_age: {POLICY_AGE}"))


def _transport(stack: Stack, name: str) -> Iterator[Record]:
    policy = mta_sts_policy(stack, name)
    if policy is not None:
        # The id has to change with the policy, and with nothing else (RFC 8461 §3.1).
        ident = hashlib.sha256(policy.encode()).hexdigest()[:20]
        yield Record(f"_mta-sts.{name}", "TXT", escape.zone_text(f"v=STSv1; id={ident};"))
        if stack.domains[name].hostname != f"mta-sts.{name}":
            yield Record(f"mta-sts.{name}", "CNAME", f"{stack.domains[name].hostname}.")
    if stack.tls.mode != "off":
        text = f"v=TLSRPTv1; rua=mailto:{reports_to(stack, name)}"
        yield Record(f"_smtp._tls.{name}", "TXT", escape.zone_text(text))


def _tlsa(stack: Stack, site: Site, name: str) -> Iterator[Record]:
    digest = site.facts.key_digest
    if stack.tls.mode == "off" or digest is None:
        return
    hosts = {"imap": f"imap.{name}", "pop3": f"pop3.{name}"}
    ttl = TLSA_TTL if stack.dns.ttl > TLSA_TTL else None
    services: tuple[ServiceName, ...] = ("smtp", *_SRV)
    for service in services:
        if service in stack.services:
            host = hosts.get(service.removesuffix("s"), stack.domains[name].hostname)
            port = port_of(stack, site, name, service)
            yield Record(f"_{port}._tcp.{host}", "TLSA", f"3 1 1 {digest}", ttl)


def _authorities(stack: Stack, name: str) -> Iterator[Record]:
    for authority in stack.domains[name].caa:
        yield Record(name, "CAA", f'0 issue "{authority}"')
    yield Record(name, "CAA", f'0 iodef "mailto:{reports_to(stack, name)}"')


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
