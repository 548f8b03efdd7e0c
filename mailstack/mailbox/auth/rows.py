"""What a passdb or userdb holds of one user: fields by name, whatever the driver.

`Files` keeps the passwd-files that have been read. A question to SQLite opens the database anew (a tenth of a
millisecond), so that a file which has been replaced is seen; it is asked in a thread where a session waits.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mailstack.config.dovecot import Database
from mailstack.config.dovecot.variables import expand, user_values
from mailstack.mailbox.auth.passwd_file import Entry, PasswdFile

FILES_LIMIT = 256
"""passwd-files that are kept in memory: `args = /etc/auth/%d/users` names one for each domain."""


class Unavailable(Exception):  # noqa: N818  # an answer: "not now"
    """The question cannot be answered now; the text is for the log."""


class Files:
    """The passwd-files of one configuration."""

    def __init__(self) -> None:
        self._files: dict[str, PasswdFile] = {}

    def entry(self, database: Database, values: Mapping[str, str]) -> Entry | None:
        """The user's line, or None. Raises `Unavailable`."""
        path = expand(str(database.file), values)
        key = expand(database.username_format, values) if database.username_format else values["user"]
        file = self._files.get(path)
        if file is None:
            if len(self._files) >= FILES_LIMIT:
                del self._files[next(iter(self._files))]
            file = self._files[path] = PasswdFile(Path(path))
        try:
            return file.find(key)
        except (FileNotFoundError, IsADirectoryError):
            if path != str(database.file):
                return None  # a domain that has no file has no users
            raise Unavailable(f"{database.where}: {path}: No such file or directory") from None
        except OSError as error:
            raise Unavailable(f"{database.where}: {path}: {error.strerror}") from None

    def some_password(self, database: Database) -> str:
        """A stored password of that file, of anybody; empty where there is none."""
        file = self._files.get(str(database.file))
        return file.some_password() if file is not None else ""


def sql_row(database: Database, values: Mapping[str, str], timeout: float) -> dict[str, str] | None:
    """The first row of the database's query; a column that is NULL is not there. Raises `Unavailable`.

    `timeout`: seconds to wait for another program's lock.
    """
    import sqlite3  # only where it is configured

    assert database.sql is not None
    statement = expand(database.sql.query, values, lambda value: value.replace("'", "''"))
    try:
        connection = sqlite3.connect(f"file:{_quoted(database.sql.path)}?mode=ro", timeout=timeout, uri=True)
        try:
            cursor = connection.execute(statement)
            row = cursor.fetchone()
            names = [column[0] for column in cursor.description or ()]
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise Unavailable(f"{database.where}: {database.sql.path}: {error}") from None
    if row is None:
        return None
    return {name: _text(value) for name, value in zip(names, row, strict=True) if value is not None}


def merged(database: Database, own: Mapping[str, str], values: Mapping[str, str]) -> dict[str, str]:
    """default_fields, then the entry's own, then override_fields; `name:protected` yields to what is there,
    `name:remove` takes it away."""
    found = {name: expand(value, values) for name, value in (database.fields or {}).items()}
    for name, value in own.items():
        _put(found, name, value)
    if "user" in found or "username" in found or "domain" in found:
        values = {**values, **user_values(full_name(found, values["user"]))}
    for name, value in (database.override or {}).items():
        _put(found, name, expand(value, values))
    return found


def _put(fields: dict[str, str], name: str, value: str) -> None:
    name, _, suffix = name.partition(":")
    if suffix == "remove":
        fields.pop(name, None)
    elif suffix == "protected":
        fields.setdefault(name, value)
    else:
        fields[name] = value


def yes(fields: Mapping[str, str], name: str) -> bool:
    """A flag: `nopassword`, `nopassword=y`. The word `no` switches it off."""
    return name in fields and fields[name].lower() not in ("no", "n", "0")


def full_name(fields: Mapping[str, str], user: str) -> str:
    """The user's name as a database says it is: `user`, or `username` and `domain`."""
    if "user" in fields:
        return fields["user"]
    if "username" in fields:
        domain = fields.get("domain", user.partition("@")[2])
        return f"{fields['username']}@{domain}" if domain else fields["username"]
    if "domain" in fields:
        return f"{user.partition('@')[0]}@{fields['domain']}"
    return user


def _text(value: object) -> str:
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else str(value)


def _quoted(path: Path) -> str:
    from urllib.parse import quote

    return quote(str(path))
