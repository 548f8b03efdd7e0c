"""Ports for servers that a test starts."""

from __future__ import annotations

import os
import random
import socket
from pathlib import Path

from mailstack.net.listen import bind_tcp

_CLIENTS_FROM = Path("/proc/sys/net/ipv4/ip_local_port_range")
_given: set[int] = set()


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody has, TCP and UDP, none of them given out before.

    None of those that the system gives to clients: one of them would take a port between now and the moment
    at which a server binds it. None twice: a world may ask for the port of its second server before its first
    one is started.
    """
    end = int(_CLIENTS_FROM.read_text().split()[0]) if _CLIENTS_FROM.exists() else 32768
    # Those who run tests beside each other have ports of their own.
    share = (end - 10240) // 8
    first = 10240 + share * (int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]) % 8)
    if len(_given) > share // 2:
        _given.clear()
    candidates = [port for port in range(first, first + share) if port not in _given]
    random.shuffle(candidates)
    ports: list[int] = []
    for port in candidates:
        if len(ports) == count:
            break
        if _is_free(port):
            ports.append(port)
    assert len(ports) == count, f"no {count} ports are free"
    _given.update(ports)
    return ports


def free_port() -> int:
    """One of `free_ports`."""
    return free_ports(1)[0]


def _is_free(port: int) -> bool:
    try:
        bind_tcp("127.0.0.1", port).close()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
            udp.bind(("127.0.0.1", port))
    except OSError:
        return False
    return True
