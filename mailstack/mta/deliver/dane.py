"""DANE for mail servers: certificates that the DNS vouches for (RFC 6698, RFC 7671, RFC 7672).

`Authority.apply` turns the policy of a destination at level `dane` or `dane-only` into what it is for one
host, as Postfix does:

| what DNSSEC has to say of the host | dane | dane-only |
|---|---|---|
| TLSA records that can be used | the certificate has to match one | the same |
| TLSA records, none that can be used | encrypt | the mail waits |
| none, or nothing that is validated | may | the mail waits |
| no answer | the mail waits | the mail waits |

The resolver that is configured is trusted to have validated what it marks so (the AD bit). Records of usage 3
(DANE-EE) are compared with the server's own certificate, whatever its dates and names; those of usage 2
(DANE-TA) with the chain above it, which has to lead there and to be for the host or its domain. Other usages
cannot be used (RFC 7672 §3.1.3).

Diagnostics: `TLSA lookup error for HOST:PORT`, `no TLSA records found`, `TLSA records unusable`, `non DNSSEC
destination`.
"""

from __future__ import annotations

import hashlib
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import NamedTuple

from mailstack.config.postfix.main_cf import MainCf
from mailstack.mta.deliver.certificates import public_key
from mailstack.mta.deliver.names import Names
from mailstack.mta.deliver.session import Facts, Host
from mailstack.mta.deliver.tls_policy import Policy, TLSLevel, Unusable
from mailstack.net.dns_exchange import RecordType
from mailstack.net.log import Log
from mailstack.net.resolver import NoSuchDomain, Resolver, ResolveTemporary

DANE_TA, DANE_EE = 2, 3
_MATCHING = {"sha256": 1, "sha512": 2}
"""RFC 6698 §7.4: the number of a digest."""


class Record(NamedTuple):
    """One TLSA record."""

    usage: int
    selector: int
    """0: the certificate, 1: its public key."""
    matching: int
    """0: as it is, or the number of a digest."""
    data: bytes


@dataclass(frozen=True, slots=True)
class Dane:
    """What one host's certificate is compared with."""

    base: str
    """The host's name in the TLSA records' name, which is also what it is called by SNI."""
    names: tuple[str, ...]
    """What a certificate below a trust anchor has to be for."""
    records: tuple[Record, ...]
    digests: Mapping[int, str]
    wide: bool = False
    """See `Policy.wide`."""

    def matches(self, chain: Sequence[bytes]) -> bool:
        """Whether a chain (DER, the server's certificate first) is one that the records vouch for."""
        if not chain:
            return False
        if any(r.usage == DANE_EE and self.is_of(r, chain[0]) for r in self.records):
            return True
        anchors = [record for record in self.records if record.usage == DANE_TA]
        if not anchors:
            return False
        from mailstack.mta.deliver import anchors as trust

        return trust.leads_to(chain, anchors, self)

    def is_of(self, record: Record, der: bytes) -> bool:
        """Whether a record is about a certificate."""
        part = public_key(der) if record.selector else der
        digest = self.digests.get(record.matching)
        found = hashlib.new(digest, part).digest() if digest else part
        return found == record.data


