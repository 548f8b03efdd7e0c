"""What an IMAP session needs from the process around it.

The process makes one object with this shape (`mailbox/main`) and gives it to every session; a test makes a
small one. Sessions hold no configuration of their own: they ask `service.settings` when they need it, so that
a reload is seen by the next command.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from mailstack.mailbox import auth as mailbox_auth
from mailstack.mailbox.auth import Authenticator, Denied, Exchange, NoLogin, Refused
from mailstack.mailbox.loglines import LogLines
from mailstack.mailbox.quota import Quotas
from mailstack.mailbox.views import MailStore
from mailstack.net.clock import Clock
from mailstack.net.log import Log
from mailstack.net.stream import Stream
from mailstack.wire.sasl import Credentials


@dataclass(frozen=True, slots=True)
class MailboxSetting:
    """One `mailbox NAME { special_use = \\Sent  auto = subscribe }` of dovecot.conf.

    `name` is the mailbox as a user writes it (not modified UTF-7); `special_use` is empty or holds attributes
    with their backslash; `auto` is `no`, `create` or `subscribe`.
    """

    name: str
    special_use: tuple[str, ...] = ()
    auto: str = "no"
    comment: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImapSettings:
    """Values of dovecot.conf that a session follows; times in seconds, sizes in octets."""

    greeting: str = "Dovecot ready."
    mailboxes: tuple[MailboxSetting, ...] = ()
    acl_told: bool = False
    """Clients see and change ACLs (`imap_acl`)."""
    login_timeout: float = 180.0
    idle_timeout: float = 1800.0
    write_timeout: float = 300.0
    """How long a client may take nothing of what is sent to it."""
    idle_notify_interval: float = 120.0
    """While a client idles, `* OK Still here` goes out that often (imap_idle_notify_interval)."""
    line_limit: int = 65536
    """Octets of one command line without its literals (imap_max_line_length)."""
    capability: str = ""
    """What is announced instead of what there is, or with `+` before it besides (imap_capability)."""
    id_send: tuple[tuple[str, str], ...] = (("name", "*"),)
    """What ID says, `*` for what we are called (imap_id_send)."""
    id_log: frozenset[str] = frozenset()
    """Fields (lower case) of a client's ID that are logged, `*` for all (imap_id_log)."""
    message_limit: int = 1 << 30
    """Octets of one appended message."""
    server_entries: tuple[tuple[str, str], ...] = ()
    """METADATA of the server: its shared entries and their values."""
    urlauth_host: str = ""
    """The host in URLs that GENURLAUTH signs, `*` for any; empty: there are none (imap_urlauth_host)."""
    urlauth_port: int = 143
    failures_limit: int = 10
    """Failed logins on one connection before it is closed."""


class User(Protocol):
    """Who has logged in (the userdb's answer)."""

    @property
    def name(self) -> str:
        """The full user name, `zs@dgtlinux.com`."""
        ...

    @property
    def mail_root(self) -> str:
        """The Maildir++ root: the folder that holds the INBOX's `cur`, `new` and `tmp`."""
        ...

    @property
    def quota_rules(self) -> tuple[tuple[str, str], ...]:
        """The userdb's fields `quota_rule`…"""
        ...


class Refusal(Enum):
    """Why nobody has logged in; the session answers with the response code of RFC 5530."""

    CREDENTIALS = "[AUTHENTICATIONFAILED] Authentication failed."
    AUTHORIZATION = "[AUTHORIZATIONFAILED] Authorization failed"
    UNAVAILABLE = "[UNAVAILABLE] Temporary authentication failure."
    TOO_MANY = "[UNAVAILABLE] Maximum number of connections from user+IP exceeded."
    DISABLED = "[CONTACTADMIN] Account is disabled."
    EXPIRED = "[EXPIRED] Password expired."
    INTERNAL = "[SERVERBUG] Internal error occurred. Refer to server log for more information."


class ImapService(Protocol):
    """The process as a session sees it."""

    @property
    def settings(self) -> ImapSettings: ...

    @property
    def tls(self) -> ssl.SSLContext | None:
        """For STARTTLS; None when TLS is off."""
        ...

    @property
    def store(self) -> MailStore:
        """The process's mailboxes; shared with LMTP and POP3."""
        ...

    @property
    def quotas(self) -> Quotas: ...

    @property
    def clock(self) -> Clock: ...

    @property
    def log(self) -> Log: ...

    @property
    def lines(self) -> LogLines: ...

    @property
    def stopping(self) -> bool:
        """The process is about to end: a session says goodbye as soon as it would wait for a command."""
        ...

    @property
    def auth(self) -> Authenticator: ...

    def lookup(self, name: str) -> User | None:
        """The user of a name. Raises `Unavailable`."""
        ...

    async def authenticate(
        self, credentials: Credentials, stream: Stream, session: str
    ) -> User | Refusal | NoLogin:
        """Check a name and a password, and look the user up. Delays after failures are the service's business
        and happen in here; never raises for a wrong password."""
        ...

    def exchange(self, service: str, mechanism: str, stream: Stream, session: str = "") -> Exchange:
        """Begin AUTHENTICATE with a mechanism that `auth.offered` has named."""
        ...

    def admit(
        self, service: str, outcome: mailbox_auth.User, stream: Stream, *, mechanism: str, session: str = ""
    ) -> mailbox_auth.User | Denied:
        """Count and log somebody who has been authenticated."""
        ...

    def refusal(self, outcome: mailbox_auth.User | Refused) -> User | Refusal | NoLogin:
        """A denial in IMAP's words."""
        ...
