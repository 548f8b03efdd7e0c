"""Each format's filter: what it writes, and what it refuses because the format cannot hold it."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import PurePosixPath

import pytest

from mailstack.render import RenderError, escape, templates

WRITTEN: list[tuple[Callable[..., str], object, str]] = [
    (escape.main_cf, "a $b", "a $$b"),
    (escape.main_cf_raw, "a $b", "a $b"),
    (escape.main_cf_words, ["a", "b"], "a, b"),
    (escape.main_cf_words, [], ""),
    (escape.master_cf, "127.0.0.1:25", "127.0.0.1:25"),
    (escape.table_key, "@example.test", "@example.test"),
    (escape.table_value, "a, b", "a, b"),
    (escape.alias_addresses, ["anna", "o'neil@x.test"], "anna, o'neil@x.test"),
    (escape.dovecot, "plain login", "plain login"),
    (escape.dovecot, "50%", "50%%"),
    (escape.dovecot, 'a "b" # c', '"a \\"b\\" # c"'),
    (escape.dovecot, "", '""'),
    (escape.dovecot_raw, "%d/%n", "%d/%n"),
    (escape.passwd_field, "anna@x.test", "anna@x.test"),
    (escape.named, 'a"b\\c', '"a\\"b\\\\c"'),
    (escape.named_word, "2001:db8::/32", "2001:db8::/32"),
    (escape.zone_name, "_imap._tcp.x.test", "_imap._tcp.x.test."),
    (escape.zone_name, "a b.test", "a\\032b.test."),
    (escape.zone_text, 'v="1"; é', '"v=\\"1\\"; \\195\\169"'),
    (escape.zone_text, "x" * 256, '"' + "x" * 255 + '" "x"'),
    (escape.zone_text, "", '""'),
    (escape.smtpd_conf, "PLAIN LOGIN", "PLAIN LOGIN"),
    (escape.number, 5, "5"),
    (escape.path, PurePosixPath("/srv/x"), "/srv/x"),
]
REFUSED: list[tuple[Callable[..., str], object]] = [
    *((function, "a\nb") for function in (
        escape.main_cf, escape.main_cf_raw, escape.master_cf, escape.table_key, escape.table_value, escape.dovecot,
        escape.passwd_field, escape.named, escape.zone_data, escape.smtpd_conf, escape.comment,
    )),
    (escape.main_cf, " a"),
    (escape.main_cf_words, ["a b"]),
    (escape.main_cf_words, ["a,b"]),
    (escape.main_cf_words, [""]),
    (escape.main_cf_words, ["{a"]),
    (escape.parameter_name, "a b"),
    (escape.master_cf, "a b"),
    (escape.master_cf, "{"),
    (escape.table_key, "# x"),
    (escape.table_key, '"x"'),
    (escape.table_value, ""),
    (escape.alias_name, "a:b"),
    (escape.alias_addresses, ["|/bin/sh"]),
    (escape.alias_addresses, [":include:/etc/passwd"]),
    (escape.alias_addresses, ["/etc/passwd"]),
    (escape.alias_addresses, []),
    (escape.passwd_field, "a:b"),
    (escape.named_word, "any; }; x {"),
    (escape.zone_name, "a..b"),
    (escape.zone_name, "é.test"),
    (escape.zone_data, ""),
    (escape.smtpd_conf, " x"),
    (escape.number, "5"),
    (escape.number, True),
    (escape.path, "/srv/x"),
]  # fmt: skip


@pytest.mark.parametrize(("function", "value", "text"), WRITTEN)
def test_values_are_written_for_their_format(function: Callable[..., str], value: object, text: str) -> None:
    written = function(value)
    assert written == text
    assert isinstance(written, escape.Escaped)


@pytest.mark.parametrize(("function", "value"), REFUSED)
def test_what_a_format_cannot_hold_is_refused(function: Callable[..., str], value: object) -> None:
    with pytest.raises(RenderError) as caught:
        function(value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("owner", "text"), [("x.test", "@"), ("a.x.test", "a"), ("*.x.test", "*"), ("a\\032b.x.test", "a\\032b")]
)
def test_owners_are_relative(owner: str, text: str) -> None:
    assert escape.zone_owner(owner, "x.test") == text


@pytest.mark.parametrize(
    "owner", ["y.test", "ax.test", "a b.x.test", "a;b.x.test", '"a".x.test', "a\n.x.test"]
)
def test_other_owners_are_refused(owner: str) -> None:
    with pytest.raises(RenderError):
        escape.zone_owner(owner, "x.test")


@pytest.mark.parametrize("value", ["plain", 'a"b\\c', "é\n\t\x7f\x85", ["a", "b:53"], 5, []])
def test_toml_is_read_back(value: object) -> None:
    assert tomllib.loads(f"x = {escape.toml(value)}")["x"] == value


def test_a_template_can_only_print_what_was_escaped() -> None:
    environment = templates._environment()
    assert environment.from_string("{{ x | number }}").render(x=1) == "1"
    for source in ("{{ x }}", "{{ 'text' ~ x }}", "{{ x | upper }}"):
        with pytest.raises(RenderError, match="no filter has escaped"):
            environment.from_string(source).render(x="value")


def test_a_missing_value_is_an_error() -> None:
    with pytest.raises(RenderError, match=r"sasl/smtpd\.conf\.j2"):
        templates.text("sasl/smtpd.conf")
