"""Sets of sequence numbers or UIDs (RFC 3501 §9, `sequence-set`)."""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable

STAR = 1 << 32
"""`*`, the highest number there is; above every real one."""
RANGES_MAX = 65536

SequenceSet = tuple[tuple[int, int], ...]
"""Ranges of low and high end, both included, in the order and overlap of the text; either may be `STAR`."""
SAVED: SequenceSet = ((-1, -1),)
"""`$`: what the last SEARCH with SAVE has found (RFC 5182). No set in numbers looks like that."""


def parse_set(text: bytes) -> SequenceSet:
    """`1,3:5,7:*`. Raises `ValueError`."""
    ranges = []
    for item in text.split(b","):
        low, colon, high = item.partition(b":")
        first = _number(low)
        last = _number(high) if colon else first
        ranges.append((first, last) if first <= last else (last, first))
    if len(ranges) > RANGES_MAX:
        raise ValueError("too many ranges")
    return tuple(ranges)


def _number(text: bytes) -> int:
    if text == b"*":
        return STAR
    if not text.isdigit() or len(text) > 10 or not 0 < (value := int(text)) < STAR:
        raise ValueError(f"not a message number: {text!r}")
    return value


def positions_of_uids(wanted: SequenceSet, uids: array[int], count: int) -> list[int]:
    """Which of the first `count` UIDs (ascending) are in the set: their indexes, ascending.

    `*` is the highest UID, and `n:*` always includes it (RFC 3501 §6.4.8); numbers without a message are
    passed over.
    """
    if not count:
        return []
    top = uids[count - 1]
    spans = []
    for low, high in wanted:
        first, last = min(low, top) if high == STAR else low, min(high, top)
        start = bisect_left(uids, first, 0, count)
        stop = bisect_right(uids, last, 0, count)
        if start < stop:
            spans.append((start, stop))
    return _merge(spans)


def positions_of_numbers(wanted: SequenceSet, count: int) -> list[int] | None:
    """Indexes (number - 1) of sequence numbers, ascending; None when one of them does not exist."""
    spans = []
    for low, high in wanted:
        first = count if low == STAR else low
        last = count if high == STAR else high
        first, last = min(first, last), max(first, last)
        if not 0 < first <= last <= count:
            return None
        spans.append((first - 1, last))
    return _merge(spans)


def _merge(spans: list[tuple[int, int]]) -> list[int]:
    if len(spans) == 1:
        return list(range(*spans[0]))
    result: list[int] = []
    reached = 0
    for start, stop in sorted(spans):
        result.extend(range(max(start, reached), stop))
        reached = max(reached, stop)
    return result


def format_set(numbers: Iterable[int]) -> str:
    """`1:3,5` for 1, 2, 3, 5, keeping their order."""
    out: list[str] = []
    start = previous = -1
    for number in numbers:
        if number == previous + 1 and start >= 0:
            previous = number
            continue
        if start >= 0:
            out.append(f"{start}" if start == previous else f"{start}:{previous}")
        start = previous = number
    if start >= 0:
        out.append(f"{start}" if start == previous else f"{start}:{previous}")
    return ",".join(out)


def format_ranges(ranges: Iterable[tuple[int, int]]) -> str:
    """`1:3,5` for (1, 3) and (5, 5)."""
    return ",".join(f"{low}" if low == high else f"{low}:{high}" for low, high in ranges)
