"""Which messages a command means."""

from __future__ import annotations

from mailstack.mailbox.imap.errors import CommandError
from mailstack.mailbox.views import View
from mailstack.wire.imap.sequence import SequenceSet, positions_of_numbers, positions_of_uids


def positions(view: View, messages: SequenceSet, uid: bool, name: str) -> list[int]:
    """Positions in the view (sequence number - 1), ascending. UIDs that do not exist are passed over.

    Raises `CommandError` for a sequence number that does not exist.
    """
    if uid:
        return positions_of_uids(messages, view.uids, view.count)
    found = positions_of_numbers(messages, view.count)
    if found is None:
        raise CommandError(f"BAD Error in IMAP command {name}: Invalid messageset.")
    return found
