"""From a datagram to its answer: access lists, EDNS, limits, and the prepared answers.

A `Responder` belongs to one load of the configuration. `prepared(host)` is a dictionary from a query without
its id to the answer without its id: an answer that was computed once is a look-up the next time. It is right
because everything that an authoritative answer depends on is in the key: the query's octets, the transport,
and the access lists' verdict on the client (`View`). It is bounded (`PREPARED_MOST`).

`respond` never raises for what a client sends: malformed messages get FORMERR, unknown opcodes NOTIMP
(RFC 1035 §4.1.1), a fault of ours SERVFAIL and a line in the log.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import dns.exception
import dns.message
import dns.rdatatype
import dns.rrset

from mailstack.config.named import Locality, NamedConf
from mailstack.config.named import Zone as ZoneConf
from mailstack.config.named.faults import Fault
from mailstack.dns import chaos, names, transfer
from mailstack.dns.authority import Answer, Authority
from mailstack.dns.edns import Edns
from mailstack.dns.faults import RCODES, Faults, describe, other_records, spoil
from mailstack.dns.forward import Forwarded, Forwarder, Server
from mailstack.dns.message import (
    AA,
    AD,
    BADCOOKIE,
    BADVERS,
    CD,
    FORMERR,
    HEADER,
    NOERROR,
    NOTAUTH,
    NOTIMP,
    OPCODE_MASK,
    QR,
    RA,
    RD,
    REFUSED,
    SERVFAIL,
    TC,
    Malformed,
    Query,
    error,
    parse,
    render,
    without_question,
)
from mailstack.dns.rights import Rights, View
from mailstack.dns.tsig import Keyring, Refused, Signed
from mailstack.dns.update import Refusal, Sign, update
from mailstack.dns.zone import (
    AXFR,
    CH,
    CLASS_ANY,
    CLASS_NONE,
    IN,
    IXFR,
    MAILA,
    MAILB,
    OPT,
    SOA,
    TKEY,
    TSIG,
    RRset,
    Zone,
)
from mailstack.dns.zonefile import compact
from mailstack.net.log import Log

PREPARED_LEAST, PREPARED_MOST = 10_000, 250_000
"""Prepared answers per view and transport: four for each name in the zones, within these bounds. The
dictionary starts anew when it is full, so that a flood of random names costs no more memory than that."""
PREPARED_SIZE = 2048
"""Octets of the largest answer that is kept prepared."""
UDP_PLAIN = 512
"""Octets of an answer to a client without EDNS (RFC 1035 §4.2.1)."""
TCP_LIMIT = 65_535
UPDATE = 5 << 11
"""The opcode of updates, where it stands among the flags."""
_META = frozenset((OPT, TSIG))


@dataclass(frozen=True, slots=True)
class Pending:
    """A question that somebody else has to answer; `Responder.complete` does it."""

    query: Query
    view: View
    limit: int
    question: bytes
    servers: Sequence[Server]
    so_far: Answer | None
    """The alias chain up to where it leaves our zones."""
    signed: Signed | None = None


@dataclass(frozen=True, slots=True)
class _Relayed:
    """An answer from the forwarder's cache: it ages, so it is never kept prepared."""

    wire: bytes


@dataclass(frozen=True, slots=True)
class Delayed:
    """An answer that is to be sent later."""

    wire: bytes
    seconds: float


@dataclass(frozen=True, slots=True)
class Transfer:
    """A zone transfer that is allowed: the messages to send, in order."""

    messages: Iterator[bytes]


