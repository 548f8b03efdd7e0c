"""What is known of a folder's messages: parallel columns in UID order, see `folder`."""

from __future__ import annotations

import os
import sys
import time
from array import array
from bisect import bisect_left
from collections.abc import Callable

from mailstack.storage.maildir import index as index_file
from mailstack.storage.maildir.keywords import Keywords
from mailstack.storage.maildir.listing import NO_STAMP, Stamp
from mailstack.storage.maildir.names import SEEN, size_in_name, split_name, suffix_of
from mailstack.storage.maildir.numbers import Numbers
from mailstack.storage.maildir.uidlist import FILE

IN_NEW = 1 << 32
_UNSEEN = bytes(not octet & SEEN for octet in range(256))
"""System flags -> 1 where \\Seen is missing."""


class Columns:
    """The columns, how they are looked at, and how one message's are set. Part of `Folder`."""

    __slots__ = (
        "_by_base",
        "_first_unseen",
        "clock",
        "dates",
        "flags",
        "highest_modseq",
        "keywords",
        "modseqs",
        "names",
        "numbers",
        "path",
        "problems",
        "recent_from",
        "saved",
        "sizes",
        "stamp",
        "uids",
        "unsaved",
    )

    def __init__(self, path: str, clock: Callable[[], float] = time.time) -> None:
        self.path = path
        self.clock = clock
        self.uids: array[int] = array("I")
        self.names: list[str] = []
        self.flags: array[int] = array("Q")
        self.modseqs: array[int] = array("Q")
        self.dates: array[int] = array("q")
        self.saved: array[int] = array("q")
        self.sizes: array[int] = array("q")
        self.highest_modseq = 1
        self.unsaved = False
        self._by_base: dict[str, int] | None = None
        self._first_unseen = (-1, -1)
        """The sequence at which it was looked for, and the position."""
        self.keywords = Keywords(path)
        self.recent_from = 1
        self.problems: list[str] = []
        self.numbers = Numbers(path, self.problems)
        self.stamp = NO_STAMP

    def snapshot(self, stamp: Stamp) -> index_file.Snapshot:
        """What `index.write` takes; the columns are copies. `stamp`: `NO_STAMP` when in doubt."""
        return index_file.Snapshot(
            uid_validity=self.uid_validity,
            next_uid=self.next_uid,
            recent_from=self.recent_from,
            stale=self.numbers.stale,
            highest_modseq=self.highest_modseq,
            stamp=stamp,
            list_stamp=self.numbers.stamp or (0, 0, 0),
            guid=self.guid,
            uids=self.uids[:],
            flags=self.flags[:],
            modseqs=self.modseqs[:],
            dates=self.dates[:],
            saved=self.saved[:],
            sizes=self.sizes[:],
            names=self.names[:],
            extensions=dict(self.numbers.extensions),
            keywords=self.keywords.names[:],
        )

    def _change(self) -> int:
        """The next modification sequence. What the index says of them is out of date from now on."""
        if not self.unsaved:
            self.unsaved = True
            try:
                index_file.mark(self.path)
            except OSError as error:
                self.problems.append(f"{self.path}/{index_file.FILE}: {error}")
                self._drop_index()
        self.highest_modseq += 1
        return self.highest_modseq

    def _drop_index(self) -> None:
        """It says that nothing has changed, and cannot be told otherwise: then it must go."""
        try:
            os.unlink(f"{self.path}/{index_file.FILE}")
        except OSError as error:
            self.problems.append(f"{self.path}/{index_file.FILE}: not removed: {error}")

    # ---- of the folder

    @property
    def uid_validity(self) -> int:
        return self.numbers.uid_validity

    @property
    def next_uid(self) -> int:
        """The UID that the next message will get."""
        return self.numbers.next_uid

    @property
    def guid(self) -> str:
        """Of the mailbox: 32 hexadecimal digits."""
        return self.numbers.guid

    def extension(self, uid: int, key: str) -> str | None:
        """The field of a message's record in the uidlist that begins with this letter, without it."""
        for item in self.numbers.extensions.get(uid, "").split(" "):
            if item[:1] == key:
                return item[1:]
        return None

    # ---- lookups

    def index(self, uid: int) -> int:
        """The position of a UID in the columns, or -1."""
        at = bisect_left(self.uids, uid)
        return at if at < len(self.uids) and self.uids[at] == uid else -1

    def file(self, index: int) -> str:
        """The path of a message's file."""
        return f"{self.path}/{'new' if self.flags[index] & IN_NEW else 'cur'}/{self.names[index]}"

    def date(self, index: int) -> int:
        """When the message arrived here: the file's modification time, in whole seconds. Raises `OSError`."""
        date = self.dates[index]
        if not date:
            date = self.dates[index] = int(os.stat(self.file(index)).st_mtime)
        return date

    def saved_date(self, index: int) -> int:
        """When the message came into this folder (RFC 8514): seconds since 1970. Raises `OSError`.

        Nobody has seen it come: the last change of its file, until it changes again.
        """
        date = self.saved[index]
        if not date:
            date = self.saved[index] = int(os.stat(self.file(index)).st_ctime)
        return date

    def message_guid(self, index: int) -> str:
        """What Dovecot takes as the message's GUID, the same for its copies: the first one's base name."""
        return self.extension(self.uids[index], "G") or split_name(self.names[index])[0]

    @property
    def by_base(self) -> dict[str, int]:
        """Base name -> UID, of all messages."""
        if self._by_base is None:
            self._by_base = {
                split_name(name)[0]: uid for name, uid in zip(self.names, self.uids, strict=True)
            }
        return self._by_base

    def system_flags(self) -> bytes:
        """One octet a message: its system flags, without \\Recent. For counting and finding in bulk."""
        octets = memoryview(self.flags).cast("B")
        return bytes(octets[:: self.flags.itemsize] if sys.byteorder == "little" else octets[7::8])

    def first_unseen(self) -> int:
        """The position of the first message without \\Seen, or -1; kept until something changes."""
        if self._first_unseen[0] != self.highest_modseq:
            found = self.system_flags().translate(_UNSEEN).find(1)
            self._first_unseen = (self.highest_modseq, found)
        return self._first_unseen[1]

    def size_in_name(self, index: int, key: str) -> int | None:
        """`S` or `W` of the file's name, else of the uidlist's extension fields, else None."""
        size = size_in_name(self.names[index], key)
        if size is None and self.numbers.extensions:
            text = self.extension(self.uids[index], key)
            if text is not None and text.isdecimal():
                return int(text)
        return size

    # ---- changes

    def move_to(self, path: str) -> None:
        """The folder's directory has been renamed."""
        self.path = path
        self.numbers.path = f"{path}/{FILE}"
        self.keywords.move_to(path)

    def renamed(self, index: int, flags: int) -> str:
        """The name in `cur/` that a message with these flags has."""
        return split_name(self.names[index])[0] + suffix_of(flags & ~IN_NEW)

    def set_name(self, index: int, name: str, flags: int) -> None:
        """A message's file now stands in `cur/` under `name`."""
        if (flags ^ self.flags[index]) & ~IN_NEW:
            self.modseqs[index] = self._change()
        self.names[index] = name
        self.flags[index] = flags & ~IN_NEW
