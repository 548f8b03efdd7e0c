"""Reading many messages for the first time on several processors.

What is read out of messages goes into the folder's cache, whoever reads it. A command that finds little of a
large mailbox there forks readers, one for each processor but its own. The messages stand in blocks, in the
order in which the command needs them; readers and command take the next block that nobody has taken, and what
a reader finds comes back through a pipe. A command never depends on them: where none can be had, where one
ends early, or where the cache takes nothing, it reads for itself.

A reader is a copy of this process that keeps none of its descriptors, runs nothing but its loop, and ends
when no block is left, or with the command.
"""

from __future__ import annotations

import asyncio
import fcntl
import gc
import os
import signal
import struct
import warnings
from collections.abc import Awaitable, Callable, Iterable, Sequence

from mailstack.storage.durable import write_all
from mailstack.storage.maildir.cache import Kind, MessageCache

BLOCK = 64
"""Messages that are taken at once."""
BLOCKS_MAX = 16_000
"""Blocks whose numbers fit into a pipe; what comes behind them the command reads for itself."""
MANY = 1000
"""Messages to be read from which on it is worth while."""
SAMPLE = 1000
"""Messages of which it is looked at how much is known of them."""
READERS_MAX = 3
TURN = 0.002
"""Seconds of reading in this process after which others have their turn."""
_NUMBER = struct.Struct("<I")
_FOUND = struct.Struct("<III")
"""A UID, a `Kind` and the octets that follow; a block's number, 0 and 0 where it is complete."""
_PIPE = 1 << 20
_PIECE = 1 << 18
_DESCRIPTORS = 1 << 20

Read = Callable[[int, bool], Iterable[tuple[Kind, bytes]]]
"""What is to be kept of a message, by its UID; whether it may take long. Raises `OSError`."""

_reading: set[Readers] = set()
"""One command at a time has readers."""


