"""Questions for others: to whom they go, and their answers on the way back to the client."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import dns.message
import dns.rrset

from mailstack.config.named import Options
from mailstack.config.named import Zone as ZoneConf
from mailstack.dns import names
from mailstack.dns.authority import Answer
from mailstack.dns.forward import Forwarded, Forwarder, Server
from mailstack.dns.message import AD, HEADER, QR, RD, SERVFAIL, TC, Query
from mailstack.dns.replies import Replies
from mailstack.dns.results import Pending, Relayed
from mailstack.dns.rights import View
from mailstack.dns.zone import SOA, RRset
from mailstack.dns.zonefile import compact


class Relay:
    """The forwarders of one configuration. `zones` are the configured ones by lower-case wire name."""

    def __init__(
        self, options: Options, zones: Mapping[bytes, ZoneConf], forwarder: Forwarder, replies: Replies
    ) -> None:
        self._options = options
        self._zones = zones
        self._forwarder = forwarder
        self._replies = replies

    def servers(self, query: Query, view: View, name: bytes) -> Sequence[Server]:
        """Who is asked about a lower-case name on behalf of this client; nobody, mostly."""
        if not (query.flags & RD and view.available):
            return ()
        conf: ZoneConf | None = None
        while conf is None or conf.forwarders is None:
            conf = self._zones.get(name)
            if name == names.ROOT:
                break
            name = names.parent(name)
        if conf is not None and conf.forwarders is not None:
            return conf.forwarders
        return self._options.forwarders

    def onward(
        self,
        query: Query,
        view: View,
        limit: int,
        question: bytes,
        servers: Sequence[Server],
        so_far: Answer | None,
    ) -> Relayed | Pending:
        """The answer from the cache, or that it has to be asked for."""
        pending = Pending(query, view, limit, question, servers, so_far)
        held = self._forwarder.cached(query, question)
        if held is None:
            return pending
        return Relayed(self._relay(pending, held[0], held[1]))

    async def complete(self, pending: Pending) -> bytes:
        """Ask the forwarders; SERVFAIL when none of them answers."""
        answer = await self._forwarder.ask(pending.query, pending.question, pending.servers)
        if answer is None:
            if pending.so_far is not None and pending.so_far.answer:
                # The part of the chain that is ours is still true.
                pending.so_far.rcode = SERVFAIL
                return self._replies.of(pending.query, pending.view, pending.so_far, pending.limit)
            return self._replies.plain(pending.query, pending.view, SERVFAIL)
        return self._relay(pending, answer, 0)

    def _relay(self, pending: Pending, answer: Forwarded, age: int) -> bytes:
        query, view = pending.query, pending.view
        if pending.so_far is not None and pending.so_far.answer:
            return self._join(pending, answer, age)
        flags = self._replies.flags(query, view) | answer.rcode & 0xF
        if answer.authentic and (query.do or query.flags & AD):
            flags |= AD
        opt_record = self._replies.opt_record(query, answer.rcode)
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
        return self._replies.of(pending.query, pending.view, joined, pending.limit)


def _sets(section: Sequence[dns.rrset.RRset]) -> list[tuple[bytes, RRset]]:
    found: list[tuple[bytes, RRset]] = []
    for rrset in section:
        kind = int(rrset.rdtype)
        rdatas = tuple(compact(kind, rdata)[0] for rdata in rrset)
        found.append((rrset.name.to_wire() or names.ROOT, RRset(kind, int(rrset.ttl), rdatas)))
    return found
