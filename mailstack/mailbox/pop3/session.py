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
from mailstack.mailbox.pop3.drop import Drop, GoneError, open_drop
from mailstack.mailbox.pop3.service import Pop3Service
from mailstack.net.stream import Stream
from mailstack.wire.mime.lines import PIECE, Data, release, seek
from mailstack.wire.pop3 import (
    NEED_DATA,
    Auth,
    AuthResponse,
    Closed,
    Command,
    Event,
    ServerConnection,
    State,
    Stuffer,
    Top,
)
from mailstack.wire.sasl import Challenge, Credentials, SASLError

LOGIN_TIMEOUT = 180.0
IDLE_TIMEOUT = 600.0
"""RFC 1939 §3: the autologout timer is ten minutes at the least."""
WRITE_TIMEOUT = 300.0
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
        self._drop: Drop | None = None
        self._counts = [0, 0, 0, 0]  # TOP: times and octets; RETR: times and octets
        self._reason = "Connection closed"
        self._deleted = 0
        self._size = 0
        self._given_back = False
        self._last = 0
        """The highest message number that was asked for (RFC 1460: LAST)."""

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
            return await self._stream.read(LOGIN_TIMEOUT if self._user is None else IDLE_TIMEOUT)
        finally:
            self._waiting = False

    async def _flush(self) -> None:
        self._stream.write(self._conn.data_to_send())
        await self._stream.drain(WRITE_TIMEOUT)

    async def _leave(self) -> None:
        """Give the mailbox back; say in the log how it ended."""
        stream, log = self._stream, self._service.log
        if self._drop is None or self._user is None:
            seconds = int(self._service.clock.monotonic() - self._began)
            attempt = Attempt(self._name, self._method, self._failures, seconds, self._id)
            log.info(self._service.lines.left("pop3", stream, self._reason, attempt))
            return
        await self._give_back()
        drop = self._drop
        counts = dict(zip("tprb", map(str, self._counts), strict=True))
        counts |= {"d": str(self._deleted), "m": str(len(drop)), "s": str(self._size)}
        how = expand(self._service.pop3.logout_format, counts)
        log.info(f"{self._prefix(self._user.name)}Disconnected: {self._reason} {how}")

    def _prefix(self, user: str) -> str:
        return self._service.lines.prefix("pop3", user, self._stream, self._id)

    async def _give_back(self) -> None:
        """Let others have the mailbox."""
        drop, user = self._drop, self._user
        if drop is None or user is None or self._given_back:
            return
        self._given_back = True
        try:
            await drop.measure()
            self._size = drop.everything()
        except OSError as error:
            self._service.log.error(f"{self._prefix(user.name)}sizes not found: {error}")
        finally:
            drop.close()
            self._service.pop3_locks.discard(user.mail_root)

    # ---- events

    async def _handle(self, event: Event) -> None:
        if isinstance(event, Command):
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
            self._drop = await open_drop(self._service.store, outcome.mail_root, settings.deleted_flag)
        except BaseException as error:
            locks.discard(outcome.mail_root)
            if not isinstance(error, OSError):
                raise
            self._service.log.error(f"{self._prefix(outcome.name)}INBOX cannot be opened: {error}")
            self._conn.error("Mailbox cannot be opened.", "SYS/TEMP")
            return
        self._user = outcome
        self._conn.logged_in("Logged in.")

    # ---- the mailbox

    @property
    def _open(self) -> Drop:
        assert self._drop is not None
        return self._drop

    def _usable(self, number: int) -> bool:
        """Whether the message can be named; answers the command when not."""
        if not self._open.exists(number):
            self._conn.error(f"There's no message {number}.")
        elif number in self._open.deleted:
            self._conn.error("Message is deleted.")
        else:
            return True
        return False

    async def _stat(self, command: Command) -> None:
        await self._open.measure()
        self._conn.ok(f"{len(self._open) - len(self._open.deleted)} {self._open.total()}")

    async def _list(self, command: Command) -> None:
        drop = self._open
        await drop.measure()
        if command.number:
            if self._usable(command.number):
                self._conn.ok(f"{command.number} {drop.size(command.number)}")
            return
        numbers = drop.numbers()
        self._conn.listing(f"{len(numbers)} messages:", (f"{n} {drop.size(n)}" for n in numbers))

    async def _uidl(self, command: Command) -> None:
        drop, template = self._open, self._service.pop3.uidl_format
        if command.number:
            if self._usable(command.number):
                self._conn.ok(f"{command.number} {drop.uidl(command.number, template)}")
            return
        self._conn.listing("", (f"{n} {drop.uidl(n, template)}" for n in drop.numbers()))

    async def _retr(self, command: Command) -> None:
        if self._usable(command.number):
            self._counts[3] += await self._send(command.number, None)
            self._counts[2] += 1
            self._last = max(self._last, command.number)
            if not (self._service.pop3.no_flag_updates or self._open.read_only):
                self._open.seen.add(command.number)

    async def _top(self, command: Command) -> None:
        if self._usable(command.number):
            self._counts[1] += await self._send(command.number, Top(command.lines))
            self._counts[0] += 1

    async def _send(self, number: int, top: Top | None) -> int:
        """Answer with a message, piece by piece; the octets sent for it."""
        drop = self._open
        try:
            data = await drop.read(number)
        except GoneError:
            self._conn.error("Message is gone.", "SYS/TEMP")
            return 0
        except OSError as error:
            self._service.log.error(f"{self._prefix(self._name)}message cannot be read: {error}")
            self._conn.error("Message cannot be read.", "SYS/TEMP")
            return 0
        if top is None:
            await drop.measure()
        self._conn.ok(f"{drop.size(number)} octets" if top is None else "")
        stuffer = Stuffer()
        settings = self._service.pop3
        no_nuls, ended = settings.no_nuls, not settings.end_of_header or _has_header_end(data)
        sent = 0
        self._stream.write(self._conn.data_to_send())
        for at in range(0, len(data), PIECE):
            piece = data[at : at + PIECE]
            if top is not None:
                piece = top.feed(piece)
            if no_nuls:
                piece = piece.replace(b"\0", b"\x80")
            piece = stuffer.feed(piece)
            sent += len(piece)
            self._stream.write(piece)
            await self._stream.drain(WRITE_TIMEOUT)
            if not isinstance(data, bytes):
                release(data)
            if top is not None and top.done:
                break
        self._stream.write(stuffer.end() if ended else stuffer.end_of_header())
        if not isinstance(data, bytes):
            data.close()
        return sent

    async def _dele(self, command: Command) -> None:
        if self._open.read_only:
            self._conn.error("Mailbox is read-only.", "SYS/PERM")
        elif self._usable(command.number):
            self._last = max(self._last, command.number)
            self._open.deleted.add(command.number)
            self._conn.ok("Marked to be deleted.")

    async def _rset(self, command: Command) -> None:
        self._open.deleted.clear()
        self._open.seen.clear()
        self._last = 0
        self._conn.ok()

    async def _last_command(self, command: Command) -> None:
        if self._service.pop3.enable_last:
            self._conn.ok(str(self._last))
        else:
            self._conn.error("Unknown command: LAST")

    async def _noop(self, command: Command) -> None:
        self._conn.ok()

    async def _quit(self, command: Command) -> None:
        """Who has been told that it is over may log in again at once."""
        text, code = await self._update()
        await self._give_back()
        if code:
            self._conn.error(text, code)
        else:
            self._conn.ok(text)

    async def _update(self) -> tuple[str, str]:
        """Enter UPDATE (RFC 1939 §6); the reply's text, and its code when that has not worked."""
        self._reason = "Logged out" if self._drop is not None else "Aborted login by logging out"
        if self._drop is not None:
            try:
                await self._drop.keep_seen()
            except OSError as error:
                self._service.log.error(f"{self._prefix(self._name)}flags not stored: {error}")
        if self._drop is None or not self._drop.deleted:
            return "Logging out.", ""
        marked = len(self._drop.deleted)
        try:
            settings = self._service.pop3
            await self._drop.finish(settings.deleted_flag if settings.flags_deleted else "")
        except OSError as error:
            self._service.log.error(f"{self._prefix(self._name)}messages not deleted: {error}")
            return "Couldn't delete all messages.", "SYS/TEMP"
        self._deleted = marked
        return "Logging out, messages deleted.", ""


