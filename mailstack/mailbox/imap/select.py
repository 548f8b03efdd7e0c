"""SELECT EXAMINE (state: authenticated; RFC 3501 §6.3.1, §6.3.2), CLOSE (§6.4.2), UNSELECT (RFC 3691)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mailstack.mailbox.imap.errors import CommandError
from mailstack.mailbox.imap.expunge import deleted_uids
from mailstack.mailbox.views import View
from mailstack.storage.maildir.names import SEEN
from mailstack.wire.imap import commands as c

if TYPE_CHECKING:
    from mailstack.mailbox.imap.session import Session


async def select(session: Session, tag: str, command: c.Select) -> str:
    if session.view is not None:
        session.leave()
        session.line("* OK [CLOSED] Previous mailbox closed.")
    store = session.service.store
    try:
        box = await store.open(session.root, command.mailbox)
    except FileNotFoundError:
        raise CommandError(f"NO [NONEXISTENT] Mailbox doesn't exist: {command.mailbox}") from None
    view = View(box, command.readonly)
    store.unpin(box)
    session.view = view
    session.keywords_told = ""
    session.tell_keywords()
    session.line(f"* {view.count} EXISTS")
    session.line(f"* {view.recent_count()} RECENT")
    unseen = next((at for at, flags in enumerate(box.folder.flags, 1) if not flags & SEEN), 0)
    if unseen:
        session.line(f"* OK [UNSEEN {unseen}] First unseen.")
    session.line(f"* OK [UIDVALIDITY {box.folder.uid_validity}] UIDs valid")
    session.line(f"* OK [UIDNEXT {box.folder.next_uid}] Predicted next UID")
    return "OK [READ-ONLY] Examine completed." if command.readonly else "OK [READ-WRITE] Select completed."


async def close(session: Session, tag: str, command: c.Plain) -> str:
    view = session.selected
    if not view.readonly:
        await view.box.expunge(deleted_uids(view))
    session.leave()
    return "OK Close completed."


async def unselect(session: Session, tag: str, command: c.Plain) -> str:
    session.leave()
    return "OK Unselect completed."
