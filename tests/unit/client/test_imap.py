"""Waiting, listing, removing: what is said to the server and what comes of it."""

from __future__ import annotations

import re
import ssl
import time
from pathlib import Path

import pytest

from mailstack.client import imap
from mailstack.client.account import Account
from mailstack.client.errors import ClientError
from mailstack.client.imap import Counts, Cursor
from mailstack.client.stored import Stored
from tests.unit.client.scripted import Scripted, endpoints

OPENING = r"""
    TLS
    S: * OK ready
    C: M1 CAPABILITY
    S: * CAPABILITY IMAP4rev1 IMAP4rev2 SASL-IR IDLE AUTH=PLAIN
    S: M1 OK done
    C: M2 AUTHENTICATE PLAIN AHpzQGV4YW1wbGUudGVzdABzZWNyZXQ=
    S: M2 OK [CAPABILITY IMAP4rev1 IDLE UIDPLUS] logged in
"""
EXAMINE = r"""
    C: M3 EXAMINE INBOX
    S: * 2 EXISTS
    S: * OK [UIDVALIDITY 1700] UIDs valid
    S: * OK [UIDNEXT 8] predicted next UID
    S: M3 OK [READ-ONLY] done
"""
USER = "zs@example.test"


def header(subject: str, sender: str = "anna@example.test") -> str:
    return rf"Subject: {subject}\r\nFrom: {sender}\r\n\r\n"


def fetch(number: int, uid: int, text: str) -> str:
    size = len(text.encode().decode("unicode_escape"))
    return (
        rf"S: * {number} FETCH (UID {uid} FLAGS (\\Seen) INTERNALDATE ' 2-Nov-2026 10:00:00 +0000' "
        rf"RFC822.SIZE {size} BODY[HEADER.FIELDS (SUBJECT FROM)] {{{size}}}\r\n{text})"
    ).replace("'", '"')


def listing(tag: str, first: int, *messages: tuple[int, str]) -> str:
    """The dialogue of one listing: `(uid, subject)` per message."""
    lines = [rf"C: {tag} UID FETCH {first}:\* \(UID FLAGS .*\)"]
    lines += [fetch(number, uid, header(subject)) for number, (uid, subject) in enumerate(messages, 1)]
    return "\n".join([*lines, f"S: {tag} OK done"])


def whole(tag: str, uid: int, subject: str) -> str:
    """The dialogue in which one message is fetched."""
    return "\n".join(
        [
            rf"C: {tag} UID FETCH {uid} \(UID .* BODY.PEEK\[\]\)",
            fetch(1, uid, header(subject) + "hello").replace("BODY[HEADER.FIELDS (SUBJECT FROM)]", "BODY[]"),
            f"S: {tag} OK done",
        ]
    )


class Playing:
    """Opens a session against a dialogue."""

    def __init__(self, authority: Path, context: ssl.SSLContext) -> None:
        self._authority = authority
        self._context = context

    def __call__(self, rest: str, *, opening: str = OPENING + EXAMINE) -> tuple[Scripted, imap.Session]:
        server = Scripted(opening + rest, self._context)
        return server, imap.open_mailbox(endpoints("imaps", server.port, self._authority), USER)


@pytest.fixture
def playing(authority: Path, server_tls: ssl.SSLContext) -> Playing:
    return Playing(authority, server_tls)


def test_a_listing_is_by_uid_and_moves_the_cursor(playing: Playing) -> None:
    server, session = playing(listing("M4", 1, (9, "second"), (7, "first")) + "\n C: M5 LOGOUT")
    assert session.cursor == Cursor(1700, 8)
    with session:
        found = session.messages()
    server.close()
    assert [(item.uid, item.subject, item.flags) for item in found] == [
        (7, "first", ("\\Seen",)),
        (9, "second", ("\\Seen",)),
    ]
    assert found[0].internal_date == "2026-11-02T10:00:00+00:00"
    assert str(session.cursor) == "1700:10"


@pytest.mark.parametrize(
    ("after", "first"),
    [(None, 1), (Cursor(1700, 5), 5), (Cursor(99, 5), 1)],
)
def test_a_message_that_is_there_is_found_at_once(after: Cursor | None, first: int, playing: Playing) -> None:
    dialogue = [listing("M4", first, (5, "no"), (6, "yes one"), (7, "yes two")), whole("M5", 6, "yes one")]
    server, session = playing("\n".join([*dialogue, "C: M6 LOGOUT"]))
    with session:
        found = session.wait(after, 10, subject=re.compile("yes"))
    server.close()
    assert found is not None
    assert (found.uid, found.text) == (6, "hello")


