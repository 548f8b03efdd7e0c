"""The records that the rendered zones hold, for whoever types them into a registrar's form."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mailstack.client.endpoints import Endpoints
    from mailstack.render import Facts
    from mailstack.spec import Stack

OWN = frozenset({"SOA", "NS"})
"""Types that the registrar's own name servers have already."""


@dataclass(frozen=True, slots=True)
class ZoneRecord:
    """One record; `name` is absolute, `data` in zone-file form. `zone` has no final dot."""

    zone: str
    name: str
    ttl: int
    type: str
    data: str

    def line(self) -> str:
        """The record as a line of a zone file."""
        return f"{self.name}\t{self.ttl}\tIN\t{self.type}\t{self.data}"


@dataclass(frozen=True, slots=True)
class Policy:
    """The text of a domain's MTA-STS policy, and where others look for it (RFC 8461 §3.3)."""

    domain: str
    url: str
    text: str


def published_records(stack: Stack, facts: Facts) -> list[ZoneRecord]:
    """The records of every domain, for a server on the standard ports, in the zone files' order.

    Addresses of a domain that gives no `address:` are left out: nobody else could reach them.
    """
    import dns.rdatatype
    import dns.zone

    from mailstack.render import render
    from mailstack.render.site import site_for_host

    site = site_for_host(
        PurePosixPath("/etc/mailstack"),
        stack,
        passwords={address: "unused" for address, _ in stack.users()},  # no zone depends on them
        salt_secret=b"unused",
        today=date.today(),
        facts=facts,
    )
    files = render(stack, site).files
    own = {str(address) for address in (site.addresses.dns, site.addresses.mta, site.addresses.mailbox)}
    records = []
    for name, domain in stack.domains.items():
        text = files[f"bind/zones/{name}.zone"].data.decode()
        zone = dns.zone.from_text(text, origin=name, relativize=False, check_origin=False)
        for owner, ttl, rdata in zone.iterate_rdatas():
            kind = dns.rdatatype.to_text(rdata.rdtype)
            data = rdata.to_text()
            if kind in OWN or (kind == "A" and domain.address is None and data in own):
                continue
            records.append(ZoneRecord(name, owner.to_text(), ttl, kind, data))
    return records


def pointers(stack: Stack) -> list[ZoneRecord]:
    """What whoever gave the addresses has to set: the mail host's name for each (RFC 1912 §2.1)."""
    found: dict[str, ZoneRecord] = {}
    for domain in stack.domains.values():
        for address in (domain.address, domain.address6):
            if address is not None:
                name = f"{address.reverse_pointer}."
                zone = name.split(".", 1 if address.version == 4 else 16)[-1].removesuffix(".")
                found.setdefault(name, ZoneRecord(zone, name, stack.dns.ttl, "PTR", f"{domain.hostname}."))
    return list(found.values())


def delegations(stack: Stack, endpoints: Endpoints) -> list[ZoneRecord]:
    """The DS records that the zones above have to have, as the running server wants them (RFC 7344).

    Raises `ClientError` when it does not answer.
    """
    from mailstack.client import dns

    found = []
    for name in stack.domains:
        answer = dns.ask(endpoints, dns.question(f"{name}.", "CDS"))
        found += [
            ZoneRecord(name.partition(".")[2], f"{name}.", record.ttl, "DS", record.data)
            for record in answer.answers
            if record.type == "CDS"
        ]
    return found


def policies(stack: Stack) -> list[Policy]:
    """The MTA-STS policies to serve over HTTPS: nothing of the stack does."""
    from mailstack.render.records import mta_sts_policy

    return [
        Policy(name, f"https://mta-sts.{name}/.well-known/mta-sts.txt", text)
        for name in stack.domains
        if (text := mta_sts_policy(stack, name)) is not None
    ]
