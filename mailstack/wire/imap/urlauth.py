"""IMAP URLs (RFC 5092), as CATENATE (RFC 4469 §3) and URLAUTH (RFC 4467) take them."""

from __future__ import annotations

import calendar
import re
from dataclasses import dataclass
from urllib.parse import quote, unquote

from mailstack.wire.imap.fetch import Section, parse_items
from mailstack.wire.imap.tokens import Cursor, ParseError

URL_MAX = 8192
_URL = re.compile(
    r"(?:imap://(?:(?P<user>[^/@;]*)(?:;AUTH=[^/@;]*)?@)?(?P<host>[^/@;]+))?"
    r"/?(?P<mailbox>[^;]*?)(?:;UIDVALIDITY=(?P<validity>\d{1,10}))?"
    r"/?;UID=(?P<uid>\d{1,10})(?:/?;SECTION=(?P<section>[^;]*?))?"
    r"(?:/?;PARTIAL=(?P<first>\d{1,19})(?:\.(?P<count>\d{1,19}))?)?"
    r"(?P<auth>(?:;EXPIRE=(?P<expire>[^;]+))?"
    r";URLAUTH=(?P<access>[^:;]+)(?::(?P<mechanism>[^:;]+)(?::(?P<token>[0-9A-F]+))?)?)?\Z",
    re.IGNORECASE | re.ASCII,
)
_DATE = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)(?:\.\d+)?(?:Z|([+-])(\d\d):(\d\d))\Z", re.IGNORECASE
)


class BadUrlError(Exception):
    """What is no IMAP URL of a message."""


@dataclass(frozen=True, slots=True)
class ImapUrl:
    """A message or a piece of one. `host` (with its port) and `user` are empty in a relative URL, `mailbox`
    in one that is relative to the selected mailbox.

    `access` is the identifier that may use the URL (`submit+fred`), empty without URLAUTH; `rump` is all
    before the mechanism; `expire` counts seconds since 1970.
    """

    user: str
    host: str
    mailbox: str
    uid_validity: int | None
    uid: int
    section: Section
    expire: int | None = None
    access: str = ""
    mechanism: str = ""
    token: str = ""
    rump: str = ""


def parse_url(text: str) -> ImapUrl:
    """Raises `BadUrlError`."""
    found = _URL.match(text) if len(text) <= URL_MAX else None
    if found is None:
        raise BadUrlError("not an IMAP URL of a message")
    try:
        mailbox = unquote(found["mailbox"], errors="strict")
        user = unquote(found["user"] or "", errors="strict")
    except UnicodeDecodeError:
        raise BadUrlError("not in UTF-8") from None
    rump = ""
    if found["mechanism"]:
        rump = text[: found.start("mechanism") - 1]
    elif found["access"]:
        rump = text
    return ImapUrl(
        user=user,
        host=found["host"] or "",
        mailbox=mailbox,
        uid_validity=int(found["validity"]) if found["validity"] else None,
        uid=int(found["uid"]),
        section=_section(found),
        expire=_expire(found["expire"]) if found["expire"] else None,
        access=found["access"] or "",
        mechanism=(found["mechanism"] or "").upper(),
        token=(found["token"] or "").lower(),
        rump=rump,
    )


def _section(found: re.Match[str]) -> Section:
    raw = unquote(found["section"] or "", "latin-1").encode("latin-1")
    if b"\0" in raw:
        raise BadUrlError("not a section of a message")
    cursor = Cursor(b"BODY.PEEK[" + raw + b"]")
    try:
        (item,) = parse_items(cursor)
        cursor.end()
    except (ParseError, ValueError):
        raise BadUrlError("not a section of a message") from None
    if not isinstance(item, Section) or item.partial is not None:
        raise BadUrlError("not a section of a message")
    if not found["first"]:
        return item
    count = int(found["count"]) if found["count"] else 1 << 62
    if not count:
        raise BadUrlError("not a part of a section")
    partial = (int(found["first"]), count)
    return Section(item.label, item.part, item.kind, item.fields, peek=True, partial=partial)


def _expire(text: str) -> int:
    found = _DATE.match(unquote(text))
    if found is None:
        raise BadUrlError("EXPIRE is no date")
    year, month, day, hour, minute, second = (int(found[at]) for at in range(1, 7))
    if not (
        1 <= month <= 12 and 1 <= day <= 31 and hour < 24 and minute < 60 and second < 61 and year >= 1970
    ):
        raise BadUrlError("EXPIRE is no date")
    offset = (int(found[8]) * 60 + int(found[9])) * 60 if found[7] else 0
    return calendar.timegm((year, month, day, hour, minute, second)) - (
        -offset if found[7] == "-" else offset
    )


def escape(text: str) -> str:
    """A user's or mailbox's name as it stands in a URL."""
    return quote(text, safe="!$'()*+,&=~-._/")
