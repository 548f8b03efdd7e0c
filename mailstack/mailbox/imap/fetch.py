"""FETCH and UID FETCH (state: selected; RFC 3501 §6.4.5, §7.4.2).

Large pieces of messages are sent from the file in pieces, as fast as the client takes them; other sessions
run in between. A message that is gone meanwhile is left out and the command answered NO [EXPUNGEISSUED].
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from mailstack.mailbox.imap.errors import CommandError
from mailstack.mailbox.imap.messages import missing_uids, positions
from mailstack.mailbox.imap.objectid import email_id
from mailstack.mailbox.views import View
from mailstack.storage.maildir.message import open_message
from mailstack.storage.maildir.names import SEEN
from mailstack.wire.imap import commands as c
from mailstack.wire.imap.dates import format_date_time
from mailstack.wire.imap.fetch import Attribute, FetchItem, Section
from mailstack.wire.imap.section import locate
from mailstack.wire.imap.sequence import format_ranges
from mailstack.wire.imap.structure import body, envelope
from mailstack.wire.mime import headers
from mailstack.wire.mime.lines import PIECE, Data, wire, wire_pieces, wire_size
from mailstack.wire.mime.structure import Part, parse

if TYPE_CHECKING:
    from mailstack.mailbox.imap.session import Session

UID, MODSEQ = Attribute("UID"), Attribute("MODSEQ")
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
    seen = await _mark_seen(view, found, items)
    loop = asyncio.get_running_loop()
    turn = loop.time() + TURN
    missing = False
    for at in found:
        uid = view.uids[at]
        if not await _Response(session, view, at, uid, command.uid).send(items, uid in seen):
            missing = True
        if session.full:
            await session.flush()
        if loop.time() > turn:
            await asyncio.sleep(0)
            turn = loop.time() + TURN
    if missing:
        return "NO [EXPUNGEISSUED] Some of the requested messages no longer exist."
    return "OK Fetch completed."


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

    __slots__ = ("_data", "_root", "at", "session", "uid", "uid_first", "view")

    def __init__(self, session: Session, view: View, at: int, uid: int, uid_first: bool) -> None:
        """`uid_first`: the command was UID FETCH."""
        self.session = session
        self.view = view
        self.at = at
        self.uid = uid
        self.uid_first = uid_first
        self._data: Data | None = None
        self._root: Part | None = None

    async def send(self, items: tuple[FetchItem, ...], seen: bool) -> bool:
        """Queue the response; False (and nothing queued) when the message is gone."""
        out = [self.session.fetched(self.at + 1, uid=self.uid_first)]
        try:
            if seen and Attribute("FLAGS") not in items:
                out.append(b"FLAGS %b " % self.session.flags(self.index()))
                if self.session.condstore and MODSEQ not in items:
                    out.append(self.attribute("MODSEQ") + b" ")
            for item in items:
                if isinstance(item, Attribute):
                    out.append(self.attribute(item.name))
                elif (large := self.section(item, out)) is not None:
                    await self.stream(out, *large)
                out.append(b" ")
        except FileNotFoundError:
            return False
        out[-1] = out[-1].rstrip(b" ") + b")\r\n" if len(out) == 1 else b")\r\n"
        self.session.send(b"".join(out))
        return True

    def index(self) -> int:
        """The message's place in the folder. Raises `FileNotFoundError`."""
        index = self.view.box.folder.index(self.uid)
        if index < 0:
            raise FileNotFoundError(self.uid)
        return index

    def data(self) -> Data:
        if self._data is None:
            self._data = open_found(self.view, self.uid)
        return self._data

    def root(self) -> Part:
        if self._root is None:
            self._root = parse(self.data())
        return self._root

    def attribute(self, name: str) -> bytes:
        box = self.view.box
        match name:
            case "UID":
                return b"UID %d" % self.uid
            case "FLAGS":
                return b"FLAGS " + self.session.flags(self.index())
            case "INTERNALDATE":
                return b'INTERNALDATE "%b"' % format_date_time(box.folder.date(self.index()))
            case "RFC822.SIZE":
                return b"RFC822.SIZE %d" % box.wire_size(self.index())
            case "MODSEQ":
                return b"MODSEQ (%d)" % box.folder.modseqs[self.index()]
            case "SAVEDATE":
                return b'SAVEDATE "%b"' % format_date_time(box.folder.saved_date(self.index()))
            case "EMAILID":
                return b"EMAILID (%b)" % email_id(box.folder, self.index()).encode("ascii")
            case "THREADID":
                return b"THREADID NIL"
            case "ENVELOPE":
                data = self.data()
                fields = self._root.fields if self._root else list(headers.fields(header_of(data)))
                return b"ENVELOPE " + envelope(fields)
            case _:
                return name.encode("ascii") + b" " + body(self.root(), self.data(), extended=name != "BODY")

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


def open_found(view: View, uid: int) -> Data:
    """Open a message's file; when it has been renamed by another program, where it is now.

    Raises `FileNotFoundError`, `OSError`.
    """
    folder = view.box.folder
    for _ in range(2):
        index = folder.index(uid)
        if index < 0:
            break
        try:
            return open_message(folder.file(index))
        except FileNotFoundError:
            view.box.look_again()
    raise FileNotFoundError(uid)


def header_of(data: Data) -> bytes:
    """The message's header with its empty line."""
    if isinstance(data, bytes):
        return data[: headers.header_end(data)]
    size = 1 << 16
    while True:
        head = data[:size]
        end = headers.header_end(head)
        if end < len(head) or len(head) == len(data):
            return head[:end]
        size *= 4
