"""Where an account's mailboxes lie: one Maildir, or several namespaces with a Maildir each.

A plain root is a `str`. A `MailRoot` has options of mail_location. An `Account` is the root of the inbox
namespace that knows the others too: `tree`'s functions take any of the three, and names are what the user
sees. Inside one root the separator is always `SEPARATOR`; `Account.resolve` translates. Nothing here touches
the disk.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

SEPARATOR = "."
INBOX = "INBOX"


class MailboxNameError(ValueError):
    """A mailbox name that this layout cannot hold; the text says why, in Dovecot's words."""


class NoNamespaceError(MailboxNameError):
    """A mailbox name outside all namespaces."""


class MailRoot(str):
    """A root with options of mail_location. `fs`: `A.B` lies in `A/B`; `inbox`: where the INBOX is; `mbox`:
    the file that the INBOX is a copy of (see `from_mbox`), then there is nothing else. `inboxless`
    (namespaces with `inbox = no`): the root is a mailbox only when it has been made one, its name is empty,
    and INBOX is a name like others."""

    fs: bool
    inbox: str
    mbox: str
    inboxless: bool

    def __new__(
        cls, path: str, *, fs: bool = False, inbox: str = "", mbox: str = "", inboxless: bool = False
    ) -> MailRoot:
        root = super().__new__(cls, path)
        root.mbox = mbox
        root.fs = fs
        root.inbox = inbox or str(path)
        root.inboxless = inboxless
        return root


@dataclass(frozen=True, slots=True)
class Namespace:
    """A `namespace` block for one user. `prefix` ends with the separator, or is empty; one of type shared
    holds `%u`, `%n`, `%d` for another user, and has no `root`."""

    type: str
    prefix: str
    separator: str
    root: MailRoot | None
    inbox: bool = False
    list: str = "yes"
    hidden: bool = False
    subscriptions: bool = True
    explicit_inbox: bool = True
    """Another user's INBOX is `prefix/INBOX`, not the prefix itself."""

    @property
    def fixed(self) -> str:
        """The prefix up to another user's name."""
        return self.prefix.partition("%")[0]

    def shown(self, inner: str, owner: str = "") -> str:
        """The name that the user sees."""
        if inner == INBOX and self.inbox:
            return INBOX
        name, _, domain = owner.partition("@")
        prefix = self.prefix
        if owner:
            if inner == INBOX and not self.explicit_inbox:
                inner = ""
            prefix = prefix.replace("%u", owner).replace("%n", name).replace("%d", domain)
        return prefix + inner.replace(SEPARATOR, self.separator) if inner else prefix[: -len(self.separator)]


class Place(NamedTuple):
    """What a name stands for: `inner` in `root`, empty for the root itself (or for a part of a shared
    namespace's prefix, then `root` is empty); `owner` is another user's name in a shared namespace."""

    space: Namespace
    root: MailRoot
    inner: str
    owner: str


_NOWHERE = MailRoot("")


class Account(MailRoot):
    """The root of the inbox namespace, with all namespaces. `found` says where another user's mail lies
    (None: nobody's); `guard` is what `acl` needs, None where there are no ACLs; `report` is told of files
    that cannot be read."""

    spaces: tuple[Namespace, ...]
    """The longest prefix first."""
    told: tuple[Namespace, ...]
    """In the order of the configuration."""
    user: str
    main: MailRoot
    separator: str
    found: Callable[[str], MailRoot | None]
    guard: object
    report: Callable[[str], None]

    @classmethod
    def of(
        cls,
        user: str,
        spaces: tuple[Namespace, ...],
        found: Callable[[str], MailRoot | None] = lambda name: None,
        guard: object = None,
        report: Callable[[str], None] = lambda text: None,
    ) -> Account:
        """One of the namespaces has to be the inbox's."""
        space = next(space for space in spaces if space.inbox)
        assert space.root is not None
        account = cls(str(space.root), fs=space.root.fs, inbox=space.root.inbox, mbox=space.root.mbox)
        account.spaces = tuple(sorted(spaces, key=lambda space: -len(space.fixed)))
        account.told = spaces
        account.user = user
        account.main = space.root
        account.separator = space.separator
        account.found = found
        account.guard = guard
        account.report = report
        return account

    @property
    def inbox_space(self) -> Namespace:
        return next(space for space in self.spaces if space.inbox)

    def canonical(self, name: str) -> str:
        """`INBOX` for every spelling of it, also where it begins a prefix."""
        if name[:5].upper() != INBOX or name[5:6] not in ("", self.separator):
            return name
        name = INBOX + name[5:]
        space = self.inbox_space
        return INBOX if name == space.prefix + INBOX else name

    def space_of(self, name: str) -> tuple[Namespace, str]:
        """The namespace of a (canonical) name, and what stands behind its prefix. Raises
        `NoNamespaceError`."""
        for space in self.spaces:
            fixed = space.fixed
            if name.startswith(fixed):
                return space, name[len(fixed) :]
            if fixed and name == fixed[: -len(space.separator)]:
                return space, ""
        raise NoNamespaceError(
            "Client tried to access nonexistent namespace. (Mailbox name should probably be prefixed with: "
            f"{self.inbox_space.prefix})"
        )

    def resolve(self, name: str) -> Place:
        """Raises `MailboxNameError`; `FileNotFoundError` for a user who does not exist."""
        name = self.canonical(name)
        if name == INBOX:
            return Place(self.inbox_space, self.main, INBOX, "")
        space, rest = self.space_of(name)
        if space.root is None:
            return self._shared(space, rest)
        inner = _inner(rest, space.separator)
        return Place(space, space.root, INBOX if space.inbox and inner.upper() == INBOX else inner, "")

    def is_foreign_inbox(self, name: str) -> bool:
        """Whether it is another user's INBOX, with or without this word behind the user's name, where it has
        the user's name alone."""
        try:
            space, rest = self.space_of(name)
            if space.root is not None or space.explicit_inbox:
                return False
            return self._shared(space, rest).inner == INBOX
        except (FileNotFoundError, MailboxNameError):
            return False

    def _shared(self, space: Namespace, rest: str) -> Place:
        parts = re.split("(%[und])", space.prefix[len(space.fixed) : -len(space.separator)])
        other = f"[^{re.escape(space.separator)}]+"
        form = "".join(
            f"(?P<{part[1]}>{other})" if index % 2 else re.escape(part) for index, part in enumerate(parts)
        )
        match = re.match(f"{form}(?:{re.escape(space.separator)}|$)", rest)
        if match is None:
            return Place(space, _NOWHERE, "", "")
        found = match.groupdict()
        user = found.get("u") or found.get("n", "")
        if "@" not in user:
            domain = found.get("d") or self.user.partition("@")[2]
            user = f"{user}@{domain}" if domain else user
        root = self.found(user) if user != self.user else None
        if root is None:
            raise FileNotFoundError(f"no user {user}")
        inner = _inner(rest[match.end() :], space.separator)
        if not (inner or space.explicit_inbox):
            inner = INBOX
        return Place(space, root, INBOX if inner.upper() == INBOX else inner, user)


def _inner(name: str, separator: str) -> str:
    if separator == SEPARATOR:
        return name
    if SEPARATOR in name:
        raise MailboxNameError(f"Character not allowed in mailbox name: '{SEPARATOR}'")
    return name.replace(separator, SEPARATOR)
