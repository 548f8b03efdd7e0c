"""What large and odd messages take in memory while they are looked at."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import pytest

from mailstack.wire.mime.binary import Storable
from mailstack.wire.mime.structure import parse
from mailstack.wire.mime.text import decode_header

KIB = 1 << 10
PIECE = b",\r\n a@b" * 9362
WORDS = b" =?utf-8?q?=C3=A4=C3=B6?=\n" * 20_000
PARTS = b"Content-Type: multipart/mixed; boundary=b\n\n--b\n" + b"\nx\n--b\n" * 9_990


def _recipients_to_store() -> int:
    """A header of 4 MiB that is all short lines."""
    storable = Storable()
    size = len(storable.add(b"To: a@b"))
    for _ in range(64):
        size += len(storable.add(PIECE))
    return size + len(storable.finish())


@pytest.mark.parametrize(
    ("work", "limit"),
    [
        (_recipients_to_store, 2048 * KIB),
        (lambda: len(decode_header(WORDS)), 1024 * KIB),
        (lambda: len(parse(PARTS).children), 2560 * KIB),
    ],
    ids=["recipients", "encoded words", "parts"],
)
def test_memory_is_bounded(work: Callable[[], int], limit: int) -> None:
    expected = work()  # also fills what is remembered between messages
    tracemalloc.start()
    try:
        assert work() == expected
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < limit, f"{peak / KIB:.0f} KiB"


def test_a_long_value_is_decoded_as_a_short_one() -> None:
    long = b"x" * 20_000 + WORDS[:20_800].rstrip() + b" end =?utf-8?b?w6Q=?=\n =?utf-8?q?=41?="
    assert decode_header(long) == "x" * 20_000 + " " + "äö" * 800 + " end äA"
