"""What main.cf says of addresses: canonical forms, masquerading, copies, and the names that leave the house.

`Canonical` holds canonical_maps, sender_canonical_maps, recipient_canonical_maps and masquerade_domains, each
with the classes of addresses that it is for; an address is given the common and its own map's value, and that
value's value, until nothing is found. `Copies` are sender_bcc_maps, recipient_bcc_maps and always_bcc.
`Generic` is smtp_generic_maps, for the SMTP client, or lmtp_generic_maps. Each is None (`load`) where main.cf
does not name it.

Raises `MapError` for a table that goes round in circles, and what a table raises. Standards: canonical(5),
generic(5), postconf(5).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Self

from mailstack.config.postfix.main_cf import MainCf
from mailstack.mta.address_maps import AddressMaps, Found, OpenTable
from mailstack.mta.cleanup.addresses import parse
from mailstack.mta.rewrite import Rewriter
from mailstack.wire.smtp.address import split_address

_DEPTH = 10
"""How often a canonical address is looked up again."""

ENVELOPE_SENDER, ENVELOPE_RECIPIENT = "envelope_sender", "envelope_recipient"
HEADER_SENDER, HEADER_RECIPIENT = "header_sender", "header_recipient"
_CLASSES = frozenset((ENVELOPE_SENDER, ENVELOPE_RECIPIENT, HEADER_SENDER, HEADER_RECIPIENT))
_RECIPIENTS = frozenset((ENVELOPE_RECIPIENT, HEADER_RECIPIENT))
_EXTENSIONS = frozenset(
    ("canonical", "virtual", "alias", "forward", "include", "generic")
)  # what propagate_unmatched_extensions may name


class MapError(Exception):
    """An address map that cannot be followed to its end; `address` is where that was given up."""

    def __init__(self, text: str, address: str) -> None:
        super().__init__(text)
        self.address = address


def open_maps(conf: MainCf, parameter: str, rewriter: Rewriter, open_table: OpenTable) -> AddressMaps:
    """The tables of a parameter, searched with addresses."""
    return AddressMaps(
        conf.list(parameter), open_table, delimiters=rewriter.delimiters, is_local=rewriter.is_own
    )


def propagates(conf: MainCf, kind: str) -> bool:
    """Whether results of `kind` of table keep the address extension. Raises `ConfigError`."""
    words = [word.lower() for word in conf.list("propagate_unmatched_extensions")]
    for word in words:
        if word not in _EXTENSIONS:
            raise conf.error("propagate_unmatched_extensions", f"unknown extension propagation class: {word}")
    return kind in words


def addresses_of(value: str) -> list[str]:
    """The addresses in a table's value, in internal form."""
    return [text for kind, text in parse(value) if kind == "addr"]


def mapped(address: str, found: Found, rewriter: Rewriter, *, propagate: bool) -> list[str]:
    """The addresses that a table's value makes of `address`, completed.

    `@domain` as the first of them keeps the user; with `propagate` each gets the extension that the key did
    not have.
    """
    results = []
    for index, result in enumerate(addresses_of(found.value)):
        if result.startswith("@") and index == 0 and "@" in address:
            result = address.rpartition("@")[0] + result
        elif found.extension and propagate:
            local, domain = split_address(result)
            result = f"{local}{found.extension}@{domain}" if domain else local + found.extension
        results.append(rewriter.complete(result))
    return results


class _Map:
    """One of the canonical maps, with the classes of addresses that it is for."""

    __slots__ = ("_maps", "_parameter", "_propagate", "_rewriter", "_warn", "classes")

    def __init__(
        self,
        conf: MainCf,
        parameter: str,
        classes: frozenset[str],
        rewriter: Rewriter,
        open_table: OpenTable,
        kind: str = "canonical",
    ) -> None:
        self._parameter = parameter
        self._maps = open_maps(conf, parameter, rewriter, open_table)
        self._propagate = propagates(conf, kind)
        self._rewriter = rewriter
        self.classes = classes

    def apply(self, address: str) -> str:
        """Raises `MapError`."""
        first = address
        for _ in range(_DEPTH):
            found = self._maps.find(address)
            if found is None:
                return address
            results = mapped(address, found, self._rewriter, propagate=self._propagate)
            if not results:
                raise MapError(
                    f"{self._parameter} map lookup problem for {address} "
                    "-- message not accepted, try again later",
                    address,
                )
            before, address = address, results[0]
            if before.lower() == address.lower():
                return address
        raise MapError(
            f"unreasonable {self._parameter} map nesting for {first} "
            "-- message not accepted, try again later",
            address,
        )


class Masquerade:
    """masquerade_domains: hosts below a domain are not told of."""

    __slots__ = ("_domains", "_exceptions", "classes")

    def __init__(self, conf: MainCf, open_table: OpenTable) -> None:
        self._domains = [word.lower() for word in conf.list("masquerade_domains")]
        self._exceptions = AddressList(conf.list("masquerade_exceptions"), open_table)
        self.classes = _classes(conf, "masquerade_classes")

    def apply(self, address: str) -> str:
        local, at, domain = address.rpartition("@")
        if not at or self._exceptions.match(local.lower()):
            return address
        name = domain.lower()
        for word in self._domains:
            bare = word.lstrip("!")
            if name == bare:
                break
            if name.endswith(f".{bare}"):
                if (len(word) - len(bare)) % 2 == 0:
                    return f"{local}@{bare}"
                break
        return address


