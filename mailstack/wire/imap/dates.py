"""`date` and `date-time` (RFC 3501 §9)."""

from __future__ import annotations

import calendar
import re
import time

MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_MONTH = {name.lower(): number for number, name in enumerate(MONTHS, 1)}
_DATE = re.compile(r"\s?(\d{1,2})-([A-Za-z]{3})-(\d{4})")
_DATE_TIME = re.compile(r"([ \d]?\d)-([A-Za-z]{3})-(\d{4}) (\d\d):(\d\d):(\d\d) ([+-])(\d\d)(\d\d)")


def parse_date(text: str) -> int:
    """Days since 1970-01-01 of `22-Nov-2026`. Raises `ValueError`."""
    found = _DATE.fullmatch(text)
    if found is None:
        raise ValueError(f"not a date: {text!r}")
    return _seconds(int(found[3]), found[2], int(found[1]), 0, 0, 0) // 86400


def parse_date_time(text: str) -> int:
    """Seconds since the epoch of `22-Nov-2026 12:03:49 +0000`; a day of one digit needs no space before it,
    as node-imap has it. Raises `ValueError`."""
    found = _DATE_TIME.fullmatch(text)
    if found is None:
        raise ValueError(f"not a date and time: {text!r}")
    seconds = _seconds(int(found[3]), found[2], int(found[1]), *(int(found[n]) for n in (4, 5, 6)))
    zone = int(found[8]) * 3600 + int(found[9]) * 60
    return seconds + zone if found[7] == "-" else seconds - zone


def _seconds(year: int, month: str, day: int, hour: int, minute: int, second: int) -> int:
    number = _MONTH.get(month.lower(), 0)
    if not number or year < 1 or not 1 <= day <= calendar.monthrange(year, number)[1]:
        raise ValueError("no such day")
    if hour > 23 or minute > 59 or second > 60:
        raise ValueError("no such time")
    return calendar.timegm((year, number, day, hour, minute, second))


def format_date_time(seconds: int) -> bytes:
    """`22-Nov-2026 12:03:49 +0000`, in the machine's own time zone (26 octets)."""
    local = time.localtime(seconds)
    offset = local.tm_gmtoff // 60
    sign, offset = ("-", -offset) if offset < 0 else ("+", offset)
    return (
        f"{local.tm_mday:02d}-{MONTHS[local.tm_mon - 1]}-{local.tm_year:04d} {local.tm_hour:02d}:"
        f"{local.tm_min:02d}:{local.tm_sec:02d} {sign}{offset // 60:02d}{offset % 60:02d}"
    ).encode("ascii")
