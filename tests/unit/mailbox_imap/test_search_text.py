"""What SEARCH BODY finds in text that is not all ASCII."""

from __future__ import annotations

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
