"""How a mailbox stands, as STATUS tells it to a client that has not asked (NOTIFY, RFC 5465 §5)."""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING, NamedTuple

from mailstack.mailbox.views import SharedMailbox
from mailstack.storage.maildir.names import SEEN
from mailstack.wire.imap.notify import FLAG_CHANGE, MESSAGE_EXPUNGE, MESSAGE_NEW

if TYPE_CHECKING:
    from mailstack.mailbox.imap.session import Session


class Standing(NamedTuple):
    """How a mailbox stands, as far as STATUS tells it."""

    messages: int
    next_uid: int
    uid_validity: int
    unseen: int
    modseq: int


EVERYTHING = frozenset(Standing._fields)
_ITEMS = {"messages": "MESSAGES", "next_uid": "UIDNEXT", "uid_validity": "UIDVALIDITY", "unseen": "UNSEEN"}


def standing_of(box: SharedMailbox) -> Standing:
    folder = box.folder
    unseen = sum(not flags & SEEN for flags in folder.flags)
    return Standing(len(folder.uids), folder.next_uid, folder.uid_validity, unseen, folder.highest_modseq)


def changes_since(box: SharedMailbox, old: Standing) -> set[str]:
    """The events that have happened in the mailbox since it stood like that."""
    folder = box.folder
    known = bisect_left(folder.uids, old.next_uid)
    changed = set()
    if known < old.messages:
        changed.add(MESSAGE_EXPUNGE)
    if folder.next_uid > old.next_uid:
        changed.add(MESSAGE_NEW)
    if any(modseq > old.modseq for modseq in folder.modseqs[:known]):
        changed.add(FLAG_CHANGE)
    return changed


def send_standing(
    session: Session, name: str, standing: Standing, fields: frozenset[str], *, flags: bool
) -> None:
    """Some fields of a `Standing` as a STATUS response; HIGHESTMODSEQ for who knows it. To ask for STATUS and
    for `flags` is to know it (as in Dovecot)."""
    if fields == EVERYTHING and flags:
        session.use_condstore()
    values = [f"{item} {getattr(standing, key)}" for key, item in _ITEMS.items() if key in fields]
    if session.condstore and "modseq" in fields:
        values.append(f"HIGHESTMODSEQ {standing.modseq}")
    if values:
        session.send(b"* STATUS %b (%b)\r\n" % (session.mailbox(name), " ".join(values).encode()))
