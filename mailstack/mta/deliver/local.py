"""local(8): aliases, then the transport that delivers every local user's mail (`mailbox_transport`).

`LocalRouter.route` is what the queue manager asks while it resolves a recipient: it expands aliases(5), also
nested ones, `:include:` files and `owner-` aliases, and says

- `Direct`: one local user; the mail goes straight on to mailbox_transport (its concurrency limits apply);
- `Forward`: several addresses, or one that is not local; the mail becomes a new message to them, so that
  each has a status of its own; its sender is the alias's owner where there is one;
- an `Outcome` for what cannot be delivered.

`LocalAgent` carries out the last two. An alias that names itself means the user of that name. Targets that
are files or commands are refused, as Postfix does with allow_mail_to_files and allow_mail_to_commands empty.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from mailstack.config.postfix.main_cf import MainCf
from mailstack.mta.address_maps import split_extension
from mailstack.mta.deliver.request import Bounced, Deferred, Outcome, Request, Result, Sent
from mailstack.mta.rewrite import AddressClass, Rewriter
from mailstack.net.log import Log
from mailstack.storage.queue import Message
from mailstack.storage.tables import Table, TableError, split_alias
from mailstack.wire.smtp import AddressError, parse_path, split_address

DEPTH = 20
"""How deep aliases may nest."""
EXPANDED = "alias_expanded"
"""Envelope attribute of a message that an alias has made: its local recipients are users."""


@dataclass(frozen=True, slots=True)
class Direct:
    """One local user: hand the mail to this transport."""

    transport: str
    nexthop: str
    address: str


@dataclass(frozen=True, slots=True)
class Forward:
    """Make a new message of it. `sender` is None where the sender stays."""

    addresses: tuple[str, ...]
    sender: str | None


Decision = Direct | Forward | Bounced | Deferred
ForwardMail = Callable[[Message, str, Forward], Awaitable[str]]
"""Puts the new message into the queue; returns its id. Raises `OSError`."""


class LocalRouter:
    """Alias expansion under one configuration."""

    def __init__(
        self, conf: MainCf, rewriter: Rewriter, open_table: Callable[[str], Table], log: Log
    ) -> None:
        self._rewriter = rewriter
        self._log = log
        self._tables = self._open(conf.list("alias_maps"), open_table)
        transport, _, nexthop = conf.str("mailbox_transport").partition(":")
        self._mailbox = (transport.strip(), nexthop.strip())
        self._relay = conf.str("luser_relay")
        self._owners = conf.bool("owner_request_special")
        self._expand_owner = conf.bool("expand_owner_alias")
        self._limit = conf.int("duplicate_filter_limit")

    def _open(self, names: Sequence[str], open_table: Callable[[str], Table]) -> list[Table]:
        """The alias tables; one of a kind that we do not have (nis:) is left out, with a warning."""
        tables = []
        for name in names:
            try:
                tables.append(open_table(name))
            except TableError as error:
                self._log.warning(f"alias_maps: {error}")
        return tables

    def route(self, address: str, *, expanded: bool = False) -> Decision:
        """Where a local address goes; `expanded`: aliases have been applied already."""
        try:
            if expanded:
                return self._user(address)
            found: dict[str, None] = {}
            owner = self._expand(address, found, set(), 0)
        except _Problem as problem:
            return problem.outcome
        except (OSError, TableError) as error:
            self._log.warning(f"alias lookup of {address}: {error}")
            return Deferred("alias database unavailable", "4.3.0")
        addresses = tuple(found)
        if len(addresses) == 1 and owner is None and self._is_local(addresses[0]):
            return self._user(addresses[0])
        return Forward(addresses, owner)

    def _user(self, address: str) -> Decision:
        local = split_address(address)[0]
        if self._mailbox[0]:
            return Direct(*self._mailbox, address)
        if self._relay:
            user = split_extension(local, self._rewriter.delimiters)[0]
            relay = self._relay.replace("$user", user).replace("$local", local)
            return Forward((self._rewriter.complete(relay.replace("$recipient", address)),), None)
        return Bounced(f'unknown user: "{local.lower()}"', "5.1.1")

    def _expand(self, address: str, found: dict[str, None], seen: set[str], depth: int) -> str | None:
        """Add to `found` what an address stands for; return the owner of the outermost alias."""
        if depth > DEPTH:
            raise _Problem(Bounced(f"alias {address} is nested too deeply", "5.4.6"))
        local = split_address(address)[0]
        name, value = self._alias(local)
        if value is None or name in seen:
            found[address] = None
            if self._limit and len(found) > self._limit * 10:
                raise _Problem(Bounced(f"alias expansion of {address} has too many addresses", "5.4.6"))
            return None
        seen = seen | {name}
        for target in split_alias(value):
            self._target(target, found, seen, depth)
        owner = f"owner-{name}"
        if not self._owners or name.startswith("owner-") or name.endswith("-request"):
            return None
        owner_value = self._alias(owner)[1]
        if owner_value is None:
            return None
        return self._rewriter.complete(split_alias(owner_value)[0] if self._expand_owner else owner)

    def _target(self, target: str, found: dict[str, None], seen: set[str], depth: int) -> None:
        if target.startswith("|"):
            raise _Problem(Bounced("mail to command is restricted", "5.2.0"))
        if target.startswith("/"):
            raise _Problem(Bounced("mail to file is restricted", "5.2.0"))
        if target.startswith(":include:"):
            for line in _include(target[9:]):
                self._target(line, found, seen, depth + 1)
            return
        try:
            address = self._rewriter.complete(parse_path(target.removeprefix("\\")))
        except AddressError:
            raise _Problem(Bounced(f"bad address in an alias: {target}", "5.1.3")) from None
        if target.startswith("\\") or not self._is_local(address):
            found[address] = None
        else:
            self._expand(address, found, seen, depth + 1)

    def _alias(self, local: str) -> tuple[str, str | None]:
        """The alias that a local part names (with its extension, then without), and its value."""
        names = [local.lower()]
        user = split_extension(names[0], self._rewriter.delimiters)[0]
        if user != names[0]:
            names.append(user)
        for name in names:
            for table in self._tables:
                value = table.lookup(name)
                if value is not None:
                    return name, value
        return names[0], None

    def _is_local(self, address: str) -> bool:
        return self._rewriter.resolve(address).address_class is AddressClass.LOCAL


class LocalAgent:
    """Carries out what `LocalRouter` could not hand on directly; the nexthop is the address."""

    daemon = "local"

    def __init__(self, router: LocalRouter, forward: ForwardMail) -> None:
        self._router = router
        self._forward = forward

    async def deliver(self, request: Request) -> Sequence[Result]:
        results = []
        for target in request.targets:
            expanded = EXPANDED in request.message.envelope.attributes
            decision = self._router.route(target.address, expanded=expanded)
            outcome: Outcome
            match decision:
                case Forward():
                    try:
                        queue_id = await self._forward(request.message, target.address, decision)
                        outcome = Sent(f"forwarded as {queue_id}")
                    except OSError as error:
                        outcome = Deferred(f"cannot forward: {error.strerror or error}", "4.3.0")
                case Direct():
                    # The tables have changed between the two look-ups; the next attempt sees the same thing.
                    outcome = Deferred("alias database has just changed", "4.3.0")
                case _:
                    outcome = decision
            results.append(Result(target, outcome, "local"))
        return results

    async def close(self) -> None:
        """There is nothing to let go of."""


class _Problem(Exception):  # noqa: N818 - carries an outcome
    def __init__(self, outcome: Bounced | Deferred) -> None:
        super().__init__(outcome.text)
        self.outcome = outcome


def _include(path: str) -> list[str]:
    """The targets in an :include: file. Raises `OSError`, `TableError`."""
    if not os.path.isabs(path):
        raise TableError(f":include:{path}: the file's name must begin with /")
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        lines = [line.strip() for line in file]
    return [target for line in lines if line and line[0] != "#" for target in split_alias(line)]
