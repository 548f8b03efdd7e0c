"""Who a user is: names brought to their one form, passdb and userdb look-ups, the Maildir's place.

`Directory` holds what the configuration says about users and answers without waiting (the files are small and
in memory). Raises `Unavailable` for what is not the user's fault: an unreadable file, a home that is missing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mailstack.config.dovecot import Database, DovecotConfig, expand, user_variables
from mailstack.mailbox.auth.passwd_file import Entry, PasswdFile

_UNSUPPORTED_FIELDS = ("allow_nets", "proxy", "proxy_maybe", "host", "master_user", "nologin")
"""passdb fields that restrict or redirect a login: a user who has one is refused rather than let in."""


class Unavailable(Exception):  # noqa: N818  # an answer: "not now"
    """The question cannot be answered now; the text is for the log."""


@dataclass(frozen=True, slots=True)
class User:
    """Somebody who has mail here."""

    name: str
    mail_root: str
    home: str = ""


@dataclass(frozen=True, slots=True)
class Secret:
    """What a passdb knows: the stored password with its default scheme, or that any password will do."""

    user: str
    stored: str = field(repr=False)
    scheme: str = "PLAIN"
    any_password: bool = False


class Directory:
    """The users of one configuration; made anew on reload."""

    def __init__(self, config: DovecotConfig) -> None:
        self._config = config
        self._files: dict[str, PasswdFile] = {}
        self._users: dict[str, User | None] = {}
        self._users_seen: tuple[int, ...] = ()
        for database in (*config.passdbs, *config.userdbs):
            if database.file is not None:
                self._files.setdefault(str(database.file), PasswdFile(database.file))

    def check(self) -> None:
        """Read every file once. Raises `OSError`."""
        for file in self._files.values():
            file.refresh()

    def canonical(self, name: str) -> str | None:
        """The one form of a user name (auth_default_realm, auth_username_format); None: it cannot be one."""
        config = self._config
        if not name or len(name) > 1024 or not name.isprintable():
            return None
        if config.auth_username_chars and not config.auth_username_chars.issuperset(name):
            return None
        if "@" not in name and config.auth_default_realm:
            name = f"{name}@{config.auth_default_realm}"
        if config.auth_username_format:
            name = expand(config.auth_username_format, user_variables(name))
        local, _, domain = name.partition("@")
        if local in ("", ".", "..") or domain in (".", "..") or "/" in name or "\0" in name:
            return None  # such a name could leave the mail root through %n or %d
        return name

    def secret(self, user: str) -> Secret | None:
        """What the first passdb that knows `user` (canonical) says. Raises `Unavailable`."""
        for database in self._config.passdbs:
            if database.file is None:
                fields = _merged(database, None, user)
                return Secret(user, fields.get("password", ""), "PLAIN", _yes(fields, "nopassword"))
            entry = self._entry(database, user)
            if entry is None:
                continue
            fields = _merged(database, entry, user)
            for name in _UNSUPPORTED_FIELDS:
                if name in fields:
                    raise Unavailable(f"{database.where}: field {name} of {user} is not supported")
            name = fields.get("user", user)
            return Secret(
                name,
                fields.get("password", entry.password),
                database.scheme,
                _yes(fields, "nopassword"),
            )
        return None

    def find(self, user: str) -> User | None:
        """The user (canonical name) as the userdb knows it. Raises `Unavailable`."""
        seen = self._generations()
        if seen != self._users_seen or len(self._users) > 10_000:
            self._users.clear()
            self._users_seen = seen
        if user in self._users:
            return self._users[user]
        found = self._find(user)
        self._users[user] = found
        return found

    def _find(self, user: str) -> User | None:
        for database in self._config.userdbs:
            if database.file is None:
                fields = _merged(database, None, user)
                if not _yes(fields, "allow_all_users") and self.secret(user) is None:
                    continue
                return self._user(user, fields)
            entry = self._entry(database, user)
            if entry is not None:
                return self._user(user, _merged_user(database, entry, user))
        if not self._config.userdbs and self.secret(user) is not None:
            return self._user(user, {})
        return None

    def _user(self, user: str, fields: Mapping[str, str]) -> User:
        config = self._config
        home = fields.get("home") or expand(config.mail_home, user_variables(user))
        location = config.mail_location
        if "mail" in fields:
            kind, _, location = fields["mail"].partition(":")
            if kind != "maildir" or ":" in location:
                raise Unavailable(f"userdb field mail of {user}: only maildir:PATH is supported")
        if not home.startswith("/") and (location.startswith("~") or "%h" in location):
            raise Unavailable(f"{user} has no home, which mail_location needs")
        path = expand(location, user_variables(user, home))
        if path == "~" or path.startswith("~/"):
            path = home + path[1:]
        return User(user, path.rstrip("/"), home)

    def _entry(self, database: Database, user: str) -> Entry | None:
        key = expand(database.username_format, user_variables(user)) if database.username_format else user
        try:
            return self._files[str(database.file)].find(key)
        except OSError as error:
            raise Unavailable(f"{database.where}: {database.file}: {error.strerror}") from None

    def _generations(self) -> tuple[int, ...]:
        for file in self._files.values():
            try:
                file.refresh()
            except OSError as error:
                raise Unavailable(f"{file.path}: {error.strerror}") from None
        return tuple(file.generation for file in self._files.values())


def _merged(database: Database, entry: Entry | None, user: str) -> dict[str, str]:
    return _expanded(database, entry.passdb_fields if entry else {}, user)


def _merged_user(database: Database, entry: Entry, user: str) -> dict[str, str]:
    own = dict(entry.userdb_fields)
    if entry.home:
        own["home"] = entry.home
    return _expanded(database, own, user)


def _expanded(database: Database, own: Mapping[str, str], user: str) -> dict[str, str]:
    variables = user_variables(user)
    merged = {name: expand(value, variables) for name, value in (database.fields or {}).items()}
    merged |= own
    return merged | {name: expand(value, variables) for name, value in (database.override or {}).items()}


def _yes(fields: Mapping[str, str], name: str) -> bool:
    """A flag of passdb or userdb: `nopassword`, `nopassword=y`. The word `no` switches it off."""
    return name in fields and fields[name].lower() not in ("no", "n", "0")
