"""Dovecot's passwd-file: `user:password:uid:gid:gecos:home:shell:extra_fields`, one user a line.

The file is read again when its time, size or inode has changed. A line that is empty or begins with `#` is
passed over. Extra fields are words separated by spaces; those that begin with `userdb_` belong to the userdb.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Entry:
    """One line; what it leaves out is empty. A field without `=` has the value `yes`."""

    user: str
    password: str = field(repr=False)
    home: str = ""
    passdb_fields: Mapping[str, str] = field(default_factory=dict)
    userdb_fields: Mapping[str, str] = field(default_factory=dict)


class PasswdFile:
    """One file. `find` raises `OSError` while it cannot be read and has never been."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.generation = 0
        """Counts the readings; whoever caches answers compares it."""
        self._entries: dict[str, Entry] = {}
        self._stamp: tuple[int, int, int, int] | None = None

    def find(self, user: str) -> Entry | None:
        """The entry of exactly this user. Raises `OSError`."""
        self.refresh()
        return self._entries.get(user)

    def some_password(self) -> str:
        """The stored password of the first entry that has one."""
        return next((entry.password for entry in self._entries.values() if entry.password), "")

    def refresh(self) -> None:
        """Read the file if it is another one than last time. Raises `OSError`."""
        stat = os.stat(self.path)
        # the time of the last change of status, too: archives bring modification times in whole seconds
        stamp = (stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size, stat.st_ino)
        if stamp == self._stamp:
            return
        self._entries = parse(self.path.read_bytes().decode("utf-8", "surrogateescape"))
        self._stamp = stamp
        self.generation += 1


def parse(text: str) -> dict[str, Entry]:
    """The entries of a passwd-file by user; of two lines for one user the first holds, as in Dovecot."""
    entries: dict[str, Entry] = {}
    for line in text.split("\n"):
        line = line.rstrip("\r")
        if not line or line.startswith(("#", ":")):
            continue
        fields = line.split(":", 7)
        fields += [""] * (8 - len(fields))
        user, password, _, _, _, home, _, extra = fields
        passdb: dict[str, str] = {}
        userdb: dict[str, str] = {}
        for word in extra.split():
            name, equals, value = word.partition("=")
            target = userdb if name.startswith("userdb_") else passdb
            target[name.removeprefix("userdb_")] = value if equals else "yes"
        entries.setdefault(user, Entry(user, password, home, passdb, userdb))
    return entries
