"""What clients are told of the selected mailbox without having asked: EXPUNGE, EXISTS, FETCH, FLAGS."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mailstack.mailbox.imap import flags, notify, search
from mailstack.mailbox.imap.errors import Disconnect
from mailstack.storage.maildir.listing import FolderGoneError
from mailstack.wire.imap.sequence import format_set

if TYPE_CHECKING:
    from mailstack.mailbox.imap.session import Session


async def sync(session: Session, *, expunge: bool, refresh: bool = True) -> None:
    """Tell the client what is new in the selected mailbox (RFC 3501 §5.2, §7.4.1)."""
    view = session.selected
    if refresh:
        try:
            await view.box.refresh()
        except FolderGoneError:
            session.leave()
            raise Disconnect("Selected mailbox was deleted, have to disconnect.") from None
        except OSError as error:
            session.service.log.error(f"imap: {view.box.folder.path}: {error}")
    if not view.behind:
        return
    before = view.count
    updates = view.sync(expunge)
    if session.searches:
        search.tell_gone(session, updates)
    if (session.qresync or session.uidonly) and updates.vanished:
        session.line(f"* VANISHED {format_set(updates.vanished)}")
    else:
        for number in updates.expunged:
            session.send(b"* %d EXPUNGE\r\n" % number)
    if updates.exists is not None:
        session.send(b"* %d EXISTS\r\n" % updates.exists)
        if not session.rev2:
            session.send(b"* %d RECENT\r\n" % view.recent_count())
    if updates.flags:
        flags.tell_keywords(session)
    if session.notifying is None or session.notifying.hears_flags:
        for number in updates.flags:
            flags.tell_flags(session, number)
    if updates.exists is not None and session.notifying is not None:
        await notify.new_messages(session, before - len(updates.expunged) + 1, updates.exists)
    if session.searches:
        await search.tell_changed(session)