_Handler = Callable[[Pop3Session, Command], Awaitable[None]]
_HANDLERS: dict[str, _Handler] = {
    "CAPA": Pop3Session._capa,
    "LAST": Pop3Session._last_command,
    "STLS": Pop3Session._stls,
    "UTF8": Pop3Session._utf8,
    "USER": Pop3Session._user_command,
    "PASS": Pop3Session._pass,
    "STAT": Pop3Session._stat,
    "LIST": Pop3Session._list,
    "UIDL": Pop3Session._uidl,
    "RETR": Pop3Session._retr,
    "TOP": Pop3Session._top,
    "DELE": Pop3Session._dele,
    "RSET": Pop3Session._rset,
    "NOOP": Pop3Session._noop,
    "QUIT": Pop3Session._quit,
}


def _has_header_end(data: Data) -> bool:
    return (
        data[:1] == b"\n"
        or data[:2] == b"\r\n"
        or seek(data, b"\n\n", 0) >= 0
        or seek(data, b"\n\r\n", 0) >= 0
    )


def _no_login(outcome: NoLogin) -> tuple[str, str]:
    """Code and text, as in Dovecot; POP3 has no place to say where the other server is."""
    if outcome.host:
        return "", outcome.reason or "Try this server instead."
    return "AUTH", outcome.reason or "Login disabled for this user"
