"""Real Postfix, Dovecot and BIND start on a rendered tree and carry mail: what an administrator does with it."""

from __future__ import annotations

import imaplib
import os
import smtplib
import socket
import ssl
import subprocess
import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from ipaddress import IPv4Network
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

import pytest

from mailstack.render import Addresses, Listener, Site, render
from mailstack.render.site import STANDARD_PORTS, ServiceName
from mailstack.spec import Stack
from tests.golden.trees import certificate, example, host_site, need, passwords, write
from tests.ports import free_ports

pytestmark = pytest.mark.real
ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}


@dataclass(frozen=True, slots=True)
class Running:
    """Three real servers on one tree."""

    root: Path
    stack: Stack
    ports: dict[ServiceName, int]
    tls: ssl.SSLContext

    def send(self, sender: str, *recipients: str, subject: str) -> None:
        """Send by submission, as `sender`."""
        with smtplib.SMTP("127.0.0.1", self.ports["submission"], timeout=20) as client:
            client.starttls(context=self.tls)
            client.login(sender, passwords(self.stack)[sender])
            text = f"From: {sender}\r\nTo: {', '.join(recipients)}\r\nSubject: {subject}\r\n\r\nHello.\r\n"
            client.sendmail(sender, recipients, text)

    def wait_for(self, user: str, subject: str, *, login: str | None = None) -> None:
        """Wait until `user` has a message with that subject."""
        with imaplib.IMAP4_SSL("127.0.0.1", self.ports["imaps"], ssl_context=self.tls, timeout=20) as client:
            client.login(login or user, passwords(self.stack)[user])
            deadline = time.monotonic() + 20
            while True:
                client.select()
                if client.search(None, "SUBJECT", f'"{subject}"')[1] != [b""]:
                    return
                assert time.monotonic() < deadline, f"{subject} never came to {user}"
                time.sleep(0.05)

    def dig(self, *question: str) -> list[str]:
        """What the name server answers, short form."""
        command = ["dig", "@127.0.0.1", "-p", str(self.ports["dns"]), "+short", *question]
        done = subprocess.run(
            command, env=ENVIRONMENT, capture_output=True, text=True, timeout=20, check=True
        )
        return sorted(done.stdout.splitlines())


def prepare(name: str, root: Path) -> tuple[Stack, Site]:
    """The example's site on this machine, but for its ports and folders."""
    stack = example(name)
    ports = dict(zip(STANDARD_PORTS, free_ports(len(STANDARD_PORTS)), strict=True))
    listeners = {
        service: (Listener("127.0.0.1", ports[service]),) for service in ports if service in stack.services
    }
    queue = PurePosixPath(root / "spool")
    network = IPv4Network("127.0.0.0/24")
    site = replace(
        host_site(stack, root),
        queue_directory=queue,
        auth_socket=queue / "private" / "auth",
        mail_root=PurePosixPath(root / "mail"),
        base_directory=PurePosixPath(root / "dovecot-run"),
        data_directory=PurePosixPath(root / "postfix-data"),
        network=network,
        addresses=Addresses.in_network(network),
        listeners=listeners,
        lmtp_nexthop=Listener("127.0.0.1", ports["lmtp"]),
    )
    return stack, site


@contextmanager
def servers(root: Path, site: Site) -> Iterator[None]:
    """Postfix, Dovecot and named on the tree at `root`, until the block ends."""
    postfix = ["postfix", "-c", str(root / "postfix")]
    # Postfix is the first: its start makes the folder that Dovecot's authentication socket lies in.
    check(["postalias", "-c", str(root / "postfix"), f"hash:{root}/postfix/aliases"])
    check([*postfix, "start"])
    with ExitStack() as logs:
        children = [
            subprocess.Popen(
                command, env=ENVIRONMENT, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )
            for command, log in (
                (
                    ["dovecot", "-F", "-c", str(root / "dovecot" / "dovecot.conf")],
                    logs.enter_context((root / "dovecot.log").open("wb")),
                ),
                (
                    ["named", "-g", "-c", str(root / "bind" / "named.conf")],
                    logs.enter_context((root / "named.log").open("wb")),
                ),
            )
        ]
        try:
            for service, listeners in site.listeners.items():
                for listener in listeners:
                    answers(service, listener, root)
            yield
        finally:
            subprocess.run([*postfix, "stop"], env=ENVIRONMENT, capture_output=True, timeout=30, check=False)
            for child in children:
                child.terminate()
            for child in children:
                child.wait(20)


def check(command: list[str]) -> None:
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def answers(service: str, listener: Listener, root: Path) -> None:
    deadline = time.monotonic() + 20
    while True:
        try:
            socket.create_connection((listener.address, listener.port), 1).close()
        except OSError:
            logs = "".join(path.read_text("utf-8", "replace") for path in root.glob("*.log"))
            assert time.monotonic() < deadline, f"{service} does not listen on {listener}\n{logs}"
            time.sleep(0.02)
        else:
            return


