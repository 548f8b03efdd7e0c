"""passdbs and userdbs beside plain files: SQLite, prefetch, fields that restrict, guessing at the whole."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import pytest

from mailstack.config.dovecot.variables import expand, unknown
from mailstack.mailbox.auth import Authenticator, Client, Denied, NoLogin, Refused, User, schemes
from mailstack.mailbox.auth.guard import LOCK_TIME, USER_FAILURES
from mailstack.wire.sasl import Credentials
from tests.mailbox import CONFIG, running

SQL = """\
driver = sqlite
connect = {folder}/users.db
default_pass_scheme = PLAIN
password_query = SELECT username, domain, password, nets AS allow_nets, \\
  '{folder}/sql/' || username AS userdb_home \\
  FROM users WHERE username = '%n' AND domain = '%d'
user_query = SELECT '{folder}/sql/' || username AS home FROM users WHERE username = '%n' AND domain = '%d'
"""
BASE = CONFIG[: CONFIG.index("passdb {")]


def database(folder: Path) -> None:
    (folder / "sql.conf.ext").write_text(SQL.format(folder=folder))
    with sqlite3.connect(folder / "users.db") as made:
        made.execute("CREATE TABLE users (username, domain, password, nets)")
        rows = [
            ("zs", "mail.test", "secret", None),
            ("o'hara", "mail.test", "{SSHA}6hOwwnw+C5RioeOb+xD70Kmv5AttUJGX", None),
            ("near", "mail.test", "secret", "192.0.2.0/24"),
        ]
        made.executemany("INSERT INTO users VALUES (?, ?, ?, ?)", rows)
    made.close()


@pytest.mark.parametrize("userdb", ["driver = sql\n  args = sql.conf.ext", "driver = prefetch"])
def test_users_of_a_sqlite_database(tmp_path: Path, userdb: str) -> None:
    database(tmp_path)
    text = f"{BASE}auth_username_chars =\npassdb {{\n  driver = sql\n  args = sql.conf.ext\n}}\nuserdb {{\n  {userdb}\n}}\n"

    async def check() -> None:
        async with running(tmp_path, text, whole=True) as mailbox:
            auth = mailbox.service.auth

            async def ask(user: str, password: str, rip: str = "192.0.2.1") -> User | Refused:
                return await auth.check(Credentials("", user, password), Client("imap", rip))

            home = f"{tmp_path}/sql/zs"
            assert await ask("zs", "secret") == User("zs@mail.test", home, home)
            assert await ask("zs", "wrong") is Denied.CREDENTIALS
            found = await ask("o'hara", "secret")
            assert isinstance(found, User)
            assert await ask("' OR '1' = '1", "secret") is Denied.CREDENTIALS
            assert isinstance(await ask("near", "secret"), User)
            assert await ask("near", "secret", "198.51.100.1") is Denied.CREDENTIALS
            (tmp_path / "users.db").unlink()
            assert await ask("zs", "secret") is Denied.UNAVAILABLE
            assert "unable to open database file" in mailbox.log()

    asyncio.run(check())


def test_fields_that_restrict(tmp_path: Path) -> None:
    users = (
        "net@mail.test:{PLAIN}x::::::allow_nets=10.0.0.0/8,local\n"
        "no@mail.test:{PLAIN}x::::::nologin\n"
        "away@mail.test:{PLAIN}x::::::proxy host=other.test\n"
        "both@mail.test:{PLAIN}x::::::host=other.test\n"
        "gone@mail.test:{PLAIN}x::::::user_disabled\n"
        "old@mail.test:{PLAIN}x::::::pass_expired\n"
    )

    async def check() -> None:
        async with running(tmp_path, users=users) as mailbox:
            for user, client, outcome in (
                ("net", Client("imap", "10.1.2.3"), None),
                ("net", Client("smtp", ""), None),
                ("net", Client("imap", "192.0.2.1"), Denied.CREDENTIALS),
                ("no", Client("imap", "192.0.2.1"), NoLogin(user="no@mail.test")),
                ("no", Client("smtp", "192.0.2.1"), None),
                ("away", Client("imap", "192.0.2.1"), Denied.UNAVAILABLE),
                ("both", Client("imap", "192.0.2.1"), None),
                ("gone", Client("smtp", "192.0.2.1"), Denied.DISABLED),
                ("old", Client("imap", "192.0.2.1"), Denied.EXPIRED),
            ):
                got = await mailbox.service.auth.check(Credentials("", user, "x"), client)
                assert (None if isinstance(got, User) else got) == outcome, user

    asyncio.run(check())


def test_guessing_waits_locks_and_ends(tmp_path: Path) -> None:
    waits: list[float] = []
    now = 0.0

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    async def check() -> None:
        nonlocal now
        users = "zs@mail.test:{PLAIN}secret\n"
        async with running(tmp_path, "auth_failure_delay = 2 secs\n", users=users) as mailbox:
            auth = Authenticator(mailbox.service.config, mailbox.service.log, sleep=sleep, clock=lambda: now)

            async def attempt(password: str, rip: str) -> bool:
                waits.clear()
                credentials = Credentials("", "zs", password)
                return isinstance(await auth.check(credentials, Client("imap", rip)), User)

            assert await attempt("secret", "192.0.2.1")
            assert waits == []
            delays = []
            for number in range(4):
                assert not await attempt(f"guess{number}", "192.0.2.66")
                delays.append(list(waits))
            assert delays == [[2.0], [2.0, 2.0], [4.0, 2.0], [8.0, 2.0]]
            for number in range(USER_FAILURES):
                assert not await attempt(f"spread{number}", f"198.51.100.{number}")
            assert not await attempt("secret", "203.0.113.1")  # a new address
            assert await attempt("secret", "192.0.2.1")  # where the user is at home
            now += LOCK_TIME
            assert await attempt("secret", "203.0.113.1")
            log = mailbox.log()
            assert "many wrong passwords" in log
            assert "guess0" not in log

    asyncio.run(check())


def test_nobody_takes_as_long_as_a_wrong_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[str] = []
    verify = schemes.Stored.verify

    def counted(stored: schemes.Stored, password: str, user: str = "") -> bool:
        checked.append(stored.scheme)
        return verify(stored, password, user)

    monkeypatch.setattr(schemes.Stored, "verify", counted)
    hashed = "{SHA256-CRYPT}$5$gkLsoOivKq9LTS6n$DH4aLiL9C5w7f1yyedVA4l62.UipgmEAVeLYfwrw1a7"

    async def check() -> None:
        async with running(tmp_path, users=f"zs@mail.test:{hashed}\n") as mailbox:
            for user in ("zs", "nobody", "not/a/name"):
                checked.clear()
                client = Client("imap", "192.0.2.1")
                assert (
                    await mailbox.service.auth.check(Credentials("", user, "wrong"), client)
                    is Denied.CREDENTIALS
                )
                assert checked == ["SHA256-CRYPT"], user

    asyncio.run(check())


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("%u", "Zs@Mail.Test"),
        ("%Lu %Un %d", "zs@mail.test ZS Mail.Test"),
        ("%{user}/%L{domain}", "Zs@Mail.Test/mail.test"),
        ("%1n %1.1n %05n %%", "Z s 000Zs %"),
        ("%Rn", "sZ"),
        ("%LDd", "mail,dc=test"),
        ("%Mn", "md5"),
        ("%{sha1:username}", "hex"),
        ("%{sha256;truncate=32,format=base64:user}", "base64"),
    ],
)
def test_variables(text: str, result: str) -> None:
    import base64
    import hashlib

    known = {
        "%Mn": hashlib.md5(b"Zs", usedforsecurity=False).hexdigest(),
        "%{sha1:username}": hashlib.sha1(b"Zs").hexdigest(),
        "%{sha256;truncate=32,format=base64:user}": base64.b64encode(
            hashlib.sha256(b"Zs@Mail.Test").digest()[:4]
        ).decode(),
    }
    values = {"user": "Zs@Mail.Test", "username": "Zs", "domain": "Mail.Test"}
    assert expand(text, values) == known.get(text, result)
    assert unknown(text) == ""


@pytest.mark.parametrize("text", ["%x", "%{nothing}", "%Nu", "%{crc32:user}", "%"])
def test_variables_that_do_not_exist(text: str) -> None:
    assert unknown(text)
