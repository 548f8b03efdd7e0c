"""Lists of networks and addresses (`mynetworks`): which clients a list covers.

A word is `192.0.2.0/24`, `192.0.2.1`, `[2001:db8::]/32`, `!word` for an exception, or `/file` of such words.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path

from mailstack.config.postfix.main_cf import MainCf
from mailstack.mta.address_maps import DomainList, OpenTable

Network = IPv4Network | IPv6Network


class NetworkList:
    """A list of networks; the first word that covers an address decides."""

    __slots__ = ("_words", "match")

    def __init__(self, words: Iterable[str]) -> None:
        self._words = tuple(_parse(words))
        self.match = lru_cache(maxsize=1024)(self._match)
        """Whether the list covers an address literal."""

    def __bool__(self) -> bool:
        return bool(self._words)

    def _match(self, address: str) -> bool:
        try:
            ip = ip_address(address)
        except ValueError:
            return False
        return next(
            (wanted for wanted, network in self._words if ip.version == network.version and ip in network),
            False,
        )


class ClientList:
    """A list of clients by address, network, host name or `.domain`, or table of those; the first that
    matches decides (`smtpd_authorized_xclient_hosts`)."""

    __slots__ = ("_names", "_networks")

    def __init__(self, words: Iterable[str], open_table: OpenTable) -> None:
        networks: list[str] = []
        names: list[str] = []
        for word in words:
            bare = word.lstrip("!")
            numeric = bare[:1].isdigit() or bare.startswith("[") or ("/" in bare and ":" not in bare)
            (networks if numeric else names).append(word)
        self._networks = NetworkList(networks)
        self._names = DomainList(names, open_table, parents=False)

    def __bool__(self) -> bool:
        return bool(self._networks) or bool(self._names)

    def match(self, name: str, address: str) -> bool:
        """Whether the list covers a client."""
        if self._networks and self._networks.match(address):
            return True
        return bool(self._names) and name != "unknown" and self._names.match(name.lower())


class OwnAddresses:
    """This machine's addresses as main.cf tells them (`inet_interfaces`, `proxy_interfaces`)."""

    __slots__ = ("_known",)

    def __init__(self, conf: MainCf) -> None:
        words = [*conf.list("inet_interfaces"), *conf.list("proxy_interfaces")]
        self._known = frozenset(["127.0.0.1", "::1", *(word.strip("[]") for word in words)])

    def match(self, address: str, local: str) -> bool:
        """Whether `address` is one of them, or `local`: the address that the client has reached us at."""
        return address == local or address in self._known


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
