"""One SMTP client, from connect to disconnect.

The engine (`wire.smtp`) keeps the protocol; this class decides who is welcome, in Postfix's order and words,
and logs in Postfix's form, so that pflogsumm and fail2ban read it. A session ends by QUIT, by the client
going away, after `smtpd_timeout` seconds of silence, after `smtpd_hard_error_limit` errors, or at shutdown.

A fault of our own is logged with its traceback and answered 451; it ends this session and no other.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from mailstack.mta.sasl import Challenge, Peer
from mailstack.mta.smtpd import replies
from mailstack.mta.smtpd.accounting import KNOWN, Accounting
from mailstack.mta.smtpd.authentication import Authentication
from mailstack.mta.smtpd.reception import NO_STORAGE, Origin, Transaction
from mailstack.mta.smtpd.settings import Settings
from mailstack.mta.smtpd.verdicts import Phase, Rejection, dsn_for
from mailstack.net.stream import Stream
from mailstack.net.tasks import Driven, current
from mailstack.net.tls import describe
from mailstack.storage.tables import TableError
from mailstack.wire.smtp import Limits, Mode, Reply, ServerConnection, State, events
from mailstack.wire.smtp.server import FOREIGN, NOT_ENABLED, UNKNOWN
from mailstack.wire.smtp.verbs import NOT_IMPLEMENTED

if TYPE_CHECKING:
    from mailstack.mta.smtpd.worker import Shared

NAME_TIMEOUT = 1.0
"""Seconds that the greeting may wait for the client's name."""
WRITE_TIMEOUT = 60.0

_UNPIPELINED = frozenset({"EHLO", "HELO", "STARTTLS", "AUTH", "DATA", "VRFY", "ETRN", "NOOP", "QUIT"})
"""Commands that must be the last of their group (RFC 2920 §3.1)."""
_VERBS: dict[type, str] = {
    events.Mail: "MAIL",
    events.Rcpt: "RCPT",
    events.Data: "DATA",
    events.Chunk: "BDAT",
    events.ChunkEnd: "BDAT",
    events.Reset: "RSET",
    events.Noop: "NOOP",
    events.Verify: "VRFY",
    events.Etrn: "ETRN",
    events.Help: "HELP",
    events.Quit: "QUIT",
    events.StartTLS: "STARTTLS",
    events.Auth: "AUTH",
    events.AuthResponse: "AUTH",
    events.ContentEnd: "END-OF-MESSAGE",
}


class _Over(Exception):  # noqa: N818
    """The session ends here; the reason has been logged and what is to be said has been queued."""


