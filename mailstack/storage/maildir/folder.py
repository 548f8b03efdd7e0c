"""One Maildir folder in memory: which messages it has, their UIDs, file names and flags.

`Folder` is the model; it never waits and knows no sessions. The owner (one per process and folder) calls it
from one thread, except that `read_listing` touches only the disk and may run in another. Parallel columns
describe the messages in UID order: `uids`, `names` (the file's name in `cur/` or `new/`), `flags` (see
`names`; bit `IN_NEW` says which of the two directories), `modseqs` (RFC 7162), and what is found out when it
is asked for: `dates`, `saved`, `sizes`. `uids` is never changed in place but by appending: removing messages
replaces the array, so that whoever holds the old one keeps a consistent view.

Every change of flags, every message that comes or goes takes the next modification sequence; none is ever
given twice, see `index`.

What other programs do to the files (deliver, rename, delete, rewrite `dovecot-uidlist`) is found by `apply`.
Damage is reported in `problems`, a list of texts that the owner logs and clears.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from mailstack.storage.maildir import index as index_file
from mailstack.storage.maildir.columns import IN_NEW as IN_NEW
from mailstack.storage.maildir.columns import Columns
from mailstack.storage.maildir.keywords import FILE as KEYWORDS_FILE
from mailstack.storage.maildir.listing import (
    NO_STAMP,
    FolderGoneError,
    Listing,
    arrival_key,
    read_listing,
    stamp_of,
)
from mailstack.storage.maildir.names import INFO, flags_of, split_name
from mailstack.storage.maildir.numbers import Before

CHANGES_LOST = 1 << 32
"""Modification sequences that may have been given since the index was written, should the clock be wrong."""


@dataclass(slots=True)
class Delta:
    """What a scan has found: how many messages came, which UIDs went, whose flags others changed."""

    added: int = 0
    removed: list[int] = field(default_factory=list)
    changed: list[int] = field(default_factory=list)
    left_out: bool = False
    """There are messages whose UIDs cannot be written down at the moment: look again."""

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.changed)


class Folder(Columns):
    """See the module. `path` is the directory that holds `cur`, `new`, `tmp`."""

    __slots__ = ()

    # ---- reading the disk

    def load(self, new_validity: Callable[[], int]) -> None:
        """Read everything; `new_validity` gives the UIDVALIDITY of a folder that has no usable uidlist.

        Raises `OSError`, `LockBusyError`; `FolderGoneError` when there is no such folder.
        """
        self.keywords.load()
        known = self._read_index()
        if known is not None and self.keywords.repair(known.keywords):
            self.problems.append(f"{self.path}/{KEYWORDS_FILE}: cut off; repaired")
        if known is None or not self._take_over(known):
            listing = read_listing(self.path)
            if not self.numbers.read(0, None if known is None else _before(known, listing)):
                self.numbers.begin(new_validity, self.clock())
            self.apply(listing)
            self.saved = array("q", bytes(8 * len(self.uids)))  # they have come before, and nobody knows when
            fresh = [uid for uid, flags in zip(self.uids, self.flags, strict=True) if flags & IN_NEW]
            self.recent_from = min(fresh, default=self.next_uid)
            self._remember(known)

    # ---- the index

    def _read_index(self) -> index_file.Snapshot | None:
        try:
            return index_file.read(self.path)
        except index_file.DamagedIndexError as error:
            self.problems.append(f"{self.path}/{index_file.FILE}: {error}; made anew")
        except OSError as error:
            self.problems.append(f"{self.path}/{index_file.FILE}: {error}")
        return None

    def _take_over(self, known: index_file.Snapshot) -> bool:
        """Nothing has changed since the index was written: its columns are the folder's."""
        if not known.trusted or known.stamp == NO_STAMP or known.list_stamp != self.numbers.on_disk():
            return False
        try:
            if stamp_of(self.path) != known.stamp:
                return False
        except FileNotFoundError:
            return False
        numbers = self.numbers
        numbers.uid_validity, numbers.next_uid = known.uid_validity, known.next_uid
        if numbers.may_have_lost():
            numbers.uid_validity, numbers.next_uid = 0, 1
            return False
        self.uids, self.names, self.flags = known.uids, known.names, known.flags
        self.modseqs, self.highest_modseq = known.modseqs, known.highest_modseq
        self.dates, self.saved, self.sizes = known.dates, known.saved, known.sizes
        self.recent_from = known.recent_from
        self.stamp = known.stamp
        numbers.guid = known.guid
        numbers.stamp, numbers.stale, numbers.extensions = known.list_stamp, known.stale, known.extensions
        self._by_base = None
        return True

    def _remember(self, known: index_file.Snapshot | None) -> None:
        """The folder has been read from its files: what the index knows besides, as far as it still holds."""
        known = known if known is not None and known.uid_validity == self.uid_validity else None
        old = {uid: at for at, uid in enumerate(known.uids)} if known is not None else {}
        last = known.highest_modseq if known is not None else 0
        now = int(self.clock() * 1_000_000)
        backward = now <= last
        if known is None or not known.trusted:
            self.highest_modseq = last + CHANGES_LOST if backward else now
            self.modseqs = array("Q", [self.highest_modseq]) * len(self.uids)
        else:
            self.highest_modseq = max(last + 1, now)
        for index, uid in enumerate(self.uids):
            at = old.get(uid, -1)
            if known is not None and at >= 0:
                self.dates[index], self.saved[index] = known.dates[at], known.saved[at]
                self.sizes[index] = known.sizes[at]
                if known.trusted and not (known.flags[at] ^ self.flags[index]) & ~IN_NEW:
                    self.modseqs[index] = known.modseqs[at]
                    continue
            if known is not None and known.trusted:
                self.highest_modseq += 1
                self.modseqs[index] = self.highest_modseq
        self.unsaved = True
        if backward and last:
            # The clock cannot tell the next start what has been given in this one: that is written down now.
            try:
                index_file.write(self.path, self.snapshot(NO_STAMP))
            except OSError as error:
                self.problems.append(f"{self.path}/{index_file.FILE}: {error}")

    # ---- news

    def is_stale(self) -> bool:
        """Whether the directories or the uidlist have changed since they were read (three `stat` calls)."""
        try:
            return stamp_of(self.path) != self.stamp or self.list_changed()
        except FileNotFoundError:
            return True

    def apply(self, listing: Listing) -> Delta:
        """Bring the columns to what a listing says; new messages get their UIDs, durable in the uidlist.

        Raises `OSError`, `LockBusyError` (nothing has been applied then), `FolderGoneError`.
        """
        if self.list_changed():
            self._reread_uidlist()
        delta = Delta()
        bases = {split_name(name)[0]: (name, True) for name in listing.new}
        bases.update((split_name(name)[0], (name, False)) for name in listing.cur)
        if bases.keys() != self.by_base.keys() or not self._same_names(bases):
            known = dict(self.by_base)
            # New messages first: this may fail, and nothing has been changed then.
            self._adopt([(base, *at) for base, at in bases.items() if base not in known], delta)
            index_of = {uid: index for index, uid in enumerate(self.uids)}
            for base, uid in known.items():
                if base in bases:
                    self._moved(index_of[uid], *bases[base], delta)
                else:
                    delta.removed.append(uid)
            delta.removed.sort()
            self.forget(delta.removed)
            if delta.added or delta.changed:
                self.keywords.load()
        self.stamp = NO_STAMP if delta.left_out else listing.stamp
        return delta

    def apply_events(self, events: Sequence[tuple[str, bool, bool]]) -> Delta:
        """The same from single news, in order: a file's name, whether it has come or gone, and if in `new/`.

        Raises what `apply` raises.
        """
        if self.list_changed():
            self._reread_uidlist()
        delta = Delta()
        arrived: dict[str, tuple[str, bool]] = {}
        gone: dict[int, None] = {}
        for name, come, in_new in events:
            base = split_name(name)[0]
            uid = self.by_base.get(base)
            if uid is not None:
                gone[uid] = None
            elif come:
                arrived[base] = (name, in_new)
        fresh = [(base, *at) for base, at in arrived.items() if self._there(*at)]
        self._adopt(fresh, delta)
        for name, come, in_new in events:
            uid = self.by_base.get(split_name(name)[0])
            if uid is not None and come and self._there(name, in_new):
                self._moved(self.index(uid), name, in_new, delta)
        delta.removed = sorted(uid for uid in gone if not os.path.exists(self.file(self.index(uid))))
        self.forget(delta.removed)
        if delta.added or delta.changed:
            self.keywords.load()
        return delta

    def forget_derived(self) -> list[int]:
        """Sizes and dates are read again when they are asked for; flags are what the names say. The UIDs of
        messages that had other flags in memory."""
        changed: list[int] = []
        self._by_base = None
        for at, name in enumerate(self.names):
            self.sizes[at], self.dates[at] = -1, 0
            flags = flags_of(split_name(name)[1]) | self.flags[at] & IN_NEW
            if flags != self.flags[at]:
                self.flags[at] = flags
                self.modseqs[at] = self._change()
                changed.append(self.uids[at])
        return changed

    def _there(self, name: str, in_new: bool) -> bool:
        return os.path.exists(f"{self.path}/{'new' if in_new else 'cur'}/{name}")

    def _moved(self, index: int, name: str, in_new: bool, delta: Delta) -> None:
        """A known message's file stands under this name now."""
        flags = flags_of(split_name(name)[1]) | (IN_NEW if in_new else 0)
        if (flags ^ self.flags[index]) & ~IN_NEW:
            delta.changed.append(self.uids[index])
            self.modseqs[index] = self._change()
        self.names[index] = name
        self.flags[index] = flags

    def _same_names(self, bases: dict[str, tuple[str, bool]]) -> bool:
        known = zip(self.names, self.flags, strict=True)
        found = set(bases.values())
        return all((name, bool(flags & IN_NEW)) in found for name, flags in known)

    def _adopt(self, unknown: list[tuple[str, str, bool]], delta: Delta) -> None:
        """Give UIDs to files and append them to the columns; those the uidlist knows keep theirs."""
        self.numbers.settle(self._rows)
        reserved: list[tuple[int, str, str, bool]] = []
        fresh: list[tuple[str, str, bool]] = []
        floor = self.uids[-1] if self.uids else 0
        for base, name, in_new in unknown:
            uid = self.numbers.reserved.get(base, 0)
            if uid > floor:
                reserved.append((uid, base, name, in_new))
            else:
                fresh.append((base, name, in_new))
        fresh.sort(key=lambda item: arrival_key(item[0]))
        uid = self.next_uid
        assigned = [(uid + offset, *item) for offset, item in enumerate(fresh)]
        if assigned and self.numbers.in_memory:
            self.numbers.next_uid += len(assigned)
        elif assigned:
            try:
                self.numbers.append([(number, base, "") for number, base, _, _ in assigned])
            except OSError as error:
                if not self.numbers.cannot_write(error):
                    raise
                assigned, delta.left_out = [], True
        for number, base, name, in_new in [*sorted(reserved), *assigned]:
            self.numbers.reserved.pop(base, None)
            self._insert(number, base, name, flags_of(split_name(name)[1]) | (IN_NEW if in_new else 0))
        delta.added = len(reserved) + len(assigned)

    def _insert(self, uid: int, base: str, name: str, flags: int) -> None:
        self.uids.append(uid)
        self.names.append(name)
        self.flags.append(flags)
        self.modseqs.append(self._change())
        self.dates.append(0)
        self.saved.append(int(self.clock()))
        self.sizes.append(-1)
        if self._by_base is not None:
            self._by_base[base] = uid

    # ---- the uidlist

    def list_changed(self) -> bool:
        """Whether another program has written the uidlist since it was read (one `stat` call)."""
        return self.numbers.changed()

    def _reread_uidlist(self) -> None:
        """Another program has written the uidlist (or removed it: then ours is written again)."""
        numbers = self.numbers
        before = Before(
            numbers.uid_validity,
            numbers.next_uid,
            numbers.guid,
            numbers.extensions,
            self._rows,
            lambda base: os.path.exists(self.file(self.index(self.by_base[base]))),
        )
        if not numbers.read(len(self.uids), before):
            if not os.path.isdir(self.path):
                raise FolderGoneError(f"{self.path}: deleted")
            numbers.rewrite(self._rows())
            return
        reserved = numbers.reserved
        for base in self.by_base.keys() & reserved.keys():
            del reserved[base]

    def _rows(self) -> dict[int, str]:
        return {uid: split_name(name)[0] for uid, name in zip(self.uids, self.names, strict=True)}

    def compact(self) -> None:
        """Rewrite the uidlist when too much of it is about expunged messages. Raises `OSError`."""
        if self.numbers.wasteful(len(self.uids)):
            self.numbers.rewrite(self._rows())

    # ---- changes of our own

    def added(self, name: str, in_new: bool) -> int:
        """A file has been published under `name`: its UID, given now unless a scan was faster.

        Raises `OSError`, `LockBusyError`.
        """
        return self.added_many([(name, in_new)])[0]

    def added_many(self, files: Sequence[tuple[str, bool]], guids: Sequence[str] = ()) -> list[int]:
        """The same for several files (name, and if it lies in `new/`), in ascending order of UIDs.

        `guids`: of what each is a copy (`message_guid`); without them each is a message of its own.
        """
        if self.list_changed():
            self._reread_uidlist()
        self.numbers.settle(self._rows)
        copied = {
            split_name(name)[0]: f"G{guid}" for (name, _), guid in zip(files, guids, strict=False) if guid
        }
        fresh = [
            (base, name, in_new)
            for name, in_new in files
            if (base := split_name(name)[0]) not in self.by_base
        ]
        records = [
            (self.next_uid + offset, base, copied.get(base, "")) for offset, (base, _, _) in enumerate(fresh)
        ]
        if records:
            self.numbers.append(records)
        for (uid, base, _), (_, name, in_new) in zip(records, fresh, strict=True):
            self._insert(uid, base, name, flags_of(split_name(name)[1]) | (IN_NEW if in_new else 0))
        return [self.by_base[split_name(name)[0]] for name, _ in files]

    def forget(self, gone: Iterable[int]) -> None:
        """Take messages out of the columns (their files are gone); `uids` becomes another array."""
        dead = {index for uid in gone if (index := self.index(uid)) >= 0}
        if not dead:
            return
        keep = [index for index in range(len(self.uids)) if index not in dead]
        for index in dead:
            self.by_base.pop(split_name(self.names[index])[0], None)
            self.numbers.extensions.pop(self.uids[index], None)
        self._change()
        self.uids = array("I", [self.uids[index] for index in keep])
        self.names = [self.names[index] for index in keep]
        for column in ("flags", "modseqs", "dates", "saved", "sizes"):
            old: array[int] = getattr(self, column)
            setattr(self, column, array(old.typecode, [old[index] for index in keep]))
        self.numbers.stale += len(dead)

    def move_new(self) -> None:
        """Move what lies in `new/` to `cur/`: a session has seen it. What cannot be moved stays there."""
        for index, flags in enumerate(self.flags):
            if flags & IN_NEW:
                name = self.names[index]
                target = name if INFO in name else name + INFO
                try:
                    os.rename(f"{self.path}/new/{name}", f"{self.path}/cur/{target}")
                except FileNotFoundError:
                    self.stamp = NO_STAMP
                    continue
                except OSError as error:
                    self.problems.append(f"{self.path}/new/{name}: {error}")
                    continue
                self.set_name(index, target, flags)


def _before(known: index_file.Snapshot, listing: Listing) -> Before:
    """What an index knows of the uidlist."""
    present = {split_name(name)[0] for names in (listing.new, listing.cur) for name in names}
    return Before(
        known.uid_validity,
        known.next_uid,
        known.guid,
        known.extensions,
        lambda: {uid: split_name(name)[0] for uid, name in zip(known.uids, known.names, strict=True)},
        lambda base: base in present,
    )
