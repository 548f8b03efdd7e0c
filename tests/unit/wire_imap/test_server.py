"""The server's parser: commands out of octets, however they come, and BAD for the rest."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailstack.wire.imap import commands as c
from mailstack.wire.imap import search as k
from mailstack.wire.imap.append import AppendData, AppendEnd, AppendMessage
from mailstack.wire.imap.fetch import Attribute, Section
from mailstack.wire.imap.sequence import STAR
from mailstack.wire.imap.server import (
    NEED_DATA,
    BadCommand,
    ClientLine,
    CommandEvent,
    Event,
    ServerConnection,
)
from mailstack.wire.imap.states import ALLOWED, TRANSITIONS, State


def events(pieces: list[bytes], state: State = State.SELECTED) -> list[Event]:
    """Everything the parser says when it is fed the pieces; neighbouring message data is joined."""
    connection = ServerConnection(line_limit=2000)
    connection.state = state
    result: list[Event] = []
    for piece in pieces:
        connection.receive_data(piece)
        while (event := connection.next_event()) != NEED_DATA:
            if isinstance(event, AppendMessage):
                connection.accept_literal()
            elif isinstance(event, ClientLine):
                connection.resume()
            if isinstance(event, AppendData) and result and isinstance(result[-1], AppendData):
                event = AppendData(result.pop().data + event.data)  # type: ignore[union-attr]
            result.append(event)
    return result


def three_ways(data: bytes, state: State = State.SELECTED) -> list[Event]:
    """Fed whole, byte by byte, and with more behind it, it is the same."""
    whole = events([data], state)
    assert events([data[at : at + 1] for at in range(len(data))], state) == whole
    more = events([data + b"zz NOOP\r\n"], state)
    assert more == [*whole, CommandEvent("zz", "NOOP", c.Plain("NOOP"))]
    return whole


COMMANDS: list[tuple[bytes, c.Command]] = [
    (b"NOOP", c.Plain("NOOP")),
    (b"noop ", c.Plain("NOOP")),
    (b'ID ("name" "x" "os" NIL)', c.Id(((b"name", b"x"), (b"os", None)))),
    (b"id nil", c.Id(None)),
    (b"ENABLE CONDSTORE X", c.Enable(("CONDSTORE", "X"))),
    (b"SELECT inbox", c.Select("INBOX", False)),
    (b'EXAMINE "a \\"b\\\\"', c.Select('a "b\\', True)),
    (b"SELECT {3}\r\na b", c.Select("a b", False)),
    (b"STATUS  a ( MESSAGES  UIDNEXT )", c.Status("a", ("MESSAGES", "UIDNEXT"))),
    (b"FETCH 1  ( FLAGS  UID )", c.Fetch(((1, 1),), (Attribute("FLAGS"), Attribute("UID")), False)),
    (b"STORE 1 +FLAGS ( \\Seen  x )", c.Store(((1, 1),), "+", False, ("\\Seen", "x"), False)),
    (b"SEARCH ( ALL )  ", c.Search(k.All(), False, "UTF-8")),
    (b'LIST ""  * ', c.List("", ("*",))),
    (b"SELECT {5+}\r\nInBoX", c.Select("INBOX", False)),
    (b"CREATE &AOQ-x", c.Create("äx")),
    (b"RENAME a {1+}\r\nb", c.Rename("a", "b")),
    (b"SUBSCRIBE a", c.Subscribe("a", True)),
    (b'LIST "" %', c.List("", ("%",))),
    (b'LSUB a. "*"', c.Lsub("a.", "*")),
    (
        b'LIST (SUBSCRIBED) "" (a %) RETURN (CHILDREN STATUS (UNSEEN))',
        c.List(
            "",
            ("a", "%"),
            frozenset({"SUBSCRIBED"}),
            frozenset({"CHILDREN", "STATUS"}),
            ("UNSEEN",),
            extended=True,
        ),
    ),
    (b"STATUS a (MESSAGES unseen)", c.Status("a", ("MESSAGES", "UNSEEN"))),
    (b"UID EXPUNGE 1:*", c.UidExpunge(((1, STAR),))),
    (b"STORE 1,3:2 +flags.silent (\\Seen x)", c.Store(((1, 1), (2, 3)), "+", True, ("\\Seen", "x"), False)),
    (b"UID STORE * FLAGS \\Seen \\Draft", c.Store(((STAR, STAR),), "", False, ("\\Seen", "\\Draft"), True)),
    (b"COPY 1 a", c.Copy(((1, 1),), "a", False, False)),
    (b"UID MOVE 2:1 a", c.Copy(((1, 2),), "a", True, True)),
    (b"FETCH 1 flags", c.Fetch(((1, 1),), (Attribute("FLAGS"),), False)),
    (
        b"UID FETCH 1 (UID body.peek[1.2.header.fields (a {1+}\r\nb)]<0.5> rfc822.text)",
        c.Fetch(
            ((1, 1),),
            (
                Attribute("UID"),
                Section(
                    b"BODY[1.2.HEADER.FIELDS (A B)]", (1, 2), "HEADER.FIELDS", (b"a", b"b"), True, (0, 5)
                ),
                Section(b"RFC822.TEXT", kind="TEXT"),
            ),
            True,
        ),
    ),
    (b"SEARCH UNSEEN", c.Search(k.Not(k.Flag("\\Seen")), False, "UTF-8")),
    (
        b"UID SEARCH RETURN () CHARSET utf-8 OR (FROM a 1:2) NOT UID 7",
        c.Search(
            k.Or(
                k.And((k.Header(b"FROM", b"a", plain=True), k.Messages(((1, 2),), False))),
                k.Not(k.Messages(((7, 7),), True)),
            ),
            True,
            "UTF-8",
            k.Returns(frozenset({"ALL"})),
        ),
    ),
    (
        b"SEARCH SENTSINCE 1-Jan-1970 LARGER 5",
        c.Search(k.And((k.Date("SINCE", "SENT", 0), k.Size(True, 5))), False, "UTF-8"),
    ),
]


@pytest.mark.parametrize(
    ("text", "command"), COMMANDS, ids=lambda value: value[:20] if isinstance(value, bytes) else ""
)
def test_commands(text: bytes, command: c.Command) -> None:
    (event,) = three_ways(b"a.1 " + text + b"\r\n")
    assert isinstance(event, CommandEvent)
    assert (event.tag, event.command) == ("a.1", command)


@pytest.mark.parametrize(
    ("data", "tag"),
    [
        (b"\r\n", "*"),
        (b"* NOOP\r\n", "*"),
        (b"a\r\n", "a"),
        (b"a NOSUCH\r\n", "a"),
        (b"a NOOP x\r\n", "a"),
        (b"a FETCH 1\r\n", "a"),
        (b"a FETCH 0 FLAGS\r\n", "a"),
        (b"a FETCH 1 BODY[\r\n", "a"),
        (b"a FETCH 1 BODY[1.]\r\n", "a"),
        (b"a FETCH 1 BODY[HEADER.FIELDS ()]\r\n", "a"),
        (b"a SEARCH " + b"(" * 200 + b"\r\n", "a"),
        (b"a SEARCH OR ALL\r\n", "a"),
        (b"a STORE 1 FLAGS (\\Seen\r\n", "a"),
        (b"a SELECT \0\r\n", "a"),
        (b"a SELECT " + b"x" * 3000 + b"\r\n", "a"),
        (b"a SELECT {99999+}\r\n" + b"x" * 99999 + b" {2+}\r\nyy\r\n", "a"),
        (b"a SELECT " + b"x" * 3000 + b"{2+}\r\nyy\r\n", "a"),
        (b"a SELECT &x\r\n", "a"),
        (b"a LOGIN a b\r\n", "a"),
        (b"a APPEND a\r\n", "a"),
        (b"a APPEND a (\\Seen {3+}\r\nabc\r\n", "a"),
        (b'a APPEND a "no date" {3+}\r\nabc\r\n', "a"),
        (b"\xff\xfe\r\n", "*"),
    ],
)
def test_wrong_commands(data: bytes, tag: str) -> None:
    (event,) = three_ways(data)
    assert isinstance(event, BadCommand)
    assert event.tag == tag


def test_a_literal_that_waits_is_asked_for_or_refused() -> None:
    connection = ServerConnection(line_limit=100)
    connection.state = State.SELECTED
    connection.receive_data(b"a SELECT {3}\r\n")
    assert connection.next_event() == NEED_DATA
    assert connection.data_to_send() == b"+ OK\r\n"
    connection.receive_data(b"box\r\nb SELECT {101}\r\n")
    assert isinstance(connection.next_event(), CommandEvent)
    assert isinstance(connection.next_event(), BadCommand)
    assert connection.data_to_send() == b""
    connection.receive_data(b"c NOOP\r\n")
    assert connection.next_event() == CommandEvent("c", "NOOP", c.Plain("NOOP"))


def test_append_hands_its_messages_on() -> None:
    assert three_ways(
        b'a APPEND {1+}\r\nb (\\Seen) "01-Jan-1970 01:00:00 +0100" {3}\r\nx\0y {2+}\r\n{}\r\n'
    ) == [
        AppendMessage("a", "b", ("\\Seen",), 0, 3),
        AppendData(b"x\0y"),
        AppendMessage("a", "b", (), None, 2),
        AppendData(b"{}"),
        AppendEnd("a"),
    ]


@pytest.mark.parametrize("plus", [b"", b"+"])
def test_a_refused_message_is_not_read_as_commands(plus: bytes) -> None:
    connection = ServerConnection()
    connection.state = State.AUTHENTICATED
    connection.receive_data(b"a APPEND b {8%b}\r\n" % plus)
    assert isinstance(connection.next_event(), AppendMessage)
    connection.refuse_literal()
    assert connection.next_event() == NEED_DATA
    connection.receive_data(b"x NOOP\r\n\r\n" * len(plus) + b"c NOOP\r\n")
    assert connection.next_event() == CommandEvent("c", "NOOP", c.Plain("NOOP"))


def test_lines_between_idle_and_done() -> None:
    assert three_ways(b"a IDLE\r\nDONE\r\n") == [
        CommandEvent("a", "IDLE", c.Plain("IDLE")),
        ClientLine(b"DONE"),
    ]


def test_states() -> None:
    for name, allowed in ALLOWED.items():
        for state in set(State) - allowed - {State.LOGOUT}:
            (event,) = events([b"a " + name.encode() + b" \r\n"], state)
            assert isinstance(event, BadCommand)
    assert all(state in ALLOWED[name] or state is State.LOGOUT for state, name in TRANSITIONS)


TOKENS = (
    b'a |UID |FETCH |SEARCH |APPEND |IDLE|LIST |1:* |BODY[|(|)|]|"|\\|{3}\r\n|{3+}\r\n|{99999999999+}\r\n|'
    b"\r\n|\n|\0|&|OR |x"
)
WORDS = st.sampled_from(TOKENS.split(b"|"))


@given(
    st.lists(WORDS | st.binary(max_size=5), max_size=40),
    st.sampled_from([State.NOT_AUTHENTICATED, State.SELECTED]),
)
def test_anything_is_taken(pieces: list[bytes], state: State) -> None:
    assert events(pieces, state) == events([b"".join(pieces)], state)
