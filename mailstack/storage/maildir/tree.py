"""The folders of one account in Maildir++: the root is INBOX, `.A.B` is the mailbox A.B.

A `MailRoot` is a root with other places: directories in directories (`LAYOUT=fs`), or an INBOX elsewhere.
Names here are what the user sees (`str`, with the separator `.`); on disk they stand in modified UTF-7. A
deleted folder is first renamed away, so that it disappears at once and whole. Everything here blocks briefly
and raises `OSError`; a name that cannot exist raises `MailboxNameError`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

from mailstack.storage.durable import fsync_directory
from mailstack.storage.maildir.delivery import make_folder
from mailstack.wire.imap import utf7

SEPARATOR = "."
INBOX = "INBOX"
NAME_LIMIT = 250
"""Octets of a folder's directory name at the most."""
_TRASH = "..DOVECOT-TRASHED"
SUBDIRECTORIES = frozenset(("cur", "new", "tmp"))
DEPTH_LIMIT = 20
"""Directories below one another that are looked for (`LAYOUT=fs`)."""


class MailboxNameError(ValueError):
    """A mailbox name that this layout cannot hold; the text says why, in Dovecot's words."""


class MailRoot(str):
    """A root with options of mail_location. `fs`: `A.B` lies in `A/B`; `inbox`: where the INBOX is; `mbox`:
    the file that the INBOX is a copy of (see `from_mbox`), then there is nothing else."""

    fs: bool
    inbox: str
    mbox: str

    def __new__(cls, path: str, *, fs: bool = False, inbox: str = "", mbox: str = "") -> MailRoot:
        root = super().__new__(cls, path)
        root.mbox = mbox
        root.fs = fs
        root.inbox = inbox or str(path)
        return root


def inbox_of(root: str) -> str:
    """The directory of the INBOX."""
    return root.inbox if isinstance(root, MailRoot) else root


def mbox_of(root: str) -> str:
    """The mbox file that the INBOX is a copy of, empty where it is none."""
    return root.mbox if isinstance(root, MailRoot) else ""


def _is_fs(root: str) -> bool:
    return isinstance(root, MailRoot) and root.fs


def canonical(name: str) -> str:
    """`INBOX` for every spelling of it; other names as they are."""
    if name[:5].upper() == INBOX and (len(name) == 5 or name[5] == SEPARATOR):
        return INBOX + name[5:]
    return name


def check_name(name: str) -> None:
    """Raises `MailboxNameError` for a name that cannot be a mailbox."""
    problem = ""
    if not name:
        problem = "Name is empty"
    elif name.startswith(SEPARATOR):
        problem = "Begins with hierarchy separator"
    elif name.endswith(SEPARATOR):
        problem = "Ends with hierarchy separator"
    elif SEPARATOR * 2 in name:
        problem = "Has adjacent hierarchy separators"
    elif "/" in name:
        problem = "Name must not have '/' characters"
    elif not name.isprintable() and any(ord(char) < 32 or char == "\x7f" for char in name):
        problem = "Contains control characters"
    elif len(_encode(name)) > NAME_LIMIT:
        problem = "Mailbox name too long"
    if problem:
        raise MailboxNameError(problem)


def path_of(root: str, name: str) -> str:
    """The directory of a mailbox, whether it exists or not. Raises `MailboxNameError`."""
    name = canonical(name)
    if name == INBOX:
        return inbox_of(root)
    check_name(name)
    if mbox_of(root):
        raise MailboxNameError("Only the INBOX of mbox files can be read")
    if not _is_fs(root):
        return f"{root}/.{_encode(name)}"
    parts = [_encode(part) for part in name.split(SEPARATOR)]
    if not SUBDIRECTORIES.isdisjoint(parts):
        raise MailboxNameError("Contains the name of a Maildir's own directory")
    return "/".join([str(root), *parts])


def _encode(name: str) -> str:
    try:
        return utf7.encode(name).decode("ascii")
    except UnicodeEncodeError as error:
        raise MailboxNameError("Invalid UTF-8") from error


def exists(root: str, name: str) -> bool:
    """Whether there is such a mailbox; INBOX always exists."""
    try:
        path = path_of(root, name)
    except MailboxNameError:
        return False
    return path == inbox_of(root) or os.path.isdir(f"{path}/cur")


