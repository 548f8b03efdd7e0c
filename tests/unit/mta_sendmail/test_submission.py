"""What sendmail makes of its standard input, its header and its command line."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from mailstack.mta.address_list import parse_list
from mailstack.mta.command import Fatal
from mailstack.mta.sendmail import parse
from mailstack.mta.submission import CHUNK, HEADER_LIMIT, Headers, message_lines


def reader(data: bytes, sizes: Callable[[], int]) -> Callable[[int], bytes]:
    position = 0

    def read(limit: int) -> bytes:
        nonlocal position
        piece = data[position : position + min(limit, sizes())]
        position += len(piece)
        return piece

    return read


LONG = b"x" * (CHUNK + 10)


@pytest.mark.parametrize(
    ("given", "wanted", "with_dots"),
    [
        (b"", b"", b""),
        (b"a\nb\n", b"a\r\nb\r\n", b"a\r\nb\r\n"),
        (b"a\r\nb", b"a\r\nb\r\n", b"a\r\nb\r\n"),
        (b"a\rb\n\r\n", b"a b\r\n\r\n", b"a b\r\n\r\n"),
        (b"a\r", b"a \r\n", b"a \r\n"),
        (b"a\n.\nb\n", b"a\r\n", b"a\r\n.\r\nb\r\n"),
        (b"a\n.\r\nb\n", b"a\r\n", b"a\r\n.\r\nb\r\n"),
        (b"a\n.", b"a\r\n", b"a\r\n.\r\n"),
        (b".\nb\n", b"", b".\r\nb\r\n"),
        (b"a\n..\n.b\n", b"a\r\n..\r\n.b\r\n", b"a\r\n..\r\n.b\r\n"),
        (b"From zs Mon\n>From zs\nS: x\n\nFrom b\n", b"S: x\r\n\r\nFrom b\r\n", b"S: x\r\n\r\nFrom b\r\n"),
        (LONG + b"\n.\nb\n", LONG + b"\r\n", LONG + b"\r\n.\r\nb\r\n"),
        (LONG + b"\r\nc\n", LONG + b"\r\nc\r\n", LONG + b"\r\nc\r\n"),
    ],
)
def test_message_lines_however_they_come(given: bytes, wanted: bytes, with_dots: bytes) -> None:
    some = random.Random(1)
    ways: list[Callable[[], int]] = [
        lambda: 1,
        lambda: 1 << 20,
        lambda: some.randint(1, 5),
        lambda: CHUNK - 1,
    ]
    for sizes in ways:
        for dot_ends, expected in ((True, wanted), (False, with_dots)):
            if len(given) > CHUNK and sizes() < 100:
                continue
            assert b"".join(message_lines(reader(given, sizes), dot_ends=dot_ends)) == expected


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("zs", ["zs"]),
        (
            'zs@b.test, "A, B" <two@b.test>, g: x@b.test, y@b.test;',
            ["zs@b.test", "two@b.test", "x@b.test", "y@b.test"],
        ),
        ("a b@c.test", ["a", "b@c.test"]),
        ("Joe Q. Public <j@x.test>, <@r1,@r2:u@d.test>", ["j@x.test", "u@d.test"]),
        ('"a b"@c.test, a (c (d)) @ b . c', ["a b@c.test", "a@b.c"]),
        ("x@[192.0.2.1]", ["x@[192.0.2.1]"]),
        ("Undisclosed recipients:;, <>", []),
        ('"unterminated', ["unterminated"]),
        ("<a@b.test (", ["a@b.test"]),
        ("", []),
    ],
)
def test_address_lists(text: str, wanted: list[str]) -> None:
    assert parse_list(text) == wanted


def test_nonsense_is_some_list_of_addresses() -> None:
    some = random.Random(7)
    for _ in range(3000):
        text = "".join(some.choice('a@.,:;<>()[]"\\ \r\n') for _ in range(some.randint(0, 20)))
        assert all(parse_list(text))


@pytest.mark.parametrize(
    ("header", "wanted"),
    [
        (
            b"To: a@x\r\nCc: b@x,\r\n\tc@x\r\nBcc: d@x\r\nFrom: e@x\r\n\r\nTo: f@x\r\n",
            ["a@x", "b@x", "c@x", "d@x"],
        ),
        (b"to : a@x\r\nResent-From: b@x\r\nResent-To: c@x\r\nResent-Bcc: d@x\r\n\r\n", ["c@x", "d@x"]),
        (b"Resent-Date: x\r\nTo: a@x\r\n", ["a@x"]),
        (b"To: a@x\r\nno header\r\nTo: b@x\r\n", ["a@x"]),
        (b"", []),
    ],
)
def test_recipients_of_a_header(header: bytes, wanted: list[str]) -> None:
    whole = Headers()
    assert whole.add(header)
    assert whole.recipients() == wanted
    lines = Headers()
    assert all(lines.add(line) for line in header.splitlines(keepends=True))
    assert lines.recipients() == wanted


def test_a_header_that_is_too_long_is_refused_and_a_long_body_is_not() -> None:
    headers = Headers()
    assert not headers.add(b"To: " + b"a@x, \r\n " * (HEADER_LIMIT // 6) + b"\r\n\r\n")
    headers = Headers()
    assert headers.add(b"To: a@x\r\n\r\n" + b"x" * (2 * HEADER_LIMIT))
    assert headers.add(b"y" * HEADER_LIMIT)
    assert headers.recipients() == ["a@x"]


def test_the_options_that_programs_use() -> None:
    options = parse(
        ["-t", "-i", "-f", "a@x", "-FJoe Doe", "-oem", "-om", "-N", "failure,success", "-Rhdrs", "-Vident"]
    )
    assert (
        options.extract
        and not options.dot_ends
        and options.sender == "a@x"
        and options.full_name == "Joe Doe"
    )
    assert (options.notify, options.ret, options.envid) == ("SUCCESS,FAILURE", "HDRS", "ident")
    assert parse(["-ti", "-B8BITMIME", "-G", "z", "-f"]).recipients == ["z", "-f"]
    assert parse(["-bm", "-oi", "--", "-dash"]).recipients == ["-dash"]
    assert parse(["-bp"]).mode == "p"
    assert parse(["-q"]).mode == "q"
    assert parse(["-q15m", "a"]).mode == parse(["-bh"]).mode == "h"
    assert (parse(["-qRx.test"]).mode, parse(["-qRx.test"]).site) == ("R", "x.test")
    assert (parse(["-I"]).mode, parse(["-oA/etc/aliases", "-bi"]).aliases) == ("i", ["/etc/aliases"])
    assert parse(["-r", "<>", "-h", "5", "-O", "x=y", "-U", "-m", "-c", "-L", "tag", "a"]).recipients == ["a"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-z"], "invalid option -- 'z'"),
        (["-f"], "option -f needs a value"),
        (["-B", "9BIT"], "-B option needs 8BITMIME or 7BIT"),
        (["-n"], "-n option not supported"),
        (["-bx"], "unsupported: -bx"),
        (["-bd"], "python -m mailstack.mta --config DIR"),
        (["-Xl"], "unsupported: -Xl"),
        (["-qSx"], "-qS is not implemented"),
        (["-qR"], "specify: -qRsitename"),
        (["-qI"], "specify: -qIqueueid"),
        (["-oA"], "-oA requires pathname"),
    ],
)
def test_what_is_refused(words: list[str], message: str) -> None:
    with pytest.raises(Fatal, match=message):
        parse(words)


def test_bad_notification_words_are_left_aside_with_a_warning(capsys: pytest.CaptureFixture[str]) -> None:
    options = parse(["-N", "bogus", "-R", "some", "-V", "x" * 101])
    assert (options.notify, options.ret, options.envid) == ("", "", "")
    assert parse(["-N", "never,delay"]).notify == ""
    assert capsys.readouterr().err.splitlines() == [
        'sendmail: warning: unknown DSN NOTIFY command value "bogus" in "bogus"',
        "sendmail: warning: bad -N option value -- ignored",
        "sendmail: warning: bad -R option value -- ignored",
        "sendmail: warning: too long -V option value -- ignored",
        "sendmail: warning: bad -N option value -- ignored",
    ]
