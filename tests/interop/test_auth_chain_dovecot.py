"""Chains of passdbs: real Dovecot and we let the same users in, under the same names."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from mailstack.net.stream import Stream, connect_unix
from mailstack.wire.dovecot_auth import NEED_DATA, AuthClientConnection, ClientEvent, Fail, Handshake, Ok
from mailstack.wire.sasl import plain_initial
from tests.mailbox import CONFIG, running

DOVECOT = """\
base_dir = {dir}/run
state_dir = {dir}/state
log_path = {dir}/log
protocols =
ssl = no
default_internal_user = root
default_login_user = root
auth_mechanisms = plain login cram-md5 scram-sha-1 scram-sha-256 external anonymous
auth_failure_delay = 0
{settings}
{passdbs}
userdb {{
  driver = static
  args = home=/nonexistent allow_all_users=yes
}}
service auth {{
  user = root
  unix_listener client {{
    mode = 0600
  }}
}}
service anvil {{
  chroot =
  unix_listener anvil-auth-penalty {{
    mode = 0
  }}
}}
"""
USERS = """\
zs@mail.test:{PLAIN}secret
joe@mail.test:{PLAIN}secret::::::user=jim@mail.test
net@mail.test:{PLAIN}secret::::::allow_nets=10.0.0.0/8,192.0.2.7
open@mail.test:::::::nopassword
both@mail.test:{PLAIN}secret::::::nopassword
empty@mail.test:
domain@mail.test:{PLAIN}secret::::::domain=other.test
name@mail.test:{PLAIN}secret::::::username=new
zs:{PLAIN}bare
"""
MASTERS = "admin:{PLAIN}master\n"
DENY = "joe@mail.test\n"
FILE = "driver = passwd-file\n  args = {dir}/"
CASES: Sequence[tuple[str, str, Sequence[str]]] = [
    ("one file", "", [FILE + "users"]),
    ("a realm", "auth_default_realm = mail.test", [FILE + "users"]),
    ("no format", "auth_username_format = %u", [FILE + "users"]),
    ("the local part", "auth_username_format = %Ln", [FILE + "users"]),
    ("translated", "auth_username_translation = %@#@", [FILE + "users"]),
    ("two files", "", [FILE + "other", FILE + "users"]),
    ("a missing file", "", [FILE + "nothing", FILE + "users"]),
    ("denied", "", [FILE + "deny\n  deny = yes", FILE + "users"]),
    ("failure ends it", "", [FILE + "other\n  result_failure = return-fail", FILE + "users"]),
    ("success goes on", "", [FILE + "users\n  result_success = continue-ok", FILE + "other"]),
    (
        "success goes on and fails",
        "",
        [FILE + "users\n  result_success = continue-ok", FILE + "other\n  result_failure = return-fail"],
    ),
    ("success is failure", "", [FILE + "users\n  result_success = continue-fail", FILE + "other"]),
    ("success is not yet one", "", [FILE + "users\n  result_success = continue", FILE + "other"]),
    ("success is not yet one, then found", "", [FILE + "users\n  result_success = continue", FILE + "users"]),
    (
        "the second password is not looked at",
        "",
        [FILE + "users\n  result_success = continue", FILE + "other2"],
    ),
    (
        "skipped when in",
        "",
        [FILE + "users\n  result_success = continue-ok", FILE + "deny\n  deny = yes\n  skip = authenticated"],
    ),
    ("skipped when out", "", [FILE + "other\n  skip = unauthenticated", FILE + "users"]),
    ("another mechanism's", "", [FILE + "other\n  mechanisms = plain", FILE + "users\n  mechanisms = login"]),
    ("this mechanism's", "", [FILE + "users\n  mechanisms = cram-md5 plain"]),
    ("some users", "", [FILE + "users\n  username_filter = *@mail.test !zs@*", FILE + "other"]),
    ("bare users", "", [FILE + "users\n  username_filter = !*@*", FILE + "other"]),
    ("static", "", ["driver = static\n  args = password=secret"]),
    ("static, anybody", "", ["driver = static\n  args = nopassword=y"]),
    ("static, from some networks", "", ["driver = static\n  args = password=secret allow_nets=127.0.0.0/8"]),
    ("static, renamed", "", ["driver = static\n  args = password=secret user=x-%Ln@mail.test"]),
    ("defaults", "", [FILE + "users\n  default_fields = allow_nets=192.0.2.7"]),
    ("overrides", "", [FILE + "users\n  override_fields = user=override-%n"]),
    ("by local part", "", ["driver = passwd-file\n  args = scheme=PLAIN username_format=%n {dir}/users"]),
    ("a file for each domain", "", [FILE + "%d"]),
    ("masters", "auth_master_user_separator = *", [FILE + "masters\n  master = yes", FILE + "users"]),
    (
        "masters of users that exist",
        "auth_master_user_separator = *",
        [FILE + "masters\n  master = yes\n  pass = yes", FILE + "users"],
    ),
]
LOGINS = [
    ("zs@mail.test", "secret", ""),
    ("ZS@Mail.Test", "secret", ""),
    ("zs@mail.test", "wrong", ""),
    ("zs", "bare", ""),
    ("zs", "secret", ""),
    ("zs%mail.test", "secret", ""),
    ("joe@mail.test", "secret", ""),
    ("net@mail.test", "secret", ""),
    ("open@mail.test", "anything", ""),
    ("both@mail.test", "secret", ""),
    ("empty@mail.test", "x", ""),
    ("domain@mail.test", "secret", ""),
    ("name@mail.test", "secret", ""),
    ("nobody@mail.test", "secret", ""),
    ("admin", "master", ""),
    ("zs@mail.test*admin", "master", ""),
    ("zs@mail.test*admin", "wrong", ""),
    ("zs@mail.test*zs@mail.test", "secret", ""),
    ("nobody@mail.test*admin", "master", ""),
    ("admin", "master", "zs@mail.test"),
    ("zs@mail.test", "secret", "zs@mail.test"),
    ("zs@mail.test", "secret", "joe@mail.test"),
]


async def ask(path: str) -> list[tuple[str, str]]:
    """The outcome of every login, and as whom."""
    stream = await connect_unix(path, 5)
    conn = AuthClientConnection(os.getpid())

    async def event(stream: Stream) -> ClientEvent:
        while True:
            stream.write(conn.data_to_send())
            found = conn.next_event()
            if found is not NEED_DATA:
                return found
            conn.receive_data(await stream.read(10))

    assert isinstance(await event(stream), Handshake)
    # All at once: Dovecot keeps failures back for a moment, whatever auth_failure_delay says.
    numbers = []
    for address in ("192.0.2.1", "192.0.2.7"):
        for user, password, authzid in LOGINS:
            params = {
                "rip": address,
                "lip": "127.0.0.1",
                "nologin": None,
                "secured": None,
                "no-penalty": None,
            }
            numbers.append(conn.authenticate("PLAIN", "smtp", params, plain_initial(user, password, authzid)))
    answers: dict[int, tuple[str, str]] = {}
    while len(answers) < len(numbers):
        answer = await event(stream)
        assert isinstance(answer, (Ok, Fail)), answer
        kind = "temp" if isinstance(answer, Fail) and answer.temp else type(answer).__name__
        answers[answer.id] = (kind, answer.user if isinstance(answer, Ok) else "")
    stream.abort()
    await asyncio.sleep(0)
    return [answers[number] for number in numbers]


@pytest.mark.real
@pytest.mark.skipif(shutil.which("dovecot") is None, reason="dovecot is missing")
@pytest.mark.skipif(os.geteuid() != 0, reason="a real Dovecot starts only as root")
@pytest.mark.parametrize(("name", "settings", "passdbs"), CASES, ids=[case[0] for case in CASES])
def test_the_same_users_get_in(tmp_path: Path, name: str, settings: str, passdbs: Sequence[str]) -> None:
    for file, text in (
        ("users", USERS),
        ("masters", MASTERS),
        ("deny", DENY),
        ("other", "someone@mail.test:{PLAIN}x\n"),
        ("other2", "zs@mail.test:{PLAIN}another\n"),
        ("mail.test", USERS),
    ):
        (tmp_path / file).write_text(text)
    blocks = "".join(f"passdb {{\n  {text.format(dir=tmp_path)}\n}}\n" for text in passdbs)
    conf = tmp_path / "real.conf"
    conf.write_text(DOVECOT.format(dir=tmp_path, settings=settings, passdbs=blocks))
    process = subprocess.Popen(["dovecot", "-F", "-c", str(conf)], stderr=subprocess.DEVNULL)

    async def theirs() -> list[tuple[str, str]]:
        path = tmp_path / "run/client"
        for _ in range(500):
            if path.is_socket():
                break
            await asyncio.sleep(0.02)
        return await ask(str(path))

    async def ours() -> list[tuple[str, str]]:
        own = CONFIG.index("passdb {")
        text = CONFIG[:own].replace("auth_default_realm = mail.test\n", "") + settings + "\n" + blocks
        text += "userdb {\n  driver = static\n  args = home=/nonexistent allow_all_users=yes\n}\n"
        async with running(tmp_path, text, whole=True) as mailbox:
            return await ask(mailbox.path("auth"))

    try:
        expected = asyncio.run(theirs())
    finally:
        process.terminate()
        process.wait(10)
    got = asyncio.run(ours())
    logins = [(address, *login) for address in ("192.0.2.1", "192.0.2.7") for login in LOGINS]
    different = [(who, a, b) for who, a, b in zip(logins, expected, got, strict=True) if a != b]
    assert not different, "\n".join(map(str, different))
