"""Which messages a command means."""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING

from mailstack.mailbox.imap.errors import CommandError
from mailstack.mailbox.views import View
from mailstack.wire.imap.sequence import (
    SAVED,
    STAR,
    SequenceSet,
    positions_of_numbers,
    positions_of_uids,
)

if TYPE_CHECKING:
    from mailstack.mailbox.imap.session import Session


def positions(session: Session, messages: SequenceSet, uid: bool, name: str) -> list[int]:
    """Positions in the view (sequence number - 1), ascending. UIDs that do not exist are passed over.

    Raises `CommandError` for a sequence number that does not exist, or that the client has given up (RFC
    9586).
    """
    view = session.selected
    if messages == SAVED and (uid or not session.uidonly):
        return saved_positions(session)
    if uid:
        return positions_of_uids(messages, view.uids, view.count)
    if session.uidonly:
        raise CommandError(f"BAD [UIDREQUIRED] {name} needs UIDs.")
    found = positions_of_numbers(messages, view.count)
    if found is None:
        raise CommandError(f"BAD Error in IMAP command {name}: Invalid messageset.")
    return found


def saved_positions(session: Session) -> list[int]:
    """What `$` means: the messages that the last SEARCH with SAVE has found, as far as the client still has
    them (RFC 5182 §2.1)."""
    view = session.selected
    return [number - 1 for uid in session.saved if (number := view.number(uid))]


def part_of(found: list[int], places: tuple[int, int]) -> list[int]:
    """The first to last of what was found (RFC 9394); negative places count from the end, -1 is the last."""
    first, last = places
    if first > 0:
        return found[first - 1 : last]
    return found[max(0, len(found) + last) : len(found) + first + 1]


def missing_uids(known: SequenceSet, view: View, floor: int = 0) -> list[tuple[int, int]]:
    """UIDs above `floor` that are in the set and in no message of the view: ranges, ascending.

    UIDs that have never been given are not among them; `*` is the highest that has.
    """
    top = view.box.folder.next_uid - 1
    ranges: list[tuple[int, int]] = []
    for low, high in sorted(known):
        start, end = max(min(low, top), floor + 1), min(high, top)
        if ranges:
            start = max(start, ranges[-1][1] + 1)
        present = bisect_left(view.uids, start, 0, view.count)
        while start <= end:
            uid = view.uids[present] if present < view.count else STAR
            if uid > start:
                ranges.append((start, min(end, uid - 1)))
            start = uid + 1
            present += 1
    return ranges
