"""From a datagram to its answer: access lists, EDNS, limits, and the prepared answers.

A `Responder` belongs to one load of the configuration. `prepared(host)` is a dictionary from a query without
its id to the answer without its id: an answer that was computed once is a look-up the next time. It is right
because everything that an authoritative answer depends on is in the key: the query's octets, the transport,
and the access lists' verdict on the client (`View`). It is bounded (`PREPARED_MOST`).

`respond` never raises for what a client sends: malformed messages get FORMERR, unknown opcodes NOTIMP
(RFC 1035 §4.1.1), a fault of ours SERVFAIL and a line in the log.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import dns.rdatatype

from mailstack.config.named import Locality, NamedConf
from mailstack.config.named.faults import Fault
from mailstack.dns import chaos, names
from mailstack.dns.authority import Answer, Authority
from mailstack.dns.edns import Edns, with_option
from mailstack.dns.faults import RCODES, Faults, describe, other_records, spoil
from mailstack.dns.forward import Forwarder
from mailstack.dns.message import (
    AA,
    BADCOOKIE,
    BADVERS,
    CD,
    EXPIRE,
    FORMERR,
    HEADER,
    NOERROR,
    NOTIMP,
    OPCODE_MASK,
    RD,
    REFUSED,
    SERVFAIL,
    TC,
    Malformed,
    Query,
    error,
    parse,
    without_question,
)
from mailstack.dns.relay import Relay
from mailstack.dns.replies import Replies
from mailstack.dns.results import Delayed, Pending, Relayed, Result, Transfer
from mailstack.dns.rights import Rights, View
from mailstack.dns.tsig import Keyring, Refused, Signed
from mailstack.dns.update import Sign
from mailstack.dns.updates import Updates
from mailstack.dns.xfrout import TransfersOut
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
    Zone,
)
from mailstack.net.log import Log

PREPARED_LEAST, PREPARED_MOST = 10_000, 250_000
"""Prepared answers per view and transport: four for each name in the zones, within these bounds. The
dictionary starts anew when it is full, so that a flood of random names costs no more memory than that."""
PREPARED_SIZE = 2048
"""Octets of the largest answer that is kept prepared."""
UPDATE = 5 << 11
"""The opcode of updates, where it stands among the flags."""
HESIOD = 4
"""A class that named knows and has nothing for."""
_META = frozenset((OPT, TSIG, TKEY))


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
        )
        self.changed: Callable[[str, Zone], None] = lambda _name, _zone: None
        """Told of a zone that an update has changed."""
        confs = {names.from_text(zone.name): zone for zone in conf.zones}
        self._faults = Faults(faults, locality)
        apart = bool(self._faults) or conf.options.querylog
        self._rights = Rights(conf.options, confs, locality, apart=apart)
        self._keyring = Keyring(conf.keys)
        self._edns = Edns(conf.options)
        self._replies = Replies(conf.options, self._edns)
        self._relay = Relay(conf.options, confs, forwarder, self._replies)
        self._transfers = TransfersOut(self._authority, confs, conf.peers, self._replies, log)
        self._updates = Updates(self._authority, confs, sign, self._zone_changed, log)
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

    def _zone_changed(self, name: str, zone: Zone) -> None:
        self.changed(name, zone)
        self.forget_prepared()

    # ---- answers

    def respond(self, data: bytes, host: str, port: int, *, tcp: bool) -> Result:
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

    def _signed(self, data: bytes, query: Query, host: str, port: int, *, tcp: bool) -> Result:
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
    ) -> Result:
        prepared = view.tcp if tcp else view.udp
        opcode = query.flags & OPCODE_MASK
        if opcode and opcode != UPDATE:
            return self._replies.plain(replace(query, question=b""), view, NOTIMP)
        try:
            query = self._edns.read(query, host, tcp=tcp)
        except (Malformed, ValueError):
            return self._replies.plain(query, view, FORMERR)
        if opcode:
            if query.rdclass != IN:
                return self._of_class(query, view, host, tcp=tcp)
            return self._replies.plain(
                query, view, self._updates.rcode(data, query, view, host, port, signed)
            )
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
            return result.wire if isinstance(result, Relayed) else result
        except Exception as fault:  # a bug of ours must not take the service down
            self._log.exception(f"{host}#{port}: query failed", fault)
            return error(data, SERVFAIL, recursion=view.available)

    def _answer(
        self, data: bytes, query: Query, view: View, host: str, *, tcp: bool
    ) -> bytes | Pending | Transfer | Relayed:
        edns = query.edns
        if edns is not None and edns.version > 0:
            return self._replies.plain(query, view, BADVERS)
        if query.cookie and not query.known and self.options.require_server_cookie and not tcp:
            return self._replies.plain(query, view, BADCOOKIE)
        if not query.question:
            return self._replies.plain(query, view, NOERROR if query.cookie else FORMERR)
        if query.rdclass != IN:
            return self._of_class(query, view, host, tcp=tcp)
        rdtype = query.rdtype
        if rdtype in _META:
            return self._replies.plain(query, view, FORMERR)
        if rdtype in (MAILA, MAILB):
            return self._replies.plain(query, view, NOTIMP)
        if rdtype in (AXFR, IXFR):
            return self._transfers.answer(data, query, view, host, tcp=tcp)
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
                return self._replies.plain(query, view, REFUSED)
            return self._relay.onward(query, view, limit, query.question, servers, None)
        assert found.zone is not None
        if not view.query.get(found.zone.origin, True):
            return self._replies.prohibited(query, view)
        if found.onward is not None:
            servers = self._relay.servers(query, view, found.onward.lower())
            if servers:
                question = found.onward + rdtype.to_bytes(2, "big") + IN.to_bytes(2, "big")
                return self._relay.onward(query, view, limit, question, servers, found)
        if rdtype == SOA and query.edns is not None and query.edns.option(EXPIRE) is not None:
            query = _with_expire(query, found)
        return self._replies.of(query, view, found, limit)

    def _of_class(self, query: Query, view: View, host: str, *, tcp: bool) -> bytes:
        """The answer to a message about another class than IN."""
        rdclass, opcode = query.rdclass, query.flags & OPCODE_MASK
        if rdclass in (0, CLASS_NONE, CLASS_ANY):
            return self._replies.plain(query, view, FORMERR)
        if rdclass == HESIOD:
            return self._replies.prohibited(query, view)
        if rdclass != CH or opcode:
            return self._replies.plain(query, view, NOTIMP)
        if query.rdtype in (AXFR, IXFR) or query.rdtype in _META:
            return self._replies.plain(query, view, FORMERR if not tcp or query.rdtype in _META else REFUSED)
        small = self._replies.small(query, tcp=tcp)
        return chaos.answer(query, self.options, self._replies.opt_record(query, 0), small=small)

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
        if kind == "delay" and isinstance(wire, bytes):
            return Delayed(wire, fault.delay)
        return wire

    def _log_query(self, query: Query, host: str, port: int, *, tcp: bool) -> None:
        name = names.to_text(query.name)
        kind = dns.rdatatype.to_text(dns.rdatatype.RdataType.make(query.rdtype))
        marks = "+" if query.flags & RD else "-"
        marks += f"E({query.edns.version})" if query.edns is not None else ""
        marks += ("T" if tcp else "") + ("D" if query.do else "") + ("C" if query.flags & CD else "")
        self._log.info(f"client {host}#{port} ({name}): query: {name} IN {kind} {marks}")

    async def complete(self, pending: Pending) -> bytes:
        """Ask the forwarders; SERVFAIL when none of them answers."""
        wire = await self._relay.complete(pending)
        return wire if pending.signed is None else pending.signed.sign(wire)


def _with_expire(query: Query, found: Answer) -> Query:
    """When the zone is to be given up by its secondaries, for those who ask with its SOA (RFC 7314 §3)."""
    for owner, rrset in found.answer:
        if rrset.rdtype == SOA and found.zone is not None and owner.lower() == found.zone.origin:
            rdata = rrset.rdatas[0]
            numbers = rdata if isinstance(rdata, bytes) else rdata[2]
            return with_option(query, EXPIRE, numbers[-8:-4])
    return query
