"""Where a stack is to run: paths, addresses, ports, secrets. The other half of what rendering needs.

A `Site` says nothing about mail; a `Stack` says nothing about places. The runtime makes sites for its
processes and containers, `site_for_host` makes one for an administrator's own machine.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from ipaddress import IPv4Address, IPv4Network
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Literal

from mailstack.render.errors import RenderError
from mailstack.render.tree import Serials

if TYPE_CHECKING:
    from mailstack.spec.model import Stack

Kind = Literal["process", "docker", "host"]
ServiceName = Literal["smtp", "submission", "submissions", "lmtp", "imap", "imaps", "pop3", "pop3s", "dns"]
STANDARD_PORTS: Mapping[ServiceName, int] = {
    "smtp": 25, "submission": 587, "submissions": 465, "lmtp": 24, "imap": 143, "imaps": 993,
    "pop3": 110, "pop3s": 995, "dns": 53,
}  # fmt: skip
OWNERS: Mapping[ServiceName, Literal["mta", "mailbox", "dns"]] = {
    "smtp": "mta", "submission": "mta", "submissions": "mta", "lmtp": "mailbox", "imap": "mailbox",
    "imaps": "mailbox", "pop3": "mailbox", "pop3s": "mailbox", "dns": "dns",
}  # fmt: skip
"""Which of the three services listens for it."""

# Letters of any language and what no format gives a meaning to; a blank would end a table's name in main.cf.
_PATH = re.compile(r"/(?:[\w./@+~=-]*[\w./@+~=])?\Z")


@dataclass(frozen=True, slots=True)
class Listener:
    """An address literal and a port; the empty address is every interface."""

    address: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"{host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Addresses:
    """The services' addresses in the stack's own network."""

    dns: IPv4Address
    mta: IPv4Address
    mailbox: IPv4Address
    gateway: IPv4Address

    @classmethod
    def in_network(cls, network: IPv4Network) -> Addresses:
        """The gateway at .1, then DNS, MTA and mailbox."""
        first = network.network_address
        return cls(gateway=first + 1, dns=first + 2, mta=first + 3, mailbox=first + 4)


@dataclass(frozen=True, slots=True)
class Account:
    """A user of the machine and a group, by number and by name."""

    uid: int
    gid: int
    user: str
    group: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What the zones and the name server's files take from other files."""

    key_digest: str | None = None
    """SHA-256 of the certificate's SubjectPublicKeyInfo, hex (RFC 6698 §2.1); None: it is not known."""
    dkim: Mapping[tuple[str, str], str] = field(default_factory=dict)
    """Domain and selector -> the text of the key's record."""
    faults: str | None = None
    """The faults file's content."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """A place for a stack. Paths are absolute, as the servers see them."""

    kind: Kind
    config_root: PurePosixPath
    """The folder that holds postfix/, dovecot/, sasl/ and bind/."""
    queue_directory: PurePosixPath
    mail_root: PurePosixPath
    run_directory: PurePosixPath
    tls_cert: PurePosixPath | None
    tls_key: PurePosixPath | None
    tls_ca: PurePosixPath | None = None
    network: IPv4Network
    addresses: Addresses
    listeners: Mapping[ServiceName, Sequence[Listener]]
    """What each service binds; one that is absent is not offered."""
    reachable: Mapping[ServiceName, Listener]
    """Where readers of the zones find it."""
    lmtp_nexthop: Listener
    resolver: Sequence[Listener]
    """The name servers of the MTA; none: the system's own."""
    relay: IPv4Address | None = None
    """Where port 53 passes on to the first of them, for a Postfix, which asks at no other port."""
    workers: int | None = None
    """smtpd processes where the spec says auto; None: the MTA's own default."""
    mail_uid: int = 5000
    mail_gid: int = 5000
    """Owner of the Maildirs, where the services run as root."""
    auth_socket: PurePosixPath | None = None
    """Where the MTA asks for authentication; default: auth-client in the run directory."""
    auth_socket_owner: str | None = None
    """User and group of that socket; None: the mailbox service's own."""
    mailbox_account: Account | None = None
    """Whom Dovecot runs as, mail and all, without root; None: as it is installed."""
    base_directory: PurePosixPath | None = None
    """Dovecot's base_dir; None: its default."""
    data_directory: PurePosixPath | None = None
    """Postfix's data_directory; None: its default."""
    dns_directory: PurePosixPath | None = None
    """Where the name server may write; None: nobody changes its zones over the network."""
    update_secret: str = field(default="", repr=False)
    """The key of those who change its zones, base64 (TSIG, HMAC-SHA256)."""
    facts: Facts = field(default_factory=Facts)
    passwords: Mapping[str, str] = field(repr=False)
    """user@domain -> password."""
    salt_secret: bytes = field(repr=False)
    """Secret of the project: makes the password hashes' salts, the same at every rendering."""
    serials: Serials = field(default_factory=dict)
    served: Mapping[str, int] = field(default_factory=dict)
    """Zone name -> the serial that updates have brought it to: a changed zone's is higher."""
    today: date

    def __post_init__(self) -> None:
        for name in (
            "config_root", "queue_directory", "mail_root", "run_directory", "tls_cert", "tls_key", "tls_ca",
            "auth_socket", "base_directory", "data_directory", "dns_directory",
        ):  # fmt: skip
            path = getattr(self, name)
            if path is not None and not _PATH.match(str(path)):
                raise RenderError(
                    f"the path {str(path)!r} cannot stand in configuration files; use one of letters, "
                    "digits and . _ @ + ~ = - only (set XDG_STATE_HOME, or give another folder)"
                )

    @property
    def client_socket(self) -> PurePosixPath:
        """The socket on which the MTA asks for authentication (Dovecot's protocol)."""
        return self.auth_socket or self.run_directory / "auth-client"

    @property
    def saslauthd_socket(self) -> PurePosixPath:
        """The socket on which Cyrus SASL asks."""
        return self.run_directory / "saslauthd" / "mux"

    @property
    def doveadm_socket(self) -> PurePosixPath | None:
        """The socket on which the mailbox service is asked to look after mailboxes (Dovecot's protocol).

        None on a host: Dovecot has one in its base_dir by itself, and will not have it named twice.
        """
        return None if self.kind == "host" else self.run_directory / "doveadm-server"

    def listening(self, service: ServiceName) -> tuple[Listener, ...]:
        """What `service` binds; empty when it is not offered."""
        return tuple(self.listeners.get(service, ()))


