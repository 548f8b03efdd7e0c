"""What was asked and answered, by type and response code, in the form of named's statistics file.

Nothing is counted twice, and next to nothing is done for it while answering: a prepared answer is counted by
its octets, from which type, code and flags are read when somebody wants to know.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

import dns.opcode
import dns.rcode
import dns.rdatatype

from mailstack.dns.message import AA, TC, Malformed, skip_name

Seen = dict[bytes, int]
"""How often each answer was given, by the answer without its id."""


class Statistics:
    """Counts since the start of the process. `zone_of` names the zone of a lower-case name, if it is counted
    apart."""

    def __init__(self, zone_of: Callable[[bytes], str | None] = lambda _name: None) -> None:
        self._zone_of = zone_of
        self.opcodes: Counter[int] = Counter()
        self.types: Counter[int] = Counter()
        self.rcodes: Counter[int] = Counter()
        self.server: Counter[str] = Counter()
        self.zones: dict[str, Counter[str]] = {}

    def take_over(self, other: Statistics) -> None:
        """Count what was counted elsewhere."""
        for mine, theirs in (
            (self.opcodes, other.opcodes),
            (self.types, other.types),
            (self.rcodes, other.rcodes),
        ):
            mine.update(theirs)
        self.server.update(other.server)
        for name, counts in other.zones.items():
            self.zones.setdefault(name, Counter()).update(counts)

    def fold(self, seen: Seen, *, tcp: bool, ipv6: bool) -> None:
        """Count prepared answers, and forget them."""
        for tail, times in seen.items():
            self.count(tail, times, tcp=tcp, ipv6=ipv6)
        seen.clear()

    def count(
        self,
        tail: bytes | None,
        times: int,
        *,
        tcp: bool,
        ipv6: bool,
        asked: bytes = b"",
    ) -> None:
        """Count an answer without its id. `asked` is the query without its id where there is no answer."""
        text = tail if tail is not None else asked
        flags = int.from_bytes(text[:2], "big")
        opcode = flags >> 11 & 0xF
        server = self.server
        server["IPv6 requests received" if ipv6 else "IPv4 requests received"] += times
        if tcp:
            server["TCP requests received"] += times
        self.opcodes[opcode] += times
        name, rdtype, end = _question(text)
        zone: Counter[str] | None = None
        if not opcode and rdtype is not None:
            self.types[rdtype] += times
            shown = self._zone_of(name)
            if shown is not None:
                zone = self.zones.setdefault(shown, Counter())
            self._both(zone, "TCP queries received" if tcp else "UDP queries received", times)
        if tail is None:
            self._both(zone, "queries dropped", times)
            return
        rcode, edns = _rcode(tail, end)
        self.rcodes[rcode] += times
        server["responses sent"] += times
        if edns:
            server["requests with EDNS(0) received"] += times
            server["responses with EDNS(0) sent"] += times
        if rcode == dns.rcode.BADVERS:
            server["requests with unsupported EDNS version received"] += times
        if flags & TC:
            server["truncated responses sent"] += times
        if not opcode:
            self._outcome(zone, tail, flags, rcode, times)

    def _outcome(self, zone: Counter[str] | None, tail: bytes, flags: int, rcode: int, times: int) -> None:
        answers, authorities = tail[4:6] != b"\0\0", tail[6:8] != b"\0\0"
        if rcode in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
            aa = "authoritative" if flags & AA else "non authoritative"
            self._both(zone, f"queries resulted in {aa} answer", times)
        if rcode == dns.rcode.NXDOMAIN:
            self._both(zone, "queries resulted in NXDOMAIN", times)
        elif rcode == dns.rcode.SERVFAIL:
            self._both(zone, "queries resulted in SERVFAIL", times)
        elif rcode == dns.rcode.FORMERR:
            self._both(zone, "queries resulted in FORMERR", times)
        elif rcode:
            self._both(zone, "other query failures", times)
        elif answers:
            self._both(zone, "queries resulted in successful answer", times)
        elif authorities and not flags & AA:
            self._both(zone, "queries resulted in referral answer", times)
        elif not flags & TC:
            self._both(zone, "queries resulted in nxrrset", times)

    def _both(self, zone: Counter[str] | None, what: str, times: int) -> None:
        self.server[what] += times
        if zone is not None:
            zone[what] += times

    def add(self, what: str, times: int = 1) -> None:
        """Count something else of the server."""
        self.server[what] += times

    def dump(self, zones: Iterable[str], now: float) -> str:
        """The file's text. `zones` are those that are counted apart."""
        stamp = int(now)
        lines = [f"+++ Statistics Dump +++ ({stamp})", "++ Incoming Requests ++"]
        lines += _lines((_opcode(key), count) for key, count in sorted(self.opcodes.items()))
        lines.append("++ Incoming Queries ++")
        lines += _lines((type_name(key), count) for key, count in sorted(self.types.items()))
        lines.append("++ Outgoing Rcodes ++")
        lines += _lines((rcode_name(key), count) for key, count in sorted(self.rcodes.items()))
        lines.append("++ Name Server Statistics ++")
        lines += _lines(sorted(self.server.items()))
        lines.append("++ Per Zone Query Statistics ++")
        for name in zones:
            lines.append(f"[{name}]")
            lines += _lines(sorted(self.zones.get(name, Counter()).items()))
        lines.append(f"--- Statistics Dump --- ({stamp})")
        return "\n".join(lines) + "\n"


def _lines(pairs: Iterable[tuple[str, int]]) -> list[str]:
    return [f"{count:20} {name}" for name, count in pairs if count]


def _opcode(number: int) -> str:
    known = {0: "QUERY", 1: "IQUERY", 2: "STATUS", 4: "NOTIFY", 5: "UPDATE"}
    return known.get(number, f"RESERVED{number}")


def type_name(number: int) -> str:
    """`A`, `MX`, `TYPE65400`."""
    return dns.rdatatype.to_text(dns.rdatatype.RdataType.make(number))


def rcode_name(number: int) -> str:
    """`NOERROR`, `NXDOMAIN`, `RESERVED12`."""
    try:
        return dns.rcode.to_text(dns.rcode.Rcode.make(number))
    except ValueError:
        return f"RESERVED{number}"


def _question(text: bytes) -> tuple[bytes, int | None, int]:
    """Name (lower case), type and end of the question of a message without id; no type if there is none."""
    if text[2:4] != b"\0\1":
        return b"", None, 10
    try:
        end = skip_name(text, 10)
    except Malformed:
        return b"", None, 10
    if len(text) < end + 4:
        return b"", None, 10
    return text[10:end].lower(), int.from_bytes(text[end : end + 2], "big"), end + 4


def _rcode(tail: bytes, end: int) -> tuple[int, bool]:
    """The response code, and whether the answer has an OPT record."""
    rcode = tail[1] & 0xF
    if tail[8:10] == b"\0\0":
        return rcode, False
    # An answer that has a larger code has no records, and OPT is behind the question.
    if tail[4:8] == b"\0\0\0\0" and tail[end : end + 3] == b"\0\0\x29":
        return rcode | tail[end + 5] << 4, True
    return rcode, tail[-11:-8] == b"\0\0\x29" or b"\0\0\x29" in tail[end:]
