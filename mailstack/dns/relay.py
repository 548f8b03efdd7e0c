"""Questions for others: to whom they go, and their answers on the way back to the client.

An answer is put together set by set, as named does it: an alias leads to the next question, which is
answered from the cache, by a forwarder, or out of a zone of ours. What a forwarder says beyond the alias that
was asked for is not used.

Standards: RFC 1034 §5.3.3, RFC 6672 (DNAME), RFC 8767 (stale answers), RFC 8914 (extended errors).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from mailstack.config.named import Options
from mailstack.config.named import Zone as ZoneConf
from mailstack.dns import names
from mailstack.dns.authority import Answer, Authority
from mailstack.dns.cache import Entry
from mailstack.dns.edns import with_option
from mailstack.dns.forward import Forwarder, Server
from mailstack.dns.message import AA, AD, CD, EXTENDED_ERROR, NOERROR, NXDOMAIN, RD, REFUSED, SERVFAIL, Query
from mailstack.dns.ordering import Ordering, Turns
from mailstack.dns.ready import SIZE, Ready
from mailstack.dns.replies import TCP_LIMIT, Replies
from mailstack.dns.results import Pending, Relayed
from mailstack.dns.rights import View
from mailstack.dns.zone import AAAA, ANY, CNAME, DNAME, NS, SOA, A, RRset

STALE = 3
"""Extended error: the answer is stale (RFC 8914 §4.4)."""
OTHER = 0
YXDOMAIN = 6
NAME_LIMIT = 255
FOREVER = 1 << 40


@dataclass(slots=True)
class Chain:
    """An answer while it is put together."""

    name: bytes
    """What is to be found out next."""
    rdtype: int
    cd: bool
    do: bool
    out: Answer
    servers: Sequence[Server]
    """Who is asked about `name`; nobody for one that is only looked up."""
    until: int = FOREVER
    """The second from which on it is to be made anew."""
    restarts: int = 0
    authentic: bool = True
    kept: bool = True
    """All of it comes from the cache, fresh."""
    done: bool = False
    error: tuple[int, str] | None = None
    """The extended error to tell."""
    present: set[tuple[bytes, int]] = field(default_factory=set)

    def add(self, owner: bytes, rrset: RRset, ttl: int) -> None:
        """One set of the answer, once, with its signatures where they are wanted."""
        key = (owner.lower(), rrset.rdtype)
        if key in self.present:
            return
        self.present.add(key)
        self.out.answer.append((owner, RRset(rrset.rdtype, ttl, rrset.rdatas, rrset.targets)))
        if self.do and rrset.signature is not None:
            self.out.answer.append((owner, RRset(rrset.signature.rdtype, ttl, rrset.signature.rdatas)))

    def fail(self) -> None:
        """Nothing more can be found out."""
        self.out.rcode = SERVFAIL
        self.done = True
        self.kept = False


class Relay:
    """The forwarders of one configuration. `zones` are the configured ones by lower-case wire name."""

    def __init__(
        self,
        options: Options,
        zones: Mapping[bytes, ZoneConf],
        forwarder: Forwarder,
        replies: Replies,
        authority: Authority,
        count: Callable[[], object],
        *,
        keep: bool,
    ) -> None:
        """`count` is called before ready answers are dropped; without `keep` there are none."""
        self._options = options
        self._resolving = options.resolving
        self._zones = zones
        self.forwarder = forwarder
        self._replies = replies
        self._authority = authority
        self._count = count
        self._keep = keep
        self._ordering = Ordering(options.rrset_order) if options.rrset_order else None
        self._shelf_limit = options.resolving.max_cache_size // 8

    def servers(self, query: Query, view: View, name: bytes) -> Sequence[Server]:
        """Who is asked about a lower-case name on behalf of this client; nobody, mostly."""
        if not (query.flags & RD and view.available):
            return ()
        return self._forwarders(name)

    def _forwarders(self, name: bytes) -> Sequence[Server]:
        conf: ZoneConf | None = None
        while conf is None or conf.forwarders is None:
            conf = self._zones.get(name)
            if name == names.ROOT:
                break
            name = names.parent(name)
        if conf is not None and conf.forwarders is not None:
            return conf.forwarders
        return self._options.forwarders

    # ---- at once

    def onward(
        self,
        query: Query,
        view: View,
        limit: int,
        question: bytes,
        servers: Sequence[Server],
        so_far: Answer | None,
        key: bytes = b"",
        host: str = "",
    ) -> Relayed | Pending:
        """The answer from the cache, or that it has to be asked for. `key` is the query without its id."""
        chain = self._chain(query, question[:-4], servers, so_far)
        if not self._walk(chain, view):
            self.forwarder.misses += 1
            return Pending(query, view, limit, question, servers, so_far, host=host, chain=chain)
        self.forwarder.hits += 1
        return Relayed(self._reply(query, view, limit, chain, key if so_far is None else b""))

    def held(self, query: Query, view: View, limit: int, key: bytes) -> Relayed | None:
        """The answer to somebody who does not want others to be asked (no RD); None when it is not cached."""
        if query.flags & RD or not view.available:
            return None
        chain = self._chain(query, query.name, (), None)
        if not self._walk(chain, view) or (not chain.out.answer and chain.out.rcode == SERVFAIL):
            return None
        return Relayed(self._reply(query, view, limit, chain, key))

    def _chain(self, query: Query, name: bytes, servers: Sequence[Server], so_far: Answer | None) -> Chain:
        out = Answer(authoritative=False, do=query.do)
        chain = Chain(name, query.rdtype, bool(query.flags & CD), query.do, out, servers)
        if so_far is not None and so_far.answer:
            out.authoritative = so_far.authoritative
            out.answer = list(so_far.answer)
            chain.present = {(owner.lower(), rrset.rdtype) for owner, rrset in out.answer}
            chain.kept = chain.authentic = False
        return chain

    def _walk(self, chain: Chain, view: View) -> bool:
        """Follow the chain as far as the cache and our zones go; whether that is its end."""
        forwarder = self.forwarder
        while not chain.done:
            lower = chain.name.lower()
            found = forwarder.known(lower, chain.rdtype, cd=chain.cd)
            if found:
                self._take(chain, found, view)
                continue
            chain.kept = False
            if not chain.servers:
                return False
            stale = forwarder.stale(lower, chain.rdtype, cd=chain.cd)
            if stale and stale[0].window > forwarder.now():
                self._take(chain, stale, view, stale="query within stale refresh time window")
            elif stale and self._resolving.stale_client_timeout == 0:
                forwarder.refresh(chain.name, chain.rdtype, chain.servers, cd=chain.cd)
                self._take(chain, stale, view, stale="stale data prioritized over lookup")
            elif forwarder.failed_lately(lower, chain.rdtype, cd=chain.cd):
                chain.fail()
            else:
                return False
        return True

    # ---- with the help of others

    async def complete(self, pending: Pending, port: int = 0) -> bytes:
        """Ask the forwarders until the answer is whole; SERVFAIL when none of them answers.

        `port` is the client's.
        """
        chain, forwarder = pending.chain, self.forwarder
        assert chain is not None
        begun = forwarder.now()
        while not self._walk(chain, pending.view):
            name, lower = chain.name, chain.name.lower()
            stale = forwarder.stale(lower, chain.rdtype, cd=chain.cd)
            patience = self._resolving.stale_client_timeout if stale else None
            outcome = None
            if forwarder.now() - begun <= self._resolving.query_timeout:
                outcome = await forwarder.ask(
                    name, chain.rdtype, chain.servers, pending.host, port, cd=chain.cd, patience=patience
                )
                if outcome is None:
                    self._take(chain, stale, pending.view, stale="client timeout")
                    continue
            if outcome is not None and outcome.entries:
                self._take(chain, outcome.entries, pending.view)
            elif stale:
                self._take(chain, stale, pending.view, stale="resolver failure")
            else:
                if outcome is None or not outcome.turned_away:
                    forwarder.remember_failure(lower, chain.rdtype, cd=chain.cd)
                chain.fail()
        return self._reply(pending.query, pending.view, pending.limit, chain, b"")

    # ---- putting it together

    def _take(self, chain: Chain, entries: Sequence[Entry], view: View, *, stale: str = "") -> None:
        """What there is about `chain.name`: the end of the chain, or the alias that leads on."""
        forwarder = self.forwarder
        now = forwarder.now()
        if stale:
            chain.error, chain.kept = (STALE, stale), False
        target: bytes | None = None
        for entry in entries:
            chain.authentic = chain.authentic and entry.authentic
            ttl = self._resolving.stale_answer_ttl if stale else entry.remaining(now)
            self._hold(chain, entry, now)
            rrset = entry.rrset
            if rrset is None:
                self._deny(chain, entry, ttl)
                return
            chain.add(entry.owner, rrset, ttl)
            if rrset.rdtype == CNAME and chain.rdtype not in (CNAME, ANY):
                rdata = rrset.rdatas[0]
                target = rdata[1][0] if isinstance(rdata, tuple) else None
            elif rrset.rdtype == DNAME and entry.owner.lower() != chain.name.lower():
                target = _substituted(chain, entry, ttl)
                if target is None:
                    return
        if target is None:
            chain.done = True
        else:
            self._lead_on(chain, target, view)

    def _hold(self, chain: Chain, entry: Entry, now: int) -> None:
        """How long the answer holds with this in it; and ask for it anew if it is time."""
        resolving, forwarder = self._resolving, self.forwarder
        until = entry.expires
        if resolving.prefetch_trigger and entry.ttl >= resolving.prefetch_eligible:
            until -= resolving.prefetch_trigger
            if now < entry.expires and forwarder.is_due(entry) and entry.rrset is not None:
                forwarder.refresh(chain.name, chain.rdtype, chain.servers, cd=chain.cd)
        chain.until = min(chain.until, until)

    def _deny(self, chain: Chain, entry: Entry, ttl: int) -> None:
        chain.out.rcode = entry.rcode
        chain.done = True
        for owner, rrset in entry.authority:
            if rrset.rdtype != SOA and not chain.do:
                continue
            chain.out.authority.append((owner, RRset(rrset.rdtype, ttl, rrset.rdatas)))
            if chain.do and rrset.signature is not None:
                signature = RRset(rrset.signature.rdtype, ttl, rrset.signature.rdatas)
                chain.out.authority.append((owner, signature))

    def _lead_on(self, chain: Chain, target: bytes, view: View) -> None:
        """Go on with an alias's target: out of a zone of ours, or with whoever is asked about it."""
        chain.name = target
        chain.restarts += 1
        if chain.restarts > self._resolving.max_query_restarts:
            chain.fail()
            chain.error = (OTHER, "max. restarts reached")
            return
        lower = target.lower()
        zone = self._authority.zone_of(lower)
        if zone is None:
            if chain.servers:
                chain.servers = self._forwarders(lower)
                chain.done = not chain.servers
                chain.kept = chain.kept and bool(chain.servers)
            return
        chain.kept = chain.authentic = False
        if zone.origin in self._authority.unloaded:
            chain.fail()
            return
        if not view.query.get(zone.origin, True):
            chain.out.rcode, chain.done = REFUSED, True
            return
        ours = self._authority.answer(
            target, chain.rdtype, recursive=True, tcp=False, across=True, do=chain.do
        )
        assert ours is not None
        for owner, rrset in ours.answer:
            chain.present.add((owner.lower(), rrset.rdtype))
            chain.out.answer.append((owner, rrset))
        if ours.onward is None:
            chain.out.rcode, chain.done = ours.rcode, True
            chain.out.authority, chain.out.additional = ours.authority, ours.additional
        else:
            chain.name = ours.onward
            chain.servers = self._forwarders(ours.onward.lower()) if chain.servers else ()
            chain.done = not chain.servers

    # ---- the message

    def _reply(self, query: Query, view: View, limit: int, chain: Chain, key: bytes) -> bytes:
        out = chain.out
        keep = self._keep and chain.kept and _is_plain(query, key)
        if out.answer and out.rcode == NOERROR and chain.rdtype != ANY:
            self._additional(query, chain, tcp=limit == TCP_LIMIT)
        if chain.error is not None:
            code, text = chain.error
            query = with_option(query, EXTENDED_ERROR, code.to_bytes(2, "big") + text.encode())
        turns: Turns | None = None
        shelf = view.ready[limit == TCP_LIMIT]
        if self._ordering is not None and any(len(rrset.rdatas) > 1 for _, rrset in out.answer):
            turns = self._ordering.turns(out)
            self._ordering.arrange(out, shelf.variants(key, chain.until) if keep else None)
        flags = AD if self._is_authentic(query, chain) else 0
        if self._options.auth_nxdomain and out.rcode == NXDOMAIN:
            flags |= AA
        wire = self._replies.of(query, view, out, limit, flags)
        now = self.forwarder.now()
        if keep and chain.until > now and len(wire) <= SIZE:
            shelf.limit = self._shelf_limit
            most, cyclic = (1, False) if turns is None else (turns.most, turns.cyclic)
            shelf.put(key, Ready(wire[2:], now, chain.until, most, cyclic=cyclic), self._count)
        return wire

    def _is_authentic(self, query: Query, chain: Chain) -> bool:
        return (
            chain.authentic
            and self._resolving.trust_ad
            and chain.out.rcode != SERVFAIL
            and bool(query.do or query.flags & AD)
        )

    def _additional(self, query: Query, chain: Chain, *, tcp: bool) -> None:
        """The addresses of the hosts that the answer names, as far as they are known."""
        if self._replies.small(query, tcp=tcp):
            return
        if self._options.minimal_responses == "yes" and chain.rdtype != NS:
            return
        now = self.forwarder.now()
        for _, rrset in list(chain.out.answer):
            for target in rrset.targets:
                # More may be known in a moment.
                chain.until = min(chain.until, now + 1)
                for kind in (A, AAAA):
                    self._beside(chain, target, kind, now)

    def _beside(self, chain: Chain, target: bytes, kind: int, now: int) -> None:
        lower = target.lower()
        if (lower, kind) in chain.present:
            return
        zone = self._authority.zone_of(lower)
        if zone is not None:
            node = zone.nodes.get(lower)
            found = None if node is None else node.rrsets.get(kind)
            if found is None:
                return
            owner, ttl = target, found.ttl
        else:
            entry = self.forwarder.cache.beside(lower, kind, now, cd=chain.cd)
            if entry is None or entry.rrset is None:
                return
            found, owner, ttl = entry.rrset, entry.owner, entry.remaining(now)
        chain.present.add((lower, kind))
        chain.out.additional.append((owner, RRset(kind, ttl, found.rdatas)))
        if chain.do and found.signature is not None:
            chain.out.additional.append((owner, RRset(found.signature.rdtype, ttl, found.signature.rdatas)))


def _is_plain(query: Query, key: bytes) -> bool:
    """The message, here without its id, has a question, at most an OPT record without options, no more."""
    if query.edns is not None and query.edns.options:
        return False
    return key[4:10] == (b"\0\0\0\0\0\0" if query.edns is None else b"\0\0\0\0\0\1")


def _substituted(chain: Chain, entry: Entry, ttl: int) -> bytes | None:
    """The name that a DNAME makes of the chain's (RFC 6672 §2.2), and its alias; None for one too long."""
    assert entry.rrset is not None
    rdata = entry.rrset.rdatas[0]
    assert isinstance(rdata, bytes)
    target = chain.name[: len(chain.name) - len(entry.owner)] + rdata
    if len(target) > NAME_LIMIT:
        chain.out.rcode, chain.done = YXDOMAIN, True
        return None
    chain.add(chain.name, RRset(CNAME, ttl, ((b"", (target,), b""),)), ttl)
    return target
