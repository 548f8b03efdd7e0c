"""Small codecs: names, sets, dates, strings."""

from __future__ import annotations

from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailstack.wire.imap import encode, utf7
from mailstack.wire.imap.dates import format_date_time, parse_date_time
from mailstack.wire.imap.sequence import format_set, parse_set, positions_of_numbers, positions_of_uids
from mailstack.wire.imap.tokens import Cursor

NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@given(NAMES)
def test_names_come_back(name: str) -> None:
    assert utf7.decode(utf7.encode(name)) == name or not name.isprintable()


@given(st.binary(max_size=20))
def test_names_are_canonical(raw: bytes) -> None:
    try:
        name = utf7.decode(raw)
    except ValueError:
        return
    assert utf7.encode(name) == raw


@pytest.mark.parametrize("raw", [b"&", b"&AOQ", b"&AGE-", b"&AOQ-&AOQ-", b"&/w-", b"\xc3\xa4", b"a\tb"])
def test_bad_names(raw: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        utf7.decode(raw)


@given(st.binary(max_size=50).filter(lambda value: b"\0" not in value))
def test_strings_come_back(value: bytes) -> None:
    text = encode.string(value)
    if text.startswith(b"{"):
        head, _, rest = text.partition(b"\r\n")
        assert (int(head[1:-1]), rest) == (len(value), value)
    else:
        assert Cursor(text).string() == value


@given(st.lists(st.integers(1, 60), unique=True, min_size=1))
def test_sets(numbers: list[int]) -> None:
    numbers.sort()
    wanted = parse_set(format_set(numbers).encode())
    assert positions_of_numbers(wanted, 60) == [number - 1 for number in numbers]
    uids = array("I", range(1, 61))
    assert positions_of_uids(wanted, uids, 60) == [number - 1 for number in numbers]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (b"*", [2]),
        (b"9:*", [2]),
        (b"*:9", [2]),
        (b"1:7", [0, 1]),
        (b"6", []),
        (b"5,5,5:7", [0, 1]),
        (b"7:*", [1, 2]),
    ],
)
def test_uid_sets(text: bytes, found: list[int]) -> None:
    assert positions_of_uids(parse_set(text), array("I", [5, 7, 8, 99]), 3) == found


@pytest.mark.parametrize("text", [b"0", b"1:", b":1", b"1,", b"4294967296", b"a", b"1:2:3", b""])
def test_bad_sets(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_set(text)


def test_numbers_that_do_not_exist() -> None:
    assert positions_of_numbers(parse_set(b"4"), 3) is None
    assert positions_of_numbers(parse_set(b"2:*"), 3) == [1, 2]
    assert positions_of_numbers(parse_set(b"*"), 0) is None


@given(st.integers(0, 4_000_000_000))
def test_dates_come_back(seconds: int) -> None:
    assert parse_date_time(format_date_time(seconds).decode()) == seconds


def test_a_day_of_one_digit() -> None:
    """With a space before it (RFC 3501 §9), and as node-imap writes it."""
    assert parse_date_time(" 1-Jan-1970 00:00:09 +0000") == parse_date_time("1-Jan-1970 00:00:09 +0000") == 9


@pytest.mark.parametrize(
    "text", ["31-Feb-2020 00:00:00 +0000", "01-Foo-2020 00:00:00 +0000", "1-Jan-2020", ""]
)
def test_bad_dates(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_date_time(text)
