"""`mailstack.cache`: what has been read out of a folder's messages once. Only a cache.

Messages never change, so what stands here of a UID holds for as long as UIDVALIDITY does. Records are
appended, never altered; the file is written anew when half of it is about messages that are gone.

    octets 0..7    `MSCACHE1`
    octets 8..11   UIDVALIDITY
    then records   UID, kind, length, CRC-32 of the payload (`_RECORD`), the payload

What follows a record that is damaged or cut off is not believed: it is cut off and read from the messages
again. A file of another UIDVALIDITY counts as none.
"""

from __future__ import annotations

import errno
import os
import struct
import zlib
from collections.abc import Container, Iterable, Iterator
from enum import IntEnum

FILE = "mailstack.cache"
_MAGIC = b"MSCACHE1"
_START = struct.Struct("<8sI")
_RECORD = struct.Struct("<IIII")
PENDING_MAX = 1 << 18
"""Octets of records that are gathered before they are written."""
PAYLOAD_MAX = 1 << 20
"""Octets of one payload at the most; what is larger is read from the message each time."""
WINDOW = 1 << 17
"""Octets of the file that are read at once: records of neighbours stand side by side."""
GARBAGE_MIN = 1 << 20
"""Octets about messages that are gone for which the file is not written anew."""


class Kind(IntEnum):
    """What a payload is. Numbers stand in files: they are never given to something else."""

    ENVELOPE = 1
    BODY = 2
    BODYSTRUCTURE = 3
    HEADER_TEXT = 4
    """The header as it is searched: `name: text` lines in UTF-8, decoded, case-folded, see the owner."""
    PREVIEW = 5
    SUBJECT_KEY = 6
    """What messages are sorted by, one of the keys each; see the owner."""
    THREAD_KEYS = 7
    DATE_KEY = 8
    FROM_KEY = 9
    TO_KEY = 10
    CC_KEY = 11
    DISPLAYFROM_KEY = 12
    DISPLAYTO_KEY = 13


