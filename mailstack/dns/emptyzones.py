"""The zones that named answers itself when it recurses: reverse zones of private and special addresses.

Questions about them would only load the root servers (RFC 6303). named serves each as a zone with nothing but
SOA and NS; a zone of the same name, or above it below the top level, in named.conf takes precedence.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from mailstack.dns import names
from mailstack.dns.zone import NS, SOA, Node, RRset, Zone

_TTL: Final = 86_400

EMPTY_ZONES: Final = (
    "10.in-addr.arpa",
    *(f"{number}.172.in-addr.arpa" for number in range(16, 32)),
    "168.192.in-addr.arpa",
    *(f"{number}.100.in-addr.arpa" for number in range(64, 128)),
    "0.in-addr.arpa",
    "127.in-addr.arpa",
    "254.169.in-addr.arpa",
    "2.0.192.in-addr.arpa",
    "100.51.198.in-addr.arpa",
    "113.0.203.in-addr.arpa",
    "255.255.255.255.in-addr.arpa",
    "0." * 32 + "ip6.arpa",
    "1." + "0." * 31 + "ip6.arpa",
    "d.f.ip6.arpa",
    "8.e.f.ip6.arpa",
    "9.e.f.ip6.arpa",
    "a.e.f.ip6.arpa",
    "b.e.f.ip6.arpa",
    "8.b.d.0.1.0.0.2.ip6.arpa",
    "empty.as112.arpa",
    "home.arpa",
    "resolver.arpa",
)


def empty_zones(
    configured: Iterable[str], disabled: Iterable[str], server: str = "", contact: str = ""
) -> list[Zone]:
    """The empty zones that are served beside the configured ones (names without final dot).

    `server` and `contact` are what their SOA says; '' is as named has it.
    """
    skipped = {*configured, *disabled}
    return [_empty(names.from_text(name), server, contact) for name in EMPTY_ZONES if name not in skipped]


def _empty(origin: bytes, server: str, contact: str) -> Zone:
    node = Node(origin)
    numbers = (0, 28_800, 7_200, 604_800, _TTL)
    tail = b"".join(number.to_bytes(4, "big") for number in numbers)
    primary = names.from_text(server.lower()) if server else origin
    mailbox = names.from_text(contact.lower()) if contact else names.ROOT
    node.rrsets[SOA] = RRset(SOA, _TTL, ((b"", (primary, mailbox), tail),))
    node.rrsets[NS] = RRset(NS, 0, ((b"", (primary,), b""),), (primary,))
    return Zone(origin, {origin: node})
