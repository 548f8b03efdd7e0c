"""The folders of one account in Maildir++: the root is INBOX, `.A.B` is the mailbox A.B.

A `MailRoot` is a root with other places: directories in directories (`LAYOUT=fs`), or an INBOX elsewhere; an
`Account` has several roots (see `roots`). Names here are what the user sees (`str`, with the separator `.`,
or the account's); on disk they stand in modified UTF-7. A deleted folder is first renamed away, so that it
disappears at once and whole. Everything here blocks briefly and raises `OSError`; a name that cannot exist
raises `MailboxNameError`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator

from mailstack.storage.durable import fsync_directory
from mailstack.storage.maildir import acl, acl_global
from mailstack.storage.maildir.delivery import make_folder
from mailstack.storage.maildir.roots import INBOX as INBOX
from mailstack.storage.maildir.roots import SEPARATOR as SEPARATOR
from mailstack.storage.maildir.roots import Account, Namespace, Place
from mailstack.storage.maildir.roots import MailboxNameError as MailboxNameError
from mailstack.storage.maildir.roots import MailRoot as MailRoot
from mailstack.wire.imap import utf7

NAME_LIMIT = 250
"""Octets of a folder's directory name at the most."""
_TRASH = "..DOVECOT-TRASHED"
SUBDIRECTORIES = frozenset(("cur", "new", "tmp"))
DEPTH_LIMIT = 20
"""Directories below one another that are looked for (`LAYOUT=fs`)."""


def inbox_of(root: str) -> str:
    """The directory of the INBOX."""
    return root.inbox if isinstance(root, MailRoot) else root


def mbox_of(root: str) -> str:
    """The mbox file that the INBOX is a copy of, empty where it is none."""
    return root.mbox if isinstance(root, MailRoot) else ""


def _is_fs(root: str) -> bool:
    return isinstance(root, MailRoot) and root.fs


def separator_of(root: str) -> str:
    """What stands between the parts of names."""
    return root.separator if isinstance(root, Account) else SEPARATOR


def main_of(root: str) -> str:
    """The root of the inbox namespace alone: what a quota counts."""
    return root.main if isinstance(root, Account) else root


def located(root: str, name: str) -> tuple[str, str]:
    """The root that a mailbox lies in, and its name there. Raises `MailboxNameError`; `FileNotFoundError` for
    what is no mailbox but a namespace."""
    if not isinstance(root, Account):
        return root, name
    place = root.resolve(name)
    if not (place.inner or place.root.inboxless):
        raise FileNotFoundError(f"{name} is a namespace")
    return place.root, place.inner


def canonical(name: str, root: str = "") -> str:
    """`INBOX` for every spelling of it; other names as they are."""
    if isinstance(root, Account):
        return root.canonical(name)
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
    """The directory of a mailbox, whether it exists or not. Raises `MailboxNameError`; see `located`."""
    root, name = located(root, name)
    if is_inboxless(root):
        if not name:
            return str(root)
    elif (name := canonical(name)) == INBOX:
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
        root, name = located(root, name)
        path = path_of(root, name)
    except (MailboxNameError, FileNotFoundError):
        return False
    return is_always(root, path) or os.path.isdir(f"{path}/cur")


def is_always(root: str, path: str) -> bool:
    """Whether the directory is an INBOX, which is made when it is not there."""
    return path == inbox_of(root) and not is_inboxless(root)


def is_inboxless(root: str) -> bool:
    """Whether the root is that of a namespace beside the inbox's."""
    return isinstance(root, MailRoot) and root.inboxless


def names(root: str) -> list[str]:
    """All mailboxes, INBOX first, the others sorted. Directories that are no mailboxes are left out, and
    mailboxes that the user may not see."""
    if isinstance(root, Account):
        seen = set(visible(root, root.spaces))
        return [INBOX, *sorted(seen - {INBOX})]
    beside = is_inboxless(root)
    first = [INBOX] if not beside else [""] if exists(root, "") else []
    if _is_fs(root):
        found = list(_below(root, "", 0))
        return first + sorted(name for name in found if beside or name == canonical(name) != INBOX)
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
        if not beside and (name != canonical(name) or name == INBOX):
            continue
        if os.path.isdir(f"{root}/{entry}/cur"):
            found.append(name)
    return first + sorted(found)


def visible(root: Account, spaces: Iterable[Namespace]) -> Iterator[str]:
    """The mailboxes of some namespaces that the user may see."""
    guard = acl.guard_of(root)
    for space in spaces:
        for place in _places(root, space):
            name = space.shown(place.inner, place.owner)
            try:
                if root.resolve(name)[:3] != place[:3]:
                    continue  # another namespace has the name
            except (MailboxNameError, FileNotFoundError):
                continue
            if guard is None or "l" in _rights(root, place):
                yield name


def _places(root: Account, space: Namespace) -> Iterator[Place]:
    if space.root is not None:
        for inner in names(space.root):
            yield Place(space, space.root, inner, "")
        return
    guard = acl.guard_of(root)
    for owner in acl.shared_with(guard, root.user) if guard is not None else ():
        other = root.found(owner)
        if other is not None:
            for inner in names(other):
                yield Place(space, other, inner, owner)


