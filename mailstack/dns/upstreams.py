"""The servers that are asked: which one first, and what each of them understands.

The one that answered fastest of late is asked first, as named has it: the smoothed time of its answers goes
up by `PENALTY` for each question that it left unanswered, and down a little each second in which another one
is asked instead, so that a server that was slow, or dead, gets its chance again: after a minute or several.

Standards: RFC 5452 (random ids and ports, the question compared), RFC 7873 §5 (cookies), RFC 6891 §6.2.2
(servers without EDNS), RFC 7766 (TCP).
"""

from __future__ import annotations

import errno
import os
import random
import socket
import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from mailstack.config.named.model import TsigKey
from mailstack.config.named.peers import Peer, peer_of
from mailstack.config.named.resolving import Resolving
from mailstack.dns.message import CD, COOKIE, DO, HEADER, RD, Malformed, opt
from mailstack.dns.received import matches
from mailstack.dns.zone import IN

Server = tuple[str, int]
"""Address literal and port."""

PENALTY = 0.2
"""Seconds for a question that was not answered."""
SLOWEST = 9.0
"""Seconds that the smoothed time comes to at the most."""
_SHARE = 0.3
"""How much one answer counts beside those before it."""
_FADE = 0.98
"""What is left of the smoothed time of a server after a second in which it was not asked."""
NO_EDNS = 1800.0
"""Seconds for which a server that does not understand EDNS is asked without."""
STRIKES = 4
_BURST = 16
"""Datagrams that are looked at in one go; all but one are forged."""


@dataclass(slots=True)
class Upstream:
    """One server. Times in seconds, of the monotonic clock."""

    address: Server
    srtt: float
    edns: bool = True
    payload: int = 1232
    tcp_only: bool = False
    source: str = ""
    key: TsigKey | None = None
    cookies: bool = True
    client_cookie: bytes = field(default_factory=lambda: os.urandom(8))
    server_cookie: bytes = b""
    plain_until: float = 0.0
    """Until when it is asked without EDNS."""
    strikes: int = 0
    """Answers in a row by which it did not understand EDNS."""
    faded: float = 0.0
    """When its time was last let go down."""

    def wire(self, name: bytes, rdtype: int, *, cd: bool, edns: bool) -> bytes:
        """A question to it, under a new random id."""
        ident = int.from_bytes(os.urandom(2), "big")
        question = name + struct.pack("!HH", rdtype, IN)
        flags = RD | (CD if cd else 0)
        if not edns:
            return HEADER.pack(ident, flags, 1, 0, 0, 0) + question
        option = b""
        if self.cookies:
            cookie = self.client_cookie + self.server_cookie
            option = struct.pack("!HH", COOKIE, len(cookie)) + cookie
        return HEADER.pack(ident, flags, 1, 0, 0, 1) + question + opt(self.payload, 0, DO, option)

    def speaks_edns(self, now: float) -> bool:
        """It is to be asked with EDNS."""
        return self.edns and now >= self.plain_until

    def refused_edns(self, now: float) -> None:
        """It did not understand EDNS. Once may be by a fault; after `STRIKES` it is spared for a while."""
        self.strikes += 1
        if self.strikes >= STRIKES:
            self.strikes, self.plain_until = 0, now + NO_EDNS

    def answered(self, seconds: float) -> None:
        """It took so long."""
        self.srtt = min(self.srtt * (1 - _SHARE) + seconds * _SHARE, SLOWEST)

    def silent(self) -> None:
        """It has not answered in time."""
        self.srtt = min(self.srtt + PENALTY, SLOWEST)

    def patience(self, retry_interval: float, shift: int) -> float:
        """How long it is waited for before somebody else is asked as well, in round `shift` of doubling."""
        expected = self.srtt + (0.05 if self.srtt < 0.05 else 0.1 if self.srtt < 0.1 else 0.2)
        return min(max(retry_interval * (1 << min(shift, 6)), expected), SLOWEST)


class Upstreams:
    """Every server of one configuration."""

    def __init__(
        self,
        resolving: Resolving,
        peers: Sequence[Peer] = (),
        keys: Iterable[TsigKey] = (),
        payload: int = 1232,
    ) -> None:
        self._resolving = resolving
        self._peers = peers
        self._keys = {key.name: key for key in keys}
        self._payload = payload
        self._known: dict[Server, Upstream | None] = {}

    def order(self, servers: Iterable[Server], now: float) -> list[Upstream]:
        """The fastest first; those that are `bogus` not at all."""
        found = [one for server in servers if (one := self.of(server)) is not None]
        found.sort(key=lambda one: one.srtt)
        for one in found[1:]:
            if now - one.faded >= 1:
                one.faded = now
                one.srtt *= _FADE
        return found

    def of(self, server: Server) -> Upstream | None:
        """What is known of a server; None for one that is not to be asked."""
        if server not in self._known:
            self._known[server] = self._made(server)
        return self._known[server]

    def _made(self, server: Server) -> Upstream | None:
        host = server[0]
        resolving, peer = self._resolving, peer_of(self._peers, host)
        # So little that each of them is asked once before any is preferred (named does the same).
        one = Upstream(server, random.randint(1, 32) / 1e6, payload=self._payload)  # noqa: S311
        one.cookies = resolving.send_cookie
        one.source = resolving.query_source_v6 if ":" in host else resolving.query_source
        if peer is None:
            return one
        if peer.bogus:
            return None
        one.edns = peer.edns
        one.payload = peer.edns_udp_size or one.payload
        one.tcp_only = peer.tcp_only
        one.cookies = one.cookies if peer.send_cookie is None else peer.send_cookie
        one.source = one.source if peer.query_source is None else peer.query_source
        one.key = self._keys.get(peer.key) if peer.key is not None else None
        return one


class Datagram:
    """One question on a socket of its own, connected: nobody else's datagrams reach it.

    `arrived` gets the datagrams that match the question, and an `OSError` when the server is not there.
    """

    __slots__ = ("_arrived", "_remove", "_sock", "_wire")

    def __init__(
        self,
        upstream: Upstream,
        wire: bytes,
        sent: bytes,
        arrived: Callable[[bytes | OSError], None],
        add: Callable[[int, Callable[[], None]], None],
        remove: Callable[[int], object],
    ) -> None:
        """Send `sent`, which is `wire` or that with a signature. Raises `OSError`."""
        host = upstream.address[0]
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._wire = wire
        self._arrived = arrived
        self._remove = remove
        sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._sock: socket.socket | None = sock
        try:
            if upstream.source:
                sock.bind((upstream.source, 0))
            sock.connect(upstream.address)
            sock.send(sent)
        except OSError:
            sock.close()
            raise
        add(sock.fileno(), self._readable)

    def close(self) -> None:
        """Hear no more."""
        if self._sock is not None:
            self._remove(self._sock.fileno())
            self._sock.close()
            self._sock = None

    def _readable(self) -> None:
        for _ in range(_BURST):
            if self._sock is None:
                return
            try:
                data = self._sock.recv(65_535)
            except OSError as error:
                if error.errno not in (errno.EAGAIN, errno.EINTR):
                    self._arrived(error)
                return
            try:
                fitting = matches(self._wire, data)
            except Malformed:
                fitting = False
            if fitting:
                self._arrived(data)
