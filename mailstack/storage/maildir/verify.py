"""Does everything that stands in the files of a folder agree? Reads only, beside whoever uses the folder.

What another program is changing just now looks wrong for a moment: a finding counts when a second look, some
tenths of a second later, finds it again (`lasting`).
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from mailstack.storage.maildir import cache, index
from mailstack.storage.maildir.keywords import Keywords
from mailstack.storage.maildir.listing import read_listing, stamp_of
from mailstack.storage.maildir.message import open_message
from mailstack.storage.maildir.names import KEYWORD_SHIFT, flags_of, size_in_name, split_name
from mailstack.storage.maildir.uidlist import FILE as UIDLIST
from mailstack.storage.maildir.uidlist import UidList, parse
from mailstack.wire.mime.lines import release, wire_size

LETTERS = "abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True, slots=True)
class Finding:
    """What is wrong in a folder; `uid` 0: nobody knows which message's it is, or the whole folder's."""

    uid: int
    text: str


def lasting(path: str, wait: Callable[[], None]) -> list[Finding]:
    """What is wrong in the folder at `path`, before `wait` and after it. Raises `OSError`."""
    before = list(findings(path))
    if not before:
        return []
    wait()
    after = set(findings(path))
    return [finding for finding in before if finding in after]


def findings(path: str) -> Iterator[Finding]:
    """What is wrong in the folder at `path` now. Raises `OSError`."""
    try:
        with open(f"{path}/{UIDLIST}", "rb") as file:
            known = parse(file.read())
    except FileNotFoundError:
        known = UidList(0, 1, "")
    if known is None:
        yield Finding(0, f"{UIDLIST}: its first line cannot be used")
        known = UidList(0, 1, "")
    elif known.problem:
        yield Finding(0, f"{UIDLIST}: {known.problem}")
    yield from _twice(known)
    uids = dict(zip(known.bases, known.uids, strict=True))
    listing = read_listing(path)
    files = [(name, "new") for name in listing.new] + [(name, "cur") for name in listing.cur]
    keywords = Keywords(path)
    keywords.load()
    counted = Counter(split_name(name)[0] for name, _ in files)
    for name, place in files:
        base = split_name(name)[0]
        uid = uids.get(base, 0)
        if counted[base] > 1:
            yield Finding(uid, f"{place}/{name}: {counted[base]} files have this name")
        if not uid and place == "cur":
            yield Finding(0, f"{place}/{name}: has no UID in {UIDLIST}")
        yield from _file(f"{path}/{place}/{name}", f"{place}/{name}", uid, keywords)
    yield from _index(path, uids, dict(files))
    if problem := cache.damage(path, known.uid_validity):
        yield Finding(0, f"{cache.FILE}: {problem}")


def _twice(known: UidList) -> Iterator[Finding]:
    counted = Counter(known.bases)
    if len(counted) < len(known.bases):
        for uid, base in zip(known.uids, known.bases, strict=True):
            if counted[base] > 1:
                yield Finding(uid, f"{UIDLIST}: {base} stands there {counted[base]} times")


def _file(path: str, shown: str, uid: int, keywords: Keywords) -> Iterator[Finding]:
    """A message's file: can it be read, are the sizes in its name true, has each letter a meaning?"""
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            yield Finding(uid, f"{shown}: is no file")
            return
        data = open_message(path)
        virtual = wire_size(data)
        release(data)
    except FileNotFoundError:
        return  # renamed or removed meanwhile
    except OSError as error:
        yield Finding(uid, f"{shown}: {error.strerror or error}")
        return
    name = os.path.basename(path)
    for key, is_now in (("S", status.st_size), ("W", virtual)):
        said = size_in_name(name, key)
        if said is not None and said != is_now:
            yield Finding(uid, f"{shown}: its name says {key}={said}, it has {is_now} octets")
    bits = flags_of(split_name(name)[1]) >> KEYWORD_SHIFT
    for number, letter in enumerate(LETTERS):
        if bits >> number & 1 and not (number < len(keywords.names) and keywords.names[number]):
            yield Finding(uid, f"{shown}: nothing in dovecot-keywords says what the letter {letter} means")


def _index(path: str, uids: dict[str, int], files: dict[str, str]) -> Iterator[Finding]:
    try:
        known = index.read(path)
    except index.DamagedIndexError as error:
        yield Finding(0, f"{index.FILE}: {error}")
        return
    if known is None or not known.trusted or known.stamp != stamp_of(path):
        return  # it says itself that the folder has changed since: it is compared when it is used
    for uid, name, flags in zip(known.uids, known.names, known.flags, strict=True):
        base, suffix = split_name(name)
        if name not in files or uids.get(base) != uid:
            yield Finding(uid, f"{index.FILE}: {name} is not there with this UID")
        elif (flags_of(suffix) ^ flags) & 0xFFFFFFFF:
            yield Finding(uid, f"{index.FILE}: its flags are not those of {name}")
    missing = len(files.keys() - set(known.names))
    if missing:
        yield Finding(0, f"{index.FILE}: {missing} files are not in it")
