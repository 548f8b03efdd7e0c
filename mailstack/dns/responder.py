"""From a datagram to its answer: access lists, EDNS, limits, and the prepared answers.

A `Responder` belongs to one load of the configuration. `prepared(host)` is a dictionary from a query without
its id to the answer without its id: an answer that was computed once is a look-up the next time. It is right
because everything that an authoritative answer depends on is in the key: the query's octets, the transport,
and the access lists' verdict on the client (`View`). It is bounded (`PREPARED_MOST`).

`respond` never raises for what a client sends: malformed messages get FORMERR, unknown opcodes NOTIMP
(RFC 1035 §4.1.1), a fault of ours SERVFAIL and a line in the log.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace

from mailstack.config.named import Locality, NamedConf
from mailstack.config.named.faults import Fault
from mailstack.dns import chaos, names
from mailstack.dns.authority import Answer, Authority
from mailstack.dns.clients import ClientLog
from mailstack.dns.direct import Direct
from mailstack.dns.edns import ENDLESS, Edns, with_expire, with_option
from mailstack.dns.faults import RCODES, Faults, describe, other_records, spoil
from mailstack.dns.forward import Forwarder
from mailstack.dns.message import (
    AA,
    BADCOOKIE,
    BADVERS,
    EXPIRE,
    EXTENDED_ERROR,
    FORMERR,
    HEADER,
    NOERROR,
    NOTIFY,
    NOTIMP,
    OPCODE_MASK,
    RD,
    REFUSED,
    SERVFAIL,
    TC,
    UPDATE,
    Malformed,
    Query,
    error,
    malformed,
    parse,
    without_question,
)
from mailstack.dns.notify import NotifiesIn
from mailstack.dns.prepared import Prepared
from mailstack.dns.ratelimit import Limits, subject
from mailstack.dns.ready import IPV6, Ready
from mailstack.dns.relay import Relay
from mailstack.dns.replies import TCP_LIMIT, Replies
from mailstack.dns.results import Delayed, Handed, Pending, Relayed, Result, Transfer
from mailstack.dns.rights import Rights, View
from mailstack.dns.statistics import Seen, Statistics
from mailstack.dns.tsig import Keyring, Refused, Signed
from mailstack.dns.update import Sign
from mailstack.dns.updates import Updates
from mailstack.dns.xfrout import TransfersOut
from mailstack.dns.zone import (
    AXFR,
    CH,
    IN,
    IXFR,
    MAILA,
    MAILB,
    SOA,
    Zone,
)
from mailstack.net.log import Log


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
        self._log = log
        self._authority = Authority(
            zones,
            minimal_responses=conf.options.minimal_responses,
            minimal_any=conf.options.minimal_any,
            zero_no_soa_ttl=conf.options.zero_no_soa_ttl,
        )
        self.changed: Callable[[str, Zone], None] = lambda _name, _zone: None
        """Told of a zone that an update has changed."""
        confs = {names.from_text(zone.name): zone for zone in conf.zones}
        self._faults = Faults(faults, locality)
        apart = bool(self._faults or conf.options.querylog or conf.options.rate_limit)
        self._rights = Rights(conf.options, confs, locality, apart=apart)
        self._clients = ClientLog(log, queries=conf.options.querylog)
        self.statistics = Statistics(self._zone_counted)
        limit = conf.options.rate_limit
        self._limits = Limits(limit, locality, log, self._clients, self.statistics) if limit else None
        self._counted_apart = {name: zone.name for name, zone in confs.items() if zone.statistics}
        self._keyring = Keyring(conf.keys)
        self._edns = Edns(conf.options)
        self._replies = Replies(conf.options, self._edns)
        quick = not (self._faults or conf.options.querylog or conf.options.rate_limit)
        self._relay = Relay(
            conf.options, confs, forwarder, self._replies, self._authority, self.count, keep=quick
        )
        self.now = forwarder.now
        """Seconds of the wall clock."""
        self._ready = quick and conf.options.recursion
        """Answers out of the forwarders' cache may be kept ready."""
        self._transfers = TransfersOut(self._authority, confs, conf.peers, self._replies, log)
        self._updates = Updates(self._authority, confs, sign, self._zone_changed, locality, log)
        self.notifies = NotifiesIn(self._authority, confs, locality, log)
        self.hand_on: Callable[[Handed], Awaitable[bytes]] | None = None
        """Asks a primary server for the answer to an update."""
        self.remaining: Callable[[bytes], int | None] = lambda _origin: None
        """Seconds until a secondary zone expires; None for a primary one."""
        known = sum(len(zone.nodes) for zone in zones)
        self._prepared = Prepared(conf.options.rrset_order, known, self.count, keep=not conf.options.querylog)
        self.direct = (Direct(self._authority), Direct(self._authority))
        """Answers by form, by UDP and TCP; used only while all clients have the same rights (`shared`)."""
        self._found: Answer | None = None
        """What the answer at hand was found to be; None for errors and for what others are asked."""

    # ---- clients

    def prepared(self, host: str) -> dict[bytes, bytes]:
        """The prepared UDP answers for a client."""
        return self._rights.view(host).udp

    @property
    def shared(self) -> dict[bytes, bytes] | None:
        """The prepared UDP answers when they are the same for every client."""
        only = self._rights.only
        return None if only is None else only.udp

    @property
    def ready(self) -> dict[bytes, Ready] | None:
        """The ready UDP answers out of the forwarders' cache, when they are the same for every client."""
        only = self._rights.only
        if only is None or not self._ready or not only.available:
            return None
        return only.ready[False].answers

    def seen(self, local: str) -> Seen:
        """Where those are counted that are given out of `shared`; `local` is the socket's address."""
        only = self._rights.only
        return {} if only is None else only.seen[":" in local]

    def forget_prepared(self) -> None:
        """The zones have changed: make the answers anew."""
        self.count()
        for direct in self.direct:
            direct.clear()
        for view in self._rights.views():
            view.forget()

    def count(self) -> Statistics:
        """What was asked and answered until now."""
        for view in self._rights.views():
            for index, seen in enumerate(view.seen):
                self.statistics.fold(seen, tcp=index > 1, ipv6=bool(index % 2))
            for tcp, shelf in enumerate(view.ready):
                for ipv6, given in enumerate(shelf.given()):
                    self._relay.forwarder.hits += sum(given.values())
                    self.statistics.fold(given, tcp=bool(tcp), ipv6=bool(ipv6))
        forwarder = self._relay.forwarder
        self.statistics.add("cache hits (from query)", forwarder.hits)
        self.statistics.add("cache misses (from query)", forwarder.misses)
        forwarder.hits = forwarder.misses = 0
        return self.statistics

    def _zone_counted(self, name: bytes) -> str | None:
        """The zone of a lower-case name, if it is counted apart."""
        zone = self._authority.zone_of(name) if self._counted_apart else None
        return None if zone is None else self._counted_apart.get(zone.origin)

    @property
    def in_service(self) -> Mapping[bytes, Zone]:
        """The zones by lower-case wire name, as they are at any time."""
        return self._authority.zones

    def is_unloaded(self, origin: bytes) -> bool:
        """Something else stands in the place of the zone with that lower-case wire name."""
        return origin in self._authority.unloaded

    def put(self, zone: Zone) -> None:
        """Answer from a zone that has come from its primary server."""
        self._authority.zones[zone.origin] = zone
        self._authority.unloaded.discard(zone.origin)
        self.forget_prepared()

    def withdraw(self, zone: Zone) -> None:
        """There is no such zone any more, or not yet: answer SERVFAIL. `zone` stands in its place."""
        self._authority.zones[zone.origin] = zone
        self._authority.unloaded.add(zone.origin)
        self.forget_prepared()

    def _zone_changed(self, name: str, zone: Zone) -> None:
        self.changed(name, zone)
        self.forget_prepared()

    # ---- answers

    def respond(self, data: bytes, host: str, port: int, *, tcp: bool, local: str = "") -> Result:
        """The answer to a message to our address `local`; None when there is to be none."""
        if len(data) < HEADER.size or data[2] & 0x80:
            return None
        view = self._rights.view(host, local)
        if view.ignored:
            return None
        if not self._faults:
            key = data[2:]
            if self._ready and (ready := view.ready[tcp].answers.get(key)) is not None:
                tail = ready.take(self.now())
                if tail is not None:
                    ready.hits += IPV6 if ":" in host else 1
                    return data[:2] + tail
            tail = self._prepared.take(view, key, tcp=tcp)
            if tail is not None:
                wire = data[:2] + tail
                about = view.subjects.get(key)
                if self._limits is None or tcp or about is None:
                    view.seen[2 * tcp + (":" in host)][tail] += 1
                    return wire
                limited = self._limits.passed(wire, about, host, port, data)
                return self._count_one(data, limited, host, tcp=tcp)
            if tcp and view is self._rights.only:
                made = self.direct[tcp].answer(data, view.seen[2 + (":" in host)])
                if made is not None:
                    return made
        result = self._read(data, view, host, port, local, tcp=tcp)
        return self._count_one(data, result, host, tcp=tcp)

    def _count_one(self, data: bytes, result: Result, host: str, *, tcp: bool) -> Result:
        if isinstance(result, Transfer):
            self.statistics.add("requested transfers completed")
        elif not isinstance(result, Pending):
            wire = result.wire if isinstance(result, Delayed) else result
            tail = None if wire is None else wire[2:]
            self.statistics.count(tail, 1, tcp=tcp, ipv6=":" in host, asked=data[2:])
        return result

    def _read(self, data: bytes, view: View, host: str, port: int, local: str, *, tcp: bool) -> Result:
        try:
            query = without_question(data) or parse(data)
        except Malformed:
            return malformed(data, recursion=view.available)
        if query.signed:
            return self._signed(data, query, host, port, local, tcp=tcp)
        return self._unsigned(data, query, view, host, port, local, tcp=tcp)

    def _signed(self, data: bytes, query: Query, host: str, port: int, local: str, *, tcp: bool) -> Result:
        """A message with TSIG: its answer is signed, and its rights are those of its key."""
        checked = self._keyring.check(data, error(data, NOERROR))
        if isinstance(checked, Refused):
            who = self._clients.who(host, port)
            self._log.category("security").error(f"{who}: request has invalid signature: {checked.reason}")
            return checked.wire
        view = self._rights.of(host, checked.name, local)
        unsigned = replace(query, signed=False)
        result = self._unsigned(data, unsigned, view, host, port, local, tcp=tcp, signed=checked)
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
        local: str,
        *,
        tcp: bool,
        signed: Signed | None = None,
    ) -> Result:
        opcode = query.flags & OPCODE_MASK
        later = query.edns is not None and query.edns.version > 0
        if opcode not in (0, UPDATE, NOTIFY):
            return self._replies.plain(replace(query, question=b""), view, BADVERS if later else NOTIMP)
        if opcode and later:
            return self._replies.plain(query, view, BADVERS)  # before it is acted on (RFC 6891 §6.1.3)
        try:
            query = self._edns.read(query, host, tcp=tcp)
        except (Malformed, ValueError):
            return self._replies.plain(query, view, FORMERR)
        if opcode:
            if query.rdclass != IN:
                return chaos.other_class(query, view, self._replies, self.options, tcp=tcp)
            if opcode == NOTIFY:
                key = signed.name if signed is not None else None
                rcode = self.notifies.rcode(data, query, host, port, key)
                return self._replies.plain(query, view, rcode, 0 if rcode else AA)
            handed = self._updates.handed(data, query, view, host, port, signed)
            if handed is not None and self.hand_on is not None:
                return handed
            rcode = self._updates.rcode(data, query, view, host, port, signed)
            return self._replies.plain(query, view, rcode)
        try:
            if query.rdclass in (IN, CH):
                self._clients.query(query, host, port, local, tcp=tcp, signed=signed)
            if self._faults and (fault := self._faults.choose(query, host)) is not None:
                self._log.warning(describe(fault, query, host, port))
                return self._wrong(fault, data, query, view, host, tcp=tcp)
            self._found = None
            who = self._clients.who(host, port, query, signed)
            result = self._answer(data, query, view, host, tcp=tcp, who=who)
            return self._finish(data, query, view, host, port, result, keep=signed is None, tcp=tcp)
        except Exception as fault:  # a bug of ours must not take the service down
            self._log.exception(f"{host}#{port}: query failed", fault)
            return error(data, SERVFAIL, recursion=view.available)

    def _finish(
        self,
        data: bytes,
        query: Query,
        view: View,
        host: str,
        port: int,
        result: bytes | Pending | Transfer | Relayed,
        *,
        keep: bool,
        tcp: bool,
    ) -> Result:
        """Keep an answer for the next time, if it will be the same, and send it, if it may be sent."""
        if not isinstance(result, bytes | Relayed):
            return result
        about, wire = None, result if isinstance(result, bytes) else result.wire
        if self._limits is not None and not tcp:
            about = subject(query, self._found, wire)
        if keep and isinstance(result, bytes) and self._prepared.is_kept(query):
            self._prepared.keep(view, data[2:], wire[2:], self._found, about, tcp=tcp)
            if view is self._rights.only and self._found is not None:
                self.direct[tcp].learn(data, query, self._found, wire)
        if self._limits is None or about is None or query.known:
            return wire
        limited = self._limits.passed(wire, about, host, port, data)
        if limited is not None and limited is not wire and query.cookie:
            return self._replies.plain(query, view, BADCOOKIE)
        return limited

    def _answer(
        self, data: bytes, query: Query, view: View, host: str, *, tcp: bool, who: str = ""
    ) -> bytes | Pending | Transfer | Relayed:
        edns = query.edns
        if edns is not None and edns.version > 0:
            return self._replies.plain(query, view, BADVERS)
        if query.cookie and not query.known and self.options.require_server_cookie and not tcp:
            return self._replies.plain(query, view, BADCOOKIE)
        if not query.question:
            return self._replies.plain(query, view, NOERROR if query.cookie else FORMERR)
        if query.rdclass != IN:
            return chaos.other_class(query, view, self._replies, self.options, tcp=tcp)
        rdtype = query.rdtype
        if rdtype in chaos.META:
            return self._replies.plain(query, view, FORMERR)
        if rdtype in (MAILA, MAILB):
            return self._replies.plain(query, view, NOTIMP)
        if rdtype in (AXFR, IXFR):
            return self._transfers.answer(data, query, view, host, who, tcp=tcp)
        limit = self._replies.limit(query, tcp=tcp)
        recursive = bool(query.flags & RD)
        found = self._authority.answer(
            query.name,
            rdtype,
            recursive=recursive,
            tcp=tcp,
            across=recursive and view.recursion,
            do=query.do,
            small=self._replies.small(query, tcp=tcp),
        )
        if found is None:
            servers = self._relay.servers(query, view, query.name.lower())
            if not servers:
                held = self._relay.held(query, view, limit, data[2:])
                if held is not None:
                    return held
                if self.options.recursion and not view.recursion:
                    self._clients.denied(query, who, cache="allow-query-cache")
                self._clients.failed(query, who, "REFUSED")
                return Relayed(self._replies.plain(query, view, REFUSED))
            key = data[2:]
            return self._relay.onward(query, view, limit, query.question, servers, None, key, host)
        assert found.zone is not None
        if found.zone.origin in self._authority.unloaded:
            return self._replies.plain(query, view, SERVFAIL)
        if not view.query.get(found.zone.origin, True):
            self._clients.denied(query, who)
            self._clients.failed(query, who, "REFUSED")
            return Relayed(self._replies.prohibited(query, view))
        self._found = found
        if found.onward is not None:
            servers = self._relay.servers(query, view, found.onward.lower())
            if servers:
                question = found.onward + rdtype.to_bytes(2, "big") + IN.to_bytes(2, "big")
                return self._relay.onward(query, view, limit, question, servers, found, host=host)
        if rdtype == SOA and query.edns is not None and query.edns.option(EXPIRE) is not None:
            query = with_expire(query, found, self.remaining(found.zone.origin))
        if found.exhausted:
            query = with_option(query, EXTENDED_ERROR, ENDLESS)
        self._prepared.arrange(found, view, query, data[2:], tcp=tcp)
        return self._replies.of(query, view, found, limit)

    def _wrong(self, fault: Fault, data: bytes, query: Query, view: View, host: str, *, tcp: bool) -> Result:
        """What a fault makes of a query."""
        kind = fault.kind
        limit = self._replies.limit(query, tcp=tcp)
        if kind == "nothing":
            return None
        if kind in RCODES:
            return self._replies.plain(query, view, RCODES[kind])
        if kind == "records":
            return self._replies.of(query, view, other_records(fault, query), limit)
        if kind == "truncated" and not tcp:
            return self._replies.plain(query, view, NOERROR, AA | TC)
        if kind in ("bad-signature", "expired-signature") and query.rdclass == IN:
            found = self._authority.answer(query.name, query.rdtype, recursive=False, tcp=tcp, do=query.do)
            if found is not None:
                spoil(found, expired=kind == "expired-signature")
                return self._replies.of(query, view, found, limit)
        right = self._answer(data, query, view, host, tcp=tcp)
        wire = right.wire if isinstance(right, Relayed) else right
        return Delayed(wire, fault.delay) if kind == "delay" and isinstance(wire, bytes) else wire

    async def complete(self, pending: Pending, port: int = 0) -> bytes:
        """Ask the forwarders; SERVFAIL when none of them answers. `port` is the client's."""
        if isinstance(pending, Handed):
            assert self.hand_on is not None
            return await self.hand_on(pending)  # with the primary's signature, if it was signed
        wire = await self._relay.complete(pending, port)
        self.statistics.add("queries caused recursion")
        self.statistics.count(wire[2:], 1, tcp=pending.limit == TCP_LIMIT, ipv6=False)
        return wire if pending.signed is None else pending.signed.sign(wire)
