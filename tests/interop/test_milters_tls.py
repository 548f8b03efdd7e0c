"""What milters are told of TLS sessions: our smtpd and the real Postfix before the same scripted milter.

With STARTTLS and with TLS from the first octet, by version and cipher, with and without a client certificate.
"""

from __future__ import annotations

import datetime
import shutil
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from mailstack.net.listen import bind_tcp
from tests.interop.real_postfix import (
    let_daemons_in,
    make_aliases,
    need_postfix,
    start_postfix,
    stop_postfix,
    wait_for,
)
from tests.interop.scripted_milter import Script, ScriptedMilter, comparable
from tests.interop.test_smtp_differential import BOTH, POSTFIX, SERVICES, _reply
from tests.ports import free_ports
from tests.unit.mta_smtpd.serving import make_certificate, write_config
from tests.unit.mta_smtpd.test_worker import SCRIPT

pytestmark = pytest.mark.real

MACROS = "{tls_version} {cipher} {cipher_bits} {cert_subject} {cert_issuer} {auth_type} i j"
EXTRA = """\
smtpd_peername_lookup = no
smtpd_tls_security_level = may
smtpd_tls_cert_file = {dir}/cert.pem
smtpd_tls_key_file = {dir}/key.pem
smtpd_tls_CAfile = {dir}/ca.pem
milter_connect_macros = MACROS
milter_helo_macros = MACROS
milter_mail_macros = MACROS
milter_rcpt_macros = MACROS
milter_data_macros = MACROS
milter_end_of_header_macros = MACROS
milter_end_of_data_macros = MACROS
milter_unknown_command_macros = MACROS
"""
PORTS: tuple[dict[str, str], ...] = (
    {},
    {"smtpd_tls_ask_ccert": "yes"},
    {"smtpd_tls_wrappermode": "yes", "smtpd_tls_ask_ccert": "yes"},
    {"milter_helo_macros": "", "milter_mail_macros": "{cipher_bits} {cert_subject}", "smtpd_tls_ask_ccert": "yes"},
    {"smtpd_milters": ""},
)  # fmt: skip
"""What each service has beside `EXTRA`; the last one, without milters, says when Postfix is there."""
CERTIFICATES: dict[str, list[tuple[x509.ObjectIdentifier, str]]] = {
    "": [],
    "plain": [(NameOID.COMMON_NAME, "client.test")],
    "long": [(NameOID.COUNTRY_NAME, "DE"), (NameOID.ORGANIZATION_NAME, "An, O=rg"), (NameOID.COMMON_NAME, "Jörg (x) <y>")],
    "nameless": [(NameOID.ORGANIZATION_NAME, "Nobody")],
}  # fmt: skip
OFFERS: tuple[tuple[ssl.TLSVersion, str], ...] = (
    (ssl.TLSVersion.TLSv1_3, "ALL"),
    (ssl.TLSVersion.TLSv1_2, "ECDHE-ECDSA-AES256-GCM-SHA384"),
    (ssl.TLSVersion.TLSv1_2, "ECDHE-ECDSA-AES128-SHA"),
)
LINES = [
    b"MAIL FROM:<a@b.test>",
    b"RCPT TO:<zs@dgtlinux.com>",
    b"FOO",
    b"DATA",
    b"Subject: x\r\n\r\nx\r\n.",
    b"QUIT",
]
Told = list[list[tuple[str, list[str]]]]


