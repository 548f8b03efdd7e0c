"""`subscriptions` in the format of Dovecot 2.3: `V<TAB>2`, an empty line, then a mailbox a line.

The parts of a name are separated by tabs; a part escapes NUL, SOH, tab, CR and LF as Dovecot does (`\\001`
and a digit or letter). Names are UTF-8. A file without the first line is in the old format: one name a line,
with the separator and in modified UTF-7.
"""

from __future__ import annotations

from mailstack.storage.maildir.uidlist import Lock
from mailstack.wire.imap import utf7

FILE = "subscriptions"
_HEADER = "V\t2\n\n"
_ESCAPES = {"\0": "\x010", "\x01": "\x011", "\t": "\x01t", "\r": "\x01r", "\n": "\x01n"}
_UNESCAPES = {value[1]: key for key, value in _ESCAPES.items()}


def read(root: str, separator: str = ".") -> list[str]:
    """The subscribed mailboxes in the file's order; an absent file has none. Raises `OSError`."""
    try:
        with open(f"{root}/{FILE}", encoding="utf-8", errors="surrogateescape") as file:
            text = file.read()
    except FileNotFoundError:
        return []
    if text and _HEADER.startswith(text):
        return []  # cut off in the first line
    if text.startswith(_HEADER[:4]):
        # What stands behind the last line end is half a name.
        lines = text[len(_HEADER) :].split("\n")[:-1]
        return [separator.join(map(_unescape, line.split("\t"))) for line in lines if line]
    names = []
    for line in text.split("\n"):
        if line:
            try:
                names.append(utf7.decode(line.encode("utf-8", "surrogateescape")))
            except ValueError:
                continue
    return names


def change(root: str, name: str, subscribed: bool, separator: str = ".") -> bool:
    """Add or remove one mailbox; False when that was the state already. Raises `OSError`, `LockBusyError`."""
    with Lock(f"{root}/{FILE}") as lock:
        names = read(root, separator)
        if (name in names) == subscribed:
            return False
        names = [*names, name] if subscribed else [other for other in names if other != name]
        lines = ("\t".join(map(_escape, item.split(separator))) + "\n" for item in names)
        lock.replace((_HEADER + "".join(lines)).encode("utf-8", "surrogateescape"))
    return True


def _escape(part: str) -> str:
    return "".join(_ESCAPES.get(char, char) for char in part)


def _unescape(part: str) -> str:
    if "\x01" not in part:
        return part
    head, *rest = part.split("\x01")
    return head + "".join(_UNESCAPES.get(piece[:1], "") + piece[1:] for piece in rest)