class Responder:
    """Answers for one configuration. `zones` are those of the configuration plus the empty ones."""

    def __init__(
        self,
        conf: NamedConf,
        zones: Sequence[Zone],
        locality: Locality,
        forwarder: Forwarder,
        log: Log,
        faults: Sequence[Fault] = (),
        sign: Sign | None = None,
    ) -> None:
        self.options = conf.options
        self.zones = zones
        self._forwarder = forwarder
        self._log = log
        self._authority = Authority(
            zones,
            minimal_responses=conf.options.minimal_responses,
            minimal_any=conf.options.minimal_any,
        )
        self.changed: Callable[[str, Zone], None] = lambda _name, _zone: None
        """Told of a zone that an update has changed."""
        self._zone_confs = {names.from_text(zone.name): zone for zone in conf.zones}
        self._faults = Faults(faults, locality)
        apart = bool(self._faults) or conf.options.querylog
        self._rights = Rights(conf.options, self._zone_confs, locality, apart=apart)
        self._keyring = Keyring(conf.keys)
        self._sign = sign
        self._edns = Edns(conf.options)
        known = sum(len(zone.nodes) for zone in zones)
        self._prepared_limit = min(max(4 * known, PREPARED_LEAST), PREPARED_MOST)

    # ---- clients

    def prepared(self, host: str) -> dict[bytes, bytes]:
        """The prepared UDP answers for a client."""
        return self._rights.view(host).udp

    @property
    def shared(self) -> dict[bytes, bytes] | None:
        """The prepared UDP answers when they are the same for every client."""
        only = self._rights.only
        return None if only is None else only.udp

    def forget_prepared(self) -> None:
        """The zones have changed: make the answers anew."""
        for view in self._rights.views():
            view.udp.clear()
            view.tcp.clear()

    # ---- answers

    def respond(
        self, data: bytes, host: str, port: int, *, tcp: bool
    ) -> bytes | Pending | Delayed | Transfer | None:
        """The answer to a message; None when there is to be none."""
        if len(data) < HEADER.size or data[2] & 0x80:
            return None
        view = self._rights.view(host)
        if view.ignored:
            return None
        prepared = view.tcp if tcp else view.udp
        tail = prepared.get(data[2:]) if not self._faults else None
        if tail is not None:
            return data[:2] + tail
        try:
            query = without_question(data) or parse(data)
        except Malformed:
            other = int.from_bytes(data[2:4], "big") & OPCODE_MASK
            return error(data, NOTIMP if other else FORMERR, recursion=view.available and not other)
        if query.signed:
            return self._signed(data, query, host, port, tcp=tcp)
        return self._unsigned(data, query, view, host, port, tcp=tcp)

    def _signed(
        self, data: bytes, query: Query, host: str, port: int, *, tcp: bool
    ) -> bytes | Pending | Delayed | Transfer | None:
        """A message with TSIG: its answer is signed, and its rights are those of its key."""
        checked = self._keyring.check(data, error(data, NOERROR))
        if isinstance(checked, Refused):
            self._log.info(f"client {host}#{port}: request has invalid signature: {checked.reason}")
            return checked.wire
        view = self._rights.of(host, checked.name)
        unsigned = replace(query, signed=False)
        result = self._unsigned(data, unsigned, view, host, port, tcp=tcp, signed=checked)
        if isinstance(result, bytes):
            return checked.sign(result)
        if isinstance(result, Transfer):
            return Transfer(checked.sign_all(result.messages))
        if isinstance(result, Delayed):
            return Delayed(checked.sign(result.wire), result.seconds)
        if isinstance(result, Pending):
            return replace(result, signed=checked)
        return result

    def _unsigned(
        self,
        data: bytes,
        query: Query,
        view: View,
        host: str,
        port: int,
        *,
        tcp: bool,
        signed: Signed | None = None,
    ) -> bytes | Pending | Delayed | Transfer | None:
        prepared = view.tcp if tcp else view.udp
        opcode = query.flags & OPCODE_MASK
        if opcode == UPDATE:
            return self._update(data, query, view, host, port, signed)
        if opcode:
            return self._plain(replace(query, question=b""), view, NOTIMP)
        try:
            query = self._edns.read(query, host)
        except (Malformed, ValueError):
            return self._plain(query, view, FORMERR)
        try:
            if self._faults and (fault := self._faults.choose(query, host)) is not None:
                self._log.warning(describe(fault, query, host, port))
                return self._wrong(fault, data, query, view, host, tcp=tcp)
            result = self._answer(data, query, view, host, tcp=tcp)
            if self.options.querylog:
                self._log_query(query, host, port, tcp=tcp)
            elif (
                isinstance(result, bytes)
                and signed is None
                and len(result) <= PREPARED_SIZE
                and (query.edns is None or not query.edns.options)
            ):
                if len(prepared) >= self._prepared_limit:
                    prepared.clear()
                prepared[data[2:]] = result[2:]
            return result.wire if isinstance(result, _Relayed) else result
        except Exception as fault:  # a bug of ours must not take the service down
            self._log.exception(f"{host}#{port}: query failed", fault)
            return error(data, SERVFAIL, recursion=view.available)

    def _answer(
        self, data: bytes, query: Query, view: View, host: str, *, tcp: bool
    ) -> bytes | Pending | Transfer | _Relayed:
        edns = query.edns
        if edns is not None and edns.version > 0:
            return self._plain(query, view, BADVERS)
        if query.cookie and not query.known and self.options.require_server_cookie and not tcp:
            return self._plain(query, view, BADCOOKIE)
        if not query.question:
            return self._plain(query, view, NOERROR if query.cookie else FORMERR)
        if query.rdclass == CH:
            return chaos.answer(data, query, self.options)
        if query.rdclass not in (IN, CLASS_ANY):
            return self._plain(query, view, FORMERR if query.rdclass == CLASS_NONE else REFUSED)
        rdtype = query.rdtype
        if rdtype in _META:
            return self._plain(query, view, FORMERR)
        if rdtype in (MAILA, MAILB, TKEY):
            return self._plain(query, view, NOTIMP)
        if rdtype in (AXFR, IXFR):
            return self._transfer(query, view, host, tcp=tcp)
        limit = TCP_LIMIT if tcp else self._udp_limit(query)
        recursive = bool(query.flags & RD)
        found = self._authority.answer(
            query.name,
            rdtype,
            recursive=recursive,
            tcp=tcp,
            across=recursive and view.recursion,
            do=query.do,
        )
        if found is None:
            servers = self._forwarders(query, view, query.name.lower())
            if not servers:
                return self._plain(query, view, REFUSED)
            return self._onward(query, view, limit, query.question, servers, None)
        assert found.zone is not None
        if not view.query.get(found.zone.origin, True):
            return self._plain(query, view, REFUSED)
        if found.onward is not None:
            servers = self._forwarders(query, view, found.onward.lower())
            if servers:
                question = found.onward + rdtype.to_bytes(2, "big") + IN.to_bytes(2, "big")
                return self._onward(query, view, limit, question, servers, found)
        return self._render(query, view, found, limit)

    def _wrong(
        self, fault: Fault, data: bytes, query: Query, view: View, host: str, *, tcp: bool
    ) -> bytes | Pending | Delayed | Transfer | None:
        """What a fault makes of a query."""
        kind = fault.kind
        limit = TCP_LIMIT if tcp else self._udp_limit(query)
        if kind == "nothing":
            return None
        if kind in RCODES:
            return self._plain(query, view, RCODES[kind])
        if kind == "records":
            return self._render(query, view, other_records(fault, query), limit)
        if kind == "truncated" and not tcp:
            return render(
                query,
                self._flags(query, view) | AA | TC,
                (),
                (),
                (),
                limit=limit,
                opt_record=self._edns.record(query, 0),
            )
        if kind in ("bad-signature", "expired-signature") and query.rdclass == IN:
            found = self._authority.answer(query.name, query.rdtype, recursive=False, tcp=tcp, do=query.do)
            if found is not None:
                spoil(found, expired=kind == "expired-signature")
                return self._render(query, view, found, limit)
        right = self._answer(data, query, view, host, tcp=tcp)
        wire = right.wire if isinstance(right, _Relayed) else right
        if kind == "delay" and isinstance(wire, bytes):
            return Delayed(wire, fault.delay)
        return wire

    def _udp_limit(self, query: Query) -> int:
        if query.edns is None:
            return UDP_PLAIN
        limit = min(query.edns.payload, self.options.max_udp_size)
        return limit if query.known else min(limit, max(self.options.nocookie_udp_size, UDP_PLAIN))

    def _render(self, query: Query, view: View, found: Answer, limit: int) -> bytes:
        flags = self._flags(query, view) | (AA if found.authoritative else 0) | found.rcode
        return render(
            query,
            flags,
            found.answer,
            found.authority,
            found.additional,
            limit=limit,
            opt_record=self._edns.record(query, 0),
            glue=found.glue,
        )

    def _plain(self, query: Query, view: View, rcode: int) -> bytes:
        """An answer without records."""
        flags = self._flags(query, view) | rcode & 0xF
        return render(query, flags, (), (), (), limit=TCP_LIMIT, opt_record=self._edns.record(query, rcode))

    def _flags(self, query: Query, view: View) -> int:
        return QR | query.flags & (OPCODE_MASK | RD | CD) | (RA if view.available else 0)

    def _log_query(self, query: Query, host: str, port: int, *, tcp: bool) -> None:
        name = names.to_text(query.name)
        kind = dns.rdatatype.to_text(dns.rdatatype.RdataType.make(query.rdtype))
        marks = "+" if query.flags & RD else "-"
        marks += f"E({query.edns.version})" if query.edns is not None else ""
        marks += ("T" if tcp else "") + ("D" if query.do else "") + ("C" if query.flags & CD else "")
        self._log.info(f"client {host}#{port} ({name}): query: {name} IN {kind} {marks}")

    # ---- updates

    def _update(
        self, data: bytes, query: Query, view: View, host: str, port: int, signed: Signed | None
    ) -> bytes:
        """RFC 2136. The zone section is where the question is in a query."""
        plain = replace(query, question=b"")
        origin = query.name.lower()
        zone, conf = self._authority.zones.get(origin), self._zone_confs.get(origin)
        if query.rdtype != SOA or query.rdclass != IN:
            return self._plain(plain, view, FORMERR)
        who = f"client {host}#{port}" + (f"/key {signed.name}" if signed is not None else "")
        shown = f"{names.to_text(origin)}/IN"
        if zone is None or conf is None or conf.kind != "primary":
            return self._plain(plain, view, NOTAUTH)
        if not view.update.get(origin, False) or self._sign is None:
            self._log.info(f"{who}: update '{shown}' denied")
            return self._plain(plain, view, REFUSED)
        try:
            message = (
                signed.message if signed is not None else dns.message.from_wire(data, one_rr_per_rrset=True)
            )
            changed = update(zone, conf, message, self._sign)
        except Refusal as refusal:
            self._log.info(f"{who}: updating zone '{shown}': update unsuccessful: {refusal}")
            return self._plain(plain, view, refusal.rcode)
        except (dns.exception.DNSException, ValueError):
            return self._plain(plain, view, FORMERR)
        if changed is not zone:
            self._authority.zones[origin] = changed
            self.changed(conf.name, changed)
            self.forget_prepared()
            self._log.info(f"{who}: updating zone '{shown}': serial {changed.serial}")
        return self._plain(plain, view, NOERROR)

    # ---- transfers

    def _transfer(self, query: Query, view: View, host: str, *, tcp: bool) -> bytes | Transfer:
        zone = self._authority.zones.get(query.name.lower())
        if zone is None:
            return self._plain(query, view, NOTAUTH)
        if not view.transfer.get(zone.origin, False):
            self._log.info(f"client {host}: zone transfer '{names.to_text(zone.origin)}/IN' denied")
            return self._plain(query, view, REFUSED)
        if not tcp:
            if query.rdtype == AXFR:
                return self._plain(query, view, FORMERR)
            # RFC 1995 §2: an answer that does not fit is the SOA alone, and the client turns to TCP.
            answer = Answer(answer=[(query.name, zone.soa)])
            return self._render(query, view, answer, self._udp_limit(query))
        self._log.info(f"client {host}: transfer of '{names.to_text(zone.origin)}/IN': AXFR started")
        return Transfer(transfer.messages(query, zone, self._edns.record(query, 0)))

    # ---- forwarding

    def _forwarders(self, query: Query, view: View, name: bytes) -> Sequence[Server]:
        """Who is asked about a name on behalf of this client; nobody, mostly."""
        if not (query.flags & RD and view.available):
            return ()
        conf: ZoneConf | None = None
        while conf is None or conf.forwarders is None:
            conf = self._zone_confs.get(name)
            if name == names.ROOT:
                break
            name = names.parent(name)
        if conf is not None and conf.forwarders is not None:
            return conf.forwarders
        return self.options.forwarders

    def _onward(
        self,
        query: Query,
        view: View,
        limit: int,
        question: bytes,
        servers: Sequence[Server],
        so_far: Answer | None,
    ) -> _Relayed | Pending:
        pending = Pending(query, view, limit, question, servers, so_far)
        held = self._forwarder.cached(query, question)
        if held is None:
            return pending
        return _Relayed(self._relay(pending, held[0], held[1]))

    async def complete(self, pending: Pending) -> bytes:
        """Ask the forwarders; SERVFAIL when none of them answers."""
        wire = await self._complete(pending)
        return wire if pending.signed is None else pending.signed.sign(wire)

    async def _complete(self, pending: Pending) -> bytes:
        answer = await self._forwarder.ask(pending.query, pending.question, pending.servers)
        if answer is None:
            if pending.so_far is not None and pending.so_far.answer:
                # The part of the chain that is ours is still true.
                pending.so_far.rcode = SERVFAIL
                return self._render(pending.query, pending.view, pending.so_far, pending.limit)
            return self._plain(pending.query, pending.view, SERVFAIL)
        return self._relay(pending, answer, 0)

    def _relay(self, pending: Pending, answer: Forwarded, age: int) -> bytes:
        query, view = pending.query, pending.view
        if pending.so_far is not None and pending.so_far.answer:
            return self._join(pending, answer, age)
        flags = self._flags(query, view) | answer.rcode & 0xF
        if answer.authentic and (query.do or query.flags & AD):
            flags |= AD
        opt_record = self._edns.record(query, answer.rcode)
        body, counts = answer.aged(age), answer.counts
        if 12 + len(query.question) + len(body) + len(opt_record) > pending.limit:
            flags, body, counts = flags | TC, b"", (0, 0, 0)
        header = HEADER.pack(query.id, flags, 1, counts[0], counts[1], counts[2] + (1 if opt_record else 0))
        return header + query.question + body + opt_record

    def _join(self, pending: Pending, answer: Forwarded, age: int) -> bytes:
        """Our part of an alias chain, and the forwarder's rest of it."""
        so_far = pending.so_far
        assert so_far is not None
        head = HEADER.pack(0, QR | answer.rcode & 0xF, 1, *answer.counts)
        rest = dns.message.from_wire(head + pending.question + answer.aged(age))
        joined = Answer(rcode=answer.rcode & 0xF, authoritative=so_far.authoritative)
        joined.answer = [*so_far.answer, *_sets(rest.answer)]
        joined.authority = [pair for pair in _sets(rest.authority) if pair[1].rdtype == SOA]
        return self._render(pending.query, pending.view, joined, pending.limit)


def _sets(section: Sequence[dns.rrset.RRset]) -> list[tuple[bytes, RRset]]:
    found: list[tuple[bytes, RRset]] = []
    for rrset in section:
        kind = int(rrset.rdtype)
        rdatas = tuple(compact(kind, rdata)[0] for rdata in rrset)
        found.append((rrset.name.to_wire() or names.ROOT, RRset(kind, int(rrset.ttl), rdatas)))
    return found
