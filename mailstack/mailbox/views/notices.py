"""Where in an account something has happened, whoever did it: for sessions that want to hear of it (NOTIFY).

The folders that mailboxes lie in, and the mailboxes that somebody asks about, are watched by inotify(7); no
mailbox has to be open for it, and nothing is asked for periodically. A `Notice` is one session's: it holds
the places where something has happened since the session has looked, not what or how often, so that it stays
small however long the session does not look. Where inotify is missing or used up, `NoticesFullError`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping

from mailstack.mailbox.views.watched_account import NoticesFullError, WatchedAccount
from mailstack.storage.maildir.roots import Account
from mailstack.storage.maildir.watch import Watcher

MAILBOXES_MAX = 1000
"""Mailboxes of an account whose messages one session may hear of."""


class Notices:
    """All accounts of the process that are watched."""

    def __init__(self) -> None:
        self._watcher: Watcher | None = None
        self._accounts: dict[tuple[str, str], WatchedAccount] = {}

    @property
    def watcher(self) -> Watcher:
        """Made at first use (from within the event loop)."""
        if self._watcher is None:
            self._watcher = Watcher()
            if self._watcher.fileno >= 0:
                asyncio.get_running_loop().add_reader(self._watcher.fileno, self._watcher.poll)
        return self._watcher

    @property
    def usable(self) -> bool:
        """Whether this system has inotify."""
        return self.watcher.fileno >= 0

    @property
    def watched(self) -> bool:
        """Whether any session hears of anything."""
        return bool(self._accounts)

    def open(self, root: str, wake: Callable[[], None]) -> Notice:
        """Hear of an account's mailboxes from now on. Raises `NoticesFullError`, `OSError`."""
        # What somebody may see of other users' mailboxes is his own affair.
        key = (str(root), root.user if isinstance(root, Account) else "")
        account = self._accounts.get(key)
        if account is None:
            account = WatchedAccount(self.watcher, root, key)
            self._accounts[key] = account
        return Notice(self, account, wake)

    def poll(self) -> None:
        """Take in what has happened until now."""
        if self._watcher is not None:
            self._watcher.poll()

    def left(self, account: WatchedAccount) -> None:
        """One session less hears of an account."""
        if not account.notices:
            account.close()
            del self._accounts[account.key]

    def close(self) -> None:
        if self._watcher is not None:
            if self._watcher.fileno >= 0:
                asyncio.get_running_loop().remove_reader(self._watcher.fileno)
            self._watcher.close()


class Notice:
    """What one session has not looked at yet. Close it, or the account stays watched."""

    __slots__ = (
        "_account",
        "_notices",
        "boxes",
        "entries",
        "followed",
        "mailboxes",
        "server",
        "subscriptions",
        "wake",
    )

    def __init__(self, notices: Notices, account: WatchedAccount, wake: Callable[[], None]) -> None:
        self._notices = notices
        self._account = account
        self.wake = wake
        self.mailboxes = self.subscriptions = self.server = False
        self.boxes: set[str] = set()
        self.entries: set[str] = set()
        self.followed: frozenset[tuple[str, bool]] = frozenset()
        account.notices.append(self)

    @property
    def pending(self) -> bool:
        """Whether there is anything to look at."""
        return self.mailboxes or self.subscriptions or self.server or bool(self.boxes or self.entries)

    def names(self) -> Mapping[str, str]:
        """The account's mailboxes with what tells each from a later one of its name, empty as long as that is
        not known. What has come or gone stands in another mapping. Raises `OSError`."""
        self.mailboxes = False
        return self._account.look()

    def identify(self, name: str, guid: str) -> None:
        """A mailbox has been opened: now it can be told from others."""
        self._account.identify(name, guid)

    def follow(self, messages: Iterable[str], entries: Iterable[str]) -> None:
        """Hear of the messages in these mailboxes, and of the annotations of those, and of no others.

        Raises `NoticesFullError`.
        """
        wanted = frozenset([(name, True) for name in messages] + [(name, False) for name in entries])
        if len(wanted) > MAILBOXES_MAX:
            raise NoticesFullError("too many mailboxes")
        old, self.followed = self.followed, wanted
        self._account.adjust(old - wanted, wanted - old)

    def close(self) -> None:
        """Hear of nothing any more."""
        self._account.notices.remove(self)
        self._account.adjust(self.followed, ())
        self._notices.left(self._account)
