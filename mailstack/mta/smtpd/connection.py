"""One connection of an smtpd client: what is known of it, and what goes over it.

The base of a session: `judging` adds who is welcome, `commands` what each command does, `session` its life.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING, cast

from mailstack.mta.smtpd.accounting import Accounting
from mailstack.mta.smtpd.authentication import Authentication
from mailstack.mta.smtpd.certificate import read_certificate
from mailstack.mta.smtpd.peer import UNKNOWN
from mailstack.mta.smtpd.reception import Origin, Transaction
from mailstack.mta.smtpd.settings import Settings
from mailstack.mta.smtpd.templates import session_names
from mailstack.mta.smtpd.verdicts import Certificate, Deferrals
from mailstack.net.stream import Stream
from mailstack.net.tasks import Driven
from mailstack.net.tls import describe
from mailstack.wire.smtp import Limits, Mode, Reply, ServerConnection, State

if TYPE_CHECKING:
    from mailstack.mta.milter import Chain
    from mailstack.mta.smtpd.proxy import ProxiedTransaction
    from mailstack.mta.smtpd.verdicts import Client
    from mailstack.mta.smtpd.worker import Shared

WRITE_TIMEOUT = 60.0
"""Seconds in which a client has to take its replies, or `smtpd_timeout` where that is less."""


class Over(Exception):  # noqa: N818
    """The session ends here; the reason has been logged and what is to be said has been queued."""


class Connection:
    """A client's connection and the state of its session."""

    def __init__(self, stream: Stream, settings: Settings, shared: Shared) -> None:
        self._stream = stream
        self._settings = settings
        self._shared = shared
        self._log = shared.log_for(settings)
        limits = Limits(settings.line_limit, settings.auth_line_limit, settings.message_limit)
        self._engine = ServerConnection(Mode.SMTP, limits, helo_required=settings.helo_required)
        self._engine.strict_paths = settings.strict_envelopes
        self._engine.allowed = settings.odd_addresses
        self._engine.chunking = "chunking" not in settings.discarded_keywords
        self._engine.utf8 = settings.utf8
        self._engine.strict_utf8 = settings.strict_utf8
        self._engine.soft_bounce = settings.soft_bounce
        self._engine.dsn = settings.dsn
        if settings.oddities is not None:
            settings.oddities.apply(self._engine, lambda text: self._log.info(f"{self.peer}: {text}"))
        if settings.footers is not None:
            self._engine.footer = self._with_footer
        self._hidden = settings.discarded_keywords
        """EHLO keywords that this client is not told of."""
        self._engine.asks_unknown = settings.milters is not None
        if settings.notices is not None:
            self._engine.transcript = []
        self._errors: set[str] = set()
        """Classes of errors since the transcript began (notify_classes)."""
        self._transaction: Transaction | None = None
        self._passing: ProxiedTransaction | None = None
        """The same one, where it goes through a before-queue filter."""
        self._chain: Chain | None = None
        """The milters; None where there are none for this client."""
        self._greeted = False
        """EHLO or HELO has been taken, and milters have been told."""
        self._refusal: Reply | None = None
        """Why the recipient that milters are told of is refused."""
        self.connections = 0
        """Connections of this client, as far as they are counted."""
        self._authentication = Authentication(settings, self._log)
        self._where = "CONNECT"
        self._begun = shared.clock.time()
        self._reason = ""
        """Why the session was broken off, for the postmaster."""
        self._account = Accounting(settings.soft_errors, settings.hard_errors, settings.junk_commands)
        self._extended = False
        self._chunked = False
        """The content comes, or came, by BDAT."""
        self._tls = ""
        self._task: Driven | None = None
        self._reading = False
        self._stopping = False
        # What restrictions look at (restrictions.Client).
        self.client_name = UNKNOWN
        self.client_address = stream.peer[0] or UNKNOWN
        self.client_port = str(stream.peer[1])
        self.reverse_client_name = UNKNOWN
        self.name_failed_for_now = False
        self.reverse_name_failed_for_now = False
        self.certificate: Certificate | None = None
        self.helo = ""
        self.recipient: str | None = None
        self.etrn_domain = ""
        self.deferrals = Deferrals()
        self.discarding = False
        # What identity knows.
        self._server = (stream.local[0], str(stream.local[1]))
        self._may_xclient = False
        self._may_xforward = False
        self.forwarded: dict[str, str] = {}
        """What XFORWARD has said, by attribute."""
        self._counted = ""
        """The name that its connection is counted under; `""`: it is not limited."""

    # ---- who it is

    @property
    def peer(self) -> str:
        """`name[address]`, with `:port` where the configuration wants it."""
        if self._settings.log_ports:
            return f"{self.client_name}[{self.client_address}]:{self.client_port}"
        return f"{self.client_name}[{self.client_address}]"

    @property
    def sasl_user(self) -> str:
        """Who the client has proved to be, or `""`."""
        return self._authentication.user

    @property
    def secured(self) -> bool:
        return bool(self._tls)

    # ---- octets

    def _say(self, reply: Reply) -> None:
        if not self._stream.closed and self._engine.state is not State.TLS:
            self._engine.say(reply)
            self._stream.write(self._engine.data_to_send())

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
        if self._stream.congested:
            await self._stream.drain(min(WRITE_TIMEOUT, self._settings.timeout))

    def _with_footer(self, reply: Reply) -> Reply:
        footers = self._settings.footers
        if footers is None:
            return reply
        transaction, asked = self._transaction, self.recipient
        # The first that has been taken: one that is refused just now is none.
        self.recipient = (
            transaction.recipients[0] if transaction is not None and transaction.recipients else None
        )
        names = session_names(cast("Client", self))
        self.recipient = asked
        return footers.add(reply, names, self._shared.clock.time(), self._log.warning)

    def _reply(self, verb: str, reply: Reply) -> None:
        if self._settings.soft_bounce:
            reply = reply.softened()
        self._engine.reply(reply)
        good = reply.code < 400
        self._account.count(verb, good)
        if not good:
            self._account.error()

    async def _shake_hands(self) -> None:
        context = self._settings.tls
        assert context is not None
        try:
            await self._stream.start_tls(context, self._settings.tls_timeout, server_side=True)
        except (OSError, TimeoutError) as error:
            reason = "Connection timed out" if isinstance(error, TimeoutError) else "lost connection"
            if isinstance(error, ssl.SSLError) and error.reason:
                reason = "-1"
            self._log.info(f"SSL_accept error from {self.peer}: {reason}")
            if reason == "-1":
                self._log.warning(f"TLS library problem: error:SSL routines::{_spoken(error)}")
            if self._where == "STARTTLS":
                self._account.failed("STARTTLS")
            self._log.info(f"lost connection after {self._where} from {self.peer}")
            raise Over from None
        session = self._stream.tls
        assert session is not None
        self._tls = describe(session)
        if context.verify_mode is not ssl.CERT_NONE:
            self.certificate = read_certificate(session, self._settings.fingerprint)
        if self._settings.tls_log:
            trust = "Anonymous" if self.certificate is None else "Trusted"
            self._log.info(f"{trust} TLS connection established from {self.peer}: {self._tls}")

    def _drop_transaction(self) -> None:
        if self._chain is not None and self._transaction is not None:
            self._chain.abort()
        self._forget_transaction()

    def _forget_transaction(self) -> None:
        """The same, and the milters are not told."""
        self.discarding = False
        self.forwarded.clear()
        if self._transaction is not None:
            self._transaction.abort()
            self._transaction = None

    async def _notify_postmaster(self, reason: str) -> None:
        """Send the transcript where notify_classes wants it, and begin a new one. Problems are logged."""
        notices, history, errors = self._settings.notices, self._engine.transcript, self._errors
        self._errors = set()
        if notices is None or not history:
            return
        self._engine.transcript = []
        if not errors.isdisjoint(notices.classes):
            await self._shared.notify(notices, errors & notices.classes, self.peer, history, reason)

    # ---- words for logs and headers

    @property
    def protocol_name(self) -> str:
        return "ESMTP" if self._extended else "SMTP"

    def _sasl_words(self) -> str:
        if not self.sasl_user:
            return ""
        return f", sasl_method={self._authentication.method}, sasl_username={self.sasl_user}"

    def _forwarded_words(self) -> str:
        """What XFORWARD has said, as Postfix logs it."""
        said = self.forwarded
        if not said:
            return ""
        words = f", orig_queue_id={said['IDENT']}" if said.get("IDENT") else ""
        if "NAME" in said or "ADDR" in said:
            words += f", orig_client={said.get('NAME') or UNKNOWN}[{said.get('ADDR') or UNKNOWN}]"
        return words

    def facts_for_filter(self) -> dict[str, str]:
        """What a before-queue filter is told of the client (XFORWARD); `""`: it is not known."""
        facts = {
            "NAME": self.client_name,
            "ADDR": self.client_address,
            "PORT": self.client_port,
            "HELO": self.helo,
            "IDENT": "",
            "PROTO": self.protocol_name,
            "SOURCE": "LOCAL" if self._origin().local else "REMOTE",
        }
        facts |= self.forwarded
        return {name: "" if value == UNKNOWN else value for name, value in facts.items()}

    def log_filter(self, word: str, reply: Reply) -> None:
        """`proxy-accept: END-OF-MESSAGE: REPLY; from=<…> to=<…> proto=… helo=<…>`."""
        transaction = self._transaction
        assert transaction is not None
        text = reply.encode().decode().removesuffix("\r\n").replace("\r\n", "??")
        words = f" from=<{transaction.sender}> to=<{transaction.recipients[0]}> proto={self.protocol_name}"
        if self.helo:
            words += f" helo=<{self.helo}>"
        if self.sasl_user:
            words += f" sasl_username=<{self.sasl_user}>"
        self._log.info(f"{word}: END-OF-MESSAGE: {text};{words}")

    def _listed(self) -> bool:
        """Whether local_header_rewrite_clients names the client by a table or by its certificate."""
        raise NotImplementedError

    def _origin(self) -> Origin:
        settings, transaction = self._settings, self._transaction
        protocol = self.protocol_name
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
            or (bool(settings.header_checks) and self._listed())
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
            self.client_port,
        )


def _spoken(error: OSError) -> str:
    """An error of OpenSSL in its own words."""
    return str(getattr(error, "reason", "")).lower().replace("_", " ")
