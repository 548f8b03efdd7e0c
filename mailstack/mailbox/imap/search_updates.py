"""Results that are kept up to date (CONTEXT=SEARCH and CONTEXT=SORT, RFC 5267 §4): what changes in them is
told with the other news of the mailbox, and never when an EXPUNGE may not be told."""

from __future__ import annotations

from array import array
from collections.abc import Awaitable, Callable, Iterator
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

Arrange = Callable[[list[int]], Awaitable[list[int]]]
SEARCHES_MAX = 16
"""Results of one session that are kept up to date."""


@dataclass(slots=True)
class Watched:
    """A result: the UIDs in it, and what of the mailbox it takes into account: changes up to the modification
    sequence `modseq`, messages up to the UID `last`.

    Of SORT: the UIDs in their `order`, and how positions (ascending) are put into it.
    """

    key: keys.Key
    charset: str
    uid: bool
    members: set[int]
    modseq: int
    last: int
    order: array[int] | None = None
    arrange: Arrange | None = None


def refuse_twice(session: Session, tag: str, returns: keys.Returns | None) -> None:
    """Raises `CommandError` for UPDATE with the tag of a result that is kept already."""
    if returns is not None and "UPDATE" in returns.options and tag in session.searches:
        raise CommandError("BAD Duplicate search update tag.")


def watch(
    session: Session,
    tag: str,
    command: c.Search | c.Sort,
    found: list[int],
    since: int,
    arrange: Arrange | None = None,
) -> None:
    """Keep a result up to date; `since`: the highest modification sequence before the search. SORT says how
    to `arrange` positions."""
    changing = any(isinstance(leaf, keys.Messages) and leaf.messages == SAVED for leaf in leaves(command.key))
    if changing or len(session.searches) >= SEARCHES_MAX:
        session.line(f'* NO [NOUPDATE "{tag}"] Cannot keep the result up to date.')
        return
    view = session.selected
    last = view.uids[view.count - 1] if view.count else 0
    uids = array("I", (view.uids[at] for at in found))
    watched = Watched(command.key, command.charset, command.uid, set(uids), since, last)
    if arrange is not None:
        watched.order, watched.arrange = uids, arrange
    session.searches[tag] = watched


def tell_gone(session: Session, updates: Updates) -> None:
    """Before the client hears of messages that are gone: which of them were in results."""
    if not updates.vanished:
        return
    numbers = dict(zip(reversed(updates.vanished), updates.expunged, strict=True))
    for tag, watched in session.searches.items():
        gone = [uid for uid in updates.vanished if uid in watched.members]
        if gone:
            _tell(session, tag, watched, "REMOVEFROM", _removed(watched, gone), numbers)
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
        watched.modseq, watched.last = highest, view.uids[view.count - 1] if view.count else 0
        numbers = {uid: view.number(uid) for uid in (*removed, *added)}
        if removed:
            _tell(session, tag, watched, "REMOVEFROM", _removed(watched, removed), numbers)
        if added:
            _tell(session, tag, watched, "ADDTO", await _added(view, watched, added), numbers)


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


def _removed(watched: Watched, gone: list[int]) -> list[tuple[int, list[int]]]:
    """Take UIDs (ascending) out of a result: the places they had, the last first, so that each still holds
    when the client comes to it."""
    watched.members.difference_update(gone)
    if watched.order is None:
        return [(0, gone)]
    leaving = set(gone)
    runs = list(_runs(watched.order, leaving))
    watched.order = array("I", (uid for uid in watched.order if uid not in leaving))
    return runs[::-1]


async def _added(view: View, watched: Watched, come: list[int]) -> list[tuple[int, list[int]]]:
    """Put UIDs (ascending) into a result: the places they get, the first first."""
    watched.members.update(come)
    if watched.arrange is None:
        return [(0, come)]
    positions = sorted(number - 1 for uid in watched.members if (number := view.number(uid)))
    watched.order = array("I", (view.uids[at] for at in await watched.arrange(positions)))
    return list(_runs(watched.order, set(come)))


def _runs(order: array[int], wanted: set[int]) -> Iterator[tuple[int, list[int]]]:
    """Where some UIDs stand in an order: the place of each run (from 1) with its UIDs."""
    run: list[int] = []
    for place, uid in enumerate(order, 1):
        if uid in wanted:
            run.append(uid)
        elif run:
            yield place - len(run), run
            run = []
    if run:
        yield len(order) + 1 - len(run), run


def _tell(
    session: Session,
    tag: str,
    watched: Watched,
    word: str,
    runs: list[tuple[int, list[int]]],
    numbers: dict[int, int],
) -> None:
    """Place 0: the result has the mailbox's order (RFC 5267 §4.3)."""
    uid = " UID" if watched.uid else ""
    parts = [
        f"{place} {format_set(uids if watched.uid else [numbers[one] for one in uids])}"
        for place, uids in runs
    ]
    session.line(f'* ESEARCH (TAG "{tag}"){uid} {word} ({" ".join(parts)})')
