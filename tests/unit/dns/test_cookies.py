"""DNS cookies, on the examples of RFC 9018 and as a client sees them."""

from __future__ import annotations

from pathlib import Path

import dns.edns
import dns.message
import dns.rcode
import pytest

from mailstack.dns.cookies import Cookies, siphash
from tests.unit.dns.world import ask, responder

CLIENT = bytes.fromhex("2464c4abcf10c957")
COOKIES = Cookies(bytes.fromhex("e5e973e5a6b2a43f48e7dc849e37bfcf"))
GIVEN = bytes.fromhex("2464c4abcf10c957010000005cf79f111f8130c3eee29480")
HOST, NOW = "198.51.100.100", 1559731985


def test_siphash() -> None:
    assert siphash(bytes(range(16)), bytes(range(15))) == 0xA129CA6149BE45E5


def test_a_cookie_as_in_the_standard() -> None:
    """RFC 9018, appendix A.1 and A.2."""
    assert COOKIES.answer(CLIENT, HOST, NOW) == (GIVEN, False)
    renewed = bytes.fromhex("2464c4abcf10c957010000005cf7a871d4a564a1442aca77")
    assert COOKIES.answer(GIVEN, HOST, 1559734385) == (renewed, True)


@pytest.mark.parametrize(
    ("option", "host", "now", "known"),
    [
        (GIVEN, HOST, NOW + 3600, True),
        (GIVEN, HOST, NOW + 3601, False),
        (GIVEN, HOST, NOW - 300, True),
        (GIVEN, HOST, NOW - 301, False),
        (GIVEN, "198.51.100.101", NOW, False),
        (GIVEN[:-1] + b"x", HOST, NOW, False),
        (CLIENT + bytes(32), HOST, NOW, False),
    ],
)
def test_whose_cookie_it_is(option: bytes, host: str, now: int, *, known: bool) -> None:
    assert COOKIES.answer(option, host, now)[1] is known


@pytest.mark.parametrize("length", [0, 7, 9, 15, 41])
def test_lengths_that_are_none(tmp_path: Path, length: int) -> None:
    with pytest.raises(ValueError, match="a cookie is of"):
        COOKIES.answer(bytes(length), HOST, NOW)
    query = dns.message.make_query(
        "mail.rich.test", "A", options=[dns.edns.GenericOption(dns.edns.OptionType.COOKIE, bytes(length))]
    )
    assert ask(responder(tmp_path), query).rcode() == dns.rcode.FORMERR


def shown(answer: dns.message.Message) -> bytes:
    return b"".join(option.to_wire() or b"" for option in answer.options if option.otype == 10)


def with_cookie(data: bytes) -> dns.message.Message:
    return dns.message.make_query(
        "mail.rich.test", "A", options=[dns.edns.GenericOption(dns.edns.OptionType.COOKIE, data)]
    )


def test_a_server_that_wants_cookies(tmp_path: Path) -> None:
    server = responder(
        tmp_path, 'recursion no; require-server-cookie yes; cookie-secret "00112233445566778899aabbccddeeff";'
    )
    first = ask(server, with_cookie(CLIENT))
    assert first.rcode() == dns.rcode.BADCOOKIE
    assert not first.answer
    second = ask(server, with_cookie(shown(first)))
    assert second.rcode() == dns.rcode.NOERROR
    assert second.answer
    assert ask(server, with_cookie(CLIENT), tcp=True).answer
    assert ask(server, dns.message.make_query("mail.rich.test", "A")).answer
    other = responder(
        tmp_path,
        'recursion no; require-server-cookie yes; cookie-secret "ff112233445566778899aabbccddeeff";'
        'cookie-secret "00112233445566778899aabbccddeeff";',
    )
    assert ask(other, with_cookie(shown(first))).answer


def test_small_answers_for_those_without(tmp_path: Path) -> None:
    server = responder(tmp_path, "recursion no; nocookie-udp-size 512;")
    plain = dns.message.make_query("big.rich.test", "TXT", use_edns=0, payload=1232)
    assert not ask(server, plain).answer[0:1] or len(ask(server, plain).to_wire()) <= 512
    cookie = shown(ask(server, with_cookie(CLIENT)))
    query = dns.message.make_query(
        "big.rich.test",
        "TXT",
        options=[dns.edns.GenericOption(dns.edns.OptionType.COOKIE, cookie)],
        payload=1232,
    )
    assert len(ask(server, query).to_wire()) > 512


def test_a_cookie_and_no_question(tmp_path: Path) -> None:
    query = dns.message.Message(id=7)
    query.use_edns(0, options=[dns.edns.GenericOption(dns.edns.OptionType.COOKIE, CLIENT)])
    wire = responder(tmp_path).respond(query.to_wire(), "192.0.2.99", 4242, tcp=False)
    assert isinstance(wire, bytes)
    answer = dns.message.from_wire(wire)
    assert (answer.rcode(), answer.question, len(shown(answer))) == (dns.rcode.NOERROR, [], 24)


def test_no_cookies(tmp_path: Path) -> None:
    answer = ask(responder(tmp_path, "recursion no; answer-cookie no;"), with_cookie(CLIENT))
    assert answer.answer
    assert not shown(answer)
