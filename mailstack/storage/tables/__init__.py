"""Lookup tables in Postfix's syntax (`type:name`): opened once, read again when their file changes.

| type | name | what is read |
|---|---|---|
| hash, btree, lmdb, cdb, dbm | file | the index that postmap(1) has made, else its source text |
| texthash | file | `key value` lines (postmap(1)) |
| regexp, pcre | file | `/pattern/flags value` lines (regexp_table(5), pcre_table(5)) |
| cidr | file | `network/prefix value` lines (cidr_table(5)) |
| regexp, pcre, cidr | `{ { line }, { line } }` | the same lines, in main.cf itself |
| inline | `{ key = value, { key = value with spaces } }` | |
| static | the value of every key; `{text with spaces}` | |
| unix | passwd.byname, group.byname | the accounts and groups of this machine |
| environ | anything | the variables of this process |
| fail | anything | a table that always fails |
| pipemap, unionmap, randmap | `{ type:name, … }` | other tables |

`proxy:` in front is dropped: there is no proxymap. Tables that have to be waited for (sqlite, tcp, socketmap,
memcache, nis) come from `others`: mta/lookup.py. Keys of indexed files are folded to lower case, as postmap
folds them.

A table whose index is there is read from its index, as in Postfix; `hash:` and `btree:` where libdb 5.3 is
installed, `lmdb:` where the Python package `lmdb` is. Otherwise the source text is read, and postmap need not
be run. An index that is older than its source is warned about.

`open_table` raises `TableError` for what cannot be a table; `lookup` raises `OSError` when a file cannot be
read and `TableError` (with file and line) when it cannot be understood.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from mailstack.storage.tables import simple
from mailstack.storage.tables.files import (
    INDEXED,
    Indexed,
    TextFile,
    parse_aliases,
    parser,
)
from mailstack.storage.tables.fresh import CHECK_INTERVAL, look_again
from mailstack.storage.tables.text import Opener, Table, TableError, Warn, to_stderr

__all__ = [
    "CHECK_INTERVAL",
    "INDEXED",
    "Factory",
    "Opener",
    "Table",
    "TableError",
    "Warn",
    "look_again",
    "open_table",
    "parse_aliases",
    "to_stderr",
]

Factory = Callable[[str, str, Opener], Table]
"""Makes a table of its full name and what stands behind the type; opens others with the third."""

REFUSED = {
    "ldap": "there is no LDAP client here; export the entries to a texthash or lmdb table",
    "mysql": "there is no MySQL client here; sqlite, socketmap and tcp tables are known",
    "pgsql": "there is no PostgreSQL client here; sqlite, socketmap and tcp tables are known",
    "mongodb": "there is no MongoDB client here; sqlite, socketmap and tcp tables are known",
    "nisplus": "NIS+ has been withdrawn by its makers and no system has its tools",
    "sdbm": "the format is Apache's; use lmdb or cdb",
    "internal": "it is for programs that keep a table in memory",
}
_SIMPLE = {
    "static": simple.static,
    "inline": simple.inline,
    "environ": simple.environ,
    "fail": simple.fail,
    "unix": simple.unix,
    "randmap": simple.randmap,
}
_RULES = frozenset(("cidr", "regexp", "pcre"))
_TEXT = frozenset(("texthash", "cidr", "regexp", "pcre"))


def open_table(name: str, *, warn: Warn = to_stderr, others: Mapping[str, Factory] | None = None) -> Table:
    """The table that main.cf calls `type:name`; a name without a type is a hash file. Raises `TableError`.

    `warn` takes what is wrong with single lines; `others` makes types that are not known here, or that are to
    be made otherwise.
    """
    kind, colon, rest = name.partition(":")
    if not colon:
        kind, rest = "hash", name
    rest = rest.strip()
    opener = partial(open_table, warn=warn, others=others)
    if kind == "proxy":
        return opener(rest)
    if others is not None and kind in others:
        return others[kind](name, rest, opener)
    if kind in _SIMPLE:
        return _SIMPLE[kind](name, rest)
    if kind == "pipemap":
        return simple.pipemap(name, rest, opener)
    if kind == "unionmap":
        return simple.unionmap(name, rest, opener)
    if kind in REFUSED:
        raise TableError(f"unsupported dictionary type: {kind} ({name}): {REFUSED[kind]}")
    if kind in _RULES and rest.startswith("{"):
        return simple.rules(name, rest, parser(kind), warn)
    if kind not in INDEXED and kind not in _TEXT:
        raise TableError(f"unsupported dictionary type: {kind} ({name})")
    if not rest.startswith("/"):
        raise TableError(f"open {name}: the file's name must begin with /")
    if kind in INDEXED:
        return Indexed(name, kind, rest, warn)
    return TextFile(name, kind, rest, warn)
