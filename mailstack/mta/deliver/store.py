"""Putting messages into Maildirs and mbox files, in the name of whose they are: local's and virtual's part.

A message counts as delivered when its content and, for a new file, its directory entry are on disk.
Maildirs are written with everything else that is written at the moment (group commit); mbox files, which
have to be locked, on a thread of their own.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace

from mailstack.config.postfix.main_cf import MainCf
from mailstack.mta.deliver.apart import content, in_thread
from mailstack.mta.deliver.request import Bounced, Deferred, Sent, Target
from mailstack.net.clock import Clock
from mailstack.storage import mbox
from mailstack.storage.durable import GroupCommit, Publication
from mailstack.storage.identity import Identity, acting_as
from mailstack.storage.maildir.delivery import describe_delivery, make_folder, write_delivery
from mailstack.storage.mbox import LOCKS, Locking
from mailstack.storage.queue import Message, Queue
from mailstack.wire.smtp import quote

LARGE = 256 * 1024
"""Octets from which on a message is never in memory as a whole."""


def read_locking(conf: MainCf, name: str) -> Locking:
    """How mailboxes are locked; `name`: mailbox_delivery_lock, virtual_mailbox_lock. Raises `ConfigError`."""
    methods = tuple(conf.list(name))
    for method in methods:
        if method not in LOCKS:
            raise conf.error(name, f"{method!r} is no locking method; known are {', '.join(LOCKS)}")
    if not methods:
        raise conf.error(name, "specifies no applicable mailbox locking method")
    return Locking(
        methods,
        conf.int("deliver_lock_attempts"),
        conf.time("deliver_lock_delay"),
        conf.time("stale_lock_time"),
    )


class Store:
    """Mailboxes under one configuration. `limit`: octets that an mbox file may have (0: any number)."""

    def __init__(
        self,
        conf: MainCf,
        queue: Queue,
        commit: GroupCommit,
        clock: Clock,
        locking: Locking,
        limit: int,
    ) -> None:
        self._device = 0
        self._queue = queue
        self._commit = commit
        self._clock = clock
        self._locking = locking
        self._limit = limit
        self._host = conf.str("myhostname")
        self._keep_original = conf.bool("enable_original_recipient")

    def head(
        self, message: Message, target: Target, *, delivered: bool = True, from_line: bool = False
    ) -> bytes:
        """What stands in front of a delivered message, LF line ends.

        `from_line`: and a `From sender date` line before them, as commands get it.
        """
        sender = quote(message.envelope.sender)
        lines = [f"Return-Path: <{sender}>"]
        if self._keep_original:
            lines.append(f"X-Original-To: {quote(target.original or target.address)}")
        if delivered:
            lines.append(f"Delivered-To: {quote(target.address)}")
        head = "".join(f"{line}\n" for line in lines).encode("utf-8", "surrogateescape")
        return mbox.from_line(sender, self._clock.time()) + head if from_line else head

    def whole(self, head: bytes, message: Message) -> Iterator[bytes]:
        """A message with what stands in front of it, LF line ends, in pieces. Raises `OSError`."""
        yield head
        yield from content(self._queue, message)

    def _queue_device(self) -> int:
        if not self._device:
            self._device = os.stat(self._queue.directory).st_dev
        return self._device

    async def maildir(
        self, folder: str, message: Message, head: bytes, identity: Identity | None
    ) -> Sent | Deferred | Bounced:
        """Deliver into a Maildir; `identity` None: our own."""
        try:
            if identity is not None:
                if not identity.possible:
                    return _foreign(identity)
                if identity.ours:
                    identity = None
            gate = message.ours if message.acceptance is not None else None
            # The queue file goes after the rename: in one journal it cannot be gone without the new name.
            ordered = self._queue_device()
            if message.content is None and message.envelope.size > LARGE:
                item = await in_thread(lambda: self._write(folder, message, head, identity))
                await self._commit.publish(replace(item, owner=identity, ordered=ordered, gate=gate))
                return Sent("delivered to maildir")
            data, now = (head, self._queue.read_content(message)), self._clock.time()
            item = describe_delivery(
                folder, data, now, self._host, owner=identity, ordered=ordered, gate=gate
            )
            try:
                await self._commit.publish(item)
            except FileNotFoundError:  # that it is there is the rule, and not worth a look each time
                if identity is None:
                    make_folder(folder)
                else:
                    with acting_as(identity):
                        make_folder(folder)
                await self._commit.publish(item)
        except OSError as error:
            return Deferred(f"maildir delivery failed: {error.strerror or error}", "4.2.0")
        return Sent("delivered to maildir")

    def _write(self, folder: str, message: Message, head: bytes, identity: Identity | None) -> Publication:
        """Write a large message into a Maildir's tmp/ (on a thread). Raises `OSError`."""
        now, parts = self._clock.time(), self.whole(head, message)
        if identity is None:
            return write_delivery(folder, parts, now, self._host)
        ready = [next(parts), next(parts, b"")]  # the queue is ours to read, not theirs
        with acting_as(identity):
            return write_delivery(folder, _chain(ready, parts), now, self._host)

    async def mbox(
        self,
        path: str,
        message: Message,
        head: bytes,
        identity: Identity | None,
        *,
        owner: tuple[int, int] | None = None,
        must_own: int | None = None,
        any_file: bool = False,
    ) -> Sent | Deferred | Bounced:
        """Append to an mbox file."""
        who = identity or Identity(-1, -1)
        if identity is not None and not identity.possible:
            return _foreign(identity)
        now = self._clock.time()

        def work() -> None:
            parts = self.whole(head, message)
            if identity is None or who.ours:
                self._append(path, parts, message, now, owner, must_own, any_file)
                return
            # What is ours to read (the queue) is read before we act as somebody else.
            ready = [next(parts), next(parts, b"")]
            with acting_as(who):
                self._append(path, _chain(ready, parts), message, now, owner, must_own, any_file)

        try:
            await in_thread(work)
        except mbox.MailboxError as error:
            return (Deferred if error.dsn[0] == "4" else Bounced)(str(error), error.dsn)
        except OSError as error:
            return Deferred(error.strerror or str(error), "4.2.0")
        return Sent("delivered to mailbox")

    def _append(
        self,
        path: str,
        parts: Iterator[bytes],
        message: Message,
        now: float,
        owner: tuple[int, int] | None,
        must_own: int | None,
        any_file: bool,
    ) -> None:
        mbox.append(
            path,
            parts,
            quote(message.envelope.sender),
            now,
            self._locking,
            limit=self._limit,
            owner=owner,
            must_own=must_own,
            any_file=any_file,
        )


def _chain(first: list[bytes], rest: Iterator[bytes]) -> Iterator[bytes]:
    yield from first
    yield from rest


def _foreign(identity: Identity) -> Deferred:
    text = f"cannot deliver as user {identity.uid} without being root"
    return Deferred(f"mail system configuration error: {text}", "4.3.5")
