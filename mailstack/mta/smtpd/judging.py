"""Who is welcome: the restriction lists at their stages, and the log line of a refusal, in Postfix's form."""

from __future__ import annotations

from mailstack.mta.smtpd.connection import Connection
from mailstack.mta.smtpd.verdicts import Phase, Rejection
from mailstack.storage.tables import TableError
from mailstack.wire.smtp import Reply

_UNPIPELINED = frozenset({"EHLO", "HELO", "STARTTLS", "AUTH", "DATA", "VRFY", "ETRN", "NOOP", "QUIT"})
"""Commands that must be the last of their group (RFC 2920 §3.1)."""


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

    # ---- stages

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
        if self.recipient is not None and self._where in ("RCPT", "VRFY", "DATA", "BDAT", "END-OF-MESSAGE"):
            words += f" to=<{self.recipient}>"
        words += f" proto={self._protocol_name()}"
        if self.helo:
            words += f" helo=<{self.helo}>"
        if self.sasl_user:
            words += f" sasl_username=<{self.sasl_user}>"
        self._log.info(f"{name}: {word}: {self._where} from {self.peer}: {reply};{words}")
