"""virtual(8): delivery into the mailboxes that `virtual_mailbox_maps` names, below `virtual_mailbox_base`.

A path that ends in `/` is a Maildir, any other an mbox file, locked as `virtual_mailbox_lock` says and
no larger than `virtual_mailbox_limit`. A message counts as delivered when its content and its directory
entry are on disk. It begins with Return-Path:, X-Original-To: (when the address has been rewritten) and
Delivered-To:.

`virtual_uid_maps` and `virtual_gid_maps` say in whose name that is done, where the MTA runs as root;
otherwise its own user owns every mailbox, and a warning at start says so.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from os.path import join

from mailstack.config.postfix.main_cf import MainCf
from mailstack.mta.address_maps import AddressMaps, Found
from mailstack.mta.deliver.request import Bounced, Deferred, Outcome, Request, Result, Sent, Target
from mailstack.mta.deliver.store import Store, read_locking
from mailstack.mta.lookup import Pending, settled
from mailstack.mta.verify import is_probe
from mailstack.net.clock import Clock
from mailstack.net.log import Log
from mailstack.storage.durable import GroupCommit
from mailstack.storage.identity import Identity
from mailstack.storage.queue import Queue
from mailstack.storage.tables import Table, TableError

CONFIGURATION = Deferred("mail system configuration error", "4.3.5")


class VirtualAgent:
    """The virtual daemon under one configuration."""

    daemon = "virtual"

    def __init__(
        self,
        conf: MainCf,
        queue: Queue,
        commit: GroupCommit,
        open_table: Callable[[str], Table],
        clock: Clock,
        log: Log,
    ) -> None:
        self._log = log
        self._base = conf.str("virtual_mailbox_base")
        self._limit = conf.size("virtual_mailbox_limit")
        self._store = Store(
            conf, queue, commit, clock, read_locking(conf, "virtual_mailbox_lock"), self._limit
        )
        self._strict = conf.bool("strict_mailbox_ownership")
        self._minimum = conf.int("virtual_minimum_uid")

        def maps(name: str) -> AddressMaps:
            return AddressMaps(conf.list(name), open_table, delimiters=conf.str("recipient_delimiter"))

        self._maps = maps("virtual_mailbox_maps")
        self._ids: tuple[AddressMaps, AddressMaps] | None = None
        if conf.list("virtual_uid_maps") and os.geteuid() == 0:
            self._ids = maps("virtual_uid_maps"), maps("virtual_gid_maps")
        elif conf.list("virtual_uid_maps") not in ([], [f"static:{os.geteuid()}"]):
            log.warning(f"virtual_uid_maps: not running as root; user {os.geteuid()} owns every mailbox")

    async def deliver(self, request: Request) -> Sequence[Result]:
        return [Result(target, await self._one(request, target), "virtual") for target in request.targets]

    async def _one(self, request: Request, target: Target) -> Outcome:
        message = request.message
        try:
            try:
                found, identity = self._find(target.address)
            except Pending:
                found, identity = await settled(lambda: self._find(target.address))
        except (OSError, TableError) as error:
            self._log.warning(f"{message.queue_id}: table lookup problem: {error}")
            return CONFIGURATION
        if found is None:
            return Bounced(f'unknown user: "{target.address}"', "5.1.1")
        if is_probe(message):
            return Sent(f"delivers to {'maildir' if found.value.endswith('/') else 'mailbox'}")
        path = join(self._base, found.value.lstrip("/") if self._base else found.value)
        head = self._store.head(message, target)
        if not found.value.endswith("/"):
            if message.acceptance is not None:
                await message.ours()
            must_own = identity.uid if self._strict and identity is not None else None
            outcome = await self._store.mbox(path, message, head, identity, must_own=must_own)
            if isinstance(outcome, Sent):
                return outcome
            text = f"delivery failed to mailbox {path}: {outcome.text}"
            if outcome.dsn == "5.2.0":  # what the administrator has to repair
                return Deferred(text, "4.2.0")
            return type(outcome)(text, outcome.dsn)
        if self._limit and message.envelope.size > self._limit:
            return Bounced("message size exceeds the mailbox size limit", "5.2.3")
        return await self._store.maildir(path.rstrip("/"), message, head, identity)

    def _find(self, address: str) -> tuple[Found | None, Identity | None]:
        """The mailbox of an address, and in whose name it is written. Raises `OSError`, `TableError`."""
        found = self._maps.find(address)
        if found is None or self._ids is None:
            return found, None
        numbers = []
        for maps, what, least in zip(self._ids, ("uid", "gid"), (self._minimum, 1), strict=True):
            number = maps.find(address)
            if number is None:
                raise TableError(f"recipient {address}: not found in virtual_{what}_maps")
            text = number.value.strip()
            if what == "uid" and text == str(os.geteuid()):
                return found, None  # the account that everything else here runs as, root or not
            if not (text.isascii() and text.isdecimal() and least <= int(text) < 2**32 - 1):
                raise TableError(f"recipient {address}: bad {what} {text} in virtual_{what}_maps")
            numbers.append(int(text))
        return found, Identity(*numbers)

    async def close(self) -> None:
        """There is nothing to let go of."""
