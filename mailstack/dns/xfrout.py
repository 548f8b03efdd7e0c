"""Questions for a whole zone (AXFR, IXFR): who may have it, and what it is answered with.

IXFR is answered with the steps of the zone's journal when they lead from the client's serial to ours and are
not larger than the zone (`max-ixfr-ratio`), and with the whole zone otherwise, as named does.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence

from mailstack.config.named import Zone as ZoneConf
from mailstack.config.named.peers import Peer, peer_of
from mailstack.dns import names, transfer
from mailstack.dns.authority import Answer, Authority
from mailstack.dns.edit import is_later
from mailstack.dns.ixfr import Record, octets, sequences, singles
from mailstack.dns.message import FORMERR, NOTAUTH, SERVFAIL, Malformed, Query, skip_name
from mailstack.dns.replies import Replies
from mailstack.dns.results import Transfer
from mailstack.dns.rights import View
from mailstack.dns.update import journal_of
from mailstack.dns.zone import AXFR, IXFR, SOA, Zone
from mailstack.net.log import Log


class TransfersOut:
    """Transfers of the zones of `authority`. `zones` are the configured ones by lower-case wire name."""

    def __init__(
        self,
        authority: Authority,
        zones: Mapping[bytes, ZoneConf],
        peers: Sequence[Peer],
        replies: Replies,
        log: Log,
    ) -> None:
        self._authority = authority
        self._zones = zones
        self._peers = peers
        self._replies = replies
        self._log = log.category("xfer-out")
        self._security = log.category("security")
        self._sizes: dict[bytes, tuple[Zone, int]] = {}

    def answer(
        self, data: bytes, query: Query, view: View, host: str, who: str, *, tcp: bool
    ) -> bytes | Transfer:
        """The answer to a question of type AXFR or IXFR; `data` is the whole message, `who` as in the log."""
        origin = query.name.lower()
        zone = self._authority.zones.get(origin)
        shown = f"{names.to_text(origin)}/IN"
        if zone is None:
            self._log.info(f"{who}: bad zone transfer request: '{shown}': non-authoritative zone (NOTAUTH)")
            return self._replies.plain(query, view, NOTAUTH)
        if not view.transfer.get(zone.origin, False):
            asked = f"{names.to_text(origin)}/{'AXFR' if query.rdtype == AXFR else 'IXFR'}/IN"
            self._security.error(f"{who}: zone transfer '{asked}' denied")
            return self._replies.prohibited(query, view)
        if origin in self._authority.unloaded:
            return self._replies.plain(query, view, SERVFAIL)
        serial: int | None = None
        if query.rdtype == IXFR:
            serial = asked_serial(data)
            if serial is None:
                return self._replies.plain(query, view, FORMERR)
        if not tcp and query.rdtype == AXFR:
            return self._replies.plain(query, view, FORMERR)
        if serial is not None and (not tcp or not is_later(zone.serial, serial)):
            # The client has it; or (RFC 1995 §2) it is told by the SOA alone to turn to TCP.
            answer = Answer(answer=[(query.name, zone.soa)])
            return self._replies.of(query, view, answer, self._replies.limit(query, tcp=tcp))
        peer = peer_of(self._peers, host)
        kind, records = "AXFR", None
        if serial is not None:
            kind = "AXFR-style IXFR"
            if peer is None or peer.provide_ixfr is None:
                wanted = self._zones[origin].transfers.provide_ixfr if origin in self._zones else True
            else:
                wanted = peer.provide_ixfr
            steps = self._steps(zone, serial) if wanted else None
            if steps is not None:
                kind, records = "IXFR", transfer.incremental(zone, steps)
        detail = f"serial {serial} -> {zone.serial}" if kind == "IXFR" else f"serial {zone.serial}"
        what = f"{who}: transfer of '{shown}': {kind}"
        self._log.info(f"{what} started ({detail})")
        messages = self._messages(query, records or transfer.whole(zone), origin, peer)
        return Transfer(self._logged(messages, what, zone.serial))

    def _logged(self, messages: Iterator[bytes], what: str, serial: int) -> Iterator[bytes]:
        """Say how much it was, at the end."""
        count = records = size = 0
        begun = time.monotonic()
        for message in messages:
            count += 1
            records += int.from_bytes(message[6:8], "big")
            size += len(message)
            yield message
        seconds = time.monotonic() - begun
        rate = round(size / max(seconds, 0.001))
        self._log.info(
            f"{what} ended: {count} messages, {records} records, {size} bytes, {seconds:.3f} secs"
            f" ({rate} bytes/sec) (serial {serial})"
        )

    def _messages(
        self, query: Query, records: Iterable[Record], origin: bytes, peer: Peer | None
    ) -> Iterator[bytes]:
        form = peer.transfer_format if peer is not None else None
        if form is None and origin in self._zones:
            form = self._zones[origin].transfers.transfer_format
        opt_record = self._replies.opt_record(query, 0)
        return transfer.messages(query, records, opt_record, one_answer=form == "one-answer")

    def _steps(self, zone: Zone, serial: int) -> list[Record] | None:
        """What an incremental transfer from a serial has; None when the whole zone has to do."""
        conf = self._zones.get(zone.origin)
        if conf is None or not conf.file or zone.signer is not None:
            return None  # a zone that is signed as it is served has all signatures made anew at once
        try:
            entries = journal_of(conf).since(serial, zone.serial)
        except OSError as error:
            self._log.error(f"zone {conf.name or '.'}/IN: the journal cannot be read: {error.strerror}")
            return None
        steps = sequences(entries) if entries is not None else None
        ratio = conf.transfers.max_ixfr_ratio
        if steps is None or ratio is None:
            return steps
        return steps if octets(steps) <= self._size(zone) * ratio // 100 else None

    def _size(self, zone: Zone) -> int:
        """Octets of a zone's records, counted once for each that is served."""
        held = self._sizes.get(zone.origin)
        if held is None or held[0] is not zone:
            held = self._sizes[zone.origin] = (zone, octets(singles(zone)))
        return held[1]


def asked_serial(data: bytes) -> int | None:
    """The serial of the SOA record in an IXFR question (RFC 1995 §3); None when there is none."""
    _, _, questions, answers, authorities, _ = struct.unpack_from("!6H", data)
    if (questions, answers) != (1, 0) or not authorities:
        return None
    try:
        position = skip_name(data, skip_name(data, 12) + 4, compressed=True)
        kind, _, _, length = struct.unpack_from("!HHIH", data, position)
        end = skip_name(data, skip_name(data, position + 10, compressed=True), compressed=True)
        return int.from_bytes(data[end : end + 4], "big") if kind == SOA and length >= 22 else None
    except (Malformed, struct.error):
        return None
