"""Who may have how much: the settings of Dovecot's `quota` plugin, for the process.

`plugin { quota = maildir:User quota  quota_rule = *:storage=1G }`; a userdb field `quota_rule` (and those
with a number behind) wins over the setting of the same name. `count:` and `maildir:` are both kept in
`maildirsize`. Without a `quota` nothing is limited or counted.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping
from typing import Protocol

from mailstack.net.log import Log
from mailstack.storage.maildir import quota as stored
from mailstack.storage.maildir import tree
from mailstack.storage.maildir.quota import Quota, RuleError, Usage, parse_rules

RULE = re.compile(r"quota_rule[2-9]?|quota_rule[1-9][0-9]")
EXCEEDED = "Quota exceeded (mailbox for user is full)"
_BACKENDS = ("maildir", "count")


class Limited(Protocol):
    """A user, as far as a quota is concerned."""

    @property
    def name(self) -> str: ...

    @property
    def mail_root(self) -> str: ...

    @property
    def quota_rules(self) -> tuple[tuple[str, str], ...]:
        """The userdb's fields `quota_rule`…"""
        ...


class OverQuotaError(Exception):
    """There is no room for it; the text is for the user (`quota_exceeded_message`)."""


class _Place:
    """An account into which something is on its way. `users`: who still needs this object."""

    __slots__ = ("closed", "coming", "lock", "users")

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.coming = Usage()
        self.closed = asyncio.Event()
        self.users = 0


class Room:
    """What has been admitted and may not have been counted yet."""

    __slots__ = ("_leave", "_place", "_usage")

    def __init__(self, place: _Place | None, usage: Usage, leave: Callable[[], None]) -> None:
        self._place = place
        self._usage = usage
        self._leave = leave

    def close(self) -> None:
        """It is stored and counted, or has failed."""
        place, self._place = self._place, None
        if place is not None:
            place.coming = Usage(
                place.coming.storage - self._usage.storage, place.coming.messages - self._usage.messages
            )
            place.closed.set()
            place.closed = asyncio.Event()
            self._leave()

    def __enter__(self) -> Room:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


NO_ROOM_NEEDED = Room(None, Usage(), lambda: None)


class Quotas:
    """The quotas of one configuration."""

    def __init__(self, plugin: Mapping[str, str], log: Log) -> None:
        self._log = log
        self._places: dict[str, _Place] = {}
        self.message = plugin.get("quota_exceeded_message", EXCEEDED)
        self._rules = {key: value for key, value in plugin.items() if RULE.fullmatch(key)}
        self._grace = plugin.get("quota_grace", "10%").replace("%%", "%")
        backend, _, rest = plugin.get("quota", "").partition(":")
        self._name = rest.partition(":")[0]
        self.active = backend in _BACKENDS
        if backend and not self.active:
            log.warning(f"plugin {{ quota = {backend}: }} is not supported: there is no quota")
        if self.active:
            try:
                self._parsed = parse_rules(self._name, self._texts({}), self._grace)
            except RuleError as error:
                log.error(f"plugin {{ quota_rule }}: {error}")
                self._parsed = Quota(self._name)

    def of(self, user: Limited) -> Quota | None:
        """The user's quota; None when there are none at all. A rule of his that is wrong is logged and has no
        effect."""
        if not self.active or not user.quota_rules:
            return self._parsed if self.active else None
        try:
            quota = parse_rules(self._name, self._texts(dict(user.quota_rules)), self._grace)
            if quota.ignored != self._parsed.ignored:
                raise RuleError("Invalid quota rule: ignore works in plugin { quota_rule… } only")
            return quota
        except RuleError as error:
            self._log.error(f"user {user.name}: {error}")
            return self._parsed

    def counts(self, root: str, path: str) -> bool:
        """Whether what lies in the folder `path` of an account counts."""
        return self.active and not (self._parsed.ignored and self._parsed.ignores(root, path))

    def _texts(self, own: Mapping[str, str]) -> list[str]:
        rules = {**self._rules, **own}
        return [rules[key].replace("%%", "%") for key in sorted(rules)]

    async def admit(self, user: Limited, folder: str, more: Usage, *, grace: bool = False) -> Room:
        """Room for that much in the folder, kept until it is closed: others are admitted to what is left.

        Nothing is refused before the account has been counted anew, without anybody's room in it. Raises
        `OverQuotaError`, `OSError`.
        """
        quota = self.of(user)
        root = user.mail_root
        if quota is None:
            return NO_ROOM_NEEDED
        mailbox = quota.mailbox_at(root, folder)
        if not any(quota.limits(mailbox)):
            return NO_ROOM_NEEDED
        place = self._places.setdefault(root, _Place())
        place.users += 1
        try:
            while True:
                async with place.lock:
                    # Room that is closed while we count is in the count, or not.
                    before = place.coming
                    for measure in (stored.usage, stored.recount):
                        now = await asyncio.to_thread(measure, tree.main_of(root), quota)
                        if not quota.exceeded(mailbox, now + before, more, grace=grace):
                            place.users += 1
                            place.coming += more
                            return Room(place, more, self._forget(root, place))
                    closed = place.closed
                if before == Usage():
                    raise OverQuotaError(self.message)
                if place.coming == before:
                    await closed.wait()
        finally:
            self._forget(root, place)()

    def _forget(self, root: str, place: _Place) -> Callable[[], None]:
        """What one of those who use the place does when he is ready with it."""

        def leave() -> None:
            place.users -= 1
            if not place.users and self._places.get(root) is place:
                del self._places[root]

        return leave

    def changed(self, user: Limited, difference: Usage) -> None:
        """Something has come or gone. Counting is not what a delivery may fail of."""
        if self.active:
            try:
                stored.change(user.mail_root, difference)
            except OSError as error:
                self._log.error(f"{user.mail_root}/{stored.FILE}: not updated: {error}")
