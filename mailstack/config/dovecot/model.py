"""What the mailbox service knows of its configuration: frozen values, already checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path

from mailstack.config.dovecot.templates import LogFormats

SERVICES = ("imap", "pop3", "lmtp", "auth")


@dataclass(frozen=True, slots=True)
class InetListener:
    """One address and port. `service`: imap, pop3, lmtp or auth; `ssl`: TLS from the first octet."""

    service: str
    name: str
    address: str
    port: int
    ssl: bool = False
    haproxy: bool = False
    """A proxy says first whom it stands for (the PROXY protocol)."""


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
class Sql:
    """A SQLite database and the query that asks it (password_query or user_query)."""

    path: Path
    query: str


@dataclass(frozen=True, slots=True)
class OAuth2:
    """How a bearer token is judged: a JWT, whose key is `keys/AZP/ALG/KID` (`default`: none named)."""

    keys: Path
    issuers: tuple[str, ...] = ()
    client_id: str = ""
    scope: tuple[str, ...] = ()
    username_attribute: str = "email"
    username_format: str = "%Lu"
    active_attribute: str = ""
    active_value: str = ""
    openid_configuration_url: str = ""


@dataclass(frozen=True, slots=True)
class Database:
    """One `passdb` or `userdb`.

    `file` is set for driver passwd-file, `sql` and `oauth2` for theirs. `fields` are a static database's own,
    then the defaults, `override` what wins over the entry's own fields; both may hold `%` variables.
    """

    driver: str
    where: str
    """`file:line` of the section, for messages."""
    file: Path | None = None
    scheme: str = "CRYPT"
    username_format: str = ""
    fields: Mapping[str, str] | None = None
    override: Mapping[str, str] | None = None
    sql: Sql | None = None
    oauth2: OAuth2 | None = None
    deny: bool = False
    master: bool = False
    result_success: str = "return-ok"
    result_failure: str = "continue"
    result_internalfail: str = "continue"
    skip: str = "never"
    mechanisms: tuple[str, ...] = ()
    """In upper case; empty: all of them."""
    username_filter: tuple[str, ...] = ()
    auth_verbose: bool | None = None


@dataclass(frozen=True, slots=True)
class MailLocation:
    """Where mail lies: paths with `%` variables, `~/` is the user's home. `fs`: LAYOUT=fs; `inbox` is empty
    where the INBOX is the Maildir's root."""

    path: str
    fs: bool = False
    inbox: str = ""
    mbox: str = ""
    """An mbox file: the INBOX is a copy of it, at `path`, and is only read."""


@dataclass(frozen=True, slots=True)
class Mailbox:
    """A `mailbox` block of a namespace; `auto` is no, create or subscribe."""

    name: str
    special_use: tuple[str, ...] = ()
    auto: str = "no"
    autoexpunge: float = 0.0
    """Seconds after which messages are removed; 0: never."""
    autoexpunge_max_mails: int = 0
    """Messages above which the oldest are removed; 0: any number may be there."""
    comment: str = ""
    """METADATA tells it as /private/comment."""


@dataclass(frozen=True, slots=True)
class NamespaceSettings:
    """A `namespace` block. `prefix` ends with the separator or is empty; in one of type shared `%u`, `%n`,
    `%d` stand for another user, in `location` too. `location` None: mail_location."""

    name: str
    type: str = "private"
    prefix: str = ""
    separator: str = "."
    location: MailLocation | None = None
    inbox: bool = False
    list: str = "yes"
    """yes, no or children."""
    hidden: bool = False
    subscriptions: bool = True
    ignore_on_failure: bool = False
    explicit_inbox: bool = False
    """mail_shared_explicit_inbox."""
    order: int = 0
    mailboxes: tuple[Mailbox, ...] = ()
    """Under their whole names."""


@dataclass(frozen=True, slots=True)
class AclSettings:
    """`mail_plugins = acl` and `plugin { acl… }`. `told`: with `imap_acl`, clients see and change ACLs;
    `from_inbox`: acl_defaults_from_inbox; `anyone`: acl_anyone = allow; `shared`: the file of
    acl_shared_dict; `groups`: acl_groups, where the userdb says none; `everywhere`: the file or directory of
    global ACLs."""

    told: bool
    from_inbox: bool = False
    anyone: bool = False
    shared: str = ""
    groups: tuple[str, ...] = ()
    everywhere: str = ""


