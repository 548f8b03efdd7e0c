"""Disk work for mailboxes: little of it at once on the event loop's thread, more in another."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
from collections.abc import Callable
from typing import TypeVar

from mailstack.storage.durable import fsync_directory
from mailstack.storage.maildir.uidlist import LockBusyError

T = TypeVar("T")

INLINE = 32
"""File operations that are done on the event loop's thread; more go to another thread."""
LOCK_WAIT = 10.0
"""Seconds to wait for another program's lock."""


async def patient(work: Callable[[], T]) -> T:
    """Do something that takes another program's lock, waiting up to `LOCK_WAIT` seconds for it."""
    deadline = asyncio.get_running_loop().time() + LOCK_WAIT
    while True:
        try:
            return work()
        except LockBusyError:
            if asyncio.get_running_loop().time() > deadline:
                raise
            await asyncio.sleep(0.02)


async def in_batch(count: int, work: Callable[[], T]) -> T:
    """Run disk work here when it is little, else in a thread."""
    if count <= INLINE:
        return work()
    return await asyncio.to_thread(work)


def rename(source: str, target: str) -> OSError | None:
    try:
        os.rename(source, target)
    except OSError as error:
        return error
    return None


def link_or_copy(source: str, target: str) -> None:
    """A link, or where that does not go (another file system) a copy, durable before it has its name."""
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        folder = os.path.dirname(os.path.dirname(target))
        temporary = os.path.join(folder, "tmp", os.path.basename(target))
        try:
            shutil.copy2(source, temporary)
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
            os.rename(temporary, target)
        except OSError:
            unlink(temporary)
            raise


def rename_or_copy(source: str, target: str) -> None:
    """A rename, or a copy that takes the source's place."""
    try:
        os.rename(source, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        link_or_copy(source, target)
        os.unlink(source)


def unlink(path: str) -> OSError | None:
    try:
        os.unlink(path)
    except OSError as error:
        return error
    return None


def transfer_files(
    steps: list[tuple[str, str]], operate: Callable[[str, str], None], undo: bool, done: list[bool]
) -> list[bool] | OSError:
    """Link or rename each file, then flush the target's directories; False for a source that is gone.

    What has been done is in `done` (empty at first) while it is done.
    """
    try:
        for source, final in steps:
            try:
                operate(source, final)
                done.append(True)
            except FileNotFoundError:
                if not os.path.isdir(os.path.dirname(final)):
                    raise
                done.append(False)
        for directory in {os.path.dirname(final) for _, final in steps}:
            fsync_directory(directory)
    except OSError as error:
        if undo:
            for (_, final), made in zip(steps, done, strict=False):
                if made:
                    unlink(final)
            return error
        if not any(done):
            return error
        done += [False] * (len(steps) - len(done))
    return done
