"""EXPUNGE (state: selected; RFC 3501 §6.4.3) and UID EXPUNGE (RFC 4315 §2.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mailstack.mailbox.imap import acl
from mailstack.mailbox.imap.messages import positions
from mailstack.mailbox.views import View
from mailstack.storage.maildir.names import DELETED
from mailstack.wire.imap import commands as c

if TYPE_CHECKING:
    from mailstack.mailbox.imap.session import Session

_IGNORED = "OK Expunge ignored: Permission denied."


def deleted_uids(view: View) -> list[int]:
    """The messages with \\Deleted that the client knows of."""
    folder = view.box.folder
    marked = [uid for uid, flags in zip(folder.uids, folder.flags, strict=True) if flags & DELETED]
    return (
        marked
        if view.count == len(folder.uids) and view.uids is folder.uids
        else [uid for uid in marked if view.number(uid)]
    )


async def expunge(session: Session, tag: str, command: c.Plain) -> str:
    view = session.selected
    if not view.readonly:
        if "e" not in acl.selected(session):
            return _IGNORED
        await _remove(session, deleted_uids(view))
    return f"OK {highest(session)}Expunge completed."


async def uid_expunge(session: Session, tag: str, command: c.UidExpunge) -> str:
    view = session.selected
    if not view.readonly:
        if "e" not in acl.selected(session):
            return _IGNORED
        wanted = {view.uids[at] for at in positions(session, command.uids, True, "UID EXPUNGE")}
        await _remove(session, [uid for uid in deleted_uids(view) if uid in wanted])
    return f"OK {highest(session)}Expunge completed."


async def _remove(session: Session, uids: list[int]) -> None:
    await session.selected.box.expunge(uids)
    session.tally.expunged += len(uids)


def highest(session: Session) -> str:
    """The response code for a client that wants to know up to where it is told (RFC 7162 §3.2.7)."""
    return f"[HIGHESTMODSEQ {session.selected.box.folder.highest_modseq}] " if session.qresync else ""
