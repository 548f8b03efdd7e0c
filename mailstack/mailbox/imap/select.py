"""SELECT EXAMINE (state: authenticated; RFC 3501 §6.3.1, §6.3.2), CLOSE (§6.4.2), UNSELECT (RFC 3691).

CONDSTORE and QRESYNC, the parameters of SELECT: RFC 7162 §3.1.8, §3.2.5.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING

from mailstack.mailbox.imap import acl, flags
from mailstack.mailbox.imap.errors import CommandError
from mailstack.mailbox.imap.expunge import deleted_uids
from mailstack.mailbox.imap.messages import missing_uids
from mailstack.mailbox.imap.objectid import mailbox_id
from mailstack.mailbox.views import View
from mailstack.storage.maildir.tree import separator_of
from mailstack.wire.imap import commands as c
from mailstack.wire.imap.sequence import SequenceSet, format_ranges, positions_of_uids

if TYPE_CHECKING:
    from mailstack.mailbox.imap.session import Session


async def select(session: Session, tag: str, command: c.Select) -> str:
    if command.qresync is not None and not session.qresync:
        raise CommandError("BAD QRESYNC is not enabled.")
    if command.qresync is not None and command.qresync.pairs is not None and session.uidonly:
        raise CommandError("BAD [UIDREQUIRED] Sequence numbers have been given up.")
    if session.view is not None:
        session.leave()
        session.line("* OK [CLOSED] Previous mailbox closed.")
    store = session.service.store
    rights = acl.need(session, command.mailbox, "r")
    try:
        box = await store.open(session.root, command.mailbox)
    except FileNotFoundError:
        raise acl.missing(session, command.mailbox) from None
    readonly = command.readonly or box.read_only or acl.WRITING.isdisjoint(rights)
    view = View(box, readonly)
    store.unpin(box)
    session.view = view
    session.selected_name = command.mailbox
    session.keywords_told = ""
    flags.tell_keywords(session)
    session.line(f"* {view.count} EXISTS")
    if not session.rev2:
        session.line(f"* {view.recent_count()} RECENT")
    unseen = box.folder.first_unseen() + 1
    if unseen and not (session.rev2 or session.uidonly):
        session.line(f"* OK [UNSEEN {unseen}] First unseen.")
    session.line(f"* OK [UIDVALIDITY {box.folder.uid_validity}] UIDs valid")
    session.line(f"* OK [UIDNEXT {box.folder.next_uid}] Predicted next UID")
    session.line(f"* OK [HIGHESTMODSEQ {box.folder.highest_modseq}] Highest")
    session.line(f"* OK [MAILBOXID ({mailbox_id(box.folder)})] Ok")
    if session.rev2:
        name = session.mailbox(command.mailbox)
        session.send(b'* LIST () "%b" %b\r\n' % (separator_of(session.root).encode(), name))
    if command.condstore or command.qresync is not None:
        session.condstore = True
    if command.qresync is not None and command.qresync.uid_validity == box.folder.uid_validity:
        await _resynchronize(session, view, command.qresync)
    if command.readonly:
        return "OK [READ-ONLY] Examine completed."
    return f"OK [READ-{'ONLY' if readonly else 'WRITE'}] Select completed."


async def _resynchronize(session: Session, view: View, client: c.Qresync) -> None:
    """Tell what is otherwise than the client has seen it last: who is gone, whose flags have changed.

    Nothing is kept of messages that are gone, so all that the client may still have are told as vanished
    (allowed by RFC 7162 §3.2.5.2); sequence numbers and UIDs that still match spare the low ones.
    """
    folder = view.box.folder
    known = client.known if client.known is not None else ((1, max(1, folder.next_uid - 1)),)
    floor = _matching(view, client.pairs) if client.pairs is not None else 0
    gone = missing_uids(known, view, floor)
    if gone:
        session.line(f"* VANISHED (EARLIER) {format_ranges(gone)}")
    for at in positions_of_uids(known, view.uids, view.count):
        index = folder.index(view.uids[at])
        if index >= 0 and folder.modseqs[index] > client.modseq:
            flags.tell_flags(session, at + 1, uid=True)
            if session.full:
                await session.flush()


def _matching(view: View, pairs: tuple[SequenceSet, SequenceSet]) -> int:
    """The highest UID up to which nothing is gone, as the client's numbers show; 0: none."""
    numbers, uids = (_first_numbers(part) for part in pairs)
    floor = 0
    for number, uid in zip(numbers, uids, strict=False):
        if view.number(uid) != number:
            break
        floor = uid
    return floor


def _first_numbers(ranges: SequenceSet) -> Iterator[int]:
    return itertools.islice((number for low, high in ranges for number in range(low, high + 1)), 100_000)


async def close(session: Session, tag: str, command: c.Plain) -> str:
    view = session.selected
    done = "Close completed."
    if not view.readonly and "e" not in acl.selected(session):
        done = "Closed without expunging: Permission denied."
    elif not view.readonly:
        await view.box.expunge(deleted_uids(view))
    code = f"[HIGHESTMODSEQ {view.box.folder.highest_modseq}] " if session.qresync else ""
    session.leave()
    return f"OK {code}{done}"


async def unselect(session: Session, tag: str, command: c.Plain) -> str:
    session.leave()
    return "OK Unselect completed."