class _Reader:
    """A process, and what has come from it so far."""

    __slots__ = ("data", "fd", "pid")

    def __init__(self, pid: int, fd: int) -> None:
        self.pid = pid
        self.fd = fd
        self.data = b""

    def end(self) -> None:
        """It is not needed any more."""
        os.close(self.fd)
        try:
            os.kill(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        _reap(self.pid)


class Readers:
    """Readers for one command; `close` ends them."""

    def __init__(self, cache: MessageCache, uids: Sequence[int], read: Read) -> None:
        """Raises `OSError` where there can be none."""
        self._cache = cache
        self._uids = uids
        self._read = read
        self._done: set[int] = set()
        self._readers: list[_Reader] = []
        self._blocks, write_end = os.pipe2(os.O_CLOEXEC)
        try:
            count = min(-(-len(uids) // BLOCK), BLOCKS_MAX)
            write_all(write_end, [b"".join(map(_NUMBER.pack, range(count)))])
        finally:
            os.close(write_end)
        _reading.add(self)
        try:
            for _ in range(min(len(os.sched_getaffinity(0)) - 1, READERS_MAX)):
                self._readers.append(self._start())
        except OSError:
            self.close()
            raise

    async def reach(self, count: int) -> None:
        """The command is at this place: have its block read, by whomever, or leave it to the command."""
        block = count // BLOCK
        if count % BLOCK or block in self._done or block >= BLOCKS_MAX:
            return
        while True:
            self._collect()
            if block in self._done:
                self._cache.flush()
                return
            taken = os.read(self._blocks, _NUMBER.size)
            if taken:
                (number,) = _NUMBER.unpack(taken)
                self._done.add(number)
                if number == block:
                    return
                # A reader is at it: meanwhile there are others.
                await self._read_block(number)
            elif self._readers:
                await self._news()
            else:
                return

    async def read_all(self, turn: Callable[[int, int], Awaitable[None]]) -> None:
        """Read everything, and return when it is in the cache; `turn` is awaited now and then, with how much
        of how much is done."""
        total = len(self._uids)
        blocks = min(-(-total // BLOCK), BLOCKS_MAX)
        while len(self._done) < blocks:
            self._collect()
            taken = os.read(self._blocks, _NUMBER.size)
            if taken:
                (number,) = _NUMBER.unpack(taken)
                self._done.add(number)
                await self._read_block(number)
            elif self._readers:
                await self._news()
            else:
                break
            await turn(len(self._done) * BLOCK, total)
        self._cache.flush()

    def close(self) -> None:
        """End the readers that are left."""
        for reader in self._readers:
            reader.end()
        self._readers.clear()
        if self._blocks >= 0:
            os.close(self._blocks)
            self._blocks = -1
        _reading.discard(self)

    def _of(self, block: int) -> Sequence[int]:
        return self._uids[block * BLOCK : (block + 1) * BLOCK]

    async def _read_block(self, number: int) -> None:
        """Read in this process what does not take long; others have their turn now and then."""
        loop = asyncio.get_running_loop()
        turn = loop.time() + TURN
        for uid in self._of(number):
            try:
                found = self._read(uid, False)
            except OSError:
                continue
            for kind, value in found:
                self._cache.add(kind, uid, value)
            if loop.time() > turn:
                await asyncio.sleep(0)
                turn = loop.time() + TURN
        await asyncio.sleep(0)

    async def _news(self) -> None:
        """Wait until a reader has found something, or ends."""
        loop = asyncio.get_running_loop()
        told = loop.create_future()

        def tell() -> None:
            if not told.done():
                told.set_result(None)

        fds = [reader.fd for reader in self._readers]
        for fd in fds:
            loop.add_reader(fd, tell)
        try:
            await told
        finally:
            for fd in fds:
                loop.remove_reader(fd)

    def _collect(self) -> None:
        """Take what the readers have found until now."""
        for reader in list(self._readers):
            try:
                data = os.read(reader.fd, _PIECE)
            except BlockingIOError:
                continue
            if not data:
                self._readers.remove(reader)
                reader.end()
                continue
            self._take(reader, reader.data + data)

    def _take(self, reader: _Reader, data: bytes) -> None:
        at = 0
        while at + _FOUND.size <= len(data):
            uid, kind, length = _FOUND.unpack_from(data, at)
            start = at + _FOUND.size
            if start + length > len(data):
                break
            if kind:
                self._cache.add(Kind(kind), uid, data[start : start + length])
            else:
                self._done.add(uid)
            at = start + length
        reader.data = data[at:]

    # ---- in the reader

    def _start(self) -> _Reader:
        """Raises `OSError`."""
        read_end, write_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            fcntl.fcntl(read_end, fcntl.F_SETPIPE_SZ, _PIPE)
        except OSError:
            pass  # as much as a pipe holds
        try:
            with warnings.catch_warnings():
                # Threads do not come along; nothing here waits for any of them.
                warnings.simplefilter("ignore", DeprecationWarning)
                pid = os.fork()
        except OSError:
            os.close(read_end)
            os.close(write_end)
            raise
        if not pid:
            try:
                self._serve(write_end)
            finally:
                os._exit(0)
        os.close(write_end)
        return _Reader(pid, read_end)

    def _serve(self, fd: int) -> None:
        """What a reader does."""
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
            signal.signal(number, signal.SIG_DFL)
        # A connection that this process holds would not be closed with the other's.
        low, high = sorted((fd, self._blocks))
        os.closerange(0, low)
        os.closerange(low + 1, high)
        os.closerange(high + 1, _DESCRIPTORS)
        gc.disable()
        os.set_blocking(fd, True)
        while taken := os.read(self._blocks, _NUMBER.size):
            (number,) = _NUMBER.unpack(taken)
            parts: list[bytes] = []
            for uid in self._of(number):
                try:
                    found = list(self._read(uid, True))
                except OSError:
                    continue
                for kind, value in found:
                    parts += (_FOUND.pack(uid, kind, len(value)), value)
            parts.append(_FOUND.pack(number, 0, 0))
            write_all(fd, [b"".join(parts)])


def unknown(cache: MessageCache, kinds: Iterable[Kind], uids: Sequence[int], found: Sequence[int]) -> bool:
    """Whether it is worth while to have readers for the messages at these positions: one of the kinds is not
    known of many of them, as far as a sample tells."""
    if len(found) < MANY:
        return False
    step = len(found) // SAMPLE + 1
    wanted = tuple(kinds)
    missing = sum(not all(cache.has(kind, uids[at]) for kind in wanted) for at in found[::step])
    return missing * step >= MANY


def readers_for(cache: MessageCache, uids: Sequence[int], read: Read) -> Readers | None:
    """Readers of these messages; None where there are none to be had."""
    if _reading or len(os.sched_getaffinity(0)) < 2:
        return None
    try:
        return Readers(cache, uids, read)
    except OSError:
        return None


def _reap(pid: int) -> None:
    """Take note of a process that ends."""
    try:
        if os.waitpid(pid, os.WNOHANG) == (0, 0):
            asyncio.get_running_loop().call_later(0.05, _reap, pid)
    except ChildProcessError:
        pass
