"""The grammar: what doveconf takes and refuses, with the value or the line that it names."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailstack.config.dovecot import load
from mailstack.config.dovecot.syntax import parse
from mailstack.config.errors import ConfigError

DEFAULTS = {"ssl": "yes", "mail_plugins": ""}

VALUES = [
    ("a   b  # c", "a   b"),
    ("'a b'", "a b"),
    ('a"b" ', 'a"b"'),
    ('"a" b', '"a" b'),
    ('"unterminated', '"unterminated'),
    ("x#y", "x"),
    ("a\\nb", "a\\nb"),
    ('"a\\nb\\\\c"', "anb\\c"),
    ('"# kept"', "# kept"),
    ("", ""),
    ("one \\\n   two", "one two"),
    ("maildir:$ssl/x", "maildir:$ssl/x"),
    ("$ssl x", "yes x"),
    ("a $ssl x$ssl", "a yes x$ssl"),
    ('"a $ssl"', "a $ssl"),
    ("%u %d", "%u %d"),
]
"""Value as written, value as read; checked against doveconf below."""

REFUSED = [
    ("login_greeting\n", 1),
    ("\n}\n", 2),
    ("!include nofile.conf\n", 1),
    ("!bogus x\n", 1),
    ("service imap-login\n{\n}\n", 1),
    ("mailbox x { auto = no }\n", 1),
    ("login_greeting = a $nosuch b\n", 1),
    ("ssl = maybe\n", 1),
    ("protocols = imap nosuch\n", 0),
    ("disable_plaintext_auth = True\n", 1),
    ("imap_idle_notify_interval = 2x\n", 1),
    ("mail_max_userip_connections = 10k\n", 1),
    ("service imap-login {\n  inet_listener imap {\n    port = abc\n  }\n}\n", 3),
    ("service imap-login {\n  inet_listener imap {\n    ssl = maybe\n  }\n}\n", 3),
    ("namespace inbox {\n  mailbox a {\n    auto = maybe\n  }\n}\n", 3),
    ("passdb {\n  nosuch = 1\n}\n", 2),
    ("passdb {\n  driver =\n}\n", 0),
    ("nosuch {\n  a = b\n}\n", 1),
]
"""What both refuse, with the line doveconf names (0: the file as a whole, or another line than ours)."""


def written(folder: Path, text: str) -> Path:
    path = folder / "dovecot.conf"
    path.write_text(text)
    return path


@pytest.mark.parametrize(("value", "expected"), VALUES)
def test_a_value_is_read_as_dovecot_reads_it(tmp_path: Path, value: str, expected: str) -> None:
    root = parse(written(tmp_path, f"login_greeting = {value}\n"), DEFAULTS)
    setting = root.get("login_greeting")
    assert setting is not None
    assert setting.content() == expected


@pytest.mark.parametrize(("text", "line"), REFUSED)
def test_a_wrong_file_is_refused_by_file_and_line(tmp_path: Path, text: str, line: int) -> None:
    path = written(tmp_path, "ssl = no\n" * (not text.startswith("ssl")) + text)
    offset = 0 if text.startswith("ssl") else 1
    with pytest.raises(ConfigError) as caught:
        load(tmp_path)
    assert caught.value.path == path
    if line:
        assert caught.value.line == line + offset


@pytest.mark.real
@pytest.mark.skipif(shutil.which("doveconf") is None, reason="doveconf (dovecot-core) is missing")
def test_doveconf_agrees(tmp_path: Path) -> None:
    def doveconf(text: str) -> str:
        path = written(tmp_path, text)
        done = subprocess.run(
            ["doveconf", "-x", "-n", "-c", str(path)], capture_output=True, text=True, check=False
        )
        return done.stdout + done.stderr

    for value, expected in VALUES:
        shown = re.search(r"^login_greeting = (.*)$", doveconf(f"login_greeting = {value}\n"), re.MULTILINE)
        assert shown is not None, value
        printed = shown[1]
        if printed.startswith('"') and printed.endswith('"') and printed != expected:
            printed = printed[1:-1].replace('\\"', '"')
        assert printed == expected, value
    for text, line in REFUSED:
        said = doveconf(text)
        assert "Error" in said, text
        if line:
            assert f"line {line}: " in said, (text, said)


def test_files_are_included_in_order_and_relative_to_the_including_one(tmp_path: Path) -> None:
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d" / "20.conf").write_text("login_greeting = second\n!include_try ../more.conf\n")
    (tmp_path / "conf.d" / "10.conf").write_text("login_greeting = first\n")
    (tmp_path / "more.conf").write_text("ssl = no\n")
    root = parse(written(tmp_path, "!include conf.d/*.conf\n!include_try none.conf\n"), DEFAULTS)
    assert {key: setting.text for key, setting in root.settings.items()} == {
        "login_greeting": "second",
        "ssl": "no",
    }


def test_errors_name_the_included_file_and_loops_end(tmp_path: Path) -> None:
    (tmp_path / "a.conf").write_text("ssl = no\nbroken\n")
    with pytest.raises(ConfigError, match=r"a\.conf:2: Expecting"):
        parse(written(tmp_path, "!include a.conf\n"), DEFAULTS)
    with pytest.raises(ConfigError, match="nested"):
        parse(written(tmp_path, "!include dovecot.conf\n"), DEFAULTS)
    with pytest.raises(ConfigError, match=r"Missing '}' \(section started at .*dovecot\.conf:1\)"):
        parse(written(tmp_path, "passdb {\n driver = static\n"), DEFAULTS)


def test_a_value_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "greeting").write_text("hello")
    root = parse(written(tmp_path, "login_greeting = < greeting\nssl_key = <none.pem\n"), DEFAULTS)
    greeting, key = root.get("login_greeting"), root.get("ssl_key")
    assert greeting is not None
    assert key is not None
    assert greeting.content() == "hello"
    assert key.text == str(tmp_path / "none.pem")
    with pytest.raises(ConfigError, match="Can't open file"):
        key.content()


@given(st.text(alphabet="ab={}\"'\\\n #$<!%\t\0é", max_size=60))
def test_any_text_is_a_tree_or_a_config_error(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    folder = tmp_path_factory.getbasetemp()
    try:
        parse(written(folder, text), DEFAULTS)
    except ConfigError:
        pass
