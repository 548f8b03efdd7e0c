"""The PROXY header and XCLIENT's attributes, octet by octet and word by word."""

from __future__ import annotations

import pytest

from mailstack.wire.proxy import SIGNATURE, ProxyError, ProxyHeader, parse_header
from mailstack.wire.smtp.command import SyntaxRefusal
from mailstack.wire.smtp.xclient import Attribute, parse

FOUR = bytes([192, 0, 2, 7, 198, 51, 100, 25, 0x12, 0x67, 0, 25])
SIX = bytes.fromhex("20010db800000000000000000000000720010db8000000000000000000000025") + b"\x12\x67\0\x19"


@pytest.mark.parametrize(
    "data, client, server",
    [
        (b"PROXY TCP4 192.0.2.7 198.51.100.25 4711 25\r\n", "192.0.2.7", "198.51.100.25"),
        (b"PROXY TCP6 2001:db8::7 2001:db8::25 4711 25\r\n", "2001:db8::7", "2001:db8::25"),
        (SIGNATURE + b"\x21\x11\0\x0c" + FOUR, "192.0.2.7", "198.51.100.25"),
        (SIGNATURE + b"\x21\x11\0\x0f" + FOUR + b"\x04\0\0", "192.0.2.7", "198.51.100.25"),
        (SIGNATURE + b"\x21\x21\0\x24" + SIX, "2001:db8::7", "2001:db8::25"),
    ],
)
def test_headers(data: bytes, client: str, server: str) -> None:
    for length in range(len(data)):
        assert parse_header(data[:length]) is None
    for rest in (b"", b"EHLO x\r\n"):
        assert parse_header(data + rest) == ProxyHeader(client, "4711", server, "25", len(data))


@pytest.mark.parametrize(
    "data", [b"PROXY UNKNOWN\r\n", b"PROXY UNKNOWN ffff::1 x 1 2\r\n", SIGNATURE + b"\x20\0\0\x02xx"]
)
def test_a_proxy_of_its_own(data: bytes) -> None:
    header = parse_header(data + b"x")
    assert header is not None and header.local and header.length == len(data)


@pytest.mark.parametrize(
    "data",
    [
        b"EHLO x\r\n",
        b"PROXI",
        b"PROXY TCP4 192.0.2.7 198.51.100.25 4711\r\n",
        b"PROXY TCP4 2001:db8::7 198.51.100.25 4711 25\r\n",
        b"PROXY TCP4 192.0.2.7 198.51.100.25 4711 65536\r\n",
        b"PROXY UDP4 192.0.2.7 198.51.100.25 4711 25\r\n",
        b"PROXY TCP4 " + b"1" * 200,
        b"PROXY \xff\r\n",
        SIGNATURE + b"\x11\x11\0\x0c" + FOUR,
        SIGNATURE + b"\x22\x11\0\x0c" + FOUR,
        SIGNATURE + b"\x21\x12\0\x0c" + FOUR,
        SIGNATURE + b"\x21\x11\0\x04" + FOUR,
        SIGNATURE + b"\x21\x11\xff\xff" + FOUR,
    ],
)
def test_what_is_no_header(data: bytes) -> None:
    with pytest.raises(ProxyError):
        parse_header(data)


def test_xclient_attributes() -> None:
    line = "name=[UNAVAILABLE] ADDR=ipv6:2001:DB8::1 REVERSE_NAME=[TEMPUNAVAIL] HELO=a+2Bb<c proto=esmtp"
    assert parse("XCLIENT", line) == [
        Attribute("NAME", None),
        Attribute("ADDR", "2001:db8::1"),
        Attribute("REVERSE_NAME", None, temporary=True),
        Attribute("HELO", "a+b?c"),
        Attribute("PROTO", "ESMTP"),
    ]
    assert parse("XFORWARD", "SOURCE=local IDENT=x+3Cy") == [
        Attribute("SOURCE", "LOCAL"),
        Attribute("IDENT", "x?y"),
    ]


@pytest.mark.parametrize(
    "line, reply",
    [
        ("", "501 5.5.4 Syntax: XCLIENT attribute=value..."),
        ("NAME", "501 5.5.4 Error: attribute=value expected"),
        ("NAME=" + "x" * 256, "501 5.5.4 Error: attribute value too long"),
        ("IDENT=1", "501 5.5.4 Bad XCLIENT attribute name: IDENT"),
        ("NAME=a..b", "501 5.5.4 Bad NAME syntax: a..b"),
        ("ADDR=1.2.3", "501 5.5.4 Bad ADDR syntax: 1.2.3"),
        ("PORT=99999", "501 5.5.4 Bad PORT syntax: 99999"),
        ("HELO=+zz", "501 5.5.4 Bad HELO syntax: +zz"),
        ("HELO=+FF", "501 5.5.4 Bad HELO syntax: +FF"),
    ],
)
def test_xclient_refusals(line: str, reply: str) -> None:
    with pytest.raises(SyntaxRefusal) as caught:
        parse("XCLIENT", line)
    assert str(caught.value.reply) == reply
