"""What all sessions of the process share: settings, TLS, mailboxes, authentication, who is connected.

`MailboxService` is the object behind the `ImapService`, `Pop3Service` and `LmtpService` protocols.
`configure` replaces everything that came from the configuration; sessions ask for what they need when they
need it.
"""

from __future__ import annotations

import ssl
from collections import Counter
from pathlib import Path
from typing import Protocol

from mailstack.config.dovecot import DovecotConfig
from mailstack.mailbox.auth import (
    Authenticator,
    Denied,
    Exchange,
    NoLogin,
    Refused,
    Unavailable,
    User,
    channel,
)
from mailstack.mailbox.expire import expunge_old
from mailstack.mailbox.gate import Gate
from mailstack.mailbox.ids import session_id
from mailstack.mailbox.imap.service import ImapSettings, MailboxSetting, Refusal
from mailstack.mailbox.lmtp import LmtpSettings
from mailstack.mailbox.loglines import LogLines
from mailstack.mailbox.pop3 import Pop3Settings
from mailstack.mailbox.quota import Quotas
from mailstack.mailbox.views import MailStore
from mailstack.net.clock import Clock
from mailstack.net.log import Log
from mailstack.net.stream import PeerAddress, Stream
from mailstack.net.tls import server_context
from mailstack.storage.durable import GroupCommit
from mailstack.wire.sasl import Credentials

_REFUSALS = {
    Denied.CREDENTIALS: Refusal.CREDENTIALS,
    Denied.AUTHORIZATION: Refusal.AUTHORIZATION,
    Denied.UNAVAILABLE: Refusal.UNAVAILABLE,
    Denied.TOO_MANY: Refusal.TOO_MANY,
    Denied.DISABLED: Refusal.DISABLED,
    Denied.EXPIRED: Refusal.EXPIRED,
}
_TLS_VERSIONS = {
    "TLSv1": ssl.TLSVersion.TLSv1,
    "TLSv1.1": ssl.TLSVersion.TLSv1_1,
    "TLSv1.2": ssl.TLSVersion.TLSv1_2,
    "TLSv1.3": ssl.TLSVersion.TLSv1_3,
}

_Connection = tuple[PeerAddress, PeerAddress]
_Login = tuple[str, str, str]


class Drainable(Protocol):
    """A session that can be asked to go."""

    def shutdown(self) -> None:
        """Say goodbye: at once when idle, else after what is under way."""
        ...


