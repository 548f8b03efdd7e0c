"""Listeners behind a proxy that says for whom it stands, and limits of sessions."""

from __future__ import annotations

import asyncio
import os
import ssl
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from mailstack.config.dovecot import load
from mailstack.config.errors import ConfigError
from mailstack.mailbox.handlers import handlers
from mailstack.mailbox.listeners import Listeners
from mailstack.mailbox.service import MailboxService, tls_context
from mailstack.net.clock import SystemClock
from mailstack.net.log import Log
from mailstack.net.stream import Stream, connect
from mailstack.net.tasks import TaskSet
from mailstack.storage.durable import GroupCommit
from tests.mailbox import CONFIG, USERS, certificate
from tests.ports import free_ports

SETTINGS = """\
listen = 127.0.0.1
haproxy_trusted_networks = {networks}
haproxy_timeout = {timeout}
service imap-login {{
  inet_listener imap {{
    port = {port}
    haproxy = yes
  }}
  inet_listener imaps {{
    port = {tls_port}
    haproxy = yes
  }}
}}
service imap {{
  process_limit = 2
}}
ssl = yes
ssl_cert = <{cert}
ssl_key = <{key}
"""
SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
VERSION_2 = (
    SIGNATURE
    + b"\x21\x11"
    + struct.pack("!H", 19)
    + bytes((192, 0, 2, 7, 198, 51, 100, 1))
    + struct.pack("!HH", 4444, 143)
    + b"\x04\0\4abcd"
)
LOCAL = SIGNATURE + b"\x20\x00\0\0"


