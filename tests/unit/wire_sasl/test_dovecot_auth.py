"""The Dovecot authentication protocol: our two sides against each other, and against recorded lines."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailstack.wire.dovecot_auth import (
    CLOSED,
    LINE_LIMIT,
    NEED_DATA,
    PLAINTEXT_MECHANISMS,
    AuthClientConnection,
    AuthProtocolError,
    AuthRequest,
    AuthServerConnection,
    Cancelled,
    Continue,
    ContinueRequest,
    Fail,
    Handshake,
    Mechanism,
    Ok,
    escape,
    unescape,
)

HELLO = b"VERSION\t1\t2\nCPID\t7\n"


def server() -> AuthServerConnection:
    return AuthServerConnection(PLAINTEXT_MECHANISMS, pid=42, connection=3, cookie="c0ffee" * 5 + "00")


def greeted() -> AuthServerConnection:
    conn = server()
    conn.data_to_send()
    conn.receive_data(HELLO)
    assert conn.next_event() is NEED_DATA
    return conn


def events(conn: AuthServerConnection | AuthClientConnection) -> list[object]:
    found: list[object] = []
    while (event := conn.next_event()) not in (NEED_DATA, CLOSED):
        found.append(event)
    return found


def test_the_server_greets_at_once_with_what_postfix_looks_for() -> None:
    assert server().data_to_send() == (
        b"VERSION\t1\t2\nMECH\tPLAIN\tplaintext\nMECH\tLOGIN\tplaintext\n"
        b"SPID\t42\nCUID\t3\nCOOKIE\tc0ffeec0ffeec0ffeec0ffeec0ffee00\nDONE\n"
    )


def test_a_whole_exchange_between_our_two_sides() -> None:
    ours, theirs = AuthClientConnection(7), server()
    ours.receive_data(theirs.data_to_send())
    hello = ours.next_event()
    assert isinstance(hello, Handshake)
    assert hello.mechs == ("PLAIN", "LOGIN")
    assert hello.offered[0] == Mechanism("PLAIN", ("plaintext",))

    number = ours.authenticate("LOGIN", "smtp", {"rip": "192.0.2.1", "secured": None}, b"zs")
    theirs.receive_data(ours.data_to_send())
    assert events(theirs) == [
        AuthRequest(number, "LOGIN", "smtp", {"rip": "192.0.2.1", "secured": None}, b"zs")
    ]
    theirs.challenge(number, b"Password:")
    ours.receive_data(theirs.data_to_send())
    assert events(ours) == [Continue(number, b"Password:")]
    ours.cont(number, b"secret")
    theirs.receive_data(ours.data_to_send())
    assert events(theirs) == [ContinueRequest(number, b"secret")]
    theirs.ok(number, "zs@mail.test")
    ours.receive_data(theirs.data_to_send())
    assert events(ours) == [Ok(number, "zs@mail.test", {"user": "zs@mail.test"})]

    second = ours.authenticate("PLAIN", "smtp", {}, None)
    theirs.receive_data(ours.data_to_send())
    assert events(theirs) == [AuthRequest(second, "PLAIN", "smtp", {}, None)]
    theirs.fail(second, "zs", temp=True, reason="the disk\tis full")
    ours.receive_data(theirs.data_to_send())
    (failure,) = events(ours)
    assert isinstance(failure, Fail)
    assert (failure.id, failure.user, failure.temp, failure.reason) == (
        second,
        "zs",
        True,
        "the disk\tis full",
    )


def test_postfix_request_as_it_writes_it() -> None:
    conn = server()
    conn.data_to_send()
    conn.receive_data(
        b"VERSION\t1\t1\nCPID\t99\n"
        b"AUTH\t1\tplain\tservice=smtp\tnologin\tlip=127.0.0.1\trip=127.0.0.1\tsecured\tresp=AHpzAHNlY3JldA==\n"
    )
    assert events(conn) == [
        AuthRequest(
            1,
            "PLAIN",
            "smtp",
            {"nologin": None, "lip": "127.0.0.1", "rip": "127.0.0.1", "secured": None},
            b"\0zs\0secret",
        )
    ]


@pytest.mark.parametrize(
    ("line", "reply"),
    [
        (b"AUTH\t1\tGSSAPI\tservice=smtp\n", b"FAIL\t1\treason=Unsupported authentication mechanism\n"),
        (b"AUTH\t1\tPLAIN\n", b"FAIL\t1\treason=BUG: Authentication client sent no service\n"),
        (
            b"AUTH\t1\tPLAIN\tservice=smtp\tresp=%%%\n",
            b"FAIL\t1\treason=Invalid base64 data in initial response\n",
        ),
        (b"CONT\t1\tA\n", b"FAIL\t1\treason=Invalid base64 data in continued response\n"),
        (b"FUTURE\tthing\n", b""),
    ],
)
def test_what_fails_one_request_leaves_the_connection(line: bytes, reply: bytes) -> None:
    conn = greeted()
    conn.receive_data(line + b"AUTH\t2\tPLAIN\tservice=smtp\n")
    found = events(conn)
    assert found[-1] == AuthRequest(2, "PLAIN", "smtp", {}, None)
    assert conn.data_to_send() == reply


@pytest.mark.parametrize(
    "data",
    [
        b"VERSION\t2\t0\n",
        b"VERSION\n",
        b"AUTH\t1\tPLAIN\tservice=smtp\n",
        b"GET / HTTP/1.1\r\n",
        HELLO + b"AUTH\tx\tPLAIN\tservice=smtp\n",
        HELLO + b"AUTH\t" + b"9" * 5000 + b"\tPLAIN\tservice=smtp\n",
        HELLO + b"CONT\n",
        HELLO + b"A" * (LINE_LIMIT + 1),
    ],
)
def test_a_peer_that_does_not_speak_the_protocol_is_an_error(data: bytes) -> None:
    conn = server()
    conn.receive_data(data)
    with pytest.raises(AuthProtocolError):
        events(conn)


def test_cancel_and_close_are_told() -> None:
    conn = greeted()
    conn.receive_data(b"AUTH\t1\tPLAIN\tservice=smtp\nCANCEL\t1\n")
    conn.receive_data(b"")
    assert [type(event) for event in events(conn)] == [AuthRequest, Cancelled]
    assert conn.next_event() is CLOSED


@given(st.binary(max_size=200), st.lists(st.integers(0, 200), max_size=5))
def test_any_octets_in_any_pieces_are_events_or_the_documented_error(data: bytes, cuts: list[int]) -> None:
    marks = [0, *sorted(cuts), len(data)]
    for conn in (greeted(), AuthClientConnection(1)):
        try:
            for start, end in itertools.pairwise(marks):
                conn.receive_data(data[start:end] or b"\n")
                events(conn)
        except AuthProtocolError:
            pass


@given(st.lists(st.sampled_from([HELLO, b"AUTH\t1\tPLAIN\tservice=x\tresp=AGEAYg==\n", b"CONT\t1\tYQ==\n"])))
def test_pieces_do_not_matter(lines: list[bytes]) -> None:
    data = HELLO + b"".join(lines)
    whole, bytewise = server(), server()
    whole.receive_data(data)
    expected = events(whole)
    got: list[object] = []
    for octet in data:
        bytewise.receive_data(bytes([octet]))
        got += events(bytewise)
    assert got == expected


@given(st.text(st.characters(codec="utf-8")))
def test_escaping_keeps_any_text_on_one_word_of_one_line(text: str) -> None:
    word = escape(text)
    assert not set("\0\t\r\n") & set(word)
    assert unescape(word) == text
