"""Message text on its way out: CRLF, dots, TOP's cut; the same however it is cut into pieces."""

from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailstack.wire.pop3 import Stuffer, Top

TEXT = st.text(alphabet="ab.\r\n", max_size=60).map(str.encode)
CUTS = st.lists(st.integers(0, 60), max_size=5)


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    marks = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(marks)]


def stuffed(data: bytes, cuts: list[int]) -> bytes:
    stuffer = Stuffer()
    return b"".join(stuffer.feed(piece) for piece in pieces(data, cuts)) + stuffer.end()


@pytest.mark.parametrize(
    ("data", "sent"),
    [
        (b"a\nb\n", b"a\r\nb\r\n.\r\n"),
        (b"a\r\nb\r\n", b"a\r\nb\r\n.\r\n"),
        (b"no end", b"no end\r\n.\r\n"),
        (b".\n..\n.a\n", b"..\r\n...\r\n..a\r\n.\r\n"),
        (b"", b"\r\n.\r\n"),
        (b"a\r", b"a\r\r\n.\r\n"),
    ],
)
def test_lines_and_dots(data: bytes, sent: bytes) -> None:
    assert stuffed(data, []) == sent


@given(TEXT, CUTS)
def test_pieces_do_not_matter_and_the_client_gets_the_message_back(data: bytes, cuts: list[int]) -> None:
    sent = stuffed(data, cuts)
    assert sent == stuffed(data, [])
    assert sent.endswith(b".\r\n")
    assert b"\r\n.\r\n" not in sent[:-5]
    received = re.sub(rb"(\A|\n)\.", rb"\1", sent[:-3])
    wire = re.sub(rb"(?<!\r)\n", b"\r\n", data)
    assert received == (wire if wire.endswith(b"\r\n") else wire + b"\r\n")


@pytest.mark.parametrize(
    ("data", "lines", "expected"),
    [
        (b"H: 1\n\nb1\nb2\nb3\n", 0, b"H: 1\n\n"),
        (b"H: 1\n\nb1\nb2\nb3\n", 2, b"H: 1\n\nb1\nb2\n"),
        (b"H: 1\r\n\r\nb1\r\nb2\r\n", 1, b"H: 1\r\n\r\nb1\r\n"),
        (b"H: 1\n\nb1\n", 99, b"H: 1\n\nb1\n"),
        (b"\nb1\nb2\n", 1, b"\nb1\n"),
        (b"H: 1\n", 3, b"H: 1\n"),
    ],
)
def test_top(data: bytes, lines: int, expected: bytes) -> None:
    for step in (len(data), 1, 2, 3):
        top = Top(lines)
        assert b"".join(top.feed(data[at : at + step]) for at in range(0, len(data), step)) == expected
