"""smtpd's milters: which events they are told, what becomes of what they say, and the values of macros.

A verdict on CONNECT, EHLO and HELO lasts: those commands are answered as if nothing had been said (CONNECT by
554 where it is a 5xx, EHLO with nothing to offer), and MAIL, AUTH, STARTTLS, VRFY and ETRN are refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from mailstack.config.errors import ConfigError
from mailstack.mta.cleanup import Origin as Sender
from mailstack.mta.lookup import Pending, settled
from mailstack.mta.milter import Chain, Draft
from mailstack.mta.milter.macros import client_macro
from mailstack.mta.milter.verdicts import CLOSING, as_logged, content_line, described
from mailstack.mta.rewrite import Resolution
from mailstack.mta.smtpd.connection import Over
from mailstack.mta.smtpd.judging import Judging
from mailstack.mta.smtpd.peer import UNKNOWN
from mailstack.net.log import Log
from mailstack.storage.tables import TableError
from mailstack.wire.milter import Verdict
from mailstack.wire.smtp import Reply, quote

if TYPE_CHECKING:
    from mailstack.mta.milter.configuration import Milter, Milters

TRY_LATER = Reply(454, "4.3.0", "Try again later")
_WORD = re.compile(r'(?:"(?:[^"\\]|\\.)*"|[^\s])+')


class Filtered(Judging):
    """A session that milters are told of, where there are any."""

    async def _milters_of(self, milters: Milters) -> tuple[Milter, ...]:
        try:
            return milters.of(self.client_address)
        except Pending:
            return await settled(lambda: milters.of(self.client_address))

    async def _milter_connect(self) -> Reply | None:
        """Begin with the milters of this client; the greeting that they want instead of ours.

        Raises `Over` where one of them wants the session closed.
        """
        settings = self._settings
        assert settings.milters is not None
        self._leave_milters()
        try:
            milters = await self._milters_of(settings.milters)
        except (ConfigError, OSError, TableError) as error:
            self._log.warning(str(error))
            self._say(Reply(421, "4.3.0", f"{settings.host} Server local data error"))
            raise Over from None
        if not milters:
            return None
        self._chain = Chain(settings.milters, milters, self._macro, self._log)
        verdict = await self._chain.connect(self.client_name, self.client_address, self.client_port)
        refusal = self._heed(verdict)
        if refusal is None:
            return None
        if refusal.code == 421:
            self._say(Reply(421, "", f"{settings.host} Service unavailable - try again later"))
            raise Over
        if refusal.code < 500:
            return None
        self._account.error()
        self._engine.stays = True
        return Reply(554, "", f"{settings.host} ESMTP not accepting connections")

    async def _milter_hello(self, name: str, *, greeted: bool, mailing: bool) -> Reply | None:
        """Tell of EHLO or HELO. `greeted`: it is not the first; `mailing`: it ends a transaction."""
        chain = self._chain
        assert chain is not None
        refusal = self._heed(await chain.helo(name))
        if greeted:
            chain.abort()
        if mailing:
            chain.abort()
        return refusal

    async def _milter_mail(self) -> Reply | None:
        chain = self._chain
        if chain is None or self._discarded:
            return None
        return self._heed(await chain.mail(self._words()))

    async def _milter_rcpt(self, refusal: Reply | None) -> Reply | None:
        """Tell of a recipient, and our `refusal` where there is one; what the client is told."""
        chain = self._chain
        if chain is None or self._discarded:
            return refusal
        self._refusal = refusal
        verdict = await chain.rcpt(self._words(), rejected=refusal is not None)
        self._refusal = None
        return refusal or self._heed(verdict)

    async def _milter_data(self) -> Reply | None:
        chain = self._chain
        if chain is None or self._discarded:
            return None
        return self._heed(await chain.data())

    async def _milter_unknown(self, line: str) -> Reply | None:
        chain = self._chain
        return self._heed(await chain.unknown(line)) if chain is not None else None

    def _milter_standing(self, *, softly: bool = False) -> Reply | None:
        """What is said to commands that milters are not told of; `softly`: AUTH and STARTTLS."""
        verdict = self._chain.standing() if self._chain is not None else None
        if verdict is None or verdict.reply is None:
            return None
        self._errors.add("policy")
        return TRY_LATER if softly and verdict.reply.transient else verdict.reply

    def _content_filter(self) -> ContentFilter | None:
        """Who looks at the content of this message."""
        if self._chain is None or self._discarded:
            return None
        return ContentFilter(self._chain, self._content_macros())

    def _leave_milters(self) -> None:
        """The client is gone, or has become another one."""
        chain, self._chain = self._chain, None
        greeted, self._greeted = self._greeted, False
        if chain is not None:
            if greeted:
                chain.abort()
            chain.quit()

    # ---- verdicts

    @property
    def _discarded(self) -> bool:
        return self._transaction is not None and self._transaction.discarded

    def _heed(self, verdict: Verdict | None) -> Reply | None:
        """Log a verdict and carry it out; the reply for the client, None: go on."""
        if verdict is None:
            return None
        word, text = described(verdict)
        reply = CLOSING if verdict.shutdown else verdict.reply
        self._log_event(word, text or as_logged(reply) if reply is not None else text)
        if reply is not None:
            self._errors.add("policy")
        elif self._transaction is not None:
            self._transaction.change("hold" if verdict.hold else "discard", "")
        return reply

    # ---- what they are told

    def _words(self) -> list[str]:
        """The address of MAIL or RCPT as it was given, and the parameters."""
        return _WORD.findall(self._engine.argument.partition(":")[2])

    def _macro(self, name: str) -> str | None:
        """The value of a macro now. Raises what a table raises."""
        found = client_macro(
            name,
            host=self.client_name,
            reverse=self.reverse_client_name,
            address=self.client_address,
            port=self.client_port,
        )
        if found is not None:
            return found
        if name.startswith("{mail_"):
            return self._address_macro(name[6:-1], self.sender, self.recipient)
        if name.startswith("{rcpt_"):
            return self._recipient_macro(name[6:-1])
        value = _MACROS.get(name)
        return value(self) if value is not None else None

    def _recipient_macro(self, part: str) -> str | None:
        refusal = self._refusal
        if refusal is None:
            recipient = self.recipient
            if self._where in ("DATA", "BDAT") and self._transaction is not None:
                recipient = self._transaction.recipients[0]
            return self._address_macro(part, recipient, self.sender)
        match part:
            case "addr":
                return refusal.text.partition("\n")[0].partition(" ")[2]
            case "host":
                return refusal.enhanced
            case "mailer":
                return "error"
        return None

    def _address_macro(self, part: str, address: str | None, other: str | None) -> str | None:
        """{mail_addr}, {mail_host}, {mail_mailer}, and the same of a recipient."""
        if address is None:
            return None
        if not address and part == "addr":
            return ""
        rewriter = self._settings.rewriter
        complete = rewriter.complete(address)
        found: Resolution = rewriter.resolve(complete, other)
        match part:
            case "addr":
                return quote(found.recipient.lower())
            case "host":
                named = complete.rpartition("@")[2]
                return named if named.lower() == found.nexthop else found.nexthop
            case "mailer":
                return found.transport
        return None

    def _content_macros(self) -> dict[str, str | None]:
        """What Postfix's cleanup still knows of the session."""
        return {name: self._macro(name) for name in _CONTENT_MACROS}

    def _resolved(self) -> str:
        if self.client_name != UNKNOWN:
            return "OK"
        if self.name_failed_for_now:
            return "TEMP"
        return "FORGED" if self.reverse_client_name != UNKNOWN else "FAIL"


