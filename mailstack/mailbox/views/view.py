"""One session's view of a mailbox.

Sequence numbers are a session's own affair (RFC 3501 §2.3.1.2): a `View` is an array of UIDs, which all
sessions that are up to date share, and how many of them the session has been told of. Removing messages
makes another array; a session goes on with its old one until the protocol lets it hear of the removal. What
happened since stands in the mailbox's log, which each view reads at its own pace.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mailstack.mailbox.views.shared import SharedMailbox


@dataclass(frozen=True, slots=True)
class Change:
    """One log entry: messages removed, or their flags changed by the view `origin` (None: somebody else)."""

    uids: Sequence[int]
    removed: bool
    origin: View | None = None


@dataclass(slots=True)
class Updates:
    """What a session has to tell its client, as sequence numbers; `expunged` is to be sent as it stands.

    `vanished`: the UIDs of `expunged`, ascending.
    """

    expunged: list[int] = field(default_factory=list)
    vanished: list[int] = field(default_factory=list)
    exists: int | None = None
    flags: list[int] = field(default_factory=list)


class View:
    """One session's view of a mailbox. Close it, or the mailbox stays in memory."""

    __slots__ = ("_flags_at", "_gone_at", "box", "count", "readonly", "recents", "uids", "wake")

    def __init__(self, box: SharedMailbox, readonly: bool) -> None:
        self.box = box
        self.readonly = readonly
        self.uids = box.folder.uids
        self.count = len(self.uids)
        self.recents: tuple[tuple[int, int], ...] = ()
        self.wake: Callable[[], None] | None = None
        self._flags_at = self._gone_at = box.log_end
        box.views.append(self)
        self._claim()

    def close(self) -> None:
        """The session has left the mailbox."""
        if self in self.box.views:
            self.box.views.remove(self)
            self.box.release()

    # ---- numbers

    def uid(self, number: int) -> int:
        """The UID of a sequence number in 1..count."""
        return self.uids[number - 1]

    def number(self, uid: int) -> int:
        """The sequence number of a UID, or 0."""
        at = bisect_left(self.uids, uid, 0, self.count)
        return at + 1 if at < self.count and self.uids[at] == uid else 0

    def is_recent(self, uid: int) -> bool:
        """Whether this session shows the message as \\Recent."""
        if self.readonly and uid >= self.box.folder.recent_from:
            return True
        return any(low <= uid < high for low, high in self.recents)

    def recent_count(self) -> int:
        """How many messages the session shows as \\Recent."""
        total = sum(
            bisect_left(self.uids, high, 0, self.count) - bisect_left(self.uids, low, 0, self.count)
            for low, high in self.recents
        )
        if self.readonly:
            total += self.count - bisect_left(self.uids, self.box.folder.recent_from, 0, self.count)
        return total

    def _claim(self) -> None:
        """Messages that no session has shown as recent are recent in this one, and in no other."""
        folder = self.box.folder
        if not self.readonly and folder.next_uid > folder.recent_from:
            if self.recents and self.recents[-1][1] == folder.recent_from:
                self.recents = (*self.recents[:-1], (self.recents[-1][0], folder.next_uid))
            else:
                self.recents = (*self.recents, (folder.recent_from, folder.next_uid))
            folder.recent_from = folder.next_uid
            folder.move_new()

    # ---- what has happened

    @property
    def behind(self) -> bool:
        """Whether `sync` would have something to say."""
        box = self.box
        return (
            self._flags_at != box.log_end
            or self._gone_at != box.log_end
            or self.uids is not box.folder.uids
            or self.count != len(self.uids)
        )

    def sync(self, expunge: bool) -> Updates:
        """Move the view forward. Without `expunge` no message leaves the view, and so none is added while
        removals are pending (the numbers of the new ones could not be told)."""
        updates = Updates()
        box = self.box
        if not self.behind:
            return updates
        changed = {
            uid
            for entry in box.log[max(0, self._flags_at - box.log_start) :]
            if not entry.removed and entry.origin is not self
            for uid in entry.uids
        }
        removed = {
            uid
            for entry in box.log[max(0, self._gone_at - box.log_start) :]
            if entry.removed
            for uid in entry.uids
        }
        self._flags_at = box.log_end
        changed -= removed
        if removed and not expunge:
            updates.flags = sorted(number for uid in changed if (number := self.number(uid)))
            return updates
        updates.vanished = sorted(uid for uid in removed if self.number(uid))
        updates.expunged = [self.number(uid) for uid in reversed(updates.vanished)]
        self._gone_at = box.log_end
        told = self.count - len(updates.expunged)
        self.uids = box.folder.uids
        self.count = len(self.uids)
        updates.flags = sorted(number for uid in changed if 0 < (number := self.number(uid)) <= told)
        if self.count != told:
            updates.exists = self.count
            self._claim()
        return updates

    def rewind(self, before: int, start: int) -> None:
        """The log's entries before number `before` now begin at number `start`."""
        if self._flags_at < before:
            self._flags_at = start
        if self._gone_at < before:
            self._gone_at = start
