"""Wrong on purpose: the faults of `faults.conf` on their way into answers.

A right answer is computed first where the fault changes one. Which query of a fault it is, is counted per
fault from the load of the file on, over all clients that match it.
"""

from __future__ import annotations

import ipaddress
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import dns.rdatatype

from mailstack.config.named import Address, Locality
from mailstack.config.named.faults import DEFAULT_TTL, Fault
from mailstack.dns import names
from mailstack.dns.authority import Answer
from mailstack.dns.message import FORMERR, NOTIMP, NXDOMAIN, REFUSED, SERVFAIL, Query
from mailstack.dns.zone import RRSIG, Rdata, RRset

RCODES = {
    "servfail": SERVFAIL,
    "refused": REFUSED,
    "nxdomain": NXDOMAIN,
    "formerr": FORMERR,
    "notimp": NOTIMP,
    "lame": 0,
}
"""Faults that are an answer without records."""
ENDED = 86_400
"""Seconds before now at which an expired signature has ended."""


@dataclass(slots=True)
class _Counted:
    fault: Fault
    name: bytes
    seen: int = 0

    def is_about(self, name: bytes) -> bool:
        if self.fault.below:
            return name != self.name and names.is_below(name, self.name)
        return name == self.name


@dataclass(slots=True)
class Faults:
    """The faults in force. `choose` says which one a query meets."""

    faults: Sequence[Fault]
    locality: Locality
    _counted: list[_Counted] = field(init=False)

    def __post_init__(self) -> None:
        self._counted = [_Counted(fault, names.from_text(fault.name)) for fault in self.faults]

    def __bool__(self) -> bool:
        return bool(self._counted)

    def choose(self, query: Query, host: str) -> Fault | None:
        """The fault that acts on a query; those that match are one query further afterwards."""
        name = query.name.lower()
        address: Address | None = None
        for one in self._counted:
            fault = one.fault
            if fault.types and query.rdtype not in fault.types:
                continue
            if not one.is_about(name):
                continue
            if address is None:
                address = ipaddress.ip_address(host.partition("%")[0])
            if not fault.client.matches(address, self.locality):
                continue
            one.seen += 1
            if one.seen >= fault.first and (fault.last is None or one.seen <= fault.last):
                return fault
        return None


def describe(fault: Fault, query: Query, host: str, port: int) -> str:
    """The line in the log about a fault that acts."""
    kind = dns.rdatatype.to_text(dns.rdatatype.RdataType.make(query.rdtype))
    what = f"delay of {fault.delay * 1000:.0f} ms" if fault.kind == "delay" else fault.kind
    asked = f"{names.to_text(query.name)} IN {kind}"
    return f"client {host}#{port}: {asked}: WRONG ON PURPOSE: {what} ({fault.path}:{fault.line})"


def other_records(fault: Fault, query: Query) -> Answer:
    """What `records` puts into the place of the right answer: those of the type, and aliases."""
    answer = Answer()
    for rdtype in dict.fromkeys(rdtype for rdtype, _ in fault.records):
        if rdtype in (query.rdtype, 5) or query.rdtype == 255:
            rdatas: tuple[Rdata, ...] = tuple(data for kind, data in fault.records if kind == rdtype)
            answer.answer.append((query.name, RRset(rdtype, DEFAULT_TTL, rdatas)))
    return answer


def spoil(answer: Answer, *, expired: bool) -> None:
    """Make the signatures of an answer bad: with another last octet, or with an end in the past."""
    for section in (answer.answer, answer.authority, answer.additional):
        for index, (owner, rrset) in enumerate(section):
            if rrset.rdtype == RRSIG:
                rdatas = tuple(_spoilt(rdata, expired=expired) for rdata in rrset.rdatas)
                section[index] = (owner, RRset(RRSIG, rrset.ttl, rdatas))


def _spoilt(rdata: Rdata, *, expired: bool) -> Rdata:
    assert isinstance(rdata, bytes)
    if not expired:
        return rdata[:-1] + bytes((rdata[-1] ^ 1,))
    end = int(time.time()) - ENDED
    return rdata[:8] + struct.pack("!II", end, end - 30 * ENDED) + rdata[16:]