class Session:
    """A client of one smtpd service."""

    def __init__(self, stream: Stream, settings: Settings, shared: Shared) -> None:
        self._stream = stream
        self._settings = settings
        self._shared = shared
        self._log = shared.log_for(settings)
        limits = Limits(settings.line_limit, settings.auth_line_limit, settings.message_limit)
        self._engine = ServerConnection(Mode.SMTP, limits, helo_required=settings.helo_required)
        self._engine.strict_paths = settings.strict_envelopes
        self._engine.utf8 = settings.utf8
        self._engine.strict_utf8 = settings.strict_utf8
        self._transaction: Transaction | None = None
        self._authentication = Authentication(settings, self._log)
        self._where = "CONNECT"
        self._account = Accounting(settings.soft_errors, settings.hard_errors, settings.junk_commands)
        self._extended = False
        self._chunked = False
        """The content comes, or came, by BDAT."""
        self._tls = ""
        self._task: Driven | None = None
        self._reading = False
        self._stopping = False
        # What restrictions look at (restrictions.Client).
        self.client_name = "unknown"
        self.client_address = stream.peer[0] or "unknown"
        self.helo = ""
        self.recipient: str | None = None
        self.etrn_domain = ""

    # ---- what restrictions look at

    @property
    def sender(self) -> str | None:
        return self._transaction.sender if self._transaction is not None else None

    @property
    def secured(self) -> bool:
        return bool(self._tls)

    @property
    def pipelined(self) -> bool:
        """More has come in behind a command that must be the last of its group, or without EHLO."""
        return self._engine.pipelined and (not self._extended or self._where in _UNPIPELINED)

    @property
    def recipient_count(self) -> int:
        return len(self._transaction.recipients) if self._transaction is not None else 0

    def warn_reject(self, reply: Reply) -> None:
        self._log_reject("reject_warning", reply)

    # ---- life

    @property
    def peer(self) -> str:
        """`name[address]`."""
        return f"{self.client_name}[{self.client_address}]"

    def stop(self) -> None:
        """End at the next moment at which no message is lost: now, or after the transaction."""
        self._stopping = True
        if self._task is not None and self._reading and self._engine.state in (State.IDLE, State.READY):
            self._task.cancel()

    async def run(self) -> None:
        """Serve the client; returns when the session is over."""
        self._task = current()
        try:
            await self._converse()
        except _Over:
            pass
        except TimeoutError:
            self._log.info(f"timeout after {self._where} from {self.peer}")
            self._say(Reply(421, "4.4.2", f"{self._settings.host} Error: timeout exceeded"))
        except ConnectionError:
            self._lost()
        except asyncio.CancelledError:
            self._say(Reply(421, "4.3.2", f"{self._settings.host} Service unavailable - try again later"))
        except Exception as error:
            self._log.exception(f"session with {self.peer}", error)
            self._say(Reply(421, "4.3.0", f"{self._settings.host} Server local error"))
        finally:
            self._drop_transaction()
            self._authentication.cancel()
            self._log.info(f"disconnect from {self.peer} {self._account.summary()}")

    def _say(self, reply: Reply) -> None:
        if not self._stream.closed and self._engine.state is not State.TLS:
            self._engine.say(reply)
            self._stream.write(self._engine.data_to_send())

    def _lost(self) -> None:
        detail = ""
        if self._where == "DATA" and self._transaction is not None:
            detail = f" ({self._transaction.size} bytes)"
        self._log.info(f"lost connection after {self._where}{detail} from {self.peer}")

    async def _converse(self) -> None:
        if self._settings.lookup_names:
            self.client_name = await self._shared.client_name(self.client_address, NAME_TIMEOUT)
        self._log.info(f"connect from {self.peer}")
        if not self._shared.admit(self.client_address, self._settings):
            text = f"{self._settings.host} Error: too many connections from {self.client_address}"
            self._log.warning(
                f"Connection concurrency limit exceeded: {self._settings.connection_limit + 1} "
                f"from {self.peer} for service {self._settings.service}"
            )
            self._stream.write(Reply(421, "4.7.0", text).encode())
            raise _Over
        try:
            if self._settings.tls_wrapper:
                await self._shake_hands()
            self._offer()
            await self._greet()
            await self._serve()
        finally:
            self._shared.release(self.client_address)

    async def _greet(self) -> None:
        settings = self._settings
        if not settings.delay_reject:
            reply = await self._judge((Phase.CLIENT,))
            if reply is not None:
                self._log_reject("reject", reply)
                self._engine.greet(Reply(554, "", f"{settings.host} ESMTP not accepting connections"))
                self._stream.write(self._engine.data_to_send())
                raise _Over
        self._engine.greet(Reply(220, "", settings.banner))
        self._stream.write(self._engine.data_to_send())

    def _offer(self) -> None:
        """Set what STARTTLS and AUTH are told."""
        settings, engine = self._settings, self._engine
        engine.require_tls = settings.tls_required and not self.secured
        if self.secured:
            engine.starttls_refusal = replies.TLS_ACTIVE
        else:
            discarded = "starttls" in settings.discarded_keywords
            engine.starttls_refusal = NOT_IMPLEMENTED if settings.tls is None or discarded else None
        engine.auth_refusal = None if self._may_authenticate() else NOT_ENABLED

    def _may_authenticate(self) -> bool:
        settings = self._settings
        return (
            settings.authenticator is not None
            and (self.secured or not settings.auth_only_in_tls)
            and "auth" not in settings.discarded_keywords
            and not settings.auth_exceptions.match(self.client_address)
        )

    async def _serve(self) -> None:
        engine, stream = self._engine, self._stream
        timeout = self._settings.timeout
        while True:
            event = engine.next_event()
            if event is events.NEED_DATA:
                await self._flush()
                if self._stopping and engine.state in (State.IDLE, State.READY):
                    raise asyncio.CancelledError
                self._reading = True
                data = await stream.read(timeout)
                self._reading = False
                engine.receive_data(data)
                continue
            if isinstance(event, events.Content):
                assert self._transaction is not None
                self._transaction.add(event.data, self._origin())
                continue
            if isinstance(event, events.Closed):
                await self._flush()
                self._lost()
                raise _Over
            await self._handle(event)
            if self._account.exhausted:
                await self._flush()
                self._log.info(f"too many errors after {self._where} from {self.peer}")
                self._say(Reply(421, "4.7.0", f"{self._settings.host} Error: too many errors"))
                raise _Over

    async def _flush(self) -> None:
        data = self._engine.data_to_send()
        if not data:
            return
        account = self._account
        if account.penalties and self._settings.error_sleep:
            pause = min(account.penalties * self._settings.error_sleep, 30.0)
            account.penalties = 0
            await asyncio.sleep(pause)
        self._stream.write(data)
        await self._stream.drain(WRITE_TIMEOUT)

    # ---- commands

    async def _handle(self, event: events.Event) -> None:
        if isinstance(event, events.Refused):
            self._refused(event)
            if self._engine.state is State.CLOSED:
                await self._flush()
                raise _Over
            return
        if isinstance(event, events.Hello):
            self._where = event.verb
        else:
            self._where = _VERBS[type(event)]
        if self._engine.pipelined and self.pipelined:
            self._improper_pipelining()
        handler: Callable[[Session, Any], Awaitable[None]] = _HANDLERS[type(event)]
        await handler(self, event)

    def _refused(self, event: events.Refused) -> None:
        self._where = event.verb or "UNKNOWN"
        self._account.count(self._where if event.verb in KNOWN else "unknown", False)
        self._account.error()
        if event.reply is FOREIGN:
            self._log.warning(f"non-SMTP command from {self.peer}: {event.line}")
        elif event.reply.enhanced in ("5.1.7", "5.1.3"):
            self._log.warning(
                f"Illegal address syntax from {self.peer} in {event.verb} command: "
                f"{event.line.partition(':')[2].strip()}"
            )
        elif event.verb == "AUTH":
            self._authentication.refused(event.reply, self.peer)

    def _improper_pipelining(self) -> None:
        text = self._engine.pending().decode("ascii", "replace").replace("\r", "\\r").replace("\n", "\\n")
        self._log.info(f"improper command pipelining after {self._where} from {self.peer}: {text}")
        if self._settings.forbid_pipelining and self._engine.state is not State.DONE:
            self._say(replies.PIPELINING)
            raise _Over

    def _reply(self, verb: str, reply: Reply) -> None:
        if self._settings.soft_bounce and 500 <= reply.code < 600:
            reply = Reply(reply.code - 100, "4" + reply.enhanced[1:], reply.text)
        self._engine.reply(reply)
        good = reply.code < 400
        self._account.count(verb, good)
        if not good:
            self._account.error()

    async def _hello(self, event: events.Hello) -> None:
        self._drop_transaction()
        self.helo = event.name
        if not self._settings.delay_reject:
            reply = await self._judge((Phase.HELO,))
            if reply is not None:
                self._log_reject("reject", reply)
                self._reply(event.verb, reply)
                return
        self._extended = event.verb == "EHLO"
        if not self._extended:
            self._reply("HELO", Reply(250, "", self._settings.host))
            return
        self._reply("EHLO", Reply(250, "", "\n".join(await self._extensions())))

    async def _extensions(self) -> list[str]:
        settings = self._settings
        lines = ["PIPELINING", f"SIZE {settings.message_limit}" if settings.message_limit else "SIZE"]
        if not settings.vrfy_disabled:
            lines.append("VRFY")
        lines.append("ETRN")
        if self._engine.starttls_refusal is None:
            lines.append("STARTTLS")
        if self._may_authenticate() and not self._engine.require_tls:
            names = " ".join(await self._authentication.mechanisms(self.secured))
            if names:
                lines.append(f"AUTH {names}")
                if settings.broken_auth:
                    lines.append(f"AUTH={names}")
        lines += ["ENHANCEDSTATUSCODES", "8BITMIME"]
        if settings.utf8:
            lines.append("SMTPUTF8")
        lines.append("CHUNKING")
        hidden = settings.discarded_keywords
        if hidden:
            lines = [line for line in lines if line.partition(" ")[0].partition("=")[0].lower() not in hidden]
        return [settings.host, *lines]

    async def _mail(self, event: events.Mail) -> None:
        settings = self._settings
        if not self._shared.has_room(settings):
            self._log.warning("not enough free space in mail queue")
            self._reply("MAIL", NO_STORAGE)
            return
        now = self._shared.clock.time()
        self._transaction = Transaction(self._shared, settings, event.sender, event.parameters, now)
        self.recipient = None
        if not settings.delay_reject:
            reply = await self._judge((Phase.SENDER,))
            if reply is not None:
                self._log_reject("reject", reply)
                self._drop_transaction()
                self._reply("MAIL", reply)
                return
        self._reply("MAIL", replies.SENDER_OK)

    async def _rcpt(self, event: events.Rcpt) -> None:
        transaction, settings = self._transaction, self._settings
        assert transaction is not None
        count = len(transaction.recipients)
        if count >= settings.recipient_limit:
            excess = self._account.total("RCPT") - settings.recipient_limit
            self._engine.reply(replies.TOO_MANY_RECIPIENTS)
            self._account.count("RCPT", False)
            if excess > settings.recipient_overshoot:
                self._account.error()
            return
        self.recipient = event.recipient
        reply = await self._judge_recipient(event.recipient)
        if reply is not None:
            self._log_reject("reject", reply)
            self._reply("RCPT", reply)
            return
        if not count:
            self._log.info(f"{transaction.name()}: client={self.peer}{self._sasl_words()}")
        transaction.recipients.append(event.recipient)
        self._reply("RCPT", replies.RECIPIENT_OK)

    async def _data(self, event: events.Data) -> None:
        reply = await self._judge((Phase.DATA,))
        if reply is not None:
            self._log_reject("reject", reply)
            self._reply("DATA", reply)
            return
        self._chunked = False
        self._engine.reply(replies.GO_AHEAD)

    async def _chunk(self, event: events.Chunk) -> None:
        self._chunked = True
        reply = await self._judge((Phase.DATA,)) if event.first else None
        if reply is not None:
            self._log_reject("reject", reply)
            self._reply("BDAT", reply)
            return
        self._engine.take_chunk()

    async def _chunk_end(self, event: events.ChunkEnd) -> None:
        self._reply("BDAT", Reply(250, "2.0.0", f"Ok: {event.size} bytes"))

    async def _content_end(self, event: events.ContentEnd) -> None:
        transaction, settings = self._transaction, self._settings
        assert transaction is not None
        reply = None
        code = settings.bare_newline_code
        if event.bare_newline and code and not settings.bare_newline_exclusions.match(self.client_address):
            text = f"{settings.host} Error: bare <LF> received"
            reply = Reply(code, dsn_for(code, "5.5.2"), text)
            self._log_reject("reject", reply)
        if reply is None:
            reply = await self._judge((Phase.END_OF_DATA,))
            if reply is not None:
                self._log_reject("reject", reply)
        if reply is None:
            reply = await transaction.finish(self._origin(), too_big=event.too_big)
        self._drop_transaction()
        if self._chunked and reply.code == 250:
            reply = Reply(250, "2.0.0", f"Ok: {event.size} bytes{reply.text.removeprefix('Ok:')}")
        self._reply("BDAT" if self._chunked else "DATA", reply)
        if reply.code == 250:
            self._account.forgive()

    async def _rset(self, event: events.Reset) -> None:
        self._drop_transaction()
        self._reply("RSET", replies.OK)

    async def _noop(self, event: events.Noop) -> None:
        self._reply("NOOP", replies.OK)

    async def _help(self, event: events.Help) -> None:
        self._where = "UNKNOWN"
        self._reply("unknown", UNKNOWN)

    async def _quit(self, event: events.Quit) -> None:
        self._reply("QUIT", replies.BYE)
        await self._flush()
        raise _Over

    async def _vrfy(self, event: events.Verify) -> None:
        if self._settings.vrfy_disabled:
            self._reply("VRFY", replies.VRFY_DISABLED)
            return
        self.recipient = event.address
        reply = await self._judge_recipient(event.address)
        if reply is not None:
            self._log_reject("reject", reply)
        self._reply("VRFY", reply or Reply(252, "2.0.0", event.argument))

    async def _etrn(self, event: events.Etrn) -> None:
        self.etrn_domain = event.domain
        phases = (Phase.CLIENT, Phase.HELO, Phase.ETRN) if self._settings.delay_reject else (Phase.ETRN,)
        reply = await self._judge(phases)
        if reply is not None:
            self._log_reject("reject", reply)
            self._reply("ETRN", reply)
        elif self._settings.flush_domains.match(event.domain):
            self._reply("ETRN", replies.ETRN_STARTED if self._shared.flush() else replies.ETRN_FAILED)
        else:
            self._log.warning(f"reject: ETRN {event.domain[:100]}... from {self.peer}")
            self._reply("ETRN", Reply(459, "", f"<{event.domain}>: service unavailable"))

    # ---- TLS and AUTH

    async def _starttls(self, event: events.StartTLS) -> None:
        self._reply("STARTTLS", replies.READY_FOR_TLS)
        await self._flush()
        await self._shake_hands()
        self._engine.tls_started()
        self._drop_transaction()
        self.helo = ""
        self._extended = False
        self._offer()

    async def _shake_hands(self) -> None:
        context = self._settings.tls
        assert context is not None
        try:
            if self._stream.tls is None:  # smtpd_tls_wrappermode: the listener has shaken hands
                await self._stream.start_tls(context, self._settings.tls_timeout, server_side=True)
        except (OSError, TimeoutError) as error:
            reason = "Connection timed out" if isinstance(error, TimeoutError) else _tls_reason(error)
            self._log.info(f"SSL_accept error from {self.peer}: {reason}")
            self._log.info(f"lost connection after {self._where} from {self.peer}")
            raise _Over from None
        session = self._stream.tls
        assert session is not None
        self._tls = describe(session)
        if self._settings.tls_log:
            self._log.info(f"Anonymous TLS connection established from {self.peer}: {self._tls}")

    async def _auth(self, event: events.Auth) -> None:
        peer = Peer(self.client_address, self._stream.local[0], self.secured)
        self._auth_answer(await self._authentication.begin(event.mechanism, event.initial, peer, self.peer))

    async def _auth_response(self, event: events.AuthResponse) -> None:
        self._auth_answer(await self._authentication.respond(event.data, self.peer))

    def _auth_answer(self, answer: Challenge | Reply) -> None:
        if isinstance(answer, Challenge):
            self._engine.challenge(answer.data)
        else:
            self._reply("AUTH", answer)

    @property
    def sasl_user(self) -> str:
        """Who the client has proved to be, or `""`."""
        return self._authentication.user

    # ---- judging

    async def _judge_recipient(self, recipient: str) -> Reply | None:
        """What RCPT TO and VRFY are told; None: welcome."""
        if recipient.lower() == "postmaster":
            return None
        settings = self._settings
        pair = (Phase.RELAY, Phase.RECIPIENT) if settings.relay_first else (Phase.RECIPIENT, Phase.RELAY)
        before = (Phase.CLIENT, Phase.HELO, Phase.SENDER) if settings.delay_reject else ()
        reply = await self._judge((*before, *pair))
        if reply is not None:
            return reply
        try:
            if settings.reject_unlisted_recipient:
                found = settings.recipients.unlisted(settings.rewriter.complete(recipient))
                if found is not None:
                    text = f"<{recipient}>: Recipient address rejected: {found.text}"
                    return Reply(found.code, found.enhanced, text)
            if settings.reject_unlisted_sender and self.sender:
                found = settings.recipients.unlisted(settings.rewriter.complete(self.sender))
                if found is not None:
                    text = f"<{self.sender}>: Sender address rejected: {found.text}"
                    return Reply(found.code, "5.1.0", text)
        except (OSError, TableError) as error:
            return self._lookup_failed(error)
        return None

    async def _judge(self, phases: tuple[Phase, ...]) -> Reply | None:
        restrictions = self._settings.restrictions
        try:
            for phase in phases:
                verdict = await restrictions[phase].evaluate(self)
                if isinstance(verdict, Rejection):
                    return verdict.reply
        except (OSError, TableError) as error:
            return self._lookup_failed(error)
        return None

    def _lookup_failed(self, error: Exception) -> Reply:
        self._log.warning(f"table lookup error: {error}")
        subject = self.recipient or self.sender or self.peer
        return Reply(451, "4.3.0", f"<{subject}>: Temporary lookup failure")

    def _log_reject(self, word: str, reply: Reply) -> None:
        transaction = self._transaction
        name = (transaction.queue_id if transaction is not None else "") or "NOQUEUE"
        words = ""
        if transaction is not None:
            words += f" from=<{transaction.sender}>"
        if self.recipient is not None and self._where in ("RCPT", "VRFY", "DATA", "END-OF-MESSAGE"):
            words += f" to=<{self.recipient}>"
        words += f" proto={self._protocol_name()}"
        if self.helo:
            words += f" helo=<{self.helo}>"
        if self.sasl_user:
            words += f" sasl_username=<{self.sasl_user}>"
        self._log.info(f"{name}: {word}: {self._where} from {self.peer}: {reply};{words}")

    # ---- words for logs and headers

    def _protocol_name(self) -> str:
        return "ESMTP" if self._extended else "SMTP"

    def _sasl_words(self) -> str:
        if not self.sasl_user:
            return ""
        return f", sasl_method={self._authentication.method}, sasl_username={self.sasl_user}"

    def _origin(self) -> Origin:
        settings, transaction = self._settings, self._transaction
        protocol = self._protocol_name()
        if transaction is not None and transaction.parameters.smtputf8:
            protocol = "UTF8SMTP"  # RFC 6531 §4.3
        if self._extended:
            protocol += ("S" if self.secured else "") + ("A" if self.sasl_user else "")
        words = settings.header_clients
        local = (
            (
                "permit_inet_interfaces" in words
                and self._shared.is_own(self.client_address, self._stream.local[0])
            )
            or ("permit_mynetworks" in words and settings.networks.match(self.client_address))
            or ("permit_sasl_authenticated" in words and bool(self.sasl_user))
        )
        return Origin(
            self.client_name,
            self.client_address,
            self.helo,
            protocol,
            self._authentication.method,
            self.sasl_user,
            self._tls,
            local,
        )

    def _drop_transaction(self) -> None:
        if self._transaction is not None:
            self._transaction.abort()
            self._transaction = None


_HANDLERS: dict[type, Callable[[Session, Any], Awaitable[None]]] = {
    events.Hello: Session._hello,
    events.Mail: Session._mail,
    events.Rcpt: Session._rcpt,
    events.Data: Session._data,
    events.Chunk: Session._chunk,
    events.ChunkEnd: Session._chunk_end,
    events.ContentEnd: Session._content_end,
    events.Reset: Session._rset,
    events.Noop: Session._noop,
    events.Help: Session._help,
    events.Quit: Session._quit,
    events.Verify: Session._vrfy,
    events.Etrn: Session._etrn,
    events.StartTLS: Session._starttls,
    events.Auth: Session._auth,
    events.AuthResponse: Session._auth_response,
}


def _tls_reason(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return error.reason or "protocol error"
    return "lost connection"
