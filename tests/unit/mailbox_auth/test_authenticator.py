"""Checks: who gets in, what it costs the second time, and what the asking servers are told."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from mailstack.mailbox.auth import Authenticator, Client, Denied, Refused, User, schemes
from mailstack.mailbox.auth.verified import Verified
from mailstack.net.stream import Stream
from mailstack.wire.dovecot_auth import (
    NEED_DATA,
    AuthClientConnection,
    ClientEvent,
    Continue,
    Fail,
    Handshake,
    Ok,
)
from mailstack.wire.sasl import Credentials
from mailstack.wire.saslauthd import Reply, decode_reply, encode_request
from tests.mailbox import USERS, running

GOOD = Credentials("", "zs@mail.test", "secret")


@pytest.mark.parametrize(
    ("credentials", "outcome"),
    [
        (GOOD, "zs@mail.test"),
        (Credentials("", "ZS", "secret"), "zs@mail.test"),
        (Credentials("zs@mail.test", "zs", "secret"), "zs@mail.test"),
        (Credentials("support@mail.test", "zs", "secret"), Denied.AUTHORIZATION),
        (Credentials("support@mail.test", "zs", "wrong"), Denied.CREDENTIALS),
        (Credentials("", "zs", "wrong"), Denied.CREDENTIALS),
        (Credentials("", "nobody", "secret"), Denied.CREDENTIALS),
        (Credentials("", "zs\0@mail.test", "secret"), Denied.CREDENTIALS),
        (Credentials("", "support", "s e cret"), "support@mail.test"),
        (Credentials("", "crypt", "x"), Denied.UNAVAILABLE),
        (Credentials("", "open", "anything"), "open@mail.test"),
    ],
)
def test_who_gets_in(tmp_path: Path, credentials: Credentials, outcome: str | Denied) -> None:
    async def check() -> User | Refused:
        more = "crypt@mail.test:$6$a$b\nopen@mail.test:::::::nopassword\n"
        async with running(tmp_path, users=USERS + more) as mailbox:
            return await mailbox.service.auth.check(credentials, Client("imap", "192.0.2.1"))

    got = asyncio.run(check())
    assert (got.name if isinstance(got, User) else got) == outcome


def test_a_slow_check_is_done_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checks = []
    verify = schemes.Stored.verify

    def counted(stored: schemes.Stored, password: str, user: str = "") -> bool:
        checks.append(password)
        return verify(stored, password, user)

    monkeypatch.setattr(schemes.Stored, "verify", counted)

    async def check() -> None:
        async with running(tmp_path) as mailbox:
            auth = mailbox.service.auth
            for _ in range(3):
                assert isinstance(await auth.check(GOOD, Client("imap", "")), User)
            assert checks == ["secret"]
            wrong = Credentials("", "zs@mail.test", "wrong")
            for _ in range(2):
                assert await auth.check(wrong, Client("imap", "")) is Denied.CREDENTIALS
            assert checks == ["secret", "wrong", "wrong"]
            (tmp_path / "users").write_text("zs@mail.test:{PLAIN}other\n")
            assert await auth.check(GOOD, Client("imap", "")) is Denied.CREDENTIALS

    asyncio.run(check())


def test_what_is_remembered_is_bounded() -> None:
    verified = Verified(limit=2)
    macs = [verified.mac("u", "s", str(number)) for number in range(3)]
    for mac in macs[:2]:
        verified.add(mac)
    assert verified.holds(macs[0])  # used: the other one goes first
    verified.add(macs[2])
    assert [verified.holds(mac) for mac in macs] == [True, False, True]
    assert verified.mac("a", "bc", "") != verified.mac("ab", "c", "")


def test_a_failure_waits_and_success_does_not(tmp_path: Path) -> None:
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    async def check() -> None:
        async with running(tmp_path, "auth_failure_delay = 3 secs\n") as mailbox:
            auth = Authenticator(mailbox.service.config, mailbox.service.log, sleep=sleep)
            await auth.check(GOOD, Client("imap", ""))
            assert waits == []
            await auth.check(Credentials("", "zs", "wrong"), Client("imap", ""))
            assert waits == [3.0]

    asyncio.run(check())


def test_auth_verbose_says_why_and_never_the_password(tmp_path: Path) -> None:
    async def check() -> str:
        async with running(tmp_path, "auth_verbose = yes\n") as mailbox:
            auth = mailbox.service.auth
            await auth.check(Credentials("", "zs", "hunter2"), Client("smtp", "192.0.2.7"))
            await auth.check(Credentials("", "a\nb", "hunter2"), Client("smtp", "192.0.2.7"))
            return mailbox.log()

    log = asyncio.run(check())
    assert "auth: passwd-file(zs@mail.test,192.0.2.7): Password mismatch (smtp)" in log
    assert "auth: passdb(a?b,192.0.2.7): unknown user (smtp)" in log
    assert "hunter2" not in log


class _Client:
    """A client of the Dovecot authentication protocol."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.conn = AuthClientConnection(os.getpid())

    async def event(self) -> ClientEvent:
        while True:
            self.stream.write(self.conn.data_to_send())
            event = self.conn.next_event()
            if event is not NEED_DATA:
                return event
            self.conn.receive_data(await self.stream.read(5))


