"""What SEARCH BODY finds in text that is not all ASCII."""

from __future__ import annotations

import mmap
from pathlib import Path

import pytest

from mailstack.mailbox.imap.search_text import contains

MESSAGE = (
    "Subject: x\nMIME-Version: 1.0\nContent-Type: text/plain; charset=utf-8\n"
    "Content-Transfer-Encoding: 8bit\n\nDie Straße nach Łódź, ein Café, und Ærø.\n"
).encode()


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ("STRA", True),
        ("NACH", True),
        ("CAFE", True),  # é is an e with an accent
        ("STRASSE", False),  # ß is not two letters s (RFC 5051 knows simple mappings only)
        ("SS", False),
        ("SUBJECT", False),
    ],
)
def test_ascii_words_in_other_text(wanted: str, found: bool) -> None:
    assert any(contains(MESSAGE, wanted, with_header=False)) is found


MULTI = "Content-Type: multipart/{kind}; boundary={boundary}\n\n--b\n{first}\nalpha\n--b\n{second}\n{text}\n--b--\n{end}"


@pytest.mark.parametrize(
    ("kind", "boundary"),
    [
        ("mixed", "b"),
        ("digest", "b"),
        ("mixed", '"b"'),
        ("mixed", "c"),
        ("mixed", "B"),
        ("mixed", "b; boundary=c"),
    ],
)
@pytest.mark.parametrize(
    "second",
    [
        "",
        "Content-Type: text/html; charset=utf-8\n",
        "Content-Type: application/pdf\n",
        "Content-Type: text/plain\nContent-Transfer-Encoding: quoted-printable\n",
        "Content-Type: text/plain\nContent-Transfer-Encoding: base64\n",
        "Content-Type: message/rfc822\n\nSubject: inner\nContent-Type: text/plain\n",
        "Content-Type: message/rfc822\n\nSubject: inner\nContent-Type: image/png\n",
        "Content-Type: multipart/mixed; boundary=bc\n\n--bc\n",
    ],
)
@pytest.mark.parametrize(
    ("text", "end"), [("beta", ""), ("=62eta", ""), ("--b--\n\nbeta", ""), ("", "beta"), ("", "--b\n\nbeta")]
)
def test_a_look_says_what_reading_says(
    tmp_path: Path, kind: str, boundary: str, second: str, text: str, end: str
) -> None:
    """Small messages are looked at first; those that are mapped are always read."""
    message = MULTI.format(kind=kind, boundary=boundary, first="", second=second, text=text, end=end).encode()
    (tmp_path / "message").write_bytes(message)
    with open(tmp_path / "message", "rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    for wanted in ("ALPHA", "BETA", "62ETA", "INNER"):
        for header in (False, True):
            looked, read = (any(contains(data, wanted, with_header=header)) for data in (message, mapped))
            assert looked is read, wanted
