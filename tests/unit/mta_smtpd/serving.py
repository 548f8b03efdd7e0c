"""An smtpd in this process: a hand-written main.cf, a queue in a temporary folder, a port of its own."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC
from pathlib import Path

from mailstack.config.postfix.main_cf import MainCf
from mailstack.mta.smtpd.settings import Settings, load_settings
from mailstack.mta.smtpd.worker import Shared, make_server
from mailstack.net.listen import bind_tcp
from mailstack.net.log import Log
from mailstack.net.resolver import Resolver
from mailstack.net.stream import Stream, connect
from mailstack.net.tasks import TaskSet
from mailstack.storage.durable import GroupCommit
from mailstack.storage.queue import Message, Queue
from mailstack.storage.tables import open_table

MAIN_CF = """\
compatibility_level = 3.6
myhostname = mail.dgtlinux.com
mydomain = dgtlinux.com
myorigin = $mydomain
mydestination = $myhostname, localhost.$mydomain, localhost, $mydomain
mynetworks = 192.0.2.0/24
smtpd_client_event_limit_exceptions =
inet_interfaces = all
queue_directory = {dir}/queue
local_recipient_maps = texthash:{dir}/vmailbox $alias_maps
alias_maps = hash:{dir}/aliases
virtual_mailbox_domains = other.test
virtual_mailbox_maps = texthash:{dir}/vmailbox
virtual_alias_maps = texthash:{dir}/virtual
virtual_alias_domains = alias.test
relay_domains = relay.test
relay_recipient_maps = inline:{{ r@relay.test=x }}
relocated_maps = texthash:{dir}/relocated
recipient_delimiter = +
smtpd_recipient_restrictions = permit_mynetworks, permit_sasl_authenticated, reject_unauth_destination
smtpd_relay_restrictions = permit_mynetworks, permit_sasl_authenticated, reject_unauth_destination
message_size_limit = 100000
smtpd_error_sleep_time = 0
"""
TABLES = {
    "vmailbox": "zs@dgtlinux.com dgtlinux.com/zs/\nbob@other.test other.test/bob/\n",
    "aliases": "root: zs\nlist: zs, bob@other.test\n",
    "virtual": "ali@alias.test zs@dgtlinux.com, bob@other.test\nloop@alias.test loop2@alias.test\n"
    "loop2@alias.test loop@alias.test\n",
    "relocated": "old@dgtlinux.com new@example.net\n",
}


def write_config(directory: Path, extra: str = "") -> MainCf:
    """main.cf and its tables in `directory`, and the queue's folders."""
    for name, text in TABLES.items():
        (directory / name).write_text(text)
    (directory / "main.cf").write_text(MAIN_CF.format(dir=directory) + extra)
    Queue(str(directory / "queue")).create()
    return MainCf.load(directory)


def settings_of(directory: Path, extra: str = "", overrides: Mapping[str, str] | None = None) -> Settings:
    """The compiled settings of such a configuration."""
    conf = write_config(directory, extra).with_overrides(overrides or {})
    log = Log("postfix/smtpd", "mail", os.open(os.devnull, os.O_WRONLY))
    return load_settings(
        "smtp", conf, directory, resolver=Resolver([("127.0.0.1", 1)]), open_table=open_table, log=log
    )


@dataclass
class Smtpd:
    """What a test needs of a running smtpd."""

    directory: Path
    port: int
    queue: Queue
    shared: Shared
    settings: Settings
    clients: list[Stream] = field(default_factory=list)

    async def connect(self) -> Stream:
        """A new client; it is closed at the end of the block."""
        self.clients.append(await connect("127.0.0.1", self.port, 5.0))
        return self.clients[-1]

    def messages(self) -> list[Message]:
        """Everything in incoming/, oldest first."""
        found = [self.queue.read("incoming", entry.queue_id) for entry in self.queue.scan("incoming")]
        return sorted(found, key=lambda message: message.envelope.arrival)

    def log(self) -> list[str]:
        """The log so far: `daemon: text`, without time and process."""
        lines = (self.directory / "log").read_text().splitlines()
        return [
            line.split(" ", 4)[-1].partition("postfix/")[2].replace(f"[{os.getpid()}]", "") for line in lines
        ]

    async def until(self, holds: Callable[[list[str]], bool]) -> None:
        """Wait until something holds of the log."""
        async with asyncio.timeout(30.0):
            while not holds(self.log()):  # noqa: ASYNC110 - a file tells nobody
                await asyncio.sleep(0.01)

    def content(self, message: Message) -> bytes:
        return self.queue.read_content(message)


@asynccontextmanager
async def running(
    directory: Path, extra: str = "", overrides: Mapping[str, str] | None = None
) -> AsyncIterator[Smtpd]:
    """Run an smtpd for the time of the block."""
    conf = write_config(directory, extra).with_overrides(overrides or {})
    fd = os.open(directory / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    log = Log("postfix/smtpd", "mail", fd)
    resolver = Resolver([("127.0.0.1", 1)], try_timeout=0.2, attempts=1)
    settings = load_settings("smtp", conf, directory, resolver=resolver, open_table=open_table, log=log)
    queue = Queue(str(directory / "queue"))
    shared = Shared(queue, GroupCommit(), resolver, log)
    tasks = TaskSet(lambda name, error: log.exception(name, error))
    sock = bind_tcp("127.0.0.1", 0)
    server = make_server(sock, settings, shared, tasks)
    await server.start()
    smtpd = Smtpd(directory, sock.getsockname()[1], queue, shared, settings)
    try:
        yield smtpd
    finally:
        for client in smtpd.clients:
            client.abort()
        server.stop()
        for session in list(shared.sessions):
            session.stop()
        await tasks.drain(2.0)
        if settings.authenticator is not None:
            await settings.authenticator.close()
        await resolver.close()
        shared.close()
        for _ in range(3):
            await asyncio.sleep(0)  # lets transports finish closing
        os.close(fd)


def make_certificate(directory: Path) -> None:
    """cert.pem and key.pem for `localhost`, self-signed."""
    from datetime import datetime, timedelta

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=2))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (directory / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (directory / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )


def client_tls(directory: Path) -> ssl.SSLContext:
    """A client context that trusts that certificate."""
    return ssl.create_default_context(cafile=str(directory / "cert.pem"))


TLS_CF = "smtpd_tls_security_level = may\nsmtpd_tls_cert_file = {dir}/cert.pem\nsmtpd_tls_key_file = {dir}/key.pem\n"
