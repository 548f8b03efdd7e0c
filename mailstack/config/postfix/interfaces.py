"""The machine's own addresses and networks, as far as main.cf means them: the default of mynetworks.

Linux only: ioctl(2) SIOCGIFCONF for IPv4, /proc/net/if_inet6 for IPv6. Where neither says anything, the
loopback addresses count.
"""

from __future__ import annotations

import array
import fcntl
import socket
import struct
from collections.abc import Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface, ip_address, ip_interface
from pathlib import Path
from typing import Final

Interface = IPv4Interface | IPv6Interface
"""An address with its network."""

_SIOCGIFCONF: Final = 0x8912
_SIOCGIFNETMASK: Final = 0x891B
_IFREQ: Final = 40
_MOST: Final = 1024
STYLES = ("class", "host", "subnet")


def default_networks(style: str, names: Sequence[str], protocols: Sequence[str]) -> str:
    """What mynetworks is where nobody says: the value, by mynetworks_style (one of `STYLES`), inet_interfaces
    and inet_protocols."""
    found: list[str] = []
    for own in own_interfaces(names, protocols):
        length: int = own.max_prefixlen if style == "host" else own.network.prefixlen
        if style == "class" and isinstance(own, IPv4Interface):
            length = _class_length(own)
        network = ip_interface(f"{own.ip}/{length}").network
        text = f"[{network.network_address}]" if own.version == 6 else str(network.network_address)
        found.append(f"{text}/{length}")
    return " ".join(dict.fromkeys(found))


def own_interfaces(names: Sequence[str], protocols: Sequence[str]) -> list[Interface]:
    """The interfaces that `names` (inet_interfaces) stands for: `all`, `loopback-only`, or hosts.

    An address that no interface has by itself has the network of the one whose network it is in, if any:
    all of 127.0.0.0/8 is this machine's.
    """
    wanted = {version for version in (4, 6) if "all" in protocols or f"ipv{version}" in protocols}
    known = [one for one in interfaces() if one.version in wanted]
    if "all" in names:
        return known
    if "loopback-only" in names:
        return [one for one in known if one.ip.is_loopback]
    found: list[Interface] = []
    for name in names:
        for address in _addresses(name.strip("[]")):
            if address.version in wanted:
                own = [one for one in known if address == one.ip] or [
                    one for one in known if address in one.network
                ]
                length: int = own[0].network.prefixlen if own else address.max_prefixlen
                found.append(ip_interface(f"{address}/{length}"))
    return found


@lru_cache(maxsize=1)
def interfaces() -> tuple[Interface, ...]:
    """Every address of every interface that is up; IPv4 first. Read once: it is asked for at start."""
    return (*_ipv4(), *_ipv6()) or (IPv4Interface("127.0.0.1/8"), IPv6Interface("::1/128"))


def _class_length(own: IPv4Interface) -> int:
    """The length of an address's class A, B or C network."""
    first = own.ip.packed[0]
    return 8 if first < 128 else 16 if first < 192 else 24 if first < 224 else 32


def _addresses(host: str) -> list[IPv4Address | IPv6Address]:
    try:
        return [ip_address(host)]
    except ValueError:
        pass
    try:
        infos = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return []  # who binds it says so
    return [ip_address(info[4][0]) for info in infos]


def _ipv4() -> list[Interface]:
    buffer = array.array("B", bytes(_IFREQ * _MOST))
    found: list[Interface] = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            filled = fcntl.ioctl(sock, _SIOCGIFCONF, struct.pack("iL", len(buffer), buffer.buffer_info()[0]))
        except OSError:
            return []
        (size,) = struct.unpack_from("i", filled)
        data = buffer.tobytes()[:size]
        for offset in range(0, size, _IFREQ):
            host = socket.inet_ntoa(data[offset + 20 : offset + 24])
            try:
                mask = fcntl.ioctl(sock, _SIOCGIFNETMASK, data[offset : offset + 16] + bytes(24))[20:24]
            except OSError:
                mask = b"\xff\xff\xff\xff"
            found.append(IPv4Interface(f"{host}/{int.from_bytes(mask, 'big').bit_count()}"))
    return found


def _ipv6() -> list[Interface]:
    try:
        lines = Path("/proc/net/if_inet6").read_text("ascii").splitlines()
    except OSError:
        return []
    rows = sorted((line.split() for line in lines), key=lambda row: int(row[1], 16))
    return [IPv6Interface((int(row[0], 16), int(row[2], 16))) for row in rows]
