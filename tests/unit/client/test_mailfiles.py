"""What mbox, Maildir and .eml files keep of a message, and what is read out of others' files."""

from __future__ import annotations

import os
from io import BytesIO
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailstack.client.mailfiles import NoMailError, quoted, read, read_mbox, read_stream, unquoted
from mailstack.client.mailwrite import EmlWriter, MaildirWriter, MboxWriter, Writer, mbox_text
from mailstack.client.stored import Stored, keys_of, known_flags, read_date, write_date

DATE = 1_700_000_000.0
FLAGS = ("\\Seen", "\\Flagged", "$Label1", "work")
PLAIN = Stored(b"Subject: a\r\nFrom: Anna <anna@example.test>\r\n\r\nbody\r\n", FLAGS, DATE, uid=7)
BODIES = [
    b"From here on\r\n>From there\r\n>>From\r\n",
    b"\r\n\r\n\r\n",
    b"",
    b"text\r\n\r\nFrom a@b Sat Nov  1 10:00:00 2025\r\nnot a new message\r\n",
    b"\xff\xfe raw \x00 octets \r bare\r\n",
    b"Status: RO\r\n",
]


def of(text: bytes) -> list[Stored]:
    return list(read_mbox(BytesIO(text), "box"))


@pytest.mark.parametrize("body", BODIES)
def test_mbox_gives_back_what_it_was_given(body: bytes) -> None:
    message = Stored(b"Subject: a\r\n\r\n" + body, FLAGS, DATE)
    twice = of(mbox_text(message, 0) * 2)
    assert [(one.raw, set(one.flags), one.date) for one in twice] == [(message.raw, set(FLAGS), DATE)] * 2


@given(
    st.lists(
        st.sampled_from([b"From ", b">", b"a", b"\r\n", b" ", b"X: y", b"From a@b 10:00", b"\xe9"]),
        max_size=30,
    )
)
def test_mbox_of_any_lines(pieces: list[bytes]) -> None:
    message = Stored(b"Subject: a\r\n\r\n" + b"".join(pieces) + b"\r\n", ("\\Seen",), DATE)
    assert [one.raw for one in of(mbox_text(message, 0) * 2)] == [message.raw] * 2


def test_a_from_line_names_sender_and_date_in_utc() -> None:
    assert mbox_text(PLAIN, 0).startswith(b"From anna@example.test Tue Nov 14 22:13:20 2023\n")
    assert (
        mbox_text(Stored(b"\r\nx\r\n"), 0)
        == b"From MAILER-DAEMON Thu Jan  1 00:00:00 1970\nStatus: O\n\nx\n\n"
    )


def test_mbox_of_other_programs() -> None:
    text = (
        b"\nFrom a@b Sat Nov  1 10:00 +0100 2025\r\nSubject: one\r\nStatus: RO\r\nX-Status: A\r\n\r\nx\r\n\r\n"
        b"From b Sat Nov  1 10:00:01 2025\nX-Keywords: one\n two\nSubject: two\n\nFrom the beginning\n"
    )
    found = of(text)
    assert [one.raw for one in found] == [
        b"Subject: one\r\n\r\nx\r\n",
        b"Subject: two\r\n\r\nFrom the beginning\r\n",
    ]
    assert [one.flags for one in found] == [("\\Seen", "\\Answered"), ("one", "two")]
    assert found[1].source == "box: 2"


def test_what_is_no_mbox() -> None:
    assert of(b"") == []
    with pytest.raises(NoMailError, match="box: not an mbox"):
        of(b"Subject: x\n\nFrom a@b 10:00\n")


def test_standard_input_is_an_mbox_or_a_message() -> None:
    assert [one.raw for one in read_stream(BytesIO(mbox_text(PLAIN, 0)), "-")] == [PLAIN.raw]
    (one,) = read_stream(BytesIO(b"Date: Tue, 14 Nov 2023 23:13:20 +0100\n\nx"), "-")
    assert (one.raw, one.date) == (b"Date: Tue, 14 Nov 2023 23:13:20 +0100\r\n\r\nx", DATE)
    assert list(read_stream(BytesIO(b" \n"), "-")) == []


