"""Annotations of a mailbox, and of an account: `mailstack-metadata` in the mailbox's folder, one entry a
line.

The file goes with its folder when that is renamed or deleted. What stands in it: `V<TAB>1`, then a line
`/private/comment<TAB>value` for each entry; in a value backslash, tab, CR, LF and NUL are escaped. A file is
replaced whole, durable on return. A line that is none of this (or is cut off) is passed over. The account's
own entries stand in `mailstack-metadata-server` in its root. Raises `OSError`, `LockBusyError`.
"""

from __future__ import annotations

from collections.abc import Mapping

from mailstack.storage.durable import fsync_directory
from mailstack.storage.maildir.uidlist import Lock

FILE = "mailstack-metadata"
SERVER_FILE = "mailstack-metadata-server"
SPECIAL_USE = "/private/specialuse"
VALUE_MAX = 65536
"""Octets of one value."""
ENTRIES_MAX = 100
"""Entries of one mailbox."""
_HEADER = b"V\t1\n"
_ESCAPES = {b"\\": b"\\\\", b"\t": b"\\t", b"\r": b"\\r", b"\n": b"\\n", b"\0": b"\\0"}
_UNESCAPES = {value[1:]: key for key, value in _ESCAPES.items()}


class TooManyError(Exception):
    """The mailbox would have more than `ENTRIES_MAX` entries."""


def read(folder: str, file: str = FILE) -> dict[str, bytes]:
    """All entries; none where there is no such file."""
    try:
        with open(f"{folder}/{file}", "rb") as opened:
            data = opened.read()
    except FileNotFoundError:
        return {}
    found = {}
    for line in data.split(b"\n")[:-1]:
        name, tab, value = line.partition(b"\t")
        if tab and name.startswith(b"/"):
            found[name.decode("ascii", "replace")] = _unescape(value)
    return found


def change(folder: str, values: Mapping[str, bytes | None], file: str = FILE) -> None:
    """Set some entries, remove those with None: all or none of them. Raises `TooManyError`."""
    with Lock(f"{folder}/{file}") as lock:
        old = read(folder, file)
        new = {name: value for name, value in {**old, **values}.items() if value is not None}
        if new == old:
            return
        if len(new) > ENTRIES_MAX and len(new) > len(old):
            raise TooManyError
        lines = [b"%b\t%b\n" % (name.encode(), _escape(value)) for name, value in new.items()]
        lock.replace(_HEADER + b"".join(lines))
    fsync_directory(folder)


def _escape(value: bytes) -> bytes:
    for plain, escaped in _ESCAPES.items():
        value = value.replace(plain, escaped)
    return value


def _unescape(value: bytes) -> bytes:
    if b"\\" not in value:
        return value
    done, at = [], 0
    while (found := value.find(b"\\", at)) >= 0:
        done += [value[at:found], _UNESCAPES.get(value[found + 1 : found + 2], b"")]
        at = found + 2
    return b"".join([*done, value[at:]])
