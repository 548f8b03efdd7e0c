"""One POP3 connection.

Always: messages are removed and flagged only by QUIT in the TRANSACTION state, never by a lost connection;
one session at a time has a mailbox (`[IN-USE]`, RFC 2449 §8.1.1); a password is not taken in plain text where
`disable_plaintext_auth` or `ssl = required` says so.

Logs, in Dovecot's words: `pop3-login: Disconnected: Connection closed (auth failed, 2 attempts in 4 secs):
user=<zs>, …` and `pop3(zs)<17><…>: Disconnected: Logged out top=0/0, retr=1/4096, del=1/3, size=12288`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from mailstack.config.dovecot import expand
from mailstack.mailbox.auth import Denied, Exchange, NoLogin, Refused, User
from mailstack.mailbox.ids import session_id
from mailstack.mailbox.loglines import Attempt
from mailstack.mailbox.pop3.drop import open_drop
from mailstack.mailbox.pop3.service import Pop3Service
from mailstack.mailbox.pop3.transaction import HANDLERS, WRITE_TIMEOUT, Transaction
from mailstack.net.stream import Stream
from mailstack.wire.pop3 import (
    NEED_DATA,
    Auth,
    AuthResponse,
    Closed,
    Command,
    Event,
    ServerConnection,
    State,
)
from mailstack.wire.sasl import Challenge, Credentials, SASLError

LOGIN_TIMEOUT = 180.0
IDLE_TIMEOUT = 600.0
"""RFC 1939 §3: the autologout timer is ten minutes at the least."""
HANDSHAKE_TIMEOUT = 30.0
FAILURES_LIMIT = 10

_CAPABILITIES = ("CAPA", "TOP", "UIDL", "RESP-CODES", "PIPELINING", "AUTH-RESP-CODE")
_PLAINTEXT = "Plaintext authentication disallowed on non-secure (SSL/TLS) connections."
_DENIED = {
    Denied.CREDENTIALS: ("AUTH", "Authentication failed."),
    Denied.AUTHORIZATION: ("AUTH", "Authorization failed."),
    Denied.UNAVAILABLE: ("SYS/TEMP", "Temporary authentication failure."),
    Denied.DISABLED: ("AUTH", "Account is disabled."),
    Denied.EXPIRED: ("AUTH", "Password expired."),
    Denied.TOO_MANY: ("IN-USE", "Maximum number of connections from user+IP exceeded."),
}


class Pop3Session:
    """One connected client."""

    def __init__(self, stream: Stream, service: Pop3Service) -> None:
        self._stream = stream
        self._service = service
        self._conn = ServerConnection()
        self._id = session_id()
        self._began = service.clock.monotonic()
        self._waiting = False
        self._stopping = False
        self._name = ""
        self._failures = 0
        self._method = ""
        self._exchange: Exchange | None = None
        self._user: User | None = None
        self._transaction: Transaction | None = None
        self._reason = "Connection closed"
        self._given_back = False

    async def run(self) -> None:
        """From greeting to close."""
        self._conn.greet(self._service.pop3.greeting)
        try:
            while True:
                event = self._conn.next_event()
                if event is NEED_DATA:
                    await self._flush()
                    self._conn.receive_data(await self._read())
                elif isinstance(event, Closed):
                    break
                else:
                    await self._handle(event)
            await self._flush()
        except TimeoutError:
            self._reason = "Disconnected for inactivity"
            self._conn.say("Disconnected for inactivity.")
            self._stream.write(self._conn.data_to_send())
        except OSError:
            pass
        finally:
            await self._leave()

    def shutdown(self) -> None:
        """Say goodbye: at once when the client is silent, else after the command under way."""
        self._stopping = True
        if self._waiting:
            self._goodbye()
            self._stream.write(self._conn.data_to_send())
            self._stream.interrupt()

    def _goodbye(self) -> None:
        self._reason = "Server shutting down"
        self._conn.say("[SYS/TEMP] Server shutting down.")

    async def _read(self) -> bytes:
        if self._stopping:
            self._goodbye()
            return b""
        self._waiting = True
        try:
            data = await self._stream.read(LOGIN_TIMEOUT if self._user is None else IDLE_TIMEOUT)
        finally:
            self._waiting = False
        if self._transaction is not None:
            self._transaction.received += len(data)
        return data

    async def _flush(self) -> None:
        data = self._conn.data_to_send()
        self._stream.write(data)
        if self._transaction is not None:
            self._transaction.sent += len(data)
        await self._stream.drain(WRITE_TIMEOUT)

    async def _leave(self) -> None:
        """Give the mailbox back; say in the log how it ended."""
        stream, log = self._stream, self._service.log
        if self._transaction is None or self._user is None:
            seconds = int(self._service.clock.monotonic() - self._began)
            attempt = Attempt(self._name, self._method, self._failures, seconds, self._id)
            log.info(self._service.lines.left("pop3", stream, self._reason, attempt))
            return
        await self._give_back()
        how = expand(self._service.pop3.logout_format, self._transaction.summary())
        log.info(f"{self._prefix(self._user.name)}Disconnected: {self._reason} {how}")

    def _prefix(self, user: str) -> str:
        return self._service.lines.prefix("pop3", user, self._stream, self._id)

    async def _give_back(self) -> None:
        """Let others have the mailbox."""
        transaction, user = self._transaction, self._user
        if transaction is None or user is None or self._given_back:
            return
        self._given_back = True
        try:
            await transaction.close()
        finally:
            self._service.pop3_locks.discard(user.mail_root)

    # ---- events

    async def _handle(self, event: Event) -> None:
        if isinstance(event, Command):
            if event.verb in HANDLERS and self._transaction is not None:
                await HANDLERS[event.verb](self._transaction, event)
            else:
                await _HANDLERS[event.verb](self, event)
        elif isinstance(event, Auth):
            await self._auth(event)
        elif isinstance(event, AuthResponse):
            await self._step(event.data)

    @property
    def _may_log_in(self) -> bool:
        return self._service.auth.plaintext_allowed(self._stream)

    async def _capa(self, command: Command) -> None:
        settings = self._service.pop3
        expire = "NEVER" if settings.expire is None else str(settings.expire)
        lines = [
            *_CAPABILITIES,
            "UTF8 USER",
            f"EXPIRE {expire}",
            f"LOGIN-DELAY {int(settings.login_delay)}",
        ]
        before_login = self._conn.state is State.AUTHORIZATION
        if before_login and self._service.tls is not None and self._stream.tls is None:
            lines.append("STLS")
        if before_login and self._may_log_in:
            lines.append("USER")
        if before_login and (mechanisms := self._service.auth.offered(self._stream)):
            lines.append("SASL " + " ".join(mechanisms))
        self._conn.listing("", lines)

    async def _utf8(self, command: Command) -> None:
        """RFC 6856 §2: what is sent is UTF-8 as it is, which it is in any case."""
        self._conn.ok("UTF8 enabled.")

    async def _stls(self, command: Command) -> None:
        context = self._service.tls
        if self._stream.tls is not None:
            self._conn.error("TLS is already active.")
        elif context is None:
            self._conn.error("TLS support isn't enabled.")
        else:
            self._conn.ok("Begin TLS negotiation now.")
            await self._flush()
            await self._stream.start_tls(context, HANDSHAKE_TIMEOUT, server_side=True)
            self._conn.tls_started()
            self._name = ""

    # ---- logging in

    async def _user_command(self, command: Command) -> None:
        if not self._may_log_in:
            self._conn.error(_PLAINTEXT, "AUTH")
            return
        self._name = command.text.strip()
        self._conn.ok()

    async def _pass(self, command: Command) -> None:
        if not self._may_log_in:
            self._conn.error(_PLAINTEXT, "AUTH")
        elif not self._name:
            self._conn.error("No username given.")
        else:
            await self._flush()
            self._method = "PLAIN"
            credentials = Credentials("", self._name, command.text)
            await self._log_in(await self._service.login("pop3", credentials, self._stream, self._id))

    async def _auth(self, event: Auth) -> None:
        mechanisms = self._service.auth.offered(self._stream)
        if not event.mechanism:
            self._conn.listing("", mechanisms)
        elif event.mechanism in mechanisms:
            self._method = event.mechanism
            self._exchange = self._service.exchange("pop3", event.mechanism, self._stream, self._id)
            await self._step(event.initial)
        elif event.mechanism in self._service.auth.config.auth_mechanisms and not self._may_log_in:
            self._conn.error(_PLAINTEXT, "AUTH")
        else:
            self._conn.error("Unsupported authentication mechanism.", "AUTH")

    async def _step(self, response: bytes | None) -> None:
        exchange, service = self._exchange, self._service
        assert exchange is not None
        await self._flush()
        try:
            outcome = await exchange.step(response)
        except SASLError as error:
            self._conn.error(str(error), "AUTH")
            return
        self._name = exchange.user
        if isinstance(outcome, Challenge):
            self._conn.challenge(outcome.data)
        elif isinstance(outcome, Refused):
            await self._log_in(outcome)
        else:
            admitted = service.admit(
                "pop3", outcome.user, self._stream, mechanism=self._method, session=self._id
            )
            await self._log_in(admitted)

    async def _log_in(self, outcome: User | Refused) -> None:
        if isinstance(outcome, Refused):
            self._failures += 1
            code, text = _no_login(outcome) if isinstance(outcome, NoLogin) else _DENIED[outcome]
            self._conn.error(text, code)
            if self._failures >= FAILURES_LIMIT:
                self._conn.say("Too many failed logins.")
            return
        locks, settings = self._service.pop3_locks, self._service.pop3
        if settings.login_delay and self._service.too_soon(outcome.name, settings.login_delay):
            self._conn.error("Minimum time between logins has not passed.", "LOGIN-DELAY")
            return
        if outcome.mail_root in locks:
            self._conn.error("Mailbox is already in use by another POP3 session.", "IN-USE")
            return
        locks.add(outcome.mail_root)
        try:
            drop = await open_drop(self._service.store, outcome.mail_root, settings.deleted_flag)
        except BaseException as error:
            locks.discard(outcome.mail_root)
            if not isinstance(error, OSError):
                raise
            self._service.log.error(f"{self._prefix(outcome.name)}INBOX cannot be opened: {error}")
            self._conn.error("Mailbox cannot be opened.", "SYS/TEMP")
            return
        self._user = outcome
        prefix = self._prefix(outcome.name)
        self._transaction = Transaction(drop, self._conn, self._stream, self._service, prefix)
        self._conn.logged_in("Logged in.")

    async def _noop(self, command: Command) -> None:
        self._conn.ok()

    async def _quit(self, command: Command) -> None:
        """Who has been told that it is over may log in again at once."""
        if self._transaction is None:
            self._reason = "Aborted login by logging out"
            self._conn.ok("Logging out.")
            return
        self._reason = "Logged out"
        text, code = await self._transaction.update()
        await self._give_back()
        if code:
            self._conn.error(text, code)
        else:
            self._conn.ok(text)


_Handler = Callable[[Pop3Session, Command], Awaitable[None]]
_HANDLERS: dict[str, _Handler] = {
    "CAPA": Pop3Session._capa,
    "STLS": Pop3Session._stls,
    "UTF8": Pop3Session._utf8,
    "NOOP": Pop3Session._noop,
    "USER": Pop3Session._user_command,
    "PASS": Pop3Session._pass,
    "QUIT": Pop3Session._quit,
}


def _no_login(outcome: NoLogin) -> tuple[str, str]:
    """Code and text, as in Dovecot; POP3 has no place to say where the other server is."""
    if outcome.host:
        return "", outcome.reason or "Try this server instead."
    return "AUTH", outcome.reason or "Login disabled for this user"
