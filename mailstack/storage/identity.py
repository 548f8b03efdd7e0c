"""File work in another user's name, on one thread, in a process that stays root.

Linux keeps a filesystem identity for each thread (setfsuid(2), setfsgid(2)): with it set, the kernel
judges this thread's file accesses, and owns the files it makes, as if that user did; capabilities that
would override permissions are gone meanwhile. Other threads of the process notice nothing, and the
process's own ids never change. A process that is not root can only act as itself.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from ctypes import CDLL


class Identity(NamedTuple):
    """Whose rights file work and commands have."""

    uid: int
    gid: int

    @property
    def ours(self) -> bool:
        """Whether nothing has to be changed: the process is that user, or is it and no more."""
        return self.uid == os.geteuid() and (self.uid != 0 or self.gid == os.getegid())

    @property
    def possible(self) -> bool:
        """Whether this process may act as that user."""
        return os.geteuid() == 0 or self.uid == os.geteuid()


@contextmanager
def acting_as(identity: Identity) -> Iterator[None]:
    """Do this thread's file work as that user. Not across an await. Raises `PermissionError`."""
    if identity.ours:
        yield
        return
    if not identity.possible:
        raise PermissionError(1, f"cannot act as user {identity.uid} without being root")
    libc = _libc()
    before = os.geteuid(), os.getegid()
    try:
        _set(libc, identity.uid, identity.gid)
        yield
    finally:
        # The user first: only root may choose any group.
        libc.setfsuid(before[0])
        libc.setfsgid(before[1])
        if (libc.setfsuid(-1), libc.setfsgid(-1)) != before:  # pragma: no cover - nothing may go on like this
            os.abort()


def _set(libc: CDLL, uid: int, gid: int) -> None:
    libc.setfsgid(gid)
    libc.setfsuid(uid)
    # Neither call says whether it has worked; asked for an impossible id, they tell the present one.
    if (libc.setfsuid(-1), libc.setfsgid(-1)) != (uid, gid):
        raise PermissionError(1, f"cannot act as user {uid}, group {gid}")


@cache
def _libc() -> CDLL:
    """The C library; the process lets go of root's own supplementary groups, which would count too."""
    from ctypes import CDLL  # most processes never act as anybody else

    libc = CDLL(None)
    if not hasattr(libc, "setfsuid"):
        raise PermissionError(1, "this system cannot act as another user on one thread")
    if os.getgroups():
        os.setgroups([])
    return libc
