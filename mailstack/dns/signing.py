"""Zones signed while they are served: keys at the apex, a chain of proofs, signatures when they are wanted.

A signature is made for the first answer or transfer that carries it and kept beside its set, so a large zone
is served at once and costs what is asked for. Every `Signer` is one generation of signatures: all of them end
at the same time, and a new generation, under a new serial (`Serials`), takes its place while
`signatures-refresh` of their life is left.

Standards: RFC 4034, RFC 4035 §2, RFC 5155 §7.1, RFC 7344 (CDS, CDNSKEY), RFC 9077 (TTL of NSEC).
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import dns.rdata
import dns.rdataclass
import dns.rdatatype

from mailstack.config.errors import ConfigError
from mailstack.config.named.model import DnssecPolicy
from mailstack.config.named.model import Zone as ZoneConf
from mailstack.dns import names, packed
from mailstack.dns.chains import Nsec, Nsec3, is_occluded
from mailstack.dns.denial import SHA1, Denial, Hashing
from mailstack.dns.keys import Key, keys_for
from mailstack.dns.plainlines import Nodes
from mailstack.dns.zone import (
    CDNSKEY,
    CDS,
    DNSKEY,
    DS,
    IN,
    NSEC,
    NSEC3,
    NSEC3PARAM,
    RRSIG,
    SOA,
    Rdata,
    RRset,
    Zone,
)

SKEW: Final = 3600
"""Seconds that a signature's life begins in the past: clocks differ."""
SHA256_DIGEST: Final = 2
_OWN: Final = frozenset((DNSKEY, CDS, CDNSKEY, NSEC, NSEC3, NSEC3PARAM))
"""Types that are the signer's to make; what the zone file has of them is left out."""
_WITH_NAMES: Final = frozenset((3, 4, 7, 8, 9, 14, 17, 18, 21, 24, 26, 30, 33, 35, 36, 38, 39))
"""Types whose names count in lower case (RFC 4034 §6.2, RFC 6840 §5.1) and that are stored as they came."""


class Signer:
    """One generation of signatures of a zone. `now` is in seconds since the epoch."""

    def __init__(
        self, zone: Zone, keys: Sequence[Key], policy: DnssecPolicy, *, now: float, serial: int, salt: bytes
    ) -> None:
        """Makes `zone` a signed one: gives it the keys' records, `serial` and its proofs."""
        self.zone = zone
        self.renewal = now + policy.signatures_validity - policy.signatures_refresh
        """When the next generation has to take over."""
        self._inception = int(now) - SKEW
        self._expiration = int(now) + policy.signatures_validity
        self._keys = keys
        self._tags = {key: key.tag for key in keys}
        self.own_soa: RRset = zone.soa if zone.signer is None else zone.signer.own_soa
        """The SOA of the zone as its file and its updates have it."""
        _renumber(zone, serial)
        _strip(zone)
        self._held: dict[bytes, bytes] = {}
        apex = zone.apex.rrsets
        public = tuple(sorted({key.dnskey for key in keys}))
        apex[DNSKEY] = RRset(DNSKEY, policy.dnskey_ttl, public)
        entry = [key for key in keys if key.ksk]
        apex[CDNSKEY] = RRset(CDNSKEY, policy.dnskey_ttl, tuple(key.dnskey for key in entry))
        apex[CDS] = RRset(CDS, policy.dnskey_ttl, tuple(_ds(zone.origin, key) for key in entry))
        zone.hashes = Nodes(zone.origin, 0)
        self.chain: Nsec | Nsec3
        if policy.nsec3 is None:
            self.chain = Nsec(self)
        else:
            iterations, optout, _ = policy.nsec3
            parameters = struct.pack("!BBHB", SHA1, 0, iterations, len(salt)) + salt
            apex[NSEC3PARAM] = RRset(NSEC3PARAM, 0, (parameters,))
            self.chain = Nsec3(self, Hashing(iterations, salt), optout=optout)
        zone.denial = Denial(zone.origin, zone.nodes, self.chain, hashed=policy.nsec3 is not None)
        zone.signer = self

    def signature(self, owner: bytes, rrset: RRset) -> RRset:
        """The RRSIG set over a set of the zone, made if need be. `owner` is its name in the zone."""
        if rrset.signature is None:
            owner = owner.lower()
            held = self._held.get(owner)
            found = None if held is None else packed.signature_of(held, rrset.rdtype)
            rrset.signature = found or self.sign(owner, rrset)
        return rrset.signature

    def hold(self, owner: bytes, signatures: bytes) -> None:
        """Take packed sets that have signatures only, for when the name's sets are wanted."""
        self._held[owner] = signatures

    def covers(self, name: bytes, rrset: RRset) -> bool:
        """Whether a set at a lower-case name of the zone is signed: not glue, not a delegation's NS."""
        if name in self.zone.cuts and rrset.rdtype not in (DS, NSEC):
            return False
        return not is_occluded(self.zone, name)

    def complete(self, name: bytes) -> None:
        """Make what is missing at a lower-case name of the zone: its NSEC record, and every signature."""
        self.chain.at(name)
        node = self.zone.nodes[name]
        for rrset in node.rrsets.values():
            if self.covers(name, rrset):
                self.signature(name, rrset)

    def sign(self, owner: bytes, rrset: RRset) -> RRset:
        """A new signature by each key that signs the set. `owner` is lower case."""
        labels = sum(1 for _ in names.labels(owner)) - owner.startswith(b"\1*")
        head = struct.pack(
            "!HBIII",
            rrset.rdtype,
            labels,
            rrset.ttl,
            self._expiration & 0xFFFFFFFF,
            self._inception & 0xFFFFFFFF,
        )
        prefix = owner + struct.pack("!HHI", rrset.rdtype, IN, rrset.ttl)
        forms = sorted({_canonical(rrset.rdtype, rdata) for rdata in rrset.rdatas})
        body = b"".join(prefix + len(form).to_bytes(2, "big") + form for form in forms)
        found: list[Rdata] = []
        for key in self._keys:
            if key.ksk if rrset.rdtype in (DNSKEY, CDS, CDNSKEY) else key.zsk:
                fixed = head[:2] + bytes((key.algorithm,)) + head[2:]
                fixed += self._tags[key].to_bytes(2, "big") + self.zone.origin
                found.append(fixed + key.sign(fixed + body))
        return RRset(RRSIG, rrset.ttl, tuple(found))