def test_what_arrives_between_the_listing_and_idle_is_not_missed(playing: Playing) -> None:
    """The server may tell of it with the listing itself, or as soon as IDLE begins."""
    told = listing("M4", 1, (5, "old")).replace("S: M4 OK", "S: * 2 EXISTS\nS: M4 OK")
    server, session = playing(
        "\n".join([told, listing("M5", 6, (6, "new")), whole("M6", 6, "new"), "C: M7 LOGOUT"])
    )
    with session:
        found = session.wait(None, 10, subject=re.compile("new"))
    server.close()
    assert found is not None

    idle = ["C: M5 IDLE", "S: * 2 EXISTS", "S: + idling", "C: DONE", "S: M5 OK done"]
    server, session = playing(
        "\n".join([listing("M4", 1, (5, "old")), *idle, listing("M6", 6, (6, "new")), whole("M7", 6, "new")])
        + "\nC: M8 LOGOUT"
    )
    with session:
        found = session.wait(None, 10, subject=re.compile("new"))
    server.close()
    assert found is not None


def test_nothing_within_the_time(playing: Playing) -> None:
    idle = [
        "C: M5 IDLE",
        "S: + idling",
        "S: * OK still here",
        "S: * 1 FETCH (FLAGS ())",
        "C: DONE",
        "S: M5 OK done",
    ]
    server, session = playing("\n".join([listing("M4", 8), *idle, "C: M6 LOGOUT"]))
    began = time.monotonic()
    with session:
        assert session.wait(Cursor(1700, 8), 0.15) is None
    assert time.monotonic() - began >= 0.15
    server.close()


def test_flags_that_change_during_a_listing_are_no_message(playing: Playing) -> None:
    told = listing("M4", 1, (5, "one"), (6, "two"))
    told = told.replace("S: M4 OK", r"S: * 1 FETCH (UID 5 FLAGS (\\Flagged))" + "\nS: M4 OK")
    server, session = playing(told + "\nC: M5 LOGOUT")
    with session:
        assert [item.subject for item in session.messages()] == ["one", "two"]
    server.close()


def test_messages_that_others_remove_during_a_listing_are_no_error(playing: Playing) -> None:
    told = listing("M4", 1, (5, "one")).replace("S: M4 OK done", "S: M4 NO [EXPUNGEISSUED] Some are gone.")
    server, session = playing(told + "\nC: M5 LOGOUT")
    with session:
        assert [item.uid for item in session.messages()] == [5]
    server.close()


