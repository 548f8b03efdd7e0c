"""bounce_template_file, as bounce(5) says; and the senders of VERP."""

from __future__ import annotations

from pathlib import Path

import pytest

from mailstack.config.errors import ConfigError
from mailstack.config.postfix.main_cf import MainCf
from mailstack.mta.bounce.template_file import read_templates
from mailstack.mta.bounce.templates import BUILT_IN, Template
from mailstack.mta.verp import default_delimiters, usable, verp_sender


def read(directory: Path, text: str, extra: str = "") -> tuple[dict[str, Template], list[str]]:
    """The templates of a file with `text`, and what is warned of."""
    path = directory / "templates"
    path.write_text(text)
    conf = MainCf.parse(
        f"myhostname = mail.x.test\nmydomain = x.test\nbounce_template_file = {path}\n{extra}",
        directory / "main.cf",
    )
    warnings: list[str] = []
    return read_templates(conf, warnings.append), [text.replace(f"{path}", "FILE") for text in warnings]


def test_the_built_in_texts_name_this_host_and_the_times(tmp_path: Path) -> None:
    found, warnings = read(tmp_path, "", "delay_warning_time = 4h\nmaximal_queue_lifetime = 3d\n")
    assert warnings == []
    assert "at host mail.x.test." in found["failure"].text
    assert "more than 4 hour(s).\nIt will be retried until it is 3 day(s) old." in found["delay"].text
    assert found["delay"].subject == BUILT_IN["delay"].subject
    assert found["delay"].warnings == ()


def test_a_template_of_ones_own(tmp_path: Path) -> None:
    text = (
        "# comment\n\nfailure_template = <<EOF\nSubject: Oh\nFrom: Post <post@x.test>\nCharset: utf-8\n\n"
        "Größe $$1 ${mydomain} $delay_warning_time_minutes\n $mydomain.\nEOF\n"
    )
    found, warnings = read(tmp_path, text, "delay_warning_time = 2h\n")
    failure = found["failure"]
    assert warnings == []
    assert (failure.subject, failure.author, failure.charset) == ("Oh", "Post <post@x.test>", "utf-8")
    assert failure.postmaster_subject == BUILT_IN["failure"].postmaster_subject
    assert failure.text == "Größe $1 x.test 120\n x.test.\n"
    assert found["success"].subject == BUILT_IN["success"].subject


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ("Subject: Grüße\n\ntext", 'FILE: non-ASCII "Subject" header value'),
        ("X-Other: x\n\ntext", 'FILE: unknown "X-Other" header label'),
        ("Subject: x\n\nGrüße", "FILE: 8-bit message text without a charset value other than us-ascii"),
        ("Subject: x", "FILE: missing message text"),
    ],
)
def test_what_cannot_be_used_is_left_out_with_a_warning(tmp_path: Path, lines: str, reason: str) -> None:
    found, warnings = read(tmp_path, f"failure_template = <<EOF\n{lines}\nEOF\n")
    assert warnings == [f"{reason} in failure template -- ignoring this template"]
    assert found["failure"].subject == BUILT_IN["failure"].subject


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("failure_template = text\n", "expected NAME = <<END"),
        ("failure_template = <<EOF\n\ntext\n", 'missing "EOF" end marker'),
        ("failure_template = <<EOF\n\n$nothing\nEOF\n", r"undefined \$nothing in failure template"),
    ],
)
def test_what_is_a_configuration_error(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        read(tmp_path, text)


def test_times_that_say_nothing_are_told(tmp_path: Path) -> None:
    found, _ = read(tmp_path, "", "delay_warning_time = 5m\n")
    assert (
        found["delay"]
        .warnings[0]
        .endswith('zero result in delay template conversion of parameter "delay_warning_time_hours"')
    )
    assert found["failure"].warnings == ()


@pytest.mark.parametrize(
    ("sender", "recipient", "expected"),
    [
        ("owner-list@l.test", "user@there.test", "owner-list+user=there.test@l.test"),
        ("list", "user@there.test", "list+user=there.test"),
        ("list@l.test", "user", "list+user@l.test"),
        ("a@b@l.test", "c@d@there.test", "a@b+c@d=there.test@l.test"),
    ],
)
def test_senders_of_verp(sender: str, recipient: str, expected: str) -> None:
    assert verp_sender("+=", sender, recipient) == expected


def test_delimiters_of_verp(tmp_path: Path) -> None:
    assert [usable(text, "-=+") for text in ("+=", "--", "+", "+=-", "ab", "")] == [
        *(True, True, False, False, False, False)
    ]
    assert default_delimiters(MainCf.parse("", tmp_path / "main.cf")) == "+="
    with pytest.raises(ConfigError, match="needs two characters"):
        default_delimiters(MainCf.parse("default_verp_delimiters = ab\n", tmp_path / "main.cf"))
