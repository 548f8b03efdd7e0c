"""What a POP3 session needs from the process around it."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from typing import Protocol

from mailstack.mailbox.auth import Authenticator, Denied, Exchange, Refused, User
from mailstack.mailbox.loglines import LogLines
from mailstack.mailbox.views import MailStore
from mailstack.net.clock import Clock
from mailstack.net.log import Log
from mailstack.net.stream import Stream
from mailstack.wire.sasl import Credentials


@dataclass(frozen=True, slots=True, kw_only=True)
class Pop3Settings:
    """Values of dovecot.conf that a session follows."""

    greeting: str = "Dovecot ready."
    uidl_format: str = "%08Xu%08Xv"
    no_flag_updates: bool = False
    deleted_flag: str = ""
    """A keyword: messages that have it are not shown; see `flags_deleted`."""
    flags_deleted: bool = False
    """QUIT gives the messages that are marked this keyword, and does not remove them."""
    enable_last: bool = False
    no_nuls: bool = False
    """outlook-no-nuls: 0x80 in the place of NUL."""
    end_of_header: bool = False
    """oe-ns-eoh: a message that is all header gets the empty line behind it."""
    logout_format: str = "top=%t/%p, retr=%r/%b, del=%d/%m, size=%s"
    login_delay: float = 0.0
    """Seconds between two logins of a user (RFC 2449 §6.5)."""
    expire: int | None = None
    """Days after which messages are removed from the INBOX (RFC 2449 §6.7); None: never."""


class Pop3Service(Protocol):
    """The process as a session sees it."""

    @property
    def pop3(self) -> Pop3Settings: ...

    @property
    def tls(self) -> ssl.SSLContext | None: ...

    @property
    def store(self) -> MailStore: ...

    @property
    def clock(self) -> Clock: ...

    @property
    def log(self) -> Log: ...

    @property
    def lines(self) -> LogLines: ...

    @property
    def pop3_locks(self) -> set[str]:
        """The Maildirs that a POP3 session has open."""
        ...

    def too_soon(self, user: str, delay: float) -> bool:
        """Whether the user's last POP3 login is less than `delay` seconds ago; if not, this is the last."""
        ...

    @property
    def auth(self) -> Authenticator: ...

    async def login(
        self, service: str, credentials: Credentials, stream: Stream, session: str = ""
    ) -> User | Refused:
        """Who a name and a password let in; logs a success."""
        ...

    def exchange(self, service: str, mechanism: str, stream: Stream, session: str = "") -> Exchange:
        """Begin AUTH with a mechanism that `auth.offered` has named."""
        ...

    def admit(
        self, service: str, outcome: User, stream: Stream, *, mechanism: str, session: str = ""
    ) -> User | Denied:
        """Count and log somebody who has been authenticated."""
        ...
