"""The client engine, against replies as text and against our own server engine."""

from __future__ import annotations

import pytest

from mailstack.wire.smtp import (
    NEED_DATA,
    ClientConnection,
    ClientState,
    Closed,
    Limits,
    Mode,
    RemoteError,
    Reply,
    Response,
    parse_reply,
)
from mailstack.wire.smtp.client import LocalError
from tests.unit.wire_smtp.feeding import cuts, serve


def sent(connection: ClientConnection) -> bytes:
    return b"".join(connection.data_to_send())


def drain(connection: ClientConnection) -> list[Response | Closed]:
    found: list[Response | Closed] = []
    while (event := connection.next_event()) is not NEED_DATA:
        assert not isinstance(event, type(NEED_DATA))
        found.append(event)
        if isinstance(event, Closed):
            break
    return found


def test_a_pipelined_transaction() -> None:
    replies = (
        b"220 mail.test ESMTP\r\n250-mail.test\r\n250-PIPELINING\r\n250-SIZE 1000\r\n250-AUTH PLAIN LOGIN\r\n"
        b"250 8BITMIME\r\n250 2.1.0 Ok\r\n550 5.1.1 <no@d>: unknown\r\n250 2.1.5 Ok\r\n354 go on\r\n"
    )
    for segments in cuts(replies):
        connection = ClientConnection()
        connection.hello("me.test")
        connection.mail("a b@c.test", size=12, body="8BITMIME")
        connection.rcpt("no@d")
        connection.rcpt("yes@d")
        connection.data()
        got: list[Response | Closed] = []
        for segment in segments:
            connection.receive_data(segment)
            got += drain(connection)
        assert [
            (event.verb, event.argument, event.reply.code) for event in got if isinstance(event, Response)
        ] == [
            ("greeting", "", 220),
            ("EHLO", "me.test", 250),
            ("MAIL", "a b@c.test", 250),
            ("RCPT", "no@d", 550),
            ("RCPT", "yes@d", 250),
            ("DATA", "", 354),
        ]
        assert connection.pipelining and connection.size_limit == 1000
        assert connection.auth_mechanisms == ("PLAIN", "LOGIN")
        assert connection.accepted == ("yes@d",)
        assert sent(connection).startswith(b'EHLO me.test\r\nMAIL FROM:<"a b"@c.test>\r\nRCPT TO:<no@d>\r\n')
        connection.content([b".x\r\n"])
        assert sent(connection) == b"..x\r\n.\r\n"
        connection.receive_data(b"250 2.0.0 Ok: queued\r\n")
        assert drain(connection) == [Response("content", "", Reply(250, "2.0.0", "Ok: queued"))]


def test_parameters_go_out_only_where_they_are_announced() -> None:
    connection = ClientConnection()
    connection.receive_data(b"220 x\r\n")
    drain(connection)
    connection.hello("me")
    connection.receive_data(b"250-x\r\n250-SIZE\r\n250 8BITMIME\r\n")
    drain(connection)
    sent(connection)
    connection.mail("a@b", size=5, body="8BITMIME")
    assert sent(connection) == b"MAIL FROM:<a@b> SIZE=5 BODY=8BITMIME\r\n"


def test_lmtp_answers_for_each_accepted_recipient() -> None:
    connection = ClientConnection(Mode.LMTP)
    connection.receive_data(b"220 x LMTP\r\n")
    drain(connection)
    connection.hello("me")
    connection.mail("")
    for recipient in ("one@d", "no@d", "two@d"):
        connection.rcpt(recipient)
    connection.data()
    connection.receive_data(b"250 x\r\n250 2.1.0 ok\r\n250 ok\r\n550 no\r\n250 ok\r\n354 go\r\n")
    drain(connection)
    connection.content([b"x"])
    connection.receive_data(b"250 2.1.5 saved\r\n452 4.2.2 full\r\n")
    assert [
        (event.argument, event.reply.code) for event in drain(connection) if isinstance(event, Response)
    ] == [("one@d", 250), ("two@d", 452)]
    assert connection.pending == 0


def test_what_comes_behind_the_starttls_reply_is_dropped() -> None:
    connection = ClientConnection()
    connection.receive_data(b"220 x\r\n")
    drain(connection)
    connection.starttls()
    connection.receive_data(b"220 go ahead\r\n250-evil\r\n250 AUTH PLAIN\r\n")
    assert len(drain(connection)) == 1
    assert connection.state is ClientState.TLS
    connection.tls_started()
    assert connection.extensions == {}


def test_authentication_with_and_without_initial_response() -> None:
    connection = ClientConnection()
    connection.receive_data(b"220 x\r\n334 VXNlcm5hbWU6\r\n235 2.7.0 ok\r\n")
    connection.auth("LOGIN")
    connection.auth_response(b"zs")
    connection.auth("PLAIN", b"\0zs\0secret")
    connection.auth_response(None)
    assert sent(connection) == b"AUTH LOGIN\r\nenM=\r\nAUTH PLAIN AHpzAHNlY3JldA==\r\n*\r\n"


@pytest.mark.parametrize(
    "octets", [b"hello\r\n", b"99 x\r\n", b"220-a\r\n221 b\r\n", b"x" * 9000, b"220-x\r\n" * 20000]
)
def test_what_is_no_reply_is_an_error(octets: bytes) -> None:
    connection = ClientConnection()
    connection.receive_data(octets)
    with pytest.raises(RemoteError):
        drain(connection)


