"""Writing strings and names so that every IMAP client reads them back (RFC 3501 §4.3)."""

from __future__ import annotations

import re

from mailstack.wire.imap import utf7

QUOTED_MAX = 4096
"""Octets of a quoted string at the most; a longer one becomes a literal."""
ESCAPES_MAX = 4
"""Quotes and backslashes in a quoted string; what has more becomes a literal."""
_LITERAL_NEEDED = re.compile(rb"[\x00\r\n\x80-\xff]")
_ATOM = re.compile(rb"[^\x00-\x20\x7f-\xff(){%*\"\\]+")
_SPECIAL = re.compile(rb"([\"\\])")


def string(value: bytes) -> bytes:
    """A quoted string where that is possible, else a literal. NUL, which neither may hold, becomes 0x80."""
    if _LITERAL_NEEDED.search(value) or len(value) > QUOTED_MAX:
        if b"\0" in value:
            value = value.replace(b"\0", b"\x80")
        return b"{%d}\r\n%b" % (len(value), value)
    if b'"' in value or b"\\" in value:
        if value.count(b'"') + value.count(b"\\") > ESCAPES_MAX:
            return b"{%d}\r\n%b" % (len(value), value)
        value = _SPECIAL.sub(rb"\\\1", value)
    return b'"' + value + b'"'


def nstring(value: bytes | None) -> bytes:
    return b"NIL" if value is None else string(value)


def nstring8(value: bytes | None) -> bytes:
    """Any octets: those with a NUL in a literal8 (RFC 5464 §5, RFC 3516 §4)."""
    if value is not None and b"\0" in value:
        return b"~{%d}\r\n%b" % (len(value), value)
    return nstring(value)


def astring(value: bytes) -> bytes:
    """An atom where that is possible, else a string."""
    if _ATOM.fullmatch(value) and value.upper() != b"NIL":
        return value
    return string(value)


def mailbox(name: str) -> bytes:
    """A mailbox name in modified UTF-7."""
    return astring(utf7.encode(name))


def mailbox_utf8(name: str) -> bytes:
    """A mailbox name in UTF-8, for a client that has enabled it (RFC 6855 §3)."""
    return b'"' + _SPECIAL.sub(rb"\\\1", name.encode("utf-8", "replace")) + b'"'


def literal_plus(value: bytes) -> bytes:
    """A string a client may send without waiting (RFC 7888)."""
    return b"{%d+}\r\n%b" % (len(value), value)
