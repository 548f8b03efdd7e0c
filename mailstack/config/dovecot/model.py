"""What the mailbox service knows of its configuration: frozen values, already checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

SERVICES = ("imap", "pop3", "lmtp", "auth")


@dataclass(frozen=True, slots=True)
class InetListener:
    """One address and port. `service`: imap, pop3, lmtp or auth; `ssl`: TLS from the first octet."""

    service: str
    name: str
    address: str
    port: int
    ssl: bool = False


@dataclass(frozen=True, slots=True)
class UnixListener:
    """One socket in the file system; user and group are empty when they are not to be changed."""

    service: str
    path: Path
    mode: int = 0o600
    user: str = ""
    group: str = ""


@dataclass(frozen=True, slots=True)
class Saslauthd:
    """The socket of the saslauthd protocol (`[saslauthd]` of mailstack.toml)."""

    path: Path
    mode: int = 0o666


@dataclass(frozen=True, slots=True)
class Database:
    """One `passdb` or `userdb`.

    `file` is set for driver passwd-file. `fields` are a static database's own, then the defaults, `override`
    what wins over the entry's own fields; both may hold `%` variables.
    """

    driver: str
    where: str
    """`file:line` of the section, for messages."""
    file: Path | None = None
    scheme: str = "CRYPT"
    username_format: str = ""
    fields: Mapping[str, str] | None = None
    override: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Mailbox:
    """A `mailbox` block of the inbox namespace; `auto` is no, create or subscribe."""

    name: str
    special_use: tuple[str, ...] = ()
    auto: str = "no"


@dataclass(frozen=True, slots=True, kw_only=True)
class DovecotConfig:
    """Everything the service follows. Times in seconds, sizes in octets; names as in dovecot.conf."""

    path: Path
    warnings: tuple[str, ...]
    """One line for each setting that is there and has no effect here."""
    protocols: frozenset[str]
    inet_listeners: tuple[InetListener, ...]
    unix_listeners: tuple[UnixListener, ...]
    saslauthd: Saslauthd | None
    hostname: str
    ssl: str
    """no, yes or required."""
    ssl_cert: Path | None
    ssl_key: Path | None
    ssl_min_protocol: str
    disable_plaintext_auth: bool
    auth_anonymous_username: str
    auth_mechanisms: tuple[str, ...]
    auth_username_format: str
    auth_default_realm: str
    auth_username_chars: frozenset[str]
    auth_failure_delay: float
    auth_verbose: bool
    passdbs: tuple[Database, ...]
    userdbs: tuple[Database, ...]
    mail_location: str
    """The Maildir's path, with `%` variables; `~/` is the user's home."""
    mail_home: str
    mailboxes: tuple[Mailbox, ...]
    login_greeting: str
    recipient_delimiter: str
    lmtp_add_received_header: bool
    lmtp_hdr_delivery_address: str
    mail_max_userip_connections: Mapping[str, int]
    """By protocol: imap, pop3."""
    imap_idle_notify_interval: float
    imap_max_line_length: int
    pop3_uidl_format: str
    pop3_no_flag_updates: bool
    plugin: Mapping[str, str]
    """All of `plugin { … }`, whatever it is for."""
