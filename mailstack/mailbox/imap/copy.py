"""COPY and MOVE, by number and UID (state: selected; RFC 3501 §6.4.7, RFC 6851, COPYUID RFC 4315 §3).

A move within the inbox namespace leaves its quota as it is; a copy into it is counted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mailstack.mailbox.imap import acl, quota
from mailstack.mailbox.imap.errors import CommandError
from mailstack.mailbox.imap.expunge import highest
from mailstack.mailbox.imap.messages import positions
from mailstack.mailbox.imap.search_query import Progress
from mailstack.mailbox.views.shared import sizes_of
from mailstack.wire.imap import commands as c
from mailstack.wire.imap.sequence import format_set

if TYPE_CHECKING:
    from mailstack.mailbox.imap.session import Session

FEW = 1000
"""Messages up to which nobody is told how far the command is."""


async def copy(session: Session, tag: str, command: c.Copy) -> str:
    view = session.selected
    name = f"{'UID ' if command.uid else ''}{'MOVE' if command.move else 'COPY'}"
    found = positions(session, command.messages, command.uid, name)
    rights = acl.need(session, command.mailbox, "i", "TRYCREATE")
    if command.move and "e" not in acl.selected(session):
        raise CommandError(acl.DENIED)
    if command.move and view.readonly:
        raise CommandError("NO [READ-ONLY] Mailbox is read-only.")
    store = session.service.store
    try:
        target = await store.open(session.root, command.mailbox)
    except FileNotFoundError:
        raise CommandError(f"NO [TRYCREATE] Mailbox doesn't exist: {command.mailbox}") from None
    try:
        if not found:
            return "OK No messages found."
        uids = [view.uids[at] for at in found]
        comes, goes = quota.counts(session, target), command.move and quota.counts(session, view.box)
        counted = session.service.quotas.active and comes != goes
        sizes = sizes_of(view.box, uids) if counted and comes else []
        if sizes:
            await quota.admit(session, target.folder.path, sizes)
        done: list[bool] = []
        work = view.box.transfer(uids, target, command.move, done, acl.flags_mask(rights))
        pairs = await (work if len(uids) <= FEW else Progress(session, tag).during(work, done, len(uids)))
        if sizes:
            quota.added(session, sizes_of(target, [new for _, new in pairs]))
        elif counted and goes:
            quota.removed(session, sizes_of(target, [new for _, new in pairs]))
    finally:
        store.unpin(target)
    if not pairs:
        raise CommandError("NO [EXPUNGEISSUED] Some of the messages no longer exist.")
    if _is_trash(session, command.mailbox):
        session.tally.trashed += len(pairs)
    old, new = format_set(pair[0] for pair in pairs), format_set(pair[1] for pair in pairs)
    # RFC 4315 §3: who may not read does not hear of UIDs.
    code = f"[COPYUID {target.folder.uid_validity} {old} {new}] " if "r" in rights else ""
    if command.move:
        session.line(f"* OK {code}Moved UIDs.")
        return f"OK {highest(session)}Move completed."
    if len(pairs) < len(found):
        session.line(f"* OK {code}Copied UIDs.")
        raise CommandError("NO [EXPUNGEISSUED] Some of the messages no longer exist.")
    return f"OK {code}Copy completed."


def _is_trash(session: Session, mailbox: str) -> bool:
    """Whether dovecot.conf says that a mailbox is for what has been thrown away."""
    return any(
        box.name == mailbox and "\\Trash" in box.special_use for box in session.service.settings.mailboxes
    )
