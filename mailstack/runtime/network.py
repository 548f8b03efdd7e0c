"""The stack's own network: 127.A.B.0/24 for processes, a bridge's subnet for containers.

Both begin their search at a place derived from the project, so that a project keeps its addresses; what is in
use (other projects, routes, Docker networks) comes in as an argument.
"""

from __future__ import annotations

import hashlib
import socket
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from mailstack.runtime.errors import MachineLacks
from mailstack.runtime.model import ServiceKey

LOOPBACK = IPv4Network("127.0.0.0/8")
DOCKER_POOLS = (
    IPv4Network("172.28.0.0/14"),  # inside Docker's own default pools, seldom used elsewhere
    IPv4Network("10.213.0.0/16"),
    IPv4Network("192.168.192.0/18"),
)


@dataclass(frozen=True, slots=True)
class Addresses:
    """The fixed places in the network: .1 gateway, .2 dns, .3 mta, .4 mailbox."""

    network: IPv4Network

    @property
    def gateway(self) -> IPv4Address:
        return self.network.network_address + 1

    def of(self, service: ServiceKey) -> IPv4Address:
        return self.network.network_address + {"dns": 2, "mta": 3, "mailbox": 4}[service]

    def as_text(self) -> dict[str, str]:
        services: tuple[ServiceKey, ...] = ("dns", "mta", "mailbox")
        return {"gateway": str(self.gateway), **{name: str(self.of(name)) for name in services}}


def loopback_candidates(seed: str) -> Iterator[IPv4Network]:
    """127.A.B.0/24, best first; never 127.0.0.0/16, where everybody else's listeners are."""
    start = _hash(seed)
    for offset in range(254 * 256):
        second, third = divmod((start + offset) % (254 * 256), 256)
        yield IPv4Network((f"127.{second + 1}.{third}.0", 24))


def docker_candidates(seed: str) -> Iterator[IPv4Network]:
    """/24 networks of the private pools, best first."""
    for pool in DOCKER_POOLS:
        count = pool.num_addresses // 256
        start = _hash(seed) % count
        for offset in range(count):
            yield IPv4Network((int(pool.network_address) + 256 * ((start + offset) % count), 24))


def first_free(candidates: Iterable[IPv4Network], taken: Iterable[IPv4Network]) -> IPv4Network:
    """The first candidate that overlaps nothing in `taken`. Raises `MachineLacks` when there is none."""
    used = tuple(taken)
    for candidate in candidates:
        if not any(candidate.overlaps(other) for other in used):
            return candidate
    raise MachineLacks(
        "no free network is left for the stack",
        hint="set network.subnet to one, or remove unused ones with `docker network prune`",
    )


def host_routes(table: Path = Path("/proc/net/route")) -> list[IPv4Network]:
    """The networks that this machine has a route to, without the default route."""
    try:
        lines = table.read_text().splitlines()[1:]
    except OSError:
        return []
    routes = []
    for line in lines:
        columns = line.split()
        if len(columns) < 8:
            continue
        destination, mask = _kernel_address(columns[1]), _kernel_address(columns[7])
        if mask != "0.0.0.0":
            routes.append(IPv4Network(f"{destination}/{mask}", strict=False))
    return routes


def _kernel_address(raw: str) -> str:
    return socket.inet_ntoa(struct.pack("=I", int(raw, 16)))


def _hash(seed: str) -> int:
    return int.from_bytes(hashlib.sha256(seed.encode()).digest()[:4], "big")