class Authority:
    """DANE under one configuration. `dnssec`: destinations are looked up with it."""

    def __init__(self, names: Names, resolver: Resolver, log: Log, *, dnssec: bool) -> None:
        conf = names.conf
        self._resolver = resolver
        self._log = log
        self._dnssec = dnssec
        self._ignores_errors = names.smtp and conf.bool("ignore_mx_lookup_error")
        self._force = names.bool("tls_force_insecure_host_tlsa_lookup")
        self._insecure_mx = TLSLevel.MAY
        if names.smtp:
            level = conf.str("smtp_tls_dane_insecure_mx_policy")
            if level not in ("may", "encrypt", "dane"):
                raise conf.error("smtp_tls_dane_insecure_mx_policy", f"unexpected value {level!r}")
            self._insecure_mx = TLSLevel(level)
        self._digests, self._order = _digests(conf)
        self._probe = conf.str("dnssec_probe")
        self._warned = False
        self._anchors = find_spec("cryptography") is not None

    async def apply(self, policy: Policy, host: Host) -> Policy:
        """The policy for one host. Raises `Unusable`."""
        level = policy.level.value
        if not host.port:
            raise Unusable(f'{host.name}: the "{level}" security level is invalid for unix-domain sockets')
        if not self._dnssec:
            return self._misfit(policy, f"{host.name}: {level} configured with dnssec lookups disabled")
        if self._ignores_errors:
            return self._misfit(policy, f"{host.name}: {level} configured with MX lookup errors ignored")
        facts = host.facts
        if facts is None:  # an address has no name that the DNS could vouch for
            return self._without(policy, "no TLSA records found")
        if not facts.secure:
            await self._probe_once()
        insecure_mx = bool(facts.domain) and not facts.domain_secure
        if insecure_mx and (policy.level is TLSLevel.DANE_ONLY or self._insecure_mx is TLSLevel.MAY):
            return self._without(policy, "non DNSSEC destination")
        try:
            found = await self._find(facts, host.port)
        except ResolveTemporary:
            raise Unusable(f"TLSA lookup error for {host.name}:{host.port}", soft=True) from None
        if found is None:
            return self._without(policy, "no TLSA records found")
        base, records = found
        usable = self._usable(records)
        if not usable:
            lower = self._without(policy, "TLSA records unusable", encrypt=True)
            # Postfix calls the host by its name where only the digests are unknown.
            strange = any(record.usage in (DANE_TA, DANE_EE) for record in records)
            return replace(lower, servername=base) if strange else lower
        if insecure_mx and self._insecure_mx is TLSLevel.ENCRYPT:
            return self._without(policy, "insecure MX", encrypt=True)
        names = dict.fromkeys((base, *filter(None, (facts.domain_name, facts.domain))))
        return replace(
            policy,
            dane=Dane(base, tuple(names), usable, self._digests, policy.wide),
            servername=base,
            level=TLSLevel.HALF_DANE if insecure_mx else policy.level,
        )

    def _misfit(self, policy: Policy, reason: str) -> Policy:
        """The configuration contradicts itself."""
        self._log.warning(reason)
        if policy.level is TLSLevel.DANE_ONLY:
            raise Unusable("client TLS configuration problem", soft=True)
        assert policy.may is not None
        return policy.may

    def _without(self, policy: Policy, reason: str, *, encrypt: bool = False) -> Policy:
        """What is left where the DNS vouches for nothing."""
        if policy.level is TLSLevel.DANE_ONLY:
            raise Unusable(reason, soft=True)
        lower = policy.encrypt if encrypt else policy.may
        assert lower is not None
        return lower

    # ---- records

    async def _find(self, facts: Facts, port: int) -> tuple[str, list[Record]] | None:
        """(base domain, records): of the name that aliases lead to, else of the one that was asked for
        (RFC 7672 §2.2.2). Raises `ResolveTemporary`."""
        alias = facts.name != facts.asked
        if facts.secure or (self._force and not alias):
            bases = [facts.name] + [facts.asked] * alias
        elif alias and (self._force or await self._is_secure_alias(facts.asked)):
            bases = [facts.asked]
        else:
            return None
        for base in bases:
            try:
                answer = await self._resolver.ask(f"_{port}._tcp.{base}", "TLSA", dnssec=True)
            except NoSuchDomain:
                continue
            if answer.secure and answer.records:
                return base, [_record(text) for _, text in answer.records]
        return None

    async def _is_secure_alias(self, name: str) -> bool:
        try:
            answer = await self._resolver.ask(name, "CNAME", dnssec=True)
        except NoSuchDomain:
            return False
        return answer.secure and bool(answer.records)

    def _usable(self, records: Sequence[Record]) -> tuple[Record, ...]:
        """Those that we can compare with; of several digests of one thing the best (RFC 7671 §9)."""
        usable = [r for r in records if r.selector in (0, 1) and self._is_sound(r)]
        best: dict[tuple[int, int], int] = {}
        for record in usable:
            if record.matching:
                key = (record.usage, record.selector)
                rank = self._order.index(record.matching)
                best[key] = min(rank, best.get(key, rank))
        return tuple(
            record
            for record in usable
            if not record.matching
            or self._order.index(record.matching) == best[record.usage, record.selector]
        )

    def _is_sound(self, record: Record) -> bool:
        if record.usage == DANE_TA and not self._anchors:
            if not self._warned:
                self._warned = True
                self._log.warning("TLSA records of usage 2 need the cryptography package")
            return False
        if record.usage not in (DANE_TA, DANE_EE) or not record.data:
            return False
        if not record.matching:
            return True
        digest = self._digests.get(record.matching)
        return digest is not None and hashlib.new(digest).digest_size == len(record.data)

    # ---- dnssec_probe

    async def _probe_once(self) -> None:
        """Say so, once, where the resolver does not validate at all."""
        probe, self._probe = self._probe, ""
        kind, _, name = probe.partition(":")
        if not name:
            return
        try:
            answer = await self._resolver.ask(name, _probe_type(kind), dnssec=True)
        except (NoSuchDomain, ResolveTemporary) as error:
            self._log.warning("DNSSEC validation may be unavailable")
            self._log.warning(f"reason: dnssec_probe '{probe}' received no response: {error}")
        else:
            if not answer.secure:
                self._log.warning("DNSSEC validation may be unavailable")
                self._log.warning(
                    f"reason: dnssec_probe '{probe}' received a response that is not DNSSEC validated"
                )


