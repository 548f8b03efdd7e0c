"""Who may do what with a mailbox: `dovecot-acl` in its folder, as Dovecot's vfile backend has it (RFC 4314).

A line is an identifier and its rights: `user=bob lrs`, `anyone l :read write-seen`; with `-` before it,
rights that are taken away. Rights that hold for a user: those of the entries that mean him, each kind of
identifier in the order of `Kind` in place of those before it; then what is taken away goes. The owner of a
private mailbox has all rights, unless an entry `owner` or one with his name says otherwise.

A mailbox without a file has those of the namespace's root, or none. A file is replaced whole, durable on
return. Raises `OSError`, `LockBusyError`, `AclError`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import IntEnum

from mailstack.storage.durable import fsync_directory
from mailstack.storage.maildir.roots import Account, Place
from mailstack.storage.maildir.uidlist import Lock

FILE = "dovecot-acl"
NAMES = {
    "l": "lookup",
    "r": "read",
    "w": "write",
    "s": "write-seen",
    "t": "write-deleted",
    "i": "insert",
    "p": "post",
    "e": "expunge",
    "k": "create",
    "x": "delete",
    "a": "admin",
}
ALL = "lrwstipekxa"
"""All rights, in the order of RFC 4314 as Dovecot tells them."""
_LETTERS = {name: letter for letter, name in NAMES.items()}
_BY_NAME = "".join(letter for letter, _ in sorted(NAMES.items(), key=lambda item: item[1]))


class AclError(ValueError):
    """A file that cannot be understood: nobody has rights by it."""


class Kind(IntEnum):
    """What an identifier means; a later one counts more."""

    ANYONE = 0
    AUTHENTICATED = 1
    GROUP = 2
    OWNER = 3
    USER = 4
    GROUP_OVERRIDE = 5


_PLAIN = {Kind.ANYONE: "anyone", Kind.AUTHENTICATED: "authenticated", Kind.OWNER: "owner"}
_NAMED = {Kind.GROUP: "group=", Kind.USER: "user=", Kind.GROUP_OVERRIDE: "group-override="}
_LINE = re.compile(r'(?:"((?:[^"\\]|\\.)*)"|(\S+))(?:[ \t]+(.*))?')


@dataclass(frozen=True, slots=True, order=True)
class Identifier:
    """Whom an entry means."""

    kind: Kind
    name: str = ""


@dataclass(frozen=True, slots=True)
class Entry:
    """Letters that are given and letters that are taken away; None: the line is not there."""

    rights: str | None = None
    negative: str | None = None


Acl = dict[Identifier, Entry]


@dataclass(frozen=True, slots=True)
class Guard:
    """What `plugin { acl… }` and the userdb say for one user. `shared`: the file of acl_shared_dict;
    `everywhere`: the file or directory of global ACLs (`acl_global`), or empty."""

    groups: tuple[str, ...] = ()
    from_inbox: bool = False
    anyone: bool = False
    shared: str = ""
    everywhere: str = ""


def ordered(rights: Iterable[str]) -> str:
    """Letters in the order of the rights' names, as Dovecot writes them."""
    wanted = set(rights)
    return "".join(letter for letter in _BY_NAME if letter in wanted)


# ---- files


def parse(text: str) -> Acl:
    """A file's content. Raises `AclError`."""
    acl: Acl = {}
    for line in text.split("\n"):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        negative = line.startswith("-")
        found = _LINE.fullmatch(line[negative:])
        if found is None:
            raise AclError(f"Invalid line: {line}")
        word = found[2] if found[1] is None else re.sub(r"\\(.)", r"\1", found[1])
        if word.startswith("-") and not negative:
            negative, word = True, word[1:]
        identifier = _identifier(word)
        rights = _rights(found[3] or "")
        entry = acl.get(identifier, Entry())
        acl[identifier] = replace(entry, negative=rights) if negative else replace(entry, rights=rights)
    return acl


def _identifier(word: str) -> Identifier:
    for kind, name in _PLAIN.items():
        if word == name:
            return Identifier(kind)
    for kind, prefix in _NAMED.items():
        if word.startswith(prefix):
            return Identifier(kind, word[len(prefix) :])
    if word == "anonymous":
        return Identifier(Kind.ANYONE)
    raise AclError(f"Unknown ID {word!r}")


def _rights(text: str) -> str:
    letters, _, named = text.partition(":")
    found = set(letters.strip())
    if not found <= NAMES.keys():
        raise AclError(f"Unknown rights: {letters.strip()}")
    for name in named.split():
        letter = _LETTERS.get(name)
        if letter is None:
            raise AclError(f"Unknown right: {name}")
        found.add(letter)
    return ordered(found)


def text_of(acl: Acl) -> str:
    """The file for it."""
    lines = []
    for identifier, entry in sorted(acl.items()):
        word = _PLAIN.get(identifier.kind, _NAMED.get(identifier.kind, "") + identifier.name)
        for sign, rights in (("", entry.rights), ("-", entry.negative)):
            if rights is not None:
                shown = sign + word
                if not re.fullmatch(r'[^\s"\\]+', shown):
                    shown = '"' + re.sub(r'(["\\])', r"\\\1", shown) + '"'
                lines.append(f"{shown} {rights}\n")
    return "".join(lines)


