"""BDAT in the server engine (RFC 3030): what is made of chunks, and which are refused in which words."""

from __future__ import annotations

import pytest

from mailstack.wire.smtp import Limits, LocalError, Mode, Reply, ServerConnection, events
from mailstack.wire.smtp.command import MailParameters
from tests.unit.wire_smtp.feeding import OK, cuts, serve

ENVELOPE = b"MAIL FROM:<a@b.test>\r\nRCPT TO:<c@d.test>\r\n"
ANNOUNCED: list[events.Event] = [events.Mail("a@b.test", MailParameters()), events.Rcpt("c@d.test")]

MESSAGES: list[tuple[bytes, list[events.Event]]] = [
    (
        # Dots are nothing but dots here, and what stands behind the last octet is a command.
        b"BDAT 15 LAST\r\none\r\n.\r\n..two\r\nNOOP\r\nRSET\r\n",
        [
            events.Chunk(15, True, True),
            events.Content(b"one\r\n.\r\n..two\r\n"),
            events.ContentEnd(15, False, False),
            events.Noop(),
            events.Reset(),
        ],
    ),
    (
        # What looks like a command is content as long as octets of the chunk are missing.
        b"bdat  12  last \r\nQUIT\r\nQUIT\r\nQUIT\r\n",
        [
            events.Chunk(12, True, True),
            events.Content(b"QUIT\r\nQUIT\r\n"),
            events.ContentEnd(12, False, False),
            events.Quit(),
        ],
    ),
    (
        # A line's end, and a line, may be cut in two by the border of two chunks.
        b"BDAT 4\r\none\rBDAT 3\r\n\ntwBDAT 3 LAST\r\no\r\nNOOP\r\n",
        [
            events.Chunk(4, False, True),
            events.Content(b"one"),
            events.ChunkEnd(4),
            events.Chunk(3, False, False),
            events.Content(b"\r\ntw"),
            events.ChunkEnd(3),
            events.Chunk(3, True, False),
            events.Content(b"o\r\n"),
            events.ContentEnd(10, False, False),
            events.Noop(),
        ],
    ),
    (
        # The last chunk may be empty; the message gets the end of its last line even then.
        b"BDAT 3\r\noneBDAT 0 LAST\r\nNOOP\r\n",
        [
            events.Chunk(3, False, True),
            events.Content(b"one"),
            events.ChunkEnd(3),
            events.Chunk(0, True, False),
            events.Content(b"\r\n"),
            events.ContentEnd(5, False, False),
            events.Noop(),
        ],
    ),
    (
        b"BDAT 4\r\none\rBDAT 0 LAST\r\nNOOP\r\n",
        [
            events.Chunk(4, False, True),
            events.Content(b"one"),
            events.ChunkEnd(4),
            events.Chunk(0, True, False),
            events.Content(b" \r\n"),
            events.ContentEnd(6, False, True),
            events.Noop(),
        ],
    ),
    (
        b"BDAT 0 LAST\r\nNOOP\r\n",
        [events.Chunk(0, True, True), events.ContentEnd(0, False, False), events.Noop()],
    ),
    (
        # A bare LF or CR is repaired as behind DATA.
        b"BDAT 9 LAST\r\na\n.\nb\rc\r\nNOOP\r\n",
        [
            events.Chunk(9, True, True),
            events.Content(b"a\r\n.\r\nb c\r\n"),
            events.ContentEnd(11, False, True),
            events.Noop(),
        ],
    ),
    (
        # Commands that end nothing may stand between chunks; then a message by DATA.
        b"BDAT 2\r\nabNOOP\r\nVRFY x@y.test\r\nBDAT 2 LAST\r\ncd" + ENVELOPE + b"DATA\r\n..e\r\n.\r\n",
        [
            events.Chunk(2, False, True),
            events.Content(b"ab"),
            events.ChunkEnd(2),
            events.Noop(),
            events.Verify("x@y.test", "x@y.test"),
            events.Chunk(2, True, False),
            events.Content(b"cd\r\n"),
            events.ContentEnd(6, False, False),
            *ANNOUNCED,
            events.Data(),
            events.Content(b".e\r\n"),
            events.ContentEnd(4, False, False),
        ],
    ),
    (
        # RSET forgets the chunks: the next one is a first one again.
        b"BDAT 2\r\nabRSET\r\n" + ENVELOPE + b"BDAT 2 LAST\r\ncd",
        [
            events.Chunk(2, False, True),
            events.Content(b"ab"),
            events.ChunkEnd(2),
            events.Reset(),
            *ANNOUNCED,
            events.Chunk(2, True, True),
            events.Content(b"cd\r\n"),
            events.ContentEnd(4, False, False),
        ],
    ),
]


