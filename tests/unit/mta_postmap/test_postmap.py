"""postmap(1) and postalias(1) as commands: what they print, make and say, and their exit status."""

from __future__ import annotations

import io
import os
import stat
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from mailstack.mta import postalias, postmap
from mailstack.storage.tables import open_table
from mailstack.storage.tables.files import INDEXED

TEXT = """\
# comment
Key1 value one
key2\tvalue2,
   more
"""
ALIASES = """\
Postmaster: zs
list: a, "b c"@x.test,
  "|/usr/bin/filter"
no colon
"""


@pytest.fixture
def table(tmp_path: Path) -> str:
    (tmp_path / "table").write_text(TEXT)
    return str(tmp_path / "table")


def run(
    capsys: pytest.CaptureFixture[str], *words: str, stdin: str = "", aliases: bool = False
) -> tuple[int, str, str]:
    """(exit status, output, errors)."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdin", io.StringIO(stdin))
        patch.delenv("MAIL_CONFIG", raising=False)
        status = (postalias if aliases else postmap).main(words)
    out, err = capsys.readouterr()
    return status, out, err


@pytest.mark.parametrize("kind", ["hash", "btree", "lmdb", "cdb"])
def test_make_ask_list_and_change(table: str, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    name = f"{kind}:{table}"
    assert run(capsys, name) == (0, "", "")
    assert os.path.exists(table + INDEXED[kind])
    os.unlink(table)
    assert run(capsys, "-q", "KEY1", name) == (0, "value one\n", "")
    assert run(capsys, "-q", "none", name) == (1, "", "")
    assert run(capsys, "-q", "-", name, stdin="key2\nnone\nKey1\n") == (
        0,
        "key2\tvalue2,   more\nKey1\tvalue one\n",
        "",
    )
    assert run(capsys, "-q", "-", name, stdin="none\n") == (1, "", "")
    listed = run(capsys, "-s", name)
    assert sorted(listed[1].splitlines()) == ["key1\tvalue one", "key2\tvalue2,   more"]
    if kind == "cdb":
        status, _, err = run(capsys, "-d", "key1", name)
        assert (status, err[:15]) == (1, "postmap: fatal:")
        return
    assert run(capsys, "-d", "KEY1", name) == (0, "", "")
    assert run(capsys, "-d", "KEY1", name) == (1, "", "")
    status, out, err = run(capsys, "-i", name, stdin="key2 other\nkey3 three\n")
    called = name if kind == "lmdb" else f"{table}.db"
    assert (status, out, err) == (0, "", f'postmap: warning: {called}: duplicate entry: "key2"\n')
    assert run(capsys, "-i", "-w", name, stdin="key2 other\n") == (0, "", "")
    assert run(capsys, "-q", "key2", name)[1] == "value2,   more\n"
    assert run(capsys, "-ir", name, stdin="key2 replaced\n") == (0, "", "")
    assert run(capsys, "-q", "key2", name)[1] == "replaced\n"
    assert run(capsys, "-d", "-", name, stdin="key2\nkey3\n")[0] == 0
    assert run(capsys, "-s", name) == (0, "", "")
    assert run(capsys, "-i", f"{kind}:{table}.new", stdin="a b\n") == (0, "", "")
    assert run(capsys, "-q", "a", f"{kind}:{table}.new") == (0, "b\n", "")


def test_equal_keys(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "table").write_text("a 1\nA 2\n")
    name = f"cdb:{tmp_path}/table"
    warning = f'postmap: warning: {tmp_path}/table: duplicate entry: "a"\n'
    for options, err, value in (((), warning, "1"), (("-w",), "", "1"), (("-r",), "", "2")):
        assert run(capsys, *options, name) == (0, "", err)
        assert run(capsys, "-q", "a", name)[1] == f"{value}\n"
    assert run(capsys, "-f", name)[0] == 0
    assert run(capsys, "-s", name)[1] == "a\t1\nA\t2\n"
    assert run(capsys, "-f", "-q", "A", name)[1] == "2\n"


def test_bad_lines_are_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "table"
    path.write_text(" x y\nalone\nkey: value\na b\n")
    status, _, err = run(capsys, f"cdb:{path}")
    assert status == 0
    assert err.splitlines() == [
        f'postmap: warning: {path}: logical line must not start with whitespace: " x y"',
        f"postmap: warning: {path}, line 2: expected format: key whitespace value",
        f'postmap: warning: {path}, line 3: record is in "key: value" format; is this an alias file?',
    ]
    assert run(capsys, "-s", f"cdb:{path}")[1] == "key:\tvalue\na\tb\n"


def test_nul_at_the_end(table: str, capsys: pytest.CaptureFixture[str]) -> None:
    for option, ended in ((), False), (("-n",), False), (("-N",), True):
        assert run(capsys, *option, f"cdb:{table}")[0] == 0
        assert (b"key1\0value one\0" in Path(f"{table}.cdb").read_bytes()) is ended
        assert run(capsys, "-q", "key1", f"cdb:{table}")[1] == "value one\n"


def test_permissions_are_the_texts(table: str, capsys: pytest.CaptureFixture[str]) -> None:
    os.chmod(table, 0o640)
    for option, mode in ((), 0o640), (("-p",), 0o644):
        run(capsys, *option, f"cdb:{table}")
        assert stat.S_IMODE(os.stat(f"{table}.cdb").st_mode) == mode


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
@pytest.mark.parametrize(("option", "owner"), [((), 65534), (("-o",), 0)])
def test_root_writes_as_the_owner_of_the_text(
    option: tuple[str, ...], owner: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with TemporaryDirectory() as name:  # where the owner may enter every folder, as in tmp_path he may not
        home = Path(name)
        (home / "table").write_text(TEXT)
        for path in (home, home / "table"):
            os.chown(path, 65534, 65534)
        assert run(capsys, *option, f"cdb:{home}/table") == (0, "", "")
        assert os.stat(home / "table.cdb").st_uid == owner
        assert (os.geteuid(), os.getegid()) == (0, 0)


def test_values_from_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "one").write_bytes(b"aaa\n")
    (tmp_path / "two").write_bytes(b"bb")
    (tmp_path / "table").write_text(f"k {tmp_path}/one {tmp_path}/two\nmissing {tmp_path}/three\n")
    name = f"cdb:{tmp_path}/table"
    status, _, err = run(capsys, "-F", name)
    assert status == 0
    assert err == (
        f"postmap: warning: {tmp_path}/table, line 2: open {tmp_path}/three: "
        "No such file or directory: skipping this entry\n"
    )
    assert run(capsys, "-q", "k", name)[1] == "YWFhCgpiYg==\n"
    assert run(capsys, "-F", "-q", "k", name)[1] == "aaa\n\nbb\n"
    (tmp_path / "table").write_text("k plain!\n")
    run(capsys, name)
    status, _, err = run(capsys, "-F", "-q", "k", name)
    assert (status, "malformed BASE64 value: plain!" in err) == (1, True)


def test_several_tables_of_any_type(table: str, capsys: pytest.CaptureFixture[str]) -> None:
    tables = (f"texthash:{table}", "inline:{key2=later, {other=from inline}}", "static:always")
    assert run(capsys, "-q", "-", *tables, stdin="key2\nother\nz\n")[1] == (
        "key2\tvalue2,   more\nother\tfrom inline\nz\talways\n"
    )
    assert run(capsys, "-s", f"texthash:{table}")[1] == "key1\tvalue one\nkey2\tvalue2,   more\n"
    assert run(capsys, "-f", "-q", "Key1", f"texthash:{table}")[1] == "value one\n"
    assert run(capsys, "-f", "-q", "key1", f"texthash:{table}")[0] == 1


def test_inline_tables(capsys: pytest.CaptureFixture[str]) -> None:
    name = "inline:{A=1, b=2, {c=x y}, B=3}"
    assert run(capsys, "-s", name) == (0, "a\t1\nb\t3\nc\tx y\n", "")
    assert run(capsys, "-fs", name) == (0, "A\t1\nb\t2\nc\tx y\nB\t3\n", "")
    assert run(capsys, "-fq", "A", name) == (0, "1\n", "")
    assert run(capsys, "-fq", "a", name)[:2] == (1, "")


def test_without_a_type(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "main.cf").write_text("default_database_type = cdb\n")
    (tmp_path / "master.cf").write_text("")
    (tmp_path / "table").write_text(TEXT)
    for option in ("--config", "-c"):
        assert run(capsys, option, str(tmp_path), f"{tmp_path}/table") == (0, "", "")
        assert os.path.exists(tmp_path / "table.cdb")
        os.unlink(tmp_path / "table.cdb")
    assert not os.path.exists(tmp_path / "table.db")


def test_without_the_library_the_text_is_what_is_read(
    table: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("mailstack.storage.tables.berkeley.library", lambda: None)
    monkeypatch.setattr("mailstack.storage.tables.lmdb_index.available", lambda: False)
    status, _, err = run(capsys, f"hash:{table}")
    assert status == 0
    assert err == (
        f"postmap: warning: {table}.db is not made, {table} is read as it is: "
        "the library libdb-5.3 is not installed\n"
    )
    assert run(capsys, "-q", "key1", f"hash:{table}")[1] == "value one\n"
    status, _, err = run(capsys, f"lmdb:{table}")
    assert status == 1
    assert "unsupported dictionary type: lmdb: the Python package lmdb is not installed" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("cdb:/no/such/table",), "open /no/such/table: No such file or directory"),
        (("-q", "a", "cdb:/no/such/table"), "open database /no/such/table.cdb: No such file or directory"),
        (("-q", "a", "texthash:/no/such/table"), "open /no/such/table: No such file or directory"),
        (("regexp:/dev/null",), "unsupported dictionary type: regexp does not support bulk-mode creation."),
        (("foo:/dev/null",), "unsupported dictionary type: foo"),
        (("-q", "a", "foo:/x"), "unsupported dictionary type: foo"),
        (("-s", "regexp:/x"), "table regexp:/x: sequence operation is not supported"),
        (("-d", "a", "texthash:/x"), "texthash:/x map requires O_RDONLY access mode"),
        (("-i", "static:x"), "static:x map requires O_RDONLY access mode"),
        (("-q", "a", "fail:x"), "table fail:x: query error: Application error"),
        (("-q", "a", "-d", "b", "cdb:/x"), "specify only one of -s -q or -d"),
        (("-s", "-q", "a", "cdb:/x"), "specify only one of -s -q or -d"),
        (("-n", "-N", "cdb:/x"), "specify only one of -n and -N"),
        (("-Z", "cdb:/x"), "option -Z not recognized; usage: postmap"),
        (("-q", "a"), "usage: postmap"),
        ((), "usage: postmap"),
    ],
)
def test_what_goes_wrong(words: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = run(capsys, *words)
    assert (status, out) == (1, "")
    assert err.startswith(f"postmap: fatal: {message}")
    assert err.count("\n") == 1


def test_aliases(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "aliases").write_text(ALIASES)
    name = f"cdb:{tmp_path}/aliases"
    status, _, err = run(capsys, name, aliases=True)
    assert (status, err) == (0, f"postalias: warning: {tmp_path}/aliases, line 4: need name:value pair\n")
    assert run(capsys, "-q", "postmaster", name, aliases=True)[1] == "zs\n"
    listed = run(capsys, "-s", name, aliases=True)[1].splitlines()
    assert listed[:2] == ["postmaster:\tzs", 'list:\ta, "b c"@x.test,  "|/usr/bin/filter"']
    assert [line.partition(":")[0] for line in listed[2:]] == ["@", "YP_LAST_MODIFIED", "YP_MASTER_NAME"]
    assert open_table(name).lookup("POSTMASTER") == "zs"
    status, _, err = run(capsys, "-F", name, aliases=True)
    assert (status, err.startswith("postalias: fatal: ")) == (1, True)


def test_lmdb_map_size_is_where_a_file_begins_to_grow(tmp_path: Path) -> None:
    lmdb = pytest.importorskip("lmdb")
    (tmp_path / "main.cf").write_text("lmdb_map_size = 1048576\n")
    (tmp_path / "small").write_text("k v\n")
    (tmp_path / "large").write_text("".join(f"k{number} {'v' * 400}\n" for number in range(8000)))
    sizes = {}
    for name in ("small", "large"):
        assert postmap.main(["--config", str(tmp_path), f"lmdb:{tmp_path}/{name}"]) == 0
        path = str(tmp_path / f"{name}.lmdb")
        with lmdb.open(path, subdir=False, readonly=True, lock=False, map_size=0) as env:
            sizes[name] = env.info()["map_size"]
    assert sizes["small"] == 1048576 < sizes["large"]