def read(folder: str) -> Acl | None:
    """What stands in a folder's file; None where there is none."""
    try:
        with open(f"{folder}/{FILE}", encoding="utf-8", errors="surrogateescape") as file:
            return parse(file.read())
    except FileNotFoundError:
        return None
    except NotADirectoryError:
        return None


def change(folder: str, identifier: Identifier, entry: Entry | None, before: Acl) -> None:
    """Set one entry, or remove it; `before` is what holds while there is no file."""
    with Lock(f"{folder}/{FILE}") as lock:
        acl = read(folder)
        acl = dict(before) if acl is None else acl
        if entry is None or entry == Entry():
            acl.pop(identifier, None)
        else:
            acl[identifier] = entry
        lock.replace(text_of(acl).encode("utf-8", "surrogateescape"))
    fsync_directory(folder)


def inherit(folder: str, acl: Acl) -> None:
    """A new folder begins with its parent's rights."""
    with Lock(f"{folder}/{FILE}") as lock:
        lock.replace(text_of(acl).encode("utf-8", "surrogateescape"))
    fsync_directory(folder)


# ---- who may what


def rights_by(
    acl: Acl, user: str, groups: Iterable[str], *, owner: bool, everywhere: Acl | None = None
) -> str:
    """The rights of a user, in the order of `ALL`; `owner`: the mailbox is his; `everywhere`: global entries,
    which come last."""
    entries = dict(acl)
    if owner:
        own = entries.get(Identifier(Kind.OWNER), Entry())
        if own.rights is None:
            entries[Identifier(Kind.OWNER)] = replace(own, rights=ALL)
    given: set[str] = set()
    taken: set[str] = set()
    last: dict[bool, tuple[bool, Kind] | None] = {False: None, True: None}
    local = [(False, identifier, entry) for identifier, entry in sorted(entries.items())]
    for is_global, identifier, entry in local + [
        (True, identifier, entry) for identifier, entry in sorted((everywhere or {}).items())
    ]:
        match identifier.kind:
            case Kind.USER if identifier.name != user:
                continue
            case Kind.OWNER if not owner:
                continue
            case Kind.GROUP | Kind.GROUP_OVERRIDE if identifier.name not in groups:
                continue
        for negative, letters in ((False, entry.rights), (True, entry.negative)):
            if letters is not None:
                target = taken if negative else given
                if last[negative] != (is_global, identifier.kind):
                    target.clear()
                last[negative] = is_global, identifier.kind
                target.update(letters)
    return "".join(letter for letter in ALL if letter in given - taken)


def guard_of(root: str) -> Guard | None:
    """What an account's rights depend on; None where everybody may do everything."""
    guard = root.guard if isinstance(root, Account) else None
    return guard if isinstance(guard, Guard) else None


def defaults(place: Place, guard: Guard) -> Acl:
    """What holds for a mailbox without a file."""
    space = place.space
    if not place.root:
        return {}
    if space.inbox or space.root is None:
        return (read(place.root.inbox) or {}) if guard.from_inbox else {}
    return read(place.root) or {}


# ---- acl_shared_dict: who sees something of whom


def shared_with(guard: Guard, user: str) -> list[str]:
    """The users who have given this one, or a group of his, or anyone, the right to see a mailbox."""
    if not guard.shared:
        return []
    keys = {f"user/{user}", "anyone", *(f"group/{group}" for group in guard.groups)}
    found = set()
    for key in _dict(guard.shared):
        whom, _, owner = key.removeprefix(_KEY).rpartition("/")
        if key.startswith(_KEY) and whom in keys and owner != user:
            found.add(owner)
    return sorted(found)


def share(guard: Guard, owner: str, acls: Iterable[Acl]) -> None:
    """Write anew who sees something of `owner`'s; `acls` are those of all his mailboxes."""
    if not guard.shared:
        return
    whom = set()
    for acl in acls:
        for identifier, entry in acl.items():
            if "l" not in (entry.rights or "") or identifier.name == owner:
                continue
            match identifier.kind:
                case Kind.USER:
                    whom.add(f"user/{identifier.name}")
                case Kind.GROUP | Kind.GROUP_OVERRIDE:
                    whom.add(f"group/{identifier.name}")
                case Kind.ANYONE | Kind.AUTHENTICATED:
                    whom.add("anyone")
    with Lock(guard.shared) as lock:
        lines = _dict(guard.shared)
        new = {key: value for key, value in lines.items() if not _is_of(key, owner)}
        new.update({f"{_KEY}{one}/{owner}": "1" for one in whom})
        if new != lines:
            lock.replace("".join(f"{key}\n{value}\n" for key, value in sorted(new.items())).encode())
            fsync_directory(os.path.dirname(guard.shared))


_KEY = "shared/shared-boxes/"


def _is_of(key: str, owner: str) -> bool:
    return key.startswith(_KEY) and key.rpartition("/")[2] == owner


def _dict(path: str) -> dict[str, str]:
    """Dovecot's `file:` dictionary: a line with a key, a line with its value."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            lines = file.read().split("\n")
    except FileNotFoundError:
        return {}
    return dict(zip(lines[::2], lines[1::2], strict=False))
