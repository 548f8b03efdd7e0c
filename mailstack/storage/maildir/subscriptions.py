"""`subscriptions` in the format of Dovecot 2.3: `V<TAB>2`, an empty line, then a mailbox a line.

The parts of a name are separated by tabs; a part escapes NUL, SOH, tab, CR and LF as Dovecot does (`\\001`
and a digit or letter). Names are UTF-8. A file without the first line is in the old format: one name a line,
with the separator and in modified UTF-7.

Each namespace of an `Account` has a file of its own; what is subscribed in one with `subscriptions = no`
stands in that of the namespace around it, with its prefix.
"""

from __future__ import annotations

from mailstack.storage.maildir.roots import Account, MailboxNameError, Namespace
from mailstack.storage.maildir.uidlist import Lock
from mailstack.wire.imap import utf7

FILE = "subscriptions"
_HEADER = "V\t2\n\n"
_ESCAPES = {"\0": "\x010", "\x01": "\x011", "\t": "\x01t", "\r": "\x01r", "\n": "\x01n"}
_UNESCAPES = {value[1]: key for key, value in _ESCAPES.items()}


def read(root: str, separator: str = ".") -> list[str]:
    """The subscribed mailboxes in the file's order; an absent file has none. Raises `OSError`."""
    if isinstance(root, Account):
        return [
            _shown(root, space, name, separator)
            for space in root.spaces
            if space.subscriptions and space.root is not None
            for name in read(str(space.root), separator)
        ]
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
    """Add or remove one mailbox; False when that was the state already. Raises `OSError`, `LockBusyError`,
    `MailboxNameError`."""
    if isinstance(root, Account):
        path, name = _file_of(root, root.canonical(name))
        return change(path, name, subscribed, separator)
    with Lock(f"{root}/{FILE}") as lock:
        names = read(root, separator)
        if (name in names) == subscribed:
            return False
        names = [*names, name] if subscribed else [other for other in names if other != name]
        lines = ("\t".join(map(_escape, item.split(separator))) + "\n" for item in names)
        lock.replace((_HEADER + "".join(lines)).encode("utf-8", "surrogateescape"))
    return True


def _file_of(root: Account, name: str) -> tuple[str, str]:
    """The root whose file a name stands in, and how it stands there."""
    space, _ = root.space_of(name) if name != "INBOX" else (root.inbox_space, "")
    if space.subscriptions and space.root is not None:
        inner = root.resolve(name).inner
        if not inner:
            raise MailboxNameError("A namespace itself cannot be subscribed to")
        return str(space.root), inner
    for other in root.spaces:
        if other.subscriptions and other.root is not None and name.startswith(other.prefix):
            if space.root is None and root.is_foreign_inbox(name):
                name = f"{name.removesuffix(_inbox(root))}{_inbox(root)}"
            return str(other.root), name[len(other.prefix) :]
    raise MailboxNameError("This namespace has no subscriptions")


def _shown(root: Account, space: Namespace, name: str, separator: str) -> str:
    """How the user sees a name of a namespace's file."""
    if space.separator == separator or space.separator not in name:
        name = space.shown(name)
    else:
        name = space.prefix + name  # of another namespace
    return name.removesuffix(_inbox(root)) if root.is_foreign_inbox(name) else name


def _inbox(root: Account) -> str:
    """What Dovecot has behind the name of another user's INBOX in the file."""
    return f"{root.separator}INBOX"


def _escape(part: str) -> str:
    return "".join(_ESCAPES.get(char, char) for char in part)


def _unescape(part: str) -> str:
    if "\x01" not in part:
        return part
    head, *rest = part.split("\x01")
    return head + "".join(_UNESCAPES.get(piece[:1], "") + piece[1:] for piece in rest)
