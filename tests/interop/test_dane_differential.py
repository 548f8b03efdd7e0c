"""DANE, our smtp(8) beside the real Postfix's: the same zone, the same servers, what the log says of each host.

The name server marks what DNSSEC would have validated (AD), as a resolver beside the MTA does. Compared: status
and text of each delivery, how far the connection was trusted, and the name that the server was called by (SNI).
"""

from __future__ import annotations

import datetime
import hashlib
import os
import re
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.interop.delivery import SERVICES, reply
from tests.interop.real_postfix import start_postfix, stop_postfix, wait_for
from tests.interop.test_smtp_client_differential import CONTENT, MAIN_CF, Scenario, Server
from tests.ports import free_port

pytestmark = pytest.mark.real

NAME_SERVER = "127.0.53.27"


@dataclass(frozen=True)
class Case:
    """A domain with one exchanger: what is signed, and what its TLSA records say."""

    tlsa: tuple[str, ...] = ()
    """`usage selector matching WHAT`: leaf, ca, or hexadecimal digits."""
    level: str = "dane"
    options: dict[str, str] = field(default_factory=dict)
    mx_secure: bool = True
    host_secure: bool = True
    tlsa_secure: bool = True
    tlsa_fails: bool = False
    alias: str = ""
    """The exchanger is an alias: `secure` or `insecure`."""
    tlsa_at_alias: bool = False
    direct: bool = False
    """The nexthop is the host, in brackets."""
    starttls: bool = True


EE, TA = "3 1 1 leaf", "2 0 1 ca"
WRONG = "3 1 1 " + "ab" * 32
CASES = {
    "ee": Case((EE,)),
    "ee certificate": Case(("3 0 1 leaf",)),
    "ee sha512": Case(("3 1 2 leaf",)),
    "ee whole": Case(("3 0 0 leaf",)),
    "ee whole key": Case(("3 1 0 leaf",)),
    "ee wrong": Case((WRONG,)),
    "ee wrong and right": Case((WRONG, EE)),
    "better digest wrong": Case((EE, "3 1 2 " + "ab" * 64)),
    "digests as we like them": Case(
        (EE, "3 1 2 " + "ab" * 64), options={"tls_dane_digests": "sha256 sha512"}
    ),
    "ta": Case((TA,)),
    "ta key": Case(("2 1 1 ca",)),
    "ta whole": Case(("2 0 0 ca",)),
    "ta wrong": Case(("2 0 1 " + "ab" * 32,)),
    "ta other name": Case((TA,)),
    "ta and ee": Case((TA, WRONG)),
    "unusable": Case(("1 1 1 leaf",)),
    "unusable digest": Case(("3 1 9 leaf",)),
    "unusable and usable": Case(("0 0 1 ca", EE)),
    "none": Case(),
    "none only": Case(level="dane-only"),
    "only": Case((EE,), level="dane-only"),
    "only wrong": Case((WRONG,), level="dane-only"),
    "only unusable": Case(("1 1 1 leaf",), level="dane-only"),
    "insecure mx": Case((WRONG,), mx_secure=False),
    "insecure mx right": Case((EE,), mx_secure=False),
    "insecure mx only": Case((EE,), mx_secure=False, level="dane-only"),
    "insecure mx may": Case((WRONG,), mx_secure=False, options={"smtp_tls_dane_insecure_mx_policy": "may"}),
    "insecure mx encrypt": Case(
        (WRONG,), mx_secure=False, options={"smtp_tls_dane_insecure_mx_policy": "encrypt"}
    ),
    "insecure host": Case((WRONG,), host_secure=False),
    "insecure host forced": Case(
        (WRONG,), host_secure=False, options={"smtp_tls_force_insecure_host_tlsa_lookup": "yes"}
    ),
    "insecure tlsa": Case((WRONG,), tlsa_secure=False),
    "tlsa fails": Case((WRONG,), tlsa_fails=True),
    "alias": Case((EE,), alias="secure"),
    "alias wrong": Case((WRONG,), alias="secure"),
    "alias itself": Case((EE,), alias="secure", tlsa_at_alias=True),
    "alias to insecure": Case((WRONG,), alias="insecure", host_secure=False, tlsa_at_alias=True),
    "direct": Case((EE,), direct=True),
    "direct wrong": Case((WRONG,), direct=True),
    "no starttls": Case((EE,), starttls=False),
    "no starttls without records": Case(starttls=False),
    "ignoring": Case((WRONG,), options={"ignore_mx_lookup_error": "yes"}),
    "by policy": Case((WRONG,), level="may", options={"smtp_tls_policy_maps": "static:dane"}),
}


_NAMED = ("ta", "ta key", "ta whole", "ta wrong", "ta and ee")
"""Cases whose host the certificate is for; the others need no name."""


def _name(name: str) -> str:
    return name.replace(" ", "-")


