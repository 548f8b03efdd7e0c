"""What an LMTP session needs from the process around it."""

from __future__ import annotations

import ssl
from collections import Counter
from dataclasses import dataclass
from typing import Protocol

from mailstack.mailbox.auth import User
from mailstack.mailbox.loglines import LogLines
from mailstack.mailbox.quota import Quotas
from mailstack.mailbox.views import MailStore
from mailstack.net.clock import Clock
from mailstack.net.log import Log


@dataclass(frozen=True, slots=True, kw_only=True)
class LmtpSettings:
    """Values of dovecot.conf that a session follows."""

    hostname: str
    greeting: str = "Dovecot ready."
    recipient_delimiter: str = "+"
    add_received: bool = True
    delivery_address: str = "final"
    """Delivered-To: none, final (the user) or original (RCPT TO)."""
    detail_mailbox: bool = False
    """`zs+Work@` goes into the mailbox Work where there is one."""
    autocreate: bool = False
    """Make that mailbox where there is none."""
    autosubscribe: bool = False
    """Subscribe to a mailbox that is made."""
    auto_mailboxes: frozenset[str] = frozenset()
    """Mailboxes that every user has (`auto = create`)."""
    user_concurrency: int = 0
    """Messages that are on their way to one user at once, in all sessions; 0: any number."""
    quota_full_tempfail: bool = False
    """Answer 452 instead of 552 where a quota is used up."""
    check_quota: bool = False
    """Refuse who has no room at RCPT already."""
    verbose_replies: bool = False
    """Tell the client why a message could not be stored."""


class LmtpService(Protocol):
    """The process as a session sees it."""

    @property
    def lmtp(self) -> LmtpSettings: ...

    @property
    def tls(self) -> ssl.SSLContext | None: ...

    @property
    def store(self) -> MailStore: ...

    @property
    def quotas(self) -> Quotas: ...

    @property
    def clock(self) -> Clock: ...

    @property
    def log(self) -> Log: ...

    @property
    def lines(self) -> LogLines: ...

    @property
    def lmtp_users(self) -> Counter[str]:
        """How many recipients of open transactions each user is."""
        ...

    def lookup_recipient(self, name: str) -> User | None:
        """The user behind an address. Raises `Unavailable`."""
        ...
