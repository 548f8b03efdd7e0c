"""One SMTP client, from connect to disconnect.

The engine (`wire.smtp`) keeps the protocol; this class decides who is welcome, in Postfix's order and words,
and logs in Postfix's form, so that pflogsumm and fail2ban read it. A session ends by QUIT, by the client
going away, after `smtpd_timeout` seconds of silence, after `smtpd_hard_error_limit` errors, or at shutdown.

A fault of our own is logged with its traceback and answered 451; it ends this session and no other.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable

from mailstack.mta.smtpd import replies
from mailstack.mta.smtpd.accounting import KNOWN
from mailstack.mta.smtpd.anvil import Event
from mailstack.mta.smtpd.commands import HANDLERS, Commands
from mailstack.mta.smtpd.connection import Over
from mailstack.mta.smtpd.deadline import Deadline
from mailstack.mta.smtpd.verdicts import dsn_for
from mailstack.net.tasks import current
from mailstack.wire.smtp import Reply, State, events
from mailstack.wire.smtp.command import NULL_VERP, SIZE_LIMIT, path_of
from mailstack.wire.smtp.server import AUTH_ABORTED, CHUNK_TOO_BIG, FOREIGN, NULL_BDAT, SYNTAX, UTF8_SYNTAX
from mailstack.wire.smtp.verbs import BDAT_SYNTAX

LOST = "lost connection"
_BDAT: dict[Reply, Callable[[str, str], str]] = {
    BDAT_SYNTAX: lambda peer, line: f"malformed BDAT command syntax from {peer}: {line}",
    NULL_BDAT: lambda peer, _: f"null BDAT request from {peer}",
    CHUNK_TOO_BIG: lambda peer, _: f"BDAT request from {peer} exceeds message size limit",
}
"""What the log says of a chunk that is refused."""
AT_ONCE = 16
"""Commands and pieces of content that a client may have sent ahead before others get a turn."""
LUMP = 128 * 1024
"""Octets from one client after which others get a turn, too."""
_PATH = re.compile(r"<([^>]*)>")

_VERBS: dict[type, str] = {
    events.Mail: "MAIL",
    events.Rcpt: "RCPT",
    events.Data: "DATA",
    events.Chunk: "BDAT",
    events.ChunkEnd: "BDAT",
    events.Reset: "RSET",
    events.Noop: "NOOP",
    events.Unknown: "UNKNOWN",
    events.Verify: "VRFY",
    events.Etrn: "ETRN",
    events.Help: "HELP",
    events.Quit: "QUIT",
    events.StartTLS: "STARTTLS",
    events.Auth: "AUTH",
    events.AuthResponse: "AUTH",
    events.ContentEnd: "END-OF-MESSAGE",
    events.Proxied: "XCLIENT",
}


class Session(Commands):
    """A client of one smtpd service."""

    def stop(self) -> None:
        """End at the next moment at which no message is lost: now, or after the transaction."""
        self._stopping = True
        if self._task is None:
            return
        if self._shaking or (self._reading and self._engine.state in (State.IDLE, State.READY)):
            self._task.cancel()

    def hurry(self) -> None:
        """Go on with the limits of stress, for there is hardly room for another session."""
        stressed = self._settings.stressed
        if stressed is None:
            return
        self._settings = stressed
        if self._engine.state is State.TLS:
            asyncio.get_running_loop().call_later(stressed.tls_timeout, self._give_up_handshake)
        else:
            self._stream.hasten(stressed.tls_timeout if self._shaking else stressed.timeout)

    @property
    def _shaking(self) -> bool:
        """It begins with TLS, and has not come further."""
        return self._settings.tls_wrapper and not self._tls

    def _give_up_handshake(self) -> None:
        if self._engine.state is State.TLS:
            self._stream.abort()

    async def run(self) -> None:
        """Serve the client; returns when the session is over."""
        self._task = current()
        reason = ""
        try:
            await self._converse()
        except Over:
            reason = self._reason
        except TimeoutError:
            reason = "timeout"
            self._log.info(f"timeout after {self._place(self._engine.state)} from {self.peer}")
            self._say(Reply(421, "4.4.2", f"{self._settings.host} Error: timeout exceeded"))
        except ConnectionError:
            reason = LOST
            self._lost(self._engine.state)
        except asyncio.CancelledError:
            self._say(Reply(421, "4.3.2", f"{self._settings.host} Service unavailable - try again later"))
        except Exception as error:
            self._log.exception(f"session with {self.peer}", error)
            reason = "error"
            self._errors.add("software")
            self._say(Reply(421, "4.3.0", f"{self._settings.host} Server local error"))
        finally:
            if self._transaction is not None:
                self._drop_transaction()
            if self._chain is not None:
                self._leave_milters()
            self._authentication.cancel()
            self._log.info(f"disconnect from {self.peer} {self._account.summary()}")
        if self._errors:
            await self._notify_postmaster(reason)

    def _lost(self, state: State) -> None:
        if self._where == "END-OF-MESSAGE":
            return  # without QUIT, but nothing has been left undone
        self._log.info(f"lost connection after {self._place(state)} from {self.peer}")

    def _place(self, state: State) -> str:
        """The command that was the last; content that ends here counts as failed, and its octets are told."""
        if state in (State.CONTENT, State.CHUNK) and self._transaction is not None:
            self._account.count(self._where, False)
            return f"{self._where} ({self._transaction.size} bytes)"
        return self._where

    async def _converse(self) -> None:
        ahead = await self._identify()
        self._log.info(f"connect from {self.peer}")
        refusal = self._admit()
        try:
            if refusal is not None:
                refusal = self._with_footer(refusal)
                if self._engine.transcript is not None:
                    self._engine.transcript.append(refusal.encode())
                self._stream.write(refusal.encode())
                raise Over
            if self._settings.tls_wrapper:
                if self._settings.tls is None:
                    self._log.warning(
                        f"Wrapper-mode request dropped from {self.peer} for service "
                        f"{self._settings.service}. TLS context initialization failed. "
                        "For details see earlier warnings in your logs."
                    )
                    raise Over
                await self._shake_hands()
                if self._over_rate(Event.TLS):
                    text = (
                        f"{self._settings.host} Error: too many new TLS sessions from {self.client_address}"
                    )
                    self._stream.write(Reply(421, "4.7.0", text).encode())
                    raise Over
            self._offer()
            await self._greet()
            if ahead:
                self._engine.receive_data(ahead)
            await self._serve()
        finally:
            self._release()

    async def _greet(self) -> None:
        self._engine.greet(await self._welcome())
        self._stream.write(self._engine.data_to_send())

    async def _serve(self) -> None:
        engine, stream = self._engine, self._stream
        settings = self._settings
        timeout = settings.timeout
        deadline = Deadline(timeout, settings.data_rate) if settings.request_deadline else None
        data = b""
        state = engine.state
        ahead = lump = 0
        while True:
            event = engine.next_event()
            if event is events.NEED_DATA:
                ahead = 0
                await self._flush()
                if self._stopping and engine.state in (State.IDLE, State.READY):
                    raise asyncio.CancelledError
                if settings is not self._settings:  # we have to hurry
                    settings = self._settings
                    timeout = settings.timeout
                    deadline = Deadline(timeout, settings.data_rate) if settings.request_deadline else None
                self._reading = True
                state = engine.state
                if deadline is not None:
                    content = len(data) if engine.state in (State.CONTENT, State.CHUNK) else 0
                    timeout = deadline.left(asyncio.get_running_loop().time(), content)
                data = await stream.read(timeout)
                self._reading = False
                lump += len(data)
                if lump >= LUMP:
                    lump = 0
                    await self._shared.turns.take()
                engine.receive_data(data)
                continue
            ahead += 1
            if ahead == AT_ONCE:
                ahead = 0
                await self._flush()  # which also finds out whether the client is still there
                await self._shared.turns.take()
            if isinstance(event, events.Content):
                assert self._transaction is not None
                if self._transaction.add(event.data):
                    await self._transaction.unload(self._origin())
                continue
            if isinstance(event, events.Closed):
                await self._flush()
                if not data:  # else it is we who hang up, after 421
                    self._lost(state)
                    self._reason = LOST
                raise Over
            await self._handle(event)
            if deadline is not None:
                deadline.met()
            if self._account.exhausted:
                await self._flush()
                self._log.info(f"too many errors after {self._where} from {self.peer}")
                self._say(Reply(421, "4.7.0", f"{self._settings.host} Error: too many errors"))
                self._reason = "too many errors"
                self._errors.add("policy")
                raise Over

    async def _handle(self, event: events.Event) -> None:
        if self._engine.bare_newline and self._settings.bare_newline_code:
            self._refuse_bare_newline()
        if isinstance(event, events.Refused):
            self._refused(event)
            if self._engine.state is State.CLOSED:
                await self._flush()
                raise Over
            return
        if isinstance(event, events.Hello | events.Proxied):
            self._where = event.verb
        else:
            self._where = _VERBS[type(event)]
        if self._engine.pipelined and self.pipelined:
            self._improper_pipelining()
        await HANDLERS[type(event)](self, event)

    def _refused(self, event: events.Refused) -> None:
        if isinstance(event, events.Ignored):
            self._account.junk()
            return
        self._where = event.verb or "UNKNOWN"
        if event.reply is SIZE_LIMIT and event.verb == "MAIL":
            sender = _PATH.search(event.line)
            self._log_event("reject", str(event.reply), sender[1] if sender is not None else "")
        if event.reply not in (NULL_VERP, FOREIGN, AUTH_ABORTED) and event.reply.code != 535:
            self._errors.add("policy" if event.reply is SIZE_LIMIT else "protocol")
        complaint = _BDAT.get(event.reply) if event.verb == "BDAT" else None
        if complaint is not None:
            self._log.warning(f"{self.queue_id or 'NOQUEUE'}: {complaint(self.peer, event.line)}")
        if event.verb == "BDAT" and self._engine.state in (State.IDLE, State.READY):
            self._drop_transaction()  # the last chunk has been refused: the transaction is over
        if event.reply not in (SYNTAX, UTF8_SYNTAX):  # no command at all
            self._account.count(self._where if event.verb in KNOWN else "unknown", False)
        self._account.error()
        if event.reply is FOREIGN:
            self._log.warning(f"non-SMTP command from {self.peer}: {event.line}")
        elif event.reply.enhanced in ("5.1.7", "5.1.3"):
            self._log.warning(
                f"Illegal address syntax from {self.peer} in {event.verb} command: "
                f"{path_of(event.line.partition(':')[2].strip())}"
            )
        elif event.verb == "AUTH":
            self._authentication.refused(event.reply, self.peer, event.line)

    def _refuse_bare_newline(self) -> None:
        """End the session of a client that ends commands in a bare LF, unless it may (CVE-2023-51764)."""
        settings = self._settings
        self._engine.bare_newline = False
        if settings.bare_newline_exclusions.match(self.client_address):
            return
        code = settings.bare_newline_code
        self._log_event("reject", "bare <LF> received")
        self._say(Reply(code, dsn_for(code, "5.5.2"), f"{settings.host} Error: bare <LF> received"))
        raise Over

    def _improper_pipelining(self) -> None:
        text = self._engine.pending().decode("ascii", "replace").replace("\r", "\\r").replace("\n", "\\n")
        self._log.info(f"improper command pipelining after {self._where} from {self.peer}: {text}")
        if self._settings.forbid_pipelining and self._engine.state is not State.DONE:
            self._say(replies.PIPELINING)
            raise Over
