"""Content in both directions: what is stuffed comes back, however it is cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailstack.wire.smtp.content import ChunkReader, ContentReader, stuff
from tests.unit.wire_smtp.feeding import cuts


def read(segments: list[bytes], limit: int = 0) -> tuple[bytes, bytes]:
    """(content, what stands behind the end)."""
    reader = ContentReader(limit)
    content = b""
    for index, segment in enumerate(segments):
        piece, used = reader.feed(segment)
        content += piece
        if used >= 0:
            return content, segment[used:] + b"".join(segments[index + 1 :])
    raise AssertionError("no end")


def as_parts(content: bytes, width: int) -> list[bytes]:
    return [content[i : i + width] for i in range(0, len(content), width)]


CRLF_TEXT = st.lists(st.text("a.", max_size=4), max_size=12).map(
    lambda lines: "".join(line + "\r\n" for line in lines).encode()
)


@given(CRLF_TEXT, st.integers(1, 9), st.integers(1, 9))
def test_stuffing_and_reading_are_inverse(content: bytes, sent_width: int, read_width: int) -> None:
    wire = b"".join(stuff(as_parts(content, sent_width)))
    assert wire.endswith(b".\r\n")
    assert read(as_parts(wire + b"NOOP\r\n", read_width)) == (content, b"NOOP\r\n")


@given(st.text("a.\r\n", max_size=30), st.integers(1, 9))
def test_content_never_holds_a_bare_cr_or_lf_and_is_the_same_for_every_cut(text: str, width: int) -> None:
    wire = text.encode() + b"\r\n.\r\n"
    content, rest = read([wire])
    assert content.count(b"\r\n") == content.count(b"\n") == content.count(b"\r")
    again, behind = read(as_parts(wire, width))
    assert (again, behind) == (content, rest)
    # And it can be sent on without anything in it being taken for the end.
    assert b"".join(stuff([content])).find(b"\r\n.\r\n") in (-1, len(b"".join(stuff([content]))) - 5)


@pytest.mark.parametrize(
    "wire, content",
    [
        (b".\r\n", b""),
        (b"..\r\n.\r\n", b".\r\n"),
        (b".a\r\n.\r\n", b"a\r\n"),
        (b"a\n.\nb\r\n.\r\n", b"a\r\nb\r\n"),
        (b"\n.\r\n\r\n.\r\n", b"\r\n\r\n"),
        (b"x\r\r\ny\rz\r\n.\r\n", b"x \r\ny z\r\n"),
        (b"\r\n.\r\n", b"\r\n"),
        (b"a\0b\r\n.\r\n", b"a\0b\r\n"),
    ],
)
def test_content_is_repaired_as_postfix_repairs_it(wire: bytes, content: bytes) -> None:
    for segments in cuts(wire):
        assert read(segments) == (content, b"")


def test_content_without_a_last_line_end_gets_one() -> None:
    assert b"".join(stuff([b"a"])) == b"a\r\n.\r\n"
    assert b"".join(stuff([])) == b".\r\n"
    assert b"".join(stuff([b".", b"\r", b"\n", b".x\r", b"\n.y\r\n"])) == b"..\r\n..x\r\n..y\r\n.\r\n"


@given(st.text("a.\r\n", max_size=30), st.integers(1, 9))
def test_chunks_hold_the_same_wherever_they_are_cut(text: str, width: int) -> None:
    wire = text.encode()
    whole = ChunkReader()
    content = whole.feed(wire, last=True)
    assert content.count(b"\r\n") == content.count(b"\n") == content.count(b"\r")
    assert not content or content.endswith(b"\r\n")
    # What needed no repair, but for the last line's end, has not been touched.
    if not whole.bare_newline:
        assert content.removesuffix(b"\r\n") == wire.removesuffix(b"\r\n")
    parts = as_parts(wire, width)
    reader = ChunkReader()
    pieces = [reader.feed(part, last=False) for part in parts]
    pieces.append(reader.feed(b"", last=True))
    assert b"".join(pieces) == content
    assert (reader.size, reader.bare_newline) == (len(content), whole.bare_newline)
    reader = ChunkReader()
    pieces = [reader.feed(part, last=number == len(parts)) for number, part in enumerate(parts, 1)]
    assert b"".join(pieces) == content
