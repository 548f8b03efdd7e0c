"""FETCH and UID FETCH (state: selected; RFC 3501 §6.4.5, §7.4.2).

Large pieces of messages are sent from the file in pieces, as fast as the client takes them; other sessions
run in between. A message that is gone meanwhile is left out and the command answered NO [EXPUNGEISSUED].
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from mailstack.mailbox.imap.attributes import KINDS, Attributes, header_of
from mailstack.mailbox.imap.errors import CommandError
from mailstack.mailbox.imap.messages import missing_uids, positions
from mailstack.mailbox.views import View
from mailstack.storage.maildir.cache import MessageCache
from mailstack.storage.maildir.names import SEEN
from mailstack.wire.imap import commands as c
from mailstack.wire.imap.fetch import Attribute, FetchItem, Section
from mailstack.wire.imap.section import locate
from mailstack.wire.imap.sequence import format_ranges
from mailstack.wire.mime import headers
from mailstack.wire.mime.lines import PIECE, Data, wire, wire_pieces, wire_size
from mailstack.wire.mime.structure import Part

if TYPE_CHECKING:
    from mailstack.mailbox.imap.session import Session

UID, MODSEQ = Attribute("UID"), Attribute("MODSEQ")
CACHED = frozenset(map(Attribute, KINDS))
"""What is kept beside the folder once it has been read out of a message."""
TURN = 0.02
"""Seconds after which other sessions get a turn."""


async def fetch(session: Session, tag: str, command: c.Fetch) -> str:
    view = session.selected
    found = positions(session, command.messages, command.uid, "FETCH")
    items = _items(session, command)
    if command.changed_since is not None:
        if command.vanished:
            _tell_vanished(session, command)
        found = _changed_since(view, found, command.changed_since)
    session.tell_keywords()
    cache = await view.box.cache() if any(item in CACHED for item in items) else None
    names = [item.name for item in items if isinstance(item, Attribute)]
    if len(names) == len(items):
        missing = await _send_attributes(session, Attributes(session, cache), found, names, command.uid)
    else:
        missing = await _send_responses(session, cache, found, items, command.uid)
    if cache is not None:
        cache.flush()
    if missing:
        return "NO [EXPUNGEISSUED] Some of the requested messages no longer exist."
    return "OK Fetch completed."


async def _send_attributes(
    session: Session, attributes: Attributes, found: list[int], names: list[str], uid_first: bool
) -> bool:
    """Nothing but attributes, which is what lists of messages are made of. Whether a message was missing."""
    readers = [attributes.reader(name) for name in names]
    uids, folder = session.selected.uids, session.selected.box.folder
    loop = asyncio.get_running_loop()
    turn = loop.time() + TURN
    missing = False
    for count, at in enumerate(found):
        uid = uids[at]
        try:
            index = at if folder.uids is uids else attributes.index(uid)
            parts = [read(index, uid) for read in readers]
        except FileNotFoundError:
            missing = True
            continue
        session.send(b"%b%b)\r\n" % (session.fetched(at + 1, uid=uid_first), b" ".join(parts)))
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
) -> bool:
    """Anything. Whether a message was missing."""
    view = session.selected
    seen = await _mark_seen(view, found, items)
    loop = asyncio.get_running_loop()
    turn = loop.time() + TURN
    missing = False
    for at in found:
        uid = view.uids[at]
        if not await _Response(session, cache, at, uid, uid_first).send(items, uid in seen):
            missing = True
        if session.full:
            await session.flush()
        if loop.time() > turn:
            await asyncio.sleep(0)
            turn = loop.time() + TURN
    return missing


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
    if view.readonly or not any(isinstance(item, Section) and not item.peek for item in items):
        return set()
    changed = await view.box.store_flags((view.uids[at] for at in found), lambda old: old | SEEN, view)
    return set(changed)


class _Response:
    """One message's `* n FETCH (…)`. The file is opened, and its structure read, when an item needs it."""

    __slots__ = ("_attributes", "at", "session", "uid", "uid_first", "view")

    def __init__(
        self, session: Session, cache: MessageCache | None, at: int, uid: int, uid_first: bool
    ) -> None:
        """`uid_first`: the command was UID FETCH."""
        self.session = session
        self.view = session.selected
        self.at = at
        self.uid = uid
        self.uid_first = uid_first
        self._attributes = Attributes(session, cache)

    async def send(self, items: tuple[FetchItem, ...], seen: bool) -> bool:
        """Queue the response; False (and nothing queued) when the message is gone."""
        out = [self.session.fetched(self.at + 1, uid=self.uid_first)]
        try:
            if seen and Attribute("FLAGS") not in items:
                out += (self.attribute("FLAGS"), b" ")
                if self.session.condstore and MODSEQ not in items:
                    out += (self.attribute("MODSEQ"), b" ")
            for item in items:
                if isinstance(item, Attribute):
                    out.append(self.attribute(item.name))
                elif (large := self.section(item, out)) is not None:
                    await self.stream(out, *large)
                out.append(b" ")
        except FileNotFoundError:
            return False
        out[-1] = b")\r\n"
        self.session.send(b"".join(out))
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

    def section(self, item: Section, out: list[bytes]) -> tuple[int, int, int, int] | None:
        """Append a section to `out`; a large one is announced, and what to send of it is returned:
        start, end, first octet, number of octets."""
        data = self.data()
        if not item.part and not item.kind:
            found: tuple[int, int] | bytes = (0, len(data))
        elif not item.part and item.kind.startswith("HEADER"):
            found = header_of(data)
            if item.fields:
                found = headers.select(found, item.fields, item.kind == "HEADER.FIELDS.NOT")
        else:
            found = locate(self.root(), data, item)
        first, most = item.partial or (0, None)
        label = item.label + (b"<%d>" % first if item.partial else b"")
        if not isinstance(found, bytes) and found[1] - found[0] > PIECE:
            size = (
                wire_size(data, *found) if found != (0, len(data)) else self.view.box.wire_size(self.index())
            )
            count = max(0, size - first) if most is None else max(0, min(most, size - first))
            out.append(b"%b {%d}\r\n" % (label, count))
            return (*found, first, count)
        text = wire(found if isinstance(found, bytes) else data[found[0] : found[1]])
        if item.partial:
            text = text[first : first + (most or 0)]
        out.append(b"%b {%d}\r\n%b" % (label, len(text), text))
        return None

    async def stream(self, out: list[bytes], start: int, end: int, first: int, count: int) -> None:
        session = self.session
        session.send(b"".join(out))
        out.clear()
        sent = 0
        for piece in wire_pieces(self.data(), start, end, first, count):
            session.send(piece)
            sent += len(piece)
            await session.flush()
        if sent < count:
            # The size in the file's name is wrong: nothing but the end of the connection is left to say.
            session.service.log.error(
                f"imap: {self.view.box.folder.path}: uid {self.uid}: wrong W= in its name"
            )
            raise ConnectionAbortedError("a message is shorter than its name says")
