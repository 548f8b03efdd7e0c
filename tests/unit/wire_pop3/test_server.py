"""The engine: every command in the state that takes it, and the documented answer to what is wrong."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailstack.wire.pop3 import (
    NEED_DATA,
    Auth,
    AuthResponse,
    Closed,
    Command,
    LocalError,
    Refused,
    ServerConnection,
    State,
)
from mailstack.wire.pop3.server import LINE_LIMIT, UNKNOWN_LIMIT


def logged_in() -> ServerConnection:
    conn = ServerConnection()
    conn.receive_data(b"USER zs\r\n")
    conn.next_event()
    conn.ok()
    conn.receive_data(b"PASS x\r\n")
    conn.next_event()
    conn.logged_in("Logged in.")
    conn.data_to_send()
    return conn


def drive(conn: ServerConnection) -> list[object]:
    """All events; each that waits is answered `+OK`."""
    seen: list[object] = []
    while (event := conn.next_event()) is not NEED_DATA:
        if isinstance(event, Closed):
            break
        seen.append(event)
        if not isinstance(event, Refused):
            conn.ok()
        if conn.state is State.TLS:
            conn.tls_started()
    return seen


@pytest.mark.parametrize(
    ("line", "event"),
    [
        (b"CAPA\r\n", Command("CAPA")),
        (b"user  zs with space\r\n", Command("USER", text=" zs with space")),
        (b"USER zs\n", Command("USER", text="zs")),
        (b"PASS s\xc3\xa9 cret \r\n", Command("PASS", text="sé cret ")),
        (b"AUTH\r\n", Auth("")),
        (b"AUTH plain\r\n", Auth("PLAIN")),
        (b"AUTH PLAIN AHpzAHg=\r\n", Auth("PLAIN", b"\0zs\0x")),
        (b"AUTH PLAIN =\r\n", Auth("PLAIN", b"")),
        (b"STLS\r\n", Command("STLS")),
        (b"QUIT\r\n", Command("QUIT")),
        (b"STAT\r\n", Refused("Unknown command.")),
        (b"USER\r\n", Refused("USER needs an argument.")),
        (b"STLS now\r\n", Refused("STLS takes no argument.")),
        (b"AUTH PLAIN %%%\r\n", Refused("[AUTH] Invalid base64 data in initial response.")),
        (b"\r\n", Refused("Unknown command.")),
        (b"\xff\xfe\r\n", Refused("Command is not UTF-8.")),
    ],
)
def test_before_login(line: bytes, event: object) -> None:
    conn = ServerConnection()
    conn.receive_data(line)
    assert conn.next_event() == event
    if isinstance(event, Refused):
        assert conn.data_to_send() == f"-ERR {event.text}\r\n".encode()


@pytest.mark.parametrize(
    ("line", "event"),
    [
        (b"STAT\r\n", Command("STAT")),
        (b"LIST\r\n", Command("LIST")),
        (b"LIST 2\r\n", Command("LIST", 2)),
        (b"UIDL 10\r\n", Command("UIDL", 10)),
        (b"TOP 1 0\r\n", Command("TOP", 1, 0)),
        (b"TOP 1 99\r\n", Command("TOP", 1, 99)),
        (b"RETR 1\r\n", Command("RETR", 1)),
        (b"DELE 1\r\n", Command("DELE", 1)),
        (b"RSET\r\n", Command("RSET")),
        (b"RETR\r\n", Refused("RETR needs a message number.")),
        (b"RETR 0\r\n", Refused("Invalid message number: 0")),
        (b"RETR -1\r\n", Refused("Invalid message number: -1")),
        (b"RETR " + b"9" * 4000 + b"\r\n", Refused("Invalid message number: " + "9" * 20)),
        (b"TOP 1\r\n", Refused("TOP needs a message number and a number of lines.")),
        (b"TOP 1 x\r\n", Refused("Invalid message number: x")),
        (b"LIST 1 2\r\n", Refused("LIST needs a message number, or nothing.")),
        (b"USER zs\r\n", Refused("Unknown command: USER")),
        (b"PASS x\r\n", Refused("Unknown command: PASS")),
    ],
)
def test_after_login(line: bytes, event: object) -> None:
    conn = logged_in()
    conn.receive_data(line)
    assert conn.next_event() == event


def test_a_line_over_the_limit_is_refused_once_and_skipped() -> None:
    conn = ServerConnection()
    for _ in range(20):
        conn.receive_data(b"A" * LINE_LIMIT)
        drive(conn)
    conn.receive_data(b"\r\nCAPA\r\n")
    assert drive(conn) == [Command("CAPA")]
    assert conn.data_to_send().count(b"-ERR Command line too long.\r\n") == 1


def test_sasl_goes_on_until_it_is_answered_or_aborted() -> None:
    conn = ServerConnection()
    conn.receive_data(b"AUTH LOGIN\r\nenM=\r\n")
    assert conn.next_event() == Auth("LOGIN")
    conn.challenge(b"Username:")
    assert conn.next_event() == AuthResponse(b"zs")
    conn.challenge(b"Password:")
    assert conn.data_to_send() == b"+ VXNlcm5hbWU6\r\n+ UGFzc3dvcmQ6\r\n"
    conn.receive_data(b"*\r\nCAPA\r\n")
    assert drive(conn) == [Refused("Authentication aborted by client."), Command("CAPA")]


def test_plain_text_behind_stls_is_never_read() -> None:
    conn = ServerConnection()
    conn.receive_data(b"STLS\r\nUSER injected\r\n")
    assert conn.next_event() == Command("STLS")
    conn.ok("Begin TLS negotiation now.")
    conn.receive_data(b"PASS injected\r\n")
    assert conn.next_event() is NEED_DATA
    conn.tls_started()
    assert conn.next_event() is NEED_DATA


def test_a_client_that_talks_nonsense_is_sent_away() -> None:
    conn = ServerConnection()
    conn.receive_data(b"GET / HTTP/1.1\r\n" * UNKNOWN_LIMIT)
    assert len(drive(conn)) == UNKNOWN_LIMIT
    assert conn.data_to_send().endswith(b"-ERR Too many invalid commands.\r\n")
    assert isinstance(conn.next_event(), Closed)


def test_answers_nobody_asked_for_are_the_owners_mistake() -> None:
    conn = ServerConnection()
    with pytest.raises(LocalError):
        conn.ok()
    conn.receive_data(b"CAPA\r\nCAPA\r\n")
    conn.next_event()
    with pytest.raises(LocalError):
        conn.next_event()


@given(
    st.lists(
        st.sampled_from(
            [
                b"CAPA\r\n",
                b"USER zs\r\n",
                b"PASS x\r\n",
                b"NOOP\n",
                b"AUTH\r\n",
                b"RETR 1\r\n",
                b"\xff\r\n",
                b"\r\n",
            ]
        )
    )
)
def test_whole_bytewise_or_in_halves_makes_no_difference(lines: list[bytes]) -> None:
    data = b"".join(lines)
    outcomes = []
    for step in (max(1, len(data)), 1, max(1, len(data) // 2)):
        conn = ServerConnection()
        seen: list[object] = []
        for at in range(0, len(data), step):
            conn.receive_data(data[at : at + step])
            seen += drive(conn)
        outcomes.append((seen, conn.data_to_send()))
    assert outcomes[0] == outcomes[1] == outcomes[2]


@given(
    st.lists(st.binary(max_size=40) | st.sampled_from([b"AUTH LOGIN\r\n", b"STLS\r\n", b"QUIT\r\n"])),
    st.booleans(),
)
def test_any_octets_never_raise(pieces: list[bytes], inside: bool) -> None:
    conn = logged_in() if inside else ServerConnection()
    for piece in pieces:
        conn.receive_data(piece or b"\n")
        drive(conn)
    conn.receive_data(b"")
    drive(conn)
