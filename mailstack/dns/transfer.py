"""Zone transfers out (AXFR, RFC 5936): a zone as a run of messages, SOA first and last."""

from __future__ import annotations

from collections.abc import Iterator

from mailstack.dns.message import AA, CD, QR, RD, Query, render
from mailstack.dns.zone import RRset, Zone

MESSAGE_SIZE = 16_384
"""Octets of one message: pointers reach all of it (RFC 5936 §3.4)."""


def messages(query: Query, zone: Zone, opt_record: bytes) -> Iterator[bytes]:
    """The messages of a transfer, made one at a time so that a large zone is never held twice."""
    flags = QR | AA | query.flags & (RD | CD)
    batch: list[tuple[bytes, RRset]] = []
    size = 0
    for owner, rrset in _single(zone):
        cost = len(owner) + 10 + _size(rrset)
        if batch and size + cost > MESSAGE_SIZE - 300:
            yield render(query, flags, batch, (), (), limit=65_535, opt_record=opt_record)
            batch, size = [], 0
        batch.append((owner, rrset))
        size += cost
    yield render(query, flags, batch, (), (), limit=65_535, opt_record=opt_record)


def _single(zone: Zone) -> Iterator[tuple[bytes, RRset]]:
    """Record by record, so that no set is too large for a message."""
    soa = zone.soa  # may be another one by the end
    for owner, rrset in zone.records():
        for rdata in rrset.rdatas:
            yield owner, RRset(rrset.rdtype, rrset.ttl, (rdata,))
    yield zone.apex.owner, soa


def _size(rrset: RRset) -> int:
    rdata = rrset.rdatas[0]
    if isinstance(rdata, bytes):
        return len(rdata)
    return len(rdata[0]) + sum(map(len, rdata[1])) + len(rdata[2])
