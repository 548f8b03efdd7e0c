"""TLS as main.cf asks for it, our smtpd and the real Postfix: version, cipher and certificate of each handshake.

Every case is a service of its own, with its own `-o`; a client that can do one thing only tries each in turn.
"""

from __future__ import annotations

import re
import shutil
import socket
import ssl
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
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
from tests.interop.test_smtp_differential import BOTH, POSTFIX, SERVICES, _reply
from tests.ports import free_ports
from tests.unit.mta_smtpd.serving import write_config
from tests.unit.mta_smtpd.test_worker import SCRIPT

pytestmark = pytest.mark.real

EXTRA = """\
smtpd_tls_security_level = may
smtpd_tls_cert_file = {dir}/rsa.pem
smtpd_tls_eccert_file = {dir}/ec.pem
smtpd_tls_session_cache_timeout = 0
"""
VERSIONS = ("TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3")
_NUMBERS = dict(zip(VERSIONS, (0x0301, 0x0302, 0x0303, 0x0304), strict=True))
CURVES = ("X25519", "X448", "prime256v1", "secp384r1", "secp521r1")
# Handshakes that a client offers: (versions, ciphers up to TLS 1.2, curve, name).
Offer = tuple[str, str, str, str]
BY_VERSION: list[Offer] = [(version, "ALL:@SECLEVEL=0", "", "") for version in VERSIONS]
BY_CIPHER: list[Offer] = [
    ("TLSv1.2", f"{cipher}:@SECLEVEL=0", "", "")
    for cipher in (
        "AES128-SHA", "AES256-GCM-SHA384", "ECDHE-RSA-AES128-SHA", "ECDHE-RSA-AES128-GCM-SHA256",
        "ECDHE-RSA-AES256-GCM-SHA384", "ECDHE-ECDSA-AES256-GCM-SHA384", "ECDHE-RSA-CHACHA20-POLY1305",
        "ECDHE-RSA-CAMELLIA128-SHA256", "AECDH-AES128-SHA", "NULL-SHA256", "aRSA", "aECDSA",
        "ECDHE-RSA-AES128-GCM-SHA256:ECDHE-RSA-AES256-GCM-SHA384",
        "ECDHE-RSA-CHACHA20-POLY1305:ECDHE-RSA-AES256-GCM-SHA384", "DHE-RSA-AES128-SHA",
    )
]  # fmt: skip
BY_CURVE: list[Offer] = [
    (version, "ECDHE:@SECLEVEL=0", curve, "") for curve in CURVES for version in ("TLSv1.2", "TLSv1.3")
]
NAMES: list[Offer] = [
    ("TLSv1.3", "ALL", "", name)
    for name in ("one.test", "ONE.test", "a.one.test", "b.a.one.test", "two.test", "other.test")
]
CASES: list[tuple[dict[str, str], list[Offer]]] = [
    ({}, [*BY_VERSION[2:], *BY_CIPHER, *BY_CURVE]),
    *(({"smtpd_tls_protocols": text}, BY_VERSION)
      for text in (">=TLSv1.3", "<=TLSv1.2", "!TLSv1.2", "TLSv1.2", "!SSLv2,!SSLv3", ">=0303",
                   "TLSv1.1:TLSv1.3")),
    # Versions that the security level of OpenSSL's default shuts out.
    *(({"smtpd_tls_protocols": text, "tls_medium_cipherlist": "ALL:@SECLEVEL=0"}, BY_VERSION)
      for text in (">=TLSv1", "!TLSv1.1", ">=TLSv1.1", "TLSv1:TLSv1.3")),
    ({"smtpd_tls_security_level": "encrypt", "smtpd_tls_protocols": ">=TLSv1.3"}, BY_VERSION[2:]),
    ({"smtpd_tls_security_level": "encrypt", "smtpd_tls_mandatory_protocols": ">=TLSv1.3"}, BY_VERSION),
    ({"smtpd_tls_mandatory_protocols": ">=TLSv1.3"}, BY_VERSION[2:]),
    *(({"smtpd_tls_ciphers": grade}, BY_CIPHER) for grade in ("high", "low", "export", "null")),
    ({"smtpd_tls_ciphers": "high", "tls_high_cipherlist": "ECDHE-RSA-AES128-GCM-SHA256"}, BY_CIPHER),
    ({"tls_medium_cipherlist": "AES128-SHA:aNULL:@SECLEVEL=0"}, BY_CIPHER),
    ({"smtpd_tls_exclude_ciphers": "aRSA, CHACHA20"}, BY_CIPHER),
    ({"smtpd_tls_exclude_ciphers": "ECDHE+AES:aECDSA"}, BY_CIPHER),
    ({"smtpd_tls_mandatory_exclude_ciphers": "ECDHE"}, BY_CIPHER),
    ({"smtpd_tls_security_level": "encrypt", "smtpd_tls_mandatory_exclude_ciphers": "ECDHE",
      "smtpd_tls_exclude_ciphers": "AES256", "smtpd_tls_mandatory_ciphers": "high"}, BY_CIPHER),
    ({"tls_preempt_cipherlist": "yes"}, BY_CIPHER),
    ({"tls_preempt_cipherlist": "yes", "tls_ssl_options": "prioritize_chacha"}, BY_CIPHER),
    ({"smtpd_tls_eecdh_grade": "ultra"}, BY_CURVE),
    ({"tls_eecdh_auto_curves": "secp384r1"}, BY_CURVE),
    ({"smtpd_tls_chain_files": "{dir}/rsa.pem, {dir}/ec.pem"}, BY_CIPHER),
    ({"smtpd_tls_chain_files": "{dir}/ec.key {dir}/ec.cert"}, [*BY_CIPHER, *BY_VERSION[2:]]),
    ({"smtpd_tls_cert_file": "", "smtpd_tls_eccert_file": "{dir}/ec.cert",
      "smtpd_tls_eckey_file": "{dir}/ec.key"}, BY_CIPHER),
    ({"tls_server_sni_maps": "inline:{ one.test={dir}/one.pem, .a.one.test={dir}/two.pem }"}, NAMES),
    ({"tls_server_sni_maps": "hash:{dir}/sni"}, NAMES),
    ({"smtpd_tls_security_level": "", "smtpd_use_tls": "yes"}, [*BY_VERSION[2:], *NAMES[:1]]),
    ({"smtpd_tls_security_level": "none", "smtpd_use_tls": "yes"}, BY_VERSION[-1:]),
    ({"smtpd_tls_security_level": "", "smtpd_enforce_tls": "yes",
      "smtpd_tls_mandatory_protocols": ">=TLSv1.3"}, BY_VERSION),
    # Versions and the order of ciphers have parameters of their own.
    ({"tls_ssl_options": "no_ticket, 0x8400000"}, [*BY_CIPHER, *BY_VERSION[2:]]),
    # Without a certificate that can be used there is no TLS; the rest of the service goes on.
    *(({"smtpd_tls_cert_file": cert, "smtpd_tls_key_file": key, **more}, BY_VERSION[-1:])
      for cert, key in (("/none/c.pem", "/none/k.pem"), ("{dir}/rsa.cert", "/none/k.pem"), ("/none/c.pem", ""),
                        ("{dir}/rsa.cert", "{dir}/one.key"), ("{dir}/main.cf", "{dir}/main.cf"))
      for more in ({}, {"smtpd_tls_security_level": "encrypt"}, {"smtpd_tls_wrappermode": "yes"})),
    ({"smtpd_tls_eccert_file": "/none/ec.pem"}, BY_VERSION[-1:]),
    ({"smtpd_tls_cert_file": "", "smtpd_tls_eccert_file": ""}, BY_VERSION[-1:]),
    ({"smtpd_tls_dh1024_param_file": "/none/dh.pem"}, BY_VERSION[2:]),
]  # fmt: skip


