"""The engine: what is sent, what answers mean, and that no answer can do harm."""

from __future__ import annotations

import struct

import pytest

from mailstack.wire.milter import (
    NEED_DATA,
    AddHeader,
    AddRecipient,
    ChangeHeader,
    ChangeSender,
    DeleteRecipient,
    Done,
    Event,
    InsertHeader,
    MilterConnection,
    Progress,
    ReplaceBody,
    State,
    Terms,
    Verdict,
    offered_events,
    pack,
)
from mailstack.wire.milter.protocol import PACKET_LIMIT, Stage
from mailstack.wire.smtp import Reply

VERSION, OFFERED = offered_events(["6"])


def negotiated(
    events: int = 0, *, version: int = 6, action: str = "tempfail", symbols: bytes = b"", soft: bool = False
) -> MilterConnection:
    connection = MilterConnection(Terms(VERSION, OFFERED, action, soft))
    assert connection.begin() == pack(b"O", struct.pack("!III", 6, 0x1FF, 0x1FFFFF))
    connection.receive_data(pack(b"O", struct.pack("!III", version, 0x1FF, events) + symbols))
    assert connection.next() == Done(None)
    connection.event(Event.CONNECT, b"")
    connection.waiting = None
    return connection


def answered(connection: MilterConnection, event: Event, *packets: bytes) -> list[object]:
    """Everything that the engine makes of these packets."""
    connection.event(event, b"")
    for packet in packets:
        connection.receive_data(struct.pack("!I", len(packet)) + packet)
    found: list[object] = []
    while connection.waiting is not None and (one := connection.next()) is not NEED_DATA:
        found.append(one)
    return found


@pytest.mark.parametrize(
    ("protocol", "version", "flags"),
    [(["6"], 6, 0x1FFFFF), (["2"], 2, 0x7F), (["3"], 3, 0x17F), (["4", "no_header_reply"], 4, 0x3FF)],
)
def test_what_is_offered(protocol: list[str], version: int, flags: int) -> None:
    assert offered_events(protocol) == (version, flags)


@pytest.mark.parametrize("protocol", [[], ["5"], ["2", "6"], ["no_header_reply"], ["six"]])
def test_a_protocol_that_cannot_be_spoken(protocol: list[str]) -> None:
    with pytest.raises(ValueError, match="protocol"):
        offered_events(protocol)


def test_an_event_is_its_macros_and_itself() -> None:
    connection = negotiated()
    octets = connection.event(Event.MAIL, b"i\0ID\0", b"<a@b>\0")
    assert octets == pack(b"D", b"Mi\0ID\0") + pack(b"M", b"<a@b>\0")
    assert connection.waiting is Event.MAIL


def test_what_a_milter_does_not_want_or_know_is_not_sent() -> None:
    assert negotiated(0x04).event(Event.MAIL, b"", b"x\0") == pack(b"D", b"M")
    assert negotiated(version=2).event(Event.DATA, b"") == b""
    quiet = negotiated(0x4000)
    assert quiet.event(Event.MAIL, b"", b"x\0") and quiet.waiting is None


@pytest.mark.parametrize(
    ("packet", "verdict", "state"),
    [
        (b"c", None, State.ENVELOPE),
        (b"a", None, State.ACCEPTED),
        (b"s", None, State.ENVELOPE),
        (b"d", Verdict(discard=True), State.ACCEPTED),
        (b"r", Verdict(Reply(550, "5.7.1", "Command rejected")), State.ENVELOPE),
        (b"t", Verdict(Reply(451, "4.7.1", "Service unavailable - try again later")), State.ENVELOPE),
        (b"y554 5.7.9 100%% %sure\0", Verdict(Reply(554, "5.7.9", "100% sure")), State.ENVELOPE),
        (b"y450 no code\0", Verdict(Reply(450, "", "no code")), State.ENVELOPE),
        (b"y550-5.1.1 a\r\n550 5.1.1 b\0", Verdict(Reply(550, "5.1.1", "a\nb")), State.ENVELOPE),
        (b"4", Verdict(shutdown=True), State.REJECTED_ALL),
    ],
)
def test_answers_to_a_recipient(packet: bytes, verdict: Verdict | None, state: State) -> None:
    connection = negotiated()
    assert answered(connection, Event.RCPT, packet) == [Done(verdict)]
    assert (connection.state, connection.warnings) == (state, [])


