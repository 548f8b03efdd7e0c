"""Searching headers: in the texts that the folder's cache keeps of them, filled when they are first needed.

What is kept (`searchable_header`) tells of nearly every message whether it can hold a text. Address fields
are compared in a plain form whatever way they are written: whoever passes the first look there is looked at
once more, in the file where it must be.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from mailstack.mailbox.imap.attributes import header_of, open_found
from mailstack.mailbox.imap.readers import MANY, Read, readers_for, unknown
from mailstack.storage.maildir.cache import Kind, MessageCache
from mailstack.storage.maildir.folder import IN_NEW
from mailstack.wire.mime import headers
from mailstack.wire.mime.lines import Data
from mailstack.wire.mime.text import (
    addresses_text,
    field_lines,
    fold_case,
    fold_octets,
    searchable_header,
)

if TYPE_CHECKING:
    from mailstack.mailbox.imap.search_query import Progress
    from mailstack.mailbox.views import View

HEAD = 4096
"""Octets of a file that are read first: most headers are shorter."""
SMALL = 1 << 16
"""Octets up to which a message is read at once."""
CHUNK = 512
"""Messages after which other sessions get a turn."""
_WORDS = re.compile(rb"[A-Z0-9]+")
_BLANKS = re.compile(rb"[ \t]+")
_ODD = b"MISSING_MAILBOX MISSING_DOMAIN SYNTAX_ERROR INVALID_ROUTE"
"""What stands in addresses that cannot be read."""
_PLAIN = re.compile(rb"[^\\(=\x80-\xff]*\Z")


Made = tuple[Kind, Callable[[bytes, bytes], bytes]]
"""What is kept besides a header, and how it is made of the header and its `searchable_header`."""


class Headers:
    """The headers of a view's messages, for one command."""

    __slots__ = ("_cache", "_progress", "_view")

    def __init__(self, view: View, progress: Progress) -> None:
        self._view = view
        self._progress = progress
        self._cache: MessageCache | None = None

    def flush(self) -> None:
        """Write what has been found out."""
        if self._cache is not None:
            self._cache.flush()

    async def cache(self) -> MessageCache:
        """The folder's cache."""
        if self._cache is None:
            self._cache = await self._view.box.cache()
        return self._cache

    async def fill(self, left: list[int]) -> MessageCache:
        """Keep the headers of these positions that are not kept yet, as far as the cache takes them."""
        cache = await self.cache()
        uids = self._view.uids
        missing = [uid for at in left if not cache.has(Kind.HEADER_TEXT, uid := uids[at])]
        if len(missing) >= MANY:
            await self.ahead(left)
            missing = [uid for uid in missing if not cache.has(Kind.HEADER_TEXT, uid)]
        if missing:
            directory = Directory(self._view)
            try:
                for count, uid in enumerate(missing):
                    if not count & 15:
                        await self._progress.turn(count, len(left))
                    try:
                        cache.add(Kind.HEADER_TEXT, uid, searchable_header(directory.header(uid)))
                    except FileNotFoundError:
                        continue
            finally:
                directory.close()
            cache.flush()
        return cache

    async def ahead(self, left: list[int], more: Sequence[Made] = ()) -> None:
        """Keep the headers of these positions, and what is made of them, with the help of readers where much
        is missing; not necessarily of all of them."""
        cache = await self.cache()
        uids = self._view.uids
        if not unknown(cache, [Kind.HEADER_TEXT, *(kind for kind, _ in more)], uids, left):
            return
        readers = readers_for(cache, [uids[at] for at in left], _read_headers(self._view, cache, more))
        if readers is not None:
            try:
                await readers.read_all(self._progress.turn)
            finally:
                readers.close()

    def text(self, uid: int) -> bytes:
        """The `searchable_header` of a message, wherever it is found. Raises `FileNotFoundError`."""
        kept = self._cache.get(Kind.HEADER_TEXT, uid) if self._cache is not None else None
        return searchable_header(header_of(open_found(self._view, uid))) if kept is None else kept

    async def holding(self, name: bytes, wanted: str, left: list[int], *, plain: bool) -> list[int]:
        """Positions of the messages that have a field of this name with a (case-folded) text in it. `plain`:
        see `keys.Header`."""
        cache = await self.fill(left)
        test = _Test(self._view, name, wanted, plain)
        uids = self._view.uids
        found: list[int] = []
        for start in range(0, len(left), CHUNK):
            await self._progress.turn(start, len(left))
            here = {uids[at]: at for at in left[start : start + CHUNK]}
            hits = {
                here[uid]
                for uid, kept in cache.holding(Kind.HEADER_TEXT, here, test.first)
                if test.holds(uid, kept)
            }
            # What the cache does not take, or has lost.
            for uid, at in here.items():
                if not cache.has(Kind.HEADER_TEXT, uid) and self._holds(test, uid):
                    hits.add(at)
            found += sorted(hits)
        return found

    def _holds(self, test: _Test, uid: int) -> bool:
        try:
            return test.holds(uid, self.text(uid))
        except FileNotFoundError:
            return False


