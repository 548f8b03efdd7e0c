"""A mailbox service in this process, on free ports, for tests of its protocols.

    async with running(tmp_path) as mailbox:
        await mailbox.deliver("zs@mail.test", b"Subject: hi\\r\\n\\r\\nbody\\r\\n")
        stream = await mailbox.connect("pop3")

Users: zs (password `secret`, PBKDF2), support (password `s e cret`, plain), both at mail.test; no failure delay.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from mailstack.config.dovecot import load
from mailstack.mailbox.handlers import handlers
from mailstack.mailbox.service import MailboxService, tls_context
from mailstack.net.clock import SystemClock
from mailstack.net.listen import Server, bind_tcp, bind_unix
from mailstack.net.log import Log
from mailstack.net.stream import Stream, connect, connect_unix
from mailstack.net.tasks import TaskSet
from mailstack.storage.durable import GroupCommit

USERS = """\
zs@mail.test:{PBKDF2}$1$jezJSjpETDH3T12K$5000$8b0a245b46db910e57de4d308b58ffbee091c65d::::::
support@mail.test:{PLAIN}s e cret::::::
"""
CONFIG = """\
protocols = imap pop3 lmtp
ssl = no
hostname = mx.mail.test
disable_plaintext_auth = no
auth_mechanisms = plain login
auth_default_realm = mail.test
auth_failure_delay = 0
login_greeting = Welcome to mail.test
mail_location = maildir:~/
passdb {
  driver = passwd-file
  args = users
}
userdb {
  driver = static
  args = home=mail/%d/%n
}
"""


class Mailbox:
    """The running service."""

    def __init__(self, service: MailboxService, servers: dict[str, Server], log: Path) -> None:
        self.service = service
        self.servers = servers
        self.streams: list[Stream] = []
        self._log = log

    def port(self, name: str) -> int:
        """The port of `imap`, `pop3`, `lmtp`, `imaps`, `pop3s`."""
        port: int = self.servers[name].sock.getsockname()[1]
        return port

    def path(self, name: str) -> str:
        """The socket file of `auth` or `saslauthd`."""
        return str(self.servers[name].sock.getsockname())

    async def connect(self, name: str) -> Stream:
        """Open a connection to one of the listeners."""
        if name in ("auth", "saslauthd"):
            stream = await connect_unix(self.path(name), 5)
        else:
            stream = await connect("127.0.0.1", self.port(name), 5)
        self.streams.append(stream)
        return stream

    async def deliver(self, user: str, message: bytes) -> None:
        """Put a message into a user's INBOX."""
        found = self.service.lookup(user)
        assert found is not None
        await self.service.store.deliver(found.mail_root, [message])

    def log(self) -> str:
        """Everything logged so far."""
        return self._log.read_text()


@asynccontextmanager
async def running(
    folder: Path, extra: str = "", users: str = USERS, tls: bool = False, whole: bool = False
) -> AsyncIterator[Mailbox]:
    """The service with `extra` lines in its dovecot.conf. With `tls`: STLS and STARTTLS, `imaps`, `pop3s`.

    `whole`: `extra` is all of dovecot.conf.
    """
    config_text = extra if whole else CONFIG.replace("home=mail", f"home={folder}/mail") + extra
    if tls:
        cert, key = certificate(folder)
        config_text += f"ssl = yes\nssl_cert = <{cert}\nssl_key = <{key}\n"
    (folder / "dovecot.conf").write_text(config_text)
    if not (folder / "users").exists():
        (folder / "users").write_text(users)
    config = load(folder)
    log_path = folder / "log"
    fd = os.open(log_path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
    log = Log("dovecot", "test", fd)
    tasks = TaskSet(log.exception)
    context = tls_context(config)
    service = MailboxService(config, context, GroupCommit(), SystemClock(), log)
    made = handlers(service)
    servers = {
        name: Server(bind_tcp("127.0.0.1", 0), made[name], tasks, name=name)
        for name in ("imap", "pop3", "lmtp")
    }
    if tls:
        for name in ("imap", "pop3"):
            sock = bind_tcp("127.0.0.1", 0)
            servers[name + "s"] = Server(sock, made[name], tasks, name=name + "s", tls=context)
    for name in ("auth", "saslauthd"):
        servers[name] = Server(bind_unix(folder / name, 0o666), made[name], tasks, name=name)
    try:
        for server in servers.values():
            await server.start()
        mailbox = Mailbox(service, servers, log_path)
        yield mailbox
        for stream in mailbox.streams:
            stream.abort()
    finally:
        for server in servers.values():
            server.stop()
        service.stop()
        await tasks.drain(0.2)
        service.close()
        await asyncio.sleep(0)  # lets the transports see that they are closed
        os.close(fd)


def certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate of its own for localhost and 127.0.0.1, and its key."""
    import datetime
    import ipaddress

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    cert_path, key_path = folder / "cert.pem", folder / "key.pem"
    if cert_path.exists():
        return cert_path, key_path
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    cert = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    cert_path.write_bytes(cert.public_bytes(serialization.Encoding.PEM))
    key_path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return cert_path, key_path


def client_tls(folder: Path) -> ssl.SSLContext:
    """A client's context that trusts the certificate of `folder`."""
    return ssl.create_default_context(cafile=str(folder / "cert.pem"))