@pytest.mark.parametrize("octets, expected", MESSAGES)
def test_messages_do_not_depend_on_segments(octets: bytes, expected: list[events.Event]) -> None:
    for segments in cuts(ENVELOPE + octets):
        said, _, _ = serve(segments)
        assert said == ANNOUNCED + expected


SYNTAX = b"521 5.5.4 Syntax: BDAT count [LAST]"
NULL = b"551 5.7.1 Null BDAT request"
TOO_BIG = b"552 5.3.4 Chunk exceeds message size limit"
NEED_RCPT = b"503 5.5.1 Error: need RCPT command"
NOBODY = b"554 5.5.1 Error: no valid recipients"
NESTED = b"503 5.5.1 Error: nested MAIL command"
NEED_MAIL = b"503 5.5.1 Error: need MAIL command"
AFTER = b"503 5.5.1 Error: %s after BDAT"
GOOD = b"250 2.0.0 Ok"
BIG = b"BDAT 200\r\n" + b"x" * 200
BIG_LAST = b"BDAT 200 LAST\r\n" + b"x" * 200


def discarded(size: int) -> bytes:
    return b"551 5.0.0 Discarded %d bytes after earlier error" % size


@pytest.mark.parametrize(
    "argument",
    [b"", b"x", b"-1", b"+5", b"0x5", b"5 LASTT", b"5 FIRST", b"5 LAST x", b"LAST", "٥".encode(), b"9" * 30],
)
def test_a_size_that_cannot_be_read_ends_the_session(argument: bytes) -> None:
    for prefix in (b"", ENVELOPE):
        for segments in cuts(prefix + b"BDAT " + argument + b"\r\nNOOP\r\n"):
            said, out, connection = serve(segments)
            assert isinstance(said[-1], events.Refused) and said[-1].verb == "BDAT"
            assert out.splitlines()[-1] == SYNTAX
            assert connection.next_event() == events.Closed()


def test_a_server_that_takes_no_chunks_ends_the_session() -> None:
    def decline(connection: ServerConnection) -> None:
        connection.chunking = False

    for segments in cuts(ENVELOPE + b"BDAT 6 LAST\r\nNOOP\r\n"):
        said, out, connection = serve(segments, prepare=decline)
        assert out.splitlines() == [GOOD, GOOD, b"521 5.5.1 Error: command not implemented"]
        assert isinstance(said[-1], events.Refused)
        assert connection.next_event() == events.Closed()


