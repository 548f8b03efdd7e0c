"""`mailstack.index`: a folder's columns as they were when it was last put aside. Only a cache.

It saves the reading of large directories, and keeps what the files do not say: modification sequences (RFC
7162), when a message came into the folder (RFC 8514), sizes that no name tells. A missing file is made again;
a damaged one is told of (`DamagedIndexError`) and made again.

    octets 0..7    `MSINDEX2`
    octet  8       1; 0 as long as the folder has not changed since: only then are the sequences to be trusted
    octets 9..12   CRC-32 of everything behind
    then           the header (`_HEADER`), the columns, texts that each end with a NUL

Sequences that nobody has written down before a crash must not be given twice. So they are counted from the
clock (microseconds since 1970) whenever a folder is opened without a file that can be trusted.
"""

from __future__ import annotations

import os
import struct
import zlib
from array import array
from dataclasses import dataclass

from mailstack.storage.maildir.listing import Stamp

FILE = "mailstack.index"
_MAGIC = b"MSINDEX2"
_STATE = len(_MAGIC)
_BODY = _STATE + 5
_HEADER = struct.Struct("<IIIIQqqQQq")
"""UIDVALIDITY, next UID, first recent UID, stale records, highest sequence, stamp, the uidlist's inode, size
and time."""
_COUNTS = struct.Struct("<III")
"""Messages, extension fields, keywords."""
_COLUMNS = "IQQqqq"


class DamagedIndexError(Exception):
    """The file is not what was written."""


@dataclass(slots=True)
class Snapshot:
    """The file's content: `Folder`'s attributes of the same names. `trusted`: nothing has changed since."""

    uid_validity: int
    next_uid: int
    recent_from: int
    stale: int
    highest_modseq: int
    stamp: Stamp
    list_stamp: tuple[int, int, int]
    guid: str
    uids: array[int]
    flags: array[int]
    modseqs: array[int]
    dates: array[int]
    saved: array[int]
    sizes: array[int]
    names: list[str]
    extensions: dict[int, str]
    keywords: list[str]
    trusted: bool = True


def write(path: str, snapshot: Snapshot) -> None:
    """Put the snapshot into the folder at `path`, atomically, not flushed; `settle` it then if nothing has
    changed meanwhile. Raises `OSError`."""
    header = _HEADER.pack(
        snapshot.uid_validity,
        snapshot.next_uid,
        snapshot.recent_from,
        snapshot.stale,
        snapshot.highest_modseq,
        *snapshot.stamp,
        *snapshot.list_stamp,
    )
    columns = [
        snapshot.uids,
        snapshot.flags,
        snapshot.modseqs,
        snapshot.dates,
        snapshot.saved,
        snapshot.sizes,
    ]
    extensions = [f"{uid} {text}" for uid, text in snapshot.extensions.items()]
    texts = "\0".join([snapshot.guid, *snapshot.names, *extensions, *snapshot.keywords, ""])
    counts = _COUNTS.pack(len(snapshot.uids), len(extensions), len(snapshot.keywords))
    parts = [header, counts, *(column.tobytes() for column in columns), os.fsencode(texts)]
    crc = 0
    for part in parts:
        crc = zlib.crc32(part, crc)
    temporary = f"{path}/{FILE}.tmp"
    try:
        with open(temporary, "wb") as file:
            file.writelines([_MAGIC, b"\1", struct.pack("<I", crc), *parts])
        os.rename(temporary, f"{path}/{FILE}")
    except OSError:
        try:
            os.unlink(temporary)
        except OSError:
            pass
        raise


def read(path: str) -> Snapshot | None:
    """The snapshot in the folder at `path`; None when there is none.

    Raises `OSError`, `DamagedIndexError`.
    """
    try:
        with open(f"{path}/{FILE}", "rb") as file:
            data = file.read()
    except FileNotFoundError:
        return None
    body = memoryview(data)[_BODY:]
    if not data.startswith(_MAGIC) or len(body) < _HEADER.size + _COUNTS.size:
        raise DamagedIndexError("not an index, or cut off")
    if zlib.crc32(body) != struct.unpack_from("<I", data, _STATE + 1)[0]:
        raise DamagedIndexError("its checksum is wrong")
    return _decode(body, trusted=data[_STATE] == 0)


def _decode(body: memoryview, trusted: bool) -> Snapshot:
    fields = _HEADER.unpack_from(body)
    count, extended, named = _COUNTS.unpack_from(body, _HEADER.size)
    at = _HEADER.size + _COUNTS.size
    columns: list[array[int]] = []
    for code in _COLUMNS:
        column = array(code)
        end = at + count * column.itemsize
        if end > len(body):
            raise DamagedIndexError("cut off")
        column.frombytes(body[at:end])
        columns.append(column)
        at = end
    texts = os.fsdecode(bytes(body[at:])).split("\0")
    if len(texts) != count + extended + named + 2:
        raise DamagedIndexError("its texts are not complete")
    uids, flags, modseqs, dates, saved, sizes = columns
    return Snapshot(
        uid_validity=fields[0],
        next_uid=fields[1],
        recent_from=fields[2],
        stale=fields[3],
        highest_modseq=fields[4],
        stamp=(fields[5], fields[6]),
        list_stamp=(fields[7], fields[8], fields[9]),
        guid=texts[0],
        uids=uids,
        flags=flags,
        modseqs=modseqs,
        dates=dates,
        saved=saved,
        sizes=sizes,
        names=texts[1 : count + 1],
        extensions=dict(_extension(text) for text in texts[count + 1 : count + 1 + extended]),
        keywords=texts[count + 1 + extended : -1],
        trusted=trusted,
    )


def _extension(text: str) -> tuple[int, str]:
    uid, _, extension = text.partition(" ")
    return int(uid), extension


def mark(path: str) -> None:
    """The folder is about to change: what the file says of sequences is out of date. Raises `OSError`."""
    _set_state(path, b"\1")


def settle(path: str) -> None:
    """What has been written is how the folder is. Raises `OSError`."""
    _set_state(path, b"\0")


def _set_state(path: str, state: bytes) -> None:
    try:
        fd = os.open(f"{path}/{FILE}", os.O_WRONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        os.pwrite(fd, state, _STATE)
    finally:
        os.close(fd)
