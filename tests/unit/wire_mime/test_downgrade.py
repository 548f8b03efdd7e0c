"""Eight bits made seven, for servers that take no more."""

from __future__ import annotations

import email
from email import policy

import pytest

from mailstack.wire.mime.downgrade import LONG, downgrade, quoted_printable

TEXT = "grün = groß \r\n" + "ü" * 60 + "\r\n\tend\t\r\n"
MESSAGE = (
    b'MIME-Version: 1.0\r\nContent-Type: multipart/mixed;\r\n boundary="b"\r\n'
    b"Content-Transfer-Encoding: 8bit\r\n\r\npreamble\r\n--b\r\n"
    b"Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8BIT\r\nX-Kept: yes\r\n\r\n"
    + TEXT.encode()
    + b"--b\r\nContent-Type: text/plain\r\n\r\nplain = text \r\n--b\r\nContent-Type: message/rfc822\r\n"
    b"Content-Transfer-Encoding: 8bit\r\n\r\nSubject: in\r\nContent-Type: text/plain; charset=latin1\r\n"
    b"Content-Transfer-Encoding: binary\r\n\r\n\xe4\r\n--b--\r\nepilogue\r\n"
)


@pytest.mark.parametrize("step", [1, 3, 64, 100_000])
def test_every_part_means_what_it_meant(step: int) -> None:
    out = b"".join(downgrade(MESSAGE[i : i + step] for i in range(0, len(MESSAGE), step)))
    assert out.isascii()
    assert max(map(len, out.split(b"\r\n"))) <= 76
    parsed = email.message_from_bytes(out, policy=policy.SMTP)
    text, plain, nested = parsed.iter_parts()
    assert text.get_payload(decode=True) == TEXT.encode().removesuffix(b"\r\n")
    assert text["X-Kept"] == "yes" and text["Content-Transfer-Encoding"] == "quoted-printable"
    assert plain.get_payload() == "plain = text "
    assert parsed["Content-Transfer-Encoding"] == nested["Content-Transfer-Encoding"] == "7bit"
    [inner] = nested.iter_parts()
    assert inner.get_payload(decode=True) == b"\xe4"


@pytest.mark.parametrize("step", [1000, LONG, 1_000_000])
@pytest.mark.parametrize("before", [b"", b"short\r\n"])
def test_a_line_without_end_is_never_held_as_a_whole(step: int, before: bytes) -> None:
    head = b"Subject: x\r\nContent-Type: text/plain\r\nContent-Transfer-Encoding: 8bit\r\n\r\n"
    body = before + "lång rad ".encode() * 40_000 + b"\r\nlast\r\n"
    message = head + body
    parts = list(downgrade(message[i : i + step] for i in range(0, len(message), step)))
    out = b"".join(parts)
    assert max(map(len, out.split(b"\r\n"))) <= 76
    assert email.message_from_bytes(out, policy=policy.SMTP).get_payload(decode=True) == body
    assert max(map(len, parts)) <= 3 * (LONG + step) + 3 * len(message) // 76


def test_a_header_without_end_is_cut() -> None:
    message = b"Subject: x\r\nX-Long: " + b"y" * 300_000 + b"\r\nNext: 1\r\n\r\nbody\r\n"
    parts = (message[i : i + 50_000] for i in range(0, len(message), 50_000))
    out = b"".join(downgrade(parts))
    assert out.startswith(b"Subject: x\r\nX-Long: yyy") and out.endswith(b"y\r\nNext: 1\r\n\r\nbody\r\n")
    assert len(out) < 250_000


@pytest.mark.parametrize(
    "content",
    [
        b"Subject: x\r\n\r\nundeclared \xff\r\n",
        b"Content-Transfer-Encoding: base64\r\n\r\nAAA=\r\n",
        b"Subject: no body\r\n",
        b"no header\r\n",
        b"",
    ],
)
def test_what_declares_no_eight_bits_stays_as_it_is(content: bytes) -> None:
    expected = b"\r\n" + content if content.startswith(b"no header") else content
    assert b"".join(downgrade([content])) == expected


@pytest.mark.parametrize(
    "line, expected",
    [
        (b"a=b", b"a=3Db"),
        (b"end ", b"end=20"),
        (b"in side\tx", b"in side\tx"),
        (b"\xff\x00", b"=FF=00"),
        (b"x" * 76, b"x" * 76),
        (b"x" * 77, b"x" * 75 + b"=\r\nxx"),
        (b"", b""),
    ],
)
def test_quoted_printable(line: bytes, expected: bytes) -> None:
    assert quoted_printable(line) == expected
