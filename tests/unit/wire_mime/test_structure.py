"""Envelopes, structures and sections: as Dovecot 2.3 answered for the same messages (`dovecot.json`)."""

from __future__ import annotations

import json
import mmap
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailstack.wire.mime.lines import wire, wire_pieces, wire_size
from mailstack.wire.mime.structure import PARTS_MAX, Part, parse
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
