"""Lookup tables as main.cf names them: lists of domains, and maps keyed by address.

A list (`mydestination`, `relay_domains`, `virtual_mailbox_domains`…) holds names, files of names (`/path`),
tables (`type:table`, matched when they have the name as a key) and exceptions (`!pattern`); the first pattern
that matches decides. A map (`virtual_alias_maps`…) is searched table by table, for each form of an address in
Postfix's order (postconf(5), virtual(5)). A table that cannot be read raises its own error at the look-up.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from mailstack.storage.tables.fresh import CHECK_INTERVAL, files
from mailstack.wire.smtp import quote


class Table(Protocol):
    """One lookup table; keys are looked up as they are (lower case for addresses)."""

    def lookup(self, key: str) -> str | None:
        """The value, or None. Raises `OSError` or the table's own error."""
        ...


OpenTable = Callable[[str], Table]
"""Opens `texthash:/path` and its like."""


class DomainList:
    """A list of domains and tables of domains; with `parents`, a name also covers what is below it."""

    __slots__ = ("_names", "_parents", "_patterns", "_simple")

    def __init__(self, words: Iterable[str], open_table: OpenTable, *, parents: bool = False) -> None:
        self._parents = parents
        self._patterns: list[tuple[bool, str | Table]] = []
        for word in _expand_files(words):
            wanted = not word.startswith("!")
            name = word.lstrip("!")
            entry = open_table(name) if ":" in name and not name.startswith("[") else name.lower()
            self._patterns.append((wanted, entry))
        self._simple = all(wanted and isinstance(entry, str) for wanted, entry in self._patterns)
        self._names = frozenset(entry for _, entry in self._patterns if isinstance(entry, str))

    def __bool__(self) -> bool:
        return bool(self._patterns)

    def match(self, domain: str) -> bool:
        """Whether the list covers `domain` (lower case)."""
        if self._simple and domain in self._names:
            return True
        return any(self._match(name, exact=name == domain) for name in self._forms(domain))

    def _forms(self, domain: str) -> list[str]:
        if not self._parents and not any(name.startswith(".") for name in self._names):
            return [domain]
        labels = domain.split(".")
        return [domain, *(".".join(labels[i:]) for i in range(1, len(labels)))]

    def _match(self, name: str, *, exact: bool) -> bool:
        for wanted, entry in self._patterns:
            if isinstance(entry, str):
                hit = (entry == name and (exact or self._parents)) or (not exact and entry == f".{name}")
            else:
                hit = (exact or self._parents) and entry.lookup(name) is not None
            if hit:
                return wanted
        return False


def _expand_files(words: Iterable[str]) -> list[str]:
    """Replace `/path` by the words of that file. Raises `OSError`."""
    found: list[str] = []
    for word in words:
        if word.lstrip("!").startswith("/"):
            mark = "!" if word.startswith("!") else ""
            lines = Path(word.lstrip("!")).read_text("utf-8").splitlines()
            text = " ".join(line for line in lines if not line.startswith("#"))
            found += [mark + name for name in text.replace(",", " ").split()]
        else:
            found.append(word)
    return found


PATTERNS = frozenset(("regexp", "pcre", "cidr"))
"""Types of tables that are asked for whole addresses only: a pattern for part of one would match too much."""
REMEMBERED = 1000
"""Addresses whose answers `AddressMaps` remembers at the most."""


class Found(NamedTuple):
    """A hit: the value, and the address extension (with its delimiter) that the key did not have."""

    value: str
    extension: str


class AddressMaps:
    """Tables searched with an address, most specific form first."""

    __slots__ = ("_delimiters", "_filled", "_indexed", "_is_local", "_known", "_version", "tables")

    def __init__(
        self,
        names: Sequence[str],
        open_table: OpenTable,
        *,
        delimiters: str = "",
        is_local: Callable[[str], bool] = lambda domain: False,
    ) -> None:
        self.tables = tuple(open_table(name) for name in names)
        self._indexed = tuple(
            table
            for name, table in zip(names, self.tables, strict=True)
            if name.removeprefix("proxy:").partition(":")[0] not in PATTERNS
        )
        self._delimiters = delimiters
        self._is_local = is_local
        self._known: dict[str, Found | None] = {}
        self._filled = 0.0
        self._version = -1

    def __bool__(self) -> bool:
        return bool(self.tables)

    def get(self, key: str, *, whole: bool = False) -> str | None:
        """The first table's value for exactly this key; patterns are asked for a `whole` address."""
        for table in self.tables if whole else self._indexed:
            value = table.lookup(key)
            if value is not None:
                return value
        return None

    def find(self, address: str) -> Found | None:
        """The value for an address: user+ext@domain, user@domain, user+ext and user (local), @domain.

        An answer is remembered for as long as the tables themselves go without a look at their files.
        """
        now = time.monotonic()
        if (
            now - self._filled >= CHECK_INTERVAL
            or len(self._known) >= REMEMBERED
            or self._version != files.version
        ):
            self._known.clear()
            self._filled, self._version = now, files.version
        try:
            return self._known[address]
        except KeyError:
            found = self._known[address] = self._search(address)
            return found

    def _search(self, address: str) -> Found | None:
        quoted = quote(address)
        if quoted != address:  # as it stands in SMTP goes first
            found = self._search_form(quoted)
            if found is not None:
                return found
        return self._search_form(address)

    def _search_form(self, address: str) -> Found | None:
        local, _, domain = address.lower().rpartition("@")
        if not local:
            local, domain = domain, ""
        user, extension = split_extension(local, self._delimiters)
        at = f"@{domain}" if domain else ""
        whole = True
        for key, left in self._keys(local, user, extension, at, domain):
            value = self.get(key, whole=whole)
            if value is not None:
                return Found(value, left)
            whole = False
        return None

    def _keys(self, local: str, user: str, extension: str, at: str, domain: str) -> Iterable[tuple[str, str]]:
        yield local + at, ""
        if extension:
            yield user + at, extension
        if at:
            if self._is_local(domain):
                yield local, ""
                if extension:
                    yield user, extension
            yield at, ""


def split_extension(local: str, delimiters: str) -> tuple[str, str]:
    """(user, extension with its delimiter) of a local part, at the first of `delimiters`.

    Postfix's exceptions hold: the reserved names keep their hyphens, `owner-x` and `x-request` are one name.
    """
    if not delimiters or local.lower() in ("postmaster", "mailer-daemon", "double-bounce"):
        return local, ""
    if "-" in delimiters and (local.lower().startswith("owner-") or local.lower().endswith("-request")):
        delimiters = delimiters.replace("-", "")
    places = [place for place in (local.find(char) for char in delimiters) if place > 0]
    if not places:
        return local, ""
    return local[: min(places)], local[min(places) :]