class Certificates:
    """An authority, and the one certificate of every server."""

    def __init__(self, folder: Path) -> None:
        now = datetime.datetime.now(datetime.UTC)
        names = [x509.DNSName(f"mx.{_name(name)}.test") for name in CASES if name in _NAMED]

        def made(
            subject: str, issuer: str, own: ec.EllipticCurvePrivateKey, by: ec.EllipticCurvePrivateKey
        ) -> x509.Certificate:
            def common(text: str) -> x509.Name:
                return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

            builder = (
                x509.CertificateBuilder()
                .subject_name(common(subject))
                .issuer_name(common(issuer))
                .public_key(own.public_key())
                .serial_number(1 + (own is not by))
                .not_valid_before(now - datetime.timedelta(hours=1))
                .not_valid_after(now + datetime.timedelta(hours=1))
                .add_extension(x509.BasicConstraints(ca=own is by, path_length=None), critical=True)
            )
            if own is not by:
                builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
            return builder.sign(by, hashes.SHA256())

        authority, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
        self.known = {
            "ca": made("ca", "ca", authority, authority),
            "leaf": made("leaf", "ca", key, authority),
        }
        self.path = folder / "chain.pem"
        pem = serialization.Encoding.PEM
        self.path.write_bytes(
            self.known["leaf"].public_bytes(pem)
            + self.known["ca"].public_bytes(pem)
            + key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        )

    def record(self, text: str) -> str:
        """A TLSA record's data."""
        usage, selector, matching, what = text.split(" ")
        if what not in self.known:
            return text
        certificate = self.known[what]
        part = certificate.public_bytes(serialization.Encoding.DER)
        if selector == "1":
            part = certificate.public_key().public_bytes(
                serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
            )
        if matching in ("1", "9"):
            part = hashlib.sha256(part).digest()
        elif matching == "2":
            part = hashlib.sha512(part).digest()
        return f"{usage} {selector} {matching} {part.hex()}"


class Zone:
    """Names, records, and which of them are validated; a name server of them."""

    def __init__(self) -> None:
        self.records: dict[tuple[dns.name.Name, str], tuple[list[str], bool]] = {}
        self.failing: set[dns.name.Name] = set()
        self.add(".", "NS", ["a.root.test."], secure=True)

    def add(self, owner: str, kind: str, data: list[str], *, secure: bool) -> None:
        self.records[dns.name.from_text(owner), kind] = (data, secure)

    def answer(self, query: dns.message.Message) -> dns.message.Message:
        response = dns.message.make_response(query)
        response.flags |= dns.flags.RA
        question = query.question[0]
        name, kind, secure = question.name, dns.rdatatype.to_text(question.rdtype), True
        if name in self.failing:
            response.set_rcode(dns.rcode.SERVFAIL)
            return response
        while (alias := self.records.get((name, "CNAME"))) is not None and kind != "CNAME":
            response.answer.append(dns.rrset.from_text(name, 60, "IN", "CNAME", *alias[0]))
            secure, name = secure and alias[1], dns.name.from_text(alias[0][0])
        found = self.records.get((name, kind))
        if found is not None:
            response.answer.append(dns.rrset.from_text(name, 60, "IN", kind, *found[0]))
            secure = secure and found[1]
        elif not any(owner.is_subdomain(name) for owner, _ in self.records):
            response.set_rcode(dns.rcode.NXDOMAIN)
        if found is None:
            response.authority.append(
                dns.rrset.from_text("test.", 60, "IN", "SOA", "ns.test. root.test. 1 60 60 60 60")
            )
        if secure and (query.ednsflags & dns.flags.DO or query.flags & dns.flags.AD):
            response.flags |= dns.flags.AD
        return response

    @contextmanager
    def served(self) -> Iterator[None]:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind((NAME_SERVER, 53))
            sock.settimeout(0.2)
            stop = threading.Event()

            def serve() -> None:
                while not stop.is_set():
                    try:
                        data, client = sock.recvfrom(4096)
                    except TimeoutError:
                        continue
                    sock.sendto(self.answer(dns.message.from_wire(data)).to_wire(max_size=65535), client)

            thread = threading.Thread(target=serve)
            thread.start()
            try:
                yield
            finally:
                stop.set()
                thread.join()