_CONTENT_MACROS = (
    "{_}",
    "{client_addr}",
    "{client_name}",
    "{client_port}",
    "{client_ptr}",
    "{daemon_addr}",
    "{daemon_port}",
    "{i}",
    "{auth_type}",
    "{auth_authen}",
    "{auth_author}",
)
_MACROS: dict[str, Callable[[Filtered], str | None]] = {
    "{client_connections}": lambda session: str(session.connections),
    "{client_resolve}": Filtered._resolved,
    "{daemon_addr}": lambda session: session.server_address,
    "{daemon_port}": lambda session: session.server_port,
    "{tls_version}": lambda session: session.tls_facts[0] or None,
    "{cipher}": lambda session: session.tls_facts[1] or None,
    "{cipher_bits}": lambda session: str(session.tls_facts[2]) if session.secured else None,
    "{cert_subject}": lambda session: session.certificate.subject if session.certificate else None,
    "{cert_issuer}": lambda session: session.certificate.issuer if session.certificate else None,
    "{i}": lambda session: session.queue_id or None,
    "{auth_type}": lambda session: session.sasl_method or None,
    "{auth_authen}": lambda session: session.sasl_user or None,
    "{auth_author}": lambda session: session.sasl_sender or None,
}


class ContentFilter:
    """The milters of a session, before the content of one message."""

    def __init__(self, chain: Chain, macros: dict[str, str | None]) -> None:
        self._chain = chain
        self._macros = macros

    async def look(self, draft: Draft, origin: Sender, log: Log) -> Verdict | None:
        """What becomes of the message; changes are made in `draft`."""
        self._macros["{i}"] = draft.queue_id
        verdict = await self._chain.message(draft, self._macros.get, log)
        if verdict is not None and not draft.excused(verdict):
            log.info(content_line(draft.queue_id, "END-OF-MESSAGE", verdict, origin.words()))
        return verdict