def make_chain(directory: Path, name: str, kind: str) -> None:
    """NAME.key, NAME.cert and both in NAME.pem: self-signed, for `NAME.test`."""
    key = ec.generate_private_key(ec.SECP256R1()) if kind == "ec" else rsa.generate_private_key(65537, 2048)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{name}.test")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=2))
        .sign(key, hashes.SHA256())
    )
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public = certificate.public_bytes(serialization.Encoding.PEM)
    for ending, data in (("key", secret), ("cert", public), ("pem", secret + public)):
        (directory / f"{name}.{ending}").write_bytes(data)


def handshake(port: int, offer: Offer) -> str:
    """`version cipher subject` of a session, or why there is none."""
    version, ciphers, curve, name = offer
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.minimum_version = context.maximum_version = ssl.TLSVersion(_NUMBERS[version])
        context.set_ciphers(ciphers)
    if curve:
        context.set_ecdh_curve(curve)
    with socket.create_connection(("127.0.0.1", port), timeout=20) as sock, sock.makefile("rb") as stream:
        if not _reply(stream.readline).startswith(b"220 "):
            return "no greeting"
        sock.sendall(b"EHLO x\r\n")
        offered = b"STARTTLS" in _reply(stream.readline)
        sock.sendall(b"STARTTLS\r\n")
        reply = _reply(stream.readline)
        if not reply.startswith(b"220 "):
            sock.sendall(b"MAIL FROM:<>\r\n")
            return f"{'offered' if offered else 'not offered'}: {reply!r}, MAIL: {_reply(stream.readline)!r}"
        try:
            with context.wrap_socket(sock, server_hostname=name or None) as secured:
                der = secured.getpeercert(binary_form=True)
                cipher = secured.cipher()
                assert cipher is not None
                subject = x509.load_der_x509_certificate(der).subject.rfc4514_string() if der else "nobody"
                return f"{secured.version()} {cipher[0]} {subject}"
        except (ssl.SSLError, ConnectionError):
            return "no session"