def _canonical(rdtype: int, rdata: Rdata) -> bytes:
    """A record's data in canonical form (RFC 4034 §6.2)."""
    if isinstance(rdata, tuple):
        return rdata[0] + b"".join(rdata[1]).lower() + rdata[2]
    if rdtype not in _WITH_NAMES:
        return rdata
    return dns.rdata.from_wire(
        dns.rdataclass.IN, dns.rdatatype.RdataType(rdtype), rdata, 0, len(rdata)
    ).to_digestable()


def _strip(zone: Zone) -> None:
    """Take out what the signer makes, and all signatures."""
    nodes: dict[bytes, Any] = zone.nodes
    for name, value in dict.items(nodes):
        if isinstance(value, bytes):
            if not packed.is_packed(value):
                continue
            bare = packed.unsigned(value, _OWN)
            if len(bare) > 1:
                dict.__setitem__(nodes, name, bare)
                continue
        node = zone.nodes[name]
        for rdtype in _OWN & node.rrsets.keys():
            del node.rrsets[rdtype]
        for rrset in node.rrsets.values():
            rrset.signature = None


def _ds(origin: bytes, key: Key) -> bytes:
    """The data of the DS record for a key (RFC 4034 §5.1, RFC 4509)."""
    digest = hashlib.sha256(origin + key.dnskey).digest()
    return struct.pack("!HBB", key.tag, key.algorithm, SHA256_DIGEST) + digest


def _renumber(zone: Zone, serial: int) -> None:
    """Give a zone another serial."""
    soa = zone.soa
    rdata = soa.rdatas[0]
    assert isinstance(rdata, tuple)
    zone.set_soa(RRset(SOA, soa.ttl, ((rdata[0], rdata[1], serial.to_bytes(4, "big") + rdata[2][4:]),)))


def sign(zone: Zone, conf: ZoneConf, now: float) -> None:
    """Begin a generation of signatures over a zone, as its `dnssec-policy` says. Raises `ConfigError`."""
    policy = conf.dnssec
    assert policy is not None
    keys = keys_for(conf.name, policy, Path(conf.key_directory), now)
    path = conf.serial_file
    try:
        serial = Serials(path).next(zone.serial)
    except OSError as error:
        raise ConfigError(path, 0, f"the serial cannot be kept: {error.strerror}") from error
    salt = os.urandom(policy.nsec3[2]) if policy.nsec3 is not None else b""
    Signer(zone, keys, policy, now=now, serial=serial, salt=salt)


class Serials:
    """The last serial that a zone has been served under, kept in a file beside the zone's.

    Signatures of a new generation need a new serial, or secondary servers keep the old ones until they end;
    and a serial must not fall back when the server is started again (RFC 1982).
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def next(self, own: int) -> int:
        """One to use now; `own` is what the zone file says. On disk when it returns. Raises `OSError`."""
        try:
            last = int(self._path.read_text(encoding="ascii"))
        except (FileNotFoundError, ValueError):
            serial = own
        else:
            following = (last + 1) & 0xFFFFFFFF
            serial = own if 0 < (own - last) & 0xFFFFFFFF < 0x80000000 else following
        temporary = self._path.with_name(self._path.name + ".new")
        with open(temporary, "w", encoding="ascii") as file:
            file.write(f"{serial}\n")
            file.flush()
            os.fsync(file.fileno())
        os.rename(temporary, self._path)
        return serial
