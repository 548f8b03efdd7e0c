"""A zone in the form that answers are made from.

`Zone.nodes` maps a lower-case wire name to its node and holds every name that exists, empty non-terminals
included (RFC 4592 §2.2.2). Names below a delegation are there, too: glue. `cuts` and `dnames` are the names
that shadow what lies below them. A zone is never changed once it serves: a reload makes another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import TYPE_CHECKING

from mailstack.dns.names import parent

if TYPE_CHECKING:
    from mailstack.dns.denial import Denial
    from mailstack.dns.signing import Signer

A, NS, CNAME, SOA, PTR, MX, AAAA, SRV, NAPTR, DNAME, OPT = 1, 2, 5, 6, 12, 15, 28, 33, 35, 39, 41
AFSDB, RT, KX, DS, RRSIG, NSEC, DNSKEY, CDS, CDNSKEY = 18, 21, 36, 43, 46, 47, 48, 59, 60
NSEC3, NSEC3PARAM = 50, 51
KEY, TLSA, SVCB, HTTPS, L32, L64, LP, TKEY, TSIG = 25, 52, 64, 65, 105, 106, 107, 249, 250
IXFR, AXFR, MAILB, MAILA, ANY = 251, 252, 253, 254, 255
IN, CH, CLASS_NONE, CLASS_ANY = 1, 3, 254, 255

Rdata = bytes | tuple[bytes, tuple[bytes, ...], bytes]
"""Wire form; for the types whose names may be compressed (RFC 3597 §4): octets, names, octets."""


class RRset:
    """The records of one name and type. Immutable by convention; slots, because there are many."""

    __slots__ = ("rdatas", "rdtype", "signature", "targets", "ttl")

    def __init__(
        self,
        rdtype: int,
        ttl: int,
        rdatas: tuple[Rdata, ...],
        targets: tuple[bytes, ...] = (),
        signature: RRset | None = None,
    ) -> None:
        self.rdtype = rdtype
        self.ttl = ttl
        self.rdatas = rdatas
        self.targets = targets
        """Hosts whose addresses belong beside this set (NS, MX, SRV…), in the zone's case."""
        self.signature = signature
        """The RRSIG records over this set."""

    def with_ttl(self, ttl: int) -> RRset:
        """The same records under another TTL (seconds), and their signatures."""
        signature = None if self.signature is None else self.signature.with_ttl(ttl)
        return RRset(self.rdtype, ttl, self.rdatas, self.targets, signature)


class Node:
    """One name: its owner in the zone file's case, and its sets by type; none for an empty non-terminal.

    RRSIG is not among the types: signatures are with what they sign.
    """

    __slots__ = ("owner", "rrsets")

    def __init__(self, owner: bytes) -> None:
        self.owner = owner
        self.rrsets: dict[int, RRset] = {}


class Zone:
    """What one zone file says. `origin` is a lower-case wire name."""

    __slots__ = (
        "cuts",
        "denial",
        "dnames",
        "hashes",
        "negative_soa",
        "nodes",
        "origin",
        "serial",
        "signer",
        "soa",
        "wild",
    )

    def __init__(self, origin: bytes, nodes: dict[bytes, Node]) -> None:
        self.origin = origin
        self.nodes = nodes
        self.hashes: dict[bytes, Node] = _take_hashes(nodes)
        """The names of NSEC3 records, which are not names of the zone (RFC 5155 §7.2.8)."""
        apex = nodes[origin]
        self.set_soa(apex.rrsets[SOA])
        special = dict(_special(nodes))
        self.cuts = {name for name, node in special.items() if NS in node.rrsets and name != origin}
        self.dnames = {name for name, node in special.items() if DNAME in node.rrsets}
        self.wild = any(name.startswith(b"\1*") for name in special)
        self._add_empty_nonterminals()
        self.denial: Denial | None = None
        """Proofs for those who want them (the DO bit); None in a zone that is not signed."""
        self.signer: Signer | None = None
        """Who makes the signatures; None when they come from the zone file, or from nowhere."""

    def set_soa(self, soa: RRset) -> None:
        """Put another SOA in the place of the one that is there."""
        self.apex.rrsets[SOA] = self.soa = soa
        rdata = soa.rdatas[0]
        assert isinstance(rdata, tuple)
        self.serial = int.from_bytes(rdata[2][0:4], "big")
        minimum = int.from_bytes(rdata[2][16:20], "big")
        self.negative_soa = soa.with_ttl(min(soa.ttl, minimum))
        """The SOA as negative answers carry it (RFC 2308 §3)."""

    def signature(self, owner: bytes, rrset: RRset) -> RRset | None:
        """The signatures over a set that stands in the zone under `owner`; None when there are none."""
        if self.signer is None or rrset.signature is not None:
            return rrset.signature
        return self.signer.signature(owner, rrset) if self.signer.covers(owner.lower(), rrset) else None

    @property
    def apex(self) -> Node:
        return self.nodes[self.origin]

    def _add_empty_nonterminals(self) -> None:
        nodes = self.nodes
        for name, node in list(_special(nodes)):
            owner = node.owner
            while len(name) > len(self.origin):
                name, owner = parent(name), parent(owner)
                if name in nodes:
                    break
                nodes[name] = Node(owner)

    def records(self) -> Iterator[tuple[bytes, RRset]]:
        """Every set with its owner, the SOA first, signatures behind what they sign."""
        if self.signer is not None:
            self.signer.chain.make_all()
        yield from self._with_signature(self.apex.owner, self.soa)
        for node in chain(self.nodes.values(), self.hashes.values()):
            for rrset in node.rrsets.values():
                if rrset is not self.soa:
                    yield from self._with_signature(node.owner, rrset)

    def _with_signature(self, owner: bytes, rrset: RRset) -> Iterator[tuple[bytes, RRset]]:
        yield owner, rrset
        signature = self.signature(owner, rrset)
        if signature is not None:
            yield owner, signature

    def __len__(self) -> int:
        """The number of records."""
        return sum(len(rrset.rdatas) for _, rrset in self.records())


def _special(nodes: dict[bytes, Node]) -> Iterable[tuple[bytes, Node]]:
    """The names that may be more than a host; of a large file (`mailstack.dns.plainlines`), few."""
    special: Callable[[], Iterator[tuple[bytes, Node]]] | None = getattr(nodes, "special", None)
    return nodes.items() if special is None else special()


def _take_hashes(nodes: dict[bytes, Node]) -> dict[bytes, Node]:
    """Take the NSEC3 records out of a zone's names."""
    found: dict[bytes, Node] = getattr(nodes, "hashes", {})
    for name in [name for name, node in _special(nodes) if NSEC3 in node.rrsets]:
        node = nodes[name]
        found[name] = apart = Node(node.owner)
        apart.rrsets[NSEC3] = node.rrsets.pop(NSEC3)
        if not node.rrsets:
            del nodes[name]
    return found
