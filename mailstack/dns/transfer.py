"""Zone transfers out as runs of messages (AXFR, RFC 5936; IXFR, RFC 1995): the SOA first and last."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from mailstack.dns.ixfr import Record, singles
from mailstack.dns.message import AA, CD, QR, RD, Query, render
from mailstack.dns.zone import RRset, Zone

MESSAGE_SIZE = 16_384
"""Octets of one message: pointers reach all of it (RFC 5936 §3.4)."""


def whole(zone: Zone) -> Iterator[Record]:
    """The records of a full transfer."""
    soa = zone.soa  # may be another one by the end
    yield from singles(zone)
    yield zone.apex.owner, soa


def incremental(zone: Zone, steps: Sequence[Record]) -> Iterator[Record]:
    """The records of an incremental transfer (RFC 1995 §4)."""
    soa = zone.apex.owner, zone.soa
    yield soa
    yield from steps
    yield soa


def messages(
    query: Query, records: Iterable[Record], opt_record: bytes, *, one_answer: bool = False
) -> Iterator[bytes]:
    """The messages of a transfer, made one at a time so that a large zone is never held twice.

    With `one_answer`, each has one record (`transfer-format one-answer`).
    """
    flags = QR | AA | query.flags & (RD | CD)
    batch: list[tuple[bytes, RRset]] = []
    size = 0
    for owner, rrset in records:
        cost = len(owner) + 10 + _size(rrset)
        if batch and (one_answer or size + cost > MESSAGE_SIZE - 300):
            yield render(query, flags, batch, (), (), limit=65_535, opt_record=opt_record)
            batch, size = [], 0
        batch.append((owner, rrset))
        size += cost
    yield render(query, flags, batch, (), (), limit=65_535, opt_record=opt_record)


def _size(rrset: RRset) -> int:
    rdata = rrset.rdatas[0]
    if isinstance(rdata, bytes):
        return len(rdata)
    return len(rdata[0]) + sum(map(len, rdata[1])) + len(rdata[2])