@pytest.mark.parametrize("form", ["mbox", "maildir", "eml"])
def test_what_is_written_is_read_again(form: str, tmp_path: Path) -> None:
    place = tmp_path / "out"
    writers: dict[str, Writer] = {
        "mbox": MboxWriter(place, folder=True),
        "maildir": MaildirWriter(place, folders=True),
        "eml": EmlWriter(place, folders=True),
    }
    writer = writers[form]
    for mailbox, flags in (("INBOX", FLAGS), ("Lists/Grüße & co", ("work", "\\Answered"))):
        writer.begin(mailbox, "/")
        assert writer.known() == set()
        writer.write(Stored(PLAIN.raw, flags, DATE, uid=7))
        writer.write(Stored(PLAIN.raw + b"2\r\n", (), DATE + 1, uid=8))
        writer.end()
    writer.begin("INBOX", "/")
    assert set(keys_of(PLAIN.raw)) <= writer.known(), "what is there is known when it goes on"
    writer.abandon()
    assert not list(tmp_path.rglob("*.new"))
    kept = {(one.mailbox, one.raw, frozenset(one.flags), one.date) for one in read(str(place))}
    inbox = ("INBOX",) if form == "mbox" else ()
    there = ("Lists", "Grüße & co")
    mine, others = (set(FLAGS), {"work", "\\Answered"}) if form != "eml" else (set(), set())
    assert kept == {
        (inbox, PLAIN.raw, frozenset(mine), DATE),
        (inbox, PLAIN.raw + b"2\r\n", frozenset(), DATE + 1),
        (there, PLAIN.raw, frozenset(others), DATE),
        (there, PLAIN.raw + b"2\r\n", frozenset(), DATE + 1),
    }


def test_a_maildir_has_room_for_26_keywords(tmp_path: Path) -> None:
    writer = MaildirWriter(tmp_path / "md", folders=False)
    writer.begin("INBOX", ".")
    writer.write(Stored(b"\r\n", tuple(f"k{number}" for number in range(28)), DATE))
    assert writer.lost == {"k26", "k27"}
    (one,) = read(str(tmp_path / "md"))
    assert set(one.flags) == {f"k{number}" for number in range(26)}


def test_an_interrupted_mbox_leaves_the_old_one(tmp_path: Path) -> None:
    place = tmp_path / "a.mbox"
    place.write_bytes(mbox_text(PLAIN, 0).rstrip(b"\n"))
    writer = MboxWriter(place, folder=False)
    writer.begin("INBOX", ".")
    writer.write(PLAIN)
    writer.abandon()
    assert [one.raw for one in read(str(place))] == [PLAIN.raw.removesuffix(b"\r\n")]
    writer.begin("INBOX", ".")
    writer.write(PLAIN)
    writer.end()
    assert [one.raw for one in read(str(place))] == [PLAIN.raw] * 2, "also behind a last line without its end"


def test_a_folder_of_files(tmp_path: Path) -> None:
    (tmp_path / "Sub").mkdir()
    for name, text in (("10.eml", b"Subject: ten\n\n"), ("9.eml", b"Subject: nine\n\n"), ("note.txt", b"x")):
        (tmp_path / name).write_bytes(text)
    (tmp_path / "Sub" / "1.eml").write_bytes(b"Subject: sub\n\n")
    os.utime(tmp_path / "9.eml", (DATE, DATE))
    found = list(read(str(tmp_path)))
    assert [(one.mailbox, one.raw) for one in found] == [
        ((), b"Subject: nine\r\n\r\n"),
        ((), b"Subject: ten\r\n\r\n"),
        (("Sub",), b"Subject: sub\r\n\r\n"),
    ]
    assert found[0].date == DATE
    (tmp_path / "empty").mkdir()
    with pytest.raises(NoMailError, match=r"empty: no \.eml"):
        list(read(str(tmp_path / "empty")))


def test_a_last_line_end_makes_no_other_message() -> None:
    assert set(keys_of(b"A: b\r\n\r\nx")) & set(keys_of(b"A: b\r\n\r\nx\r\n"))
    assert not set(keys_of(b"A: b\r\n\r\nx")) & set(keys_of(b"A: c\r\n\r\nx"))


@pytest.mark.parametrize(
    ("text", "date"),
    [
        ("14-Nov-2023 22:13:20 +0000", DATE),
        (" 1-Jan-1970 01:00:00 +0100", 0.0),
        ("14-Nov-2023 17:13:20 -0500", DATE),
        ("32-Foo-2023 17:13:20 -0500", None),
        ("", None),
    ],
)
def test_internal_dates(text: str, date: float | None) -> None:
    assert read_date(text) == date
    if date is not None:
        assert read_date(write_date(date).decode()) == date


def test_flags_that_a_client_may_set() -> None:
    flags = ("\\seen", "\\Recent", "\\Seen", "two words", "$Ok", "$ok", "é", "(", "")
    assert known_flags(flags) == ("\\Seen", "$Ok")


@given(st.text(min_size=1))
def test_names_of_files_read_back(name: str) -> None:
    assert unquoted(quoted(name)) == name
    assert "/" not in quoted(name) and not quoted(name).startswith(".")
