"""Messages on their way between a mailbox and files: what is kept of each, and how two are known as one.

Everything here has CRLF line ends, as IMAP has; files have LF (`lf`, `crlf`).
"""

from __future__ import annotations

import hashlib
import re
import time
from calendar import timegm
from collections.abc import Iterable
from dataclasses import dataclass

Key = tuple[int, bytes]
"""Size in octets with CRLF and the SHA-256 of the header: the same for two copies of a message."""

_BARE_LF = re.compile(rb"(?<!\r)\n")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_DATE = re.compile(r" ?(\d{1,2})-(\w{3})-(\d{4}) (\d\d):(\d\d):(\d\d) ([+-])(\d\d)(\d\d)")
_KEYWORD = re.compile(r"[A-Za-z0-9$_.:!#&'+,/;<=>?@^`|~-]+\Z")
SYSTEM_FLAGS = {flag.lower(): flag for flag in ("\\Answered", "\\Flagged", "\\Deleted", "\\Seen", "\\Draft")}


@dataclass(frozen=True, slots=True)
class Stored:
    """A message with what a mailbox knows of it.

    `raw` has CRLF line ends. `date` is its INTERNALDATE in seconds since 1970, None when nobody knows it.
    `mailbox` is the name of its folder where the source has folders, with the levels in a tuple; `()` is the
    one that everything without a folder goes to. `source` names it for people (`box/cur/17…`, `a.mbox: 3`).
    """

    raw: bytes
    flags: tuple[str, ...] = ()
    date: float | None = None
    mailbox: tuple[str, ...] = ()
    source: str = ""
    uid: int = 0


def crlf(data: bytes) -> bytes:
    """With CRLF wherever a line ends with LF."""
    return _BARE_LF.sub(b"\r\n", data)


def lf(data: bytes) -> bytes:
    """With LF line ends, as files have them."""
    return data.replace(b"\r\n", b"\n")


def header_of(raw: bytes) -> bytes:
    """The header with the empty line behind it."""
    if raw.startswith(b"\r\n"):
        return raw[:2]
    end = raw.find(b"\r\n\r\n")
    return raw if end < 0 else raw[: end + 4]


def key_of(size: int, header: bytes) -> Key:
    """The key of a message of `size` octets with this header."""
    return size, hashlib.sha256(header).digest()


def keys_of(raw: bytes) -> tuple[Key, ...]:
    """The keys under which a message may be known: an mbox has given it a last line end if it had none."""
    digest = hashlib.sha256(header_of(raw)).digest()
    sizes = [len(raw), len(raw) - 2 if raw.endswith(b"\r\n") else len(raw) + 2]
    return tuple((size, digest) for size in sizes)


def known_flags(flags: Iterable[str]) -> tuple[str, ...]:
    """Those flags that a client may set: no `\\Recent`, nothing that is no atom; each once."""
    found: dict[str, str] = {}
    for flag in flags:
        name = SYSTEM_FLAGS.get(flag.lower(), "") if flag.startswith("\\") else flag
        if name and (name.startswith("\\") or _KEYWORD.match(name)):
            found.setdefault(name.lower(), name)
    return tuple(found.values())


def read_date(text: str) -> float | None:
    """Seconds since 1970 of an IMAP date-time (RFC 9051 §9), None for what is none."""
    found = _DATE.fullmatch(text)
    if found is None or found[2].title() not in _MONTHS:
        return None
    month = _MONTHS.index(found[2].title()) + 1
    zone = (int(found[8]) * 60 + int(found[9])) * 60 * (-1 if found[7] == "-" else 1)
    try:
        moment = timegm(
            (int(found[3]), month, int(found[1]), int(found[4]), int(found[5]), int(found[6]), 0, 0, 0)
        )
    except (ValueError, OverflowError):
        return None
    return float(moment - zone)


def write_date(date: float | None) -> bytes:
    """An IMAP date-time in UTC; nothing for None."""
    if date is None:
        return b""
    at = time.gmtime(date)
    return (
        f"{at.tm_mday:2d}-{_MONTHS[at.tm_mon - 1]}-{at.tm_year:04d} "
        f"{at.tm_hour:02d}:{at.tm_min:02d}:{at.tm_sec:02d} +0000"
    ).encode()
