"""Durable writes with group commit: many files, few waits for the disk.

A caller awaits `GroupCommit.publish(...)`; when it returns, the file stands under its final name with its
whole content and both the content and the directory entry are on disk (`fsync` of the file, `rename`, `fsync`
of the directory). Requests that arrive while a batch is being written join the next batch, so that their
renames share one directory flush and their file flushes one journal commit.

A failure (`OSError`: ENOSPC, EIO, EDQUOT…) is raised to the caller whose file it was and to nobody else, and
leaves no file under either name; a failed directory flush fails every caller of the batch that used it.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio

DEFAULT_THREADS = 1
BATCH = 64
"""Requests that one thread takes at once, at the most."""
LARGE = 256 * 1024
"""Octets from which a file counts as large."""
# Linux begins to write dirty pages back on this advice (and keeps them cached, for they are not clean yet).
_BEGIN_WRITE_BACK: int | None = getattr(os, "POSIX_FADV_DONTNEED", None)


@dataclass(frozen=True, slots=True)
class Publication:
    """One file to be made: written to `temporary`, then renamed to `final` (same filesystem).

    With `append`, `temporary` exists already (a large message spooled to disk as it came in) and `data` is
    added at its end. `mtime` sets the file's modification time (seconds since the epoch).
    """

    temporary: str
    final: str
    data: Sequence[bytes | memoryview]
    mode: int = 0o600
    append: bool = False
    mtime: float | None = None


def fsync_directory(path: str) -> None:
    """Flush a directory's entries. Raises `OSError`."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_file(item: Publication) -> None:
    """Write and flush `item.temporary`; remove it again when that fails. Raises `OSError`."""
    _flush(item, _write(item))


def _write(item: Publication) -> int:
    """Write `item.temporary`; return its descriptor. Nothing is left of it when that fails."""
    flags = os.O_WRONLY | os.O_CLOEXEC | (os.O_APPEND if item.append else os.O_CREAT | os.O_EXCL)
    fd = os.open(item.temporary, flags, item.mode)
    try:
        write_all(fd, item.data)
        if item.mtime is not None:
            os.utime(fd, (item.mtime, item.mtime))
    except BaseException:
        os.close(fd)
        _discard(item.temporary)
        raise
    return fd


def _flush(item: Publication, fd: int) -> None:
    """Flush and close what `_write` has written; nothing is left of it when that fails."""
    try:
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
    except OSError:
        _discard(item.temporary)
        raise


def write_all(fd: int, data: Sequence[bytes | memoryview]) -> None:
    """Write every octet of `data`, however many calls that takes. Raises `OSError`."""
    parts = [memoryview(part) for part in data if len(part)]
    while parts:
        written = os.writev(fd, parts[:512])
        while parts and written >= len(parts[0]):
            written -= len(parts[0])
            parts.pop(0)
        if written:
            parts[0] = parts[0][written:]


def publish_now(item: Publication) -> None:
    """The same promise for one file, on the calling thread. Raises `OSError`."""
    write_file(item)
    _rename(item)
    fsync_directory(os.path.dirname(item.final))


_Waiter = tuple[Publication, "asyncio.AbstractEventLoop", "asyncio.Future[None]"]


class GroupCommit:
    """Writers behind an event loop. Make one per process, after the last fork; `close()` ends its threads.

    One thread takes everything that waits as one batch, and what arrives meanwhile is the next: the busier,
    the larger the batches, and the fewer journal commits per message. Several threads are no faster (their
    commits contend). Large files have a thread of their own, so that small ones do not wait for them.
    """

    def __init__(self, threads: int = DEFAULT_THREADS) -> None:
        self._small = _Lane(threads)
        self._large = _Lane(1)

    async def publish(self, item: Publication) -> None:
        """Make `item.final` durable. Raises `OSError`.

        A caller that is cancelled while it waits does not stop the write: the file may appear all the same.
        """
        from asyncio import get_running_loop  # tools that only look at a queue need not load it

        loop = get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        large = item.append or sum(map(len, item.data)) > LARGE
        (self._large if large else self._small).put((item, loop, done))
        await done

    def close(self) -> None:
        """Finish what is queued and end the threads (blocks until then)."""
        self._small.close()
        self._large.close()


class _Lane:
    """A queue of publications and the threads that serve it."""

    def __init__(self, threads: int) -> None:
        self._threads_wanted = threads
        self._threads: list[threading.Thread] = []
        self._idle = 0
        self._queue: deque[_Waiter] = deque()
        self._ready = threading.Condition()
        self._stopping = False

    def put(self, waiter: _Waiter) -> None:
        with self._ready:
            if self._stopping:
                raise RuntimeError("the writers have been closed")
            self._queue.append(waiter)
            if self._idle:
                self._ready.notify()
            elif len(self._threads) < self._threads_wanted:
                thread = threading.Thread(target=self._work, name="group-commit", daemon=True)
                self._threads.append(thread)
                thread.start()

    def close(self) -> None:
        with self._ready:
            self._stopping = True
            self._ready.notify_all()
        for thread in self._threads:
            thread.join()
        self._threads.clear()

    def _work(self) -> None:
        while True:
            with self._ready:
                self._idle += 1
                while not self._queue and not self._stopping:
                    self._ready.wait()
                self._idle -= 1
                if not self._queue:
                    return
                batch = [self._queue.popleft() for _ in range(min(BATCH, len(self._queue)))]
            outcomes = _commit([item for item, _, _ in batch])
            by_loop: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[None], Exception | None]]] = {}
            for (_, loop, done), outcome in zip(batch, outcomes, strict=True):
                by_loop.setdefault(loop, []).append((done, outcome))
            for loop, results in by_loop.items():
                try:
                    loop.call_soon_threadsafe(_resolve, results)
                except RuntimeError:
                    pass  # the loop is closed: nobody waits any more


def _commit(items: list[Publication]) -> list[Exception | None]:
    """Write a batch; one outcome per item, in order.

    Every file is written and its write-back begun before the first is flushed, and every file is flushed
    before the first is renamed: so the first flush commits the journal for all of them, the others find
    nothing left to do, and one more commit, at the directory's flush, covers the renames.
    """
    outcomes: list[Exception | None] = [None] * len(items)
    opened: list[tuple[int, int]] = []
    for index, item in enumerate(items):
        try:
            opened.append((index, _write(item)))
        except Exception as error:
            outcomes[index] = error
    if _BEGIN_WRITE_BACK is not None and len(opened) > 1:
        for _, fd in opened:
            os.posix_fadvise(fd, 0, 0, _BEGIN_WRITE_BACK)
    flushed: list[int] = []
    for index, fd in opened:
        try:
            _flush(items[index], fd)
        except OSError as error:
            outcomes[index] = error
        else:
            flushed.append(index)
    directories: dict[str, list[int]] = {}
    for index in flushed:
        try:
            _rename(items[index])
        except OSError as error:
            outcomes[index] = error
        else:
            directories.setdefault(os.path.dirname(items[index].final), []).append(index)
    for directory, indexes in directories.items():
        try:
            fsync_directory(directory)
        except OSError as error:
            for index in indexes:
                outcomes[index] = error
                _discard(items[index].final)
    return outcomes


def _rename(item: Publication) -> None:
    try:
        os.rename(item.temporary, item.final)
    except OSError:
        _discard(item.temporary)
        raise


def _discard(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass


def _resolve(results: list[tuple[asyncio.Future[None], Exception | None]]) -> None:
    for done, outcome in results:
        if done.done():
            continue
        if outcome is None:
            done.set_result(None)
        else:
            done.set_exception(outcome)