def test_a_refused_connection_stays_refused() -> None:
    connection = negotiated()
    assert answered(connection, Event.HELO, b"y550 5.7.1 no\0") == [Done(Verdict(Reply(550, "5.7.1", "no")))]
    assert connection.lasting == Verdict(Reply(550, "5.7.1", "no"))
    assert not connection.listens(Event.MAIL) and connection.abort() == b""


def test_soft_bounce_softens_refusals() -> None:
    found = answered(negotiated(soft=True), Event.RCPT, b"y550 5.1.1 no\0")
    assert found == [Done(Verdict(Reply(450, "4.1.1", "no")))]


def test_progress_is_told_and_skip_ends_a_row() -> None:
    connection = negotiated()
    assert answered(connection, Event.BODY, b"p", b"s") == [Progress(), Done(None)]
    assert connection.event(Event.BODY, b"", b"more") == b"" and connection.skips(Event.BODY)
    assert connection.event(Event.END_OF_MESSAGE, b"") and not connection.skips(Event.BODY)


def test_changes_come_in_order_and_a_quarantine_waits_for_the_end() -> None:
    found = answered(
        negotiated(),
        Event.END_OF_MESSAGE,
        b"hX-A\0a\0",
        b"i\0\0\0\2X-B\0b\0",
        b"m\0\0\0\0X-C\0\0",
        b"e<a@b>\0RET=HDRS\0",
        b"+<c@d>\0",
        b"2<e@f>\0NOTIFY=NEVER\0",
        b"-<g@h>\0",
        b"qnot yet\0",
        b"bnew",
        b"b body",
        b"c",
    )
    assert found == [
        AddHeader(b"X-A", b"a"),
        InsertHeader(2, b"X-B", b"b"),
        ChangeHeader(1, b"X-C", b""),
        ChangeSender("<a@b>", "RET=HDRS"),
        AddRecipient("<c@d>", ""),
        AddRecipient("<e@f>", "NOTIFY=NEVER"),
        DeleteRecipient("<g@h>"),
        Progress(),
        ReplaceBody(b"new"),
        ReplaceBody(b" body"),
        Done(Verdict(hold=True, reason="not yet")),
    ]


BROKEN = {
    "garbage": (b"\xff\xff\xff\xffc", f"unreasonable packet length: {(1 << 32) - 1} > {PACKET_LIMIT}"),
    "empty": (b"\0\0\0\0", "bad packet length: 0"),
    "huge": (b"\x10\0\0\0c", f"unreasonable packet length: {1 << 28} > {PACKET_LIMIT}"),
    "unknown": (pack(b"z"), "unexpected filter response (unknown filter reply) after event SMFIC_BODYEOB"),
    "surplus": (pack(b"c", b"x"), "reply SMFIR_CONTINUE was followed by 1 data bytes"),
    "short": (pack(b"m", b"\0\0"), "input packet too short for network long"),
    "no string": (pack(b"h"), "packet too short for string"),
    "no end": (pack(b"h", b"X"), "missing string null termimator"),
    "left over": (pack(b"+", b"a\0b"), "left-over data 1 bytes"),
}


