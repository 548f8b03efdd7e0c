"""AUTH in one session: exchanges, their outcome in Postfix's words, and who the client turned out to be."""

from __future__ import annotations

from mailstack.mta.sasl import Challenge, Exchange, Failure, Outcome, Peer, Success
from mailstack.mta.smtpd.replies import AUTHENTICATED
from mailstack.mta.smtpd.settings import Settings
from mailstack.net.log import Log
from mailstack.wire.smtp.reply import Reply


class Authentication:
    """The state of AUTH between one client and the authenticator of its service."""

    __slots__ = ("_exchange", "_log", "_mechanism", "_settings", "method", "user")

    def __init__(self, settings: Settings, log: Log) -> None:
        self._settings = settings
        self._log = log
        self._exchange: Exchange | None = None
        self._mechanism = ""
        self.user = ""
        """Who the client has proved to be, or `""`."""
        self.method = ""
        """By which mechanism."""

    async def mechanisms(self, secured: bool) -> tuple[str, ...]:
        """What may be offered now."""
        authenticator = self._settings.authenticator
        if authenticator is None:
            return ()
        return self._settings.mechanisms(await authenticator.mechanisms(), secured=secured)

    async def begin(self, mechanism: str, initial: bytes | None, peer: Peer, name: str) -> Challenge | Reply:
        """Answer AUTH; `name` is the client for log lines."""
        self._mechanism = mechanism
        authenticator = self._settings.authenticator
        if authenticator is None or mechanism not in await self.mechanisms(peer.secured):
            return self._outcome(Failure("Invalid authentication mechanism"), name)
        self._exchange = authenticator.begin(mechanism, peer)
        return self._outcome(await self._exchange.step(initial), name)

    async def respond(self, data: bytes, name: str) -> Challenge | Reply:
        """Answer the client's response to a challenge."""
        assert self._exchange is not None
        return self._outcome(await self._exchange.step(data), name)

    def assume(self, user: str) -> None:
        """Take a trusted client's word for who it is (XCLIENT LOGIN); `""`: nobody."""
        self.cancel()
        self.user, self.method = user, "XCLIENT" if user else ""

    def refused(self, reply: Reply, name: str, line: str) -> None:
        """The engine has ended the exchange, or not begun it: the client gave up, or sent what is no base64.

        `line` is what it sent.
        """
        if reply.code == 535:
            if self._exchange is None:
                self._mechanism = line.split()[1].upper()
            self._log_failure(reply.text.rpartition(": ")[2], "", name)
        elif self._exchange is not None:
            self._log.warning(f"{name}: SASL {self._mechanism} authentication aborted")
        self.cancel()

    def cancel(self) -> None:
        """Give up an exchange that is under way."""
        if self._exchange is not None:
            self._exchange.cancel()
            self._exchange = None

    def _outcome(self, outcome: Outcome, name: str) -> Challenge | Reply:
        match outcome:
            case Challenge():
                return outcome
            case Success(user):
                self._exchange = None
                self.user, self.method = user, self._mechanism
                return AUTHENTICATED
            case Failure(reason, temporary, user):
                self._exchange = None
                self._log_failure(reason, user, name)
                if temporary:
                    return Reply(454, "4.7.0", f"Temporary authentication failure: {reason}")
                return Reply(535, "5.7.8", f"Error: authentication failed: {reason}")

    def _log_failure(self, reason: str, user: str, name: str) -> None:
        self._log.warning(
            f"{name}: SASL {self._mechanism or 'unknown'} authentication failed: {reason}, "
            f"sasl_username={user or '(unavailable)'}"
        )