class AddressList:
    """A list of plain names and tables: the first word that matches decides; `!` turns it round."""

    __slots__ = ("_words",)

    def __init__(self, words: Sequence[str], open_table: OpenTable) -> None:
        self._words = [
            (not word.startswith("!"), open_table(bare) if ":" in bare else bare.lower())
            for word in words
            for bare in (word.lstrip("!"),)
        ]

    def match(self, name: str) -> bool:
        """Whether the list has `name` (lower case)."""
        for wanted, entry in self._words:
            if entry == name if isinstance(entry, str) else entry.lookup(name) is not None:
                return wanted
        return False


def _classes(conf: MainCf, parameter: str) -> frozenset[str]:
    words = frozenset(word.lower() for word in conf.list(parameter))
    if words - _CLASSES:
        raise conf.error(parameter, f"unknown address class: {', '.join(sorted(words - _CLASSES))}")
    return words


class Canonical:
    """Every map that makes an address canonical."""

    __slots__ = ("_by_class", "headers")

    def __init__(self, conf: MainCf, rewriter: Rewriter, open_table: OpenTable) -> None:
        steps: list[tuple[frozenset[str], Callable[[str], str]]] = []
        for parameter, classes, only in (
            ("sender_canonical_maps", "sender_canonical_classes", _CLASSES - _RECIPIENTS),
            ("recipient_canonical_maps", "recipient_canonical_classes", _RECIPIENTS),
            ("canonical_maps", "canonical_classes", _CLASSES),
        ):
            if conf.list(parameter):
                wanted = _classes(conf, classes)
                if wanted - only:
                    raise conf.error(classes, f"unknown address class: {', '.join(sorted(wanted - only))}")
                one = _Map(conf, parameter, wanted, rewriter, open_table)
                steps.append((wanted, one.apply))
        if conf.list("masquerade_domains"):
            masquerade = Masquerade(conf, open_table)
            steps.append((masquerade.classes, masquerade.apply))
        self._by_class = {kind: [step for classes, step in steps if kind in classes] for kind in _CLASSES}
        self.headers = bool(self._by_class[HEADER_SENDER] or self._by_class[HEADER_RECIPIENT])
        """Whether headers are concerned."""

    @classmethod
    def load(cls, conf: MainCf, rewriter: Rewriter, open_table: OpenTable) -> Self | None:
        """None where nothing is configured. Raises `ConfigError` and `TableError`."""
        names = ("canonical_maps", "sender_canonical_maps", "recipient_canonical_maps", "masquerade_domains")
        return cls(conf, rewriter, open_table) if any(conf.list(name) for name in names) else None

    def apply(self, kind: str, address: str) -> str:
        """The canonical form of a completed address of the class `kind`. Raises `MapError`."""
        if address:
            for step in self._by_class[kind]:
                address = step(address)
        return address


class Copies:
    """Who gets a copy: always_bcc, sender_bcc_maps, recipient_bcc_maps."""

    __slots__ = ("_always", "_recipients", "_rewriter", "_senders")

    def __init__(self, conf: MainCf, rewriter: Rewriter, open_table: OpenTable) -> None:
        self._rewriter = rewriter
        always = conf.str("always_bcc")
        self._always = rewriter.complete(always) if always else ""
        self._senders = open_maps(conf, "sender_bcc_maps", rewriter, open_table)
        self._recipients = open_maps(conf, "recipient_bcc_maps", rewriter, open_table)

    @classmethod
    def load(cls, conf: MainCf, rewriter: Rewriter, open_table: OpenTable) -> Self | None:
        """None where nothing is configured."""
        wanted = conf.str("always_bcc") or conf.list("sender_bcc_maps") or conf.list("recipient_bcc_maps")
        return cls(conf, rewriter, open_table) if wanted else None

    def of(self, sender: str, recipients: Sequence[str]) -> list[str]:
        """The addresses, completed, without a second of any."""
        found: dict[str, None] = {}
        if self._always:
            found[self._always] = None
        if sender and self._senders:
            self._add(found, self._senders, sender)
        if self._recipients:
            for recipient in recipients:
                self._add(found, self._recipients, recipient)
        return list(found)

    def _add(self, found: dict[str, None], maps: AddressMaps, address: str) -> None:
        hit = maps.find(address)
        if hit is not None:
            for one in addresses_of(hit.value)[:1]:
                found[self._rewriter.complete(one)] = None


class Generic:
    """smtp_generic_maps: addresses of the inside, as the outside may know them (generic(5))."""

    __slots__ = ("address",)

    def __init__(self, conf: MainCf, rewriter: Rewriter, open_table: OpenTable, parameter: str) -> None:
        one = _Map(conf, parameter, _CLASSES, rewriter, open_table, "generic")
        self.address = one.apply
        """What an address (internal form) becomes. Raises `MapError`."""

    @classmethod
    def load(
        cls, conf: MainCf, rewriter: Rewriter, open_table: OpenTable, parameter: str = "smtp_generic_maps"
    ) -> Self | None:
        """None where nothing is configured."""
        return cls(conf, rewriter, open_table, parameter) if conf.list(parameter) else None
