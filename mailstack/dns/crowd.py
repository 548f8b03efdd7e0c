"""Who is answered while more questions come than can be answered: everybody a little.

Mostly datagrams are answered in the order in which they come. When too many of them wait, long before the
kernel has no room for more, what waits is read in one go, and of each window of `WINDOW` datagrams a sender
(an address with its port) has the first `EACH` answered, an address the first `HOST` of those, and who has
sent what is no question none any more; the others are dropped, as the kernel would have dropped some of
everybody's. Whoever asks little is answered beside a flood, also from its own address. A flood whose sender
is another one each time cannot be told from many clients.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence

WINDOW = 8192
"""Datagrams after which everybody begins anew."""
EACH = 64
"""Of these, for one address and port."""
HOST = 256
"""And for all ports of an address."""
ENOUGH = 1 << 20
"""Octets that wait, as the kernel counts them, some 1,300 short datagrams: no few clients have so many
questions under way. Of a smaller buffer, half."""
_SO_MEMINFO = 55
"""socket(7): `SK_MEMINFO_VARS` numbers, the octets held and the octets that may be held first."""
_MEMINFO = struct.Struct("=9I")


class Crowd:
    """The window at hand."""

    def __init__(self) -> None:
        self._came = 0
        self._senders: dict[bytes, int] = {}
        self._hosts: dict[bytes, int] = {}

    def chosen(self, senders: Sequence[bytes]) -> list[int]:
        """Which of some datagrams are to be answered; each sender is a port, two octets, and an address."""
        self._came += len(senders)
        if self._came > WINDOW:
            self._came = len(senders)
            self._senders.clear()
            self._hosts.clear()
        counts, hosts = self._senders, self._hosts
        found: list[int] = []
        for index, sender in enumerate(senders):
            count = counts.get(sender, 0)
            if count >= EACH:
                continue
            counts[sender] = count + 1
            host = sender[2:]
            count = hosts.get(host, 0)
            if count < HOST:
                hosts[host] = count + 1
                found.append(index)
        return found

    def blame(self, sender: bytes) -> None:
        """It has sent what is no question."""
        self._senders[sender] = EACH


def is_crowded(sock: socket.socket) -> bool:
    """More waits for a socket than should; False where the system does not say."""
    try:
        held, most, *_ = _MEMINFO.unpack(sock.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _MEMINFO.size))
    except (OSError, struct.error):
        return False
    return bool(held > min(most // 2, ENOUGH))
