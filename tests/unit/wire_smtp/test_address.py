"""Paths as Postfix reads them (compared with Postfix 3.7), and back to the wire."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailstack.wire.smtp import AddressError, parse_path, quote

GOOD = [
    ("<>", ""),
    ("<a@b.test>", "a@b.test"),
    ("a@b.test", "a@b.test"),
    ("zs@dgtlinux.com.", "zs@dgtlinux.com"),
    ("<a@c.test.>", "a@c.test"),
    ("<a>", "a"),
    ("<a@b@c.test>", "a@b@c.test"),
    ('<"a b"@c.test>', "a b@c.test"),
    ('<"a@b"@c.test>', "a@b@c.test"),
    ('<"a\\"b"@c.test>', 'a"b@c.test'),
    ("<a\\ b@c.test>", "a b@c.test"),
    ('"a"@c.test', "a@c.test"),
    ("<@x.test,@y.test:u@z.test>", "u@z.test"),
    ("<a@[127.0.0.1]>", "a@[127.0.0.1]"),
    ("<a@[IPv6:::1]>", "a@[IPv6:::1]"),
    ("<a..b.@c.test>", "a..b.@c.test"),
    ("<a@c_d.test>", "a@c_d.test"),
    ("<(c)a(d)@c.test>", "a@c.test"),
    ("<<a@c.test>>", "a@c.test"),
    ("< a@c.test >", "a@c.test"),
    ("<a%b@c.test>", "a%b@c.test"),
    ("<host!user>", "host!user"),
    ("<a:b@c.test>", "a:b@c.test"),
    ("<ü@ß.test>", "ü@ß.test"),
    ("<" + "a" * 300 + "@c.test>", "a" * 300 + "@c.test"),
]
BAD = [
    "<a@>", "<@x.test>", "<a@127.0.0.1>", "<a@b..c>", "<a@.b>", "<a@c.test..>", "<a@-c.test>", '<"a@c.test>',
    "<a,b@c.test>", "<a;b@c.test>", "<a@c.test", "a@c.test>", "<a@b:c.test>", '<a"b@c.test>', "<a@[1.2.3]>",
    "<a@" + "x" * 250 + ".test>", '<"">', '<""@c.test>', "<\x07a@c.test>", "<a@[127.0.0.1>", "<a@c\0d.test>",
]  # fmt: skip


@pytest.mark.parametrize("path, address", GOOD)
def test_lenient_reading(path: str, address: str) -> None:
    assert parse_path(path) == address


@pytest.mark.parametrize("path", BAD)
def test_what_is_not_one_address_is_refused(path: str) -> None:
    with pytest.raises(AddressError):
        parse_path(path)


@given(
    st.text(
        st.characters(codec="utf-8", exclude_categories=["Cc", "Zl", "Zp", "Cs"]), min_size=1, max_size=30
    )
)
def test_quoting_and_reading_are_inverse(local: str) -> None:
    address = f"{local}@d.test"
    assert parse_path(f"<{quote(address)}>") == address


@given(st.text(max_size=60))
def test_reading_any_text_gives_an_address_or_the_error(text: str) -> None:
    try:
        address = parse_path(text)
    except AddressError:
        return
    assert "\n" not in address and "\r" not in address
