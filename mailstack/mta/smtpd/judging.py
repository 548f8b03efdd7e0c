"""Who is welcome: the restriction lists at their stages, and the log line of a refusal, in Postfix's form."""

from __future__ import annotations

import os

from mailstack.mta.lookup import Pending, settled
from mailstack.mta.smtpd.connection import Connection
from mailstack.mta.smtpd.recipients import Unlisted
from mailstack.mta.smtpd.verdicts import PERMIT, Phase, Rejection
from mailstack.storage.tables import TableError
from mailstack.wire.smtp import Reply

_UNPIPELINED = frozenset({"EHLO", "HELO", "STARTTLS", "AUTH", "DATA", "VRFY", "ETRN", "NOOP", "QUIT"})
"""Commands that must be the last of their group (RFC 2920 §3.1)."""

_RCPT = frozenset({Phase.RELAY, Phase.RECIPIENT})
_EARLY = frozenset({Phase.CLIENT, Phase.HELO, Phase.SENDER})
"""Stages that a later one follows: what is to be deferred if it is permitted is decided there."""


class Judging(Connection):
    """A connection that restrictions look at (`verdicts.Client`)."""

    # ---- what restrictions look at

    @property
    def sender(self) -> str | None:
        return self._transaction.sender if self._transaction is not None else None

    @property
    def pipelined(self) -> bool:
        """More has come in behind a command that must be the last of its group, or without EHLO."""
        return self._engine.pipelined and (not self._extended or self._where in _UNPIPELINED)

    @property
    def recipient_count(self) -> int:
        return len(self._transaction.recipients) if self._transaction is not None else 0

    def warn_reject(self, reply: Reply) -> None:
        self._log_reject("reject_warning", reply)

    @property
    def where(self) -> str:
        return self._where

    @property
    def server_address(self) -> str:
        return self._server[0]

    @property
    def server_port(self) -> str:
        return self._server[1]

    @property
    def queue_id(self) -> str:
        return self._transaction.queue_id if self._transaction is not None else ""

    @property
    def instance(self) -> str:
        """Process, and the time at which the message or the connection began, in hexadecimal digits."""
        begun = self._transaction.arrival if self._transaction is not None else self._begun
        seconds, fraction = divmod(begun, 1)
        return f"{os.getpid():x}.{int(seconds):x}.{int(fraction * 1e6):x}.{id(self) & 0xFFFF:x}"

    @property
    def message_size(self) -> int:
        transaction = self._transaction
        return 0 if transaction is None else transaction.size or transaction.parameters.size

    @property
    def sasl_method(self) -> str:
        return self._authentication.method if self.sasl_user else ""

    @property
    def sasl_sender(self) -> str:
        """What MAIL FROM's AUTH said."""
        if self._transaction is None or not self.sasl_user:
            return ""
        return self._transaction.parameters.auth or ""

    @property
    def tls_facts(self) -> tuple[str, str, int]:
        session = self._stream.tls if self._tls else None
        cipher = session.cipher() if session is not None else None
        if session is None or cipher is None:
            return ("", "", 0)
        return (session.version() or "", cipher[0], cipher[2])

    @property
    def stressed(self) -> bool:
        return self._settings.under_stress

    def warn(self, text: str) -> None:
        self._log.warning(text)

    def permitted(self, text: str) -> None:
        self._log_event("permit", text)

    def change(self, action: str, argument: str, text: str) -> None:
        transaction = self._transaction
        if action not in ("info", "warn") and (transaction is None or self._where == "VRFY"):
            self._log.warning(
                f"action {action.upper()} is always skipped in {self._where}: there is no message"
            )
            return
        if action != "prepend":  # as Postfix: what is added is seen in the message
            self._log_event(action, text)
        if transaction is not None:
            transaction.change(action, argument)
            self.discarding = self.discarding or action == "discard"

    def _listed(self) -> bool:
        try:
            return any(check(self) is PERMIT for check in self._settings.header_checks)
        except (OSError, TableError) as error:
            self._log.warning(f"local_header_rewrite_clients: {error}")
            return False

    # ---- stages

    async def _judge_recipient(self, recipient: str) -> Reply | None:
        """What RCPT TO and VRFY are told; None: welcome."""
        if recipient.lower() == "postmaster":
            return None
        settings = self._settings
        if settings.probe_sender.matches(recipient, self._shared.clock.time):
            return None
        reply = await self._judge(settings.recipient_phases)
        if reply is not None:
            return reply
        if self.discarding:
            return None
        try:
            if settings.reject_unlisted_recipient:
                sender = self.sender
                if sender:
                    sender = settings.rewriter.complete(sender)
                found = await self._unlisted(recipient, sender)
                if found is not None:
                    text = f"<{recipient}>: Recipient address rejected: {found.text}"
                    return Reply(found.code, found.enhanced, text)
        except (OSError, TableError) as error:
            return self._lookup_failed(error)
        return None

    async def _unlisted(self, address: str, sender: str | None = None) -> Unlisted | None:
        settings = self._settings
        try:
            return settings.recipients.unlisted(settings.rewriter.complete(address), sender)
        except Pending:
            return await settled(
                lambda: settings.recipients.unlisted(settings.rewriter.complete(address), sender)
            )

    async def _judge(self, phases: tuple[Phase, ...]) -> Reply | None:
        restrictions = self._settings.restrictions
        unlisted = self._settings.reject_unlisted_sender
        deferrals = self.deferrals
        try:
            for phase in phases:
                if self.discarding:
                    return None
                if deferrals.active:
                    deferrals.begin(phase, more=phase in _RCPT and phase is phases[-1] and len(phases) > 1)
                verdict = await restrictions[phase].evaluate(self)
                if deferrals.active:
                    deferrals.end(phase)
                if isinstance(verdict, Rejection):
                    return verdict.reply
                if phase is Phase.SENDER and unlisted and self.sender and not self.discarding:
                    found = await self._unlisted(self.sender)
                    if found is not None:
                        text = f"<{self.sender}>: Sender address rejected: {found.text}"
                        return Reply(found.code, found.sender_enhanced, text)
        except (OSError, TableError) as error:
            return self._lookup_failed(error)
        if deferrals.if_permit is not None and phases[-1] not in _EARLY:
            return deferrals.if_permit
        return None

    def _lookup_failed(self, error: Exception) -> Reply:
        self._log.warning(f"table lookup error: {error}")
        subject = self.recipient or self.sender or self.peer
        return Reply(451, "4.3.0", f"<{subject}>: Temporary lookup failure")

    def _error_class(self, reply: Reply) -> str:
        """The class of error that a refusal is, as notify_classes names them."""
        if reply.enhanced == "4.3.5":
            return "software"
        if reply.text.endswith("Temporary lookup failure"):
            return "data"
        settings = self._settings
        if settings.notices is None or "bounce" not in settings.notices.classes or self.recipient is None:
            return "policy"
        try:
            for address in (self.recipient, self.sender):
                found = settings.recipients.unlisted(settings.rewriter.complete(address)) if address else None
                if found is not None and found.text in reply.text:
                    return "bounce"  # it would have bounced
        except (OSError, TableError):
            return "data"
        return "policy"

    def _log_reject(self, word: str, reply: Reply) -> None:
        if word == "reject":
            self._errors.add(self._error_class(reply))
        self._log_event(word, str(reply))

    def _log_event(self, word: str, text: str, sender: str | None = None) -> None:
        """`QUEUEID: reject: RCPT from name[address]: text; from=<…> to=<…> proto=… helo=<…>`.

        `sender`: of a MAIL that is refused before there is a transaction.
        """
        transaction = self._transaction
        name = (transaction.queue_id if transaction is not None else "") or "NOQUEUE"
        words = ""
        show = self._settings.show
        if transaction is not None:
            sender = transaction.sender
        if sender is not None:
            words += f" from=<{show(sender)}>"
        if self.recipient is not None and (
            self._where in ("RCPT", "VRFY")
            # A refusal of all recipients names none of several.
            or (self._where in ("DATA", "BDAT", "END-OF-MESSAGE") and self.recipient_count == 1)
        ):
            words += f" to=<{show(self.recipient)}>"
        words += f" proto={self.protocol_name}"
        if self.helo:
            words += f" helo=<{self.helo}>"
        if self.sasl_user:
            words += f" sasl_username=<{self.sasl_user}>"
        self._log.info(f"{name}: {word}: {self._where} from {self.peer}: {text};{words}")
