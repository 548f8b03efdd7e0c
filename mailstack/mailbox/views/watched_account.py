"""The watched places of an account (see `notices`): its roots, and mailboxes that somebody asks about."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from mailstack.storage.maildir import metadata, subscriptions, tree, uidlist
from mailstack.storage.maildir.roots import Account, MailRoot
from mailstack.storage.maildir.watch import Listener, Watcher

if TYPE_CHECKING:
    from mailstack.mailbox.views.notices import Notice

DELAY = 0.1
"""Seconds between the first of several changes and the waking of the sessions."""
AGAIN = 1.0
"""Seconds until a folder that is no mailbox yet is looked at again."""
AGAIN_MAX = 5
_OURS = ("dovecot", "mailstack", "maildir", *tree.SUBDIRECTORIES)


class NoticesFullError(Exception):
    """More is asked for than can be watched."""


class WatchedAccount:
    """One account with the sessions that hear of it."""

    def __init__(self, watcher: Watcher, root: str, key: tuple[str, str]) -> None:
        self.root = root
        self.key = key
        self.notices: list[Notice] = []
        self._watcher = watcher
        self._uses: dict[tuple[str, bool], int] = {}
        self._handles: dict[tuple[str, bool], list[int]] = {}
        self._names: dict[str, str] = {}
        self._stale = True
        self._timer: asyncio.TimerHandle | None = None
        self._later: asyncio.TimerHandle | None = None
        self._tries = 0
        self._directories: dict[str, int] = {}
        """Where mailboxes come and go: the roots, and with `LAYOUT=fs` the directories in them."""
        self._roots: dict[str, str] = {}
        try:
            self._watch_directories()
        except NoticesFullError:
            self.close()
            raise

    # ---- watches

    def adjust(self, less: Iterable[tuple[str, bool]], more: Iterable[tuple[str, bool]]) -> None:
        """Count who follows what. Raises `NoticesFullError`; the counts hold then too."""
        for key in less:
            self._uses[key] -= 1
            if not self._uses[key]:
                del self._uses[key]
                self._forget(key)
        for key in more:
            self._uses[key] = self._uses.get(key, 0) + 1
        for key in more:
            if key not in self._handles:
                self._add(key)

    def _add(self, key: tuple[str, bool]) -> None:
        name, messages = key
        self._handles[key] = []
        try:
            path = tree.path_of(self.root, name)
        except (FileNotFoundError, tree.MailboxNameError):
            return  # it has just gone
        if messages:
            places = [(f"{path}/new", self._box(name)), (f"{path}/cur", self._box(name))]
        else:
            places = [] if self._watches(path) else [(path, self._folder(name))]
        handles = [self._watcher.watch(*place) for place in places]
        self._handles[key] = [handle for handle in handles if handle is not None]
        if None in handles and os.path.isdir(f"{path}/cur"):
            raise NoticesFullError("inotify has no more watches")

    def _watches(self, path: str) -> bool:
        """Whether the folder is watched in any case."""
        return any(
            path == place or (_is_fs(root) and path.startswith(f"{place}/"))
            for place, root in self._roots.items()
        )

    def _forget(self, key: tuple[str, bool]) -> None:
        for handle in self._handles.pop(key, ()):
            self._watcher.forget(handle)

    def close(self) -> None:
        for key in list(self._handles):
            self._forget(key)
        for handle in self._directories.values():
            self._watcher.forget(handle)
        for timer in (self._timer, self._later):
            if timer is not None:
                timer.cancel()

    # ---- what has happened

    def _in_root(self, path: str) -> Listener:
        def happened(name: str, come: bool) -> None:
            if not name or name == subscriptions.FILE:
                for notice in self.notices:
                    notice.subscriptions = True
            if path == self.root and (not name or name == metadata.SERVER_FILE):
                for notice in self.notices:
                    notice.server = True
            self._in_directory(path, name)
            self._soon()

        return happened

    def _in_directory(self, path: str, name: str) -> None:
        if not name or name == metadata.FILE:
            for mailbox, messages in self._uses:
                if not messages and self._is_at(mailbox, path):
                    self._annotated(mailbox)
        if not name or not name.startswith((*_OURS, "..", subscriptions.FILE)):
            self._changed()

    def _is_at(self, mailbox: str, path: str) -> bool:
        try:
            return tree.path_of(self.root, mailbox) == path
        except (FileNotFoundError, tree.MailboxNameError):
            return False

    def _changed(self) -> None:
        """Mailboxes may have come or gone."""
        self._stale = True
        self._tries = 0
        for notice in self.notices:
            notice.mailboxes = True
        self._soon()

    def _box(self, mailbox: str) -> Listener:
        def happened(name: str, come: bool) -> None:
            for notice in self.notices:
                if (mailbox, True) in notice.followed:
                    notice.boxes.add(mailbox)
            self._soon()

        return happened

    def _folder(self, mailbox: str) -> Listener:
        def happened(name: str, come: bool) -> None:
            if name in ("", metadata.FILE):
                self._annotated(mailbox)
                self._soon()

        return happened

    def _annotated(self, mailbox: str) -> None:
        for notice in self.notices:
            if (mailbox, False) in notice.followed:
                notice.entries.add(mailbox)

    def _soon(self) -> None:
        if self._timer is None and any(notice.pending for notice in self.notices):
            self._timer = asyncio.get_running_loop().call_later(DELAY, self._wake)

    def _wake(self) -> None:
        self._timer = None
        for notice in self.notices:
            if notice.pending:
                notice.wake()

    # ---- the mailboxes

    def look(self) -> Mapping[str, str]:
        """See `Notice.names`."""
        if self._stale:
            self._stale = False
            old, self._names = self._names, {name: self._identity(name) for name in tree.names(self.root)}
            for key in list(self._handles):
                if is_another(old.get(key[0], ""), self._names.get(key[0])):
                    self._forget(key)
            self._watch_directories()
            for key in self._uses:
                if key not in self._handles and key[0] in self._names:
                    self._add(key)
                    self._told_late(key)
            self._look_again()
        return self._names

    def identify(self, name: str, guid: str) -> None:
        if self._names.get(name) == "":
            self._names[name] = guid

    def _identity(self, name: str) -> str:
        """The GUID in the uidlist's first line; empty where there is none yet."""
        try:
            with open(f"{tree.path_of(self.root, name)}/{uidlist.FILE}", "rb") as file:
                line = file.readline(200).decode("latin-1")
        except (OSError, tree.MailboxNameError):
            return ""
        return next((field[1:] for field in line.split() if field.startswith("G")), "")

    def _told_late(self, key: tuple[str, bool]) -> None:
        """Whatever has happened before the mailbox was watched."""
        for notice in self.notices:
            if key in notice.followed:
                (notice.boxes if key[1] else notice.entries).add(key[0])

    def _watch_directories(self) -> None:
        self._roots = self._plain_roots()
        wanted: dict[str, Listener] = {path: self._in_root(path) for path in self._roots}
        for name in self._names:
            for path in self._above(name):
                wanted.setdefault(path, self._below(path))
        for path in self._directories.keys() - wanted.keys():
            self._watcher.forget(self._directories.pop(path))
        for path, listener in wanted.items():
            if path not in self._directories:
                handle = self._watcher.watch(path, listener, hidden=True)
                if handle is not None:
                    self._directories[path] = handle
                elif os.path.isdir(path):
                    raise NoticesFullError("inotify has no more watches")

    def _plain_roots(self) -> dict[str, str]:
        """The roots that the mailboxes lie in, by their directories."""
        if not isinstance(self.root, Account):
            return {str(self.root): self.root}
        found: dict[str, str] = {str(self.root): self.root.main}
        found.update({str(space.root): space.root for space in self.root.spaces if space.root is not None})
        for name in self._names:
            try:
                place = self.root.resolve(name)
            except (FileNotFoundError, tree.MailboxNameError):
                continue
            found.setdefault(str(place.root), place.root)
        return found

    def _above(self, name: str) -> list[str]:
        """With `LAYOUT=fs`: the directories of a mailbox and of those above it, where others come and go."""
        try:
            root, _ = tree.located(self.root, name)
            path = tree.path_of(self.root, name)
        except (FileNotFoundError, tree.MailboxNameError):
            return []
        found = []
        while _is_fs(root) and path.startswith(f"{root}/"):
            found.append(path)
            path = os.path.dirname(path)
        return found

    def _below(self, path: str) -> Listener:
        def happened(name: str, come: bool) -> None:
            self._in_directory(path, name)
            self._soon()

        return happened

    def _look_again(self) -> None:
        """A folder that somebody is just making is no mailbox yet, and tells nothing when it is one."""
        if self._later is None and self._tries < AGAIN_MAX and self._unfinished():
            self._later = asyncio.get_running_loop().call_later(AGAIN, self._once_more)

    def _once_more(self) -> None:
        self._later = None
        tries = self._tries
        self._changed()
        self._tries = tries + 1

    def _unfinished(self) -> bool:
        for path in self._directories:
            # What is no root is in one with directories in directories.
            is_fs = _is_fs(self._roots[path]) if path in self._roots else True
            try:
                with os.scandir(path) as entries:
                    paths = [entry.path for entry in entries if _is_folder(entry, is_fs)]
            except OSError:
                continue  # it is just being removed
            if not all(os.path.isdir(f"{path}/cur") for path in paths):
                return True
        return False


def _is_fs(root: str) -> bool:
    return isinstance(root, MailRoot) and root.fs


def _is_folder(entry: os.DirEntry[str], is_fs: bool) -> bool:
    """Whether a directory may become a mailbox."""
    dotted = entry.name.startswith(".")
    wanted = not dotted and not entry.name.startswith(_OURS) if is_fs else dotted and entry.name[:2] != ".."
    return wanted and entry.is_dir()


def is_another(old: str, new: str | None) -> bool:
    """Whether a mailbox (`Notice.names`) is gone, or is a later one of the same name."""
    return new is None or bool(old and new and old != new)
