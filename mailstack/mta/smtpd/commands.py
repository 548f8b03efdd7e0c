"""What each command does, once the engine has found it in order."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from mailstack.mta.lookup import settled
from mailstack.mta.sasl import Challenge, Peer
from mailstack.mta.smtpd import replies
from mailstack.mta.smtpd.anvil import Event
from mailstack.mta.smtpd.connection import Over
from mailstack.mta.smtpd.identity import Identity
from mailstack.mta.smtpd.reception import FAILURES, NO_STORAGE, Transaction
from mailstack.mta.smtpd.verdicts import Phase, dsn_for
from mailstack.storage.tables import TableError
from mailstack.wire.smtp import Reply, events
from mailstack.wire.smtp.command import NO_RCPT_PARAMETERS
from mailstack.wire.smtp.server import NOT_ENABLED, UNKNOWN
from mailstack.wire.smtp.verbs import NOT_IMPLEMENTED
from mailstack.wire.smtp.xclient import XCLIENT, XFORWARD


class Commands(Identity):
    """The commands of a session; `HANDLERS` says which event is whose."""

    def _offer(self) -> None:
        """Set what STARTTLS and AUTH are told."""
        settings, engine = self._settings, self._engine
        engine.require_tls = settings.tls_required and not self.secured
        if self.secured:
            engine.starttls_refusal = replies.TLS_ACTIVE
        else:
            discarded = "starttls" in self._hidden
            engine.starttls_refusal = None if settings.tls_wanted and not discarded else NOT_IMPLEMENTED
        engine.auth_refusal = None if self._may_authenticate() else NOT_ENABLED

    def _may_authenticate(self) -> bool:
        settings = self._settings
        return (
            settings.authenticator is not None
            and (self.secured or not settings.auth_only_in_tls)
            and "auth" not in self._hidden
            and not settings.auth_exceptions.match(self.client_address)
        )

    async def _hello(self, event: events.Hello) -> None:
        greeted, mailing = self._greeted, self._transaction is not None
        self._greeted = False
        if mailing or self.forwarded or self.discarding:
            self._forget_transaction()
        self.helo = event.name
        if not self._settings.delay_reject:
            reply = await self._judge((Phase.HELO,))
            if reply is not None:
                self._log_reject("reject", reply)
                self._reply(event.verb, reply)
                self._greeted = greeted
                if self._chain is not None and mailing:
                    self._chain.abort()
                return
        if self._chain is not None:
            reply = await self._milter_hello(event.name, greeted=greeted, mailing=mailing)
            if reply is not None and reply.code == 421:
                self._reply(event.verb, reply)
                return
            self._greeted = True
            if reply is not None and reply.code >= 500 and event.verb == "EHLO":
                self._extended = True
                hidden = "enhancedstatuscodes" in self._hidden
                text = self._settings.host + ("" if hidden else "\nENHANCEDSTATUSCODES")
                self._reply("EHLO", Reply(250, "", text))
                return
        if event.verb == "EHLO":  # HELO behind it does not take it back
            self._extended = True
        else:
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
        if self._engine.verp is not None:
            lines.append("XVERP")
        if self._may_xclient:
            lines.append("XCLIENT " + " ".join(XCLIENT))
        if self._may_xforward:
            lines.append("XFORWARD " + " ".join(XFORWARD))
        lines += ["ENHANCEDSTATUSCODES", "8BITMIME", "DSN"]
        if settings.utf8:
            lines.append("SMTPUTF8")
        lines.append("CHUNKING")
        hidden = self._hidden
        if hidden:
            lines = [line for line in lines if line.partition(" ")[0].partition("=")[0].lower() not in hidden]
        return [settings.host, *lines]

    async def _mail(self, event: events.Mail) -> None:
        settings = self._settings
        transcript = self._engine.transcript
        if transcript is not None and len(transcript) > settings.history_limit:
            await self._notify_postmaster("")
        if self._over_rate(Event.MESSAGE):
            self._reply("MAIL", Reply(450, "4.7.1", f"Error: too much mail from {self.client_address}"))
            return
        if not self._shared.has_room(settings):
            self._log.warning("not enough free space in mail queue")
            self._errors.add("resource")
            self._reply("MAIL", NO_STORAGE)
            return
        now = self._shared.clock.time()
        if settings.proxy is None:
            self._transaction = Transaction(self._shared, settings, event.sender, event.parameters, now)
        else:
            mail = f"MAIL {self._engine.argument}"
            self._transaction = self._passing = settings.proxy.begin(self, event, mail, now)
        self.recipient = None
        if not settings.delay_reject:
            reply = await self._judge((Phase.SENDER,))
            if reply is not None:
                self._log_reject("reject", reply)
                self._forget_transaction()
                self._reply("MAIL", reply)
                return
        if self._chain is not None:
            reply = await self._milter_mail()
            if reply is not None:
                self._drop_transaction()
                self._reply("MAIL", reply)
                return
        self._reply("MAIL", replies.SENDER_OK)

    async def _rcpt(self, event: events.Rcpt) -> None:
        transaction, settings = self._transaction, self._settings
        assert transaction is not None
        if self._over_rate(Event.RECIPIENT):
            self._reply("RCPT", Reply(450, "4.7.1", f"Error: too many recipients from {self.client_address}"))
            return
        count = len(transaction.recipients)
        if count >= settings.recipient_limit:
            excess = self._account.total("RCPT") - settings.recipient_limit
            self._engine.reply(replies.TOO_MANY_RECIPIENTS)
            self._errors.add("policy")
            self._account.count("RCPT", False)
            if excess > settings.recipient_overshoot:
                self._account.error()
            return
        self.recipient = event.recipient
        reply = await self._judge_recipient(event.recipient)
        if reply is not None:
            self._log_reject("reject", reply)
        if self._chain is not None:
            reply = await self._milter_rcpt(reply)
        if reply is not None:
            self._reply("RCPT", reply)
            return
        if self._passing is not None:
            reply = await self._passing.pass_recipient(f"RCPT {self._engine.argument}")
            if reply is not None:
                self._reply("RCPT", reply)
                return
        elif not count:
            self.announce_client(transaction.name())
        transaction.recipients.append(event.recipient)
        if event.parameters is not NO_RCPT_PARAMETERS:
            transaction.ask(event.recipient, event.parameters)
        self._reply("RCPT", replies.RECIPIENT_OK)

    def announce_client(self, name: str) -> None:
        """Log whose message it is; `name`: its queue id."""
        self._log.info(f"{name}: client={self.peer}{self._sasl_words()}{self._forwarded_words()}")

    async def _data(self, event: events.Data) -> None:
        reply = await self._judge((Phase.DATA,))
        if reply is not None:
            self._log_reject("reject", reply)
        elif self._chain is not None:
            reply = await self._milter_data()
        if reply is None and self._passing is not None:
            reply = await self._passing.pass_data()
        if reply is not None:
            self._reply("DATA", reply)
            return
        self._chunked = False
        self._engine.reply(replies.GO_AHEAD)

    async def _chunk(self, event: events.Chunk) -> None:
        self._chunked = True
        reply = await self._judge((Phase.DATA,)) if event.first else None
        if reply is not None:
            self._log_reject("reject", reply)
        elif self._chain is not None and event.first:
            reply = await self._milter_data()
        if reply is None and self._passing is not None and event.first:
            reply = await self._passing.pass_data()
        if reply is not None:
            self._reply("BDAT", reply)
            if event.last:
                self._drop_transaction()
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
                transaction.announce()
        if reply is None:
            milters = self._content_filter() if self._chain is not None else None
            reply = await transaction.finish(self._origin(), too_big=event.too_big, milters=milters)
            if reply.code != 250:
                self._errors.add(FAILURES.get(reply, "policy"))
        self._drop_transaction()
        if self._chunked and reply.code == 250 and self._passing is None:
            reply = Reply(250, "2.0.0", f"Ok: {event.size} bytes{reply.text.removeprefix('Ok:')}")
        self._reply("BDAT" if self._chunked else "DATA", reply)
        if reply.code == 250:
            self._account.forgive()

    async def _rset(self, event: events.Reset) -> None:
        self._drop_transaction()
        self._reply("RSET", replies.OK)

    async def _unknown(self, event: events.Unknown) -> None:
        self._where = "UNKNOWN"
        self._errors.add("protocol")
        self._reply("unknown", await self._milter_unknown(event.line.split()[0]) or UNKNOWN)

    async def _noop(self, event: events.Noop) -> None:
        self._reply("NOOP", replies.OK)

    async def _help(self, event: events.Help) -> None:
        self._where = "UNKNOWN"
        self._reply("unknown", UNKNOWN)

    async def _quit(self, event: events.Quit) -> None:
        self._reply("QUIT", replies.BYE)
        await self._flush()
        raise Over

    async def _vrfy(self, event: events.Verify) -> None:
        if self._settings.vrfy_disabled:
            self._reply("VRFY", replies.VRFY_DISABLED)
            return
        standing = self._milter_standing()
        if standing is not None:
            self._reply("VRFY", standing)
            return
        self.recipient = event.address
        reply = await self._judge_recipient(event.address)
        if reply is not None:
            self._log_reject("reject", reply)
        self._reply("VRFY", reply or Reply(252, "2.0.0", event.argument))

    async def _etrn(self, event: events.Etrn) -> None:
        standing = self._milter_standing()
        if standing is not None:
            self._reply("ETRN", standing)
            return
        self.etrn_domain = event.domain
        phases = (Phase.CLIENT, Phase.HELO, Phase.ETRN) if self._settings.delay_reject else (Phase.ETRN,)
        reply = await self._judge(phases)
        if reply is not None:
            self._log_reject("reject", reply)
            self._reply("ETRN", reply)
            return
        domains = self._settings.flush_domains
        try:
            wanted = await settled(lambda: domains.match(event.domain))
        except (OSError, TableError) as error:
            self._log.warning(f"relay_domains: {error}")
            self._reply("ETRN", replies.ETRN_FAILED)
            return
        if wanted:
            begun = self._shared.flush(event.domain)
            self._reply("ETRN", replies.ETRN_STARTED if begun else replies.ETRN_FAILED)
        else:
            self._log.warning(f"reject: ETRN {event.domain[:100]}... from {self.peer}")
            self._reply("ETRN", Reply(459, "", f"<{event.domain}>: service unavailable"))

    # ---- TLS and AUTH

    async def _starttls(self, event: events.StartTLS) -> None:
        standing = self._milter_standing(softly=True)
        if standing is not None:
            self._reply("STARTTLS", standing)
            return
        if self._settings.tls is None:
            self._errors.add("software")
            self._reply("STARTTLS", replies.NO_TLS_NOW)
            return
        if self._over_rate(Event.TLS):
            text = f"Error: too many new TLS sessions from {self.client_address}"
            self._reply("STARTTLS", Reply(454, "4.7.0", text))
            return
        self._reply("STARTTLS", replies.READY_FOR_TLS)
        await self._flush()
        await self._shake_hands()
        self._engine.tls_started()
        if self._chain is not None and self._greeted:
            self._chain.abort()
        self._drop_transaction()
        self._greeted = False
        self.helo = ""
        self._extended = False
        self._offer()

    async def _auth(self, event: events.Auth) -> None:
        standing = self._milter_standing(softly=True)
        if standing is not None:
            self._reply("AUTH", standing)
            return
        if self._over_rate(Event.AUTH):
            text = f"Error: too many AUTH commands from {self.client_address}"
            self._reply("AUTH", Reply(450, "4.7.1", text))
            return
        peer = Peer(self.client_address, self._stream.local[0], self.secured)
        self._auth_answer(await self._authentication.begin(event.mechanism, event.initial, peer, self.peer))

    async def _auth_response(self, event: events.AuthResponse) -> None:
        self._auth_answer(await self._authentication.respond(event.data, self.peer))

    def _auth_answer(self, answer: Challenge | Reply) -> None:
        if isinstance(answer, Challenge):
            self._engine.challenge(answer.data)
        else:
            self._reply("AUTH", answer)


HANDLERS: dict[type, Callable[[Commands, Any], Awaitable[None]]] = {
    events.Hello: Commands._hello,
    events.Mail: Commands._mail,
    events.Rcpt: Commands._rcpt,
    events.Data: Commands._data,
    events.Chunk: Commands._chunk,
    events.ChunkEnd: Commands._chunk_end,
    events.ContentEnd: Commands._content_end,
    events.Reset: Commands._rset,
    events.Noop: Commands._noop,
    events.Unknown: Commands._unknown,
    events.Help: Commands._help,
    events.Quit: Commands._quit,
    events.Verify: Commands._vrfy,
    events.Etrn: Commands._etrn,
    events.StartTLS: Commands._starttls,
    events.Auth: Commands._auth,
    events.AuthResponse: Commands._auth_response,
    events.Proxied: Commands._proxied,
}