def services(hosts: list[str], directory: Path) -> str:
    lines = []
    for host, (settings, _) in zip(hosts, CASES, strict=True):
        words = "".join(
            f" -o {{ {name} = {value.replace('{dir}', str(directory))} }}" for name, value in settings.items()
        )
        lines.append(f"{host} inet n - n - - smtpd{words}\n")
    return "".join(lines)


def _write(directory: Path, chains: Path, extra: str) -> None:
    for file in chains.iterdir():
        shutil.copy(file, directory)
    write_config(directory, BOTH + EXTRA.format(dir=directory) + extra)


@dataclass(frozen=True)
class Served:
    ports: list[int]
    """Of the cases, in order."""
    directory: Path
    log: str

    def warnings(self) -> set[str]:
        """What the log says of certificates, without folders, services and the library's own words."""
        lines = (self.directory / self.log).read_text().replace(str(self.directory), "DIR").splitlines()
        texts = {line.partition("/smtpd[")[2].partition(": ")[2] for line in lines}
        return {
            re.sub(r"for service \S+?\. ", "", text)
            for text in texts
            if re.search("disabling|TLS won't|No PEM|opening|Wrapper-mode", text) and "database" not in text
        }


@contextmanager
def postfix(directory: Path, chains: Path) -> Iterator[Served]:
    let_daemons_in(directory)
    _write(directory, chains, POSTFIX.format(dir=directory))
    (directory / "sni").write_text(f"one.test {directory}/one.pem\n.one.test {directory}/two.pem\n")
    shutil.rmtree(directory / "queue")
    (directory / "queue").mkdir()
    (directory / "data").mkdir()
    shutil.chown(directory / "data", "postfix")
    ports = free_ports(len(CASES))
    master = services([f"127.0.0.1:{port}" for port in ports], directory)
    (directory / "master.cf").write_text(master + "tlsmgr unix - - n 1000? 1 tlsmgr\n" + SERVICES)
    make_aliases(directory)
    subprocess.run(["postmap", "-F", f"hash:{directory}/sni"], check=True, timeout=60)
    start_postfix(directory)
    try:
        wait_for(ports[-1])
        yield Served(ports, directory, "mail.log")
    finally:
        stop_postfix(directory)


@contextmanager
def ours(directory: Path, chains: Path) -> Iterator[Served]:
    _write(directory, chains, "")
    (directory / "sni").write_text(f"one.test {directory}/one.pem\n.one.test {directory}/two.pem\n")
    command = [sys.executable, "-m", "mailstack.mta.postmap", "-F", f"hash:{directory}/sni"]
    subprocess.run(command, check=True, timeout=60)
    socks = [bind_tcp("127.0.0.1", 0) for _ in CASES]
    ports = [sock.getsockname()[1] for sock in socks]
    fds = [sock.fileno() for sock in socks]
    lines = services([str(number + 1) for number in range(len(socks))], directory)
    command = [sys.executable, "-c", SCRIPT, str(directory), lines, *map(str, fds)]
    with (directory / "log").open("w") as log:
        process = subprocess.Popen(command, pass_fds=fds, stdout=subprocess.DEVNULL, stderr=log)
        for sock in socks:
            sock.close()
        try:
            yield Served(ports, directory, "log")
        finally:
            process.terminate()
            process.wait(30)
    assert "Traceback" not in (directory / "log").read_text()


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Served, Served]]:
    need_postfix()
    chains = tmp_path_factory.mktemp("chains")
    for name, kind in (("rsa", "rsa"), ("ec", "ec"), ("one", "ec"), ("two", "rsa")):
        make_chain(chains, name, kind)
    with ExitStack() as stack:
        theirs = stack.enter_context(postfix(tmp_path_factory.mktemp("postfix"), chains))
        own = stack.enter_context(ours(tmp_path_factory.mktemp("ours"), chains))
        yield theirs, own


@pytest.mark.parametrize("number", range(len(CASES)), ids=lambda number: f"{number}-{CASES[number][0]}"[:60])
def test_handshakes(pair: tuple[Served, Served], number: int) -> None:
    theirs, own = (served.ports for served in pair)
    settings, offers = CASES[number]
    wanted = [handshake(theirs[number], offer) for offer in offers]
    got = [handshake(own[number], offer) for offer in offers]
    different = [(offer, a, b) for offer, a, b in zip(offers, wanted, got, strict=True) if a != b]
    assert not different, f"{settings}: (offer, theirs, ours)"


def test_why_there_is_no_tls_is_told_in_the_same_words(pair: tuple[Served, Served]) -> None:
    for number, (settings, offers) in enumerate(CASES):
        if any(value.startswith("/none/") for value in settings.values()):
            for served in pair:
                handshake(served.ports[number], offers[0])
    theirs, own = (served.warnings() for served in pair)
    assert len(theirs) >= 7, theirs
    assert own == theirs
