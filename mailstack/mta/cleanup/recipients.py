"""Envelope recipients: what virtual_alias_maps make of them, each result once.

Raises `AliasExpansionError` for aliases that grow without end, `MapError` and what a table raises. Standards:
virtual(5), RFC 3461 §5.2.7.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping

from mailstack.config.postfix.main_cf import MainCf
from mailstack.mta.address_maps import AddressMaps, OpenTable
from mailstack.mta.cleanup.maps import (
    ENVELOPE_RECIPIENT,
    Canonical,
    Copies,
    MapError,
    mapped,
    open_maps,
    propagates,
)
from mailstack.mta.dsn import replaced as dsn_replaced
from mailstack.mta.dsn import without_success
from mailstack.mta.rewrite import Rewriter
from mailstack.storage.queue import Recipient
from mailstack.wire.smtp.address import AddressError, parse_path, quote
from mailstack.wire.smtp.command import NO_RCPT_PARAMETERS, RcptParameters


class AliasExpansionError(Exception):
    """virtual_alias_maps make too many addresses of one, go too deep, or yield what is no address."""


class Recipients:
    """What becomes of recipients under one configuration. `mapping`: maps apply at all."""

    def __init__(
        self,
        conf: MainCf,
        rewriter: Rewriter,
        open_table: OpenTable,
        canonical: Canonical | None,
        *,
        mapping: bool = True,
    ) -> None:
        self._rewriter = rewriter
        self._canonical = canonical
        self._expansion_limit = conf.int("virtual_alias_expansion_limit")
        self._recursion_limit = conf.int("virtual_alias_recursion_limit")
        self._length_limit = conf.int("virtual_alias_address_length_limit")
        self._propagate = propagates(conf, "virtual")
        self._duplicates = conf.int("duplicate_filter_limit")
        self._keep_original = conf.bool("enable_original_recipient")
        self._copies = Copies.load(conf, rewriter, open_table) if mapping else None
        self.aliases = open_maps(conf, "virtual_alias_maps", rewriter, open_table)
        self._aliases: AddressMaps | None = self.aliases if mapping and self.aliases else None

    def expanded(
        self,
        addresses: Iterable[tuple[str, str]],
        dsn: Mapping[str, RcptParameters] | None,
        replaced: list[str] | None,
        copies_for: str | None,
    ) -> tuple[Recipient, ...]:
        """See `Cleanup.recipients`."""
        canonical, aliases = self._canonical, self._aliases
        found: dict[str, Recipient] = {}
        if canonical is not None:
            apply = canonical.apply
            addresses = [(apply(ENVELOPE_RECIPIENT, address), given) for address, given in addresses]
        copies: list[str] = []
        if self._copies is not None and copies_for is not None:
            addresses = list(addresses)
            copies = self._copies.of(copies_for, [address for address, _ in addresses])
        for address, given in addresses:
            results = self.expand(address) if aliases else (address,)
            asked = dsn.get(given, NO_RCPT_PARAMETERS) if dsn is not None else NO_RCPT_PARAMETERS
            if "SUCCESS" in asked.notify and (len(results) != 1 or results[0] != address):
                record = dsn_replaced(address, given, asked)
                if replaced is not None and record not in replaced:
                    replaced.append(record)
                asked = asked._replace(notify=without_success(asked.notify))
            for result in results:
                key = self._key(result, given)
                if key in found and (not self._duplicates or len(found) <= self._duplicates):
                    continue
                original = given if result != given else ""
                found[key] = Recipient(result, original, asked.notify, asked.orcpt)
        for copy in copies:
            self._add_copy(found, copy)
        return tuple(found.values())

    def add_copies(self, recipients: tuple[Recipient, ...], copies: Iterable[str]) -> tuple[Recipient, ...]:
        """`recipients` and who a BCC action names (as it names them)."""
        found = {self._key(one.address, one.original or one.address): one for one in recipients}
        for copy in copies:
            self._add_copy(found, self._rewriter.complete(_parsed(copy)))
        return tuple(found.values())

    def _add_copy(self, found: dict[str, Recipient], copy: str) -> None:
        """Nobody is told what becomes of a copy."""
        if self._canonical is not None:
            copy = self._canonical.apply(ENVELOPE_RECIPIENT, copy)
        for result in self.expand(copy) if self._aliases else (copy,):
            original = copy if result != copy else ""
            key = self._key(result, copy)
            found.setdefault(f"{key}\n" if self._keep_original else key, Recipient(result, original, "NEVER"))

    def _key(self, result: str, given: str) -> str:
        """What makes two recipients one: with enable_original_recipient, as whom they were given as well."""
        return f"{result}\n{given}".lower() if self._keep_original else result.lower()

    def redirected(self, address: str, given: str) -> tuple[Recipient, ...]:
        """The one recipient that a REDIRECT action names (as it names it), as the first that was given.

        No map is asked.
        """
        result = self._rewriter.complete(_parsed(address))
        return (Recipient(result, given if given != result else ""),)

    def expand(self, address: str) -> list[str]:
        """What the virtual aliases make of one completed address; itself where no alias is known."""
        results = [address]
        themselves: set[str] = set()
        for index, _ in enumerate(results):  # which grows meanwhile
            if len(results) > self._expansion_limit:
                raise AliasExpansionError(f"unreasonable virtual_alias_maps map expansion size for {address}")
            for depth in itertools.count():
                current = results[index]
                found = None if current.lower() in themselves else self.aliases.find(current)
                if found is None:
                    break
                if depth >= self._recursion_limit:
                    raise AliasExpansionError(f"unreasonable virtual_alias_maps map nesting for {address}")
                targets = mapped(current, found, self._rewriter, propagate=self._propagate)
                if not targets:
                    raise MapError(
                        f"virtual_alias_maps map lookup problem for {current} "
                        "-- message not accepted, try again later",
                        current,
                    )
                for target in targets:
                    self._check(target)
                    if target.lower() == current.lower():
                        themselves.add(target.lower())
                results[index] = targets[0]
                results += targets[1:]
        return list(dict.fromkeys(results))

    def _check(self, target: str) -> None:
        """Raises `AliasExpansionError` for what is no address."""
        try:
            if target and len(target) <= self._length_limit and parse_path(f"<{quote(target)}>"):
                return
        except AddressError:
            pass
        raise AliasExpansionError(f"bad address in virtual_alias_maps: {target[:100]}")


def _parsed(address: str) -> str:
    try:
        return parse_path(address)
    except AddressError:
        return address.strip()
