"""The mail queue on disk: folders, transitions, spooling. One message is one file; its name is its queue id.

    <queue>/tmp         being written; whatever is here at start belonged to nobody and is removed
            spare       emptied files, to be written again; removed at start
            maildrop    handed in by local programs, for pickup
            incoming    complete and durable; from here on the message is ours
            active      qmgr works on it for longer than a moment
            deferred/H  tried and failed for now; the modification time is the next attempt
            hold        the administrator has stopped it
            corrupt     damaged; kept for a look by hand

What holds always: a file in any folder but tmp has been written to its end, and was durable before anybody
was told of it; every transition is one rename; a message is removed only when no recipient is pending.
Format: `queue_file`. Operations raise `OSError` where the disk does; a file that cannot be decoded raises
`DamagedFile`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from mailstack.storage.durable import GroupCommit, Publication, write_all
from mailstack.storage.queue_file import (
    HEADER_SIZE,
    DamagedFile,
    Envelope,
    Reason,
    Recipient,
    decode,
    decode_header,
    encode_envelope,
    encode_header,
    encode_status,
)
from mailstack.storage.spare import SpareFiles

if TYPE_CHECKING:
    from asyncio import Future

__all__ = [
    "QUEUES",
    "Acceptance",
    "DamagedFile",
    "Entry",
    "Envelope",
    "Message",
    "NotOurs",
    "Queue",
    "Reason",
    "Recipient",
    "Spool",
]

QUEUES = ("maildrop", "incoming", "active", "deferred", "hold", "corrupt")
UNFINISHED = "tmp"
SPARE = "spare"
HASHED = ("deferred",)
READ_SIZE = 64 * 1024
"""Octets read at once; a message that fits is in memory after one read."""
_READ_FLAGS = os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NOATIME", 0)


class Entry(NamedTuple):
    """A file found by a scan: its name and modification time (seconds since the epoch)."""

    queue_id: str
    mtime: float


class NotOurs(Exception):  # noqa: N818 - a condition
    """A message that was being taken has not been: nobody was told that we have it."""


class Acceptance:
    """Whether a message that was read while it was being flushed has become ours. `ours` None: not yet."""

    __slots__ = ("_waiting", "ours")

    def __init__(self) -> None:
        self.ours: bool | None = None
        self._waiting: list[Future[None]] = []

    @property
    def awaited(self) -> bool:
        """Somebody waits for the answer."""
        return bool(self._waiting)

    def tell(self, ours: bool) -> None:
        """Say it to all who wait."""
        self.ours = ours
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_result(None)

    async def wait(self) -> None:
        if self.ours is None:
            from asyncio import get_running_loop  # tools that only look at a queue need not load it

            waiter: Future[None] = get_running_loop().create_future()
            self._waiting.append(waiter)
            await waiter


@dataclass(slots=True)
class Message:
    """A queue file that has been read. `pending` are the recipients not done with: index → file offset."""

    queue_id: str
    queue: str
    envelope: Envelope
    pending: dict[int, int]
    status_offset: int
    mtime: float
    attempts: int = 0
    reasons: dict[int, Reason] = field(default_factory=dict)
    content: bytes | None = None
    """The whole content, where it was small enough to come along."""
    acceptance: Acceptance | None = None
    """Of a message that was read while it was being flushed."""

    async def ours(self) -> None:
        """Return when the message is ours; until then nothing may be done that others see.

        Raises `NotOurs` when it will never be.
        """
        if self.acceptance is None:
            return
        await self.acceptance.wait()
        if not self.acceptance.ours:
            raise NotOurs(self.queue_id)


class Queue:
    """The queue below one folder. Safe to use from several processes at once; has no state but its names."""

    def __init__(self, directory: str, *, hash_depth: int = 1, long_ids: bool = False) -> None:
        self.directory = directory
        self._hash_depth = hash_depth
        self._long_ids = long_ids
        self._last_stamp = 0
        self._spare = SpareFiles(f"{directory}/{SPARE}")

    def create(self) -> None:
        """Make the folders that are missing (0700)."""
        for name in ("", UNFINISHED, SPARE, *QUEUES):
            os.makedirs(os.path.join(self.directory, name), mode=0o700, exist_ok=True)

    def clear_temporary(self) -> int:
        """Remove what an earlier process left unfinished; return how many files. Only while nobody writes."""
        folder = os.path.join(self.directory, UNFINISHED)
        names = os.listdir(folder)
        for name in names:
            os.unlink(os.path.join(folder, name))
        self._spare.clear()
        return len(names)

    def path(self, queue: str, queue_id: str) -> str:
        """Where a message of that queue is."""
        if queue in HASHED:
            return f"{self.directory}/{queue}/{'/'.join(queue_id[: self._hash_depth])}/{queue_id}"
        return f"{self.directory}/{queue}/{queue_id}"

    def new_id(self, now: float) -> str:
        """A queue id that no other message has: microseconds, seconds and process in hexadecimal digits.

        The microseconds come first, so that ids spread evenly over the hashed folders. With `long_ids`
        (enable_long_queue_ids) it is written as Postfix writes a long one.
        """
        stamp = max(int(now * 1_000_000), self._last_stamp + 1)
        self._last_stamp = stamp
        seconds, micros = divmod(stamp, 1_000_000)
        if self._long_ids:
            process = _digits(os.getpid(), 1, 51)  # `z` ends the time, and is no digit behind it
            return f"{_digits(seconds, 6)}{_digits(micros, 4)}z{process}"
        return f"{micros:05X}{seconds & 0xFFFFFFF:07X}{os.getpid():X}"

    # ---- in

    async def enqueue(
        self,
        envelope: Envelope,
        content: Sequence[bytes | memoryview],
        commit: GroupCommit,
        queue: str = "incoming",
        written: Callable[[], None] | None = None,
    ) -> str:
        """Put a message into incoming/, or into hold/; return its id once it is durable. Raises `OSError`.

        `content` has CRLF line ends and is not dot-stuffed; `envelope.queue_id` is used where it is set.
        `written` is called as `Publication.written` says.
        """
        queue_id = envelope.queue_id or self.new_id(envelope.arrival)
        records = encode_envelope(envelope)
        header = encode_header(sum(map(len, content)), records)
        temporary = self.path(UNFINISHED, queue_id)
        await commit.publish(
            Publication(
                temporary,
                self.path(queue, queue_id),
                (header, *content, records),
                append=self._spare.take(temporary),
                early=True,
                written=written,
            )
        )
        return queue_id

    def spool(self, now: float, *, queue_id: str = "", suffix: str = "") -> Spool:
        """Begin a message whose content comes in pieces, under `queue_id` or a new one. Raises `OSError`.

        `suffix` sets the unfinished files of one message apart.
        """
        return Spool(self, queue_id or self.new_id(now), suffix)

    # ---- out

    def read(self, queue: str, queue_id: str) -> Message:
        """Read a message. Raises `FileNotFoundError`, `DamagedFile`, `OSError`."""
        fd = os.open(self.path(queue, queue_id), _READ_FLAGS)
        try:
            data = os.read(fd, READ_SIZE)
            if not data:
                # What `remove` leaves when it is killed, or a loss of power of a message nobody was told of.
                os.unlink(self.path(queue, queue_id))
                raise FileNotFoundError(self.path(queue, queue_id))
            content_size, envelope_size, crc = decode_header(data)
            end = HEADER_SIZE + content_size + envelope_size
            content: bytes | None = None
            stat = os.fstat(fd)
            if stat.st_size < end:
                raise DamagedFile(f"{stat.st_size} octets long instead of {end}")
            if len(data) == stat.st_size:
                content = data[HEADER_SIZE : HEADER_SIZE + content_size]
                records, status = data[HEADER_SIZE + content_size : end], data[end:]
            else:
                records = _read_at(fd, HEADER_SIZE + content_size, envelope_size)
                status = _read_at(fd, end, stat.st_size - end)
        finally:
            os.close(fd)
        found = decode(queue_id, content_size, crc, records, status)
        return Message(
            queue_id,
            queue,
            found.envelope,
            found.pending,
            found.status_offset,
            stat.st_mtime,
            found.attempts,
            found.reasons,
            content,
        )

    def open_content(self, message: Message) -> int:
        """A file descriptor that stands at the content's first octet; the caller closes it. Raises `OSError`.

        The content is `message.envelope.size` octets long.
        """
        fd = os.open(self.path(message.queue, message.queue_id), _READ_FLAGS)
        os.lseek(fd, HEADER_SIZE, os.SEEK_SET)
        return fd

    def read_content(self, message: Message, limit: int | None = None) -> bytes:
        """The content, or its first `limit` octets. Raises `OSError`."""
        size = message.envelope.size if limit is None else min(limit, message.envelope.size)
        if message.content is not None:
            return message.content if size == len(message.content) else message.content[:size]
        fd = self.open_content(message)
        try:
            return _read_at(fd, HEADER_SIZE, size)
        finally:
            os.close(fd)

    # ---- transitions

    def mark_done(self, message: Message, indexes: Sequence[int]) -> None:
        """Cross recipients off, in place. Raises `OSError`."""
        fd = os.open(self.path(message.queue, message.queue_id), os.O_WRONLY | os.O_CLOEXEC)
        try:
            for index in indexes:
                offset = message.pending.get(index)
                if offset is not None:
                    os.pwrite(fd, b"X", offset)
                    del message.pending[index]
        finally:
            os.close(fd)

    def defer(
        self,
        message: Message,
        reasons: Mapping[int, Reason],
        next_attempt: float,
        attempts: int | None = None,
    ) -> None:
        """Note an attempt and why it failed, and move the message to deferred/ until `next_attempt`.

        `attempts` is the number to note, one more than before where it is not given. Raises `OSError`; the
        message is then where it was.
        """
        message.attempts = message.attempts + 1 if attempts is None else attempts
        message.reasons.update(reasons)
        reasons_left = {
            index: message.reasons[index] for index in message.pending if index in message.reasons
        }
        status = encode_status(message.attempts, reasons_left)
        path = self.path(message.queue, message.queue_id)
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.pwrite(fd, status, message.status_offset)
            os.ftruncate(fd, message.status_offset + len(status))
            os.utime(fd, (next_attempt, next_attempt))
        finally:
            os.close(fd)
        message.mtime = next_attempt
        self.move(message.queue_id, message.queue, "deferred")
        message.queue = "deferred"

    def move(self, queue_id: str, source: str, target: str) -> None:
        """One rename from queue to queue. Raises `FileNotFoundError`, `OSError`."""
        old, new = self.path(source, queue_id), self.path(target, queue_id)
        try:
            os.rename(old, new)
        except FileNotFoundError:
            if target not in HASHED or not os.path.lexists(old):
                raise
            os.makedirs(os.path.dirname(new), mode=0o700, exist_ok=True)
            os.rename(old, new)

    def reset(self, queue: str, queue_id: str, *, attempts: bool = False) -> None:
        """Make a message due now; with `attempts`, also forget earlier ones and why they failed.

        Raises `FileNotFoundError`, `DamagedFile`, `OSError`.
        """
        path = self.path(queue, queue_id)
        if attempts:
            os.truncate(path, self.read(queue, queue_id).status_offset)
        os.utime(path)

    def remove(self, queue: str, queue_id: str) -> None:
        """Take a finished message out of the queue; that it is gone already is no error. Raises `OSError`."""
        path = self.path(queue, queue_id)
        try:
            if not self._spare.give(path):
                os.unlink(path)
        except FileNotFoundError:
            pass
        except OSError:
            # It could not be kept: then let it go altogether.
            try:
                os.unlink(path)
            except FileNotFoundError:
                pass

    # ---- looking

    def scan(self, queue: str) -> Iterator[Entry]:
        """Every message of a queue, in no order. A file that goes away meanwhile is left out, and so are
        folders, and files that lie beside the folders of a hashed queue."""
        yield from _scan(os.path.join(self.directory, queue), self._hash_depth if queue in HASHED else 0)

    def names(self, queue: str) -> list[str]:
        """The ids in a queue that is not hashed, without looking at the files."""
        assert queue not in HASHED
        return os.listdir(f"{self.directory}/{queue}")

    def find(self, queue_id: str) -> str | None:
        """The queue that a message is in."""
        for queue in QUEUES:
            if os.path.lexists(self.path(queue, queue_id)):
                return queue
        return None


class Spool:
    """A message being written piece by piece, so that it need not fit in memory.

    Use `append` for content (CRLF line ends, not dot-stuffed), then `commit` or `abort` once.
    """

    def __init__(self, queue: Queue, queue_id: str, suffix: str = "") -> None:
        self.queue_id = queue_id
        self.size = 0
        self._queue = queue
        self._path = queue.path(UNFINISHED, queue_id + suffix)
        self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.write(self._fd, b" " * HEADER_SIZE)
        except OSError:
            self.abort()
            raise

    def append(self, data: Sequence[bytes | memoryview]) -> None:
        """Add content. Raises `OSError`; call `abort` then."""
        write_all(self._fd, data)
        self.size += sum(map(len, data))

    def read(self, offset: int, size: int) -> bytes:
        """Content that has been written; `b""` behind its end. Raises `OSError`."""
        return os.pread(self._fd, size, HEADER_SIZE + offset)

    async def commit(self, envelope: Envelope, commit: GroupCommit, queue: str = "incoming") -> str:
        """Close the message and put it into incoming/, or into hold/; return its id once it is durable.

        Raises `OSError`.
        """
        records = encode_envelope(envelope)
        try:
            os.pwrite(self._fd, encode_header(self.size, records), 0)
            os.close(self._fd)
        except OSError:
            self.abort()
            raise
        self._fd = -1
        final = self._queue.path(queue, self.queue_id)
        await commit.publish(Publication(self._path, final, (records,), append=True))
        return self.queue_id

    def abort(self) -> None:
        """Throw the message away. Harmless after `commit`."""
        if self._fd < 0:
            return
        fd, self._fd = self._fd, -1
        try:
            os.close(fd)
        finally:
            os.unlink(self._path)


def _scan(folder: str, depth: int) -> Iterator[Entry]:
    with os.scandir(folder) as entries:
        for entry in entries:
            folder_in_it = entry.is_dir(follow_symlinks=False)
            if depth or folder_in_it:  # what lies where it does not belong hides nothing else
                if depth and folder_in_it:
                    yield from _scan(entry.path, depth - 1)
                continue
            try:
                mtime = entry.stat(follow_symlinks=False).st_mtime
            except FileNotFoundError:
                continue
            yield Entry(entry.name, mtime)


def _read_at(fd: int, offset: int, size: int) -> bytes:
    parts = []
    while size > 0:
        part = os.pread(fd, size, offset)
        if not part:
            raise DamagedFile("it ends too early")
        parts.append(part)
        offset += len(part)
        size -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


_ALPHABET = "0123456789BCDFGHJKLMNPQRSTVWXYZbcdfghjklmnpqrstvwxyz"


def _digits(number: int, width: int, base: int = 52) -> str:
    """`number` in the digits of Postfix's long queue ids (no vowels), at least `width` of them."""
    digits = ""
    while number or len(digits) < width:
        number, digit = divmod(number, base)
        digits = _ALPHABET[digit] + digits
    return digits
