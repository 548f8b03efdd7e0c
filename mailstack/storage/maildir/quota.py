"""How much an account may hold and how much it does: Maildir++'s `maildirsize`, as Dovecot keeps it.

`maildirsize` in the account's root: a line with the limits (`1048576S,5C`: octets, messages), then a line
`<octets> <messages>` for everything that has come or gone (negative); their sum is the use. Octets are those
on disk, with LF line ends. The file is counted anew when its limits are others, when it is cut off or no such
file, and before anything is refused. A copy that several programs append to at once stays true: lines are
appended in one write.

Rules are those of Dovecot's `quota` plugin: `*:storage=1G:messages=100` is for the account,
`Trash:storage=+10%` and `Trash:storage=+100M` add to it for what goes into that mailbox, `Trash:ignore`
leaves it out. Everything here blocks and raises `OSError`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from mailstack.storage.durable import write_all
from mailstack.storage.maildir import tree
from mailstack.storage.maildir.names import size_in_name, unique_name

FILE = "maildirsize"
SIZE_MAX = 5120
"""Octets of the file above which it is written anew (Maildir++)."""
_SIZES = {"": 1024, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_LIMIT = re.compile(r"(\+|-)?([0-9]{1,15})[ \t]*(%|[bkmgtBKMGT]?)[iI]?[bB]?")


class RuleError(ValueError):
    """A quota_rule that cannot be read."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Octets and messages."""

    storage: int = 0
    messages: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(self.storage + other.storage, self.messages + other.messages)


@dataclass(frozen=True, slots=True)
class Rule:
    """What one rule says of one resource: `value` as it stands, added to the account's, or in per cent."""

    value: int
    relative: bool = False
    percent: bool = False

    def of(self, limit: int) -> int:
        """The limit, 0 for none, when the account's is `limit`."""
        if not self.relative and not self.percent:
            return self.value
        if not limit:
            return 0
        more = limit * self.value // 100 if self.percent else self.value
        return max(1, limit + more if self.relative else more)


@dataclass(frozen=True, slots=True)
class Quota:
    """The rules for one account. Limits of 0 are none at all."""

    name: str = ""
    storage: int = 0
    messages: int = 0
    mailboxes: dict[str, tuple[Rule | None, Rule | None]] = field(default_factory=dict)
    ignored: frozenset[str] = frozenset()
    """Mailboxes of which nothing counts."""
    grace: Rule = Rule(0)
    """By how much the last message may exceed the storage, where graces are given."""

    def limits(self, mailbox: str) -> tuple[int, int]:
        """Octets and messages that the account may hold when something is put into this mailbox."""
        storage, messages = self.mailboxes.get(mailbox, (None, None))
        return (
            storage.of(self.storage) if storage is not None else self.storage,
            messages.of(self.messages) if messages is not None else self.messages,
        )

    def exceeded(self, mailbox: str, now: Usage, more: Usage, *, grace: bool = False) -> bool:
        """Whether `more` may not be put into this mailbox beside what there is `now`."""
        storage, messages = self.limits(mailbox)
        after = now + more
        if storage and grace and now.storage < storage:
            storage += self.grace.of(storage)
        return bool((storage and after.storage > storage) or (messages and after.messages > messages))

    def ignores(self, root: str, path: str) -> bool:
        """Whether what lies in the folder `path` does not count."""
        return any(_path(root, name) == path for name in self.ignored)

    def mailbox_at(self, root: str, path: str) -> str:
        """The mailbox with rules of its own that the folder `path` is; empty for one without."""
        return next((name for name in self.mailboxes if _path(root, name) == path), "")


def _path(root: str, name: str) -> str:
    try:
        return tree.path_of(root, name)
    except (tree.MailboxNameError, FileNotFoundError):
        return ""  # a name that is none in this account


def parse_rules(name: str, rules: Iterable[str], grace: str = "10%") -> Quota:
    """`*:storage=1G:messages=5`, `Trash:storage=+10%`. Raises `RuleError`."""
    storage = messages = 0
    mailboxes: dict[str, tuple[Rule | None, Rule | None]] = {}
    ignored: set[str] = set()
    for text in rules:
        mailbox, colon, rest = text.partition(":")
        if not colon or not mailbox:
            raise RuleError(f"Invalid quota rule: {text}")
        found: dict[str, Rule] = {}
        for part in rest.split(":"):
            key, _, value = part.partition("=")
            if part == "ignore" and mailbox not in ("*", "?"):
                ignored.add(tree.canonical(mailbox))
            elif key in ("storage", "bytes", "messages"):
                found["messages" if key == "messages" else "storage"] = _limit(text, key, value)
            else:
                raise RuleError(f"Invalid quota rule: {text}: unknown limit {part}")
        if mailbox in ("*", "?"):
            storage = found["storage"].of(0) if "storage" in found else storage
            messages = found["messages"].of(0) if "messages" in found else messages
        elif found:
            mailboxes[tree.canonical(mailbox)] = (found.get("storage"), found.get("messages"))
    allowed = _limit(f"quota_grace = {grace}", "storage", grace)
    return Quota(name, storage, messages, mailboxes, frozenset(ignored), allowed)


