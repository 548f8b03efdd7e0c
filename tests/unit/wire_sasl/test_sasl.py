"""PLAIN and LOGIN: what passes, what is refused, and that both sides agree."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailstack.wire.sasl import (
    MECHANISMS,
    Challenge,
    Credentials,
    SASLError,
    client_mechanism,
    plain_initial,
    server_mechanism,
)

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=80)


@given(st.sampled_from(MECHANISMS), TEXT, TEXT)
def test_the_server_hears_what_the_client_was_given(name: str, user: str, password: str) -> None:
    server = server_mechanism(name.lower())
    client = client_mechanism(name, user, password)
    outcome = server.step(client.initial())
    while isinstance(outcome, Challenge):
        outcome = server.step(client.step(outcome.data))
    assert outcome == Credentials("", user, password)


def test_credentials_do_not_show_the_password() -> None:
    assert "hunter2" not in repr(Credentials("", "zs", "hunter2"))


def test_plain_without_an_initial_response_asks_with_an_empty_challenge() -> None:
    server = server_mechanism("PLAIN")
    assert server.step(None) == Challenge(b"")
    assert server.step(b"other\0zs\0secret") == Credentials("other", "zs", "secret")


def test_login_asks_for_the_user_and_then_the_password() -> None:
    server = server_mechanism("LOGIN")
    assert server.step(None) == Challenge(b"Username:")
    assert server.step(b"zs") == Challenge(b"Password:")
    assert server.step(b"s\xc3\xa9cret") == Credentials("", "zs", "sécret")


@pytest.mark.parametrize(
    "response",
    [
        b"",
        b"zs",
        b"zs\0secret",
        b"\0zs\0secret\0more",
        b"\0\0secret",
        b"\0zs\0",
        b"\0z\xff\0x",
        b"\0" + b"u" * 1025 + b"\0x",
    ],
)
def test_plain_refuses_what_is_no_message_of_its_own(response: bytes) -> None:
    with pytest.raises(SASLError):
        server_mechanism("PLAIN").step(response)


@given(st.sampled_from(MECHANISMS), st.lists(st.none() | st.binary(max_size=60), max_size=4))
def test_any_responses_end_in_credentials_or_the_documented_error(
    name: str, responses: list[bytes | None]
) -> None:
    server = server_mechanism(name)
    try:
        for response in responses:
            if isinstance(server.step(response), Credentials):
                return
    except SASLError:
        pass


def test_unknown_mechanisms_and_unsendable_fields_are_refused() -> None:
    with pytest.raises(SASLError):
        server_mechanism("CRAM-MD5")
    with pytest.raises(SASLError):
        client_mechanism("CRAM-MD5", "zs", "secret")
    with pytest.raises(SASLError):
        plain_initial("zs", "se\0cret")
    client = client_mechanism("PLAIN", "zs", "secret")
    client.initial()
    with pytest.raises(SASLError):
        client.step(b"")