class MessageCache:
    """See the module. Nothing raises: `problem` says what went wrong last, for the log; it is only slow then.

    The file is read, not mapped: whoever cuts it off meanwhile must not end this process.
    """

    __slots__ = (
        "_fd",
        "_garbage",
        "_offsets",
        "_path",
        "_pending",
        "_pending_size",
        "_size",
        "_window",
        "_window_at",
        "problem",
    )

    def __init__(self, folder: str) -> None:
        self._path = f"{folder}/{FILE}"
        self._fd = -1
        self._size = 0
        self._garbage = 0
        self._offsets: dict[int, dict[int, int]] = {kind: {} for kind in Kind}
        self._window = b""
        self._window_at = 0
        self._pending: list[tuple[Kind, int, bytes]] = []
        self._pending_size = 0
        self.problem = ""

    @classmethod
    def load(cls, folder: str, uid_validity: int, uids: Container[int]) -> MessageCache:
        """Read what there is about these UIDs; may run in a thread."""
        cache = cls(folder)
        try:
            cache._open(uid_validity, uids)
            if cache._garbage > max(GARBAGE_MIN, cache._size // 2):
                cache._rewrite(uid_validity)
        except OSError as error:
            cache._give_up(error)
        return cache

    def close(self) -> None:
        """Write what is left; nothing is kept from now on."""
        self.flush()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    # ---- payloads

    def has(self, kind: Kind, uid: int) -> bool:
        """Whether `get` would find it."""
        return uid in self._offsets[kind]

    def get(self, kind: Kind, uid: int) -> bytes | None:
        """The payload, or None."""
        place = self._offsets[kind].get(uid)
        if place is None:
            return None
        start = (place >> 24) - self._window_at
        end = start + (place & 0xFFFFFF)
        if start < 0 or end > len(self._window):
            if not self._read(place >> 24, place & 0xFFFFFF):
                return None
            start, end = 0, place & 0xFFFFFF
        return self._window[start:end]

    def holding(self, kind: Kind, uids: Iterable[int], octets: bytes) -> Iterator[tuple[int, bytes]]:
        """Of these UIDs those whose payload there is and holds `octets`, each with its payload."""
        offsets = self._offsets[kind]
        for uid in uids:
            place = offsets.get(uid)
            if place is None:
                continue
            start = (place >> 24) - self._window_at
            end = start + (place & 0xFFFFFF)
            if start < 0 or end > len(self._window):
                if not self._read(place >> 24, place & 0xFFFFFF):
                    return
                start, end = 0, place & 0xFFFFFF
            if self._window.find(octets, start, end) >= 0:
                yield uid, self._window[start:end]

    def add(self, kind: Kind, uid: int, payload: bytes) -> bool:
        """Keep a payload; it is found by `get` after the next `flush`. Whether it is taken."""
        if len(payload) > PAYLOAD_MAX or self._fd < 0:
            return False
        self._pending.append((kind, uid, payload))
        self._pending_size += len(payload)
        if self._pending_size > PENDING_MAX:
            self.flush()
        return self._fd >= 0

    def flush(self) -> None:
        """Write what has been added."""
        pending, self._pending, self._pending_size = self._pending, [], 0
        if not pending or self._fd < 0:
            return
        parts: list[bytes] = []
        for kind, uid, payload in pending:
            parts += (_RECORD.pack(uid, kind, len(payload), zlib.crc32(payload)), payload)
        data = b"".join(parts)
        try:
            written = os.write(self._fd, data)
            end = os.lseek(self._fd, 0, os.SEEK_CUR)
            if written < len(data):
                os.ftruncate(self._fd, end - written)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            self._give_up(error)
            return
        at = end - len(data)
        for kind, uid, payload in pending:
            at += _RECORD.size
            self._offsets[kind][uid] = at << 24 | len(payload)
            at += len(payload)
        self._size = end

    # ---- the file

    def _give_up(self, error: OSError) -> None:
        """The file cannot be used: do without it until the folder is opened again."""
        self.problem = f"{self._path}: {error}"
        self._offsets = {kind: {} for kind in Kind}
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _read(self, at: int, length: int) -> bool:
        """Make the window begin at an octet of the file, with so many at least."""
        try:
            window = os.pread(self._fd, max(length, WINDOW), at)
            if len(window) < length:
                raise OSError(errno.EIO, "cut off by another program")
        except OSError as error:
            self._give_up(error)
            return False
        self._window, self._window_at = window, at
        return True

    def _open(self, uid_validity: int, uids: Container[int]) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._fd = os.open(self._path, flags, 0o600)
        size = os.fstat(self._fd).st_size
        if size >= _START.size:
            magic, validity = _START.unpack(os.pread(self._fd, _START.size, 0))
            if magic == _MAGIC and validity == uid_validity:
                self._size = self._walk(size, uids)
                if self._size < size:
                    self.problem = f"{self._path}: damaged at octet {self._size}; cut off there"
                    os.ftruncate(self._fd, self._size)
                return
            if magic != _MAGIC:
                self.problem = f"{self._path}: damaged; made anew"
        os.ftruncate(self._fd, 0)
        os.write(self._fd, _START.pack(_MAGIC, uid_validity))
        self._size = _START.size

    def _walk(self, size: int, uids: Container[int]) -> int:
        """Find the records; where the last good one ends."""
        at = _START.size
        base, piece = at, b""
        while at + _RECORD.size <= size:
            if at - base + _RECORD.size > len(piece):
                base, piece = at, os.pread(self._fd, WINDOW * 8, at)
            if len(piece) - (at - base) < _RECORD.size:
                break
            uid, kind, length, crc = _RECORD.unpack_from(piece, at - base)
            start = at + _RECORD.size
            if length > PAYLOAD_MAX or start + length > size:
                break
            if start - base + length > len(piece):
                base, piece = start, os.pread(self._fd, max(WINDOW * 8, length), start)
            payload = piece[start - base : start - base + length]
            if len(payload) < length or zlib.crc32(payload) != crc:
                break
            offsets = self._offsets.get(kind)
            if offsets is not None and uid in uids:
                offsets[uid] = start << 24 | length
            else:
                self._garbage += _RECORD.size + length
            at = start + length
        return at

    def _rewrite(self, uid_validity: int) -> None:
        """Leave out what is about messages that are gone. Raises `OSError`."""
        temporary = f"{self._path}.tmp"
        offsets: dict[int, dict[int, int]] = {kind: {} for kind in Kind}
        with open(temporary, "wb") as file:
            at = file.write(_START.pack(_MAGIC, uid_validity))
            for kind in Kind:
                for uid in sorted(self._offsets[kind]):
                    payload = self.get(kind, uid)
                    if payload is None:
                        return
                    at += file.write(_RECORD.pack(uid, kind, len(payload), zlib.crc32(payload)))
                    offsets[kind][uid] = at << 24 | len(payload)
                    at += file.write(payload)
        os.rename(temporary, self._path)
        os.close(self._fd)
        self._fd = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
        self._offsets, self._size, self._garbage = offsets, at, 0
        self._window, self._window_at = b"", 0


def damage(folder: str, uid_validity: int) -> str:
    """What is wrong with the folder's file, without a change to it; empty when nothing is.

    One of another UIDVALIDITY is about a mailbox that was there before: nothing is wrong with that.
    """
    try:
        with open(f"{folder}/{FILE}", "rb") as file:
            start = file.read(_START.size)
            if len(start) < _START.size:
                return ""
            magic, validity = _START.unpack(start)
            if magic != _MAGIC:
                return "not a cache"
            while validity == uid_validity and len(head := file.read(_RECORD.size)) == _RECORD.size:
                uid, _, length, crc = _RECORD.unpack(head)
                payload = file.read(length) if length <= PAYLOAD_MAX else b""
                if len(payload) < length or zlib.crc32(payload) != crc:
                    return f"damaged at the record of message {uid}"
    except FileNotFoundError:
        pass
    return ""
