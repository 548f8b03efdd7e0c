"""APPEND (state: authenticated; RFC 3501 §6.3.11) and REPLACE (state: selected; RFC 8508).

Several messages (RFC 3502), put together from others (RFC 4469), of any octets (RFC 3516 §4.4), with headers
in UTF-8 (RFC 6855 §4); APPENDUID (RFC 4315 §3), APPENDLIMIT (RFC 7889).

Messages are taken in piece by piece and all published when the command is complete; OK means that they are
on disk. When one of them cannot be stored, none is. What REPLACE replaces goes when the new one is there.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from mailstack.mailbox.imap import acl, quota
from mailstack.mailbox.imap.catenate import pieces_of_url
from mailstack.mailbox.imap.errors import CommandError
from mailstack.mailbox.imap.messages import positions
from mailstack.mailbox.imap.store import keyword_bits, split_flags
from mailstack.mailbox.views import SharedMailbox
from mailstack.storage.durable import Publication
from mailstack.storage.maildir.spool import Spool
from mailstack.wire.imap.append import AppendMessage, AppendText, AppendUrl, Replace
from mailstack.wire.imap.sequence import STAR, format_set
from mailstack.wire.imap.urlauth import BadUrlError
from mailstack.wire.mime.binary import Storable

if TYPE_CHECKING:
    from mailstack.mailbox.imap.session import Session

_MESSAGES_MAX = 1000


class Appending:
    """The command that is being read. `replaced`: the UID that REPLACE names."""

    __slots__ = ("box", "error", "left", "messages", "readable", "replaced", "spool", "storable")

    def __init__(self, box: SharedMailbox) -> None:
        self.box = box
        self.messages: list[tuple[Spool, int, float | None]] = []
        self.spool: Spool | None = None
        self.storable: Storable | None = None
        self.left = 0
        """Octets that the message may still have."""
        self.replaced: int | None = None
        self.readable = True
        """Whether the user may read the mailbox."""
        self.error: OSError | None = None


async def announced(session: Session, event: AppendMessage) -> str:
    """A message is to come: look at what is known of it before its octets are asked for."""
    try:
        await _prepare(session, event)
    except Exception:
        _refuse(session)
        raise
    if not event.catenate:
        _accept(session)
    return ""


async def piece(session: Session, event: AppendText | AppendUrl) -> str:
    """A piece of a message that is put together."""
    state = session.append
    assert state is not None
    try:
        if isinstance(event, AppendText):
            _count(state, event.size)
        else:
            await _take_url(session, state, event.url)
    except Exception:
        _refuse(session)
        raise
    if isinstance(event, AppendText):
        _accept(session)
    return ""


async def _take_url(session: Session, state: Appending, url: str) -> None:
    try:
        for octets in await pieces_of_url(session, url):
            _count(state, len(octets))
            await received(session, octets)
            await asyncio.sleep(0)
    except BadUrlError as error:
        raise CommandError(f"NO [BADURL {_quoted(url)}] {error}") from None


def _quoted(text: str) -> str:
    """A URL in a response code."""
    text = "".join(char if " " <= char <= "~" and char not in '"\\]' else "?" for char in text[:1000])
    return f'"{text}"'


def _count(state: Appending, size: int) -> None:
    state.left -= size
    if state.left < 0:
        raise CommandError("NO [TOOBIG] Message is too large.")


def _accept(session: Session) -> None:
    session.connection.accept_literal()
    more = session.connection.data_to_send()
    if more:
        session.send(more)


def _refuse(session: Session) -> None:
    abandon(session)
    session.connection.refuse_literal()


async def _prepare(session: Session, event: AppendMessage) -> None:
    limit = session.service.settings.message_limit
    if event.size > limit:
        raise CommandError("NO [TOOBIG] Message is too large.")
    bits, keywords = split_flags(event.flags, "APPEND" if event.replace is None else "REPLACE")
    state = session.append
    rights = acl.need(session, event.mailbox, "i", "TRYCREATE")
    bits &= acl.flags_mask(rights)
    if "w" not in rights:
        keywords = []
    if state is None:
        replaced = None if event.replace is None else _replaced(session, event.replace)
        try:
            box = await session.service.store.open(session.root, event.mailbox)
        except FileNotFoundError:
            raise CommandError(f"NO [TRYCREATE] Mailbox doesn't exist: {event.mailbox}") from None
        if box.read_only:
            session.service.store.unpin(box)
            raise CommandError("NO [NOPERM] Mailbox is read-only.")
        state = session.append = Appending(box)
        state.readable = "r" in rights
        state.replaced = replaced
    else:
        await _complete(session, state)
    if not (event.size or event.catenate):
        raise CommandError("NO Can't save a zero byte message.")
    if len(state.messages) >= _MESSAGES_MAX:
        raise CommandError("NO [LIMIT] Too many messages in one APPEND.")
    if keywords:
        await state.box.add_keywords(keywords)
        bits |= keyword_bits(state.box.folder, keywords)
    state.spool = Spool(state.box.folder.path)
    state.storable = Storable() if event.binary else None
    state.left = limit - event.size
    state.messages.append((state.spool, bits, event.date))


def _replaced(session: Session, replace: Replace) -> int:
    """The UID of the message to be replaced."""
    view = session.selected
    if view.readonly:
        raise CommandError("NO [READ-ONLY] Mailbox is read-only.")
    if "e" not in acl.selected(session):
        raise CommandError(acl.DENIED)
    number = replace.number or STAR
    name = "UID REPLACE" if replace.uid else "REPLACE"
    found = positions(session, ((number, number),), replace.uid, name)
    if not found:
        raise CommandError("NO [NONEXISTENT] No such message.")
    return view.uids[found[0]]


async def received(session: Session, data: bytes) -> None:
    """Some of the message's octets. A full disk is told when the command is complete."""
    state = session.append
    if state is None or state.spool is None or state.error is not None:
        return
    service = session.service
    if state.storable is not None:
        data = state.storable.add(data)
    try:
        await state.spool.add(data, service.clock.time(), service.store.hostname)
    except OSError as error:
        state.error = error


