"""The records that the rendered zones hold, for whoever types them into a registrar's form."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mailstack.spec import Stack

OWN = frozenset({"SOA", "NS"})
"""Types that the registrar's own name servers have already."""


@dataclass(frozen=True, slots=True)
class ZoneRecord:
    """One record; `name` is absolute, `data` in zone-file form."""

    zone: str
    name: str
    ttl: int
    type: str
    data: str


def published_records(stack: Stack) -> list[ZoneRecord]:
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
