"""Address lists of headers, as Postfix reads and writes them."""

from __future__ import annotations

import pytest

from mailstack.mta.cleanup.addresses import fold, rewrite, scan
from mailstack.mta.cleanup.headers import rewrite_headers, shortened, tight


def complete(address: str) -> str:
    return address if "@" in address else f"{address}@o.test"


@pytest.mark.parametrize(
    "value, expected",
    [
        (" root", " root@o.test"),
        (" Root <root>", " Root <root@o.test>"),
        (' "root, he" <root> (c)', ' "root, he" <root@o.test>(c)'),
        (" a b@c.test", " a@o.test,\nb@c.test"),
        (" zs (The User), x@y.test", " zs@o.test (The User),\nx@y.test"),
        (" grp: a, b@c;, d", " grp: a@o.test,\nb@c;,\nd@o.test"),
        (" Joe B. Goode <joe>", " Joe B.Goode <joe@o.test>"),
        (' "a b"', ' "a b"@o.test'),
        (" jü", " jü@o.test"),
        (" undisclosed-recipients:;", None),
        (" <>", None),
        (" a@b.test, c@[1.2.3.4]", None),
        ("", None),
        (' "never closed', ' "never closed"@o.test'),
        (" (never (closed)", None),
    ],
)
def test_only_a_list_in_which_something_changes_is_written_anew(value: str, expected: str | None) -> None:
    assert rewrite(value, complete, 100) == expected


def test_no_more_than_so_many_tokens_are_read() -> None:
    assert len(scan("a, " * 100, 10)) == 10


def test_lines_are_filled_up_to_seventy_octets() -> None:
    header = fold("To", rewrite(", ".join(f"user{n}" for n in range(20)), complete, 1000) or "")
    lines = header.split(b"\r\n")
    assert lines[0].startswith(b"To: user0@o.test, user1@o.test")
    assert lines[-1] == b"" and all(line.startswith(b"\t") for line in lines[1:-1])
    assert max(map(len, lines)) <= 70


def test_headers_keep_their_octets_unless_an_address_changes() -> None:
    block = b"TO: a\r\nsubject: a\r\nCc: A <a@b.test>,\r\n  c@d.test\r\nX-To: a\r\n"
    expected = block.replace(b"TO: a\r\n", b"TO: a@o.test\r\n")
    assert rewrite_headers(block, lambda _, address: complete(address), 100, complete=True) == expected
    seen: list[tuple[bytes, str]] = []

    def note(name: bytes, address: str) -> str:
        seen.append((name, address))
        return address

    assert rewrite_headers(block, note, 100) == block
    assert seen == [(b"to", "a"), (b"cc", "a@b.test"), (b"cc", "c@d.test")]


def test_headers_that_are_too_long_are_cut_at_a_line_end() -> None:
    block = b"A: b\r\nLong: x\r\n" + b" y\r\n" * 100 + b"Z: z\r\n"
    cut = shortened(block, 50)
    assert cut.startswith(b"A: b\r\nLong: x\r\n y\r\n") and cut.endswith(b" y\r\nZ: z\r\n")
    assert len(cut) < 70


def test_nothing_stands_between_a_name_and_its_colon() -> None:
    assert tight(b"A : b : c\r\nTo\t: d\r\n e : f\r\n") == b"A: b : c\r\nTo: d\r\n e : f\r\n"
