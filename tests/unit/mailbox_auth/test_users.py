"""Names, passdb and userdb look-ups, and where a user's Maildir lies."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mailstack.config.dovecot import load
from mailstack.mailbox.auth import Directory, Unavailable, User
from mailstack.mailbox.auth.passwd_file import parse

USERS = """\
# a comment

zs@mail.test:{PLAIN}secret:1000:1000:gecos:/home/zs:/bin/sh:userdb_quota=1 nopassword
zs@mail.test:{PLAIN}second line for the same user
joe@mail.test:{PLAIN}x
moved@mail.test:{PLAIN}x::::::userdb_mail=maildir:/elsewhere/%n userdb_home=/h
fenced@mail.test:{PLAIN}x::::::allow_nets=10.0.0.0/8
"""
PASSWD = "passdb {\n  driver = passwd-file\n  args = users\n}\nuserdb {\n  driver = passwd-file\n  args = users\n}\n"
STATIC = "passdb {\n  driver = passwd-file\n  args = users\n}\nuserdb {\n  driver = static\n  args = home=/mail/%d/%n\n}\n"


def directory(folder: Path, text: str, users: str = USERS) -> Directory:
    (folder / "users").write_text(users)
    (folder / "dovecot.conf").write_text(
        f"ssl = no\nprotocols = imap\nmail_location = maildir:~/Mail\n{text}"
    )
    return Directory(load(folder))


def test_lines_of_a_passwd_file() -> None:
    entries = parse(USERS)
    assert list(entries) == ["zs@mail.test", "joe@mail.test", "moved@mail.test", "fenced@mail.test"]
    zs = entries["zs@mail.test"]
    assert (zs.password, zs.home) == ("{PLAIN}secret", "/home/zs")
    assert zs.userdb_fields == {"quota": "1"}
    assert zs.passdb_fields == {"nopassword": "yes"}


@pytest.mark.parametrize(
    ("extra", "name", "canonical"),
    [
        ("", "ZS@Mail.Test", "zs@mail.test"),
        ("auth_username_format = %u\n", "ZS@Mail.Test", "ZS@Mail.Test"),
        ("auth_username_format = %Ln\n", "ZS@Mail.Test", "zs"),
        ("auth_default_realm = mail.test\n", "zs", "zs@mail.test"),
        ("", "zs", "zs"),
        ("", "zs/../x@mail.test", None),
        ("", "zs\n@mail.test", None),
        ("", "", None),
        ("", "zs@..", None),
        ("", "..@mail.test", None),
        ("auth_username_chars =\n", "z/s@mail.test", None),
        ("auth_username_chars =\n", "jürgen@mail.test", "jürgen@mail.test"),
        ("", "jürgen@mail.test", None),
    ],
)
def test_names_have_one_form(tmp_path: Path, extra: str, name: str, canonical: str | None) -> None:
    assert directory(tmp_path, extra).canonical(name) == canonical


def test_homes_and_mail_roots(tmp_path: Path) -> None:
    users = directory(tmp_path, PASSWD + "mail_home = /mail/%d/%n\n")
    assert users.find("zs@mail.test") == User("zs@mail.test", "/home/zs/Mail", "/home/zs")
    assert users.find("joe@mail.test") == User(
        "joe@mail.test", "/mail/mail.test/joe/Mail", "/mail/mail.test/joe"
    )
    assert users.find("moved@mail.test") == User("moved@mail.test", "/elsewhere/moved", "/h")
    assert users.find("nobody@mail.test") is None


def test_a_static_userdb_has_only_users_of_the_passdb(tmp_path: Path) -> None:
    users = directory(tmp_path, STATIC)
    assert users.find("joe@mail.test") == User(
        "joe@mail.test", "/mail/mail.test/joe/Mail", "/mail/mail.test/joe"
    )
    assert users.find("nobody@mail.test") is None


def test_the_file_is_read_again_when_it_changes(tmp_path: Path) -> None:
    users = directory(tmp_path, STATIC)
    assert users.find("new@mail.test") is None
    (tmp_path / "users").write_text(USERS + "new@mail.test:{PLAIN}y\n")
    assert users.find("new@mail.test") is not None
    os.unlink(tmp_path / "users")
    with pytest.raises(Unavailable, match="No such file"):
        users.find("new@mail.test")


def test_a_user_without_a_home_is_told_apart_from_no_user(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="no home"):
        directory(tmp_path, PASSWD).find("joe@mail.test")
