"""The saslauthd protocol: counted strings both ways, and nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailstack.wire.saslauthd import (
    Reply,
    Request,
    SaslauthdError,
    decode_reply,
    decode_request,
    encode_reply,
    encode_request,
)

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=60)


@given(TEXT, TEXT, TEXT, TEXT)
def test_a_request_is_read_back_and_only_when_it_is_whole(
    login: str, password: str, service: str, realm: str
) -> None:
    data = encode_request(login, password, service, realm)
    assert decode_request(data) == Request(login, password, service, realm)
    assert all(decode_request(data[:end]) is None for end in range(len(data)))


@given(st.booleans(), TEXT)
def test_a_reply_is_read_back(ok: bool, reason: str) -> None:
    assert decode_reply(encode_reply(ok, reason)) == Reply(ok, reason)


def test_the_octets_are_those_of_cyrus() -> None:
    assert encode_request("zs", "pw", "smtp", "") == b"\0\2zs\0\2pw\0\4smtp\0\0"
    assert encode_reply(True) == b"\0\2OK"
    assert decode_reply(b"\0\x03OK\0") == Reply(True)
    assert decode_reply(b"\0\x09NO reason") == Reply(False, "reason")


@pytest.mark.parametrize(
    ("login", "realm", "user"),
    [("zs", "mail.test", "zs@mail.test"), ("zs", "", "zs"), ("zs@a.test", "b.test", "zs@a.test")],
)
def test_the_realm_completes_a_bare_login(login: str, realm: str, user: str) -> None:
    assert Request(login, "x", "smtp", realm).user == user


@given(st.binary(max_size=80))
def test_any_octets_are_a_request_or_the_documented_error(data: bytes) -> None:
    for decode in (decode_request, decode_reply):
        try:
            decode(data)
        except SaslauthdError:
            pass


def test_fields_over_the_limit_are_refused_on_both_sides() -> None:
    with pytest.raises(SaslauthdError):
        encode_request("u" * 1025, "", "", "")
    with pytest.raises(SaslauthdError):
        decode_request(b"\xff\xff")
    with pytest.raises(SaslauthdError):
        decode_request(encode_request("a", "b", "c", "d") + b"x")
