"""What others have said, set by set, for as long as they said: the cache of a forwarder.

Times are whole seconds of the wall clock, as `named` has them: a record with a TTL of 1 that comes late in a
second is gone early in the next but one. Expired entries stay where stale answers are wanted.

Invariants: what all entries take together, the interpreter's own octets included, is at most `limit`; the
names that were used longest ago go first. An entry is never changed but for its times.

Standards: RFC 2308 (negative answers; NXDOMAIN holds for every type of a name, and not for names below it),
RFC 2181 §5.2, RFC 8767.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Sequence

from mailstack.dns.message import NOERROR, NXDOMAIN
from mailstack.dns.zone import ANY, CNAME, DNAME, RRSIG, Rdata, RRset

_CHECKING = b"\xff"
"""Before the names of answers that were asked for with CD: no length octet."""
_NODE = 160
"""Octets of a name's place in an ordered dictionary: link, slot and index, with room to grow."""


class Entry:
    """One set, or that there is none. `owner` has the case that it came with."""

    __slots__ = ("authentic", "authority", "expires", "extra", "owner", "rcode", "rrset", "ttl", "window")

    def __init__(
        self,
        owner: bytes,
        rrset: RRset | None,
        ttl: int,
        *,
        rcode: int = NOERROR,
        authority: Sequence[tuple[bytes, RRset]] = (),
        authentic: bool = False,
        extra: bool = False,
    ) -> None:
        self.owner = owner
        self.rrset = rrset
        """None: there is none."""
        self.ttl = ttl
        """Seconds that it may be kept."""
        self.rcode = rcode
        self.authority = tuple(authority)
        """What a negative answer shows: SOA, and proofs with their signatures."""
        self.authentic = authentic
        """The server that it comes from has validated it."""
        self.extra = extra
        """It stood beside an answer, and is good for that again only (RFC 2181 §5.4.1)."""
        self.expires = 0
        """When its TTL is over."""
        self.window = 0
        """Until when it is given, though it is stale, without asking."""

    def remaining(self, now: int) -> int:
        """Its TTL at `now`."""
        return min(max(self.expires - now, 0), self.ttl)  # the clock may be set back

    def size(self) -> int:
        """Octets that it takes."""
        total = sys.getsizeof(self) + sys.getsizeof(self.owner) + sys.getsizeof(self.authority) + 64
        if self.rrset is not None:
            total += _set_size(self.rrset)
        return total + sum(sys.getsizeof(owner) + 56 + _set_size(rrset) for owner, rrset in self.authority)


def _set_size(rrset: RRset) -> int:
    total = sys.getsizeof(rrset) + sys.getsizeof(rrset.rdatas) + sys.getsizeof(rrset.targets)
    total += sum(map(_rdata_size, rrset.rdatas))
    return total if rrset.signature is None else total + _set_size(rrset.signature)


def _rdata_size(rdata: Rdata) -> int:
    if isinstance(rdata, bytes):
        return sys.getsizeof(rdata)
    return sum(map(sys.getsizeof, (rdata, rdata[0], rdata[1], rdata[2], *rdata[1])))


class Cache:
    """Entries by name and type. `limit` is in octets; `stale` is how long (seconds) expired ones stay."""

    def __init__(self, limit: int, stale: int = 0) -> None:
        self._limit = limit
        self._stale = stale
        self._nodes: OrderedDict[bytes, dict[int, Entry]] = OrderedDict()
        self._sizes: dict[bytes, int] = {}
        self._dnames: set[bytes] = set()
        """Names that have had a DNAME record."""
        self.octets = 0

    def __len__(self) -> int:
        """Names."""
        return len(self._nodes)

    def get(
        self, name: bytes, rdtype: int, now: int, *, cd: bool = False, stale: bool = False
    ) -> list[Entry]:
        """What answers a question, `name` in lower case: an entry, several for ANY, nothing if it is unknown.

        With `stale`, expired entries too, but none that says that a name does not exist: named gives none.
        """
        key = _CHECKING + name if cd else name
        node = self._nodes.get(key)
        if node is not None:
            self._nodes.move_to_end(key)
            if rdtype in (ANY, RRSIG):
                found = self._all(node, rdtype, now, stale=stale)
                if found:
                    return found
            for kind in (rdtype, CNAME, 0):
                entry = node.get(kind)
                if entry is None or entry.extra:
                    continue
                if now < entry.expires or (stale and kind and now < entry.expires + self._stale):
                    return [entry]
        if self._dnames:
            above = self._dname(name, now, cd=cd, stale=stale)
            if above is not None:
                return [above]
        return []

    def _all(self, node: dict[int, Entry], rdtype: int, now: int, *, stale: bool) -> list[Entry]:
        until = now - self._stale if stale else now
        found = [e for e in node.values() if e.rrset is not None and not e.extra and until < e.expires]
        if rdtype == ANY:
            return found
        signed = []
        for entry in found:
            if entry.rrset is not None and entry.rrset.signature is not None:
                one = Entry(entry.owner, entry.rrset.signature, entry.ttl, authentic=entry.authentic)
                one.expires = entry.expires
                signed.append(one)
        return signed

    def _dname(self, name: bytes, now: int, *, cd: bool, stale: bool) -> Entry | None:
        """The alias of a part of the tree that holds the name."""
        while len(name) > 1:
            name = name[1 + name[0] :]
            if name in self._dnames:
                entry = self._nodes.get(_CHECKING + name if cd else name, {}).get(DNAME)
                longer = self._stale if stale else 0
                if entry is not None and entry.rrset is not None and now < entry.expires + longer:
                    return entry
        return None

    def beside(self, name: bytes, rdtype: int, now: int, *, cd: bool = False) -> Entry | None:
        """A set for an additional section."""
        entry = self._nodes.get(_CHECKING + name if cd else name, {}).get(rdtype)
        return entry if entry is not None and entry.rrset is not None and now < entry.expires else None

    def put(self, entry: Entry, rdtype: int, now: int, *, cd: bool = False) -> None:
        """Keep an entry from `now` on, `rdtype` being its type (0: for all types) and its TTL what it is."""
        entry.expires = now + entry.ttl
        if entry.ttl <= 0:
            return
        name = entry.owner.lower()
        key = _CHECKING + name if cd else name
        node = self._nodes.get(key)
        if node is None:
            node = self._nodes[key] = {}
        elif entry.extra and (held := node.get(rdtype)) is not None and not held.extra and now < held.expires:
            return  # an answer is worth more (RFC 2181 §5.4.1)
        else:
            if entry.rcode == NXDOMAIN:
                node.clear()
            elif not entry.extra:
                node.pop(0, None)
                # A name with an alias has nothing else (RFC 1034 §3.6.2), and the newer word counts.
                if rdtype == CNAME:
                    for kind in [k for k in node if k != CNAME]:
                        del node[kind]
                else:
                    node.pop(CNAME, None)
        node[rdtype] = entry
        if rdtype == DNAME and entry.rrset is not None:
            self._dnames.add(name)
        self._nodes.move_to_end(key)
        size = _NODE + 2 * sys.getsizeof(key) + sys.getsizeof(node) + sum(e.size() for e in node.values())
        self.octets += size - self._sizes.get(key, 0)
        self._sizes[key] = size
        while self.octets > self._limit and len(self._nodes) > 1:
            self._evict()

    def _evict(self) -> None:
        key, node = self._nodes.popitem(last=False)
        self.octets -= self._sizes.pop(key)
        if DNAME in node:
            self._dnames.discard(key.removeprefix(_CHECKING))
