"""Envelopes, structures and sections: as Dovecot 2.3 answered for the same messages (`dovecot.json`)."""

from __future__ import annotations

import json
import mmap
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailstack.wire.mime.lines import wire, wire_pieces, wire_size
from mailstack.wire.mime.structure import FIELDS_MAX, HEADER_MAX, PARTS_MAX, Part, parse
from tests.unit.wire_mime.answers import ITEMS, answer
from tests.unit.wire_mime.corpus import MESSAGES

DOVECOT = json.loads((Path(__file__).parent / "dovecot.json").read_text())


@pytest.mark.parametrize("name", MESSAGES)
def test_as_dovecot(name: str) -> None:
    assert {item: answer(MESSAGES[name], item).decode("latin-1") for item in ITEMS} == DOVECOT[name]


def count(part: Part) -> int:
    return 1 + sum(map(count, part.children))


def test_bounded() -> None:
    deep = b"".join(
        b"Content-Type: multipart/mixed; boundary=b%03d\n\n--b%03d\n" % (n, n) for n in range(500)
    )
    assert count(parse(deep)) <= 102
    wide = b"Content-Type: multipart/mixed; boundary=b\n\n" + b"--b\n\nx\n" * (PARTS_MAX + 100)
    assert count(parse(wide)) <= PARTS_MAX
    chain = b"Content-Type: message/rfc822\n\n" * 500
    assert count(parse(chain)) <= 102


class Counted(bytes):
    """Counts the octets that are searched for something."""

    searched = 0

    def find(self, what: bytes, start: int = 0, end: int | None = None) -> int:  # type: ignore[override]
        stop = len(self) if end is None else min(end, len(self))
        found = super().find(what, start, stop)
        Counted.searched += (found if found >= 0 else max(stop, start)) - start
        return found


@pytest.mark.parametrize(
    "level",
    [
        b"Content-Type: multipart/mixed; boundary=b%dz\n\n--b%dz\n",
        b"Content-Type: multipart/mixed; boundary=b%dz\n--b%dz\n",
    ],
)
def test_deep_nesting_is_read_once(level: bytes) -> None:
    data = Counted(b"".join(level % (number, number) for number in range(3000)))
    Counted.searched = 0
    assert count(parse(data)) <= 102
    assert Counted.searched < 10 * len(data)


def test_a_header_without_end() -> None:
    head = b"Subject: first\nX-Long: " + b"y" * HEADER_MAX + b"\nSubject: beyond\n\n"
    part = parse(head + b"body\n")
    assert part.field(b"subject") == b"first"
    assert (part.body, part.end) == (len(head), len(head) + 5)
    many = parse(b"To: a@b\n" * 200_000 + b"\n")
    assert len(many.fields) <= FIELDS_MAX


def test_the_headers_of_all_parts() -> None:
    """What is looked at in all of them is limited; the parts are still there."""
    one = b"--b\nContent-Type: image/png\nX-Long: " + b"y" * 10_000 + b"\n\nx\n"
    root = parse(b"Content-Type: multipart/mixed; boundary=b\n\n" + one * 300)
    assert len(root.children) == 300
    assert [root.children[at].type is not None for at in (0, 299)] == [True, False]
    assert root.children[299].end - root.children[299].body == 2


PIECES = st.sampled_from(
    [
        b"Content-Type: multipart/mixed; boundary=b\n",
        b"Content-Type: message/rfc822\n",
        b'Content-Type: text/plain; a*0="\n',
        b"From: a@b, <c>, g: d;\n",
        b"\n",
        b"\r\n",
        b"--b\n",
        b"--b--\r\n",
        b"text",
        b"=?utf-8?q?x?=",
        b" folded\n",
        b"\0\xff",
    ]
)


@given(st.lists(PIECES | st.binary(max_size=20), max_size=30).map(b"".join))
def test_anything_is_a_message(message: bytes) -> None:
    for item in ITEMS:
        assert answer(message, item)
    for part in [parse(message)]:
        assert 0 <= part.start <= part.body <= part.end <= len(message)


@given(st.lists(st.sampled_from([b"a", b"\n", b"\r", b"\r\n"]), max_size=30).map(b"".join), st.data())
def test_wire_form(message: bytes, data: st.DataObject) -> None:
    whole = wire(message)
    assert wire_size(message) == len(whole)
    assert whole.replace(b"\r\n", b"").count(b"\n") == 0
    offset = data.draw(st.integers(0, len(whole) + 2))
    length = data.draw(st.integers(1, len(whole) + 2))
    pieces = wire_pieces(message, 0, len(message), offset, length)
    assert b"".join(pieces) == whole[offset : offset + length]


def test_a_mapped_file_reads_like_bytes(tmp_path: Path) -> None:
    message = b"Content-Type: multipart/mixed; boundary=b\n\n--b\n\n" + b"line\r\nx\n" * 400_000 + b"--b--\n"
    (tmp_path / "m").write_bytes(message)
    with (tmp_path / "m").open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        assert wire_size(mapped) == wire_size(message)
        assert b"".join(wire_pieces(mapped, 0, len(mapped))) == wire(message)
        ours, theirs = parse(mapped).children[0], parse(message).children[0]
        assert (ours.start, ours.body, ours.end) == (theirs.start, theirs.body, theirs.end)
