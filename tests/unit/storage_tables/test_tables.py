"""Lookup tables: every type's syntax, reading again, and errors that name the place."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mailstack.storage.tables import TableError, open_table

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
/^n[[:alpha:]]$/ ASCII
/^n(.)(.)$/ $2$1
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
    ("regexp", REGEXP, "nO", "ASCII"),
    ("regexp", REGEXP, "n\u00e9", "\udca9\udcc3"),  # two octets, neither of them a letter
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
        ("inline:{a = b, a = c}", "a", "c"),
        ("unix:group.byname", "Root", "root:x:0:"),
        ("environ:", "MAILSTACK_NO_SUCH_VARIABLE", None),
        ("pipemap:{inline:{a=b},inline:{b=c}}", "a", "c"),
        ("pipemap:{inline:{a=b},inline:{z=c}}", "a", None),
        ("unionmap:{inline:{a=b},static:{c d}}", "a", "b,c d"),
        ("unionmap:{inline:{q=b}}", "a", None),
        ("unionmap:{proxy:inline:{a=b}, {pipemap:{inline:{a=x},inline:{x=y}}}}", "a", "b,y"),
        ("randmap:{{a b}}", "any", "{a b}"),
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
    monkeypatch.setattr("mailstack.storage.tables.files.time.monotonic", lambda: now[0])
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


WARNINGS = [
    ("texthash", "a b\nalone\n", "a", "b", "line 2: expected format: key whitespace value -- ignoring this line"),
    ("texthash", " x y\na b\n", "a", "b", ': logical line must not start with whitespace: " x y"'),
    ("texthash", "a b\na c\n", "a", "b", 'line 2: duplicate entry: "a"'),
    ("texthash", 'a b\n"a c\n', "a", "b", "line 2: unbalanced '\"' in '\"a c' -- ignoring this line"),
    ("texthash", "a b\nc: d\n", "a", "b", 'record is in "key: value" format; is this an alias file?'),
    ("hash", "a: b\nno colon\n", "a", "b", "line 2: need name:value pair"),
    ("hash", "a: b\nc:\n", "a", "b", "line 2: need name:value pair"),
    ("hash", "a: b\na: c\n", "a", "b", ': duplicate entry: "a"'),
    ("hash", "a: b\na@x.test: c\n", "a", "b", "line 2: name must be local"),
    ("cidr", "300.1.1.1 x\n", "::1", None, 'line 1: bad address pattern: "300.1.1.1": skipping this rule'),
    ("cidr", "192.0.2.1/24 x\n", "192.0.2.1", None, 'in "192.0.2.1/24", perhaps you should use "192.0.2.0/24" instead'),
    ("cidr", "192.0.2.1\n", "192.0.2.1", None, "line 1: no lookup result: skipping this rule"),
    ("cidr", "192.0.2.1/33 x\n", "192.0.2.1", None, 'line 1: bad mask length in "192.0.2.1/33": skipping this rule'),
    ("cidr", "10/8 x\n", "10.0.0.0", None, 'line 1: bad network value in "10/8": skipping this rule'),
    ("cidr", "endif\n", "10.0.0.0", None, "line 1: ENDIF without IF: skipping this rule"),
    ("regexp", "nonsense\n/a/ b\n", "a", "b", "line 1: ignoring unrecognized request"),
    ("regexp", "/(/ x\n/a/ b\n", "a", "b", "line 1: Unmatched ( or"),
    ("regexp", "/a/ $1\n", "a", None, 'line 1: out of range replacement index "1": skipping this rule'),
    ("regexp", "/(a)/ $1x\n", "a", None, "line 1: bad replacement syntax: skipping this rule"),
    ("regexp", "!/(a)/ $1\n", "b", None, "line 1: $number found in negative match replacement text"),
    ("regexp", "/a/q x\n", "a", None, 'line 1: unknown regexp option "q": skipping this rule'),
    ("regexp", "/a x\n", "a", None, 'line 1: no closing regexp delimiter "/": skipping this rule'),
    ("pcre", "/(/ x\n/a/ b\n", "a", "b", "line 1: error in regex at offset 1: missing "),
    ("pcre", "if /a/\n/b/ c\n", "ab", "c", "line 1: IF has no matching ENDIF"),
    ("pcre", "endif\n/a/ b\n", "a", "b", "line 1: ignoring ENDIF without matching IF"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "text", "key", "value", "warning"), WARNINGS)
def test_a_line_that_is_wrong_is_left_out_with_a_warning(
    tmp_path: Path, kind: str, text: str, key: str, value: str | None, warning: str
) -> None:
    (tmp_path / "table").write_text(text)
    warnings: list[str] = []
    assert open_table(f"{kind}:{tmp_path}/table", warn=warnings.append).lookup(key) == value
    assert any(warning in found and f"{tmp_path}/table" in found for found in warnings), warnings


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("foo:mail.aliases", "unsupported dictionary type: foo"),
        ("ldap:/etc/ldap.cf", "unsupported dictionary type: ldap .*no LDAP client"),
        ("nisplus:x", "unsupported dictionary type: nisplus .*withdrawn"),
        ("hash:relative", "must begin with /"),
        ("unix:shadow.byname", "unknown table: unix:shadow.byname"),
        ("inline:a=b", 'bad syntax: "inline:a=b"; need "inline:{name=value...}"'),
        ("inline:{a}", "missing '=' after attribute name"),
        ("inline:{{a=b}", "bad syntax"),
        ("pipemap:{}", 'need "pipemap:{type:name...}"'),
        ("pipemap:{foo:bar}", "unsupported dictionary type: foo"),
        ("randmap:a", 'need "randmap:{value...}"'),
        ("static:", "expecting"),
    ],
)
def test_what_is_no_table(name: str, message: str) -> None:
    with pytest.raises(TableError, match=message):
        open_table(name)


def test_a_table_that_always_fails() -> None:
    for name in ("fail:x", "pipemap:{static:a,fail:x}", "unionmap:{static:a,fail:x}"):
        with pytest.raises(TableError, match="query error: Application error"):
            open_table(name).lookup("a")