def test_a_large_mailbox_is_looked_through_in_pieces(
    playing: Playing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those behind the one that is found are not asked for."""
    monkeypatch.setattr(imap, "WINDOW", 1)
    search = "C: M4 UID SEARCH UID 1:\\*\nS: * SEARCH 5 7 9\nS: M4 OK done"
    pieces = [
        listing("M5", 1, (5, "no")).replace("1:", "5:5", 1).replace(r"\*", "", 1),
        listing("M6", 1, (7, "yes")).replace("1:", "7:7", 1).replace(r"\*", "", 1),
    ]
    server, session = playing("\n".join([search, *pieces, whole("M7", 7, "yes"), "C: M8 LOGOUT"]))
    with session:
        found = session.wait(None, 10, subject=re.compile("yes"))
    server.close()
    assert found is not None
    assert found.uid == 7


def test_expunged_while_it_was_found(playing: Playing) -> None:
    gone = "C: M5 UID FETCH 6 .*\nS: M5 OK done"
    server, session = playing(
        "\n".join([listing("M4", 1, (6, "x"), (7, "x")), gone, whole("M6", 7, "x"), "C: M7 LOGOUT"])
    )
    with session:
        found = session.wait(None, 5)
    server.close()
    assert found is not None
    assert found.uid == 7


def test_remove(authority: Path, server_tls: ssl.SSLContext) -> None:
    server = Scripted(
        OPENING
        + EXAMINE.replace("EXAMINE", "SELECT")
        + r"""
        C: M4 UID FETCH 1:\* \(UID\)
        S: * 1 FETCH (UID 5)
        S: * 2 FETCH (UID 6)
        S: * 3 FETCH (UID 9)
        S: M4 OK done
        C: M5 UID STORE 5:6 \+FLAGS.SILENT \(\\Deleted\)
        S: M5 OK done
        C: M6 UID EXPUNGE 5:6
        S: M6 OK done
        C: M7 LOGOUT
        """,
        server_tls,
    )
    with imap.open_mailbox(endpoints("imaps", server.port, authority), USER, writable=True) as session:
        assert session.remove([6, 5, 77]) == [5, 6]
    server.close()


def test_counts_over_starttls_without_initial_response(authority: Path, server_tls: ssl.SSLContext) -> None:
    server = Scripted(
        r"""
        S: * OK ready
        C: M1 STARTTLS
        S: M1 OK begin
        TLS
        C: M2 CAPABILITY
        S: * CAPABILITY IMAP4rev1 AUTH=PLAIN
        S: M2 OK done
        C: M3 AUTHENTICATE PLAIN
        S: +
        C: AHpzQGV4YW1wbGUudGVzdABzZWNyZXQ=
        S: M3 OK [CAPABILITY IMAP4rev1 IDLE] in
        C: M4 STATUS INBOX \(MESSAGES UNSEEN\)
        S: * STATUS "INBOX" (UNSEEN 2 MESSAGES 10)
        S: M4 OK done
        C: M5 LOGOUT
        """,
        server_tls,
    )
    assert list(imap.counts(endpoints("imap", server.port, authority), [USER])) == [(USER, Counts(10, 2))]
    server.close()


@pytest.mark.parametrize(
    ("dialogue", "words"),
    [
        (OPENING.replace("M2 OK", "M2 NO [AUTHENTICATIONFAILED]"), "log in as zs@example.test: NO"),
        (OPENING + "C: M3 EXAMINE .*\n S: M3 NO no such mailbox", "EXAMINE INBOX: NO no such mailbox"),
        (OPENING + "C: M3 EXAMINE .*\n S: M3 OK done", "UIDVALIDITY"),
        (OPENING + "C: M3 EXAMINE .*\n S: * BYE shutting down", "says BYE shutting down"),
        ("TLS\n S: * BYE too many", "BYE too many"),
        ("TLS\n S: * OK", "closed the connection"),
    ],
)
def test_what_goes_wrong_is_told(dialogue: str, words: str, playing: Playing) -> None:
    with pytest.raises(ClientError, match=re.escape(words)):
        playing("", opening=dialogue)


@pytest.mark.parametrize("text", ["", "1", "1:", ":1", "a:b", "1:2:3", "-1:2", "1:2\n", "99999999999:1"])
def test_cursors_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match="is not a cursor"):
        Cursor.parse(text)


def test_cursors_read_back() -> None:
    assert Cursor.parse(str(Cursor(1700000000, 42)).strip()).after(42) == Cursor(1700000000, 43)


def append_dialogue(capability: str, *lines: str) -> str:
    return OPENING.replace(
        "M2 OK [CAPABILITY IMAP4rev1", f"M2 OK [CAPABILITY IMAP4rev1 {capability}"
    ) + "\n".join(lines)


def test_append_in_one_go_or_when_the_server_asks(authority: Path, server_tls: ssl.SSLContext) -> None:
    messages = [
        Stored(b"A: 1\r\n\r\n", ("\\Seen", "kw", "\\Recent"), 0.0),
        Stored(b"B: 2\r\n\r\n"),
    ]
    first = r'APPEND Gr&APwA3w- \(\\Seen kw\) " 1-Jan-1970 00:00:00 \+0000" \{8%s\}'
    together = append_dialogue(
        "LITERAL+",
        "C: M3 " + first % r"\+",
        "C: A: 1", "C: ", "C: ",
        r"C: M4 APPEND Gr&APwA3w- \{8\+\}",
        "C: B: 2", "C: ", "C: ",
        "S: M3 OK [APPENDUID 1 1] done",
        "S: M4 NO [LIMIT] no room",
        "C: M5 LOGOUT",
    )  # fmt: skip
    apart = append_dialogue(
        "",
        "C: M3 " + first % "",
        "S: + go on",
        "C: A: 1", "C: ", "C: ",
        "S: M3 OK done",
        r"C: M4 APPEND Gr&APwA3w- \{8\}",
        "S: M4 NO [LIMIT] no room",
        "C: M5 LOGOUT",
    )  # fmt: skip
    for dialogue in (together, apart):
        server = Scripted(dialogue, server_tls)
        with Account.open(endpoints("imaps", server.port, authority), USER) as account:
            outcome = [(one.raw, why) for one, why in account.append("Grüß", messages)]
        server.close()
        assert outcome == [(messages[0].raw, ""), (messages[1].raw, "NO [LIMIT] no room")]


def test_mailboxes_that_can_be_selected(authority: Path, server_tls: ssl.SSLContext) -> None:
    server = Scripted(
        OPENING
        + r"""
        C: M3 LIST "" \*
        S: * LIST (\\HasNoChildren) "/" "B&APw-ro/Eins"
        S: * LIST (\\Noselect \\HasChildren) "/" B&APw-ro
        S: * LIST () "/" inbox
        S: M3 OK done
        C: M4 LOGOUT
        """,
        server_tls,
    )
    with Account.open(endpoints("imaps", server.port, authority), USER) as account:
        assert account.mailboxes() == (["INBOX", "Büro/Eins"], "/")
    server.close()