@pytest.mark.parametrize(
    "octets, replies",
    [
        # Nothing to put it in.
        (b"BDAT 5 LAST\r\nhello", [NEED_RCPT]),
        (b"MAIL FROM:<>\r\nBDAT 5 LAST\r\nhello", [GOOD, NOBODY]),
        (b"MAIL FROM:<>\r\nRCPT TO:<no@d>\r\nBDAT 5 LAST\r\nRSET\n", [GOOD, b"550 5.1.1 no", NOBODY]),
        # The last chunk ends the transaction that it has spoiled; any other one is followed by refusals.
        (b"MAIL FROM:<>\r\nBDAT 5 LAST\r\nhelloRCPT TO:<c@d>\r\n", [GOOD, NOBODY, NEED_MAIL]),
        (b"BDAT 5\r\nhelloMAIL FROM:<>\r\nDATA\r\nRCPT TO:<c@d>\r\n",
         [NEED_RCPT, AFTER % b"MAIL", AFTER % b"DATA", NEED_MAIL]),
        (b"MAIL FROM:<>\r\nBDAT 5\r\nhelloMAIL FROM:<>\r\nRCPT TO:<c@d>\r\nDATA\r\nBDAT 4\r\nQUIT",
         [GOOD, NOBODY, NESTED, AFTER % b"RCPT", AFTER % b"DATA", discarded(4)]),
        (b"BDAT 5\r\nhelloBDAT 5 LAST\r\nhello" + ENVELOPE, [NEED_RCPT, discarded(5), GOOD, GOOD]),
        (b"BDAT 5\r\nhelloRSET\r\n" + ENVELOPE, [NEED_RCPT, GOOD, GOOD, GOOD]),
        (b"BDAT 5\r\nhelloEHLO x\r\n" + ENVELOPE, [NEED_RCPT, GOOD, GOOD, GOOD]),
        # Between chunks.
        (ENVELOPE + b"BDAT 2\r\nabMAIL FROM:<>\r\nRCPT TO:<c@d>\r\nDATA\r\nETRN d.test\r\n",
         [GOOD, GOOD, GOOD, NESTED, AFTER % b"RCPT", AFTER % b"DATA", b"503 Error: MAIL transaction in progress"]),
        # An empty chunk that is not the last.
        (ENVELOPE + b"BDAT 0\r\nBDAT 0\r\nBDAT 4\r\nQUITBDAT 4 LAST\r\nQUIT" + ENVELOPE,
         [GOOD, GOOD, NULL, NULL, discarded(4), discarded(4), GOOD, GOOD]),
        (b"BDAT 0\r\nMAIL FROM:<>\r\n", [NULL, AFTER % b"MAIL"]),
        (ENVELOPE + b"BDAT 2\r\nabBDAT 0\r\nRCPT TO:<c@d>\r\n", [GOOD, GOOD, GOOD, NULL, AFTER % b"RCPT"]),
        # Too much, at once or together.
        (ENVELOPE + BIG + BIG + BIG_LAST + ENVELOPE,
         [GOOD, GOOD, TOO_BIG, discarded(200), discarded(200), GOOD, GOOD]),
        (ENVELOPE + BIG_LAST + ENVELOPE + b"BDAT 1 LAST\r\na", [GOOD, GOOD, TOO_BIG, GOOD, GOOD, GOOD]),
        (ENVELOPE + b"BDAT 60\r\n" + b"x" * 60 + b"BDAT 41 LAST\r\n" + b"x" * 41 + ENVELOPE,
         [GOOD, GOOD, GOOD, TOO_BIG, GOOD, GOOD]),
        (ENVELOPE + BIG + b"DATA\r\nRSET\r\n" + ENVELOPE + b"BDAT 1 LAST\r\na",
         [GOOD, GOOD, TOO_BIG, AFTER % b"DATA", GOOD, GOOD, GOOD, GOOD]),
    ],
)  # fmt: skip
def test_refused_chunks_are_swallowed_and_the_session_goes_on(octets: bytes, replies: list[bytes]) -> None:
    for segments in cuts(octets + b"NOOP\r\n"):
        said, out, connection = serve(segments, limits=Limits(message=100), refuse=frozenset({"no@d"}))
        assert out.splitlines() == [*replies, GOOD]
        assert said[-1] == events.Noop()
        assert connection.next_event() is events.NEED_DATA


def test_content_that_grows_over_the_limit_is_too_big_at_its_end() -> None:
    said, _, _ = serve([ENVELOPE + b"BDAT 80 LAST\r\n" + b"\n" * 80], limits=Limits(message=100))
    assert said[-1] == events.ContentEnd(160, True, True)
    assert not any(isinstance(event, events.Content) for event in said)


@pytest.mark.parametrize("last", [b"", b" LAST"])
def test_a_huge_refused_chunk_is_never_held(last: bytes) -> None:
    connection = ServerConnection(limits=Limits(message=1000))
    connection.greet(Reply(220, "", "x"))
    size = 1_000_000_000_000
    connection.receive_data(b"BDAT %d%s\r\n" % (size, last))
    assert isinstance(connection.next_event(), events.Refused)
    segment = b"NOOP\r\n" * 10_000
    for _ in range(100):
        connection.receive_data(segment)
        assert connection.next_event() is events.NEED_DATA
        assert len(connection._buffer) <= len(segment)
    connection._left = 3  # the rest of it, in a moment
    connection.receive_data(b"abcNOOP\r\n")
    assert connection.next_event() == events.Noop()


def test_a_chunk_is_passed_on_as_it_comes() -> None:
    connection = ServerConnection()
    connection.greet(Reply(220, "", "x"))
    connection.receive_data(ENVELOPE + b"BDAT 1000000000 LAST\r\n")
    for _ in range(2):
        connection.next_event()
        connection.reply(OK)
    assert connection.next_event() == events.Chunk(1_000_000_000, True, True)
    connection.take_chunk()
    for _ in range(10):
        connection.receive_data(b"x" * 10_000)
        assert connection.next_event() == events.Content(b"x" * 10_000)
        assert connection.next_event() is events.NEED_DATA
        assert not connection.pending()
    connection.receive_data(b"")
    assert connection.next_event() == events.Closed()


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("code", [451, 554, 521])
def test_the_owner_may_refuse_a_chunk(code: int, last: bool) -> None:
    refusal = Reply(code, "5.7.1", "no")
    octets = ENVELOPE + (b"BDAT 4 LAST\r\nQUIT" if last else b"BDAT 4\r\nQUIT") + b"MAIL FROM:<>\r\n"
    for segments in cuts(octets):
        _, out, _ = serve(segments, chunk_refusal=refusal)
        lines = out.splitlines()
        assert lines[:3] == [GOOD, GOOD, b"%d 5.7.1 no" % code]
        assert lines[3:] == ([] if code == 521 else [GOOD] if last else [NESTED])


