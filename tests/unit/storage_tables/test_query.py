"""Templates of sqlite_table(5) and memcache_table(5), and what a key can do to an SQL query: nothing."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mailstack.storage.tables import TableError, open_table
from mailstack.storage.tables.query import Domains, expand
from mailstack.storage.tables.sqlite import SqliteTable


@pytest.mark.parametrize(
    ("template", "key", "filled"),
    [
        ("%s", "zs@mail.x.test", "zs@mail.x.test"),
        ("%u at %d", "zs@mail.x.test", "zs at mail.x.test"),
        ("%u", "zs", "zs"),
        ("%u", "@x.test", None),
        ("%d", "zs", None),
        ("%1.%2.%3", "zs@mail.x.test", "test.x.mail"),
        ("%4", "zs@mail.x.test", None),
        ("%1", "zs", None),
        ("100%%", "zs", "100%"),
        ("%U %D %S", "zs@x.test", "zs x.test zs@x.test"),
        ("%s", "", None),
        ("%u|%d", "a@b@x.test", "a@b|x.test"),
    ],
)
def test_templates(template: str, key: str, filled: str | None) -> None:
    assert expand(template, key) == filled


def test_a_template_for_what_was_found() -> None:
    assert expand("%s %u %d %U", "key@x.test", "zs@y.test") == "zs@y.test zs y.test key"
    assert expand("smtp:[%s]", "key@x.test", "host") == "smtp:[host]"
    assert expand("%d", "key@x.test", "host") is None


def test_domains(tmp_path: Path) -> None:
    (tmp_path / "names").write_text("# comment\nx.test\n")
    domains = Domains(f"!no.test, {tmp_path}/names inline:{{{{y.test=}}}}", open_table)
    for key, wanted in {
        "zs@x.test": True, "zs@y.test": True, "zs@no.test": False, "zs@z.test": False, "zs": False, "@x.test": False,
    }.items():  # fmt: skip
        assert domains.match(key) is wanted, key
    assert Domains("", open_table).match("anything")


def table(tmp_path: Path, conf: str, warnings: list[str] | None = None) -> SqliteTable:
    database = tmp_path / "data.sqlite"
    if not database.exists():
        with sqlite3.connect(database) as connection:
            connection.execute("CREATE TABLE aliases (name TEXT, target TEXT)")
            connection.executemany(
                "INSERT INTO aliases VALUES (?, ?)",
                [
                    ("zs@x.test", "a@y.test"),
                    ("zs@x.test", "b@y.test"),
                    ("nobody", None),
                    ("seven", 7),
                    ("it's", "q"),
                ],
            )
        connection.close()
    (tmp_path / "conf").write_text(f"dbpath = {database}\n{conf}")
    seen: list[str] = [] if warnings is None else warnings
    return SqliteTable("sqlite:conf", str(tmp_path / "conf"), open_table, seen.append)


QUERY = "query = SELECT target FROM aliases\n  WHERE name = '%s'\n"


@pytest.mark.parametrize(
    ("conf", "key", "value"),
    [
        (QUERY, "zs@x.test", "a@y.test,b@y.test"),
        (QUERY, "ZS@X.test", "a@y.test,b@y.test"),
        (QUERY, "nobody", None),
        (QUERY, "seven", "7"),
        (QUERY, "it's", "q"),
        (QUERY, "' OR 1=1 --", None),
        (QUERY, "nul\0", None),
        (QUERY, "\udcff", None),
        (QUERY + "result_format = %u+%U@%D\n", "zs@x.test", "a+zs@x.test,b+zs@x.test"),
        (QUERY + "expansion_limit = 2\n", "zs@x.test", "a@y.test,b@y.test"),
        (
            "select_field = target\ntable = aliases\nwhere_field = name\nadditional_conditions = and 1 = 1\n",
            "seven",
            "7",
        ),
    ],
)
def test_sqlite(tmp_path: Path, conf: str, key: str, value: str | None) -> None:
    assert table(tmp_path, conf).query(key) == value


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(key=st.text(alphabet=st.sampled_from("'\"\\;-%zs@x.\0\n é"), min_size=1))
def test_no_key_leaves_its_quotes(tmp_path: Path, key: str) -> None:
    found = table(tmp_path, QUERY).query(key)
    assert found is None or key.lower() in ("zs@x.test", "it's")


def test_what_sqlite_refuses(tmp_path: Path) -> None:
    warnings: list[str] = []
    with pytest.raises(TableError, match=r"Expansion limit exceeded for key 'zs@x.test'"):
        table(tmp_path, QUERY + "expansion_limit = 1\nfoo = bar\n", warnings).query("zs@x.test")
    assert "unused parameter: foo=bar" in warnings[0]
    with pytest.raises(TableError, match="no such table: nowhere"):
        table(tmp_path, "query = SELECT a FROM nowhere WHERE b = '%s'\n").query("zs")
    for conf, message in {
        "query = SELECT %x\n": "Invalid parameter expansion: %x",
        "nonsense\n": "missing '='",
        "table = x\n": "parameter select_field is missing",
        QUERY + "expansion_limit = many\n": "bad numerical configuration",
    }.items():
        with pytest.raises(TableError, match=message):
            table(tmp_path, conf)
    with pytest.raises(TableError, match="No such file"):
        SqliteTable("sqlite:x", str(tmp_path / "none"), open_table, warnings.append)


def test_a_database_that_is_replaced_is_opened_again(tmp_path: Path) -> None:
    asked = table(tmp_path, QUERY)
    assert asked.query("seven") == "7"
    (tmp_path / "data.sqlite").rename(tmp_path / "old")
    with pytest.raises(TableError, match="No such file"):
        asked.query("seven")
    with sqlite3.connect(tmp_path / "data.sqlite") as connection:
        connection.execute("CREATE TABLE aliases AS SELECT 'seven' AS name, '8' AS target")
    connection.close()
    assert asked.query("seven") == "8"
