"""Address match lists: `{ !192.0.2.1; 192.0.2.0/24; localnets; trusted; { 10/8; }; }`.

The first element that matches decides. A nested or named list matches only when it says yes: a "no" from
inside it leaves the question to the next element (BIND 9 Administrator Reference Manual, "acl").
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from mailstack.config.named.syntax import Block, Statement, Word

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class Locality:
    """What `localhost` and `localnets` stand for on this machine."""

    addresses: frozenset[Address] = frozenset()
    networks: tuple[Network, ...] = ()


@dataclass(frozen=True, slots=True)
class KeyName:
    """`key NAME`: messages signed with that key match."""

    name: str


@dataclass(frozen=True, slots=True)
class Element:
    """One element. `what` is a network, a key, a nested list, or one of the built-in names."""

    what: Network | KeyName | Acl | Literal["any", "localhost", "localnets"]
    negated: bool = False

    def covers(self, address: Address, locality: Locality, key: str | None = None) -> bool:
        """Whether the element, its `!` aside, matches."""
        match self.what:
            case KeyName(name):
                return name == key
            case "any":
                return True
            case "localhost":
                return address in locality.addresses
            case "localnets":
                return any(_within(address, network) for network in locality.networks)
            case Acl() as nested:
                return nested.matches(address, locality, key)
            case network:
                return _within(address, network)


@dataclass(frozen=True, slots=True)
class Acl:
    """A list of elements; an empty one is `none`."""

    elements: tuple[Element, ...] = ()

    def matches(self, address: Address, locality: Locality, key: str | None = None) -> bool:
        """Whether the list lets `address` in, or a message signed with `key` (its name in lower case).

        IPv4-mapped IPv6 addresses are judged as IPv4.
        """
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        for element in self.elements:
            if element.covers(address, locality, key):
                return not element.negated
        return False

    @property
    def is_any(self) -> bool:
        """Everybody matches, whatever the address."""
        if not self.elements or self.elements[0].negated:
            return False
        first = self.elements[0].what
        return first == "any" or (isinstance(first, Acl) and first.is_any)

    @property
    def is_none(self) -> bool:
        """Nobody matches, whatever the address."""
        for element in self.elements:
            if not element.negated:
                if isinstance(element.what, Acl) and element.what.is_none:
                    continue
                return False
            if element.what == "any":
                return True
        return True


ANY = Acl((Element("any"),))
NONE = Acl()
LOCAL = Acl((Element("localnets"), Element("localhost")))
"""BIND's default for recursion."""


class AclTable:
    """The `acl` statements of a configuration, resolved by name when they are first used."""

    def __init__(self, statements: Iterable[Statement], keys: Collection[str] = ()) -> None:
        self._keys = keys
        self._blocks: dict[str, tuple[Statement, Block]] = {}
        self._resolved: dict[str, Acl] = {"any": ANY, "none": NONE}
        self._open: list[str] = []
        for statement in statements:
            match statement.items[1:]:
                case (Word(text=name), Block() as block):
                    if name in ("any", "none", "localhost", "localnets"):
                        raise statement.error(f"acl '{name}' is built in")
                    if name in self._blocks:
                        raise statement.error(f"acl '{name}' is already defined")
                    self._blocks[name] = (statement, block)
                case _:
                    raise statement.error("acl takes a name and a { list }")

    @property
    def names(self) -> Mapping[str, tuple[Statement, Block]]:
        """The lists that the file defines."""
        return self._blocks

    def named(self, name: str, user: Statement, line: int) -> Acl:
        """The list called `name`. Raises `ConfigError` when there is none or it holds itself."""
        if name in self._resolved:
            return self._resolved[name]
        if name not in self._blocks:
            raise user.error(f"undefined acl '{name}'", line)
        if name in self._open:
            raise user.error(f"acl '{name}' contains itself", line)
        self._open.append(name)
        statement, block = self._blocks[name]
        self._resolved[name] = self.read(statement, block)
        self._open.pop()
        return self._resolved[name]

    def read(self, statement: Statement, block: Block) -> Acl:
        """An address match list. `statement` is the one to name in errors."""
        return Acl(tuple(self._element(statement, inner) for inner in block.statements))

    def _element(self, owner: Statement, element: Statement) -> Element:
        items = element.items
        negated = False
        while items and isinstance(items[0], Word) and items[0].text == "!" and not items[0].quoted:
            if negated:
                raise element.error("'!' twice in an address match list")
            negated, items = True, items[1:]
        match items:
            case (Block() as block,):
                return Element(self.read(owner, block), negated)
            case (Word(text="any"),):
                return Element("any", negated)
            case (Word(text="localhost"),):
                return Element("localhost", negated)
            case (Word(text="localnets"),):
                return Element("localnets", negated)
            case (Word(text=text, line=line),):
                network = parse_network(text)
                if network is not None:
                    return Element(network, negated)
                if "/" in text or text.replace(".", "").isdecimal() or ":" in text:
                    raise element.error(f"'{text}' is not a network: its bits beyond the prefix must be zero")
                return Element(self.named(text, element, line), negated)
            case (Word(text="key"), Word(text=name)):
                if key_name(name) not in self._keys:
                    raise element.error(f"undefined key '{name}'")
                return Element(KeyName(key_name(name)), negated)
            case (Word(text=text), *_):
                raise element.error(f"'{text}' is not supported in an address match list")
        raise element.error("not an address match list element")


def key_name(text: str) -> str:
    """A key's name as it is compared: lower case, without final dot."""
    return text.lower().rstrip(".")


def parse_network(text: str) -> Network | None:
    """`192.0.2.1`, `192.0.2.0/24`, `10/8`, `2001:db8::/32`; None for anything else."""
    host, slash, length = text.partition("/")
    if slash and "." not in host and ":" not in host and host.isdecimal():
        host += ".0.0.0"
    elif slash and ":" not in host and host.count(".") in (1, 2):
        host += ".0" * (3 - host.count("."))
    try:
        return ipaddress.ip_network(host + slash + length if length.isdecimal() or not slash else text)
    except ValueError:
        return None


def only_addresses(acl: Acl) -> list[Address]:
    """The single addresses that a list names outright, in order, before anything that shuts them out."""
    found: list[Address] = []
    for element in acl.elements:
        match element.what:
            case Acl() as nested if not element.negated:
                found.extend(only_addresses(nested))
            case ipaddress.IPv4Network() | ipaddress.IPv6Network() as network if not element.negated:
                if network.prefixlen == network.max_prefixlen:
                    found.append(network.network_address)
            case _:
                pass
    return found


def _within(address: Address, network: Network) -> bool:
    return address.version == network.version and address in network
