"""APPEND (state: authenticated; RFC 3501 §6.3.11), several messages (RFC 3502), APPENDUID (RFC 4315 §3).

Messages are taken in piece by piece and all published when the command is complete; OK means that they are
on disk. When one of them cannot be stored, none is.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from mailstack.mailbox.imap.errors import CommandError
from mailstack.mailbox.imap.store import keyword_bits, split_flags
from mailstack.mailbox.views import SharedMailbox
from mailstack.storage.durable import Publication
from mailstack.storage.maildir.spool import Spool
from mailstack.wire.imap.sequence import format_set
from mailstack.wire.imap.server import AppendMessage

if TYPE_CHECKING:
    from mailstack.mailbox.imap.session import Session

_MESSAGES_MAX = 1000


class Appending:
    """The APPEND command that is being read."""

    __slots__ = ("box", "error", "messages", "spool")

    def __init__(self, box: SharedMailbox) -> None:
        self.box = box
        self.messages: list[tuple[Spool, int, float | None]] = []
        self.spool: Spool | None = None
        self.error: OSError | None = None


async def announced(session: Session, event: AppendMessage) -> str:
    """A message is to come: look at what is known of it before its octets are asked for."""
    try:
        await _prepare(session, event)
    except Exception:
        abandon(session)
        session.connection.refuse_literal()
        raise
    session.connection.accept_literal()
    more = session.connection.data_to_send()
    if more:
        session.send(more)
    return ""


async def _prepare(session: Session, event: AppendMessage) -> None:
    if event.size > session.service.settings.message_limit:
        raise CommandError("NO [TOOBIG] Message is too large.")
    bits, keywords = split_flags(event.flags, "APPEND")
    state = session.append
    if state is None:
        assert event.mailbox is not None
        try:
            box = await session.service.store.open(session.root, event.mailbox)
        except FileNotFoundError:
            raise CommandError(f"NO [TRYCREATE] Mailbox doesn't exist: {event.mailbox}") from None
        state = session.append = Appending(box)
    if not event.size:
        raise CommandError("NO Can't save a zero byte message.")
    if len(state.messages) >= _MESSAGES_MAX:
        raise CommandError("NO [LIMIT] Too many messages in one APPEND.")
    if keywords:
        await state.box.add_keywords(keywords)
        bits |= keyword_bits(state.box.folder, keywords)
    state.spool = Spool(state.box.folder.path)
    state.messages.append((state.spool, bits, event.date))


async def received(session: Session, data: bytes) -> None:
    """Some of the message's octets. A full disk is told when the command is complete."""
    state = session.append
    if state is None or state.spool is None or state.error is not None:
        return
    service = session.service
    try:
        await state.spool.add(data, service.clock.time(), service.store.hostname)
    except OSError as error:
        state.error = error


async def finished(session: Session, tag: str) -> str:
    """The command is complete."""
    state = session.append
    assert state is not None
    box = state.box
    store = session.service.store
    try:
        if state.error is not None:
            raise state.error
        now = store.clock.time()
        work: list[tuple[Publication, bool]] = [
            (spool.publication(now, store.hostname, bits or None, date), not bits)
            for spool, bits, date in state.messages
        ]
        if len(work) == 1:
            uids = [await box.append(*work[0])]
        else:
            uids = await _append_all(box, work)
        code = f"[APPENDUID {box.folder.uid_validity} {format_set(uids)}]"
        return f"OK {code} Append completed."
    finally:
        abandon(session)


async def _append_all(box: SharedMailbox, work: list[tuple[Publication, bool]]) -> list[int]:
    done: list[str] = []
    try:
        for publication, _ in work:
            await box.store.commit.publish(publication)
            done.append(publication.final)
    except OSError:
        for path in done:
            os.unlink(path)
        raise
    files = [(0, os.path.basename(publication.final), in_new, "") for publication, in_new in work]
    return [uid for _, uid in await box.adopt_many(files)]


def abandon(session: Session) -> None:
    """Forget the command, and what came of it so far if it has not been published."""
    state, session.append = session.append, None
    if state is not None:
        for spool, _, _ in state.messages:
            spool.discard()
        session.service.store.unpin(state.box)
