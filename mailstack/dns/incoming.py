"""A zone transfer as it comes in: messages go in, a zone or its next steps come out. No sockets.

`Incoming.feed` takes messages in order and says when the transfer is over; `BadTransfer` is raised for
everything that is not one, and nothing of it is ever served.

Standards: RFC 5936 (AXFR), RFC 1995 (IXFR).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum, auto

import dns.exception
import dns.rdata
import dns.rdataclass
import dns.rdatatype

from mailstack.dns import names
from mailstack.dns.denial import denial_of
from mailstack.dns.edit import PREFIXES, is_later, serial_of
from mailstack.dns.ixfr import Unfit, key_of, node_of, patched, singles
from mailstack.dns.journal import Change, Entry
from mailstack.dns.message import Malformed, skip_name
from mailstack.dns.zone import AAAA, IN, NS, SOA, A, Zone

RCODES = {
    1: "FORMERR", 2: "SERVFAIL", 3: "NXDOMAIN", 4: "NOTIMP", 5: "REFUSED", 8: "NXRRSET", 9: "NOTAUTH",
}  # fmt: skip
_META = frozenset((0, 41, *range(128, 256)))
_LENGTHS = {A: 4, AAAA: 16}


class BadTransfer(Exception):  # noqa: N818 - what another server sends is no error of ours
    """Why a transfer cannot be used."""


class State(Enum):
    """What the next record is (RFC 1995 §4, RFC 5936 §2.2)."""

    FIRST = auto()
    SECOND = auto()
    WHOLE = auto()
    GONE = auto()
    COME = auto()
    END = auto()


@dataclass(slots=True)
class _Step:
    before: int
    after: int = 0
    changes: list[Change] = field(default_factory=list)


class Incoming:
    """One transfer of the zone `origin`. With `zone`, an incremental one from there was asked for."""

    def __init__(self, origin: bytes, zone: Zone | None, *, max_records: int = 0) -> None:
        self._origin = origin
        self._zone = zone
        self._most = max_records
        self._state = State.FIRST
        self._first = b""
        self._serial = 0
        self._steps: list[_Step] = []
        self._held: dict[bytes, tuple[bytes, dict[tuple[int, int], dict[bytes, int]]]] = {}
        self.messages = self.records = self.octets = 0

    @property
    def incremental(self) -> bool:
        """What came are steps."""
        return bool(self._steps)

    @property
    def current(self) -> bool:
        """The other side has nothing newer."""
        return self._state is State.END and not self._steps and not self._held

    def feed(self, wire: bytes) -> bool:
        """Take a message; True when it was the last one. Raises `BadTransfer`."""
        self.messages += 1
        self.octets += len(wire)
        try:
            if rcode := wire[3] & 0xF:
                raise BadTransfer(f"the answer is {RCODES.get(rcode, rcode)}")
            for owner, rdtype, ttl, data in records(wire, self._origin):
                self.records += 1
                if self._most and self.records > 2 * self._most + 2:
                    raise BadTransfer(f"too many records (max-records {self._most})")
                self._take(owner, rdtype, ttl, data)
        except (Malformed, struct.error, dns.exception.DNSException, ValueError, IndexError) as error:
            raise BadTransfer(f"a message that cannot be read: {type(error).__name__} {error}") from error
        if not self.records:
            raise BadTransfer("an answer without records")
        return self._state is State.END

    def entries(self) -> list[Entry]:
        """The steps of an incremental transfer."""
        return [Entry(step.before, step.after, tuple(step.changes)) for step in self._steps]

    def result(self) -> Zone:
        """The zone as it is after the transfer. Raises `BadTransfer`."""
        if self._zone is not None and self._steps:
            try:
                changes = [change for step in self._steps for change in step.changes]
                found = patched(self._zone, changes, strict=True)
            except Unfit as error:
                raise BadTransfer(str(error)) from error
        else:
            present = {}
            for name in list(self._held):
                owner, held = self._held.pop(name)  # a large zone is not held twice
                node = node_of(owner, held)
                if node is not None:
                    present[name] = node
            apex = present.get(self._origin)
            if apex is None or len(apex.rrsets[SOA].rdatas) != 1:
                raise BadTransfer("there is not one SOA record")
            found = Zone(self._origin, present)
            found.denial = denial_of(found)
        if NS not in found.apex.rrsets:
            raise BadTransfer("transferred zone has no NS records")
        if found.serial != self._serial:
            raise BadTransfer(f"serial {found.serial} is not the one that was announced ({self._serial})")
        if self._most and sum(1 for _ in singles(found)) > self._most:
            raise BadTransfer(f"too many records (max-records {self._most})")
        return found

    # ---- records

    def _take(self, owner: bytes, rdtype: int, ttl: int, data: bytes) -> None:
        soa = rdtype == SOA
        if soa and owner.lower() != self._origin:
            raise BadTransfer("a SOA record that is not at the zone's top")
        match self._state:
            case State.FIRST:
                if not soa:
                    raise BadTransfer("the first record is no SOA record")
                self._first, self._serial = data, serial_of(data)
                newer = self._zone is None or is_later(self._serial, self._zone.serial)
                self._state = State.SECOND if newer else State.END
            case State.SECOND:
                if soa and self._zone is not None and serial_of(data) == self._zone.serial:
                    self._begin(owner, ttl, data)
                else:
                    self._state = State.WHOLE
                    self._keep(owner if soa else self._origin, SOA, ttl, self._first)
                    self._take(owner, rdtype, ttl, data)
            case State.WHOLE:
                if not soa:
                    self._keep(owner, rdtype, ttl, data)
                elif data[-20:] != self._first[-20:] or data[:-20].lower() != self._first[:-20].lower():
                    raise BadTransfer("the SOA records at the beginning and the end differ")
                else:
                    self._held[self._origin][1][SOA, 0] = {data: ttl}
                    self._state = State.END
            case State.GONE:
                step = self._steps[-1]
                if soa:
                    step.after = serial_of(data)
                    step.changes.append(Change(owner, rdtype, ttl, data))
                    self._state = State.COME
                else:
                    step.changes.append(Change(owner, rdtype, None, data, ttl))
            case State.COME:
                step = self._steps[-1]
                if not soa:
                    step.changes.append(Change(owner, rdtype, ttl, data))
                elif step.after == self._serial:
                    if serial_of(data) != self._serial:
                        raise BadTransfer("steps behind the last one")
                    self._state = State.END
                elif serial_of(data) != step.after:
                    raise BadTransfer(f"out of step: serial {serial_of(data)} follows {step.after}")
                else:
                    self._begin(owner, ttl, data)
            case State.END:
                raise BadTransfer("records behind the end")

    def _begin(self, owner: bytes, ttl: int, data: bytes) -> None:
        self._steps.append(_Step(serial_of(data), 0, [Change(owner, SOA, None, data, ttl)]))
        self._state = State.GONE

    def _keep(self, owner: bytes, rdtype: int, ttl: int, data: bytes) -> None:
        name = owner.lower()
        held = self._held.get(name)
        if held is None:
            held = self._held[name] = (owner, {})
        held[1].setdefault(key_of(rdtype, data), {})[data] = ttl


def records(wire: bytes, origin: bytes) -> Iterator[tuple[bytes, int, int, bytes]]:
    """The answer section: owner, type, TTL, data (uncompressed).

    Raises `BadTransfer`, `Malformed`, and what `struct` and dnspython raise for what cannot be read.
    """
    _, _, questions, answers, _, _ = struct.unpack_from("!6H", wire)
    position = 12
    for _ in range(questions):
        position = skip_name(wire, position, compressed=True) + 4
    seen: dict[int, bytes] = {}
    for _ in range(answers):
        owner, position = read_name(wire, position, seen)
        rdtype, rdclass, ttl, length = struct.unpack_from("!HHIH", wire, position)
        position += 10
        if rdclass != IN or rdtype in _META:
            raise BadTransfer(f"a record of class {rdclass} and type {rdtype}")
        if not names.is_below(owner.lower(), origin):
            raise BadTransfer(f"a record that is not of the zone: {names.to_text(owner)}")
        data = wire[position : position + length]
        if len(data) != length:
            raise Malformed
        before = PREFIXES.get(rdtype)
        if before is not None and length > before:
            name, end = read_name(wire, position + before, seen)
            if end != position + length:
                raise Malformed
            data = data[:before] + name
        elif _LENGTHS.get(rdtype) != length:
            kind = dns.rdatatype.RdataType.make(rdtype)
            data = dns.rdata.from_wire(dns.rdataclass.IN, kind, wire, position, length).to_wire() or b""
        yield owner, rdtype, ttl if ttl < 1 << 31 else 0, data
        position += length


def read_name(wire: bytes, position: int, seen: dict[int, bytes]) -> tuple[bytes, int]:
    """The name at a position, uncompressed, and where it ends. `seen` remembers names of this message."""
    first = start = position
    end, pieces, limit = 0, b"", len(wire)
    while True:
        length = wire[position]
        if length >= 0xC0:
            target = (length & 0x3F) << 8 | wire[position + 1]
            if target >= start:
                raise Malformed
            end = end or position + 2
            known = seen.get(target)
            if known is not None:
                pieces += known
                break
            position = start = target
        elif length > 63 or position + 1 + length > limit:
            raise Malformed
        else:
            pieces += wire[position : position + 1 + length]
            position += 1 + length
            if not length:
                end = end or position
                break
        if len(pieces) > 255:
            raise Malformed
    if len(pieces) > 255:
        raise Malformed
    seen[first] = pieces
    return pieces, end
