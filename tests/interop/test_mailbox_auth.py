"""The real Postfix and the real Cyrus SASL ask our authentication sockets."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import os
import shutil
import smtplib
import socket
import subprocess
import tempfile
import time
from base64 import b64decode, b64encode, urlsafe_b64encode
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mailstack.net.stream import Stream, connect_unix
from mailstack.wire import sasl_client
from mailstack.wire.dovecot_auth import (
    NEED_DATA,
    AuthClientConnection,
    ClientEvent,
    Continue,
    Fail,
    Handshake,
    Ok,
)
from mailstack.wire.sasl import plain_initial
from tests.mailbox import USERS, running

MASTER = "/usr/lib/postfix/sbin/master"
MAIN_CF = """\
compatibility_level = 3.6
queue_directory = {dir}/queue
data_directory = {dir}/data
mail_owner = postfix
setgid_group = postdrop
myhostname = mx.mail.test
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
local_recipient_maps =
alias_maps =
smtpd_sasl_auth_enable = yes
smtpd_sasl_type = dovecot
smtpd_sasl_path = unix:{socket}
smtpd_sasl_security_options = noanonymous
smtpd_relay_restrictions = permit_sasl_authenticated, reject
maillog_file = /dev/stdout
"""
MASTER_CF = """\
127.0.0.1:{port} inet n - n - - smtpd
postlog unix-dgram n - n - 1 postlogd
anvil unix - - n - 1 anvil
rewrite unix - - n - - trivial-rewrite
"""

postfix_here = pytest.mark.skipif(not os.access(MASTER, os.X_OK), reason="postfix is missing")
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="a real Postfix starts only as root")


@contextmanager
def postfix(auth_socket: str, more: str = "", sasl: str = "") -> Iterator[int]:
    """A Postfix that asks at `auth_socket`, with `more` in main.cf; its SMTP port.

    `sasl`: Cyrus SASL's smtpd.conf, which Debian's Postfix reads below its configuration, whatever
    cyrus_sasl_config_path says.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="ms-postfix-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        for part in ("etc", "queue", "data"):
            (folder / part).mkdir()
        shutil.chown(folder / "data", "postfix")
        (folder / "etc/main.cf").write_text(MAIN_CF.format(dir=folder, socket=auth_socket) + more)
        if sasl:
            (folder / "etc/sasl").mkdir()
            (folder / "etc/sasl/smtpd.conf").write_text(sasl)
        (folder / "etc/master.cf").write_text(MASTER_CF.format(port=port))
        subprocess.run(["postfix", "-c", str(folder / "etc"), "check"], check=True, capture_output=True)
        command = [MASTER, "-c", str(folder / "etc"), "-d"]
        with open(folder / "log", "wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            _wait(port)
            yield port
        finally:
            process.terminate()
            process.wait(10)


def _wait(port: int) -> None:
    for _ in range(200):
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise AssertionError("Postfix does not listen")


def _attempt(port: int, mechanism: str, user: str, password: str) -> tuple[int, bytes]:
    with smtplib.SMTP("127.0.0.1", port, timeout=20) as client:
        client.ehlo()
        assert set(client.esmtp_features["auth"].split()) == {"PLAIN", "LOGIN"}
        client.user, client.password = user, password
        method = client.auth_plain if mechanism == "PLAIN" else client.auth_login
        try:
            return client.auth(mechanism, method)
        except smtplib.SMTPAuthenticationError as error:
            return error.smtp_code, error.smtp_error  # type: ignore[return-value]


@pytest.mark.real
@postfix_here
@as_root
def test_postfix_authenticates_its_clients_with_us() -> None:
    async def check(folder: Path) -> None:
        async with running(folder) as mailbox:
            with postfix(mailbox.path("auth")) as port:
                for mechanism in ("PLAIN", "LOGIN"):
                    for user, password, code in (
                        ("zs", "secret", 235),
                        ("zs@mail.test", "secret", 235),
                        ("zs@mail.test", "wrong", 535),
                        ("nobody", "secret", 535),
                        ("support@mail.test", "s e cret", 235),
                    ):
                        got = await asyncio.to_thread(_attempt, port, mechanism, user, password)
                        assert got[0] == code, (mechanism, user, got)

    with tempfile.TemporaryDirectory(prefix="ms-auth-") as name:
        os.chmod(name, 0o755)  # Postfix's smtpd runs as another user
        asyncio.run(check(Path(name)))


class Smtp:
    """A client that can say every mechanism to an SMTP server."""

    def __init__(self, port: int) -> None:
        self._client = smtplib.SMTP("127.0.0.1", port, timeout=20)
        self._client.ehlo()
        self.offered = set(self._client.esmtp_features["auth"].split())

    def __enter__(self) -> Smtp:
        return self

    def __exit__(self, *error: object) -> None:
        self._client.close()

    def ask(self, text: str) -> tuple[int, bytes]:
        """One line; the reply's code, and its challenge."""
        code, reply = self._client.docmd(text)
        return code, b64decode(reply) if code == 334 else b""

    def auth(self, mechanism: str, user: str, password: str) -> int:
        """The code of the last reply."""
        match mechanism:
            case "OAUTHBEARER":
                first: bytes | None = f"n,a={user},\1auth=Bearer {password}\1\1".encode()
            case "XOAUTH2":
                first = f"user={user}\1auth=Bearer {password}\1\1".encode()
            case "ANONYMOUS":
                first = b"trace"
            case _:
                client = sasl_client.mechanism(mechanism, user, password, "mine")
                first = client.initial()
        code, challenge = self.ask(f"AUTH {mechanism}" + (f" {b64encode(first).decode()}" if first else ""))
        while code == 334:
            bearer = mechanism in ("OAUTHBEARER", "XOAUTH2")
            response = b"\1" if bearer else client.step(challenge)
            code, challenge = self.ask(b64encode(response).decode())
        return code


EVERY = """\
auth_mechanisms = plain login cram-md5 scram-sha-1 scram-sha-256 xoauth2 oauthbearer anonymous external
auth_anonymous_username = guest@mail.test
passdb {
  driver = oauth2
  mechanisms = xoauth2 oauthbearer
  args = oauth2.conf.ext
}
"""


@pytest.mark.real
@postfix_here
@as_root
def test_postfix_authenticates_with_every_mechanism() -> None:
    async def check(folder: Path) -> None:
        (folder / "keys/default/HS256").mkdir(parents=True)
        (folder / "keys/default/HS256/default").write_bytes(b64encode(b"shared secret"))
        (folder / "oauth2.conf.ext").write_text(
            f"introspection_mode = local\nlocal_validation_key_dict = fs:posix:prefix={folder}/keys/\n"
        )
        users = "zs@mail.test:{PLAIN}secret\nguest@mail.test:{PLAIN}x\n"
        async with running(folder, EVERY, users=users) as mailbox:
            with postfix(mailbox.path("auth"), "smtpd_sasl_security_options =\n") as port:
                await asyncio.to_thread(talk, port)

    def talk(port: int) -> None:
        now = int(time.time())
        claims = {"sub": "1", "exp": now + 600, "iat": now, "email": "zs@mail.test"}
        parts = [
            urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=")
            for part in ({"typ": "JWT", "alg": "HS256"}, claims)
        ]
        mac = hmac.digest(b"shared secret", b".".join(parts), "sha256")
        token = b".".join((*parts, urlsafe_b64encode(mac).rstrip(b"="))).decode()
        tried = set()
        for mechanism, password in (
            ("PLAIN", "secret"),
            ("LOGIN", "secret"),
            ("CRAM-MD5", "secret"),
            ("SCRAM-SHA-256", "secret"),
            ("XOAUTH2", token),
            ("OAUTHBEARER", token),
        ):
            for given, code in ((password, 235), ("wrong", 535)):
                with Smtp(port) as client:
                    assert client.auth(mechanism, "zs@mail.test", given) == code, mechanism
            tried.add(mechanism)
        with Smtp(port) as client:
            assert client.auth("ANONYMOUS", "", "") == 235
            # Postfix does not offer EXTERNAL: it does not tell what the certificate says.
            assert client.offered == tried | {"ANONYMOUS", "SCRAM-SHA-1"}
        with Smtp(port) as client:
            scram = _scram_sha_1("zs@mail.test", "secret")
            code, challenge = client.ask(f"AUTH SCRAM-SHA-1 {b64encode(next(scram)).decode()}")
            while code == 334:
                code, challenge = client.ask(b64encode(scram.send(challenge)).decode())
            assert code == 235

    with tempfile.TemporaryDirectory(prefix="ms-auth-") as name:
        os.chmod(name, 0o755)  # Postfix's smtpd runs as another user
        asyncio.run(check(Path(name)))


def _scram_sha_1(user: str, password: str) -> Generator[bytes, bytes, None]:
    """A client of RFC 5802: its messages, for the server's."""
    bare = f"n={user},r=mine".encode()
    challenge = yield b"n,," + bare
    nonce, salt, rounds = (part.partition(b"=")[2] for part in challenge.split(b","))
    salted = hashlib.pbkdf2_hmac("sha1", password.encode(), b64decode(salt), int(rounds))
    key = hmac.digest(salted, b"Client Key", "sha1")
    signed = b",".join((bare, challenge, b"c=biws,r=" + nonce))
    signature = hmac.digest(hashlib.sha1(key).digest(), signed, "sha1")
    proof = bytes(a ^ b for a, b in zip(key, signature, strict=True))
    verifier = yield b"c=biws,r=" + nonce + b",p=" + b64encode(proof)
    server = hmac.digest(hmac.digest(salted, b"Server Key", "sha1"), signed, "sha1")
    assert verifier == b"v=" + b64encode(server)
    yield b""


@pytest.mark.real
@postfix_here
@as_root
@pytest.mark.skipif(shutil.which("testsaslauthd") is None, reason="testsaslauthd (sasl2-bin) is missing")
def test_postfix_with_cyrus_sasl_asks_our_saslauthd_socket() -> None:
    async def check(folder: Path) -> None:
        async with running(folder) as mailbox:
            cyrus = "smtpd_sasl_type = cyrus\nsmtpd_sasl_path = smtpd\nsmtpd_sasl_local_domain = mail.test\n"
            sasl = "pwcheck_method: saslauthd\nmech_list: PLAIN LOGIN\n"
            sasl += f"saslauthd_path: {mailbox.path('saslauthd')}\n"
            with postfix("unused", cyrus, sasl) as port:
                for mechanism in ("PLAIN", "LOGIN"):
                    for user, password, code in (
                        ("zs@mail.test", "secret", 235),
                        ("zs", "secret", 235),
                        ("zs@mail.test", "wrong", 535),
                        ("nobody@mail.test", "secret", 535),
                        ("support@mail.test", "s e cret", 235),
                    ):
                        got = await asyncio.to_thread(_attempt, port, mechanism, user, password)
                        assert got[0] == code, (mechanism, user, got)

    with tempfile.TemporaryDirectory(prefix="ms-auth-") as name:
        os.chmod(name, 0o755)
        asyncio.run(check(Path(name)))


@pytest.mark.real
@pytest.mark.skipif(shutil.which("testsaslauthd") is None, reason="testsaslauthd (sasl2-bin) is missing")
def test_cyrus_sasl_checks_passwords_with_us(tmp_path: Path) -> None:
    async def check() -> None:
        async with running(tmp_path) as mailbox:
            for user, realm, password, answer in (
                ("zs", "mail.test", "secret", '0: OK "Success."'),
                ("zs@mail.test", "", "secret", '0: OK "Success."'),
                ("zs", "", "wrong", '0: NO "authentication failed"'),
                ("support", "mail.test", "s e cret", '0: OK "Success."'),
            ):
                command = ["testsaslauthd", "-f", mailbox.path("saslauthd"), "-s", "smtp", "-u", user]
                command += ["-r", realm, "-p", password]
                done = await asyncio.to_thread(
                    subprocess.run, command, capture_output=True, text=True, check=False
                )
                assert done.stdout.strip() == answer

    asyncio.run(check())


DOVECOT_CONF = """\
base_dir = {dir}/run
state_dir = {dir}/state
log_path = {dir}/log
protocols =
ssl = no
default_internal_user = root
default_login_user = root
auth_mechanisms = plain login
passdb {{
  driver = passwd-file
  args = {dir}/users
}}
userdb {{
  driver = static
  args = home=/nonexistent
}}
service auth {{
  user = root
  unix_listener client {{
    mode = 0600
  }}
}}
service anvil {{
  chroot =
}}
"""


@pytest.mark.real
@pytest.mark.skipif(shutil.which("dovecot") is None, reason="dovecot is missing")
@as_root
def test_we_ask_a_real_dovecot(tmp_path: Path) -> None:
    (tmp_path / "users").write_text(USERS)
    conf = tmp_path / "dovecot.conf"
    conf.write_text(DOVECOT_CONF.format(dir=tmp_path))
    process = subprocess.Popen(["dovecot", "-F", "-c", str(conf)])

    async def event(stream: Stream, conn: AuthClientConnection) -> ClientEvent:
        while True:
            stream.write(conn.data_to_send())
            found = conn.next_event()
            if found is not NEED_DATA:
                return found
            conn.receive_data(await stream.read(10))

    async def check() -> None:
        path = tmp_path / "run/client"
        for _ in range(500):
            if path.is_socket():
                break
            await asyncio.sleep(0.02)
        stream = await connect_unix(str(path), 5)
        conn = AuthClientConnection(os.getpid())
        hello = await event(stream, conn)
        assert isinstance(hello, Handshake)
        assert set(hello.mechs) == {"PLAIN", "LOGIN"}
        params = {"rip": "192.0.2.1", "lip": "192.0.2.2", "secured": None, "nologin": None}
        plain = conn.authenticate("PLAIN", "smtp", params, plain_initial("zs@mail.test", "secret"))
        answer = await event(stream, conn)
        assert isinstance(answer, Ok)
        assert (answer.id, answer.user) == (plain, "zs@mail.test")
        login = conn.authenticate("LOGIN", "smtp", params, None)
        assert await event(stream, conn) == Continue(login, b"Username:")
        conn.cont(login, b"zs@mail.test")
        assert await event(stream, conn) == Continue(login, b"Password:")
        conn.cont(login, b"wrong")
        answer = await event(stream, conn)
        assert isinstance(answer, Fail)
        assert (answer.id, answer.user, answer.temp) == (login, "zs@mail.test", False)
        stream.abort()
        await asyncio.sleep(0)

    try:
        asyncio.run(check())
    finally:
        process.terminate()
        process.wait(10)
