"""FETCH and UID FETCH (state: selected; RFC 3501 §6.4.5, §7.4.2; BINARY: RFC 3516 §4.3).

Large pieces of messages are sent from the file in pieces, as fast as the client takes them; other sessions
run in between. A message that is gone meanwhile is left out and the command answered NO [EXPUNGEISSUED]; so
is one that cannot be decoded, with NO [UNKNOWN-CTE] or, as Dovecot says it, NO [PARSE].
"""

from __future__ import annotations

import asyncio
from asyncio import to_thread
from collections.abc import Iterator
from typing import TYPE_CHECKING

from mailstack.mailbox.imap import acl, flags
from mailstack.mailbox.imap.attributes import (
    KINDS,
    LAZY,
    PREVIEWS,
    Attributes,
    LargeMessageError,
    header_of,
    header_size,
    read_kept,
)
from mailstack.mailbox.imap.errors import DAMAGED, UNKNOWN_CTE, CommandError
from mailstack.mailbox.imap.flags import tell_flags
from mailstack.mailbox.imap.messages import missing_uids, part_of, positions
from mailstack.mailbox.imap.readers import Readers, readers_for, unknown
from mailstack.mailbox.views import View
from mailstack.storage.maildir.cache import MessageCache
from mailstack.storage.maildir.names import SEEN
from mailstack.wire.imap import commands as c
from mailstack.wire.imap.fetch import Attribute, Binary, FetchItem, Section
from mailstack.wire.imap.section import find_part, locate
from mailstack.wire.imap.sequence import SAVED, format_ranges
from mailstack.wire.mime import headers
from mailstack.wire.mime.binary import DamagedError, UnknownEncodingError, decoded, is_coded, leaves
from mailstack.wire.mime.lines import PIECE, Data, wire, wire_pieces, wire_size
from mailstack.wire.mime.structure import Part

if TYPE_CHECKING:
    from mailstack.mailbox.imap.session import Session

UID, MODSEQ = Attribute("UID"), Attribute("MODSEQ")
READ = frozenset((*KINDS, *PREVIEWS))
"""What is read out of messages."""
CACHED = frozenset(map(Attribute, (*READ, *LAZY)))
"""What is kept beside the folder once it has been read out of a message."""
GONE = "NO [EXPUNGEISSUED] Some of the requested messages no longer exist."
TURN = 0.005
"""Seconds after which other sessions get a turn."""


async def fetch(session: Session, tag: str, command: c.Fetch) -> str:
    view = session.selected
    found = positions(session, command.messages, command.uid, "FETCH")
    items = _items(session, command)
    if command.changed_since is not None:
        if command.vanished and command.messages != SAVED:
            _tell_vanished(session, command)
        found = _changed_since(view, found, command.changed_since)
    if command.partial is not None:
        found = part_of(found, command.partial)
    flags.tell_keywords(session)
    cache = await view.box.cache() if any(item in CACHED for item in items) else None
    names = [item.name for item in items if isinstance(item, Attribute)]
    if len(names) == len(items):
        readers = _readers(view, cache, found, names)
        try:
            attributes = Attributes(session, cache)
            missing = await _send_attributes(session, attributes, found, names, command.uid, readers)
        finally:
            if readers is not None:
                readers.close()
        problem = GONE if missing else ""
    else:
        problem = await _send_responses(session, cache, found, items, command.uid)
    if cache is not None:
        cache.flush()
    return problem or "OK Fetch completed."


def _readers(view: View, cache: MessageCache | None, found: list[int], names: list[str]) -> Readers | None:
    """Others who read what is kept of these messages, where much of it is not known yet."""
    if cache is None or not unknown(
        cache, [KINDS[name] for name in names if name in KINDS], view.uids, found
    ):
        return None
    return readers_for(cache, [view.uids[at] for at in found], read_kept(view, cache, names))


async def _send_attributes(
    session: Session,
    attributes: Attributes,
    found: list[int],
    names: list[str],
    uid_first: bool,
    others: Readers | None,
) -> bool:
    """Nothing but attributes, which is what lists of messages are made of. Whether a message was missing."""
    readers = [attributes.reader(name) for name in names]
    uids, folder = session.selected.uids, session.selected.box.folder
    loop = asyncio.get_running_loop()
    turn = loop.time() + TURN
    missing = False
    for count, at in enumerate(found):
        uid = uids[at]
        if others is not None:
            await others.reach(count)
        try:
            index = at if folder.uids is uids else attributes.index(uid)
            try:
                parts = [read(index, uid) for read in readers]
            except LargeMessageError:
                await attributes.prepare(uid, names)
                index = attributes.index(uid)
                parts = [read(index, uid) for read in readers]
        except FileNotFoundError:
            missing = True
            continue
        head = session.fetched(at + 1, uid=uid_first)
        session.send(b"%b%b)\r\n" % (head if parts else head.rstrip(b" "), b" ".join(parts)))
        if session.full:
            await session.flush()
        if not count & 15 and loop.time() > turn:
            await asyncio.sleep(0)
            turn = loop.time() + TURN
    return missing


