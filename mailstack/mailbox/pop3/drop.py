"""The INBOX as one POP3 session sees it: the messages that were there at login, numbered from one.

What arrives later is the next session's. Message numbers never change; deletions are marks until `finish`.
Sizes are octets with CRLF line ends (RFC 1939 §11), taken from the file names where those say (`,W=`).
"""

from __future__ import annotations

import asyncio
import errno
import os

from mailstack.config.dovecot import expand
from mailstack.mailbox.views import MailStore, SharedMailbox
from mailstack.storage.maildir.message import open_message
from mailstack.storage.maildir.names import SEEN, split_name
from mailstack.wire.mime.lines import Data, wire_size


class GoneError(Exception):
    """The message has been removed by another session or program meanwhile."""


class Drop:
    """Made by `open_drop`; `close` has to be called."""

    def __init__(self, store: MailStore, box: SharedMailbox, hidden: int = 0) -> None:
        """`hidden`: the flag of messages that are not shown."""
        self._store = store
        self._box = box
        folder = box.folder
        self._uids = tuple(
            uid for uid, flags in zip(folder.uids, folder.flags, strict=True) if not flags & hidden
        )
        self._sizes: list[int] = []
        self.read_only = box.read_only
        self.deleted: set[int] = set()
        self.seen: set[int] = set()

    def __len__(self) -> int:
        return len(self._uids)

    def exists(self, number: int) -> bool:
        """Whether there is a message `number`, deleted or not."""
        return 1 <= number <= len(self._uids)

    def numbers(self) -> list[int]:
        """The messages that are not marked as deleted."""
        return [number for number in range(1, len(self._uids) + 1) if number not in self.deleted]

    async def measure(self) -> None:
        """Find all sizes, once: from the file names, else from the files."""
        if self._sizes:
            return
        named = [self._named(index) for index in range(len(self._uids))]
        unknown = [index for index, size in enumerate(named) if size is None]
        if unknown:
            paths = [self._path(index) for index in unknown]
            measured = await asyncio.to_thread(lambda: [_measured(path) for path in paths])
            for index, size in zip(unknown, measured, strict=True):
                named[index] = size
        self._sizes = [size or 0 for size in named]

    def size(self, number: int) -> int:
        """Octets on the wire; call `measure` before."""
        return self._sizes[number - 1]

    def total(self) -> int:
        """Octets of all messages that are not marked as deleted."""
        return sum(self.size(number) for number in self.numbers())

    def everything(self) -> int:
        """Octets of all messages, those marked as deleted too; call `measure` before."""
        return sum(self._sizes)

    def uidl(self, number: int, template: str) -> str:
        """The unique id: what the uidlist has for it (`P`: it came from another server with its ids), or
        as in pop3_uidl_format: %u the UID, %v UIDVALIDITY, %f the file's base name."""
        index = number - 1
        given = self._box.folder.extension(self._uids[index], "P")
        if given:
            return given
        variables = {"u": str(self._uids[index]), "v": str(self._box.folder.uid_validity)}
        if "f" in template:
            path = self._path(index)
            variables["f"] = split_name(os.path.basename(path))[0] if path else ""
        return expand(template, variables)

    async def read(self, number: int) -> Data:
        """The message as it lies on disk. Raises `GoneError`, `OSError`."""
        try:
            return open_message(self._path(number - 1))
        except FileNotFoundError:
            await self._box.refresh()  # another program may have renamed it (flags): look again, once
        path = self._path(number - 1)
        if not path:
            raise GoneError
        try:
            return open_message(path)
        except FileNotFoundError:
            raise GoneError from None

    async def finish(self, keyword: str = "") -> None:
        """Enter UPDATE (RFC 1939 §6): remove what is marked, or give it the keyword. Raises `OSError`."""
        if not self.deleted:
            return
        uids = [self._uids[number - 1] for number in sorted(self.deleted)]
        self.deleted.clear()
        if not keyword:
            await self._box.expunge(uids)
            return
        await self._box.add_keywords([keyword])
        bit = self._box.folder.keywords.bit(keyword)
        if bit is None:
            raise OSError(errno.ENOSPC, f"no more than 26 keywords fit into {self._box.folder.path}")
        await self._box.store_flags(uids, lambda flags: flags | bit, None)

    async def keep_seen(self) -> None:
        """Flag what was fetched. Raises `OSError`."""
        uids = [self._uids[number - 1] for number in sorted(self.seen)]
        self.seen.clear()
        if uids:
            await self._box.store_flags(uids, lambda flags: flags | SEEN, None)

    def close(self) -> None:
        """The session is over."""
        self._store.unpin(self._box)

    def _named(self, index: int) -> int | None:
        at = self._box.folder.index(self._uids[index])
        return self._box.folder.size_in_name(at, "W") if at >= 0 else 0

    def _path(self, index: int) -> str:
        at = self._box.folder.index(self._uids[index])
        return self._box.folder.file(at) if at >= 0 else ""


async def open_drop(store: MailStore, root: str, hidden: str = "") -> Drop:
    """Open the INBOX at `root`, without the messages that have the keyword `hidden`. Raises `OSError`."""
    box = await store.open(root)
    return Drop(store, box, (box.folder.keywords.bit(hidden) or 0) if hidden else 0)


def _measured(path: str) -> int:
    try:
        return wire_size(open_message(path))
    except OSError:
        return 0