@asynccontextmanager
async def service(
    folder: Path, networks: str = "127.0.0.0/8", timeout: str = "10 s", more: str = ""
) -> AsyncIterator[tuple[int, int, Path]]:
    """Port, port with TLS, and the log."""
    port, tls_port = free_ports(2)
    cert, key = certificate(folder)
    (folder / "users").write_text(USERS)
    text = CONFIG.replace("protocols = imap pop3 lmtp", "protocols = imap").replace("ssl = no\n", "")
    (folder / "dovecot.conf").write_text(
        text.replace("home=mail", f"home={folder}/mail")
        + SETTINGS.format(
            networks=networks, timeout=timeout, port=port, tls_port=tls_port, cert=cert, key=key
        )
        + more
    )
    config = load(folder)
    fd = os.open(folder / "log", os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
    log = Log("dovecot", "test", fd)
    tasks = TaskSet(log.exception)
    context = tls_context(config)
    mailbox = MailboxService(config, context, GroupCommit(), SystemClock(), log)
    listeners = Listeners(handlers(mailbox), tasks, tasks, log)
    await listeners.apply(config, context)
    try:
        yield port, tls_port, folder / "log"
    finally:
        listeners.stop()
        mailbox.stop()
        await tasks.drain(0.2)
        mailbox.close()
        await asyncio.sleep(0)
        os.close(fd)


async def begin(port: int, header: bytes, *, tls: bool = False, apart: bool = False) -> Stream:
    stream = await connect("127.0.0.1", port, 5)
    for at in range(len(header)) if apart else ():
        stream.write(header[at : at + 1])
        await asyncio.sleep(0)
    if not apart:
        stream.write(header)
    if tls:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        await stream.start_tls(context, 10, server_side=False)
    return stream


async def login(stream: Stream) -> bytes:
    """What LOGIN is answered, behind the greeting."""
    answer = b""
    stream.write(b"a LOGIN zs secret\r\n")
    while b"\r\na " not in answer:
        data = await stream.read(30)
        assert data, answer
        answer += data
    assert answer.startswith(b"* OK ")
    return answer.partition(b"\r\na ")[2]


@pytest.mark.parametrize(
    ("header", "client", "server"),
    [
        (b"PROXY TCP4 192.0.2.9 198.51.100.1 5555 143\r\n", "192.0.2.9", "198.51.100.1"),
        (b"PROXY TCP6 2001:db8::1 2001:db8::2 5555 143\r\n", "2001:db8::1", "2001:db8::2"),
        (b"PROXY UNKNOWN\r\n", "127.0.0.1", "127.0.0.1"),
        (VERSION_2, "192.0.2.7", "198.51.100.1"),
        (LOCAL, "127.0.0.1", "127.0.0.1"),
    ],
)
@pytest.mark.parametrize("tls", [False, True])
def test_the_client_is_whom_the_proxy_names(
    tmp_path: Path, header: bytes, client: str, server: str, tls: bool
) -> None:
    async def main() -> str:
        async with service(tmp_path) as (port, tls_port, log):
            stream = await begin(tls_port if tls else port, header, tls=tls, apart=not tls)
            assert (await login(stream)).startswith(b"OK ")
            stream.abort()
            return log.read_text()

    secured = ", TLS" if tls else ""
    text = asyncio.run(main())
    assert f"method=PLAIN, rip={client}, lip={server}, mpid={os.getpid()}{secured}, session=<" in text


@pytest.mark.parametrize(
    ("settings", "header", "reason"),
    [
        ({"networks": "10.0.0.0/8"}, VERSION_2, "Client not trusted"),
        ({"networks": ""}, VERSION_2, "Client not trusted"),
        ({"timeout": "10 ms"}, b"PROXY TCP4 ", "Client timed out"),
        ({}, b"a LOGIN zs secret\r\n", "missing protocol header"),
        ({}, b"PROXY TCP4 x y 1 2\r\n", "bad address 'x'"),
        ({}, b"PROXY " + b"x" * 200, "protocol header too long"),
        ({}, SIGNATURE + b"\x21\x11\xff\xff", "protocol header too long"),
    ],
)
def test_others_are_sent_away(tmp_path: Path, settings: dict[str, str], header: bytes, reason: str) -> None:
    async def main() -> str:
        async with service(tmp_path, **settings) as (port, _, log):
            stream = await begin(port, header)
            try:
                assert await stream.read(30) == b""
            except ConnectionError:
                pass
            stream.abort()
            return log.read_text()

    assert f"imap-login: haproxy: {reason} (rip=127.0.0.1)\n" in asyncio.run(main())


def test_process_limit(tmp_path: Path) -> None:
    async def main() -> str:
        async with service(tmp_path) as (port, _, log):
            streams = [await begin(port, LOCAL) for _ in range(3)]
            assert (await login(streams[0])).startswith(b"OK ")
            assert (await login(streams[1])).startswith(b"OK ")
            assert (await login(streams[2])).startswith(b"NO [UNAVAILABLE] ")
            streams[0].abort()
            while (await login(last := await begin(port, LOCAL))).startswith(b"NO "):
                last.abort()
            for stream in (*streams, last):
                stream.abort()
            return log.read_text()

    assert "master: service(imap): process_limit (2) reached, client connections are being dropped" in (
        asyncio.run(main())
    )


PLACES = """\
disable_plaintext_auth = yes
remote 192.0.2.0/24 {
  disable_plaintext_auth = no
  mail_max_userip_connections = 1
}
remote 192.0.2.128/25 {
  disable_plaintext_auth = yes
}
local 198.51.100.7 {
  disable_plaintext_auth = no
}
remote 2001:db8::/32 {
  disable_plaintext_auth = no
}
"""


def test_clients_are_treated_by_where_they_are(tmp_path: Path) -> None:
    """The smallest network's word counts."""

    async def main() -> None:
        async with service(tmp_path, more=PLACES) as (port, _, _):
            streams = []
            for client, server, answer in (
                ("192.0.2.9", "198.51.100.1", b"OK "),
                ("192.0.2.9", "198.51.100.1", b"NO [UNAVAILABLE] Maximum number"),
                ("192.0.2.129", "198.51.100.1", b"NO [PRIVACYREQUIRED] "),
                ("192.0.2.129", "198.51.100.7", b"OK "),
                ("192.0.3.1", "198.51.100.1", b"NO [PRIVACYREQUIRED] "),
            ):
                header = f"PROXY TCP4 {client} {server} 5555 143\r\n".encode()
                streams.append(await begin(port, header))
                assert (await login(streams[-1])).startswith(answer), (client, server)
            for stream in streams:
                stream.abort()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("remote mail.test {\n  disable_plaintext_auth = no\n}\n", "write an address or a network"),
        (
            "haproxy_trusted_networks = 10.0.0.0/8 nowhere\n",
            "haproxy_trusted_networks: invalid network nowhere",
        ),
        ("service imap {\n  process_limit = many\n}\n", "Invalid number many"),
        ("service pop3 {\n  process_limit = 0\n}\n", "Invalid number 0"),
    ],
)
def test_wrong_settings(tmp_path: Path, text: str, error: str) -> None:
    (tmp_path / "dovecot.conf").write_text(CONFIG + text)
    (tmp_path / "users").write_text(USERS)
    with pytest.raises(ConfigError, match=error):
        load(tmp_path)