class MailboxService:
    """One per process."""

    def __init__(
        self, config: DovecotConfig, tls: ssl.SSLContext | None, commit: GroupCommit, clock: Clock, log: Log
    ) -> None:
        self.clock = clock
        self.log = log
        self.commit = commit
        self.store = MailStore(commit, clock, config.hostname, log.warning)
        self.auth = Authenticator(config, log)
        self.lmtp_users: Counter[str] = Counter()
        self.pop3_locks: set[str] = set()
        self._pop3_logins: dict[str, float] = {}
        self.sessions: set[Drainable] = set()
        self.lmtp_gate = Gate()
        self.stopping = False
        self._logins: dict[_Connection, _Login] = {}
        self._counts: Counter[_Login] = Counter()
        self.configure(config, tls)

    def configure(self, config: DovecotConfig, tls: ssl.SSLContext | None) -> None:
        """Follow another configuration from now on."""
        self.config = config
        self.tls = tls
        self.lines = LogLines(config.log_formats)
        self._expiring = [box for box in config.mailboxes if box.autoexpunge or box.autoexpunge_max_mails]
        self.auth.configure(config)
        self.quotas = Quotas(config.plugin, self.log)
        self.store.counting = self.quotas.counts
        self.settings = ImapSettings(
            greeting=config.login_greeting["imap"],
            mailboxes=tuple(
                MailboxSetting(box.name, box.special_use, box.auto, box.comment) for box in config.mailboxes
            ),
            acl_told=config.acl is not None and config.acl.told,
            idle_notify_interval=config.imap_idle_notify_interval,
            line_limit=config.imap_max_line_length,
            capability=config.imap_capability,
            id_send=config.imap_id_send,
            id_log=frozenset(name.lower() for name in config.imap_id_log),
            urlauth_host=config.imap_urlauth_host,
            urlauth_port=config.imap_urlauth_port,
            server_entries=tuple(
                (f"/shared/{name}", value)
                for name, value in (
                    ("comment", config.mail_server_comment),
                    ("admin", config.mail_server_admin),
                )
                if value
            ),
        )
        expiring = [box for box in config.mailboxes if box.name.upper() == "INBOX" and box.autoexpunge]
        self.pop3 = Pop3Settings(
            greeting=config.login_greeting["pop3"],
            uidl_format=config.pop3_uidl_format,
            no_flag_updates=config.pop3_no_flag_updates,
            deleted_flag=config.pop3_deleted_flag,
            flags_deleted=config.pop3_flags_deleted,
            enable_last=config.pop3_enable_last,
            no_nuls="outlook-no-nuls" in config.pop3_client_workarounds,
            end_of_header="oe-ns-eoh" in config.pop3_client_workarounds,
            logout_format=config.pop3_logout_format,
            login_delay=config.pop3_login_delay,
            expire=next((int(box.autoexpunge // 86400) for box in expiring), None),
        )
        self.lmtp = LmtpSettings(
            hostname=config.lmtp_hostname,
            greeting=config.login_greeting["lmtp"],
            recipient_delimiter=config.recipient_delimiter,
            add_received=config.lmtp_add_received_header,
            delivery_address=config.lmtp_hdr_delivery_address,
            detail_mailbox=config.lmtp_save_to_detail_mailbox,
            autocreate=config.lda_mailbox_autocreate,
            autosubscribe=config.lda_mailbox_autosubscribe,
            auto_mailboxes=frozenset(box.name for box in config.mailboxes if box.auto != "no"),
            user_concurrency=config.lmtp_user_concurrency_limit,
            quota_full_tempfail=config.quota_full_tempfail,
            check_quota=config.lmtp_rcpt_check_quota,
            verbose_replies=config.lmtp_verbose_replies,
        )

    def lookup(self, name: str) -> User | None:
        """The user behind an address. Raises `Unavailable`."""
        return self.auth.lookup(name)

    def lookup_recipient(self, name: str) -> User | None:
        """The same, of an LMTP recipient's address (auth_username_format in protocol lmtp)."""
        return self.auth.lookup(name, self.config.lmtp_username_format)

    async def login(
        self,
        service: str,
        credentials: Credentials,
        stream: Stream,
        session: str = "",
    ) -> User | Refused:
        """Check a user name and a password for a connection; `admit` whom they let in."""
        outcome = await self.auth.check(credentials, self.auth.client(stream, service, session))
        if isinstance(outcome, Refused):
            return outcome
        return self.admit(service, outcome, stream, mechanism="PLAIN", session=session)

    def admit(
        self, service: str, outcome: User, stream: Stream, *, mechanism: str, session: str = ""
    ) -> User | Denied:
        """Count and log somebody who has been authenticated, unless there are too many of him already.

        `disconnected` has to be called when the connection is over.
        """
        peer, local = stream.peer, stream.local
        login = (service, outcome.name, peer[0])
        limit = self.auth.networks.max_connections(stream, service)
        session = session or session_id()
        if limit and self._counts[login] >= limit:
            text = (
                f"Maximum number of connections from user+IP exceeded (mail_max_userip_connections={limit})"
            )
            self.log.info(self.lines.login(service, text, stream, outcome.name, mechanism, session))
            return Denied.TOO_MANY
        most = self.config.session_limits.get(service, 0)
        if most and sum(1 for one in self._logins.values() if one[0] == service) >= most:
            text = f"process_limit ({most}) reached, client connections are being dropped"
            self.log.warning(f"master: service({service}): {text}")
            return Denied.UNAVAILABLE
        self.disconnected((peer, local))  # a connection logs in once; whatever came before is over
        self._counts[login] += 1
        self._logins[peer, local] = login
        self.log.info(self.lines.login(service, "Login", stream, outcome.name, mechanism, session, ok=True))
        return outcome

    def exchange(self, service: str, mechanism: str, stream: Stream, session: str = "") -> Exchange:
        """Begin to authenticate a connection. Raises `SASLError` for a mechanism that is not on offer."""
        return Exchange(self.auth, mechanism, self.auth.client(stream, service, session))

    async def authenticate(
        self, credentials: Credentials, stream: Stream, session: str
    ) -> User | Refusal | NoLogin:
        """`login` for IMAP sessions."""
        return self.refusal(await self.login("imap", credentials, stream, session))

    def refusal(self, outcome: User | Refused) -> User | Refusal | NoLogin:
        """A denial in IMAP's words."""
        return _REFUSALS[outcome] if isinstance(outcome, Denied) else outcome

    def too_soon(self, user: str, delay: float) -> bool:
        """Whether the user's last POP3 login is less than `delay` seconds ago; if not, this is the last."""
        now = self.clock.monotonic()
        if now - self._pop3_logins.get(user, -delay) < delay:
            return True
        if len(self._pop3_logins) >= 10_000:
            self._pop3_logins = {name: at for name, at in self._pop3_logins.items() if now - at < delay}
        self._pop3_logins[user] = now
        return False

    async def left(self, connection: _Connection) -> None:
        """The connection of a user is over, or one that nobody has logged in on; see `expire`."""
        login = self._logins.get(connection)
        self.disconnected(connection)
        if login is None or not self._expiring or self.stopping:
            return
        try:
            user = self.lookup(login[1])
            if user is not None:
                await expunge_old(self.store, user.mail_root, self._expiring)
        except (OSError, ValueError, Unavailable) as error:
            self.log.error(f"{login[0]}({login[1]}): autoexpunge: {error}")

    def disconnected(self, connection: _Connection) -> None:
        """A connection is over: it counts no more."""
        login = self._logins.pop(connection, None)
        if login is not None:
            self._counts[login] -= 1
            if self._counts[login] <= 0:
                del self._counts[login]

    def stop(self) -> None:
        """Ask every session to go: those that wait for their client at once, the others when they would."""
        self.stopping = True
        for session in list(self.sessions):
            session.shutdown()

    def close(self) -> None:
        """End the watching and the writers (blocks until what is queued is on disk)."""
        self.store.close()
        self.commit.close()


def tls_context(config: DovecotConfig) -> ssl.SSLContext | None:
    """The context for ssl_cert and ssl_key; None with `ssl = no`. Raises `OSError`, `ssl.SSLError`."""
    if config.ssl_cert is None or config.ssl_key is None:
        return None
    context = _context(config, config.ssl_cert, config.ssl_key)
    if config.ssl_names:
        named = {name: _context(config, cert, key) for name, (cert, key) in config.ssl_names.items()}

        def choose(connection: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
            name = (name or "").lower()
            chosen = named.get(name) or named.get(f"*.{name.partition('.')[2]}")
            if chosen is not None:
                connection.context = chosen

        context.sni_callback = choose
    return context


def _context(config: DovecotConfig, cert: Path, key: Path) -> ssl.SSLContext:
    context = server_context(cert, key)
    if config.ssl_cipher_list:
        context.set_ciphers(config.ssl_cipher_list)
    if config.ssl_dh is not None:
        context.load_dh_params(str(config.ssl_dh))
    channel.remember(context, cert)
    if config.ssl_ca is not None:
        context.load_verify_locations(config.ssl_ca)
        context.verify_mode = ssl.CERT_OPTIONAL
        if config.ssl_require_crl:
            context.verify_flags |= ssl.VERIFY_CRL_CHECK_CHAIN
    context.minimum_version = max(_TLS_VERSIONS[config.ssl_min_protocol], context.minimum_version)
    return context
