"""What named.conf says of other servers: where zones come from, who is told of changes, by which key."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from mailstack.config.named.acl import NONE, Acl, Address, Network

Notify = Literal["yes", "no", "explicit", "primary-only"]
TransferFormat = Literal["one-answer", "many-answers"]
Source = tuple[str, int]
"""Address literal ('' for any) and port (0 for any) that something is sent from."""
ANYWHERE: Source = ("", 0)


@dataclass(frozen=True, slots=True)
class Remote:
    """One server of `primaries` or `also-notify`. `key` is its TSIG key's name, as lists compare it."""

    host: str
    port: int
    key: str | None = None

    def __str__(self) -> str:
        return f"{self.host}#{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """One `server` statement. None: as the zone or the options have it."""

    network: Network
    key: str | None = None
    provide_ixfr: bool | None = None
    request_ixfr: bool | None = None
    transfer_format: TransferFormat | None = None
    transfer_source: Source | None = None
    notify_source: Source | None = None
    transfers: int | None = None
    bogus: bool = False
    """It is not asked."""
    edns: bool = True
    edns_udp_size: int | None = None
    """Octets that it is told we take."""
    tcp_only: bool = False
    send_cookie: bool | None = None
    query_source: str | None = None
    """Address that it is asked from; '': any."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfers:
    """How one zone comes and goes; the options' values where the zone says nothing. Times in seconds."""

    primaries: tuple[Remote, ...] = ()
    notify: Notify = "yes"
    also_notify: tuple[Remote, ...] = ()
    notify_to_soa: bool = False
    notify_delay: int = 5
    notify_source: Source = ANYWHERE
    notify_source_v6: Source = ANYWHERE
    allow_notify: Acl = NONE
    """Who may send NOTIFY beside the primaries."""
    allow_update_forwarding: Acl = NONE
    transfer_source: Source = ANYWHERE
    transfer_source_v6: Source = ANYWHERE
    request_ixfr: bool = True
    provide_ixfr: bool = True
    ixfr_from_differences: bool = False
    transfer_format: TransferFormat = "many-answers"
    min_refresh: int = 300
    max_refresh: int = 2_419_200
    min_retry: int = 500
    max_retry: int = 1_209_600
    max_time_in: int = 7200
    max_idle_in: int = 3600
    multi_master: bool = False
    try_tcp_refresh: bool = True
    max_ixfr_ratio: int | None = 100
    """Percent of the whole zone's octets that an incremental transfer may have; None: any number."""
    max_journal_size: int | None = None
    """Octets; None: twice as many as the zone's file has, and 64 KiB for a small one."""
    max_records: int = 0
    """Records that a zone from elsewhere may have; 0: any number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """What all zones share: messages per second, transfers at a time."""

    notify_rate: int = 20
    startup_notify_rate: int = 20
    serial_query_rate: int = 20
    transfers_in: int = 10
    transfers_per_ns: int = 2


PLAIN = Transfers()
EASY = Traffic()


def peer_of(peers: Sequence[Peer], host: str) -> Peer | None:
    """The `server` statement that is closest to an address."""
    if not peers:
        return None
    address: Address = ipaddress.ip_address(host.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    fitting = [peer for peer in peers if peer.network.version == address.version and address in peer.network]
    return max(fitting, key=lambda peer: peer.network.prefixlen, default=None)
