"""Where a user's mail lies: mail_location, or his own field `mail`, and the namespaces of dovecot.conf."""

from __future__ import annotations

import os
from collections.abc import Callable

from mailstack.config.dovecot import DovecotConfig, MailLocation, NamespaceSettings
from mailstack.config.dovecot.variables import expand, user_values
from mailstack.mailbox.auth.rows import Unavailable
from mailstack.storage.maildir.acl import Guard
from mailstack.storage.maildir.roots import Account, MailRoot, Namespace

Found = Callable[[str], MailRoot | None]


def root_of(location: MailLocation, user: str, home: str, *, inboxless: bool = False) -> str:
    """The root of one location. Raises `Unavailable` where it needs a home and there is none."""

    def place(path: str) -> str:
        if not home.startswith("/") and (path.startswith("~") or "%h" in path):
            raise Unavailable(f"{user} has no home, which mail_location needs")
        path = expand(path, {**user_values(user), "home": home})
        if path == "~" or path.startswith("~/"):
            path = home + path[1:]
        # A mailbox of several users has to have one path for all.
        return os.path.normpath(path) if "/." in path else path.rstrip("/")

    root = place(location.path)
    if location.mbox:
        return MailRoot(root, mbox=place(location.mbox))
    if location.fs or location.inbox or inboxless:
        inbox = place(location.inbox) if location.inbox else ""
        return MailRoot(root, fs=location.fs, inbox=inbox, inboxless=inboxless)
    return root


def is_plain(config: DovecotConfig) -> bool:
    """Whether one Maildir is all there is: names as they lie there, and everybody may do everything."""
    spaces = config.namespaces
    only = spaces[0]
    return (
        len(spaces) == 1
        and config.acl is None
        and not (only.prefix or only.location)
        and only.separator == "."
        and only.list == "yes"
    )


def mail_root(
    config: DovecotConfig,
    location: MailLocation,
    user: str,
    home: str,
    groups: tuple[str, ...],
    others: Callable[[MailLocation, str], MailRoot | None],
    report: Callable[[str], None],
) -> str:
    """A user's root; an `Account` unless the configuration is plain. `others`: where another user's mail lies
    by a location. Raises `Unavailable`."""
    if is_plain(config):
        return root_of(location, user, home)
    spaces = []
    shared: MailLocation | None = None
    for settings in config.namespaces:
        try:
            spaces.append(_namespace(settings, location, user, home))
        except Unavailable:
            if not settings.ignore_on_failure or settings.inbox:
                raise
        if settings.type == "shared":
            shared = settings.location
    acl = config.acl
    guard = None
    if acl is not None:
        guard = Guard(groups or acl.groups, acl.from_inbox, acl.anyone, acl.shared, acl.everywhere)

    def found(name: str) -> MailRoot | None:
        return None if shared is None else others(shared, name)

    return Account.of(user, tuple(spaces), found, guard, report)


def _namespace(settings: NamespaceSettings, location: MailLocation, user: str, home: str) -> Namespace:
    root = None
    if settings.type != "shared":
        path = root_of(settings.location or location, user, home, inboxless=not settings.inbox)
        root = path if isinstance(path, MailRoot) else MailRoot(path)
    return Namespace(
        type=settings.type,
        prefix=settings.prefix,
        separator=settings.separator,
        root=root,
        inbox=settings.inbox,
        list=settings.list,
        hidden=settings.hidden,
        subscriptions=settings.subscriptions,
        explicit_inbox=settings.explicit_inbox,
    )
