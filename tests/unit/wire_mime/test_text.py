"""What a search sees of a message."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailstack.wire.mime.binary import Storable
from mailstack.wire.mime.dates import parse_sent_date
from mailstack.wire.mime.structure import parse
from mailstack.wire.mime.text import decode_header, fold_case, part_text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (b"plain", "plain"),
        (b"=?utf-8?Q?J=C3=BCrgen_K?= x", "Jürgen K x"),
        (b"=?iso-8859-1?q?=e4?= =?utf-8?B?w7Y=?=", "äö"),
        (b"=?utf-8*de?q?=C3=A4?=", "ä"),
        (b"=?no-such-charset?q?a?=", "a"),
        (b"=?idna?q?a?=", "a"),
        (b"=?utf-8?b?w6Q?=", "ä"),
        (b"=?utf-8?b?!?= b", " b"),
        ("roh ä".encode(), "roh ä"),
        (b"\xff", "\ufffd"),
    ],
)
def test_headers(value: bytes, text: str) -> None:
    assert decode_header(value) == text


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (b"Content-Type: text/plain; charset=latin1\n\n\xe4", "ä"),
        (b"Content-Transfer-Encoding: base64\n\nw6Q=\nw7Y=\n", "äö"),
        (b"Content-Transfer-Encoding: Quoted-Printable\n\n=C3=A4 so=\nft =3D =zz", "ä soft = =zz"),
    ],
)
def test_bodies(message: bytes, text: str) -> None:
    assert part_text(parse(message), message) == text


@pytest.mark.parametrize("step", [4099, 1 << 30])
@pytest.mark.parametrize("header", [b"X-Long: " + b"y" * 600_000 + b"\r\n", b"a:b\r\n" * 20_000])
def test_a_header_without_end_is_stored_as_it_is(header: bytes, step: int) -> None:
    encoding = b"Content-Transfer-Encoding: binary\r\n\r\n\0\r\n"
    message, storable = b"Subject: x\r\n" + header + encoding, Storable()
    pieces = [storable.add(message[at : at + step]) for at in range(0, len(message), step)]
    assert b"".join(pieces) + storable.finish() == message
    assert Storable().add(b"Subject: x\r\n" + encoding).endswith(b"base64\r\n\r\n")


def test_case_and_composition() -> None:
    assert fold_case("GRÜßE ẞ") == fold_case("grüße ẞ")
    assert fold_case("STRASSE") != fold_case("straße")  # RFC 5051 knows simple mappings only
    assert fold_case("ﬁ ǆ") == fold_case("FI dž")
    assert fold_case("\u00c4") == fold_case("a\u0308")


@pytest.mark.parametrize(
    ("value", "day"),
    [
        (b"Wed, 1 Jan 2020 23:59:00 -1200", 18262),
        (b"01 jan 20 1:00", 18262),
        (b"(c) Wed, 1 January 2020 12:00:00", 18262),
        (b"1 Jan 2020", None),
        (b"31 Feb 2020 00:00", None),
        (b"yesterday", None),
        (b"", None),
    ],
)
def test_dates(value: bytes, day: int | None) -> None:
    assert parse_sent_date(value) == day


@given(st.binary(max_size=200))
def test_anything_has_text(data: bytes) -> None:
    decode_header(data)
    parse_sent_date(data)
    message = b"Content-Transfer-Encoding: base64\n\n" + data
    part_text(parse(message), message)