def names(root: str) -> list[str]:
    """All mailboxes, INBOX first, the others sorted. Directories that are no mailboxes are left out."""
    if _is_fs(root):
        found = list(_below(root, "", 0))
        return [INBOX, *sorted(name for name in found if name != INBOX and name == canonical(name))]
    found = []
    try:
        entries = os.listdir(root)
    except FileNotFoundError:
        entries = []
    for entry in entries:
        if not entry.startswith(".") or entry.startswith("..") or len(entry) < 2:
            continue
        try:
            name = utf7.decode(os.fsencode(entry[1:]))
        except ValueError:
            continue
        if name != canonical(name) or name == INBOX:
            continue
        if os.path.isdir(f"{root}/{entry}/cur"):
            found.append(name)
    return [INBOX, *sorted(found)]


def _below(folder: str, prefix: str, depth: int) -> Iterator[str]:
    """The mailboxes in the directories of a directory (`LAYOUT=fs`)."""
    try:
        entries = list(os.scandir(folder))
    except OSError:
        return
    for entry in entries:
        if entry.name[0] == "." or entry.name in SUBDIRECTORIES or not entry.is_dir(follow_symlinks=False):
            continue
        try:
            part = utf7.decode(os.fsencode(entry.name))
        except ValueError:
            continue
        if SEPARATOR in part:
            continue  # no name leads there
        if os.path.isdir(f"{entry.path}/cur"):
            yield prefix + part
        if depth < DEPTH_LIMIT:
            yield from _below(entry.path, prefix + part + SEPARATOR, depth + 1)


def create(root: str, name: str) -> bool:
    """Make a mailbox; False when it exists. Raises `MailboxNameError`, `OSError`."""
    path = path_of(root, name)
    inbox = inbox_of(root)
    if path == inbox:
        made = not os.path.isdir(f"{path}/cur")
        make_folder(path)
        os.makedirs(root, 0o700, exist_ok=True)
        return made
    if os.path.isdir(f"{path}/cur"):
        return False
    make_folder(inbox)
    make_folder(path)
    os.close(os.open(f"{path}/maildirfolder", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
    fsync_directory(path)
    return True


def delete(root: str, name: str, unique: str) -> str:
    """Make a mailbox disappear; returns what `purge` has to remove. `unique` is a name nobody else uses.

    Raises `FileNotFoundError`.
    """
    path = path_of(root, name)
    trash = f"{root}/{_TRASH}"
    os.makedirs(trash, 0o700, exist_ok=True)
    away = f"{trash}/{unique}"
    if not _is_fs(root):
        os.rename(path, away)
        fsync_directory(root)
        return away
    os.mkdir(away, 0o700)
    os.rename(f"{path}/cur", f"{away}/cur")  # the mailbox is no more, those below it stay
    for entry in list(os.scandir(path)):
        if entry.name in SUBDIRECTORIES or not entry.is_dir(follow_symlinks=False):
            os.rename(entry.path, f"{away}/{entry.name}")
    try:
        os.rmdir(path)
    except OSError:
        pass
    fsync_directory(os.path.dirname(path))
    return away


def purge(away: str) -> None:
    """Remove what `delete` has renamed away, and the place for such things when it is empty."""
    shutil.rmtree(away, ignore_errors=True)
    try:
        os.rmdir(os.path.dirname(away))
    except OSError:
        pass


def rename(root: str, old: str, new: str) -> list[tuple[str, str]]:
    """Rename a mailbox and all below it; returns the pairs of old and new directories.

    Raises `FileNotFoundError`, `FileExistsError`, `MailboxNameError`.
    """
    pairs = [
        (path_of(root, name), path_of(root, new + name[len(old) :]))
        for name in names(root)[1:]
        if name == old or name.startswith(old + SEPARATOR)
    ]
    if not pairs:
        raise FileNotFoundError(f"{root}: no mailbox {old}")
    for _, target in pairs:
        if os.path.exists(target):
            raise FileExistsError(target)
    if _is_fs(root):
        source, target = path_of(root, old), path_of(root, new)
        os.makedirs(os.path.dirname(target), 0o700, exist_ok=True)
        os.rename(source, target)  # and all that is in it
        fsync_directory(os.path.dirname(target))
        fsync_directory(os.path.dirname(source))
        return pairs
    for source, target in pairs:
        os.rename(source, target)
    fsync_directory(root)
    return pairs
