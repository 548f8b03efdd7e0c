"""DNS cookies (RFC 7873), in the form that all servers of one name share (RFC 9018).

A client that shows the cookie it was given is at the address it claims: nobody else has seen it.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

CLIENT = 8
"""Octets of a client's cookie."""
SERVER_SHORTEST, SERVER_LONGEST = 8, 32
_VERSION = b"\1\0\0\0"
_OLDEST, _NEWEST = 3600, 300
"""Seconds that a cookie may be old, and its clock ahead of ours (RFC 9018 §4.3)."""
_MASK = 0xFFFFFFFFFFFFFFFF


@dataclass(frozen=True, slots=True)
class Cookies:
    """Makes and checks cookies. `secret` is of 16 octets."""

    secret: bytes

    def answer(self, option: bytes, host: str, now: float) -> tuple[bytes, bool]:
        """The option to send back, and whether the client showed a cookie of ours.

        Raises `ValueError` for an option of a length that is none.
        """
        shown = option[CLIENT:]
        if len(option) < CLIENT or (shown and not SERVER_SHORTEST <= len(shown) <= SERVER_LONGEST):
            raise ValueError("a cookie is of 8 octets, or of 16 to 40")
        client = option[:CLIENT]
        address = ipaddress.ip_address(host.partition("%")[0]).packed
        seconds = int(now) & 0xFFFFFFFF
        good = False
        if len(shown) == 16 and shown[:4] == _VERSION:
            age = (seconds - int.from_bytes(shown[4:8], "big") + _NEWEST) & 0xFFFFFFFF
            good = age <= _OLDEST + _NEWEST and shown == self._make(client, shown[4:8], address)
        return client + self._make(client, seconds.to_bytes(4, "big"), address), good

    def _make(self, client: bytes, stamp: bytes, address: bytes) -> bytes:
        digest = siphash(self.secret, client + _VERSION + stamp + address)
        return _VERSION + stamp + digest.to_bytes(8, "little")


def siphash(key: bytes, data: bytes) -> int:
    """SipHash-2-4 (Aumasson and Bernstein, 2012) of `data` under a key of 16 octets."""
    k0, k1 = int.from_bytes(key[:8], "little"), int.from_bytes(key[8:16], "little")
    v = (k0 ^ 0x736F6D6570736575, k1 ^ 0x646F72616E646F6D, k0 ^ 0x6C7967656E657261, k1 ^ 0x7465646279746573)
    tail = data[len(data) & ~7 :]
    padded = data + bytes(7 - len(tail)) + bytes((len(data) & 0xFF,))
    for position in range(0, len(padded), 8):
        word = int.from_bytes(padded[position : position + 8], "little")
        v = _round(*_round(v[0], v[1], v[2], v[3] ^ word))
        v = (v[0] ^ word, v[1], v[2], v[3])
    v = (v[0], v[1], v[2] ^ 0xFF, v[3])
    for _ in range(4):
        v = _round(*v)
    return v[0] ^ v[1] ^ v[2] ^ v[3]


def _round(a: int, b: int, c: int, d: int) -> tuple[int, int, int, int]:
    a = (a + b) & _MASK
    b = ((b << 13 | b >> 51) & _MASK) ^ a
    a = (a << 32 | a >> 32) & _MASK
    c = (c + d) & _MASK
    d = ((d << 16 | d >> 48) & _MASK) ^ c
    a = (a + d) & _MASK
    d = ((d << 21 | d >> 43) & _MASK) ^ a
    c = (c + b) & _MASK
    b = ((b << 17 | b >> 47) & _MASK) ^ c
    return a, b, (c << 32 | c >> 32) & _MASK, d
