"""virtual(8): delivery into Maildirs that `virtual_mailbox_maps` names, below `virtual_mailbox_base`.

A message counts as delivered when its file and its directory entry are on disk. The file begins with
Return-Path:, X-Original-To: (when the address has been rewritten) and Delivered-To:. A path that does not
end in `/` would be an mbox file, which this agent does not write: such mail is deferred, with a warning.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from os.path import join

from mailstack.config.postfix.main_cf import MainCf
from mailstack.mta.address_maps import AddressMaps
from mailstack.mta.deliver.request import Bounced, Deferred, Outcome, Request, Result, Sent, Target
from mailstack.mta.lookup import Pending, settled
from mailstack.net.clock import Clock
from mailstack.net.log import Log
from mailstack.storage.durable import GroupCommit
from mailstack.storage.maildir.delivery import prepare_delivery
from mailstack.storage.queue import Queue
from mailstack.storage.tables import Table, TableError
from mailstack.wire.smtp import quote


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
        self._queue = queue
        self._commit = commit
        self._clock = clock
        self._log = log
        self._base = conf.str("virtual_mailbox_base")
        self._limit = conf.size("virtual_mailbox_limit")
        self._host = conf.str("myhostname")
        self._maps = AddressMaps(
            conf.list("virtual_mailbox_maps"), open_table, delimiters=conf.str("recipient_delimiter")
        )

    async def deliver(self, request: Request) -> Sequence[Result]:
        return [Result(target, await self._one(request, target), "virtual") for target in request.targets]

    async def _one(self, request: Request, target: Target) -> Outcome:
        message = request.message
        try:
            try:
                found = self._maps.find(target.address)
            except Pending:
                found = await settled(lambda: self._maps.find(target.address))
        except (OSError, TableError) as error:
            self._log.warning(f"{message.queue_id}: table lookup problem: {error}")
            return Deferred("mail system configuration error", "4.3.5")
        if found is None:
            return Bounced(f'unknown user: "{target.address}"', "5.1.1")
        if not found.value.endswith("/"):
            self._log.warning(f"{message.queue_id}: mailbox {found.value} of {target.address} is no Maildir")
            return Deferred("mail system configuration error", "4.3.5")
        if self._limit and message.envelope.size > self._limit:
            return Bounced("message size exceeds the mailbox size limit", "5.2.3")
        folder = join(self._base, found.value.lstrip("/") if self._base else found.value).rstrip("/")
        head = f"Return-Path: <{quote(message.envelope.sender)}>\r\n"
        if target.original and target.original != target.address:
            head += f"X-Original-To: {target.original}\r\n"
        head += f"Delivered-To: {target.address}\r\n"
        try:
            content = self._queue.read_content(message)
            data = (head.encode("utf-8", "surrogateescape"), content)
            await self._commit.publish(prepare_delivery(folder, data, self._clock.time(), self._host))
        except OSError as error:
            return Deferred(f"maildir delivery failed: {error.strerror or error}", "4.2.0")
        return Sent("delivered to maildir")

    async def close(self) -> None:
        """There is nothing to let go of."""
