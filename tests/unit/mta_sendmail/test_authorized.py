"""Who may submit, list and flush, and in whose name: as Postfix 3.7 answers the same."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest

from mailstack.config.postfix.main_cf import MainCf
from mailstack.mta import postqueue
from mailstack.mta.authorized import check_sender, check_user
from mailstack.mta.command import Fatal
from mailstack.mta.postdrop import user_name
from mailstack.storage.queue import Queue

ME = pwd.getpwuid(os.getuid()).pw_name


def conf(tmp_path: Path, text: str) -> MainCf:
    return MainCf.parse(
        f"recipient_delimiter = +\nqueue_directory = {tmp_path}/queue\n{text}", tmp_path / "main.cf"
    )


@pytest.mark.parametrize(
    ("patterns", "sender", "allowed"),
    [
        ("a@x.test", "a@x.test", True),
        ("a@x.test", "A@X.test", True),
        ("a@x.test", "a", False),
        ("a@x.test", "a+ext@x.test", True),
        ("a@x.test", "", False),
        ("a", "a", True),
        ("a", "a@x.test", False),
        ("@x.test", "b@x.test", True),
        ("@x.test", "b", False),
        ("@x.test, b@y.test", "b@y.test", True),
        ("<>", "", True),
        ("*", "", True),
        ("*", "b@y.test", True),
        ("null", "", False),
    ],
)
def test_whose_name_a_user_may_write(tmp_path: Path, patterns: str, sender: str, allowed: bool) -> None:
    maps = f"local_login_sender_maps = inline:{{ nobody=*, {{ {ME} = {patterns} }} }}\n"
    try:
        check_sender(conf(tmp_path, maps), sender, os.getuid())
    except Fatal as error:
        assert not allowed
        assert str(error) == f"{sender}({os.getuid()}): not authorized to use sender='{sender}'"
    else:
        assert allowed


def test_users_without_a_name_the_empty_sender_and_tables_that_fail(tmp_path: Path) -> None:
    check_sender(conf(tmp_path, "local_login_sender_maps = inline:{ uid:4242=@x.test }\n"), "a@x.test", 4242)
    null = "empty_address_local_login_sender_maps_lookup_key = Null\n"
    check_sender(conf(tmp_path, f"{null}local_login_sender_maps = static:null\n"), "", 4242)
    for table in ("fail:x", "static:{}"):
        with pytest.raises(Fatal, match=r"a\(4242\): local_login_sender_maps table lookup error for"):
            check_sender(conf(tmp_path, f"local_login_sender_maps = {table}\n"), "a", 4242)


@pytest.mark.parametrize(
    ("words", "allowed"),
    [("static:anyone", True), (ME, True), ("somebody", False), (f"!{ME}, static:all", False), ("", False)],
)
def test_lists_of_users(tmp_path: Path, words: str, allowed: bool) -> None:
    try:
        check_user(conf(tmp_path, f"authorized_mailq_users = {words}\n"), "authorized_mailq_users", "look")
    except Fatal as error:
        assert not allowed
        assert str(error) == f"User {ME}({os.getuid()}) is not allowed to look"
    else:
        assert allowed


@pytest.mark.parametrize(
    ("action", "doing"),
    [("-p", "view"), ("-j", "view"), ("-f", "flush"), ("-iABCDEF1", "flush"), ("-sx.test", "flush")],
)
def test_the_queue_is_for_those_who_may(
    tmp_path: Path,
    action: str,
    doing: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    Queue(str(tmp_path / "queue")).create()
    lists = "authorized_mailq_users = other\nauthorized_flush_users = other\n"
    (tmp_path / "main.cf").write_text(f"queue_directory = {tmp_path}/queue\n{lists}")
    monkeypatch.setattr(os, "getuid", lambda: 65534)
    assert postqueue.main([action, "--config", str(tmp_path)]) == 69
    name = user_name(65534)
    error = f"postqueue: fatal: User {name}(65534) is not allowed to {doing} the mail queue\n"
    assert capsys.readouterr().err == error
    for owner in (0, (tmp_path / "queue").stat().st_uid):
        monkeypatch.setattr(os, "getuid", lambda owner=owner: owner)
        assert postqueue.main(["-p", "--config", str(tmp_path)]) == 0