async def _complete(session: Session, state: Appending) -> None:
    """The message is over, another one or the command's end follows."""
    storable, state.storable = state.storable, None
    if storable is not None:
        await received(session, storable.finish())
    if state.spool is not None and not state.spool.size and state.error is None:
        raise CommandError("NO Can't save a zero byte message.")


async def finished(session: Session, tag: str) -> str:
    """The command is complete."""
    state = session.append
    assert state is not None
    box = state.box
    store = session.service.store
    try:
        await _complete(session, state)
        if state.error is not None:
            raise state.error
        if state.replaced is not None and session.selected.box.folder.index(state.replaced) < 0:
            raise CommandError("NO [EXPUNGEISSUED] The message has been expunged meanwhile.")
        sizes = [spool.size for spool, _, _ in state.messages]
        counted = quota.counts(session, box)
        if counted:
            await quota.admit(session, box.folder.path, sizes)
        now = store.clock.time()
        work: list[tuple[Publication, bool]] = [
            (spool.publication(now, store.hostname, bits or None, date), not bits)
            for spool, bits, date in state.messages
        ]
        uids = await box.append(work)
        session.tally.appended += len(uids)
        if counted:
            quota.added(session, [spool.size for spool, _, _ in state.messages])
        code = f"[APPENDUID {box.folder.uid_validity} {format_set(uids)}] "
        if not state.readable:
            code = ""  # RFC 4315 §3: who may not read does not hear of UIDs
        if state.replaced is None:
            return f"OK {code}Append completed."
        session.line(f"* OK {code}Replacement message is there.")
        await session.selected.box.expunge([state.replaced])
        return "OK Replace completed."
    finally:
        abandon(session)


def abandon(session: Session) -> None:
    """Forget the command, and what came of it so far if it has not been published."""
    state, session.append = session.append, None
    if state is not None:
        for spool, _, _ in state.messages:
            spool.discard()
        session.service.store.unpin(state.box)
