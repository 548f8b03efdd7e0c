"""Guessing: growing delays by address, a lock-out by user, in bounded memory.

By address (an IPv6 /48 is one), as Dovecot's auth_penalty: after a failure the next attempt waits
auth_failure_delay, after each further one twice as long, up to `DELAY_LIMIT`; a success ends it, and so do
`FORGET` seconds without a failure. The same wrong credentials again and again, as from a client with an old
password, count once. More attempts at a time than `WAITING_LIMIT` are refused without a look.

By user: after `USER_FAILURES` different wrong passwords within `USER_WINDOW`, from whatever addresses, nobody
is let in from an address that has not logged in as this user before, for `LOCK_TIME`. What is refused
meanwhile does not count, so a lock ends however long somebody goes on; and where the user is at home it never
holds. Only users that exist are counted, but everybody is refused in the same words and the same time.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import TypeVar

DELAY_LIMIT = 15.0
FORGET = 480.0
MARKS = 20
"""Failed credentials of an address that are told apart."""
WAITING_LIMIT = 10
USER_FAILURES = 20
USER_WINDOW = 600.0
LOCK_TIME = 300.0
HOMES = 16
"""Addresses of one user that are remembered as good."""
LIMIT = 20_000
"""Addresses, and users, that are remembered."""

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


@dataclass(slots=True)
class _Address:
    failures: int = 0
    last: float = 0.0
    waiting: int = 0
    marks: list[bytes] = field(default_factory=list)


@dataclass(slots=True)
class _User:
    failures: int = 0
    began: float = 0.0
    locked_until: float = 0.0
    homes: list[str] = field(default_factory=list)
    marks: set[bytes] = field(default_factory=set)


class Guard:
    """Times are seconds of one monotonic clock."""

    def __init__(self) -> None:
        self._addresses: OrderedDict[str, _Address] = OrderedDict()
        self._users: OrderedDict[str, _User] = OrderedDict()

    def __len__(self) -> int:
        return len(self._addresses) + len(self._users)

    def delay(self, address: str, base: float, now: float) -> float:
        """How long the next attempt from there waits; `base`: after the first failure."""
        found = self._addresses.get(_network(address))
        if found is None or not found.failures or now - found.last > FORGET:
            return 0.0
        return min(DELAY_LIMIT, base * 2.0 ** min(found.failures - 1, 10))

    def enter(self, address: str) -> bool:
        """An attempt begins to wait; False: there are too many of them. `leave` ends it."""
        found = self._addresses.get(_network(address))
        if found is None:
            return True
        if found.waiting >= WAITING_LIMIT:
            return False
        found.waiting += 1
        return True

    def leave(self, address: str) -> None:
        """An attempt that `enter` has let wait is over."""
        found = self._addresses.get(_network(address))
        if found is not None and found.waiting:
            found.waiting -= 1

    def locked(self, user: str, address: str, now: float) -> bool:
        """Whether that user is not let in from there just now."""
        found = self._users.get(user)
        return found is not None and now < found.locked_until and address not in found.homes

    def failed(self, user: str | None, address: str, mark: bytes, now: float) -> bool:
        """Wrong credentials, which `mark` tells from others; `user`: one who exists. True: locked by that."""
        if address:
            at = _kept(self._addresses, _network(address), _Address())
            if now - at.last > FORGET:
                at.failures = 0
                at.marks.clear()
            at.last = now
            if mark not in at.marks:
                at.failures += 1
                at.marks.append(mark)
                del at.marks[:-MARKS]
        if user is None:
            return False
        of = _kept(self._users, user, _User())
        if address in of.homes or now < of.locked_until:
            return False
        if now - of.began > USER_WINDOW:
            of.failures, of.began = 0, now
            of.marks.clear()
        if mark not in of.marks:
            of.marks.add(mark)
            of.failures += 1
        if of.failures < USER_FAILURES:
            return False
        of.failures = 0
        of.marks.clear()
        of.locked_until = now + LOCK_TIME
        return True

    def succeeded(self, user: str, address: str) -> None:
        """Good credentials."""
        if not address:
            return
        self._addresses.pop(_network(address), None)
        of = _kept(self._users, user, _User())
        if address in of.homes:
            of.homes.remove(address)
        of.homes.append(address)
        del of.homes[:-HOMES]


def _kept(entries: OrderedDict[Key, Value], key: Key, new: Value) -> Value:
    """The entry, which is the last to be forgotten then."""
    found = entries.setdefault(key, new)
    entries.move_to_end(key)
    if len(entries) > LIMIT:
        entries.popitem(last=False)
    return found


def _network(address: str) -> str:
    """The address itself, or the first 48 bits of an IPv6 one."""
    if ":" not in address:
        return address
    import ipaddress

    try:
        return str(ipaddress.ip_network(f"{address.partition('%')[0]}/48", strict=False))
    except ValueError:
        return address
