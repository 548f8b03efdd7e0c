"""Lookup tables: every type's syntax, reading again, and errors that name the place."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mailstack.storage.tables import TableError, open_table, split_alias

VIRTUAL = """\
# comment
zs@dgtlinux.com\tdgtlinux.com/zs/
Support@DGTlinux.com   one,
  two
   # comment inside
  three
@dgtlinux.com zs@dgtlinux.com
zs@dgtlinux.com\ta later one
"""
ALIASES = """\
postmaster: zs
MAILER-DAEMON:postmaster
list : a, "b c"@x.test,
   "|/usr/bin/filter -a \\"x\\"", /var/mail/archive, :include:/etc/list, \\zs
"quoted name": zs
"""
CIDR = """\
192.0.2.1 first
192.0.2.0/24\tsecond
!10.0.0.0/8 not ten
2001:db8::/32 six
"""
REGEXP = """\
/^list-(.*)@x\\.test$/ owner-$1@${1}.test
if /@y\\.test$/
/^a@/ in y
!/^b@/ not b
endif
/CASE/i kept
/case/ folded $$1
"""

CASES = [
    ("texthash", VIRTUAL, "zs@dgtlinux.com", "dgtlinux.com/zs/"),
    ("texthash", VIRTUAL, "support@dgtlinux.com", "one,  two  three"),
    ("texthash", VIRTUAL, "SUPPORT@dgtlinux.com", "one,  two  three"),
    ("hash", VIRTUAL, "@dgtlinux.com", "zs@dgtlinux.com"),
    ("hash", VIRTUAL, "nobody", None),
    ("hash", ALIASES, "postmaster", "zs"),
    ("lmdb", ALIASES, "mailer-daemon", "postmaster"),
    ("hash", ALIASES, "Quoted Name", "zs"),
    ("cidr", CIDR, "192.0.2.1", "first"),
    ("cidr", CIDR, "192.0.2.2", "second"),
    ("cidr", CIDR, "198.51.100.1", "not ten"),
    ("cidr", CIDR, "10.1.1.1", None),
    ("cidr", CIDR, "2001:db8::1", "six"),
    ("cidr", CIDR, "no address", None),
    ("regexp", REGEXP, "list-dev@x.test", "owner-dev@dev.test"),
    ("regexp", REGEXP, "A@y.test", "in y"),
    ("pcre", REGEXP, "b@y.test", None),
    ("pcre", REGEXP, "c@y.test", "not b"),
    ("regexp", REGEXP, "a@z.test", None),
    ("regexp", REGEXP, "CASE", "kept"),
    ("regexp", REGEXP, "caSe", "folded $1"),
]


@pytest.mark.parametrize(("kind", "text", "key", "value"), CASES)
def test_files(tmp_path: Path, kind: str, text: str, key: str, value: str | None) -> None:
    (tmp_path / "table").write_text(text)
    assert open_table(f"{kind}:{tmp_path}/table").lookup(key) == value
    assert open_table(f"proxy:{kind}:{tmp_path}/table").lookup(key) == value


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("static:all", "anything", "all"),
        ("static:{550 5.7.1 no}", "anything", "550 5.7.1 no"),
        ("inline:{a = b, {c = d e}}", "a", "b"),
        ("inline:{a = b, {c = d e}}", "C", "d e"),
        ("inline:{x.test=OK y.test=REJECT}", "y.test", "REJECT"),
        ("inline:{a = b}", "z", None),
        ("unix:passwd.byname", "no such user", None),
    ],
)
def test_tables_without_a_file(name: str, key: str, value: str | None) -> None:
    assert open_table(name).lookup(key) == value


def test_the_machines_accounts() -> None:
    found = open_table("unix:passwd.byname").lookup("root")
    assert found is not None
    assert found.startswith("root:")


def test_a_changed_file_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("mailstack.storage.tables.time.monotonic", lambda: now[0])
    path = tmp_path / "table"
    path.write_text("a one\n")
    table = open_table(f"texthash:{path}")
    assert table.lookup("a") == "one"
    path.write_text("a two, changed\n")
    now[0] += 2
    assert table.lookup("a") == "two, changed"
    os.unlink(path)
    now[0] += 2
    with pytest.raises(FileNotFoundError):
        table.lookup("a")


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        ("texthash", "a b\nalone\n", "line 2: expected 'key whitespace value', not 'alone'"),
        ("texthash", " a b\n", "line 1: logical line must not start with whitespace"),
        ("hash", "a: b\nno colon\n", "line 2: expected 'name: value', not 'no colon'"),
        ("hash", "a:\n", "line 1: alias a has no value"),
        ("cidr", "300.1.1.1 x\n", "line 1: "),
        ("cidr", "192.0.2.1/24 x\n", "line 1: 192.0.2.1/24 has host bits set"),
        ("cidr", "192.0.2.1\n", "line 1: no value after the pattern"),
        ("regexp", "nonsense\n", "line 1: expected /pattern/flags value, not 'nonsense'"),
        ("regexp", "/(/ x\n", "line 1: bad pattern"),
        ("regexp", "/a/ $1\n", "line 1: $1 refers to a group that 'a' does not have"),
        ("regexp", "/a/q x\n", "line 1: unknown flag 'q'"),
        ("pcre", "if /a/\n/b/ c\n", "if without endif"),
        ("pcre", "endif\n", "line 1: endif without if"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(tmp_path: Path, kind: str, text: str, message: str) -> None:
    (tmp_path / "table").write_text(text)
    with pytest.raises(TableError) as caught:
        open_table(f"{kind}:{tmp_path}/table").lookup("a")
    assert message in str(caught.value)
    assert f"{tmp_path}/table" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nis:mail.aliases", "unsupported dictionary type: nis"),
        ("hash:relative", "must begin with /"),
        ("unix:group.byname", "unsupported dictionary type: unix"),
        ("inline:a=b", "must be enclosed"),
        ("inline:{a}", "expected key = value, not 'a'"),
    ],
)
def test_what_is_no_table(name: str, message: str) -> None:
    with pytest.raises(TableError, match=message):
        open_table(name)
    with pytest.raises(TableError, match="always fails"):
        open_table("fail:x").lookup("a")


@pytest.mark.parametrize(
    ("value", "targets"),
    [
        ("zs", ["zs"]),
        ("a, b@x.test ,c", ["a", "b@x.test", "c"]),
        ('"b c"@x.test, a', ['"b c"@x.test', "a"]),
        (
            '"|/usr/bin/filter -a \\"x\\"", /var/mail/x, :include:/etc/l, \\zs',
            ['|/usr/bin/filter -a "x"', "/var/mail/x", ":include:/etc/l", "\\zs"],
        ),
        ("a b", ["a", "b"]),
        ("a,,b,", ["a", "b"]),
    ],
)
def test_alias_targets(value: str, targets: list[str]) -> None:
    assert split_alias(value) == targets


def test_a_broken_alias_value() -> None:
    with pytest.raises(TableError):
        split_alias('a, "unclosed')
