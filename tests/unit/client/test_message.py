"""Messages of all kinds, decoded."""

from __future__ import annotations

import pytest

from mailstack.client.message import Attachment, Message, message, summary


def decoded(raw: bytes) -> Message:
    raw = raw.replace(b"\n", b"\r\n")
    header = raw.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
    about = summary(
        uid=7,
        header=header,
        internal_date=" 2-Nov-2026 10:11:12 +0100",
        size=len(raw),
        flags=("\\Seen",),
    )
    return message(about, raw)


def test_a_plain_message() -> None:
    found = decoded(
        b"From: =?utf-8?q?J=C3=B6rg?= <j@example.test>\nTo: a@x.test, B <b@x.test>\nCc: c@x.test\n"
        b"Subject: =?utf-8?b?R3LDvMOfZQ==?=\n of all\nDate: Mon, 2 Nov 2026 10:00:00 +0000\nMessage-ID: <1@x>\n\nhi\n"
    )
    assert found.summary.sender == "Jörg <j@example.test>"
    assert found.summary.recipients == ("a@x.test", "b@x.test", "c@x.test")
    assert found.subject == "Grüße of all"
    assert found.summary.date == "2026-11-02T10:00:00+00:00"
    assert found.summary.internal_date == "2026-11-02T10:11:12+01:00"
    assert found.summary.message_id == "<1@x>"
    assert (found.text, found.html, found.attachments) == ("hi\n", None, ())


def test_parts() -> None:
    found = decoded(
        b'Subject: s\nContent-Type: multipart/mixed; boundary="o"\n\n--o\n'
        b'Content-Type: multipart/alternative; boundary="i"\n\n--i\nContent-Type: text/plain; charset=latin-1\n'
        b"Content-Transfer-Encoding: 8bit\n\ncaf\xe9\n--i\nContent-Type: text/html\n\n<b>x</b>\n--i--\n--o\n"
        b'Content-Type: image/png; name="a.png"\nContent-Transfer-Encoding: base64\n\nAAAA\n--o\n'
        b"Content-Type: message/rfc822\n\nSubject: inner\n\nz\n--o--\n"
    )
    assert found.text == "café"
    assert found.html == "<b>x</b>"
    assert found.attachments[0] == Attachment("a.png", "image/png", 3)
    assert [part.content_type for part in found.attachments] == ["image/png", "message/rfc822"]


@pytest.mark.parametrize(
    "raw",
    [
        b"\n",
        b"no header at all",
        b"Subject: \xff\xfe\nFrom: <<<>\nDate: yesterday\n\n\xff",
        b"Content-Type: text/plain; charset=nonsense\n\n\xe9",
        b"Content-Type: multipart/mixed\n\nno boundary",
        b'Content-Type: multipart/mixed; boundary="x"\n\n--x\n',
        b"Subject: =?utf-8?b?!!!?=\nContent-Transfer-Encoding: base64\n\n*",
        b"To: =?a?b?c?=@[::1,;:<>\n\n",
    ],
)
def test_nothing_in_a_message_is_an_error(raw: bytes) -> None:
    found = decoded(raw)
    assert found.uid == 7
    assert found.raw.replace(b"\r\n", b"\n") == raw
