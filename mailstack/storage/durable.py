"""Durable writes with group commit: many files, few waits for the disk.

A caller awaits `GroupCommit.publish(...)`; when it returns, the file stands under its final name with its
whole content and both the content and the directory entry are on disk.

A file is written under its temporary name at once (into the page cache), flushed, renamed, and its directory
flushed (or, `early`, written, renamed and flushed). The flushes happen in rounds on a thread: each round
flushes the files that have been written since the last one and, with them, the directories of those that have
been renamed. So under load one round serves two batches, and the event loop's thread and the flushing one
disturb each other twice a round, not at every system call: handing the interpreter to and fro costs more than
the calls themselves. A file that comes alone is flushed where it was written, as long as the disk is quick.

Where a journal takes a rename along with the renamed file (`names_follow`), one round does all of it: the
contents are written out, the files renamed, and one `fsync` of the last of them commits the journal, and with
it all that has been done before. No name is ever on disk before its content.

A failure (`OSError`: ENOSPC, EIO, EDQUOT…) is raised to the caller whose file it was and to nobody else, and
leaves no file under either name; a failed directory flush fails every caller of the batch that used it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mailstack.storage.background import Background
from mailstack.storage.flush import FilesystemFlush
from mailstack.storage.flush import fsync_directory as fsync_directory
from mailstack.storage.identity import Identity, acting_as
from mailstack.storage.rounds import File, flush_round

if TYPE_CHECKING:
    import asyncio

LARGE = 256 * 1024
"""Octets from which a file counts as large: it is written on a thread of its own kind."""


SCATTERED = 512
"""Pieces that one system call writes (IOV_MAX is 1024)."""
CROWD = 3
"""Files in this round and the last from which on a round waits for more."""
ALONE = 2
"""Files of this round and the last that are no crowd at all: one, on its way through its two rounds."""
QUICK = 0.002
"""Seconds: where the last flush took less, a file that is alone is flushed on the event loop's own thread. To
wake another one and be woken by it takes as long as such a flush."""
GATHER = 0.001
"""Seconds that it waits. A flush costs the machine about as much for ten files as for one."""


@dataclass(frozen=True, slots=True)
class Publication:
    """One file to be made: written to `temporary`, then renamed to `final` (same filesystem).

    With `append`, `temporary` exists already (a large message spooled to disk as it came in, or an empty
    file) and `data` is added at its end. `mtime` sets the file's modification time (seconds since the epoch).

    With `early`, the rename comes before the flush, which then covers content and name at once: half the
    waiting. Only for files whose readers notice an unfinished one: after a loss of power it may be there.

    With `ordered`, a filesystem's number (`st_dev`), the new name is not flushed if it is on that one: there
    it becomes safe no later than whatever is done after it. Only where what is done next is to let go of
    the message's other copy, on that filesystem.

    With `owner` everything about names is done with that user's rights, for the folders are his.
    """

    temporary: str
    final: str
    data: Sequence[bytes | memoryview]
    mode: int = 0o600
    append: bool = False
    mtime: float | None = None
    early: bool = False
    ordered: int = 0
    owner: Identity | None = None
    """In whose name the file is made and renamed; None: our own."""
    written: Callable[[], None] | None = None
    """With `early`: called once the file stands under its final name, when nothing but its own flush is left
    and no other file waits with it. Somebody else may use the time of the flush."""
    gate: Callable[[], Awaitable[None]] | None = None
    """Awaited before the rename, with the content flushed; where it raises, nothing is left of the file."""


def write_file(item: Publication) -> None:
    """Write and flush `item.temporary`; remove it again when that fails. Raises `OSError`."""
    _flush(item, _write(item))


def _write(item: Publication) -> int:
    """Write `item.temporary`; return its descriptor. Nothing is left of it when that fails."""
    if item.owner is not None:
        with acting_as(item.owner):
            return _write_as_we_are(item)
    return _write_as_we_are(item)


def _write_as_we_are(item: Publication) -> int:
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
    if len(data) <= SCATTERED:
        written = os.writev(fd, data)
        if written == sum(map(len, data)):
            return
    else:
        written = 0
    parts = [memoryview(part) for part in data if len(part)]
    while parts and written >= len(parts[0]):
        written -= len(parts[0])
        parts.pop(0)
    if written:
        parts[0] = parts[0][written:]
    while parts:
        written = os.writev(fd, parts[:SCATTERED])
        while parts and written >= len(parts[0]):
            written -= len(parts[0])
            parts.pop(0)
        if written:
            parts[0] = parts[0][written:]


def publish_now(item: Publication) -> None:
    """The same promise for one file, on the calling thread. Raises `OSError`."""
    write_file(item)
    _rename(item)
    try:
        fsync_directory(os.path.dirname(item.final))
    except OSError:
        _discard(item.final)
        raise


class GroupCommit:
    """Durable writes for one event loop. Make one per process, after the last fork; `close()` ends it.

    The busier, the larger the rounds, and the fewer flushes per file. Large files are written and flushed one
    by one on a second thread, so that small ones do not wait for them.
    """

    def __init__(self) -> None:
        self._written: list[File] = []
        self._renamed: list[File] = []
        self._busy = False
        self._crowd = 0
        """Files of the last round."""
        self._gathering: asyncio.TimerHandle | None = None
        """Until when the next round waits for more."""
        self._took = 0.0
        """Seconds that the last flush took."""
        self._flusher = Background("group-commit")
        self._large = Background("large-files")
        self._together = FilesystemFlush()
        self._closed = False

    async def publish(self, item: Publication) -> None:
        """Make `item.final` durable. Raises `OSError`.

        A caller that is cancelled while it waits does not stop the write: the file may appear all the same.
        """
        from asyncio import get_running_loop  # tools that only look at a queue need not load it

        if self._closed:
            raise RuntimeError("the writers have been closed")
        loop = get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        if (item.append and not item.early) or sum(map(len, item.data)) > LARGE:
            if item.gate is not None:
                await _pass(item)
            self._large.run(
                loop, lambda: _outcome(item), lambda error: File(item, "", -1, 0, done).settle(error)
            )
        else:
            folder = item.final[: item.final.rindex("/")]
            fd = _write(item)
            try:
                device = os.fstat(fd).st_dev
                if item.early:
                    _rename(item)
            except OSError:
                os.close(fd)
                _discard(item.temporary)
                raise
            self._written.append(File(item, folder, fd, device, done))
            if self._gathering is not None and len(self._written) + len(self._renamed) >= self._crowd:
                # As many as last time: nobody else is expected.
                self._gathering.cancel()
                self._gathering = None
                loop.call_soon(self._round, loop)
            if not self._busy:
                self._busy = True
                self._next_round(loop)
                if item.written is not None and self._crowd < ALONE:
                    item.written()
            if item.gate is not None:
                await done
                await _pass(item)
                _rename(item)
                if item.ordered == device:
                    return
                done = loop.create_future()
                self._renamed.append(File(item, folder, -1, device, done))
                if not self._busy:
                    self._busy = True
                    self._next_round(loop)
        await done

    def close(self) -> None:
        """End the threads once they have done what they were given (blocks until then)."""
        self._closed = True
        self._flusher.close()
        self._large.close()

    def _round(self, loop: asyncio.AbstractEventLoop) -> None:
        """Have everything flushed that waits for it."""
        self._gathering = None
        if self._closed:
            return
        written, renamed = self._written, self._renamed
        self._written, self._renamed = [], []
        if self._crowd + len(written) + len(renamed) <= ALONE and self._took < QUICK:
            self._flushed(loop, written, renamed, self._flush(written, renamed))
            return
        self._flusher.run(
            loop,
            lambda: self._flush(written, renamed),
            lambda errors: self._flushed(loop, written, renamed, errors),
        )

    def _flush(self, written: list[File], renamed: list[File]) -> dict[int, OSError]:
        """Flush a round, on whatever thread, and note how long it took."""
        started = time.monotonic()
        errors = flush_round(written, renamed, self._together)
        self._took = time.monotonic() - started
        return errors

    def _flushed(
        self,
        loop: asyncio.AbstractEventLoop,
        written: list[File],
        renamed: list[File],
        errors: dict[int, OSError],
    ) -> None:
        """A round is over: what has been renamed is done, what has been written is renamed."""
        for file in renamed:
            error = errors.get(id(file))
            if error is not None:
                _discard(file.item.final)
            file.settle(error)
        for file in written:
            error = errors.get(id(file))
            try:
                os.close(file.fd)
                if error is None and not file.named and not file.item.early and file.item.gate is None:
                    _move(file.item)
            except OSError as failed:
                error = error or failed
            if error is not None:
                _discard(file.item.final if file.item.early or file.named else file.item.temporary)
                file.settle(error)
            elif file.safe:
                file.settle(None)
            elif file.item.gate is not None and file.done.done():
                _discard(file.item.temporary)  # its caller has given up
            elif file.item.early or file.item.ordered == file.device or file.item.gate is not None:
                file.settle(None)
            else:
                self._renamed.append(file)
        self._crowd = len(written) + len(renamed)
        if self._written or self._renamed:
            self._next_round(loop)
        else:
            self._busy = False

    def _next_round(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin a round: with what this turn of the loop brings or, in a crowd, what the next moment does."""
        if self._crowd + len(self._written) + len(self._renamed) > CROWD:
            self._gathering = loop.call_later(GATHER, self._round, loop)
        else:
            loop.call_soon(self._round, loop)


async def _pass(item: Publication) -> None:
    """Wait for a file's gate."""
    assert item.gate is not None
    try:
        await item.gate()
    except BaseException:
        _discard(item.temporary)
        raise


def _outcome(item: Publication) -> Exception | None:
    try:
        publish_now(item)
    except Exception as error:
        return error
    return None


def _move(item: Publication) -> None:
    if item.owner is None:
        os.rename(item.temporary, item.final)
    else:
        with acting_as(item.owner):
            os.rename(item.temporary, item.final)


def _rename(item: Publication) -> None:
    try:
        _move(item)
    except OSError:
        _discard(item.temporary)
        raise


def _discard(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass
