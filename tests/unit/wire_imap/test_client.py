"""The IMAP client engine: responses whole, octet by octet, and run together; wrong ones; FETCH data."""

from __future__ import annotations

import pytest

from mailstack.wire.imap.client import (
    NEED_DATA,
    ClientConnection,
    Closed,
    Completed,
    Continuation,
    Event,
    LocalError,
    MessageData,
    RemoteError,
    Untagged,
    message_data,
)

DIALOGUE = (
    b"* OK [CAPABILITY IMAP4rev1 IDLE] ready\r\n"
    b"* 3 EXISTS\r\n"
    b"* flags (\\Seen)\r\n"
    b"* OK [UIDNEXT 42] next\r\n"
    b"* 2 FETCH (UID 7 BODY[] {8}\r\na\r\n)\r\nM9 FLAGS ())\r\n"
    b'* STATUS {4}\r\na"b\\ (MESSAGES 1)\r\n'
    b"+ \r\n"
    b"+ idling\r\n"
    b"M1 ok [CAPABILITY X] done\r\n"
    b"M2 NO\r\n"
)
EVENTS: list[Event] = [
    Untagged("OK", None, b"[CAPABILITY IMAP4rev1 IDLE] ready"),
    Untagged("EXISTS", 3, b""),
    Untagged("FLAGS", None, rb"(\Seen)"),
    Untagged("OK", None, b"[UIDNEXT 42] next"),
    Untagged("FETCH", 2, b"(UID 7 BODY[] \0 FLAGS ())", (b"a\r\n)\r\nM9",)),
    Untagged("STATUS", None, b"\0 (MESSAGES 1)", (b'a"b\\',)),
    Continuation(b""),
    Continuation(b"idling"),
    Completed(b"M1", "OK", "[CAPABILITY X] done"),
    Completed(b"M2", "NO", ""),
]


def fed(pieces: list[bytes]) -> tuple[ClientConnection, list[Event]]:
    connection = ClientConnection()
    events: list[Event] = []
    for piece in pieces:
        connection.receive_data(piece)
        while (event := connection.next_event()) is not NEED_DATA:
            events.append(event)
            if isinstance(event, Closed):
                return connection, events
    return connection, events


def test_responses_however_they_come() -> None:
    whole = [DIALOGUE]
    single = [DIALOGUE[index : index + 1] for index in range(len(DIALOGUE))]
    for pieces in (whole, single):
        connection, events = fed(pieces)
        assert events == EVENTS
        assert connection.capabilities == {"X"}
    assert fed([DIALOGUE + b"* 4 EX", b""])[1] == [*EVENTS, Closed()]
    assert EVENTS[3].code == ("UIDNEXT", 42)  # type: ignore[union-attr]


def test_commands_and_answers() -> None:
    connection = ClientConnection()
    assert connection.command(b"IDLE") == b"M1"
    connection.answer(b"DONE")
    assert connection.command(b"LOGOUT") == b"M2"
    assert b"".join(connection.data_to_send()) == b"M1 IDLE\r\nDONE\r\nM2 LOGOUT\r\n"
    assert connection.data_to_send() == []
    for line in (b"a\r\nb", b"a\nb", b"a\0b"):
        with pytest.raises(LocalError):
            connection.command(line)
    with pytest.raises(LocalError):
        connection.answer(b"a\r\nM3 DELETE INBOX")


@pytest.mark.parametrize(
    "octets",
    [
        b"\r\n",
        b"nonsense\r\n",
        b"HTTP/1.1 400 Bad Request\r\n",
        b"* \r\n",
        b"* 3\r\n",
        b"M1 MAYBE\r\n",
        b"* OK a\nb\r\n",
        b"* OK \0\r\n",
        b"* 1 FETCH (BODY[] {99999999999}\r\n",
        b"x" * 300,
    ],
)
def test_what_is_no_response(octets: bytes) -> None:
    connection = ClientConnection(response_limit=256)
    connection.receive_data(octets)
    with pytest.raises(RemoteError):
        connection.next_event()


def test_octets_before_the_handshake_are_refused() -> None:
    connection = ClientConnection()
    connection.receive_data(b"* OK [CAPABILITY A] x\r\nM1 OK go\r\n* CAPABILITY EVIL\r\n")
    connection.next_event()
    connection.next_event()
    with pytest.raises(RemoteError, match="before the TLS handshake"):
        connection.tls_started()
    assert connection.capabilities == frozenset()


@pytest.mark.parametrize(
    ("text", "literals", "data"),
    [
        (b"(UID 7)", (), MessageData(7, (), "", 0, b"")),
        (b"(FLAGS (\\Seen $A))", (), MessageData(0, ("\\Seen", "$A"), "", 0, b"")),
        (
            b'(uid 7 RFC822.SIZE 10 INTERNALDATE " 2-Nov-2026 10:00:00 +0000" BODY[] \0)',
            (b"x\0y",),
            MessageData(7, (), " 2-Nov-2026 10:00:00 +0000", 10, b"x\0y"),
        ),
        (b'(BODY[HEADER.FIELDS (SUBJECT "FROM")] "a\\"b" UID 1)', (), MessageData(1, (), "", 0, b'a"b')),
        (b"(BODY[]<0> NIL)", (), MessageData(0, (), "", 0, b"")),
    ],
)
def test_message_data(text: bytes, literals: tuple[bytes, ...], data: MessageData) -> None:
    assert message_data(Untagged("FETCH", 1, text, literals)) == data


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"UID 7",
        b"(UID 7",
        b"(UID seven)",
        b"(UID 7BODY[] NIL)",
        b"(ENVELOPE ())",
        b"(BODY[] \0)",
        b"(UID)",
    ],
)
def test_message_data_that_is_wrong(text: bytes) -> None:
    with pytest.raises(RemoteError, match="bad FETCH data"):
        message_data(Untagged("FETCH", 1, text))