def _probe_type(kind: str) -> RecordType:
    types: dict[str, RecordType] = {
        "ns": "NS", "soa": "SOA", "dnskey": "DNSKEY", "mx": "MX", "a": "A", "aaaa": "AAAA", "txt": "TXT",
    }  # fmt: skip
    return types.get(kind.lower(), "NS")


def _record(text: str) -> Record:
    usage, selector, matching, data = text.split(" ")
    return Record(int(usage), int(selector), int(matching), bytes.fromhex(data))


def _digests(conf: MainCf) -> tuple[dict[int, str], list[int]]:
    """tls_dane_digests: (number -> digest, numbers in order of preference). Raises `ConfigError`."""
    found: dict[int, str] = {}
    for word in conf.list("tls_dane_digests"):
        name, equals, number = word.partition("=")
        if name not in hashlib.algorithms_available:
            raise conf.error("tls_dane_digests", f"digest algorithm {name!r} unknown")
        if not equals and name not in _MATCHING:
            raise conf.error("tls_dane_digests", f"digest algorithm {name!r} needs a number")
        if equals and not (number.isdecimal() and 0 < int(number) < 256):
            raise conf.error("tls_dane_digests", f"malformed parameter {word!r}")
        code = int(number) if equals else _MATCHING[name]
        if name in _MATCHING and code != _MATCHING[name]:
            raise conf.error("tls_dane_digests", f"the number of {name} is {_MATCHING[name]}")
        if code in found:
            raise conf.error("tls_dane_digests", f"two digests of number {code}")
        found[code] = name
    return found, list(found)


def peer_chain(obj: ssl.SSLObject) -> list[bytes]:
    """What the server has shown: certificates in DER, its own first."""
    public = getattr(obj, "get_unverified_chain", None)  # Python 3.13
    if public is not None:
        return [bytes(der) for der in public() or ()]
    return [cert.public_bytes(2) for cert in obj._sslobj.get_unverified_chain() or ()]  # type: ignore[attr-defined]
