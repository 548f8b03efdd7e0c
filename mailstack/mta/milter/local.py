"""non_smtpd_milters: mail of local programs, shown to milters as if it came from localhost by ESMTP.

Postfix's rules: CONNECT, EHLO, MAIL, DATA and the content may be refused, and then the message goes back to
its sender, or stays where it is where that is for now; a recipient cannot be refused, and the message stays
where it is when one is.
"""

from __future__ import annotations

from collections.abc import Sequence

from mailstack.mta.cleanup import Origin
from mailstack.mta.milter.chain import Chain
from mailstack.mta.milter.configuration import Milters
from mailstack.mta.milter.draft import Draft
from mailstack.mta.milter.macros import client_macro
from mailstack.mta.milter.verdicts import content_line
from mailstack.net.log import Log
from mailstack.wire.milter import Verdict
from mailstack.wire.smtp.address import quote
from mailstack.wire.smtp.reply import Reply

NAME, ADDRESS, PORT = "localhost", "127.0.0.1", "0"
NOT_NOW = "message not accepted, try again later"
CANNOT_REJECT = Reply(451, "4.3.5", "Server configuration error")


class LocalFilter:
    """The milters before one message. `waits`: it stays where it is when it is not taken for now."""

    def __init__(self, milters: Milters, queue_id: str, log: Log, *, waits: bool = True) -> None:
        self._waits = waits
        self._queue_id = queue_id
        self._log = log
        self._sender: str | None = None
        self._recipient: str | None = None
        self._chain = Chain(milters, milters.list, self._macro, log)
        self.hold = False

    async def look(
        self, draft: Draft, sender: str, recipients: Sequence[str], origin: Origin
    ) -> Verdict | None:
        """What becomes of the message; None: it is taken (`hold` says whether it is held).

        `sender` and `recipients` are completed, and not aliased yet.
        """
        chain = self._chain
        client, _, _ = origin.words().partition("; ")
        try:
            verdict = self._heed("CONNECT", await chain.connect(NAME, ADDRESS, PORT), client)
            if verdict is None:
                verdict = self._heed("EHLO", await chain.helo(NAME), client)
            if verdict is None:
                self._sender = quote(sender) if sender else ""
                verdict = self._heed("MAIL", await chain.mail((self._sender,)), self._words(client, sender))
            words = self._words(client, sender)
            for recipient in recipients:
                if verdict is not None:
                    return verdict
                self._recipient = quote(recipient)
                words = self._words(client, sender, recipient)
                verdict = self._heed("RCPT", await chain.rcpt((self._recipient,)), words)
                if verdict is not None and verdict.reply is not None:
                    self._log.warning(
                        f"{self._queue_id}: milter configuration error: can't reject recipient "
                        "in non-smtpd(8) submission"
                    )
                    word = "deferring delivery of this message" if self._waits else NOT_NOW
                    self._log.warning(f"{self._queue_id}: {word}")
                    return Verdict(CANNOT_REJECT)
            if verdict is None:
                verdict = self._heed("DATA", await chain.data(), words)
            if verdict is None:
                found = await chain.message(draft, self._macro, self._log)
                if found is not None and draft.excused(found):
                    return found
                verdict = self._heed("END-OF-MESSAGE", found, words)
            return verdict
        finally:
            chain.quit()

    def _heed(self, event: str, verdict: Verdict | None, words: str) -> Verdict | None:
        """Log a verdict; one that only holds the message lets it go on."""
        if verdict is None:
            return None
        if verdict.hold and self.hold:
            return None
        self._log.info(content_line(self._queue_id, event, verdict, words))
        if verdict.hold:
            self.hold = True
            return None
        return verdict

    def _words(self, client: str, sender: str, recipient: str = "") -> str:
        words = f"{client}; from=<{sender}>"
        return f"{words} to=<{recipient}>" if recipient else words

    def _macro(self, name: str) -> str | None:
        match name:
            case "{i}":
                return self._queue_id
            case "{mail_addr}":
                return self._sender
            case "{rcpt_addr}":
                return self._recipient
            case "{daemon_addr}":
                return ADDRESS
            case "{daemon_port}":
                return PORT
        return client_macro(name, host=NAME, reverse=NAME, address=ADDRESS, port=PORT)