def test_a_server_that_goes_away() -> None:
    connection = ClientConnection()
    connection.receive_data(b"220 x\r\n421 4.3.2 shutting down\r\n")
    assert isinstance(drain(connection)[-1], Closed)
    connection = ClientConnection()
    connection.receive_data(b"")
    assert drain(connection) == [Closed()]


def test_replies_round_trip() -> None:
    for reply in (Reply(250, "2.1.0", "Ok"), Reply(250, "", "a\nb\nc"), Reply(550, "5.1.1", "one\ntwo")):
        assert parse_reply(reply.encode().splitlines()) == reply
    assert parse_reply([b"250"]) == Reply(250, "", "")
    assert parse_reply([b"250 5.0.0 odd"]) == Reply(250, "", "5.0.0 odd")


def test_the_two_engines_understand_one_another() -> None:
    connection = ClientConnection()
    connection.hello("me.test")
    connection.mail("a@b.test")
    connection.rcpt("c@d.test")
    connection.data()
    connection.receive_data(b"220 x\r\n")
    drain(connection)
    _, replies, _ = serve([sent(connection)])
    connection.receive_data(replies)
    assert all(isinstance(event, Response) and event.reply.positive for event in drain(connection))


def sending_a_chunk(mode: Mode, recipients: tuple[str, ...], content: bytes) -> ClientConnection:
    """Past the hello, with a whole transaction under way."""
    connection = ClientConnection(mode)
    connection.hello("me.test")
    connection.receive_data(b"220 x\r\n250-x\r\n250-PIPELINING\r\n250 CHUNKING\r\n")
    drain(connection)
    assert connection.chunking
    sent(connection)
    connection.mail("a@b.test")
    for recipient in recipients:
        connection.rcpt(recipient)
    connection.chunk(content)
    return connection


def answers(connection: ClientConnection, replies: bytes) -> list[tuple[str, str, int]]:
    """(command, argument, code) of each reply, the same for every cut of them."""
    connection.receive_data(replies)
    return [
        (event.verb, event.argument, event.reply.code)
        for event in drain(connection)
        if isinstance(event, Response)
    ]


def test_a_chunk_goes_out_behind_the_envelope_as_it_is() -> None:
    connection = sending_a_chunk(Mode.SMTP, ("no@d.test", "yes@d.test"), b".dot\r\n.\r\nopen")
    assert sent(connection) == (
        b"MAIL FROM:<a@b.test>\r\nRCPT TO:<no@d.test>\r\nRCPT TO:<yes@d.test>\r\n"
        b"BDAT 13 LAST\r\n.dot\r\n.\r\nopen"
    )
    assert answers(connection, b"250 ok\r\n550 no\r\n250 ok\r\n250 2.0.0 queued\r\n") == [
        ("MAIL", "a@b.test", 250),
        ("RCPT", "no@d.test", 550),
        ("RCPT", "yes@d.test", 250),
        ("content", "", 250),
    ]
    assert connection.pending == 0


def test_a_chunk_by_lmtp_is_answered_for_each_accepted_recipient() -> None:
    connection = sending_a_chunk(Mode.LMTP, ("one@d", "no@d", "two@d"), b"x\r\n")
    connection.noop()
    got = answers(connection, b"250 ok\r\n250 ok\r\n550 no\r\n250 ok\r\n250 saved\r\n")
    assert got[-1] == ("content", "one@d", 250)
    assert answers(connection, b"452 4.2.2 full\r\n250 2.0.0 ok\r\n") == [
        ("content", "two@d", 452),
        ("NOOP", "", 250),
    ]
    assert connection.pending == 0


@pytest.mark.parametrize("replies", [b"250 ok\r\n550 no\r\n554 none\r\n", b"451 no\r\n503 no\r\n503 no\r\n"])
@pytest.mark.parametrize("mode", Mode)
def test_a_chunk_for_nobody_has_one_reply(mode: Mode, replies: bytes) -> None:
    connection = sending_a_chunk(mode, ("no@d",), b"x\r\n")
    assert answers(connection, replies)[-1][:2] == ("content", "")
    assert connection.pending == 0
    # Nobody is left over for the next message.
    connection.mail("a@b.test")
    connection.rcpt("yes@d")
    connection.chunk(b"y\r\n")
    assert answers(connection, b"250 ok\r\n250 ok\r\n250 saved\r\n")[-1][2] == 250
    assert connection.pending == 0


def test_a_chunk_is_not_sent_before_the_greeting() -> None:
    with pytest.raises(LocalError):
        ClientConnection().chunk(b"x")


@pytest.mark.parametrize("size", [0, 4, 40])
def test_chunks_between_the_two_engines(size: int) -> None:
    """Also where the server refuses the chunk as a whole, both agree about how many replies there are."""
    names = ("one@d.test", "no@d.test", "two@d.test")
    connection = sending_a_chunk(Mode.LMTP, names, b"x" * size)
    segments = [b"LHLO me.test\r\n", sent(connection), b"NOOP\r\n"]
    limits = Limits(message=20)
    _, replies, _ = serve(segments, mode=Mode.LMTP, limits=limits, refuse=frozenset({"no@d.test"}))
    connection.noop()
    assert answers(connection, replies.split(b"\r\n", 1)[1])[-3:] == [
        ("content", "one@d.test", 552 if size > 20 else 250),
        ("content", "two@d.test", 552 if size > 20 else 250),
        ("NOOP", "", 250),
    ]
    assert connection.pending == 0
