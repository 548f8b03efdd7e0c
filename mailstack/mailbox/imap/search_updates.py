"""Results that are kept up to date (CONTEXT=SEARCH, RFC 5267 §4): what changes in them is told with the other
news of the mailbox, and never when an EXPUNGE may not be told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mailstack.mailbox.imap.errors import CommandError
from mailstack.mailbox.imap.search_query import Query, leaves
from mailstack.mailbox.views.view import Updates, View
from mailstack.wire.imap import commands as c
from mailstack.wire.imap import search as keys
from mailstack.wire.imap.sequence import SAVED, format_set

if TYPE_CHECKING:
    from mailstack.mailbox.imap.session import Session

SEARCHES_MAX = 16
"""Results of one session that are kept up to date."""


@dataclass(slots=True)
class Watched:
    """A result: the UIDs in it, and what of the mailbox it takes into account: changes up to the modification
    sequence `modseq`, messages up to the UID `last`."""

    key: keys.Key
    charset: str
    uid: bool
    members: set[int]
    modseq: int
    last: int


def refuse_twice(session: Session, tag: str, returns: keys.Returns | None) -> None:
    """Raises `CommandError` for UPDATE with the tag of a result that is kept already."""
    if returns is not None and "UPDATE" in returns.options and tag in session.searches:
        raise CommandError("BAD Duplicate search update tag.")


def watch(session: Session, tag: str, command: c.Search | c.Sort, found: list[int], since: int) -> None:
    """Keep a result up to date; `since`: the highest modification sequence before the search."""
    changing = any(isinstance(leaf, keys.Messages) and leaf.messages == SAVED for leaf in leaves(command.key))
    if isinstance(command, c.Sort) or changing or len(session.searches) >= SEARCHES_MAX:
        session.line(f'* NO [NOUPDATE "{tag}"] Cannot keep the result up to date.')
        return
    view = session.selected
    last = view.uids[view.count - 1] if view.count else 0
    members = {view.uids[at] for at in found}
    session.searches[tag] = Watched(command.key, command.charset, command.uid, members, since, last)


def tell_gone(session: Session, updates: Updates) -> None:
    """Before the client hears of messages that are gone: which of them were in results."""
    if not updates.vanished:
        return
    numbers = dict(zip(reversed(updates.vanished), updates.expunged, strict=True))
    for tag, watched in session.searches.items():
        gone = [uid for uid in updates.vanished if uid in watched.members]
        if gone:
            watched.members.difference_update(gone)
            _tell(
                session, tag, watched, "REMOVEFROM", gone if watched.uid else [numbers[uid] for uid in gone]
            )
        if any(isinstance(leaf, keys.Messages) and not leaf.uid for leaf in leaves(watched.key)):
            watched.modseq = watched.last = 0  # numbers mean others now


async def tell_changed(session: Session) -> None:
    """After the client has heard of new messages and flags: what that changes in results."""
    view = session.selected
    folder = view.box.folder
    news: dict[tuple[int, int], list[int]] = {}
    for tag, watched in list(session.searches.items()):
        highest = folder.highest_modseq
        if highest == watched.modseq and (not view.count or view.uids[view.count - 1] <= watched.last):
            continue
        since = (watched.modseq, watched.last)
        if since not in news:
            news[since] = _news(view, *since)
        candidates = news[since]
        try:
            matching = await Query(session, tag, watched.charset).run(watched.key, candidates)
        except OSError as error:
            session.service.log.error(f"imap: {folder.path}: {error}")
            session.line(f'* NO [NOUPDATE "{tag}"] Cannot keep the result up to date.')
            del session.searches[tag]
            continue
        found = {view.uids[at] for at in matching}
        asked = {view.uids[at] for at in candidates}
        removed, added = sorted(asked & watched.members - found), sorted(found - watched.members)
        watched.members.difference_update(removed)
        watched.members.update(added)
        watched.modseq, watched.last = highest, view.uids[view.count - 1] if view.count else 0
        for word, uids in (("REMOVEFROM", removed), ("ADDTO", added)):
            if uids:
                numbers = uids if watched.uid else [view.number(uid) for uid in uids]
                _tell(session, tag, watched, word, numbers)


def _news(view: View, modseq: int, last: int) -> list[int]:
    """Positions of the messages behind a UID, and of those changed after a modification sequence."""
    folder = view.box.folder
    if view.uids is folder.uids:
        modseqs = folder.modseqs
        return [at for at in range(view.count) if modseqs[at] > modseq or view.uids[at] > last]
    pairs = ((at, folder.index(view.uids[at])) for at in range(view.count))
    return [
        at for at, index in pairs if view.uids[at] > last or (index >= 0 and folder.modseqs[index] > modseq)
    ]


def _tell(session: Session, tag: str, watched: Watched, word: str, numbers: list[int]) -> None:
    """Place 0: the result has the mailbox's order (RFC 5267 §4.3)."""
    uid = " UID" if watched.uid else ""
    session.line(f'* ESEARCH (TAG "{tag}"){uid} {word} (0 {format_set(numbers)})')
