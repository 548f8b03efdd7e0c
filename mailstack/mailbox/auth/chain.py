"""The passdbs of a configuration, asked one after the other (doc.dovecot.org, Password Databases).

A database knows the user and the password, or not; `result_success`, `result_failure` and
`result_internalfail` say what follows from that. Behind a success that goes on (`continue`, `continue-ok`)
passwords are not looked at again. With `deny = yes` whoever is found is out. The fields of all that succeeded
are put together, later ones win.
"""

from __future__ import annotations

import asyncio
import fnmatch
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from mailstack.config.dovecot import Database, DovecotConfig
from mailstack.config.dovecot.variables import user_values
from mailstack.mailbox.auth.oauth2 import TokenError
from mailstack.mailbox.auth.oauth2 import check as check_token
from mailstack.mailbox.auth.outcome import Client
from mailstack.mailbox.auth.rows import Unavailable, full_name, merged, sql_row, yes
from mailstack.mailbox.auth.schemes import SchemeError, Stored, parse
from mailstack.mailbox.auth.users import SESSION_SQL_TIMEOUT, Directory

Verify = Callable[[str, str, str, str], Awaitable[bool]]
"""Whether a password fits: user, stored, default scheme, password. Raises `SchemeError`."""
_UNKNOWN, _MISMATCH = "unknown user", "Password mismatch"


@dataclass(slots=True)
class Found:
    """What the chain has come to."""

    user: str
    known: bool = False
    """Some database has the user."""
    verified: bool = False
    """Some database has found the password good, whatever follows from that."""
    good: bool = False
    why: str = _UNKNOWN
    trouble: str = ""
    """What went wrong that is not the user's fault."""
    fields: dict[str, str] = field(default_factory=dict)
    stored: Stored | None = None
    stored_text: str = field(default="", repr=False)
    token: bool = False
    """A bearer token was looked at."""
    reports: list[tuple[str, str]] = field(default_factory=list)
    """Driver and reason of each failure that is to be logged."""

    @property
    def userdb(self) -> dict[str, str]:
        """The fields for a userdb of driver prefetch."""
        return {
            name.removeprefix("userdb_"): value
            for name, value in self.fields.items()
            if name.startswith("userdb_")
        }


class Chain:
    """The passdbs of one configuration, ordinary ones or (`master`) those of master users."""

    def __init__(self, config: DovecotConfig, directory: Directory, verify: Verify, *, master: bool) -> None:
        self.databases = [one for one in config.passdbs if one.master is master]
        self._directory = directory
        self._verify = verify
        self._verbose = config.auth_verbose

    async def run(
        self, user: str, password: str | None, mechanism: str, client: Client, more: Mapping[str, str]
    ) -> Found:
        """Look for `user` (canonical). `password` None: for what is stored, which is not compared.

        `more`: further variables (auth_user, login_user…).
        """
        found = Found(user)
        compare = password is not None
        for database in self.databases:
            if not self._applies(database, found, mechanism):
                continue
            values = {**_values(found.user, client, mechanism), **more}
            try:
                good = await self._ask(database, found, values, password if compare else None)
            except (Unavailable, SchemeError) as error:
                found.trouble = str(error)
                rule = database.result_internalfail
            else:
                rule = database.result_success if good else database.result_failure
                if good and database.deny:
                    rule = "return-fail"
                found.verified = found.verified or (good and not database.deny)
                compare = compare and not good
            if rule in ("return-ok", "continue-ok"):
                found.good = True
            elif rule in ("return-fail", "continue-fail"):
                found.good = False
            if rule.startswith("return"):
                break
        return found

    def _applies(self, database: Database, found: Found, mechanism: str) -> bool:
        if database.skip == "authenticated" and found.good:
            return False
        if database.skip == "unauthenticated" and not found.good:
            return False
        if database.mechanisms and mechanism not in database.mechanisms:
            return False
        return not database.username_filter or _matches(found.user, database.username_filter)

    async def _ask(
        self, database: Database, found: Found, values: Mapping[str, str], password: str | None
    ) -> bool:
        """Whether one database lets the user in; with `deny`, whether it keeps the user out."""
        if database.oauth2 is not None:
            why = await self._token(database, found, password)
        else:
            row = await self._row(database, values)
            if database.deny:
                if row is not None:
                    self._report(database, found, "User found from deny passdb")
                return row is not None
            if row is None:
                why = _UNKNOWN
            else:
                found.known = True
                why = await self._fits(database, found, row, password)
                if not why:
                    found.user = full_name(row, found.user)
                    found.fields.update(row)
        if why:
            self._report(database, found, why)
        else:
            found.why = ""
        return not why

    async def _fits(
        self, database: Database, found: Found, row: Mapping[str, str], password: str | None
    ) -> str:
        """Why the password does not fit; empty: it does, or is not looked at."""
        stored, scheme = row.get("password", ""), database.scheme if database.driver != "static" else "PLAIN"
        if yes(row, "nopassword"):
            return ""
        if password is None:
            if stored and found.stored is None:
                found.stored, found.stored_text = parse(stored, scheme), stored
            return ""
        if not stored:
            return "no password, and no nopassword"
        return "" if await self._verify(found.user, stored, scheme, password) else _MISMATCH

    async def _row(self, database: Database, values: Mapping[str, str]) -> dict[str, str] | None:
        if database.file is not None:
            entry = self._directory.files.entry(database, values)
            if entry is None:
                return None
            userdb = {f"userdb_{name}": value for name, value in entry.userdb_fields.items()}
            own = {"password": entry.password, **userdb, **entry.passdb_fields}
        elif database.sql is not None:
            loop = asyncio.get_running_loop()
            row = await loop.run_in_executor(None, sql_row, database, values, SESSION_SQL_TIMEOUT)
            if row is None:
                return None
            own = row
        else:
            own = {}
        return merged(database, own, values)

    async def _token(self, database: Database, found: Found, token: str | None) -> str:
        assert database.oauth2 is not None
        if token is None:
            return "no token"
        found.token = True
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(None, check_token, token, found.user, database.oauth2, time.time())
        except TokenError as error:
            return f"token refused: {error}"
        found.known = True
        found.fields.update(merged(database, {}, user_values(found.user)))
        return ""

    def _report(self, database: Database, found: Found, why: str) -> None:
        if why != _UNKNOWN or not found.why:
            found.why = why
        verbose = self._verbose if database.auth_verbose is None else database.auth_verbose
        if verbose:
            found.reports.append((database.driver, why))


def _matches(user: str, patterns: tuple[str, ...]) -> bool:
    """username_filter: `*@a.test !x@a.test`."""
    wanted = [pattern for pattern in patterns if not pattern.startswith("!")]
    if any(fnmatch.fnmatchcase(user, pattern[1:]) for pattern in patterns if pattern.startswith("!")):
        return False
    return not wanted or any(fnmatch.fnmatchcase(user, pattern) for pattern in wanted)


def _values(user: str, client: Client, mechanism: str) -> dict[str, str]:
    return {
        **user_values(user),
        "service": client.service,
        "rip": client.rip,
        "lip": client.lip,
        "rport": str(client.rport or ""),
        "lport": str(client.lport or ""),
        "mech": mechanism,
        "secured": "secured" if client.secured else "",
        "cert": "valid" if client.verified else "",
        "session": client.session,
    }