@dataclass(frozen=True)
class Side:
    ports: list[int]
    milter: ScriptedMilter
    certificates: Path

    def told(self, number: int, certificate: str, offer: tuple[ssl.TLSVersion, str]) -> Told:
        """What the milter hears of one session."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.minimum_version = context.maximum_version = offer[0]
        context.set_ciphers(offer[1])
        if certificate:
            context.load_cert_chain(self.certificates / f"{certificate}.pem")
        self.milter.begin(Script())
        with socket.create_connection(("127.0.0.1", self.ports[number]), timeout=30) as plain:
            if "smtpd_tls_wrappermode" not in PORTS[number]:
                with plain.makefile("rb", buffering=0) as stream:
                    _reply(stream.readline)
                    for line in (b"EHLO c.test", b"STARTTLS"):
                        plain.sendall(line + b"\r\n")
                        assert _reply(stream.readline).startswith(b"2")
            with context.wrap_socket(plain) as sock, sock.makefile("rb") as stream:
                if "smtpd_tls_wrappermode" in PORTS[number]:
                    assert _reply(stream.readline).startswith(b"220")
                for line in (b"EHLO c.test", *LINES):
                    sock.sendall(line + b"\r\n")
                    assert _reply(stream.readline)
        return comparable(self.milter.heard())


def make_client_certificates(directory: Path) -> None:
    """An authority `ca.pem`, and `NAME.pem` with a client's certificate and key for each of `CERTIFICATES`."""
    now = datetime.datetime.now(datetime.UTC)

    def sign(
        subject: x509.Name, key: ec.EllipticCurvePrivateKey, issuer: x509.Name, by: ec.EllipticCurvePrivateKey
    ) -> bytes:
        made = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=2))
            .add_extension(x509.BasicConstraints(ca=subject == issuer, path_length=None), critical=True)
            .sign(by, hashes.SHA256())
        )
        return made.public_bytes(serialization.Encoding.PEM)

    root = ec.generate_private_key(ec.SECP256R1())
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "The (Test) Authority")])
    (directory / "ca.pem").write_bytes(sign(issuer, root, issuer, root))
    for name, attributes in CERTIFICATES.items():
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(kind, value) for kind, value in attributes])
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        (directory / f"{name}.pem").write_bytes(sign(subject, key, issuer, root) + pem)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Side, Side]]:
    need_postfix()
    certificates = tmp_path_factory.mktemp("certificates")
    make_client_certificates(certificates)
    make_certificate(certificates)
    with ExitStack() as stack:
        sides = []
        for start in (_start_postfix, _start_ours):
            milter = ScriptedMilter()
            stack.callback(milter.stop)
            directory = tmp_path_factory.mktemp(start.__name__)
            for name in ("cert.pem", "key.pem", "ca.pem"):
                shutil.copy(certificates / name, directory / name)
            sides.append(Side(start(directory, milter.port, stack), milter, certificates))
        yield sides[0], sides[1]


def _extra(directory: Path) -> str:
    return EXTRA.replace("{dir}", str(directory)).replace("MACROS", MACROS)


def _services(ports: list[str], milter: int) -> str:
    lines = []
    for port, settings in zip(ports, PORTS, strict=True):
        lines.append(f"{port} inet n - n - - smtpd\n")
        options = {"smtpd_milters": f"inet:127.0.0.1:{milter}", **settings}
        lines += [f"  -o {{ {name} = {value} }}\n" for name, value in options.items()]
    return "".join(lines)


def _start_postfix(directory: Path, milter: int, stack: ExitStack) -> list[int]:
    let_daemons_in(directory)
    write_config(directory, BOTH + _extra(directory) + POSTFIX.format(dir=directory))
    shutil.rmtree(directory / "queue")
    (directory / "queue").mkdir()
    (directory / "data").mkdir()
    shutil.chown(directory / "data", "postfix")
    ports = free_ports(len(PORTS))
    services = _services([f"127.0.0.1:{port}" for port in ports], milter)
    (directory / "master.cf").write_text(f"{services}tlsmgr unix - - n 1000? 1 tlsmgr\n{SERVICES}")
    make_aliases(directory)
    start_postfix(directory)
    stack.callback(stop_postfix, directory)
    wait_for(ports[-1])
    return ports


def _start_ours(directory: Path, milter: int, stack: ExitStack) -> list[int]:
    write_config(directory, BOTH + _extra(directory))
    socks = [bind_tcp("127.0.0.1", 0) for _ in PORTS]
    ports = [sock.getsockname()[1] for sock in socks]
    fds = [sock.fileno() for sock in socks]
    lines = _services([str(number + 1) for number in range(len(socks))], milter)
    command = [sys.executable, "-c", SCRIPT, str(directory), lines, *map(str, fds)]
    log = stack.enter_context((directory / "mail.log").open("w"))
    process = subprocess.Popen(command, pass_fds=fds, stdout=subprocess.DEVNULL, stderr=log)
    for sock in socks:
        sock.close()

    def stop() -> None:
        process.terminate()
        process.wait(30)
        assert "Traceback" not in (directory / "mail.log").read_text()

    stack.callback(stop)
    return ports


@pytest.mark.parametrize("offer", OFFERS, ids=lambda offer: f"{offer[0].name}-{offer[1]}")
@pytest.mark.parametrize("certificate", CERTIFICATES)
@pytest.mark.parametrize("number", range(len(PORTS) - 1))
def test_macros_of_tls(
    pair: tuple[Side, Side], number: int, certificate: str, offer: tuple[ssl.TLSVersion, str]
) -> None:
    theirs, own = (side.told(number, certificate, offer) for side in pair)
    for wanted, found in zip(theirs, own, strict=True):
        for event, event_of_ours in zip(wanted, found, strict=False):
            assert event_of_ours == event
        assert len(found) == len(wanted)
    assert "{tls_version}=TLSv1" in str(own) or number == 3