async def _send_responses(
    session: Session,
    cache: MessageCache | None,
    found: list[int],
    items: tuple[FetchItem, ...],
    uid_first: bool,
) -> str:
    """Anything. The reply when that has not worked for all messages, else empty."""
    view = session.selected
    seen = await _mark_seen(view, found, items) if "s" in acl.selected(session) else set()
    loop = asyncio.get_running_loop()
    turn = loop.time() + TURN
    problem = ""
    response = _Response(session, cache, items, uid_first)
    for at in found:
        uid = view.uids[at]
        try:
            if not await response.send(at, uid, uid in seen):
                problem = GONE
        except (UnknownEncodingError, DamagedError) as error:
            problem = problem or (UNKNOWN_CTE if isinstance(error, UnknownEncodingError) else DAMAGED)
            if uid in seen:
                tell_flags(session, at + 1, uid=uid_first)
        if session.full:
            await session.flush()
        if loop.time() > turn:
            await asyncio.sleep(0)
            turn = loop.time() + TURN
    return problem


def _items(session: Session, command: c.Fetch) -> tuple[FetchItem, ...]:
    """What to send: with UID for UID FETCH, with MODSEQ for CHANGEDSINCE (RFC 7162 §3.1.4.1)."""
    items = command.items
    if command.changed_since is not None and MODSEQ not in items:
        items = (*items, MODSEQ)
    if MODSEQ in items:
        session.use_condstore()
    told = (command.uid or session.qresync) and not session.uidonly
    return tuple(item for item in items if item != UID) if told else items


def _changed_since(view: View, found: list[int], modseq: int) -> list[int]:
    folder = view.box.folder
    indexes = ((at, folder.index(view.uids[at])) for at in found)
    return [at for at, index in indexes if index >= 0 and folder.modseqs[index] > modseq]


def _tell_vanished(session: Session, command: c.Fetch) -> None:
    """RFC 7162 §3.2.6; see `select` for what counts as gone."""
    if not session.qresync:
        raise CommandError("BAD VANISHED needs ENABLE QRESYNC.")
    gone = missing_uids(command.messages, session.selected)
    if gone:
        session.line(f"* VANISHED (EARLIER) {format_ranges(gone)}")


async def _mark_seen(view: View, found: list[int], items: tuple[FetchItem, ...]) -> set[int]:
    """Set \\Seen where the items imply it; the UIDs it was new for."""
    if view.readonly or not any(isinstance(item, Section | Binary) and not item.peek for item in items):
        return set()
    changed = await view.box.store_flags((view.uids[at] for at in found), lambda old: old | SEEN, view)
    return set(changed)


