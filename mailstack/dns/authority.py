"""What the zones say to a question: no sockets, no wire form, no access lists.

`Authority.answer` follows RFC 1034 §4.3.2 with the clarifications of RFC 2308 (negative answers), RFC 4592
(wildcards), RFC 6672 (DNAME), RFC 8020 (NXDOMAIN means nothing below) and RFC 9471 (glue), and puts into the
authority and additional sections what BIND 9.18 puts there.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from mailstack.config.named.model import MinimalResponses
from mailstack.dns import names
from mailstack.dns.message import NOERROR, NXDOMAIN, SERVFAIL
from mailstack.dns.zone import (
    AAAA,
    ANY,
    CDNSKEY,
    CDS,
    CNAME,
    DNAME,
    DNSKEY,
    DS,
    KEY,
    L32,
    L64,
    LP,
    MX,
    NAPTR,
    NS,
    NSEC,
    NSEC3,
    RRSIG,
    SOA,
    SRV,
    TLSA,
    A,
    Node,
    RRset,
    Zone,
)

CHAIN_LIMIT: Final = 11
"""Aliases followed in one answer (BIND's max-query-restarts)."""
ADDITIONAL_LIMIT: Final = 13
"""Records of a set beyond which nothing is put beside it (BIND's answer to CVE-2024-11187)."""
NAME_LIMIT: Final = 255
YXDOMAIN: Final = 6
_KEY_MATERIAL: Final = frozenset((DS, KEY, DNSKEY, CDS, CDNSKEY))
_NOT_ALIASED: Final = frozenset((CNAME, ANY, KEY, NSEC, RRSIG))
"""Types that are looked for beside a CNAME instead of following it."""


_ADDRESSES: Final = (A, AAAA)
_BESIDE: Final = {NAPTR: (SRV, A, AAAA), LP: (L32, L64)}
"""What is told of the names in these types; of those in others, their addresses."""
_SMTP: Final = b"\x03_25\x04_tcp"
"""TLSA beside MX: the records for DANE with SMTP (RFC 7672 §2.2)."""


@dataclass(slots=True)
class Answer:
    """The sections of an answer, as (owner, set) pairs."""

    rcode: int = NOERROR
    authoritative: bool = True
    answer: list[tuple[bytes, RRset]] = field(default_factory=list)
    authority: list[tuple[bytes, RRset]] = field(default_factory=list)
    additional: list[tuple[bytes, RRset]] = field(default_factory=list)
    glue: int = 0
    """How many sets at the start of `additional` a referral cannot do without."""
    zone: Zone | None = None
    """The zone that the question fell into."""
    do: bool = False
    """Signatures and proofs are wanted."""
    one: bool = False
    """A question for ANY gets one set only (minimal-any; RFC 8482 §4.1)."""
    exhausted: bool = False
    """The aliases come to no end."""
    onward: bytes | None = None
    """The name to go on with when somebody else has to be asked: an alias's target outside our zones, or the
    question itself below a delegation."""


class Authority:
    """Answers from a set of zones; `minimal_any`, `minimal_responses`, `zero_no_soa_ttl` as in named.conf."""

    def __init__(
        self,
        zones: Iterable[Zone],
        *,
        minimal_responses: MinimalResponses = "no-auth-recursive",
        minimal_any: bool = False,
        zero_no_soa_ttl: bool = True,
    ) -> None:
        self.zones = {zone.origin: zone for zone in zones}
        self.unloaded: set[bytes] = set()
        """The zones of which there is no data to answer from: secondary ones before the first transfer, and
        expired ones. Others stand in their place in `zones`."""
        self._minimal_responses = minimal_responses
        self._minimal_any = minimal_any
        self._zero_no_soa_ttl = zero_no_soa_ttl

    def zone_of(self, name: bytes) -> Zone | None:
        """The closest zone that holds a lower-case name."""
        zones = self.zones
        while True:
            zone = zones.get(name)
            if zone is not None:
                return zone
            if name == names.ROOT:
                return None
            name = names.parent(name)

    def answer(
        self,
        name: bytes,
        rdtype: int,
        *,
        recursive: bool,
        tcp: bool,
        across: bool = False,
        do: bool = False,
        small: bool = False,
    ) -> Answer | None:
        """The answer to a question of class IN; None when no zone holds the name.

        `name` is the question's in the client's case; `recursive` is its RD bit, `tcp` how it came (RFC 8482
        minimal answers to ANY are for UDP). With `across`, aliases lead into other zones of this
        server: named follows them only for clients that may recurse and want to. With `do`, signed zones
        add signatures and proofs. With `small`, authority and additional sections hold what is needed only.
        """
        zone = self._start(name.lower(), rdtype)
        if zone is None:
            return None
        out = Answer(zone=zone, one=rdtype == ANY and self._minimal_any and not tcp, do=do)
        with_authority = with_additional = False
        if not small:
            with_authority, with_additional = self._sections(rdtype, recursive=recursive, tcp=tcp)
        self._follow(out, zone, name, rdtype, with_authority=with_authority, across=across)
        self._additional(out, rdtype, with_additional=with_additional)
        if do:
            self._add_signatures(out)
        return out

    def _start(self, lower: bytes, rdtype: int) -> Zone | None:
        zone = self.zone_of(lower)
        if rdtype == DS and zone is not None and lower == zone.origin and lower != names.ROOT:
            # DS lives on the parent's side of the cut (RFC 4035 §3.1.4.1), if we have that side.
            return self.zone_of(names.parent(lower)) or zone
        return zone

    def _sections(self, rdtype: int, *, recursive: bool, tcp: bool) -> tuple[bool, bool]:
        """Whether authority and additional sections are filled beyond what is needed."""
        minimal = self._minimal_responses
        authority = minimal == "no" or (minimal == "no-auth-recursive" and not recursive)
        additional = minimal != "yes"
        if rdtype == NS:
            return True, True
        if rdtype in _KEY_MATERIAL or (rdtype == ANY and self._minimal_any and not tcp):
            return False, False
        return authority, additional

    # ---- the chain of aliases

    def _follow(
        self, out: Answer, zone: Zone, name: bytes, rdtype: int, *, with_authority: bool, across: bool
    ) -> None:
        for _ in range(CHAIN_LIMIT + 1):
            target = self._step(out, zone, name, name.lower(), rdtype, with_authority=with_authority)
            if target is None:
                return
            came = target.lower()
            if any(owner.lower() == came and rrset.rdtype == CNAME for owner, rrset in out.answer):
                break
            name = target
            following = self.zone_of(target.lower())
            if following is None or (following is not zone and not across):
                out.onward = target if following is None else None
                return
            zone = following
            if zone.origin in self.unloaded:
                out.rcode = SERVFAIL
                return
        out.rcode, out.exhausted = SERVFAIL, True

    def _step(
        self, out: Answer, zone: Zone, name: bytes, lower: bytes, rdtype: int, *, with_authority: bool
    ) -> bytes | None:
        """One name in one zone; returns the alias's target when the question goes on there."""
        above = self._highest_break(zone, lower, rdtype)
        if above is not None:
            node = zone.nodes[above]
            if above in zone.cuts:
                self._refer(out, zone, node, name)
                return None
            target = self._substitute(out, node, name)
            if target is not None and rdtype in (CNAME, ANY):
                self._add_authority(out, zone, with_authority=with_authority)
                return None
            return target
        node_at, source = zone.nodes.get(lower), lower
        if node_at is None:
            source = self._wildcard(zone, lower)
            node_at = zone.nodes.get(source)
            if node_at is None:
                self._deny_name(out, zone, lower, rdtype)
                return None
        rrsets = node_at.rrsets
        if CNAME in rrsets and rdtype not in _NOT_ALIASED:
            alias = rrsets[CNAME]
            out.answer.append((node_at.owner if source == lower else name, alias))
            self._prove_expansion(out, zone, lower, source)
            return _target(alias)
        if zone.signer is not None and rdtype in (ANY, NSEC, RRSIG):
            zone.signer.complete(source)
        found = _of_type(rrsets, rdtype, do=out.do)
        if out.one:
            del found[1:]
        if not found:
            self._deny_type(out, zone, lower, source, rdtype)
            return None
        # The name as the zone writes it, but as it was asked for where a wildcard stands for it.
        owner = node_at.owner if source == lower else name
        out.answer.extend((owner, rrset) for rrset in found)
        if not (lower == zone.origin and rdtype in (NS, ANY)):
            self._add_authority(out, zone, with_authority=with_authority)
        self._prove_expansion(out, zone, lower, source)
        return None

    def _deny_name(self, out: Answer, zone: Zone, lower: bytes, rdtype: int) -> None:
        out.rcode = NXDOMAIN
        # BIND's zero-no-soa-ttl: a SOA that was asked for is not to be cached with NXDOMAIN.
        uncached = rdtype == SOA and self._zero_no_soa_ttl
        soa = zone.negative_soa.with_ttl(0) if uncached else zone.negative_soa
        out.authority.append((zone.apex.owner, soa))
        if out.do and zone.denial is not None:
            out.authority += zone.denial.no_name(lower)

    def _deny_type(self, out: Answer, zone: Zone, lower: bytes, source: bytes, rdtype: int) -> None:
        out.authority.append((zone.apex.owner, zone.negative_soa))
        if out.do and zone.denial is not None:
            if source == lower:
                out.authority += zone.denial.no_type(lower, rdtype)
            else:
                out.authority += zone.denial.no_type_of_wildcard(lower, source)

    def _prove_expansion(self, out: Answer, zone: Zone, lower: bytes, source: bytes) -> None:
        """An answer out of a wildcard is right only because nothing nearer is there."""
        if source != lower and out.do and zone.denial is not None:
            out.authority += zone.denial.wildcard(lower)

    def _add_authority(self, out: Answer, zone: Zone, *, with_authority: bool) -> None:
        if with_authority:
            out.authority.append((zone.apex.owner, zone.apex.rrsets[NS]))

    def _highest_break(self, zone: Zone, lower: bytes, rdtype: int) -> bytes | None:
        """The name nearest the apex that takes `lower` out of the zone: a cut, or a DNAME above."""
        if not zone.cuts and not zone.dnames:
            return None
        found = None
        at = lower
        size = len(zone.origin)
        while len(at) >= size:
            if at in zone.cuts:
                # The delegating side answers for DS itself.
                if at != lower or rdtype != DS:
                    found = at
            elif at in zone.dnames and at != lower:
                found = at
            if at == names.ROOT:
                break
            at = names.parent(at)
        return found

    def breaks_below(self, zone: Zone, lower: bytes) -> bool:
        """Whether a cut or a DNAME at a name of a zone, or above, takes the names below it out."""
        return self._highest_break(zone, b"\1\0" + lower, A) is not None

    def _wildcard(self, zone: Zone, lower: bytes) -> bytes:
        """The source of synthesis for a name that does not exist (RFC 4592 §3.3.1), be it there or not."""
        if not zone.wild:
            return b""
        encloser = names.parent(lower)
        while encloser not in zone.nodes:
            encloser = names.parent(encloser)
        return b"\1*" + encloser

    def _refer(self, out: Answer, zone: Zone, cut: Node, name: bytes) -> None:
        if not out.answer:
            out.authoritative = False
        out.onward = name
        out.authority.append((cut.owner, cut.rrsets[NS]))
        if out.do and zone.denial is not None:
            if DS in cut.rrsets:
                out.authority.append((cut.owner, cut.rrsets[DS]))
            out.authority += zone.denial.no_ds(cut.owner.lower(), cut)

    def _substitute(self, out: Answer, node: Node, name: bytes) -> bytes | None:
        """A DNAME above the name: answer it with the CNAME made from it (RFC 6672 §3.2)."""
        dname = node.rrsets[DNAME]
        out.answer.append((node.owner, dname))
        rdata = dname.rdatas[0]
        assert isinstance(rdata, bytes)
        target = name[: len(name) - len(node.owner)] + rdata
        if len(target) > NAME_LIMIT:
            out.rcode = YXDOMAIN
            return None
        out.answer.append((name, RRset(CNAME, dname.ttl, ((b"", (target,), b""),))))
        return target

    def _add_signatures(self, out: Answer) -> None:
        """RRSIGs beside what they sign, in every section; only from zones that are signed as a whole."""
        for section in (out.answer, out.authority, out.additional):
            for index in range(len(section) - 1, -1, -1):
                owner, rrset = section[index]
                signature = self._signature(owner, rrset)
                if signature is not None:
                    section.insert(index + 1, (owner, signature))

    def _signature(self, owner: bytes, rrset: RRset) -> RRset | None:
        """The signatures over a set of an answer, wherever it comes from."""
        lower = owner.lower()
        zone = self.zone_of(lower)
        while zone is not None:
            if zone.denial is not None:
                if rrset.rdtype == NSEC3:
                    return rrset.signature
                if rrset.rdtype == SOA and lower == zone.origin:
                    signature = zone.signature(owner, zone.soa)
                    return None if signature is None else signature.with_ttl(rrset.ttl)
                node = zone.nodes.get(lower) or zone.nodes.get(self._wildcard(zone, lower))
                if node is not None and node.rrsets.get(rrset.rdtype) is rrset:
                    return zone.signature(node.owner, rrset)
            # The zone above speaks of an apex, too: DS, or the proof that there is none.
            above = lower == zone.origin and lower != names.ROOT
            zone = self.zone_of(names.parent(lower)) if above else None
            if zone is not None and zone.origin == lower:
                return None
        return None

    # ---- the additional section

    def _additional(self, out: Answer, rdtype: int, *, with_additional: bool) -> None:
        present = {(owner.lower(), rrset.rdtype) for owner, rrset in out.answer}
        present.update((owner.lower(), rrset.rdtype) for owner, rrset in out.authority)
        referral = bool(out.authority) and out.authority[0][1].rdtype == NS and out.onward is not None
        if referral:
            self._add_glue(out, present)
        if not with_additional or rdtype == ANY:
            return
        for section in (out.answer, () if referral else out.authority):
            for owner, rrset in section:
                if not rrset.targets or len(rrset.rdatas) > ADDITIONAL_LIMIT:
                    continue
                beside = self.zone_of(owner.lower())
                for target in rrset.targets:
                    self._add(out, target, _BESIDE.get(rrset.rdtype, _ADDRESSES), present, beside)
                    if rrset.rdtype == MX:
                        self._add(out, _SMTP + target, (TLSA,), present, beside)
        for _, rrset in out.additional.copy():
            if rrset.rdtype == SRV:  # it stands beside NAPTR, and its hosts beside it
                for target in rrset.targets:
                    self._add(out, target, _ADDRESSES, present, self.zone_of(target.lower()))

    def _add_glue(self, out: Answer, present: set[tuple[bytes, int]]) -> None:
        """The addresses of a referral's servers that nobody else can tell: those below cuts of the zone.

        Those below the referral's own cut come first: without them it leads nowhere (RFC 9471 §3.1).
        """
        cut, ns = out.authority[0]
        zone = self.zone_of(cut.lower())
        assert zone is not None
        inside = [target for target in ns.targets if names.is_below(target.lower(), cut.lower())]
        for target in inside:
            self._add(out, target, _ADDRESSES, present, zone, glue=True)
        out.glue = len(out.additional)
        for target in ns.targets:
            if target not in inside and self._highest_break(zone, target.lower(), A) in zone.cuts:
                self._add(out, target, _ADDRESSES, present, zone, glue=True)

    def _add(
        self,
        out: Answer,
        target: bytes,
        kinds: tuple[int, ...],
        present: set[tuple[bytes, int]],
        only: Zone | None,
        *,
        glue: bool = False,
    ) -> None:
        """The sets of `target` that are there, if it lies in zone `only`; with `glue`, even below a cut."""
        lower = target.lower()
        if len(lower) > NAME_LIMIT:
            return
        zone = self.zone_of(lower)
        if zone is None or zone is not only:
            return
        node = zone.nodes.get(lower)
        if (not glue or node is None) and self._highest_break(zone, lower, A) is not None:
            return
        if node is None:
            node = zone.nodes.get(self._wildcard(zone, lower))
        if node is None:
            return
        for kind in kinds:
            rrset = node.rrsets.get(kind)
            if rrset is not None and (lower, kind) not in present:
                present.add((lower, kind))
                out.additional.append((target, rrset))


def _of_type(rrsets: dict[int, RRset], rdtype: int, *, do: bool) -> list[RRset]:
    """The sets of a name that a question for a type gets; with `do`, signatures are added to them later."""
    if rdtype not in (ANY, RRSIG):
        return [rrsets[rdtype]] if rdtype in rrsets else []
    signatures = [rrset.signature for rrset in rrsets.values() if rrset.signature is not None]
    if rdtype == RRSIG:
        return signatures
    return [*rrsets.values(), *(() if do else signatures)]


def _target(alias: RRset) -> bytes:
    rdata = alias.rdatas[0]
    assert isinstance(rdata, tuple)
    return rdata[1][0]
