"""sqlite: tables: a database and the query to ask it (sqlite_table(5)).

What is put into the query stands between the quotes of the template with its own quotes doubled, so that no
key can leave them. `query` blocks for as long as the database takes: it belongs into a thread
(mta/lookup.py). The database is opened for reading only, at the first query, and again when the file is
replaced.
"""

from __future__ import annotations

import os
import sqlite3
from urllib.parse import quote as url_quote

from mailstack.storage.tables.query import ConfigFile, Domains, check_template, expand
from mailstack.storage.tables.text import Opener, TableError, Warn

_KNOWN = frozenset((
    "dbpath", "query", "result_format", "domain", "expansion_limit",
    "select_field", "table", "where_field", "additional_conditions",
))  # fmt: skip
BUSY = 5.0
"""Seconds to wait for another process that writes."""


class SqliteTable:
    """One database and one query. Raises `TableError` for a configuration file that cannot be used."""

    def __init__(self, name: str, path: str, opener: Opener, warn: Warn) -> None:
        try:
            conf = ConfigFile(name, path, _KNOWN, warn)
            self.domains = Domains(conf.text("domain", ""), opener)
        except OSError as error:
            raise TableError(f"open {name}: {error.strerror or error}") from None
        self._name = name
        self._database = conf.text("dbpath")
        if not self._database.startswith("/"):
            raise TableError(f"{path}: dbpath must begin with /: {self._database}")
        template = conf.text("query", "")
        if not template:  # of the parameters that were there before `query`
            template = "SELECT {} FROM {} WHERE {} = '%s' {}".format(  # noqa: S608 - an administrator's text
                *(conf.text(part) for part in ("select_field", "table", "where_field")),
                conf.text("additional_conditions", ""),
            )
        self._query = check_template(path, "query", template)
        self._format = check_template(path, "result_format", conf.text("result_format", "%s"))
        self._limit = conf.number("expansion_limit", 0)
        self._connection: sqlite3.Connection | None = None
        self._inode = (0, 0)

    def query(self, key: str) -> str | None:
        """The rows' first columns through `result_format`, with commas between. Raises `TableError`.

        `domains` is not looked at: it may be made of tables that are slow themselves.
        """
        key = key.lower()
        statement = expand(self._query, key, quote=_quote)
        if statement is None or "\0" in key or not _is_text(key):
            return None
        results: list[str] = []
        try:
            for row in self._open().execute(statement):
                value = expand(self._format, key, "" if row[0] is None else str(row[0]))
                if value is None:
                    continue
                results.append(value)
                if self._limit and len(results) > self._limit:
                    raise TableError(f"{self._name}: Expansion limit exceeded for key '{key}'")
        except (sqlite3.Error, sqlite3.Warning) as error:
            self.close()
            raise TableError(f"{self._name}: {error}: while performing query: {statement}") from None
        return ",".join(results) or None

    def _open(self) -> sqlite3.Connection:
        try:
            stat = os.stat(self._database)
        except OSError as error:
            self.close()
            raise TableError(f"{self._name}: {self._database}: {error.strerror or error}") from None
        inode = (stat.st_dev, stat.st_ino)
        if self._connection is None or inode != self._inode:
            self.close()
            self._connection = sqlite3.connect(
                f"file:{url_quote(self._database)}?mode=ro", uri=True, timeout=BUSY, check_same_thread=False
            )
            self._connection.text_factory = lambda octets: octets.decode("utf-8", "surrogateescape")
            self._inode = inode
        return self._connection

    def interrupt(self) -> None:
        """Have the query that another thread waits for fail."""
        if self._connection is not None:
            self._connection.interrupt()

    def close(self) -> None:
        """Let go of the database."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def __del__(self) -> None:
        if hasattr(self, "_connection"):
            self.close()


def _quote(text: str) -> str:
    return text.replace("'", "''")


def _is_text(key: str) -> bool:
    try:
        key.encode()
    except UnicodeEncodeError:
        return False
    return True
