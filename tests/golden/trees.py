"""The examples as trees: what golden, interop and property tests share."""

from __future__ import annotations

import base64
import shutil
from collections.abc import Mapping
from dataclasses import replace
from datetime import date
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path, PurePosixPath

import pytest

from mailstack.render import Addresses, Facts, Listener, Site, Tree, site_for_host
from mailstack.render.site import OWNERS, STANDARD_PORTS, Kind, ServiceName
from mailstack.spec import Stack, load

REPOSITORY = Path(__file__).parents[2]
EXAMPLES = tuple(sorted(path.parent.name for path in (REPOSITORY / "examples").glob("*/mailstack.yaml")))
ROOT = PurePosixPath("/srv/mailstack")
TODAY = date(2024, 11, 22)
SECRET = bytes(range(32))
NETWORK = IPv4Network("127.90.12.0/24")


def example(name: str) -> Stack:
    """The checked spec of an example."""
    return load(REPOSITORY / "examples" / name / "mailstack.yaml")


def passwords(stack: Stack) -> dict[str, str]:
    """A password for every user: the spec's, or one that looks generated."""
    return {address: user.password or f"generated-{address}" for address, user in stack.users()}


def host_site(stack: Stack, root: Path) -> Site:
    """The site of an administrator's machine."""
    return site_for_host(
        PurePosixPath(root), stack, passwords=passwords(stack), salt_secret=SECRET, today=TODAY
    )


def stack_site(stack: Stack, root: PurePosixPath = ROOT, kind: Kind = "process") -> Site:
    """The site that a runtime makes: every service at its own address, and at free ports of the loopback address."""
    network = NETWORK if kind == "process" else IPv4Network("172.28.77.0/26")
    addresses = Addresses.in_network(network)
    listeners: dict[ServiceName, tuple[Listener, ...]] = {}
    reachable: dict[ServiceName, Listener] = {}
    for offset, (name, port) in enumerate(STANDARD_PORTS.items()):
        if name in stack.services:
            own = Listener(str(getattr(addresses, OWNERS[name])), port)
            both = (own, Listener("127.0.0.1", 40025 + offset))
            listeners[name] = both if kind == "process" else (Listener("", port),)
            reachable[name] = own
    tls = None if stack.tls.mode == "off" else root / "tls"
    faults = stack.dns.faults if "{" in (stack.dns.faults or "") else None
    return Site(
        kind=kind,
        config_root=root / "rendered",
        queue_directory=root / "queue",
        mail_root=root / "mail",
        run_directory=root / "run",
        tls_cert=tls and tls / "cert.pem",
        tls_key=tls and tls / "key.pem",
        tls_ca=tls and tls / "ca.pem",
        dns_directory=root / "dns",
        update_secret=base64.b64encode(SECRET).decode(),
        facts=Facts(key_digest="5a" * 32 if tls else None, faults=faults),
        network=network,
        addresses=addresses,
        listeners=listeners,
        reachable=reachable,
        lmtp_nexthop=Listener(str(addresses.mailbox), 24),
        resolver=(Listener(str(addresses.dns), 53),),
        workers=2,
        mail_uid=1000,
        mail_gid=1000,
        passwords=passwords(stack),
        salt_secret=SECRET,
        today=TODAY,
    )


def write(tree: Tree, root: Path) -> None:
    """Put a tree on disk, modes included."""
    for path, file in tree.files.items():
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(file.data)
        target.chmod(file.mode)


def certificate(folder: Path, *names: str) -> None:
    """A self-signed certificate for `names` and 127.0.0.1: cert.pem and key.pem in `folder`."""
    from datetime import UTC, datetime, timedelta

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, names[0])])
    alternatives = [*map(x509.DNSName, names), x509.IPAddress(IPv4Address("127.0.0.1"))]
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=2))
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cert.pem").write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "key.pem").write_bytes(private)


def with_listeners(site: Site, listeners: Mapping[ServiceName, tuple[Listener, ...]]) -> Site:
    """The same site, listening elsewhere."""
    return replace(site, listeners=listeners)


def need(*tools: str) -> None:
    """Skip the test when one of these programs is not installed, naming it."""
    missing = [tool for tool in tools if shutil.which(tool, path="/usr/sbin:/sbin:/usr/bin:/bin") is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)} (postfix, dovecot-core, bind9-utils of the distribution)")
