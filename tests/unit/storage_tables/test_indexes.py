"""Indexes: what is written is read back, the index goes before its source, and what is wrong with one is told."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailstack.storage.tables import TableError, open_table
from mailstack.storage.tables.berkeley import library
from mailstack.storage.tables.cdb import CdbIndex, write
from mailstack.storage.tables.files import INDEXED, Indexed
from mailstack.storage.tables.lmdb_index import available
from mailstack.storage.tables.make import WRITABLE, Editor, index_items, make_index

records = st.dictionaries(st.binary(min_size=1, max_size=40), st.binary(max_size=200), max_size=50)


def kinds() -> list[object]:
    """Those that can be made here; the others are skipped by name."""
    missing = {
        "lmdb": "" if available() else "needs the Python package lmdb",
        "hash": "" if library() else "needs libdb-5.3",
        "btree": "" if library() else "needs libdb-5.3",
    }
    return [
        pytest.param(kind, marks=pytest.mark.skipif(bool(missing.get(kind)), reason=missing.get(kind, "")))
        for kind in WRITABLE
    ]


@given(records, st.binary(min_size=1, max_size=40))
def test_cdb_gives_back_what_it_was_given(entries: dict[bytes, bytes], other: bytes) -> None:
    file = io.BytesIO()
    write(file, entries.items())
    path = Path(os.environ["XDG_STATE_HOME"]).with_name("cdb")
    path.write_bytes(file.getvalue())
    index = CdbIndex(str(path))
    assert dict(index.items()) == entries
    assert {key: index.get(key) for key in entries} == entries
    assert index.get(other) == entries.get(other)


@given(st.binary(max_size=4000))
def test_a_damaged_cdb_is_an_error_and_nothing_worse(data: bytes) -> None:
    path = Path(os.environ["XDG_STATE_HOME"]).with_name("damaged")
    file = io.BytesIO()
    write(file, [(b"a", b"b"), (b"c", b"d")])
    whole = file.getvalue()
    path.write_bytes(bytes(a ^ b for a, b in zip(whole, data.ljust(len(whole), b"\0"), strict=False)))
    try:
        index = CdbIndex(str(path))
        index.get(b"a")
        for _ in zip(index.items(), range(100), strict=False):
            pass
    except TableError as error:
        assert str(path) in str(error)


@pytest.mark.parametrize("kind", kinds())
@settings(max_examples=20)
@given(records)
def test_every_index_gives_back_what_it_was_given(kind: str, entries: dict[bytes, bytes]) -> None:
    path = str(Path(os.environ["XDG_STATE_HOME"]).with_name("table"))
    ended = [(key + b"\1\0", value + b"\1\0") for key, value in entries.items()]
    make_index(kind, path, ended, mode=0o640)
    assert dict(index_items(kind, path)) == {key + b"\1": value + b"\1" for key, value in entries.items()}
    assert os.stat(path + INDEXED[kind]).st_mode & 0o777 == 0o640


@pytest.mark.parametrize("kind", kinds())
def test_the_index_goes_before_its_source_and_is_read_again(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr("mailstack.storage.tables.files.time.monotonic", lambda: now[0])
    source = tmp_path / "table"
    source.write_text("Key of the source\n")
    table = open_table(f"{kind}:{source}")
    assert table.lookup("key") == "of the source"
    for value in ("of the index", "of another index"):
        make_index(kind, str(source), [(b"key\0", value.encode() + b"\0"), (b"bare", b"no end")], mode=0o600)
        now[0] += 2
        assert table.lookup("KEY") == value
        assert table.lookup("bare") == "no end"
        assert table.lookup("of") is None
        assert table.lookup("k" * 5000) is None
    os.unlink(source)
    now[0] += 2
    assert table.lookup("key") == "of another index"
    os.unlink(f"{source}{INDEXED[kind]}")
    now[0] += 2
    with pytest.raises(FileNotFoundError):
        table.lookup("key")


@pytest.mark.parametrize("kind", kinds())
def test_single_records(tmp_path: Path, kind: str) -> None:
    path = str(tmp_path / "table")
    make_index(kind, path, [(b"a\0", b"1\0"), (b"b\0", b"2\0")], mode=0o600)
    if kind == "cdb":
        with pytest.raises(TableError, match="inappropriate open flags"):
            Editor(kind, path)
        return
    editor = Editor(kind, path)
    assert editor.put(b"c\0", b"3\0", replace=False)
    assert not editor.put(b"a\0", b"x\0", replace=False)
    assert editor.put(b"b\0", b"new\0", replace=True)
    assert editor.delete(b"a")
    assert not editor.delete(b"a")
    editor.close()
    assert dict(index_items(kind, path)) == {b"b": b"new", b"c": b"3"}


@pytest.mark.parametrize("kind", kinds())
def test_an_index_that_is_none(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "table"
    Path(f"{path}{INDEXED[kind]}").write_bytes(b"neither here nor there")
    with pytest.raises((TableError, OSError)):
        open_table(f"{kind}:{path}").lookup("a")


def test_what_cannot_be_written_leaves_the_old_index(tmp_path: Path) -> None:
    path = str(tmp_path / "table")
    make_index("cdb", path, [(b"a", b"1")], mode=0o600)

    def broken() -> object:
        yield b"a", b"2"
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        make_index("cdb", path, broken(), mode=0o600)  # type: ignore[arg-type]
    assert dict(index_items("cdb", path)) == {b"a": b"1"}
    assert os.listdir(tmp_path) == ["table.cdb"]


def test_an_index_older_than_its_source_is_warned_about_once(tmp_path: Path) -> None:
    source = tmp_path / "table"
    source.write_text("key new\n")
    make_index("cdb", str(source), [(b"key", b"old")], mode=0o600)
    os.utime(f"{source}.cdb", (1000, 1000))
    warnings: list[str] = []
    table = Indexed("cdb:x", "cdb", str(source), warnings.append)
    assert table.lookup("key") == "old"
    assert warnings == []  # somebody may just be at work
    os.utime(source, (2000, 2000))
    table = Indexed("cdb:x", "cdb", str(source), warnings.append)
    for _ in range(3):
        table._checked = -1e9
        table.lookup("key")
    assert warnings == [f"database {source}.cdb is older than source file {source}"]


@pytest.mark.parametrize(
    ("kind", "module", "missing"),
    [
        ("lmdb", "mailstack.storage.tables.lmdb_index.available", "Python package lmdb is not installed"),
        ("hash", "mailstack.storage.tables.berkeley.library", "library libdb-5.3 is not installed"),
    ],
)
def test_without_the_library_the_source_is_read(
    tmp_path: Path, kind: str, module: str, missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, lambda: None)
    source = tmp_path / "table"
    Path(f"{source}{INDEXED[kind]}").write_bytes(b"whatever")
    with pytest.raises(TableError, match=missing):
        open_table(f"{kind}:{source}").lookup("key")
    source.write_text("key of the source\n")
    assert open_table(f"{kind}:{source}").lookup("key") == "of the source"
