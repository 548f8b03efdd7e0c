"""`dovecot-keywords`: the names of the keyword letters a..z of one folder (`<index> <name>` a line)."""

from __future__ import annotations

import os

from mailstack.storage.maildir.names import KEYWORD_SHIFT, KEYWORDS_MAX
from mailstack.storage.maildir.uidlist import Lock

FILE = "dovecot-keywords"


class Keywords:
    """The keywords of a folder, with their bits. Names compare without regard to case, as flags do."""

    __slots__ = ("_bits", "_cut", "_mtime", "_path", "names")

    def __init__(self, folder: str) -> None:
        self._path = f"{folder}/{FILE}"
        self.names: list[str] = []
        self._bits: dict[str, int] = {}
        self._mtime = -1
        self._cut = -1
        """The letter whose line has no end: its name may be longer."""

    def move_to(self, folder: str) -> None:
        """The folder has been renamed."""
        self._path = f"{folder}/{FILE}"

    def load(self) -> None:
        """Read the file when it has changed; a missing one means no keywords. Raises `OSError`."""
        try:
            mtime = os.stat(self._path).st_mtime_ns
            if mtime == self._mtime:
                return
            with open(self._path, encoding="utf-8", errors="replace") as file:
                lines = file.read().split("\n")
        except FileNotFoundError:
            return
        self._mtime = mtime
        self._cut = -1
        names: dict[int, str] = {}
        for number, line in enumerate(lines, 1):
            digits, _, name = line.partition(" ")
            if digits.isascii() and digits.isdecimal() and name and int(digits) < KEYWORDS_MAX:
                names[int(digits)] = name
                if number == len(lines):
                    self._cut = int(digits)
        self.names = [names.get(index, "") for index in range(max(names, default=-1) + 1)]
        self._bits = {
            name.lower(): 1 << (KEYWORD_SHIFT + index) for index, name in enumerate(self.names) if name
        }

    def repair(self, before: list[str]) -> bool:
        """Put back what the file has lost of the names there were before; whether there was anything.

        A letter with another name keeps it. Raises `OSError`, `LockBusyError`.
        """
        names = self.names + [""] * (len(before) - len(self.names))
        for letter, name in enumerate(before):
            if not names[letter] or (letter == self._cut and name.startswith(names[letter])):
                names[letter] = name
        if names == self.names and self._cut < 0:
            return False
        with Lock(self._path) as lock:
            lock.replace(_lines(names))
        self._mtime = -1
        self.load()
        return True

    def bit(self, name: str) -> int | None:
        """The bit of a keyword, or None when the folder does not have it."""
        return self._bits.get(name.lower())

    def add(self, wanted: list[str]) -> bool:
        """Give each name a letter; False when the letters do not suffice (none is added then).

        Raises `OSError`, `LockBusyError`.
        """
        missing = [name for name in dict.fromkeys(wanted) if name.lower() not in self._bits]
        if not missing:
            return True
        with Lock(self._path) as lock:
            self.load()
            names = list(self.names)
            for name in missing:
                if name.lower() in self._bits:
                    continue
                if "" in names:
                    names[names.index("")] = name
                else:
                    names.append(name)
            if len(names) > KEYWORDS_MAX:
                return False
            lock.replace(_lines(names))
        self._mtime = -1
        self.load()
        return True

    @property
    def full(self) -> bool:
        """No letter is left."""
        return len(self.names) >= KEYWORDS_MAX and "" not in self.names

    def of(self, flags: int) -> list[str]:
        """The names of the keyword bits in `flags`, in the order of their letters."""
        bits = flags >> KEYWORD_SHIFT
        result = []
        index = 0
        while bits and index < len(self.names):
            if bits & 1 and self.names[index]:
                result.append(self.names[index])
            bits >>= 1
            index += 1
        return result


def _lines(names: list[str]) -> bytes:
    return "".join(f"{letter} {name}\n" for letter, name in enumerate(names) if name).encode()
