"""Who a user is: names brought to their one form, userdb look-ups, the Maildir's place.

`Directory` holds what the configuration says about users and answers without waiting: files are in memory,
and SQLite is given `SQL_TIMEOUT` where nobody can wait for it. Raises `Unavailable` for what is not the
user's fault: an unreadable file, a home that is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from mailstack.config.dovecot import Database, DovecotConfig, MailLocation, parse_location
from mailstack.config.dovecot.variables import expand, user_values
from mailstack.mailbox.auth.places import mail_root, root_of
from mailstack.mailbox.auth.rows import Files, full_name, merged, sql_row, yes
from mailstack.mailbox.auth.rows import Unavailable as Unavailable
from mailstack.storage.maildir.roots import MailRoot

SQL_TIMEOUT = 0.02
SESSION_SQL_TIMEOUT = 5.0


@dataclass(frozen=True, slots=True)
class User:
    """Somebody who has mail here."""

    name: str
    mail_root: str
    home: str = ""
    quota_rules: tuple[tuple[str, str], ...] = ()
    """The fields `quota_rule`…, as they stand."""


class Directory:
    """The users of one configuration; made anew on reload."""

    def __init__(self, config: DovecotConfig) -> None:
        self._config = config
        self.files = Files()
        self._passdbs = [one for one in config.passdbs if not (one.master or one.deny)]
        self.translation = str.maketrans(dict(config.auth_username_translation))
        self.waits = any(one.sql is not None for one in (*config.passdbs, *config.userdbs))
        """Whether a question may take time."""
        self.report: Callable[[str], None] = lambda text: None
        """Told of ACL files that cannot be read."""

    def check(self) -> None:
        """Read every file once. Raises `Unavailable`."""
        for database in (*self._config.passdbs, *self._config.userdbs):
            if database.file is not None and "%" not in str(database.file):
                self.files.entry(database, user_values("nobody"))

    def canonical(self, name: str, form: str | None = None) -> str | None:
        """The one form of a user name (auth_username_translation, auth_default_realm, auth_username_format,
        or `form` in its place); None: it cannot be one."""
        config = self._config
        if not name or len(name) > 1024 or not name.isprintable():
            return None
        name = name.translate(self.translation)
        if config.auth_username_chars and not config.auth_username_chars.issuperset(name):
            return None
        if "@" not in name and config.auth_default_realm:
            name = f"{name}@{config.auth_default_realm}"
        form = config.auth_username_format if form is None else form
        if form:
            name = expand(form, user_values(name))
        local, _, domain = name.partition("@")
        if local in ("", ".", "..") or domain in (".", "..") or "/" in name or "\0" in name:
            return None  # such a name could leave the mail root through %n or %d
        return name

    def find(
        self, user: str, prefetched: Mapping[str, str] | None = None, timeout: float = SQL_TIMEOUT
    ) -> User | None:
        """The user (canonical name) as the userdbs know it; `prefetched`: the passdb's `userdb_` fields.

        Raises `Unavailable`.
        """
        trouble: Unavailable | None = None
        fields: dict[str, str] | None = None
        for database in self._config.userdbs:
            if fields is not None if database.skip == "authenticated" else False:
                continue
            if database.skip == "unauthenticated" and fields is None:
                continue
            try:
                found = self._fields(database, user, prefetched, timeout)
            except Unavailable as error:
                trouble = error
                rule = database.result_internalfail
            else:
                if found is not None:
                    fields = {**(fields or {}), **found}
                rule = database.result_failure if found is None else database.result_success
            if rule == "return-fail":
                fields = None
            if rule.startswith("return"):
                break
            if rule == "continue-fail":
                fields = None
        if fields is not None:
            return self._user(full_name(fields, user), fields)
        if trouble is not None:
            raise trouble
        if not self._config.userdbs and self.exists(user, timeout):
            return self._user(user, {})
        return None

    def exists(self, user: str, timeout: float = SQL_TIMEOUT) -> bool:
        """Whether a passdb knows the user. Raises `Unavailable`."""
        values = user_values(user)
        for database in self._passdbs:
            if database.driver == "static":
                return True
            if database.file is not None and self.files.entry(database, values) is not None:
                return True
            if database.sql is not None and sql_row(database, values, timeout) is not None:
                return True
        return False

    def anonymous(self) -> User:
        """The user whom ANONYMOUS gives. Raises `Unavailable`."""
        name = self._config.auth_anonymous_username
        user = self.find(name)
        if user is None:
            raise Unavailable(f"auth_anonymous_username {name} is in no userdb")
        return user

    def _fields(
        self, database: Database, user: str, prefetched: Mapping[str, str] | None, timeout: float
    ) -> dict[str, str] | None:
        values = user_values(user)
        if database.driver == "prefetch":
            return merged(database, prefetched, values) if prefetched else None
        if database.file is not None:
            entry = self.files.entry(database, values)
            if entry is None:
                return None
            own = dict(entry.userdb_fields)
            if entry.home:
                own["home"] = entry.home
            return merged(database, own, values)
        if database.sql is not None:
            row = sql_row(database, values, timeout)
            return None if row is None else merged(database, row, values)
        fields = merged(database, {}, values)
        # prefetched: the passdb has just let this user in.
        if prefetched is None and not yes(fields, "allow_all_users") and not self.exists(user, timeout):
            return None
        return fields

    def _other_root(self, location: MailLocation, name: str) -> MailRoot | None:
        """Where the mail of another user lies, by the location of a shared namespace; None: nobody's."""
        user = self.canonical(name)
        try:
            found = self.find(user) if user else None
            if found is None:
                return None
            root = root_of(location, found.name, found.home)
        except Unavailable as error:
            self.report(f"shared namespace: {error}")
            return None
        return root if isinstance(root, MailRoot) else MailRoot(root)

    def _user(self, user: str, fields: Mapping[str, str]) -> User:
        config = self._config
        home = fields.get("home") or expand(config.mail_home, user_values(user))
        location = config.mail_layout
        if "mail" in fields:
            try:
                location = parse_location(fields["mail"])
            except ValueError as error:
                raise Unavailable(f"userdb field mail of {user}: {error}") from None

        groups = tuple(fields.get("acl_groups", "").replace(",", " ").split())
        root = mail_root(config, location, user, home, groups, self._other_root, self.report)
        rules = tuple(item for item in fields.items() if item[0].startswith("quota_rule"))
        return User(user, root, home, rules)
