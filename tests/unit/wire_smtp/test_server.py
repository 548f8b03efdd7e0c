"""The server engine: what it makes of octets, and what it answers by itself."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailstack.wire.smtp import Limits, LocalError, Mode, Reply, ServerConnection, events
from mailstack.wire.smtp.command import MailParameters
from tests.unit.wire_smtp.feeding import cuts, serve


def offer_everything(connection: ServerConnection) -> None:
    connection.auth_refusal = None
    connection.starttls_refusal = None


CONVERSATIONS: list[tuple[bytes, list[events.Event]]] = [
    (
        b"EHLO x.test\r\nMAIL FROM:<a@b.test> SIZE=10 BODY=8BITMIME\r\nRCPT TO:<c@d>\r\nDATA\r\none\r\n..two\r\n\r\n.\r\nQUIT\r\n",
        [
            events.Hello("EHLO", "x.test"),
            events.Mail("a@b.test", MailParameters(10, "8BITMIME")),
            events.Rcpt("c@d"),
            events.Data(),
            events.Content(b"one\r\n.two\r\n\r\n"),
            events.ContentEnd(13, False, False),
            events.Quit(),
        ],
    ),
    (
        # The dialogue of an old telnet user: no EHLO, no brackets, a trailing dot.
        b"mail from: zs@dgtlinux.com.\nrcpt to: 1585656556@qq.com\ndata\nlfglk'df;g\r\n.\r\nquit\n",
        [
            events.Mail("zs@dgtlinux.com", MailParameters()),
            events.Rcpt("1585656556@qq.com"),
            events.Data(),
            events.Content(b"lfglk'df;g\r\n"),
            events.ContentEnd(12, False, False),
            events.Quit(),
        ],
    ),
    (
        # Nothing but CRLF.CRLF ends the content: no smuggling by any other spelling of it.
        b"MAIL FROM:<>\r\nRCPT TO:<c@d.test>\r\nDATA\r\na\n.\r\nb\n.\nc\r\n.\nd\r.\re\r\n.\rf\r\n.\r\nNOOP\r\n",
        [
            events.Mail("", MailParameters()),
            events.Rcpt("c@d.test"),
            events.Data(),
            events.Content(b"a\r\nb\r\nc\r\nd . e\r\n f\r\n"),
            events.ContentEnd(20, False, True),
            events.Noop(),
        ],
    ),
    (
        b"MAIL FROM:<a@b.test>\r\nRCPT TO:<c@d.test>\r\nDATA\r\n.\r\n",
        [
            events.Mail("a@b.test", MailParameters()),
            events.Rcpt("c@d.test"),
            events.Data(),
            events.ContentEnd(0, False, False),
        ],
    ),
    (
        b"EHLO x\r\nAUTH LOGIN\r\nenM=\r\nAUTH PLAIN\r\n",
        [
            events.Hello("EHLO", "x"),
            events.Auth("LOGIN", None),
            events.AuthResponse(b"zs"),
            events.Refused("AUTH", Reply(503, "5.5.1", "Error: already authenticated"), "AUTH PLAIN"),
        ],
    ),
    (
        "EHLO x\r\nMAIL FROM:<ü@ß.test> SMTPUTF8\r\nRCPT TO:<é@d.test>\r\nRSET\r\n".encode(),
        [
            events.Hello("EHLO", "x"),
            events.Mail("ü@ß.test", MailParameters(smtputf8=True)),
            events.Rcpt("é@d.test"),
            events.Reset(),
        ],
    ),
    (
        # Commands behind STARTTLS never count (CVE-2011-0411).
        b"EHLO x\r\nSTARTTLS\r\n",
        [events.Hello("EHLO", "x"), events.StartTLS()],
    ),
    (
        b"VRFY zs@d.test\r\nETRN D.test\r\nHELP\r\nEHLO <a>(b)\r\nEHLO a b\r\n",
        [
            events.Verify("zs@d.test", "zs@d.test"),
            events.Etrn("d.test"),
            events.Help(),
            events.Hello("EHLO", "?a??b?"),
            events.Hello("EHLO", "a?b"),
        ],
    ),
]


@pytest.mark.parametrize("octets, expected", CONVERSATIONS)
def test_conversations_do_not_depend_on_segments(octets: bytes, expected: list[events.Event]) -> None:
    for segments in cuts(octets):
        said, _, _ = serve(segments, prepare=offer_everything)
        assert said == expected


def test_what_comes_behind_starttls_in_plain_text_is_dropped() -> None:
    said, out, connection = serve([b"EHLO x\r\nSTARTTLS\r\nMAIL FROM:<a@b>\r\n"], prepare=offer_everything)
    assert [type(event) for event in said] == [events.Hello, events.StartTLS]
    assert out.endswith(b"220 2.0.0 Ready to start TLS\r\n")
    connection.tls_started()
    assert connection.hello == ""
    assert connection.next_event() is events.NEED_DATA


LONG = b"x" * 3000

REFUSALS: list[tuple[bytes, bytes]] = [
    (b"\r\n", b"500 5.5.2 Error: bad syntax"),
    (b" \t \r\n", b"500 5.5.2 Error: bad syntax"),
    (b"NOOP\0\r\n", b"500 5.5.2 Error: bad syntax"),
    (b"\x80\xff\r\n", b"500 5.5.2 Error: bad UTF-8 syntax"),
    (b"FOO\r\n", b"500 5.5.2 Error: command not recognized"),
    (b"LHLO x\r\n", b"500 5.5.2 Error: command not recognized"),
    (LONG + b"\r\n", b"500 5.5.2 Error: line too long"),
    (b"NOOP " + LONG + b"\r\n", b"500 5.5.2 Error: line too long"),
    (b"GET / HTTP/1.1\r\nHost: x\r\n", b"221 2.7.0 Error: I can break rules, too. Goodbye."),
    (b"Subject: hello\r\n", b"221 2.7.0 Error: I can break rules, too. Goodbye."),
    (b"\x16\x03\x01\r\n", b"221 2.7.0 Error: I can break rules, too. Goodbye."),
    (b"EHLO\r\n", b"501 Syntax: EHLO hostname"),
    (b"HELO \r\n", b"501 Syntax: HELO hostname"),
    (b"MAIL\r\n", b"501 5.5.4 Syntax: MAIL FROM:<address>"),
    (b"MAIL FROM\r\n", b"501 5.5.4 Syntax: MAIL FROM:<address>"),
    (b"MAIL FROM: \r\n", b"501 5.5.4 Syntax: MAIL FROM:<address>"),
    (b"MAIL TO:<a@b>\r\n", b"501 5.5.4 Syntax: MAIL FROM:<address>"),
    (b"MAIL FROM:<a@b> FOO=1\r\n", b"555 5.5.4 Unsupported option: FOO=1"),
    (b"MAIL FROM:<a@b> BODY=9BIT\r\n", b"555 5.5.4 Unsupported option: BODY=9BIT"),
    (b"MAIL FROM:<a@b> RET=FULL\r\n", b"501 5.7.1 DSN support is disabled"),
    (b"MAIL FROM:<a@b> SIZE=x\r\n", b"501 5.5.4 Bad message size syntax"),
    (b"MAIL FROM:<a@b> SIZE=-1\r\n", b"501 5.5.4 Bad message size syntax"),
    (b"MAIL FROM:<a@b> SIZE=1073741824\r\n", b"552 5.3.4 Message size exceeds fixed limit"),
    (
        b"MAIL FROM:<a@b> SIZE=" + b"9" * 30 + b"\r\n",
        b"552 5.3.4 Message size exceeds file system imposed limit",
    ),
    (b"MAIL FROM:<a@b> AUTH=a=b\r\n", b"501 5.5.4 Error: Malformed AUTH= parameter"),
    ("MAIL FROM:<ü@b>\r\n".encode(), b"553 5.6.7 Must declare SMTPUTF8 to send unicode address"),
    (b"RCPT TO:<a@b>\r\n", b"503 5.5.1 Error: need MAIL command"),
    (b"DATA\r\n", b"503 5.5.1 Error: need RCPT command"),
    (b"RSET now\r\n", b"501 5.5.4 Syntax: RSET"),
    (b"VRFY\r\n", b"501 5.5.4 Syntax: VRFY address [SMTPUTF8]"),
    (b"VRFY <>\r\n", b"501 5.1.3 Bad recipient address syntax"),
    (b"ETRN\r\n", b"500 Syntax: ETRN domain"),
    (b"ETRN @@\r\n", b"501 Error: invalid parameter syntax"),
    (b"STARTTLS\r\n", b"502 5.5.1 Error: command not implemented"),
    (b"AUTH PLAIN\r\n", b"503 5.5.1 Error: authentication not enabled"),
    (b"EHLO x\r\nAUTH PLAIN\r\n", b"503 5.5.1 Error: authentication not enabled"),
    (b"MAIL FROM:<>\r\nMAIL FROM:<>\r\n", b"503 5.5.1 Error: nested MAIL command"),
    (b"MAIL FROM:<>\r\nDATA\r\n", b"554 5.5.1 Error: no valid recipients"),
    (b"MAIL FROM:<>\r\nRCPT TO:<>\r\n", b"501 5.1.3 Bad recipient address syntax"),
    (b"MAIL FROM:<>\r\nRCPT\r\n", b"501 5.5.4 Syntax: RCPT TO:<address>"),
    (b"MAIL FROM:<>\r\nRCPT TO:<a@b> NOTIFY=NEVER\r\n", b"501 5.7.1 DSN support is disabled"),
    (b"MAIL FROM:<>\r\nRCPT TO:<a@b>\r\nDATA x\r\n", b"501 5.5.4 Syntax: DATA"),
    (b"MAIL FROM:<>\r\nETRN a.test\r\n", b"503 Error: MAIL transaction in progress"),
]


@pytest.mark.parametrize("octets, reply", REFUSALS)
def test_what_breaks_the_protocol_is_refused_in_postfix_words(octets: bytes, reply: bytes) -> None:
    for segments in cuts(octets):
        said, out, _ = serve(segments, limits=Limits(message=1_000_000))
        assert isinstance(said[-1], events.Refused)
        assert out.splitlines()[-1] == reply
        assert said[-1].reply.encode() == reply + b"\r\n"


@pytest.mark.parametrize(
    "octets, reply",
    [
        (b"AUTH\r\n", b"501 5.5.4 Syntax: AUTH mechanism"),
        (b"MAIL FROM:<>\r\nAUTH PLAIN\r\n", b"503 5.5.1 Error: MAIL transaction in progress"),
        (b"AUTH PLAIN a b\r\n", b"501 5.5.4 Syntax: AUTH mechanism"),
        (b"AUTH PLAIN !!!\r\n", b"535 5.7.8 Error: authentication failed: Invalid base64 data in initial response"),
        (b"AUTH LOGIN\r\n!!\r\n", b"535 5.7.8 Error: authentication failed: Invalid base64 data in continued response"),
        (b"AUTH LOGIN\r\n*\r\n", b"501 5.7.0 Authentication aborted"),
        (b"AUTH LOGIN\r\n" + b"A" * 13000 + b"\r\n", b"500 5.5.6 SASL response limit exceeded"),
        (b"STARTTLS now\r\n", b"501 5.5.4 Syntax: STARTTLS"),
    ],
)  # fmt: skip
def test_refused_authentication_leaves_a_session_that_goes_on(octets: bytes, reply: bytes) -> None:
    segments = [b"EHLO x\r\n", octets, b"NOOP\r\n"]
    said, out, _ = serve(segments, prepare=offer_everything)
    assert out.splitlines()[-2:] == [reply, b"250 2.0.0 Ok"]
    assert said[-1] == events.Noop()


def test_a_session_goes_on_after_a_line_that_is_too_long() -> None:
    said, _, _ = serve([b"NOOP", b" " + LONG, LONG, b"x\r\nRSET\r\n"])
    assert [type(event) for event in said] == [events.Refused, events.Reset]


def test_only_few_commands_are_taken_before_tls_where_it_is_required() -> None:
    def insist(connection: ServerConnection) -> None:
        offer_everything(connection)
        connection.require_tls = True

    _, out, _ = serve(
        [b"EHLO x\r\nMAIL FROM:<a@b>\r\nAUTH PLAIN\r\nRSET\r\nNOOP\r\nQUIT\r\n"], prepare=insist
    )
    must = b"530 5.7.0 Must issue a STARTTLS command first"
    assert out.splitlines() == [b"250 2.0.0 Ok", must, must, must, b"250 2.0.0 Ok", b"221 2.0.0 Bye"]


def test_lmtp_has_one_reply_for_each_accepted_recipient() -> None:
    octets = (
        b"MAIL FROM:<a@b>\r\nEHLO x\r\nLHLO x\r\nMAIL FROM:<a@b>\r\nRCPT TO:<one@d>\r\nRCPT TO:<no@d>\r\n"
        b"RCPT TO:<two@d>\r\nDATA\r\nx\r\n.\r\nQUIT\r\n"
    )
    for segments in cuts(octets):
        _, out, _ = serve(segments, mode=Mode.LMTP, refuse=frozenset({"no@d"}))
        codes = [line[:3] for line in out.splitlines()]
        assert codes == b"503 500 250 250 250 550 250 354 250 250 221".split()


def test_more_than_the_limit_is_read_and_thrown_away() -> None:
    octets = b"MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n" + b"x" * 500 + b"\r\n.\r\nNOOP\r\n"
    for segments in cuts(octets):
        said, _, _ = serve(segments, limits=Limits(message=100))
        assert said[-2] == events.ContentEnd(502, True, False)
        held = b"".join(event.data for event in said if isinstance(event, events.Content))
        assert len(held) <= 100


def test_replies_out_of_turn_are_the_owners_mistake() -> None:
    connection = ServerConnection()
    connection.greet(Reply(220, "", "x"))
    with pytest.raises(LocalError):
        connection.reply(Reply(250, "", "x"))
    connection.receive_data(b"NOOP\r\n")
    connection.next_event()
    with pytest.raises(LocalError):
        connection.next_event()


def test_a_half_closed_client_gets_its_replies() -> None:
    said, out, connection = serve([b"EHLO x\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\nab", b""])
    assert out.endswith(b"<CR><LF>.<CR><LF>\r\n")
    assert said[-1] == events.Content(b"ab")
    assert connection.next_event() == events.Closed()


LINES = st.sampled_from(
    [b"EHLO x", b"MAIL FROM:<a@b>", b"RCPT TO:<c@d>", b"DATA", b".", b"RSET", b"AUTH LOGIN", b"enM=", b"*", b"QUIT",
     b"STARTTLS", b"..", b"", b"VRFY <", b"MAIL FROM:<\"a", b"ETRN .", b"BDAT 5", b"BDAT 9 LAST", b"BDAT 0",
     b"BDAT 300", b"BDAT 300 LAST"]
)  # fmt: skip
NOISE = st.lists(
    st.one_of(st.binary(max_size=40), LINES, st.sampled_from([b"\r\n", b"\n", b"\r", b"\0"])), max_size=60
)


@settings(max_examples=300, deadline=None)
@given(NOISE, st.booleans(), st.integers(1, 50))
def test_no_octets_whatever_upset_the_engine(pieces: list[bytes], lmtp: bool, width: int) -> None:
    data = b"\r\n".join(pieces)
    segments = [data[i : i + width] for i in range(0, len(data), width)]
    mode = Mode.LMTP if lmtp else Mode.SMTP
    limits = Limits(line=60, auth_line=40, message=200)
    _, out, connection = serve(segments, mode=mode, limits=limits, prepare=offer_everything)
    assert len(connection._buffer) - connection._position <= max(limits.line, limits.auth_line) + width + 2
    for line in out.splitlines():
        assert line[:3].isdigit()


def test_who_is_not_welcome_may_only_leave() -> None:
    connection = ServerConnection()
    connection.denial = Reply(503, "5.7.0", "Error: access denied for x[192.0.2.1]")
    connection.greet(Reply(554, "5.7.1", "no"))
    connection.receive_data(b"EHLO x\r\nMAIL FROM:<>\r\nQUIT\r\n")
    assert [type(connection.next_event()).__name__ for _ in range(3)] == ["Refused", "Refused", "Quit"]
    denied = b"503 5.7.0 Error: access denied for x[192.0.2.1]\r\n"
    assert connection.data_to_send() == b"554 5.7.1 no\r\n" + 2 * denied


def test_refusals_can_be_softened() -> None:
    connection = ServerConnection()
    connection.soft_bounce = True
    connection.greet(Reply(220, "", "x"))
    connection.receive_data(b"FOO\r\nBDAT 0 LAST\r\n")
    assert [type(connection.next_event()).__name__ for _ in range(2)] == ["Refused", "Refused"]
    said = b"400 4.5.2 Error: command not recognized\r\n403 4.5.1 Error: need RCPT command\r\n"
    assert connection.data_to_send() == b"220 x\r\n" + said


def test_a_bare_newline_behind_a_command_is_noticed() -> None:
    connection = ServerConnection()
    connection.greet(Reply(220, "", "x"))
    connection.receive_data(b"FOO\r\n")
    connection.next_event()
    assert not connection.bare_newline
    connection.receive_data(b"FOO\n")
    connection.next_event()
    assert connection.bare_newline


def test_commands_that_are_ignored_changed_or_not_borne() -> None:
    connection = ServerConnection()
    connection.greet(Reply(220, "", "ready"))
    connection.ignore(frozenset({"FOO", "ETRN"}))
    connection.foreign = lambda line: line.startswith("bar")
    connection.rewrite = lambda line: line.removeprefix("X ")
    connection.receive_data(b"foo x\r\netrn a.test\r\nX NOOP\r\nGET /\r\nX bar\r\nNOOP\r\n")
    connection.data_to_send()
    found = []
    while not isinstance(event := connection.next_event(), events.Closed):
        found.append((type(event), getattr(event, "verb", "")))
        if isinstance(event, events.Noop):
            connection.reply(Reply(250, "", "did nothing"))
    assert found == [
        (events.Ignored, "FOO"),
        (events.Ignored, "ETRN"),
        (events.Noop, ""),
        (events.Refused, ""),
        (events.Refused, "BAR"),
    ]
    assert connection.data_to_send() == (
        b"250 2.0.0 Ok\r\n250 2.0.0 Ok\r\n250 did nothing\r\n500 5.5.2 Error: command not recognized\r\n"
        b"221 2.7.0 Error: I can break rules, too. Goodbye.\r\n"
    )
