"""Messages in files: mbox, Maildir, `.eml`. Reading whatever lies there, and what it says of each message.

mbox is read as mboxrd (`>From ` at the beginning of a line is `From ` with one `>` in front). Its flags stand
in `Status:`, `X-Status:` and `X-Keywords:`, where mail programs write them; those fields are no part of the
message. A Maildir's flags stand in the names of its files, the names of keywords in `dovecot-keywords`; the
dates are the files'. An `.eml` file is a message and its date.

Raises `OSError`, and `NoMailError` for what holds no messages.
"""

from __future__ import annotations

import os
import re
from calendar import timegm
from collections.abc import Iterator
from email.utils import parsedate_tz
from typing import BinaryIO

from mailstack.client.stored import Stored, crlf
from mailstack.wire.imap import utf7

MBOX_NAMES = (".mbox", ".mbx")
_FROM_LINE = re.compile(rb"From .*\d\d:\d\d")
_QUOTED = re.compile(rb"^>(>*From )", re.MULTILINE)
_ASCTIME = re.compile(
    rb"([A-Z][a-z]{2}) +(\d{1,2}) (\d\d):(\d\d)(?::(\d\d))?(?: [A-Z]{3,4}| [+-]\d{4})* (\d{4})"
)
_MONTHS = (b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec")
_STATUS = re.compile(rb"(status|x-status|x-keywords)[ \t]*:", re.IGNORECASE)
_LETTERS = {
    "D": "\\Draft",
    "F": "\\Flagged",
    "R": "\\Answered",
    "S": "\\Seen",
    "T": "\\Deleted",
    "P": "$Forwarded",
}
_STATUS_LETTERS = {"R": "\\Seen", "A": "\\Answered", "F": "\\Flagged", "T": "\\Draft", "D": "\\Deleted"}


class NoMailError(Exception):
    """What was given holds no messages; `str()` names it and says why."""


# ---- mbox


def read_mbox(file: BinaryIO, name: str, mailbox: tuple[str, ...] = ()) -> Iterator[Stored]:
    """Every message of an mbox, which begins with a From_ line; `name` is for people."""
    first = file.readline()
    while first in (b"\n", b"\r\n"):
        first = file.readline()
    if not first:
        return
    if not first.startswith(b"From "):
        raise NoMailError(f"{name}: not an mbox: it does not begin with 'From '")
    number = 0
    while first:
        number += 1
        lines, following = _until_next(file)
        yield _from_mbox(first, b"".join(lines), f"{name}: {number}", mailbox)
        first = following


def _until_next(file: BinaryIO) -> tuple[list[bytes], bytes]:
    """The lines of a message, and the From_ line behind it (`b""` at the end)."""
    lines: list[bytes] = []
    for line in file:
        if line.startswith(b"From ") and lines and lines[-1] in (b"\n", b"\r\n") and _FROM_LINE.match(line):
            lines.pop()
            return lines, line
        lines.append(line)
    if lines and lines[-1] in (b"\n", b"\r\n"):
        lines.pop()
    return lines, b""


def _from_mbox(first: bytes, data: bytes, source: str, mailbox: tuple[str, ...]) -> Stored:
    header, flags = _take_status(data)
    raw = crlf(_QUOTED.sub(rb"\1", header + data[_header_size(data) :]))
    return Stored(raw, tuple(flags), _from_date(first), mailbox, source)


def _header_size(data: bytes) -> int:
    ends = [found.end() for found in (re.search(rb"^\r?\n", data, re.MULTILINE),) if found]
    return ends[0] if ends else len(data)


def _take_status(data: bytes) -> tuple[bytes, list[str]]:
    """The header without the fields in which mail programs keep flags, and those flags."""
    kept: list[bytes] = []
    flags: list[str] = []
    skipping = False
    for line in data[: _header_size(data)].splitlines(keepends=True):
        if line[:1] in (b" ", b"\t"):
            if skipping:
                flags += line.decode("utf-8", "replace").split()
                continue
        elif (found := _STATUS.match(line)) is not None:
            value = line[found.end() :].decode("utf-8", "replace").split()
            if found[1].lower() == b"x-keywords":
                flags += value
            else:
                flags += [_STATUS_LETTERS[letter] for letter in "".join(value) if letter in _STATUS_LETTERS]
            skipping = True
            continue
        skipping = False
        kept.append(line)
    return b"".join(kept), flags


def _from_date(line: bytes) -> float | None:
    found = _ASCTIME.search(line)
    if found is None or found[1] not in _MONTHS:
        return None
    month = _MONTHS.index(found[1]) + 1
    try:
        return float(
            timegm(
                (
                    int(found[6]),
                    month,
                    int(found[2]),
                    int(found[3]),
                    int(found[4]),
                    int(found[5] or 0),
                    0,
                    0,
                    0,
                )
            )
        )
    except (ValueError, OverflowError):
        return None


# ---- Maildir


def read_maildir(root: str, mailbox: tuple[str, ...] = ()) -> Iterator[Stored]:
    """The messages of a Maildir and of the folders in it (Maildir++: `.A.B`), in the order of their names."""
    yield from _maildir_folder(root, mailbox)
    for entry in sorted(os.listdir(root)):
        path = os.path.join(root, entry)
        if entry.startswith(".") and entry.strip(".") and is_maildir(path) and not entry.startswith(".."):
            try:
                name = utf7.decode(os.fsencode(entry[1:]))
            except ValueError:
                name = entry[1:]
            yield from _maildir_folder(path, tuple(name.split(".")))


def is_maildir(path: str) -> bool:
    """Whether a folder is a Maildir."""
    return os.path.isdir(os.path.join(path, "cur")) and os.path.isdir(os.path.join(path, "new"))


def _maildir_folder(path: str, mailbox: tuple[str, ...]) -> Iterator[Stored]:
    keywords = _keywords(path)
    for place in ("cur", "new"):
        folder = os.path.join(path, place)
        for name in sorted(entry for entry in os.listdir(folder) if not entry.startswith(".")):
            file_path = os.path.join(folder, name)
            try:
                with open(file_path, "rb") as file:
                    data, date = file.read(), os.fstat(file.fileno()).st_mtime
            except FileNotFoundError:
                continue  # its owner goes on using the Maildir
            except IsADirectoryError:
                continue
            letters = name.partition(":2,")[2]
            flags = [_LETTERS[letter] for letter in letters if letter in _LETTERS]
            flags += [keywords[letter] for letter in letters if letter in keywords]
            yield Stored(crlf(data), tuple(flags), date, mailbox, file_path)


def _keywords(path: str) -> dict[str, str]:
    try:
        with open(os.path.join(path, "dovecot-keywords"), encoding="utf-8", errors="replace") as file:
            lines = [line.split(" ", 1) for line in file.read().splitlines()]
    except FileNotFoundError:
        return {}
    return {
        chr(ord("a") + int(line[0])): line[1]
        for line in lines
        if len(line) == 2 and line[0].isascii() and line[0].isdigit() and int(line[0]) < 26
    }


# ---- .eml files and folders of anything


def read_eml(path: str, mailbox: tuple[str, ...] = ()) -> Stored:
    """A file that is one message."""
    with open(path, "rb") as file:
        return Stored(crlf(file.read()), (), os.fstat(file.fileno()).st_mtime, mailbox, path)


def read_stream(file: BinaryIO, name: str) -> Iterator[Stored]:
    """Standard input: an mbox when it begins with a From_ line, else one message."""
    start = file.peek(5)[:5] if hasattr(file, "peek") else b""
    if start.startswith(b"From "):
        yield from read_mbox(file, name)
        return
    data = file.read()
    if data.startswith(b"From "):
        from io import BytesIO

        yield from read_mbox(BytesIO(data), name)
    elif data.strip():
        yield Stored(crlf(data), (), _sent(data), (), name)


def _sent(data: bytes) -> float | None:
    """Date: of a message that nobody has a better date of."""
    found = re.search(rb"^date:[ \t]*(.*)$", data[: _header_size(data)], re.IGNORECASE | re.MULTILINE)
    parsed = parsedate_tz(found[1].decode("ascii", "replace").strip()) if found else None
    if parsed is None:
        return None
    try:
        return float(timegm((*parsed[:6], 0, 0, 0)) - (parsed[9] or 0))
    except (ValueError, OverflowError):
        return None


def read(path: str) -> Iterator[Stored]:
    """Whatever lies at a path: an mbox, a message, a Maildir, a folder with any of these."""
    if not os.path.isdir(path):
        yield from _file(path, ())
        return
    found = False
    for message in _folder(path, (), top=True):
        found = True
        yield message
    if not found and not is_maildir(path):
        raise NoMailError(f"{path}: no .eml or .mbox file and no Maildir is in it")


def _file(path: str, mailbox: tuple[str, ...]) -> Iterator[Stored]:
    with open(path, "rb") as file:
        start = file.read(5)
        file.seek(0)
        if start == b"From " or (path.endswith(MBOX_NAMES) and not start):
            yield from read_mbox(file, path, mailbox)
            return
    if path.endswith(MBOX_NAMES):
        raise NoMailError(f"{path}: not an mbox: it does not begin with 'From '")
    yield read_eml(path, mailbox)


def _folder(path: str, mailbox: tuple[str, ...], *, top: bool) -> Iterator[Stored]:
    if is_maildir(path):
        yield from read_maildir(path, mailbox)
        return
    for entry in sorted(os.listdir(path), key=_natural):
        inner = os.path.join(path, entry)
        if entry.startswith("."):
            continue
        if os.path.isdir(inner):
            yield from _folder(inner, (*mailbox, unquoted(entry)), top=False)
        elif entry.endswith(MBOX_NAMES):
            name = unquoted(entry.rpartition(".")[0])
            yield from _file(inner, (*mailbox, *(name.split(".") if top else [name])))
        elif entry.endswith(".eml"):
            yield from _file(inner, mailbox)


def _natural(name: str) -> tuple[str | int, ...]:
    """`9.eml` before `10.eml`."""
    return tuple(int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name))


def quoted(name: str) -> str:
    """A mailbox's name as one file name: `%`, `/` and a dot at the beginning as `%XX`."""
    name = name.replace("%", "%25").replace("/", "%2F").replace("\0", "%00")
    return "%2E" + name[1:] if name.startswith(".") else name


def unquoted(name: str) -> str:
    """The opposite of `quoted`."""
    return re.sub(r"%([0-9A-Fa-f]{2})", lambda found: chr(int(found[1], 16)), name)