def rights(root: str, name: str, folder: str = "") -> str:
    """What the user may do with a mailbox, by letters of RFC 4314: everything where there are no ACLs. Of one
    that does not exist: what could be done with it. `folder`: where it is now, if it has been renamed
    meanwhile. Raises `MailboxNameError`."""
    if not isinstance(root, Account) or acl.guard_of(root) is None:
        return acl.ALL
    try:
        return _rights(root, root.resolve(name), folder)
    except FileNotFoundError:
        return ""


def parent_rights(root: str, name: str) -> str:
    """What the user may do with the mailbox above, or with the namespace's root."""
    if not isinstance(root, Account) or acl.guard_of(root) is None:
        return acl.ALL
    try:
        place = root.resolve(name)
        return _rights(root, place._replace(inner=place.inner.rpartition(SEPARATOR)[0]))
    except FileNotFoundError:
        return ""


def acl_of(root: Account, name: str) -> acl.Acl:
    """The entries that hold for a mailbox. Raises `AclError`, `OSError`, `MailboxNameError`."""
    return _entries(root, root.resolve(name))


def global_acl_of(root: Account, name: str) -> acl.Acl:
    """The global entries for a mailbox. Raises `AclError`, `OSError`, `MailboxNameError`."""
    return _everywhere(root, root.resolve(name))


def _everywhere(root: Account, place: Place) -> acl.Acl:
    guard = acl.guard_of(root)
    if guard is None or not guard.everywhere:
        return {}
    return acl_global.read(
        guard.everywhere, place.space.shown(place.inner, place.owner) if place.inner else ""
    )


def _entries(root: Account, place: Place, folder: str = "") -> acl.Acl:
    guard = acl.guard_of(root)
    assert guard is not None
    found = acl.read(folder or path_of(place.root, place.inner)) if place.inner else None
    return acl.defaults(place, guard) if found is None else found


def _rights(root: Account, place: Place, folder: str = "") -> str:
    guard = acl.guard_of(root)
    assert guard is not None
    try:
        entries = _entries(root, place, folder)
        everywhere = _everywhere(root, place)
    except (acl.AclError, OSError) as error:
        root.report(f"{place.root}: {acl.FILE} of {place.inner}: {error}")
        return ""
    owner = place.space.type == "private"
    return acl.rights_by(entries, root.user, guard.groups, owner=owner, everywhere=everywhere)


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
    """Make a mailbox, with its parent's ACL; False when it exists. Raises `MailboxNameError`, `OSError`."""
    if isinstance(root, Account):
        place = root.resolve(name)
        made = create(*located(root, name))
        above = place._replace(inner=place.inner.rpartition(SEPARATOR)[0])
        if (
            made
            and acl.guard_of(root) is not None
            and place.inner
            and not is_always(place.root, path_of(root, name))
            and (entries := _entries(root, above))
        ):
            acl.inherit(path_of(root, name), entries)
        return made
    path = path_of(root, name)
    inbox = inbox_of(root)
    if path == inbox:
        made = not os.path.isdir(f"{path}/cur")
        make_folder(path)
        os.makedirs(root, 0o700, exist_ok=True)
        return made
    if os.path.isdir(f"{path}/cur"):
        return False
    if is_inboxless(root):
        os.makedirs(root, 0o700, exist_ok=True)
    else:
        make_folder(inbox)
    make_folder(path)
    os.close(os.open(f"{path}/maildirfolder", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
    fsync_directory(path)
    return True


def delete(root: str, name: str, unique: str) -> str:
    """Make a mailbox disappear; returns what `purge` has to remove. `unique` is a name nobody else uses.

    Raises `FileNotFoundError`.
    """
    root, name = located(root, name)
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
    (root, old), (other, new) = located(root, old), located(root, new)
    pairs = [
        (path_of(root, name), path_of(other, new + name[len(old) :]))
        for name in names(root)
        if path_of(root, name) != inbox_of(root) and (name == old or name.startswith(old + SEPARATOR))
    ]
    if not pairs:
        raise FileNotFoundError(f"{root}: no mailbox {old}")
    for _, target in pairs:
        if os.path.exists(target):
            raise FileExistsError(target)
    if _is_fs(root) != _is_fs(other):
        raise MailboxNameError("Renaming is not supported between namespaces of different layouts")
    if other != root:
        os.makedirs(other, 0o700, exist_ok=True)
    if _is_fs(root):
        source, target = path_of(root, old), path_of(other, new)
        os.makedirs(os.path.dirname(target), 0o700, exist_ok=True)
        os.rename(source, target)  # and all that is in it
        fsync_directory(os.path.dirname(target))
        fsync_directory(os.path.dirname(source))
        return pairs
    for source, target in pairs:
        os.rename(source, target)
    fsync_directory(root)
    if other != root:
        fsync_directory(other)
    return pairs