def test_the_dovecot_protocol_on_the_socket(tmp_path: Path) -> None:
    async def check() -> None:
        async with running(tmp_path) as mailbox:
            client = _Client(await mailbox.connect("auth"))
            hello = await client.event()
            assert isinstance(hello, Handshake)
            assert hello.mechs == ("PLAIN", "LOGIN")
            first = client.conn.authenticate("PLAIN", "smtp", {"rip": "192.0.2.1"}, b"\0zs\0secret")
            assert await client.event() == Ok(first, "zs@mail.test", {"user": "zs@mail.test"})
            second = client.conn.authenticate("LOGIN", "smtp", {}, None)
            assert await client.event() == Continue(second, b"Username:")
            client.conn.cont(second, b"zs")
            assert await client.event() == Continue(second, b"Password:")
            client.conn.cont(second, b"wrong")
            failure = await client.event()
            assert isinstance(failure, Fail)
            assert (failure.id, failure.user, failure.temp) == (second, "zs@mail.test", False)
            third = client.conn.authenticate("PLAIN", "smtp", {}, b"nonsense")
            failure = await client.event()
            assert isinstance(failure, Fail)
            assert failure.reason.startswith("Invalid PLAIN response")
            (tmp_path / "users").unlink()
            client.conn.authenticate("PLAIN", "smtp", {}, b"\0zs\0secret")
            failure = await client.event()
            assert isinstance(failure, Fail)
            assert failure.temp
            assert failure.id == third + 1

    asyncio.run(check())


def test_many_exchanges_on_one_connection_do_not_wait_for_each_other(tmp_path: Path) -> None:
    async def check() -> None:
        async with running(tmp_path, "auth_failure_delay = 1 hours\n") as mailbox:
            client = _Client(await mailbox.connect("auth"))
            assert isinstance(await client.event(), Handshake)
            client.conn.authenticate("PLAIN", "smtp", {}, b"\0zs\0wrong")
            good = [client.conn.authenticate("PLAIN", "smtp", {}, b"\0zs\0secret") for _ in range(5)]
            events = [await client.event() for _ in good]
            assert sorted(event.id for event in events if isinstance(event, Ok)) == good

    asyncio.run(check())


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\n\r\n", b"VERSION\t9\t0\n", b"A" * 20000, b"\0\xff\n"])
def test_a_client_of_another_protocol_is_dropped_with_one_line(tmp_path: Path, data: bytes) -> None:
    async def check() -> str:
        async with running(tmp_path) as mailbox:
            stream = await mailbox.connect("auth")
            stream.write(data)
            while await stream.read(5):
                pass
            return mailbox.log()

    assert "warning: auth: client unix: " in asyncio.run(check())


def test_the_saslauthd_protocol_on_the_socket(tmp_path: Path) -> None:
    async def ask(stream: Stream, data: bytes) -> Reply | None:
        stream.write(data)
        received = b""
        while piece := await stream.read(5):
            received += piece
        return decode_reply(received)

    async def check() -> None:
        async with running(tmp_path) as mailbox:
            for request, reply in (
                (encode_request("zs", "secret", "smtp", "mail.test"), Reply(True)),
                (encode_request("zs@mail.test", "secret", "smtp", ""), Reply(True)),
                (encode_request("zs", "wrong", "smtp", ""), Reply(False)),
                (encode_request("zs", "", "smtp", ""), Reply(False)),
                (b"\xff\xff", Reply(False, "malformed request")),
            ):
                assert await ask(await mailbox.connect("saslauthd"), request) == reply

    asyncio.run(check())
