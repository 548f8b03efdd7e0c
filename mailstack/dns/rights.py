"""What clients may do: the access lists of a configuration, by address and key."""

from __future__ import annotations

import ipaddress
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from mailstack.config.named import Acl, Address, Locality, Options
from mailstack.config.named import Zone as ZoneConf
from mailstack.dns.ordering import Turns
from mailstack.dns.ratelimit import Subject
from mailstack.dns.ready import Shelf
from mailstack.dns.statistics import Seen

CLIENT_LIMIT = 10_000
"""Clients whose access rights are remembered."""


@dataclass(slots=True)
class View:
    """What one kind of client may do. Clients with the same rights share the prepared answers."""

    ignored: bool
    query: Mapping[bytes, bool]
    """By zone; a zone that is not there may be asked."""
    transfer: Mapping[bytes, bool]
    update: Mapping[bytes, bool]
    recursion: bool
    """`recursion` and `allow-recursion` let it; whether there is a forwarder is another question."""
    available: bool
    """There is one: the RA bit."""
    udp: dict[bytes, bytes] = field(default_factory=dict)
    """Prepared answers by query, both without id."""
    tcp: dict[bytes, bytes] = field(default_factory=dict)
    seen: tuple[Seen, ...] = field(
        default_factory=lambda: tuple(defaultdict[bytes, int](int) for _ in range(4))
    )
    """How often each of them was given: by UDP over IPv4 and IPv6, by TCP over IPv4 and IPv6."""
    turns: tuple[dict[bytes, Turns], ...] = field(default_factory=lambda: ({}, {}))
    """Answers whose order changes, by UDP and TCP."""
    subjects: dict[bytes, Subject] = field(default_factory=dict)
    """What the answers by UDP are about, where they are limited."""
    ready: tuple[Shelf, Shelf] = field(default_factory=lambda: (Shelf(), Shelf()))
    """Answers out of the forwarders' cache, by UDP and TCP."""

    def forget(self) -> None:
        """Make all answers anew. Those that were given must have been counted."""
        self.udp.clear()
        self.tcp.clear()
        self.subjects.clear()
        for shelf in self.ready:
            shelf.forget()
        for turning in self.turns:
            turning.clear()


class Rights:
    """The rights of every client. `zones` are the configured ones by lower-case wire name."""

    def __init__(
        self, options: Options, zones: Mapping[bytes, ZoneConf], locality: Locality, *, apart: bool
    ) -> None:
        """`apart`: clients are told apart even where their rights do not differ."""
        self._options = options
        self._zone_confs = zones
        self._locality = locality
        self._views: dict[str, View] = {}
        self._by_rights: dict[tuple[bool, ...], View] = {}
        self.only: View | None = None
        """The rights of every client, when they are the same and need not be told apart."""
        self._by_local = not all(
            acl.is_any
            for acl in (
                options.allow_query_on,
                options.allow_recursion_on,
                options.allow_query_cache_on,
                *(conf.allow_query_on for conf in zones.values() if conf.allow_query_on is not None),
            )
        )
        """Rights differ by which of our addresses is asked."""
        if not apart and not self._by_local and self._everybody_alike():
            self.only = self.of("192.0.2.1")

    def views(self) -> Iterator[View]:
        """Every one that is in use."""
        yield from self._by_rights.values()

    def view(self, host: str, local: str = "") -> View:
        """The rights of a client's address that asks our address `local`."""
        if self.only is not None:
            return self.only
        key = f"{host} {local}" if self._by_local else host
        view = self._views.get(key)
        if view is None:
            if len(self._views) >= CLIENT_LIMIT:
                self._views.clear()
            view = self._views[key] = self.of(host, local=local)
        return view

    def _acls(self) -> list[Acl]:
        options = self._options
        found = [options.blackhole, options.allow_recursion]
        for conf in self._zone_confs.values():
            found.append(_acl(conf.allow_query, options.allow_query))
            found.append(_acl(conf.allow_transfer, options.allow_transfer))
            found.append(conf.allow_update)
        return found

    def _everybody_alike(self) -> bool:
        return all(
            acl.is_any
            or acl.is_none
            or (acl is self._options.allow_recursion and not self._options.recursion)
            for acl in self._acls()
        )

    def _any_forwarders(self) -> bool:
        return bool(self._options.forwarders or any(conf.forwarders for conf in self._zone_confs.values()))

    def of(self, host: str, key: str | None = None, local: str = "") -> View:
        """The rights of a message from an address to `local`, signed with a key."""
        address: Address = ipaddress.ip_address(host.partition("%")[0])
        options, locality = self._options, self._locality
        recursion = options.recursion and options.allow_recursion.matches(address, locality, key)
        asked = ipaddress.ip_address(local.partition("%")[0]) if self._by_local and local else None
        if asked is not None:
            recursion = recursion and all(
                acl.matches(asked, locality, key)
                for acl in (options.allow_recursion_on, options.allow_query_cache_on)
            )
        query: dict[bytes, bool] = {}
        transfers: dict[bytes, bool] = {}
        for origin, conf in self._zone_confs.items():
            query[origin] = _acl(conf.allow_query, options.allow_query).matches(address, locality, key) and (
                asked is None
                or _acl(conf.allow_query_on, options.allow_query_on).matches(asked, locality, key)
            )
            transfers[origin] = _acl(conf.allow_transfer, options.allow_transfer).matches(
                address, locality, key
            )
        ignored = options.blackhole.matches(address, locality, key)
        updates = {
            origin: conf.allow_update.matches(address, locality, key)
            for origin, conf in self._zone_confs.items()
        }
        rights = (ignored, recursion, *query.values(), *transfers.values(), *updates.values())
        view = self._by_rights.get(rights)
        if view is None:
            view = self._by_rights[rights] = View(
                ignored, query, transfers, updates, recursion, recursion and self._any_forwarders()
            )
        return view


def _acl(own: Acl | None, general: Acl) -> Acl:
    return general if own is None else own
