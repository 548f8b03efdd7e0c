"""Lists of networks and addresses (`mynetworks`): which clients a list covers.

A word is `192.0.2.0/24`, `192.0.2.1`, `[2001:db8::]/32`, `!word` for an exception, or `/file` of such words.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path

Network = IPv4Network | IPv6Network


class NetworkList:
    """A list of networks; the first word that covers an address decides."""

    __slots__ = ("_words", "match")

    def __init__(self, words: Iterable[str]) -> None:
        self._words = tuple(_parse(words))
        self.match = lru_cache(maxsize=1024)(self._match)
        """Whether the list covers an address literal."""

    def _match(self, address: str) -> bool:
        try:
            ip = ip_address(address)
        except ValueError:
            return False
        return next(
            (wanted for wanted, network in self._words if ip.version == network.version and ip in network),
            False,
        )


def _parse(words: Iterable[str]) -> Iterable[tuple[bool, Network]]:
    """Raises `ValueError` for a word that is no network and `OSError` for a file that cannot be read."""
    for word in words:
        wanted = not word.startswith("!")
        text = word.lstrip("!")
        if text.startswith("/"):
            lines = Path(text).read_text("utf-8").splitlines()
            inner = " ".join(line for line in lines if not line.startswith("#")).replace(",", " ").split()
            for inner_wanted, network in _parse(inner):
                yield wanted == inner_wanted, network
        else:
            yield wanted, ip_network(text.replace("[", "").replace("]", ""), strict=True)
