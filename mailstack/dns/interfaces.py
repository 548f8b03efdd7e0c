"""The machine's own addresses and networks: what `any`, `localhost` and `localnets` mean in named.conf.

Read at start, at each reload, and when the kernel says that an address has come or gone. Linux only: ioctl(2)
SIOCGIFCONF for IPv4, /proc/net/if_inet6 for IPv6, rtnetlink(7) for changes.
"""

from __future__ import annotations

import array
import asyncio
import fcntl
import ipaddress
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Final

from mailstack.config.named import Address, ListenOn, Locality, Network, only_addresses

_SIOCGIFCONF: Final = 0x8912
_SIOCGIFNETMASK: Final = 0x891B
_IFREQ: Final = 40
_INTERFACES: Final = 1024
_ADDRESS_GROUPS: Final = 0x10 | 0x100
"""RTMGRP_IPV4_IFADDR and RTMGRP_IPV6_IFADDR of netlink(7)."""
_LINK_LOCAL: Final = "20"
_TENTATIVE: Final = 0x40


def locality() -> Locality:
    """Addresses of all interfaces that are up, and the networks they are in."""
    found = [*_ipv4(), *_ipv6()]
    addresses = frozenset(ipaddress.ip_address(host) for host, _ in found)
    networks: list[Network] = []
    for host, length in found:
        network = ipaddress.ip_network(f"{host}/{length}", strict=False)
        if network not in networks:
            networks.append(network)
    return Locality(addresses, tuple(networks))


def sockets_of(listeners: tuple[ListenOn, ...], where: Locality) -> list[tuple[str, int, ListenOn]]:
    """The (address, port) pairs to bind, each once, in the order of named.conf.

    Addresses that a list names outright are bound whether or not an interface has them: on Linux all of
    127.0.0.0/8 is this machine's. Otherwise every interface address that the list lets in.
    """
    pairs: dict[tuple[str, int], ListenOn] = {}
    for listener in listeners:
        version = 6 if listener.ipv6 else 4
        named = [address for address in only_addresses(listener.acl) if address.version == version]
        rest = sorted(address for address in where.addresses if address.version == version)
        candidates: list[Address] = [*named, *rest]
        for address in candidates:
            if listener.acl.matches(address, where):
                pairs.setdefault((str(address), listener.port), listener)
    return [(host, port, listener) for (host, port), listener in pairs.items()]


def watch(changed: Callable[[], None]) -> Callable[[], None]:
    """Call `changed` after addresses have come or gone; returns what ends that.

    Needs a running event loop. Where the kernel gives no such socket, nothing is watched.
    """
    loop = asyncio.get_running_loop()
    try:
        sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
    except OSError:
        return _nothing
    try:
        sock.bind((0, _ADDRESS_GROUPS))
        sock.setblocking(False)
    except OSError:
        sock.close()
        return _nothing

    def readable() -> None:
        try:
            while True:
                sock.recv(65_536)
        except OSError:
            changed()  # everything has been read, or too much was lost: look anew in either case

    def end() -> None:
        loop.remove_reader(sock.fileno())
        sock.close()

    loop.add_reader(sock.fileno(), readable)
    return end


def _nothing() -> None:
    pass


def _ipv4() -> list[tuple[str, int]]:
    buffer = array.array("B", bytes(_IFREQ * _INTERFACES))
    found: list[tuple[str, int]] = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            filled = fcntl.ioctl(sock, _SIOCGIFCONF, struct.pack("iL", len(buffer), buffer.buffer_info()[0]))
        except OSError:
            return [("127.0.0.1", 8)]
        (size,) = struct.unpack_from("i", filled)
        data = buffer.tobytes()[:size]
        for offset in range(0, size, _IFREQ):
            host = socket.inet_ntoa(data[offset + 20 : offset + 24])
            try:
                request = data[offset : offset + 16] + bytes(24)
                mask = fcntl.ioctl(sock, _SIOCGIFNETMASK, request)[20:24]
            except OSError:
                mask = b"\xff\xff\xff\xff"
            found.append((host, int.from_bytes(mask, "big").bit_count()))
    return found


def _ipv6() -> list[tuple[str, int]]:
    found: list[tuple[str, int]] = []
    try:
        text = Path("/proc/net/if_inet6").read_text("ascii")
    except OSError:
        return []
    for line in text.splitlines():
        fields = line.split()
        # Link-local addresses need an interface to be bound to; named leaves them out of `any` as well.
        if len(fields) < 5 or fields[3] == _LINK_LOCAL or int(fields[4], 16) & _TENTATIVE:
            continue
        found.append((str(ipaddress.IPv6Address(int(fields[0], 16))), int(fields[2], 16)))
    return found