class _Response:
    """`* n FETCH (…)` of one message after the other. The file is opened, and its structure read, when an
    item needs it."""

    __slots__ = (
        *("_attributes", "_binary", "_header", "_items", "_structure"),
        *("at", "header_size", "session", "uid", "uid_first", "view"),
    )

    def __init__(
        self, session: Session, cache: MessageCache | None, items: tuple[FetchItem, ...], uid_first: bool
    ) -> None:
        """`uid_first`: the command was UID FETCH."""
        self.session = session
        self.view = session.selected
        self.at = 0
        self.uid = 0
        self.uid_first = uid_first
        self.header_size = 0
        self._attributes = Attributes(session, cache)
        self._items = items
        self._binary = [item for item in items if isinstance(item, Binary)]
        self._header = any(map(_is_header, items))
        self._structure = any(map(_needs_structure, items))

    async def send(self, at: int, uid: int, seen: bool) -> bool:
        """Queue the response for a message; False (and nothing queued) when it is gone.

        Raises `UnknownEncodingError`, `DamagedError` (nothing queued either).
        """
        self.at, self.uid = at, uid
        items = self._items
        try:
            if self._structure and self._attributes.is_large(uid):
                names = [item.name for item in items if isinstance(item, Attribute)]
                await self._attributes.prepare(uid, names)
            if self._header:
                data = self.data()
                in_memory = isinstance(data, bytes)
                self.header_size = header_size(data) if in_memory else await to_thread(header_size, data)
            sizes = [await self.measure(item) for item in self._binary]
            out = [self.session.fetched(self.at + 1, uid=self.uid_first)]
            if seen:
                if Attribute("FLAGS") not in items:
                    out += (self.attribute("FLAGS"), b" ")
                if self.session.condstore and MODSEQ not in items:
                    out += (self.attribute("MODSEQ"), b" ")
            for item in items:
                if isinstance(item, Attribute):
                    out.append(self.attribute(item.name))
                elif isinstance(item, Binary):
                    await self.binary(item, out, *sizes.pop(0))
                elif (large := self.section(item, out)) is not None:
                    await self.stream(item, out, *large)
                out.append(b" ")
        except FileNotFoundError:
            return False
        out[-1] = b")\r\n"
        for piece in out:
            self.session.send(piece)
        return True

    def index(self) -> int:
        """The message's place in the folder. Raises `FileNotFoundError`."""
        return self._attributes.index(self.uid)

    def data(self) -> Data:
        return self._attributes.data(self.uid)

    def root(self) -> Part:
        return self._attributes.root(self.uid)

    def attribute(self, name: str) -> bytes:
        return self._attributes.reader(name)(self.index(), self.uid)

    # ---- BODY[…]

    def section(self, item: Section, out: list[bytes]) -> tuple[int, int] | None:
        """Append a section to `out`; of a large one only say where it stands."""
        data = self.data()
        if not item.part and not item.kind:
            found: tuple[int, int] | bytes = (0, len(data))
        elif not item.part and item.kind == "HEADER":
            found = (0, self.header_size)
        elif not item.part and item.kind.startswith("HEADER"):
            found = headers.select(header_of(data), item.fields, item.kind == "HEADER.FIELDS.NOT")
        else:
            found = locate(self.root(), data, item)
        if not isinstance(found, bytes) and found[1] - found[0] > PIECE:
            return found
        text = wire(found if isinstance(found, bytes) else data[found[0] : found[1]])
        first, most = item.partial or (0, None)
        if most is not None:
            text = text[first : first + most]
        self.session.tally.fetched(len(text), header=item.kind.startswith("HEADER"))
        # Not put together here: large texts would be copied once more.
        out += (b"%b {%d}\r\n" % (_label(item), len(text)), _no_nul(text))
        return None

    async def stream(self, item: Section, out: list[bytes], start: int, end: int) -> None:
        """Send a large section from the file."""
        data = self.data()
        if (start, end) == (0, len(data)):
            size = self.view.box.wire_size(self.index())
        else:
            size = await to_thread(wire_size, data, start, end)
        first, most = item.partial or (0, size)
        count = max(0, min(most, size - first))
        self.session.tally.fetched(count, header=item.kind.startswith("HEADER"))
        out.append(b"%b {%d}\r\n" % (_label(item), count))
        pieces = map(_no_nul, wire_pieces(data, start, end, first, count))
        if await self.send_pieces(out, pieces, 0, count) < count:
            # The size in the file's name is wrong: nothing but the end of the connection is left to say.
            self.session.service.log.error(
                f"imap: {self.view.box.folder.path}: uid {self.uid}: wrong W= in its name"
            )
            raise ConnectionAbortedError("a message is shorter than its name says")

    async def send_pieces(self, out: list[bytes], pieces: Iterator[bytes], first: int, count: int) -> int:
        """Send what is in `out`, then `count` octets of the pieces from octet `first` on; how many it was."""
        session = self.session
        session.send(b"".join(out))
        out.clear()
        loop = asyncio.get_running_loop()
        turn = loop.time() + TURN
        sent = 0
        for piece in pieces:
            if first:
                first, piece = max(0, first - len(piece)), piece[first:]
            piece = piece[: count - sent]
            if piece:
                session.send(piece)
                sent += len(piece)
                await session.flush()
            if sent >= count:
                break
            if loop.time() > turn:
                await asyncio.sleep(0)
                turn = loop.time() + TURN
        return sent

    # ---- BINARY[…]

    def part(self, item: Binary) -> Part | None:
        return find_part(self.root(), item.part)

    async def measure(self, item: Binary) -> tuple[int, bool]:
        """The octets of the decoded part, and whether they are to be sent as such (`~{…}`)."""
        part = self.part(item)
        if part is None:
            return 0, False
        coded = [is_coded(leaf) for leaf in leaves(part)]
        binary = any(coded)
        size = 0
        loop = asyncio.get_running_loop()
        turn = loop.time() + TURN
        for piece in decoded(part, self.data(), header=not item.part):
            size += len(piece)
            binary = binary or b"\0" in piece
            if loop.time() > turn:
                await asyncio.sleep(0)
                turn = loop.time() + TURN
        return size, binary

    async def binary(self, item: Binary, out: list[bytes], size: int, binary: bool) -> None:
        if item.size:
            out.append(b"%b %d" % (item.label, size))
            return
        first, most = item.partial or (0, size)
        count = max(0, min(most, size - first))
        self.session.tally.fetched(count, header=False)
        out.append(b"%b %b{%d}\r\n" % (_label(item), b"~" if binary else b"", count))
        part = self.part(item)
        if part is None or not count:
            return
        pieces = decoded(part, self.data(), header=not item.part)
        if size <= PIECE:
            out.append(b"".join(pieces)[first : first + count])
        else:
            await self.send_pieces(out, pieces, first, count)


def _is_header(item: FetchItem) -> bool:
    """Whether it is the message's whole header."""
    return isinstance(item, Section) and item.kind == "HEADER" and not item.part


def _needs_structure(item: FetchItem) -> bool:
    """Whether the message's parts have to be known for it."""
    if isinstance(item, Attribute):
        return item.name in READ
    return isinstance(item, Binary) or bool(item.part) or item.kind == "TEXT"


def _label(item: Section | Binary) -> bytes:
    """With the origin octet behind it."""
    return item.label + (b"<%d>" % item.partial[0] if item.partial else b"")


def _no_nul(text: bytes) -> bytes:
    """No literal may hold a NUL (RFC 3501 §9): it becomes 0x80, as Dovecot sends it."""
    return text.replace(b"\0", b"\x80") if b"\0" in text else text