def test_a_chunk_that_fails_at_its_end_leaves_the_transaction_to_rset() -> None:
    """A chunk is in, and its owner has nowhere to put it."""
    connection = ServerConnection()
    connection.greet(Reply(220, "", "x"))
    connection.receive_data(ENVELOPE + b"BDAT 2\r\nabBDAT 2 LAST\r\ncd" + ENVELOPE)
    for _ in range(2):
        connection.next_event()
        connection.reply(OK)
    assert connection.next_event() == events.Chunk(2, False, True)
    connection.take_chunk()
    assert connection.next_event() == events.Content(b"ab")
    assert connection.next_event() == events.ChunkEnd(2)
    connection.reply(Reply(452, "4.3.1", "full"))
    refused = connection.next_event()
    assert isinstance(refused, events.Refused) and refused.reply.encode() == discarded(2) + b"\r\n"
    assert connection.next_event() == ANNOUNCED[0]
    with pytest.raises(LocalError):
        connection.take_chunk()


def test_only_take_chunk_accepts_a_chunk() -> None:
    connection = ServerConnection()
    with pytest.raises(LocalError):
        connection.take_chunk()
    connection.greet(Reply(220, "", "x"))
    connection.receive_data(ENVELOPE + b"BDAT 2\r\nab")
    for _ in range(2):
        connection.next_event()
        connection.reply(OK)
    connection.next_event()
    with pytest.raises(LocalError):
        connection.reply(OK)


def test_chunks_need_a_greeting_and_tls_where_the_server_insists_on_them() -> None:
    def insist(connection: ServerConnection) -> None:
        connection.helo_required = True

    need_rcpt = b"503 5.5.1 Error: need RCPT command"
    _, out, _ = serve([b"BDAT 4\r\nQUITEHLO x\r\nMAIL FROM:<>\r\n"], prepare=insist)
    assert out.splitlines() == [need_rcpt, GOOD, GOOD]

    def insist_on_tls(connection: ServerConnection) -> None:
        connection.require_tls = True

    _, out, _ = serve([b"BDAT 4\r\nQUITNOOP\r\n"], prepare=insist_on_tls)
    assert out.splitlines() == [b"530 5.7.0 Must issue a STARTTLS command first", GOOD]


LMTP_ENVELOPE = b"LHLO x\r\nMAIL FROM:<a@b>\r\nRCPT TO:<one@d>\r\nRCPT TO:<no@d>\r\nRCPT TO:<two@d>\r\nRCPT TO:<three@d>\r\n"


@pytest.mark.parametrize(
    "octets, codes",
    [
        (b"BDAT 2 LAST\r\nab", b"250 250 250"),
        (b"BDAT 2\r\nabBDAT 2 LAST\r\ncd", b"250 250 250 250"),
        (b"BDAT 2\r\nabBDAT 0 LAST\r\n", b"250 250 250 250"),
        # A client waits for as many replies also when the last chunk is refused as a whole.
        (BIG_LAST, b"552 552 552"),
        (BIG + b"BDAT 2 LAST\r\nab", b"552 551 551 551"),
        (b"BDAT 0\r\nBDAT 0 LAST\r\n", b"551 551 551 551"),
    ],
)
def test_lmtp_answers_the_last_chunk_for_each_accepted_recipient(octets: bytes, codes: bytes) -> None:
    for segments in cuts(LMTP_ENVELOPE + octets + b"MAIL FROM:<a@b>\r\nBDAT 1 LAST\r\nxQUIT\r\n"):
        _, out, _ = serve(segments, mode=Mode.LMTP, limits=Limits(message=100), refuse=frozenset({"no@d"}))
        got = b" ".join(line[:3] for line in out.splitlines())
        assert got == b"250 250 250 550 250 250 " + codes + b" 250 503 221"


def test_the_owner_refuses_the_last_chunk_of_an_lmtp_transaction_for_everybody() -> None:
    _, out, _ = serve(
        [LMTP_ENVELOPE + b"BDAT 2 LAST\r\nabNOOP\r\n"],
        mode=Mode.LMTP,
        refuse=frozenset({"no@d"}),
        chunk_refusal=Reply(451, "4.3.0", "later"),
    )
    assert out.splitlines()[6:] == [b"451 4.3.0 later"] * 3 + [GOOD]