class World:
    """The zone, the servers, and the files of one MTA."""

    def __init__(self, directory: Path, chroot: str, stack: ExitStack) -> None:
        self.directory = directory
        self.zone = Zone()
        self.servers: dict[str, Server] = {}
        self.sni: dict[str, list[str | None]] = {name: [] for name in CASES}
        certificates = Certificates(directory)
        routes, services = [], []
        for number, (name, case) in enumerate(CASES.items()):
            extensions = ("PIPELINING", "STARTTLS") if case.starttls else ("PIPELINING",)
            context = self._context(certificates.path, self.sni[name])
            server = Server(Scenario(extensions=extensions, tls="good"), context, context)
            stack.callback(server.close)
            self.servers[name] = server
            domain, host = f"{_name(name)}.test", f"mx.{_name(name)}.test"
            target = f"real.{domain}" if case.alias else host
            self.zone.add(domain, "MX", [f"10 {host}."], secure=case.mx_secure)
            if case.alias:
                self.zone.add(host, "CNAME", [f"{target}."], secure=True)
            self.zone.add(target, "A", ["127.0.0.1"], secure=case.host_secure)
            base = host if case.tlsa_at_alias else target
            owner = f"_{server.port}._tcp.{base}"
            if case.tlsa:
                data = [certificates.record(text) for text in case.tlsa]
                self.zone.add(owner, "TLSA", data, secure=case.tlsa_secure)
            if case.tlsa_fails:
                self.zone.failing.add(dns.name.from_text(owner))
            nexthop = f"[{host}]:{server.port}" if case.direct else f"{domain}:{server.port}"
            routes.append(f"{domain} d{number}:{nexthop}\n")
            services.append(f"d{number} unix - - {chroot} - - smtp")
            services.append(f"  -o smtp_tls_security_level={case.level}")
            services += [f"  -o {{ {key} = {value} }}" for key, value in case.options.items()]
        (directory / "transport").write_text("".join(routes))
        text = MAIN_CF.format(dir=directory).replace("level = disabled", "level = dnssec")
        (directory / "main.cf").write_text(text)
        self.services = SERVICES + "\n".join([*services, "tlsmgr unix - - n 1000? 1 tlsmgr", ""])
        self.port = free_port()

    @staticmethod
    def _context(path: Path, asked: list[str | None]) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path)
        context.sni_callback = lambda _, name, __: asked.append(name)
        return context

    def run(self) -> dict[str, tuple[list[str], list[str], list[str | None]]]:
        """What became of each case's message: outcome, trust, SNI."""
        for name in CASES:
            with (
                socket.create_connection(("127.0.0.1", self.port), timeout=20) as sock,
                sock.makefile("rb") as stream,
            ):
                reply(stream)
                recipient = f"RCPT TO:<a@{_name(name)}.test>"
                for text in ["EHLO client.test", "MAIL FROM:<zs@x.test>", recipient, "DATA"]:
                    sock.sendall(text.encode() + b"\r\n")
                    assert reply(stream)[:1] in b"23", text
                sock.sendall(CONTENT + b"\r\nbody\r\n.\r\nQUIT\r\n")
                assert reply(stream)[:3] == b"250"
        end = time.monotonic() + 30
        while time.monotonic() < end and not all(map(self._outcome, CASES)):
            time.sleep(0.1)
        return {name: (self._outcome(name), self._trust(name), self.sni[name][:1]) for name in CASES}

    def _log(self) -> str:
        return (self.directory / "log").read_text("utf-8", "replace")

    def _outcome(self, name: str) -> list[str]:
        found = re.findall(rf"to=<a@{_name(name)}\.test>.* relay=(\S+), .*(dsn=.*)", self._log())
        return [re.sub(r":\d{4,5}\b", ":PORT", " ".join(words)) for words in found]

    def _trust(self, name: str) -> list[str]:
        port = self.servers[name].port
        return re.findall(rf"(\w+) TLS connection established to \S+:{port}: ", self._log())


@contextmanager
def postfix(directory: Path) -> Iterator[World]:
    with ExitStack() as stack:
        world = World(directory, "y", stack)
        with (directory / "main.cf").open("a") as file:
            file.write(f"data_directory = {directory}/data\nmaillog_file = {directory}/log\n")
        (directory / "queue/etc").mkdir(parents=True)
        (directory / "queue/etc/resolv.conf").write_text(f"nameserver {NAME_SERVER}\n")
        (directory / "data").mkdir()
        shutil.chown(directory / "data", "postfix")
        (directory / "master.cf").write_text(f"127.0.0.1:{world.port} inet n - n - - smtpd\n{world.services}")
        stack.enter_context(world.zone.served())
        start_postfix(directory)
        stack.callback(stop_postfix, directory)
        wait_for(world.port)
        yield world


@contextmanager
def ours(directory: Path) -> Iterator[World]:
    with ExitStack() as stack:
        world = World(directory, "n", stack)
        (directory / "master.cf").write_text(f"127.0.0.1:{world.port} inet n - n - 1 smtpd\n{world.services}")
        (directory / "mailstack.toml").write_text(f'[resolver]\nnameservers = ["{NAME_SERVER}:53"]\n')
        stack.enter_context(world.zone.served())
        log = stack.enter_context((directory / "log").open("w"))
        command = [sys.executable, "-m", "mailstack.mta", "--config", str(directory)]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=log)
        stack.callback(process.wait, 30)
        stack.callback(process.terminate)
        wait_for(world.port)
        yield world


Answer = dict[str, tuple[list[str], list[str], list[str | None]]]


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> tuple[Answer, Answer]:
    if shutil.which("postfix") is None or os.geteuid() != 0:
        pytest.skip("needs Postfix and root")
    theirs = tmp_path_factory.mktemp("postfix")
    for folder in (theirs, *theirs.parents):
        if folder != Path("/") and folder != Path("/tmp"):
            folder.chmod(0o755)
    with postfix(theirs) as world:
        reference = world.run()
    with ours(tmp_path_factory.mktemp("ours")) as world:
        return reference, world.run()


@pytest.mark.parametrize("name", CASES)
def test_the_same_trust_and_outcome(answers: tuple[Answer, Answer], name: str) -> None:
    theirs, mine = answers
    assert theirs[name][0], "Postfix has not delivered"
    assert mine[name] == theirs[name]