@pytest.fixture(scope="module", params=["dgtlinux", "two-domains"])
def running(request: pytest.FixtureRequest) -> Iterator[Running]:
    need("postfix", "dovecot", "named", "dig", "postalias")
    if os.geteuid() != 0:
        pytest.skip("needs root: Postfix starts as root only")
    with TemporaryDirectory(prefix="mailstack-servers-") as folder:
        root = Path(folder)
        root.chmod(0o755)
        stack, site = prepare(request.param, root)
        certificate(root / "tls", "localhost", *(domain.hostname for domain in stack.domains.values()))
        for path in (site.queue_directory, site.mail_root):
            Path(path).mkdir()
        os.chown(site.mail_root, site.mail_uid, site.mail_gid)
        write(render(stack, site), root)
        trust = ssl.create_default_context(cafile=str(root / "tls" / "cert.pem"))
        trust.check_hostname = False
        ports = {name: listeners[0].port for name, listeners in site.listeners.items()}
        with servers(root, site):
            yield Running(root, stack, ports, trust)


def test_mail_goes_through_real_servers(running: Running) -> None:
    users = list(passwords(running.stack))
    running.send(users[0], users[-1], subject="straight")
    running.wait_for(users[-1], "straight")


def test_every_alias_leads_to_its_users(running: Running) -> None:
    sender = running.stack.first_user
    for name, domain in running.stack.domains.items():
        for alias in (*domain.aliases, "postmaster"):
            running.send(sender, f"{alias}@{name}", subject=f"to {alias}")
    primary = running.stack.primary
    if primary == "dgtlinux.com":
        for subject in ("to postmaster", "to abuse"):
            running.wait_for("zs@dgtlinux.com", subject)
    else:
        for user, subject in (
            ("anna@alpha.test", "to info"),
            ("otto@alpha.test", "to info"),
            ("anna@alpha.test", "to anna"),
            ("archive@beta.test", "to anna"),
            ("bela@beta.test", "to sales"),
            ("otto@alpha.test", "to sales"),
            ("bela@beta.test", "to postmaster"),
            ("eva@lab.alpha.test", "to postmaster"),
        ):
            running.wait_for(user, subject)


def test_addresses_under_other_names_of_the_host(running: Running) -> None:
    stack = running.stack
    user, _, primary = stack.first_user.partition("@")
    for index, domain in enumerate((stack.domains[primary].hostname, "localhost", f"localhost.{primary}")):
        running.send(stack.first_user, f"{user}@{domain}", subject=f"other name {index}")
        running.wait_for(stack.first_user, f"other name {index}")
    running.send(stack.first_user, f"{user}+box@{primary}", subject="extended")
    running.wait_for(stack.first_user, "extended", login=user)


def test_a_catch_all_catches_only_the_rest(running: Running) -> None:
    for name, domain in running.stack.domains.items():
        if domain.catch_all is None:
            with pytest.raises(smtplib.SMTPRecipientsRefused) as refused:
                running.send(running.stack.first_user, f"nobody@{name}", subject="refused")
            assert refused.value.recipients[f"nobody@{name}"][0] == 550
        else:
            running.send(running.stack.first_user, f"nobody@{name}", f"archive@{name}", subject="caught")
            running.wait_for(f"{domain.catch_all}@{name}", "caught")
            running.wait_for(f"archive@{name}", "caught")


def test_strangers_cannot_relay_and_wrong_passwords_are_refused(running: Running) -> None:
    sender = running.stack.first_user
    with smtplib.SMTP("127.0.0.1", running.ports["submission"], timeout=20) as client:
        assert not client.has_extn("auth")
        client.starttls(context=running.tls)
        client.ehlo()
        wrong = b64encode(f"\0{sender}\0wrong".encode()).decode()
        assert client.docmd("AUTH", f"PLAIN {wrong}")[0] == 535
        assert client.mail(sender)[0] == 250
        assert client.rcpt(sender)[0] == 554
    with smtplib.SMTP_SSL(
        "127.0.0.1", running.ports["submissions"], context=running.tls, timeout=20
    ) as client:
        client.login(sender, passwords(running.stack)[sender])


def test_the_greeting_is_the_configured_one(running: Running) -> None:
    with socket.create_connection(("127.0.0.1", running.ports["smtp"]), 20) as client:
        greeting = client.recv(500).decode()
    if running.stack.primary == "dgtlinux.com":
        assert greeting == "220 Welcome to my mail.dgtlinux.com ESMTP!\r\n"
    else:
        assert greeting == "220 mail.alpha.test ESMTP Postfix\r\n"


def test_bind_answers_from_the_zones(running: Running) -> None:
    for name, domain in running.stack.domains.items():
        assert running.dig(name, "MX") == [f"10 {domain.hostname}."]
        assert running.dig(name, "NS") == [f"dns.{name}."]
        assert running.dig(name, "TXT") == ['"v=spf1 mx -all"']
        assert running.dig(f"_submissions._tcp.{name}", "SRV") == [f"0 1 465 {domain.hostname}."]
        assert len(running.dig(domain.hostname, "A")) == 1
    assert running.dig("-x", "127.0.0.3") == [f"{running.stack.domains[running.stack.primary].hostname}."]
