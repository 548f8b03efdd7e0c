"""The folders of one account in Maildir++: the root is INBOX, `.A.B` is the mailbox A.B.

Names here are what the user sees (`str`, with the separator `.`); on disk they stand in modified UTF-7. A
deleted folder is first renamed away, so that it disappears at once and whole. Everything here blocks briefly
and raises `OSError`; a name that cannot exist raises `MailboxNameError`.
"""

from __future__ import annotations

import os
import shutil

from mailstack.storage.durable import fsync_directory
from mailstack.storage.maildir.delivery import make_folder
from mailstack.wire.imap import utf7

SEPARATOR = "."
INBOX = "INBOX"
NAME_LIMIT = 250
"""Octets of a folder's directory name at the most."""
_TRASH = "..DOVECOT-TRASHED"


class MailboxNameError(ValueError):
    """A mailbox name that this layout cannot hold; the text says why, in Dovecot's words."""


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
        return root
    check_name(name)
    return f"{root}/.{_encode(name)}"


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
    return path == root or os.path.isdir(f"{path}/cur")


def names(root: str) -> list[str]:
    """All mailboxes, INBOX first, the others sorted. Directories that are no mailboxes are left out."""
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


def create(root: str, name: str) -> bool:
    """Make a mailbox; False when it exists. Raises `MailboxNameError`, `OSError`."""
    path = path_of(root, name)
    if path == root:
        made = not os.path.isdir(f"{root}/cur")
        make_folder(root)
        return made
    if os.path.isdir(f"{path}/cur"):
        return False
    make_folder(root)
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
    os.rename(path, away)
    fsync_directory(root)
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
    for source, target in pairs:
        os.rename(source, target)
    fsync_directory(root)
    return pairs
