"""Dovecot's files: dovecot.conf, conf.d/, and the passwd-file with the users."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

from mailstack.render import templates
from mailstack.render.errors import RenderError
from mailstack.render.site import ServiceName, Site
from mailstack.render.tree import File
from mailstack.spec.model import Stack

ROUNDS = 5000
"""PBKDF2 iterations: Dovecot's own default; some milliseconds for each user and each log-in."""
FOLDERS = (
    ("Drafts", "\\Drafts"),
    ("Junk", "\\Junk"),
    ("Sent", "\\Sent"),
    ("Trash", "\\Trash"),
    ("Archive", "\\Archive"),
)
"""Mailboxes that every user has, with their special use (RFC 6154)."""
_SERVICES: dict[str, tuple[ServiceName, ...]] = {
    "imap-login": ("imap", "imaps"),
    "pop3-login": ("pop3", "pop3s"),
    "lmtp": ("lmtp",),
}
_MODES = {"process": "0600", "docker": "0666", "host": "0660"}
"""Who may ask on the authentication socket: the same account, another container, the MTA's group."""


@dataclass(frozen=True, slots=True)
class Listener:
    """An `inet_listener` block."""

    name: str
    address: str
    port: int
    ssl: bool


@dataclass(frozen=True, slots=True)
class Account:
    """A line of the passwd-file."""

    address: str
    password: str
    home: PurePosixPath


def files(stack: Stack, site: Site) -> Iterator[tuple[str, File]]:
    """Path and content of everything below dovecot/."""
    users = site.config_root / "dovecot" / "users"
    context = {
        "project": stack.project,
        "domain": stack.primary,
        "hostname": stack.domains[stack.primary].hostname,
        "protocols": stack.mailbox.protocols,
        "base_directory": site.base_directory,
        "account": site.mailbox_account,
        "plaintext": stack.mailbox.allow_plaintext_auth,
        "mechanisms": stack.sasl.mechanisms,
        "users": users,
        "mail_root": site.mail_root,
        "folders": FOLDERS,
        "tls": stack.tls.mode != "off",
        "bring_certificate": site.kind == "host" and stack.tls.mode == "ca",
        "tls_cert": site.tls_cert,
        "tls_key": site.tls_key,
        "services": list(_services(stack, site)),
        "host": site.kind == "host",
        "auth_socket": site.client_socket,
        "auth_mode": _MODES[site.kind],
        "auth_owner": site.auth_socket_owner,
        "doveadm_socket": site.doveadm_socket,
        "saslauthd_socket": site.saslauthd_socket,
    }
    names = ["dovecot.conf", *(f"conf.d/10-{part}.conf" for part in ("auth", "mail", "ssl", "master"))]
    if stack.sasl.backend == "saslauthd":
        names.append("mailstack.toml")
    for name in names:
        yield f"dovecot/{name}", File(templates.text(f"dovecot/{name}", **context).encode())
    owner = site.mailbox_account
    accounts = templates.text(
        "dovecot/users",
        project=stack.project,
        users=list(_accounts(stack, site)),
        mail_uid=owner.uid if owner else site.mail_uid,
        mail_gid=owner.gid if owner else site.mail_gid,
    )
    yield "dovecot/users", File(accounts.encode(), 0o600)


def _services(stack: Stack, site: Site) -> Iterator[tuple[str, list[Listener]]]:
    for service, names in _SERVICES.items():
        if names[0] not in stack.mailbox.protocols:
            continue
        found: list[Listener] = []
        for name in names:
            # Port 993 is always TLS to Dovecot: "ssl" says so even where the name is not a standard one.
            secure = name.endswith("s")
            listeners = site.listening(name)
            for index, listener in enumerate(listeners, 1):
                suffix = "" if index == 1 else f"_{index}"
                found.append(Listener(f"{name}{suffix}", listener.address, listener.port, secure))
            if not listeners and name != "lmtp":
                found.append(Listener(name, "", 0, False))
        yield service, found


def _accounts(stack: Stack, site: Site) -> Iterator[Account]:
    for name, domain in stack.domains.items():
        for user in domain.users:
            address = f"{user}@{name}"
            if address not in site.passwords:
                raise RenderError(f"there is no password for {address}")
            yield Account(address, password_hash(site, address), site.mail_root / name / user)


def password_hash(site: Site, address: str) -> str:
    """The user's password in Dovecot's scheme PBKDF2: HMAC-SHA1, the salt's ASCII form as salt, 160 bits.

    The salt is made of the project's secret, the address and the password: another project, user or password
    has another one, and the same ones give the same hash at every rendering.
    """
    password = site.passwords[address].encode()
    salt = hmac.digest(site.salt_secret, address.encode() + b"\0" + password, "sha256")[:8].hex()
    key = hashlib.pbkdf2_hmac("sha1", password, salt.encode(), ROUNDS, 20)
    return f"{{PBKDF2}}$1${salt}${ROUNDS}${key.hex()}"
