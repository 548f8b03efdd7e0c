"""ACLs that an administrator sets for all users: `acl = vfile:PATH`, as Dovecot's vfile backend has them.

A file's lines are a pattern of mailbox names (`*` and `?` stand for any characters, separators too) and what
a line of `dovecot-acl` says: `Public/* user=bob lr`, `"Sent Mail" owner lrw`. In a directory each mailbox has
a file of its name with such lines, and one that is a directory, as the top is for the root of a namespace,
has `.DEFAULT` in it. They come after a mailbox's own entries and count more; clients cannot change them.

Nothing there: no entries. Raises `OSError`, `AclError`.
"""

from __future__ import annotations

import os
import re
from functools import lru_cache

from mailstack.storage.maildir.acl import Acl, AclError, Entry, ordered, parse

DEFAULT = ".DEFAULT"
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)" (.*)')


def read(path: str, name: str) -> Acl:
    """The entries for a mailbox; `name` as clients see it, empty for a namespace's root."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return {}
    if os.path.isdir(path):
        if ".." in name.split("/"):
            return {}
        return _in_directory(f"{path}/{name}")
    acl: Acl = {}
    for pattern, entries in _lines(path, (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)):
        if pattern.fullmatch(name):
            for identifier, entry in entries.items():
                before = acl.get(identifier, Entry())
                acl[identifier] = Entry(
                    _both(before.rights, entry.rights), _both(before.negative, entry.negative)
                )
    return acl


def _in_directory(path: str) -> Acl:
    if os.path.isdir(path):
        path = f"{path}/{DEFAULT}"
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return parse(file.read())
    except (FileNotFoundError, NotADirectoryError):
        return {}


def _both(one: str | None, other: str | None) -> str | None:
    return other if one is None else one if other is None else ordered(one + other)


@lru_cache(maxsize=4)
def _lines(path: str, state: tuple[int, ...]) -> tuple[tuple[re.Pattern[str], Acl], ...]:
    """All lines; read again when the file's `state` has changed."""
    found = []
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        for number, line in enumerate(file.read().split("\n"), 1):
            if not line or line.startswith("#"):
                continue
            quoted = _QUOTED.fullmatch(line)
            if quoted is not None:
                pattern, rest = re.sub(r"\\(.)", r"\1", quoted[1]), quoted[2]
            else:
                pattern, _, rest = line.partition(" ")
            try:
                if line.startswith('"') and quoted is None:
                    raise AclError("Missing '\"' and a space after it")
                if not pattern or not rest.strip():
                    raise AclError("Missing ACL pattern or rights")
                found.append((_pattern(pattern), parse(rest)))
            except AclError as error:
                raise AclError(f"Global ACL file {path} line {number}: {error}") from None
    return tuple(found)


def _pattern(text: str) -> re.Pattern[str]:
    parts = (".*" if char == "*" else "." if char == "?" else re.escape(char) for char in text)
    return re.compile("".join(parts), re.DOTALL)