@pytest.mark.parametrize("action", ["accept", "reject", "tempfail", "quarantine", "shutdown"])
@pytest.mark.parametrize(("octets", "warning"), BROKEN.values(), ids=BROKEN)
def test_who_breaks_the_protocol_has_decided_what_the_default_says(
    octets: bytes, warning: str, action: str
) -> None:
    connection = negotiated(action=action)
    connection.event(Event.END_OF_MESSAGE, b"")
    connection.receive_data(octets)
    verdict = {
        "accept": None,
        "reject": Verdict(Reply(550, "5.5.0", "Service unavailable")),
        "tempfail": Verdict(Reply(451, "4.7.1", "Service unavailable - try again later")),
        "quarantine": Verdict(hold=True, reason="default_action"),
        "shutdown": Verdict(shutdown=True),
    }[action]
    assert connection.next() == Done(verdict)
    assert (connection.warnings, connection.state, connection.lasting) == ([warning], State.ERROR, verdict)


@pytest.mark.parametrize(
    "packets",
    [
        (b"y200 fine\0",),
        (b"y550 4.1.1 mixed\0",),
        (b"y550",),
        (b"y550-a\n551 b\0",),
        (b"m\0\0\0\1\0x\0",),
        (b"bone", b"hX\0x\0", b"btwo"),
    ],
)
def test_who_asks_for_the_impossible_is_misconfigured(packets: tuple[bytes, ...]) -> None:
    connection = negotiated(action="reject")
    found = answered(connection, Event.END_OF_MESSAGE, *packets)
    reply = Reply(451, "4.3.5", "Server configuration problem - try again later")
    assert found[-1] == Done(Verdict(reply)) and len(connection.warnings) == 1


def test_changes_before_the_end_break_the_protocol() -> None:
    connection = negotiated()
    answered(connection, Event.HEADER, b"hX\0x\0")
    assert connection.warnings == ["unexpected filter response SMFIR_ADDHEADER after event SMFIC_HEADER"]


@pytest.mark.parametrize(
    ("answer", "warning"),
    [
        (pack(b"c"), 'unexpected reply "c" in initial handshake'),
        (pack(b"O", b"\0\0"), "input packet too short for network long\nread error in initial handshake"),
        (pack(b"O", struct.pack("!III", 7, 0, 0)), "protocol version 7 conflict with MTA protocol version 6"),
        (
            pack(b"O", struct.pack("!III", 6, 0x3FF, 0)),
            "request mask 0x3ff conflict with MTA request mask 0x1ff",
        ),
        (
            b"",
            "can't read SMFIC_OPTNEG reply packet header: Application error\nread error in initial handshake",
        ),
    ],
)
def test_negotiations_that_fail(answer: bytes, warning: str) -> None:
    connection = MilterConnection(Terms(VERSION, OFFERED, "tempfail"))
    connection.begin()
    connection.receive_data(answer)
    assert isinstance(connection.next(), Done)
    assert (connection.warnings, connection.state) == ([warning], State.ERROR)


def test_a_milter_may_name_its_macros() -> None:
    symbols = struct.pack("!I", 3) + b"i, {rcpt_addr}\0" + struct.pack("!I", 77) + b"x\0"
    connection = negotiated(symbols=symbols)
    assert connection.macros == {Stage.RCPT: ["i", "{rcpt_addr}"]}
    assert connection.warnings == ["ignoring unknown macro type 77"]


def test_octets_may_be_cut_anywhere() -> None:
    stream = pack(b"p") + pack(b"h", b"X-A\0a\0") + pack(b"b", b"x" * 70) + pack(b"y", b"550 5.7.1 no\0")
    for width in (1, 3, 4, 5, 7, 200):
        connection = negotiated()
        connection.event(Event.END_OF_MESSAGE, b"")
        found = []
        for start in range(0, len(stream), width):
            connection.receive_data(stream[start : start + width])
            while connection.waiting is not None and (one := connection.next()) is not NEED_DATA:
                found.append(one)
        assert found == [
            Progress(),
            AddHeader(b"X-A", b"a"),
            ReplaceBody(b"x" * 70),
            Done(Verdict(Reply(550, "5.7.1", "no"))),
        ]