class _Test:
    """Whether a field of a name holds a text. `plain`: see `keys.Header`."""

    __slots__ = ("_address", "_field", "_loose", "_name", "_text", "_view", "_wanted", "_words", "first")

    def __init__(self, view: View, name: bytes, wanted: str, plain: bool) -> None:
        self._view = view
        self._name = name.lower().rstrip(b" \t")
        self._field = fold_octets(self._name.decode("utf-8", "replace"))
        self._wanted = wanted
        self._text = fold_octets(wanted)
        self._loose = plain and self._name == b"subject"
        self._address = plain and not self._loose
        self._words = _WORDS.findall(self._text) if self._address else []
        # What a header must hold somewhere for the field to hold the text.
        self.first = self._text
        if plain:
            self.first = max(_WORDS.findall(self._text), key=len, default=b"")
        if self._address and any(word in _ODD for word in self._words):
            self.first, self._words = b"", []
        if not self.first:
            self.first = b"\n" + self._field

    def holds(self, uid: int, kept: bytes) -> bool:
        for value in field_lines(kept, self._field):
            if not self._text:
                return True
            if not self._address:
                if self._text in (b" ".join(_BLANKS.split(value)) if self._loose else value):
                    return True
            elif not _PLAIN.match(value):
                return self._exactly(uid)
            elif all(word in value for word in self._words) and self._wanted in addresses_text(value):
                return True
        return False

    def _exactly(self, uid: int) -> bool:
        """Ask the message itself."""
        try:
            values = headers.values(header_of(open_found(self._view, uid)), self._name)
        except FileNotFoundError:
            return False
        return any(self._wanted in fold_case(addresses_text(value)) for value in values)


class Directory:
    """Reads headers of many messages of one folder."""

    __slots__ = ("_cur", "_view")

    def __init__(self, view: View) -> None:
        self._view = view
        self._cur = os.open(f"{view.box.folder.path}/cur", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def close(self) -> None:
        os.close(self._cur)

    def _open(self, uid: int) -> int:
        """The message's file, or -1 where it is not at once found."""
        folder = self._view.box.folder
        index = folder.index(uid)
        if index < 0 or folder.flags[index] & IN_NEW:
            return -1
        try:
            return os.open(folder.names[index], os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._cur)
        except FileNotFoundError:
            return -1

    def message(self, uid: int) -> Data:
        """A message; a large one is mapped. Raises `FileNotFoundError`."""
        fd = self._open(uid)
        if fd >= 0:
            try:
                data = os.read(fd, SMALL)
            finally:
                os.close(fd)
            if len(data) < SMALL:
                return data
        return open_found(self._view, uid)

    def header(self, uid: int) -> bytes:
        """A message's header. Raises `FileNotFoundError`."""
        fd = self._open(uid)
        if fd >= 0:
            try:
                head = os.read(fd, HEAD)
            finally:
                os.close(fd)
            header = _whole_header(head)
            if header is not None:
                return header
        return header_of(open_found(self._view, uid))


def _whole_header(head: bytes) -> bytes | None:
    """The header in the first octets of a file; None when more has to be read."""
    end = head.find(b"\n\n")
    if end > 0 and head.find(b"\n\r\n", 0, end) < 0 and head[:1] not in b"\r\n":
        return head[: end + 1]
    return head[: headers.header_end(head)] if len(head) < HEAD else None


def _read_headers(view: View, cache: MessageCache, more: Sequence[Made]) -> Read:
    """For readers: the headers of messages and what is made of them, as far as it is not kept."""
    folder = view.box.folder

    def read(uid: int, patient: bool) -> Iterable[tuple[Kind, bytes]]:
        index = folder.index(uid)
        missing = [(kind, make) for kind, make in more if not cache.has(kind, uid)]
        known = cache.has(Kind.HEADER_TEXT, uid)
        if index < 0 or (known and not missing):
            return ()
        fd = os.open(folder.file(index), os.O_RDONLY | os.O_CLOEXEC)
        try:
            header = _whole_header(os.read(fd, HEAD))
        finally:
            os.close(fd)
        if header is None:
            return ()
        text = searchable_header(header)
        found = [(kind, make(header, text)) for kind, make in missing]
        return found if known else [(Kind.HEADER_TEXT, text), *found]

    return read