def site_for_host(
    root: PurePosixPath,
    stack: Stack,
    *,
    passwords: Mapping[str, str],
    salt_secret: bytes,
    today: date,
    serials: Serials | None = None,
    address: IPv4Address | None = None,
    facts: Facts | None = None,
) -> Site:
    """A site for the machine of an administrator who starts Postfix, Dovecot and BIND on the tree at `root`.

    Standard ports on all interfaces, the distribution's own folders for queue and sockets. `address` is
    the machine's; default: the first domain's `address:`, else the loopback address. Certificates are those
    of the spec, else expected as `root/tls/cert.pem` and `root/tls/key.pem`.
    """
    published = address or next(
        (domain.address for domain in stack.domains.values() if domain.address is not None), None
    )
    own = published or IPv4Address("127.0.0.1")
    network = IPv4Network((int(own) & ~0xFF, 24)) if stack.network.subnet == "auto" else stack.network.subnet
    cert, key = _certificate(root, stack)
    offered = [name for name in STANDARD_PORTS if name in stack.services]
    everywhere = {name: (Listener("", STANDARD_PORTS[name]),) for name in offered}
    if "lmtp" in everywhere:
        # Nobody but this machine's own MTA has business there: LMTP asks for no password.
        everywhere["lmtp"] = (Listener("127.0.0.1", 24),)
    queue = PurePosixPath("/var/spool/postfix")
    return Site(
        kind="host",
        config_root=root,
        queue_directory=queue,
        mail_root=PurePosixPath("/var/mail/vhosts"),
        run_directory=PurePosixPath("/var/run"),
        tls_cert=cert,
        tls_key=key,
        network=network,
        addresses=Addresses(dns=own, mta=own, mailbox=own, gateway=own),
        listeners=everywhere,
        reachable={name: Listener(str(own), STANDARD_PORTS[name]) for name in offered},
        lmtp_nexthop=Listener("127.0.0.1", 24),
        resolver=(),
        auth_socket=queue / "private" / "auth",
        auth_socket_owner="postfix",
        passwords=passwords,
        salt_secret=salt_secret,
        serials=serials or {},
        facts=facts or Facts(),
        today=today,
    )


def _certificate(root: PurePosixPath, stack: Stack) -> tuple[PurePosixPath | None, PurePosixPath | None]:
    if stack.tls.mode == "off":
        return None, None
    if stack.tls.cert is not None and stack.tls.key is not None:
        return PurePosixPath(stack.tls.cert), PurePosixPath(stack.tls.key)
    return root / "tls" / "cert.pem", root / "tls" / "key.pem"
