"""What named.conf says, typed: the values that the server works from."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mailstack.config.named.acl import ANY, LOCAL, NONE, Acl
from mailstack.config.named.answers import EVERYTHING_RANDOM, OrderRule, RateLimit
from mailstack.config.named.channels import PLAIN as PLAIN_LOG
from mailstack.config.named.channels import Logging
from mailstack.config.named.peers import EASY, PLAIN, Peer, Traffic, Transfers
from mailstack.config.named.resolving import PLAIN as RESOLVING
from mailstack.config.named.resolving import Resolving
from mailstack.config.named.updates import UpdateRule

Server = tuple[str, int]
"""Address literal and port."""
MinimalResponses = Literal["no", "yes", "no-auth", "no-auth-recursive"]


@dataclass(frozen=True, slots=True)
class ListenOn:
    """One `listen-on` or `listen-on-v6`: a port on every address that the list lets in."""

    port: int
    acl: Acl
    ipv6: bool
    path: Path
    line: int


@dataclass(frozen=True, slots=True)
class PolicyKey:
    """One line of a policy's `keys`. `algorithm` is DNSSEC's number; a `csk` is both `ksk` and `zsk`."""

    ksk: bool
    zsk: bool
    algorithm: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DnssecPolicy:
    """One `dnssec-policy`; times in seconds. As they are, the defaults are BIND's own policy `default`."""

    name: str
    keys: tuple[PolicyKey, ...] = (PolicyKey(True, True, 13),)
    dnskey_ttl: int = 3600
    signatures_validity: int = 14 * 86_400
    signatures_refresh: int = 5 * 86_400
    nsec3: tuple[int, bool, int] | None = None
    """Iterations, opt-out, octets of salt; None: NSEC."""


@dataclass(frozen=True, slots=True)
class TsigKey:
    """One `key` (RFC 8945). `name` is lower case without final dot, `algorithm` as in `hmac-sha256`."""

    name: str
    algorithm: str
    secret: bytes


@dataclass(frozen=True, slots=True)
class SessionKey:
    """The key of `update-policy local`: made anew when the server starts, and written to a file."""

    file: str
    name: str
    algorithm: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The `options` block, defaults as BIND 9.18 has them but for `allow-transfer` (none here)."""

    directory: str
    listen_on: tuple[ListenOn, ...]
    port: int = 53
    """Where other servers are spoken to when nothing else is said."""
    allow_query: Acl = ANY
    allow_recursion: Acl = LOCAL
    allow_transfer: Acl = NONE
    blackhole: Acl = NONE
    recursion: bool = True
    forwarders: tuple[Server, ...] = ()
    forward_only: bool = False
    empty_zones: bool = True
    disabled_empty_zones: frozenset[str] = frozenset()
    edns_udp_size: int = 1232
    """Octets that we say we take."""
    max_udp_size: int = 1232
    """Octets that we send over UDP at the most, whatever the client takes."""
    answer_cookie: bool = True
    require_server_cookie: bool = False
    """BADCOOKIE over UDP to those who send a cookie that is none of ours."""
    nocookie_udp_size: int = 4096
    """Octets that those get over UDP at the most who have not shown a cookie of ours."""
    cookie_secrets: tuple[bytes, ...] = ()
    """The first makes cookies, all of them check; empty: one for as long as the process runs."""
    minimal_responses: MinimalResponses = "no-auth-recursive"
    minimal_any: bool = False
    querylog: bool = False
    auth_nxdomain: bool = False
    """NXDOMAIN of forwarders is given as if it were ours."""
    tcp_clients: int = 150
    tcp_listen_queue: int = 0
    """Connections that may wait to be accepted; 0: as many as the system lets."""
    tcp_initial_timeout: float = 30.0
    """Seconds for the first message on a connection."""
    tcp_idle_timeout: float = 30.0
    """Seconds between messages on a connection."""
    tcp_keepalive_timeout: float = 30.0
    """Seconds between messages of a client that asked for keepalive (RFC 7828)."""
    tcp_advertised_timeout: float = 30.0
    """Seconds that such a client is told."""
    resolving: Resolving = RESOLVING
    """The cache, and how forwarders are asked."""
    rate_limit: RateLimit | None = None
    rrset_order: tuple[OrderRule, ...] = EVERYTHING_RANDOM
    """The first rule that covers a set counts; sets that none covers stand in the zone's order."""
    pid_file: str = ""
    """Absolute path; '': none is written."""
    statistics_file: str = ""
    """Absolute path."""
    allow_query_on: Acl = ANY
    """Which of our addresses may be asked."""
    allow_recursion_on: Acl = ANY
    allow_query_cache_on: Acl = ANY
    empty_server: str = ""
    """What the SOA of empty zones names as server; '': the zone itself."""
    empty_contact: str = ""
    zero_no_soa_ttl: bool = True
    """A SOA record that was asked for and is not there is not to be cached."""
    version: str | None = None
    """What `version.bind` says; None refuses to say."""
    hostname: str | None = ""
    """What `hostname.bind` says; '' is the machine's name, None refuses to say."""
    server_id: str | None = None
    """What `id.server` says; '' is the machine's name, None refuses to say."""


CheckNames = Literal["fail", "warn", "ignore"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Zone:
    """One `zone`. `name` is lower case without the final dot; the root is ''."""

    name: str
    kind: Literal["primary", "secondary", "hint", "forward"]
    file: str
    """Absolute path; '' for a forward zone, and for a secondary one that is not kept."""
    allow_query: Acl | None
    allow_transfer: Acl | None
    allow_query_on: Acl | None = None
    statistics: bool = False
    """Its questions are counted apart."""
    forwarders: tuple[Server, ...] | None
    """None: as the options say. Empty: names below are not forwarded."""
    forward_only: bool | None
    allow_update: Acl = NONE
    update_policy: tuple[UpdateRule, ...] = ()
    """What those of `allow_update` may change; empty: everything."""
    dnssec: DnssecPolicy | None = None
    """How the server signs the zone; None: it is served as its file has it."""
    key_directory: str = ""
    """Absolute path of the keys' folder."""
    check_names: CheckNames = "fail"
    """What becomes of names that are no host names where a host's has to be."""
    journal: str = ""
    """Absolute path; '' is FILE.journal. What else the server keeps of the zone lies beside it."""
    transfers: Transfers = PLAIN
    path: Path
    line: int

    @property
    def journal_file(self) -> Path:
        """Where the changes of the zone are kept."""
        return Path(self.journal or f"{self.file}.journal")

    @property
    def serial_file(self) -> Path:
        """Where the serial is kept under which a zone that the server signs was served last."""
        serial = os.path.basename(self.file) + ".serial"
        return Path(os.path.dirname(self.journal) or os.path.dirname(self.file), serial)


@dataclass(frozen=True, slots=True)
class NamedConf:
    """A whole configuration. `warnings` name what is accepted without effect, each with file and line."""

    path: Path
    options: Options
    zones: tuple[Zone, ...]
    warnings: tuple[str, ...]
    keys: tuple[TsigKey, ...] = ()
    peers: tuple[Peer, ...] = ()
    traffic: Traffic = EASY
    logging: Logging = PLAIN_LOG
    session_key: SessionKey | None = None
    """Where a zone has `update-policy local`."""
