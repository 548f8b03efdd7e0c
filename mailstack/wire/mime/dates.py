"""The Date: field (RFC 5322 §3.3), also in the obsolete and sloppy forms that occur."""

from __future__ import annotations

import calendar
import re

_MONTHS = {name: at for at, name in enumerate(b"jan feb mar apr may jun jul aug sep oct nov dec".split(), 1)}
_DATE = re.compile(rb"(?:[A-Za-z]+,?\s+)?(\d{1,2})\s+([A-Za-z]{3})[a-z]*\s+(\d{2,4})\s+\d{1,2}:\d\d")
_COMMENT = re.compile(rb"\([^()]*\)")


def parse_sent_date(value: bytes) -> int | None:
    """Days since 1970-01-01 of the date as written, without regard to time and zone; None when unreadable."""
    found = _DATE.match(_COMMENT.sub(b" ", value).strip())
    if found is None:
        return None
    day, month, year = int(found[1]), _MONTHS.get(found[2].lower(), 0), int(found[3])
    if year < 50:
        year += 2000
    elif year < 1000:
        year += 1900
    if not month or not 1 <= day <= calendar.monthrange(year, month)[1]:
        return None
    return calendar.timegm((year, month, day, 0, 0, 0)) // 86400
