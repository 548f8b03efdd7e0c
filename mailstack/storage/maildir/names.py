"""Names of Maildir files: unique names, sizes in the name, flags behind `:2,`.

A name is `<unique>[,S=<size>][,W=<virtual size>][:2,<flags>]`. `S` is the size on disk in octets, `W` the
size with every line end counted as CRLF (what IMAP and POP3 announce). Flags are the letters of the Maildir
specification in ASCII order, followed by `a`..`z` for keywords, whose meaning stands in `dovecot-keywords`.

In memory a message's flags are one integer: bit 0..5 the system flags in the order of `LETTERS`, bit 6..31
the keywords a..z.
"""

from __future__ import annotations

import itertools
import os

INFO = ":2,"
LETTERS = "DFPRST"
"""Draft, Flagged, Passed, Replied, Seen, Trashed: bit 0..5."""

DRAFT, FLAGGED, PASSED, ANSWERED, SEEN, DELETED = (1 << bit for bit in range(6))
KEYWORD_SHIFT = 6
KEYWORDS_MAX = 26

_BIT = {letter: 1 << bit for bit, letter in enumerate(LETTERS)} | {
    chr(ord("a") + index): 1 << (KEYWORD_SHIFT + index) for index in range(KEYWORDS_MAX)
}
_ORDERED = tuple(sorted(_BIT.items()))
_suffixes: dict[int, str] = {0: INFO}
_bits: dict[str, int] = {INFO: 0}
_CACHE_LIMIT = 4096
_sequence = itertools.count(1)


def unique_name(now: float, hostname: str, size: int | None = None, virtual_size: int | None = None) -> str:
    """A base name nobody else uses: `1700000000.M123456P77Q1.host,S=12,W=14`. `now`: epoch seconds."""
    seconds = int(now)
    micros = int((now - seconds) * 1_000_000)
    host = hostname.replace("/", "\\057").replace(":", "\\072").replace(",", "\\054") or "localhost"
    name = f"{seconds}.M{micros}P{os.getpid()}Q{next(_sequence)}.{host}"
    if size is not None:
        name += f",S={size}"
    if virtual_size is not None:
        name += f",W={virtual_size}"
    return name


def split_name(filename: str) -> tuple[str, str]:
    """`("base", ":2,S")` of a file name; the second part is empty in `new/`."""
    at = filename.find(":")
    return (filename, "") if at < 0 else (filename[:at], filename[at:])


def suffix_of(flags: int) -> str:
    """`:2,FS` for a flag integer."""
    suffix = _suffixes.get(flags)
    if suffix is None:
        suffix = INFO + "".join(letter for letter, bit in _ORDERED if flags & bit)
        if len(_suffixes) < _CACHE_LIMIT:
            _suffixes[flags] = suffix
    return suffix


def flags_of(suffix: str) -> int:
    """The flag integer of what follows the base name; letters without a meaning are ignored."""
    flags = _bits.get(suffix)
    if flags is None:
        flags = 0
        if suffix.startswith(INFO):
            for letter in suffix[len(INFO) :]:
                if letter == ",":
                    break
                flags |= _BIT.get(letter, 0)
        if len(_bits) < _CACHE_LIMIT:
            _bits[suffix] = flags
    return flags


def size_in_name(name: str, key: str) -> int | None:
    """The number behind `,S=` or `,W=` (`key` is the letter), or None when the name has none."""
    at = name.find(f",{key}=")
    if at < 0:
        return None
    digits = name[at + 3 :].partition(":")[0].partition(",")[0]
    return int(digits) if digits.isascii() and digits.isdecimal() and len(digits) < 19 else None