def _limit(rule: str, key: str, text: str) -> Rule:
    match = _LIMIT.fullmatch(text)
    if match is None or (key == "messages" and match[3] not in ("", "%")):
        raise RuleError(f"Invalid quota rule: {rule}: invalid limit {text}")
    unit = match[3].lower()
    scale = 1 if unit == "%" or key == "messages" else 1 if key == "bytes" and not unit else _SIZES[unit]
    number = int(match[2]) * scale
    return Rule(-number if match[1] == "-" else number, bool(match[1]), unit == "%")


def usage(root: str, quota: Quota, *, trust: bool = True) -> Usage:
    """What the account holds. `trust`: as the file says, unless it cannot be used; else counted anew when any
    folder has changed after the file."""
    path = f"{root}/{FILE}"
    try:
        with open(path, "rb") as file:
            written = os.fstat(file.fileno()).st_mtime_ns
            data = file.read(SIZE_MAX + 1)
    except FileNotFoundError:
        return recount(root, quota)
    found = _parse(data, quota)
    if found is None or (not trust and _changed_after(root, written)):
        return recount(root, quota)
    return found


def recount(root: str, quota: Quota) -> Usage:
    """Count all messages and write the file anew."""
    total = Usage()
    for name in tree.names(root):
        if name not in quota.ignored:
            total += folder_usage(tree.path_of(root, name))
    data = b"%b%d %d\n" % (_header(quota), total.storage, total.messages)
    temporary = os.path.join(root, "tmp", unique_name(0.0, "maildirsize"))
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileNotFoundError:
        return total  # the account has no folders yet
    try:
        write_all(fd, (data,))
        os.rename(temporary, f"{root}/{FILE}")
    except OSError:
        os.unlink(temporary)  # counted all the same: the file is only there to save that
    finally:
        os.close(fd)
    return total


def change(root: str, difference: Usage) -> None:
    """Something has come or gone; without a file there is nothing to do."""
    try:
        fd = os.open(f"{root}/{FILE}", os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        os.write(fd, b"%d %d\n" % (difference.storage, difference.messages))
    finally:
        os.close(fd)


def forget(root: str) -> None:
    """Have the account counted anew: a whole mailbox has gone."""
    try:
        os.unlink(f"{root}/{FILE}")
    except FileNotFoundError:
        pass


def folder_usage(path: str) -> Usage:
    """What one folder holds."""
    storage = messages = 0
    for place in ("new", "cur"):
        try:
            names = os.listdir(f"{path}/{place}")
        except FileNotFoundError:
            continue
        for name in names:
            if name.startswith("."):
                continue
            size = file_size(f"{path}/{place}/{name}")
            if size is not None:
                storage += size
                messages += 1
    return Usage(storage, messages)


def file_size(path: str) -> int | None:
    """Octets on disk, from the name where it says so; None for a file that is gone."""
    size = size_in_name(os.path.basename(path), "S")
    if size is not None:
        return size
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return None


def _header(quota: Quota) -> bytes:
    parts = []
    if quota.storage:
        parts.append(b"%dS" % quota.storage)
    if quota.messages:
        parts.append(b"%dC" % quota.messages)
    return b",".join(parts) + b"\n"


def _parse(data: bytes, quota: Quota) -> Usage | None:
    if len(data) > SIZE_MAX or not data.endswith(b"\n") or not data.startswith(header := _header(quota)):
        return None
    storage = messages = 0
    for line in data[len(header) :].splitlines():
        try:
            octets, number = map(int, line.split())
        except ValueError:
            return None
        storage += octets
        messages += number
    return Usage(storage, messages) if storage >= 0 and messages >= 0 else None


def _changed_after(root: str, when: int) -> bool:
    for name in tree.names(root):
        path = tree.path_of(root, name)
        for place in ("new", "cur"):
            try:
                if os.stat(f"{path}/{place}").st_mtime_ns >= when:  # the clock of files is coarse
                    return True
            except FileNotFoundError:
                continue
    return False
