"""The Date: field (RFC 5322 §3.3), also in the obsolete and sloppy forms that occur."""

from __future__ import annotations

import calendar
import re
import time
from functools import lru_cache

_MONTHS = {name: at for at, name in enumerate(b"jan feb mar apr may jun jul aug sep oct nov dec".split(), 1)}
_DATE = re.compile(rb"(?:[A-Za-z]+,?\s+)?(\d{1,2})\s+([A-Za-z]{3})[a-z]*\s+(\d{2,4})\s+\d{1,2}:\d\d")
_TIME = re.compile(
    rb"(?:[A-Za-z]+\s*,?\s*)?(\d{1,2})\s+([A-Za-z]{3})[a-z]*\s+(\d{2,4})\s+"
    rb"(\d{1,2})\s*[:.]\s*(\d\d?)(?:\s*[:.]\s*(\d\d?))?(?:\s+([+-]\d{4}|[A-Za-z]+))?",
    re.IGNORECASE,
)
_ZONES = {b"edt": -4, b"est": -5, b"cdt": -5, b"cst": -6, b"mdt": -6, b"mst": -7, b"pdt": -7, b"pst": -8}
"""Hours to UTC (RFC 5322 §4.3); all other names count as UTC."""
_COMMENT = re.compile(rb"\([^()]*\)")


def parse_sent_date(value: bytes) -> int | None:
    """Days since 1970-01-01 of the date as written, without regard to time and zone; None when unreadable."""
    found = _DATE.match(_COMMENT.sub(b" ", value).strip())
    if found is None:
        return None
    return _day(found[1], found[2], found[3])


def parse_date_time(value: bytes) -> int | None:
    """Seconds since 1970 of a date; None when unreadable. A zone that is not known counts as UTC."""
    found = _TIME.match(_COMMENT.sub(b" ", value).strip() if b"(" in value else value.strip())
    if found is None:
        return None
    day = _day(found[1], found[2], found[3])
    hour, minute, second = int(found[4]), int(found[5]), int(found[6] or 0)
    if day is None or hour > 23 or minute > 59 or second > 60:
        return None
    zone = found[7] or b""
    if zone[:1] in b"+-" and zone:
        offset = int(zone[1:3]) * 60 + int(zone[3:5])
        offset = -offset if zone[:1] == b"-" else offset
    else:
        offset = _ZONES.get(zone.lower(), 0) * 60
    return day * 86400 + hour * 3600 + minute * 60 + second - offset * 60


@lru_cache(1024)
def _day(day_text: bytes, month_text: bytes, year_text: bytes) -> int | None:
    """Days since 1970-01-01, years as RFC 5322 §4.3 reads them; None for no day."""
    day, month, year = int(day_text), _MONTHS.get(month_text.lower(), 0), int(year_text)
    if year < 50:
        year += 2000
    elif year < 1000:
        year += 1900
    if not month or not 1 <= day <= calendar.monthrange(year, month)[1]:
        return None
    return calendar.timegm((year, month, day, 0, 0, 0)) // 86400


_DAY_NAMES = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTH_NAMES = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_written: tuple[int, str, str] = (-1, "", "")


def write_date(now: float, *, zone_name: bool = False) -> str:
    """`Sun, 22 Nov 2026 12:05:06 +0000` in local time, with `zone_name` also ` (UTC)`; made once a second."""
    global _written
    second = int(now)
    if _written[0] != second:
        at = time.localtime(second)
        minutes = at.tm_gmtoff // 60
        zone = f"{'-' if minutes < 0 else '+'}{abs(minutes) // 60:02d}{abs(minutes) % 60:02d}"
        text = (
            f"{_DAY_NAMES[at.tm_wday]}, {at.tm_mday} {_MONTH_NAMES[at.tm_mon - 1]} {at.tm_year} "
            f"{at.tm_hour:02d}:{at.tm_min:02d}:{at.tm_sec:02d} {zone}"
        )
        _written = (second, text, f"{text} ({at.tm_zone})")
    return _written[2] if zone_name else _written[1]