@dataclass(frozen=True, slots=True)
class NetworkSettings:
    """`remote NETWORK { … }` or `local NETWORK { … }`: what is otherwise for such connections, or None."""

    type: str
    network: IPv4Network | IPv6Network
    disable_plaintext_auth: bool | None = None
    mail_max_userip_connections: int | None = None


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
    ssl_cipher_list: str
    """Empty: OpenSSL's own."""
    ssl_dh: Path | None
    ssl_names: Mapping[str, tuple[Path, Path]]
    """Certificate and key by the name that a client asks for (`local_name`), in lower case."""
    disable_plaintext_auth: bool
    auth_anonymous_username: str
    auth_mechanisms: tuple[str, ...]
    auth_username_format: str
    auth_default_realm: str
    auth_username_translation: Mapping[str, str]
    """Characters of login names, and what they are read as."""
    auth_master_user_separator: str
    auth_ssl_username_from_cert: bool
    auth_ssl_require_client_cert: bool
    ssl_ca: Path | None
    ssl_verify_client_cert: bool
    ssl_require_crl: bool
    ssl_cert_username_field: str
    haproxy_trusted_networks: tuple[str, ...]
    haproxy_timeout: float
    session_limits: Mapping[str, int]
    """Sessions that there may be at once, by protocol (imap and pop3: logged in; lmtp), where process_limit
    says so."""
    login_trusted_networks: tuple[str, ...]
    """Networks (`10.0.0.0/8`) whose connections count as secure, and whose failures are not counted."""
    auth_username_chars: frozenset[str]
    auth_failure_delay: float
    auth_verbose: bool
    passdbs: tuple[Database, ...]
    userdbs: tuple[Database, ...]
    mail_location: str
    """The Maildir's path, with `%` variables; `~/` is the user's home."""
    mail_layout: MailLocation
    """The same with its options."""
    mail_home: str
    namespaces: tuple[NamespaceSettings, ...]
    mailboxes: tuple[Mailbox, ...]
    """Those of all namespaces."""
    acl: AclSettings | None
    login_greeting: Mapping[str, str]
    """By protocol: imap, pop3, lmtp."""
    log_formats: LogFormats
    lmtp_hostname: str
    """`hostname` as it is for LMTP."""
    lmtp_username_format: str
    """`auth_username_format` as it is for LMTP's recipients."""
    recipient_delimiter: str
    lmtp_add_received_header: bool
    lmtp_hdr_delivery_address: str
    lmtp_save_to_detail_mailbox: bool
    lmtp_user_concurrency_limit: int
    lmtp_rcpt_check_quota: bool
    lmtp_verbose_replies: bool
    quota_full_tempfail: bool
    mail_server_comment: str
    mail_server_admin: str
    lda_mailbox_autocreate: bool
    lda_mailbox_autosubscribe: bool
    mail_max_userip_connections: Mapping[str, int]
    """By protocol: imap, pop3."""
    networks: tuple[NetworkSettings, ...]
    """The smallest last, whose word counts."""
    imap_idle_notify_interval: float
    imap_capability: str
    imap_id_send: tuple[tuple[str, str], ...]
    imap_id_log: tuple[str, ...]
    imap_max_line_length: int
    imap_urlauth_host: str
    imap_urlauth_port: int
    pop3_uidl_format: str
    pop3_no_flag_updates: bool
    pop3_deleted_flag: str
    pop3_flags_deleted: bool
    """pop3_delete_type: the flag instead of removal."""
    pop3_enable_last: bool
    pop3_client_workarounds: tuple[str, ...]
    pop3_logout_format: str
    pop3_login_delay: float
    """`[pop3] login_delay` of mailstack.toml: Dovecot has no word for it."""
    plugin: Mapping[str, str]
    """All of `plugin { … }`, whatever it is for."""
