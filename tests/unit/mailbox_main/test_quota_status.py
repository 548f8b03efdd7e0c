"""`service quota-status`: many requests on one connection, in pieces, and what is no request."""

from __future__ import annotations

import asyncio
from pathlib import Path

from mailstack.config.dovecot import UnixListener, load
from mailstack.mailbox.handlers import handlers
from mailstack.mailbox.quota_status import REQUEST_LIMIT
from mailstack.net.listen import Server, bind_tcp
from mailstack.net.log import Log
from mailstack.net.stream import connect
from mailstack.net.tasks import TaskSet
from tests.mailbox import running

QUOTA = "plugin {\n  quota = maildir:User quota\n  quota_rule = *:messages=2\n  quota_grace = 0\n}\n"
ASK = b"request=smtpd_access_policy\r\nrecipient=zs@mail.test\r\nsize=1\r\n\r\n"


def test_requests_one_after_the_other(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path, QUOTA) as mailbox:
            tasks = TaskSet(Log("dovecot", "test", 2).exception)
            server = Server(
                bind_tcp("127.0.0.1", 0),
                handlers(mailbox.service)["quota-status"],
                tasks,
                name="quota-status",
            )
            await server.start()
            stream = await connect("127.0.0.1", server.sock.getsockname()[1], 30)

            async def answers(count: int) -> bytes:
                data = b""
                while data.count(b"\n\n") < count:
                    piece = await stream.read(30)
                    assert piece
                    data += piece
                return data

            for at in range(len(ASK)):
                stream.write(ASK[at : at + 1])
                await stream.drain(30)
            assert await answers(1) == b"action=OK\n\n"
            stream.write(ASK * 3)
            assert await answers(3) == b"action=OK\n\n" * 3
            await mailbox.deliver("zs@mail.test", b"Subject: 1\n\n")
            await mailbox.deliver("zs@mail.test", b"Subject: 2\n\n")
            stream.write(ASK)
            assert await answers(1) == b"action=554 5.2.2 Quota exceeded (mailbox for user is full)\n\n"
            stream.write(b"x" * (REQUEST_LIMIT + 1))
            assert await stream.read(30) == b""
            stream.abort()
            server.stop()
            await tasks.drain(5)

    asyncio.run(main())


def test_the_socket_is_opened_for_postfix_only(tmp_path: Path) -> None:
    service = "service quota-status {\n  executable = quota-status%s\n  unix_listener /run/qs {\n  }\n}\n"
    (tmp_path / "dovecot.conf").write_text("ssl = no\n" + service % " -p postfix")
    found = load(tmp_path)
    assert (found.unix_listeners, found.warnings) == ((UnixListener("quota-status", Path("/run/qs")),), ())
    (tmp_path / "dovecot.conf").write_text("ssl = no\n" + service % "")
    found = load(tmp_path)
    assert found.unix_listeners == ()
    off = (service % " -p postfix").replace("/run/qs {", "/run/qs {\n    mode = 0")
    (tmp_path / "off").mkdir()
    (tmp_path / "off" / "dovecot.conf").write_text("ssl = no\n" + off)
    assert load(tmp_path / "off").unix_listeners == ()
    assert found.warnings[0].endswith("service quota-status { executable has no effect")
