"""header_checks(5): what each action does to a message, what is logged and answered."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mailstack.config.errors import ConfigError
from mailstack.mta.cleanup import Origin
from mailstack.mta.cleanup.checks import Checks, Findings, Inspector
from mailstack.mta.lookup import opener
from mailstack.net.log import Log
from mailstack.storage.tables import open_table
from tests.unit.mta_smtpd.serving import settings_of, write_config

ORIGIN = Origin("c.test[192.0.2.1]", "a@b.test", "zs@dgtlinux.com", "ESMTP", "h.test")
WORDS = "from c.test[192.0.2.1]; from=<a@b.test> to=<zs@dgtlinux.com> proto=ESMTP helo=<h.test>"


def inspect(
    directory: Path, extra: str, content: bytes, *, step: int = 10_000
) -> tuple[bytes, Findings, list[str]]:
    """What a message becomes, what was found, what was logged."""
    conf = write_config(directory, extra)
    checks = Checks.load(conf, open_table)
    assert checks is not None
    path = directory / "checks.log"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    inspector = Inspector(checks, "ABC", ORIGIN, Log("postfix/cleanup", "mail", fd))
    end = content.index(b"\r\n\r\n") + 2
    out = inspector.headers(content[:end])
    for place in range(end, len(content), step):
        out += inspector.body(content[place : place + step])
    out += inspector.finish()
    os.close(fd)
    return out, inspector.found, [line.partition("]: ")[2] for line in path.read_text().splitlines()]


def rules(directory: Path, text: str) -> str:
    (directory / "rules").write_text(text)
    return f"header_checks = regexp:{directory}/rules\n"


MESSAGE = b"A: one\r\nSubject: hit\r\n me\r\nZ: end\r\n\r\nbody\r\n"


@pytest.mark.parametrize(
    "action, header, logged",
    [
        ("WARN look", b"Subject: hit\r\n me\r\n", "warning: header Subject: hit? me %s: look"),
        ("INFO", b"Subject: hit\r\n me\r\n", "info: header Subject: hit? me %s"),
        ("REPLACE X: y", b"X: y\r\n", "replace: header Subject: hit? me %s: X: y"),
        ("PREPEND X: y", b"X: y\r\nSubject: hit\r\n me\r\n", "prepend: header Subject: hit? me %s: X: y"),
        ("IGNORE", b"", None),
        ("STRIP gone", b"", "strip: header Subject: hit? me %s: gone"),
        ("DUNNO", b"Subject: hit\r\n me\r\n", None),
        ("BOGUS x", b"Subject: hit\r\n me\r\n", "warning: unknown command in header_checks map: BOGUS x"),
        (
            "REPLACE nothing",
            b"Subject: hit\r\n me\r\n",
            'warning: bad REPLACE header text "nothing" in header_checks map -- need "headername: headervalue"',
        ),
    ],
)
def test_actions_that_change_headers(tmp_path: Path, action: str, header: bytes, logged: str | None) -> None:
    out, found, log = inspect(tmp_path, rules(tmp_path, f"/^Subject: hit/ {action}\n"), MESSAGE)
    assert out == MESSAGE.replace(b"Subject: hit\r\n me\r\n", header)
    assert found == Findings()
    expected = [] if logged is None else [f"ABC: {logged % WORDS}" if "%s" in logged else logged]
    assert log == expected


@pytest.mark.parametrize(
    "action, expected",
    [
        ("REJECT", "550 5.7.1 message content rejected"),
        ("REJECT no thanks", "550 5.7.1 no thanks"),
        ("REJECT 5.6.6 odd", "550 5.6.6 odd"),
        ("REJECT 4.6.6 later", "451 4.6.6 later"),
    ],
)
def test_rejections(tmp_path: Path, action: str, expected: str) -> None:
    text = rules(tmp_path, f"/^Subject: hit/ {action}\n/^Z:/ WARN not asked any more\n")
    _, found, log = inspect(tmp_path, text, MESSAGE)
    assert str(found.rejected) == expected
    assert log == [f"ABC: reject: header Subject: hit? me {WORDS}: {expected[4:]}"]


def test_what_is_decided_for_the_message(tmp_path: Path) -> None:
    text = "/^A:/ HOLD\n/^Subject/ BCC x@y.test\n/^Z:/ FILTER smtp:[h]:1\n"
    _, found, _ = inspect(tmp_path, rules(tmp_path, text), MESSAGE)
    assert found == Findings(hold=True, bcc=["x@y.test"], filter="smtp:[h]:1")
    _, found, _ = inspect(tmp_path, rules(tmp_path, "/^A:/ REDIRECT r@y.test\n/^Z:/ HOLD\n"), MESSAGE)
    assert found == Findings(redirect="r@y.test")
    _, found, _ = inspect(tmp_path, rules(tmp_path, "/^A:/ DISCARD\n/^Z:/ HOLD\n"), MESSAGE)
    assert found == Findings(discard=True)


PARTS = (
    b'Subject: s\r\nContent-Type: multipart/mixed; boundary="b"\r\n\r\npre\r\n--b\r\nContent-Type: text/x\r\n\r\n'
    b"line\r\n--b\r\nContent-Type: message/rfc822\r\n\r\nSubject: s\r\n\r\nline\r\n--b--\r\nline\r\n"
)


@pytest.mark.parametrize("step", [1, 7, 10_000])
def test_each_kind_of_header_has_its_checks(tmp_path: Path, step: int) -> None:
    extra = (
        "mime_header_checks = inline:{ {Content-Type: text/x = REPLACE Content-Type: text/y} }\n"
        "nested_header_checks = inline:{ {Subject: s = REPLACE Subject: t} }\n"
        "body_checks = inline:{ {line = REPLACE other} }\n"
    )
    out, _, _ = inspect(tmp_path, extra, PARTS, step=step)
    nested = PARTS.replace(b"rfc822\r\n\r\nSubject: s", b"rfc822\r\n\r\nSubject: t")
    assert out == nested.replace(b"line\r\n", b"other\r\n").replace(b"text/x", b"text/y")


def test_only_the_beginning_of_each_part_is_checked(tmp_path: Path) -> None:
    extra = "body_checks = inline:{ {line = IGNORE} }\nbody_checks_size_limit = 6\n"
    out, _, _ = inspect(tmp_path, extra, b"A: b\r\n\r\nline\r\nline\r\nline\r\n")
    assert out == b"A: b\r\n\r\nline\r\n"


@pytest.mark.parametrize("step", [700, 10_000])
def test_a_long_line_is_looked_at_in_parts(tmp_path: Path, step: int) -> None:
    message = b"A: b\r\n\r\n" + b"a" * 2500 + b"\r\nz\r\n" + b"a" * 1024 + b"\r\n"
    (tmp_path / "rules").write_text("/^a+$/ WARN part\n/^z$/ REPLACE Z\n")
    extra = f"body_checks = regexp:{tmp_path}/rules\nline_length_limit = 1024\n"
    out, _, log = inspect(tmp_path, extra, message, step=step)
    assert out == message.replace(b"z", b"Z")
    assert len([line for line in log if "warning: body aaa" in line]) == 4


def test_a_header_of_a_part_is_cut_at_its_limit(tmp_path: Path) -> None:
    head = b'Subject: s\r\nContent-Type: multipart/mixed; boundary="b"\r\n\r\n--b\r\nX-Long: '
    message = head + b"x" * 5000 + b"\r\n\ty\r\nNext: 1\r\n\r\nline\r\n--b--\r\n"
    extra = "mime_header_checks = inline:{ {X = WARN} }\nheader_size_limit = 3000\nline_length_limit = 1024\n"
    out, _, _ = inspect(tmp_path, extra, message, step=100)
    assert out.startswith(head) and out.endswith(b"x\r\nNext: 1\r\n\r\nline\r\n--b--\r\n")
    assert 3000 <= len(out) - len(head) < 5000


@pytest.mark.parametrize(
    "setting, content, expected",
    [
        ("strict_7bit_headers", b"S: \xff\r\n\r\n", "improper use of 8-bit data in message header"),
        ("strict_8bitmime_body", b"S: x\r\n\r\n\xff\r\n", "improper use of 8-bit data in message body"),
        ("strict_8bitmime_body", b"Content-Transfer-Encoding: 8bit\r\n\r\n\xff\r\n", None),
        ("strict_8bitmime", b"S: x\r\n\r\n\xff\r\n", "improper use of 8-bit data in message body"),
        (
            "strict_mime_encoding_domain",
            b"Content-Type: multipart/x; boundary=b\r\nContent-Transfer-Encoding: base64\r\n\r\n",
            "invalid message/* or multipart/* encoding domain",
        ),
    ],
)
def test_strictness(tmp_path: Path, setting: str, content: bytes, expected: str | None) -> None:
    _, found, _ = inspect(tmp_path, f"{setting} = yes\n", content)
    assert (found.rejected.text if found.rejected else None) == expected


def test_characters(tmp_path: Path) -> None:
    extra = "message_strip_characters = \\001\nmessage_reject_characters = \\0\\177\n"
    out, found, _ = inspect(tmp_path, extra, b"A: b\r\n\r\nx\x01y\r\n")
    assert out == b"A: b\r\n\r\nxy\r\n" and found.rejected is None
    _, found, _ = inspect(tmp_path, extra, b"A: b\r\n\r\nx\x7fy\r\n")
    assert str(found.rejected) == "550 5.7.1 disallowed character"


def test_nothing_is_looked_at_unless_main_cf_says_so(tmp_path: Path) -> None:
    assert settings_of(tmp_path).cleanup.checks is None
    extra = "header_checks = static:WARN\nreceive_override_options = no_header_body_checks\n"
    assert settings_of(tmp_path, extra).cleanup.checks is None
    with pytest.raises(ConfigError, match="receive_override_options"):
        settings_of(tmp_path, "receive_override_options = no_thing\n")


@pytest.mark.parametrize("parameter", ["header_checks", "nested_header_checks", "body_checks"])
@pytest.mark.parametrize("table", ["tcp:localhost:1", "sqlite:{}/db.cf"])
def test_content_waits_for_no_table(tmp_path: Path, parameter: str, table: str) -> None:
    (tmp_path / "db.cf").write_text("dbpath = /none\nquery = SELECT 1\n")
    conf = write_config(tmp_path, f"{parameter} = {table.format(tmp_path)}\n")
    with pytest.raises(ConfigError, match=f"{parameter}.*content is not checked by a server"):
        Checks.load(conf, opener())
