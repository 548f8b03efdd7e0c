"""Who the client is, and whose place it takes: names, the PROXY header, XCLIENT, XFORWARD; and what one
client may do in a while (anvil)."""

from __future__ import annotations

import asyncio

from mailstack.mta.lookup import Pending, settled
from mailstack.mta.smtpd import replies
from mailstack.mta.smtpd.anvil import Event
from mailstack.mta.smtpd.connection import Over
from mailstack.mta.smtpd.keywords import KeywordMaps
from mailstack.mta.smtpd.milters import Filtered
from mailstack.mta.smtpd.peer import UNKNOWN
from mailstack.mta.smtpd.verdicts import Phase
from mailstack.storage.tables import TableError
from mailstack.wire.proxy import ProxyError, parse_header
from mailstack.wire.smtp import Reply, events, xclient
from mailstack.wire.smtp.command import SyntaxRefusal

NAME_TIMEOUT = 1.0
"""Seconds that the greeting may wait for the client's name."""


class Identity(Filtered):
    """The client's names and rights, and its counts."""

    async def _identify(self) -> bytes:
        """Find out who has connected; what came behind a PROXY header. Raises `Over`."""
        settings = self._settings
        ahead = b""
        if settings.proxy_timeout:
            ahead = await self._read_proxy_header()
        if settings.lookup_names:
            names = await self._shared.client_names(self.client_address, NAME_TIMEOUT)
            self.client_name, self.reverse_client_name = names.name, names.reverse
            self.name_failed_for_now = names.name_for_now
            self.reverse_name_failed_for_now = names.reverse_for_now
            if names.problem:
                self._log.warning(names.problem)
        if settings.keyword_maps is not None:
            await self._hide_keywords(settings.keyword_maps)
        await self._trust()
        return ahead

    async def _hide_keywords(self, maps: KeywordMaps) -> None:
        """smtpd_discard_ehlo_keyword_address_maps, in place of smtpd_discard_ehlo_keywords."""
        try:
            hidden = await settled(lambda: maps.find(self.client_address))
        except (OSError, TableError) as error:
            self._log.warning(f"smtpd_discard_ehlo_keyword_address_maps: {error}")
            return
        if hidden is not None:
            self._hidden = hidden
            self._engine.chunking = "chunking" not in hidden
            self._engine.dsn = "dsn" not in hidden

    async def _trust(self) -> None:
        """Find out whether this client may speak for others; one that no table can tell of may not."""
        try:
            try:
                self._look_up_trust()
            except Pending:
                await settled(self._look_up_trust)
        except (OSError, TableError) as error:
            self._log.warning(f"table lookup error: {error}")
            self._may_xclient = self._may_xforward = False
            self._engine.verp = None

    def _look_up_trust(self) -> None:
        hosts, others = self._settings.xclient_hosts, self._settings.xforward_hosts
        if hosts is not None:
            self._may_xclient = hosts.match(self.client_name, self.client_address)
        if others is not None:
            self._may_xforward = others.match(self.client_name, self.client_address)
        senders = self._settings.verp_clients
        if senders is not None:
            trusted = senders.match(self.client_name, self.client_address)
            self._engine.verp = self._settings.verp if trusted else None

    async def _read_proxy_header(self) -> bytes:
        """Take the client's and our own address from the header; what came behind it. Raises `Over`."""
        loop = asyncio.get_running_loop()
        end = loop.time() + self._settings.proxy_timeout
        data = b""
        try:
            while (header := parse_header(data)) is None:
                more = await self._stream.read(max(0.001, end - loop.time()))
                if not more:
                    raise ProxyError("lost connection")
                data += more
        except (ProxyError, TimeoutError) as error:
            reason = "timeout error" if isinstance(error, TimeoutError) else str(error)
            self._log.warning(f"haproxy read: {reason}")
            self._stream.write(Reply(421, "4.3.0", f"{self._settings.host} Server local error").encode())
            raise Over from None
        if not header.local:
            self.client_address, self.client_port = header.client, header.client_port
            self._server = (header.server, header.server_port)
        return data[header.length :]

    # ---- how much it does

    def _admit(self) -> Reply | None:
        """Count the connection; what the client is told when it is one too many."""
        settings = self._settings
        limits = settings.event_limits
        if limits is None or self._may_xclient or settings.limit_exceptions.match(self.client_address):
            return None
        self._counted = f"{settings.service}:{self.client_address}"
        count, rate = self._shared.anvil.connect(self._counted, limits.unit)
        self.connections = count
        if limits.connections and count > limits.connections:
            self._errors.add("policy")
            self._log.warning(
                f"Connection concurrency limit exceeded: {count} from {self.peer} "
                f"for service {settings.service}"
            )
        elif limits.rates[Event.CONNECTION] and rate > limits.rates[Event.CONNECTION]:
            self._log.warning(
                f"Connection rate limit exceeded: {rate} from {self.peer} for service {settings.service}"
            )
        else:
            return None
        return Reply(421, "4.7.0", f"{settings.host} Error: too many connections from {self.client_address}")

    def _release(self) -> None:
        """The session is over."""
        if self._counted:
            self._shared.anvil.disconnect(self._counted)

    def _over_rate(self, event: Event) -> bool:
        """Count an event; whether it is one too many, which is logged."""
        limits = self._settings.event_limits
        if not self._counted or limits is None or not limits.rates[event]:
            return False
        rate = self._shared.anvil.add(self._counted, event, limits.unit)
        if rate <= limits.rates[event]:
            return False
        self._log.warning(
            f"{_RATE_NAMES[event]} rate limit exceeded: {rate} from {self.peer} "
            f"for service {self._settings.service}"
        )
        self._errors.add("policy")
        return True

    # ---- whom it speaks for

    async def _proxied(self, event: events.Proxied) -> None:
        """XCLIENT and XFORWARD."""
        allowed = self._may_xclient if event.verb == "XCLIENT" else self._may_xforward
        try:
            if not allowed and event.argument:
                raise SyntaxRefusal(replies.NOT_AUTHORISED)
            attributes = xclient.parse(event.verb, event.argument)
        except SyntaxRefusal as refusal:
            self._errors.add("protocol" if allowed else "policy")
            self._reply(event.verb, refusal.reply)
            return
        if event.verb == "XFORWARD":
            self.forwarded |= {one.name: one.value or "" for one in attributes}
            self._reply("XFORWARD", replies.OK)
            return
        self._become(attributes)
        await self._restart()

    def _become(self, attributes: list[xclient.Attribute]) -> None:
        for name, value, temporary in attributes:
            match name:
                case "NAME":
                    self.client_name, self.name_failed_for_now = value or UNKNOWN, temporary
                    if value is not None and self.reverse_client_name == UNKNOWN:
                        self.reverse_client_name = value
                case "REVERSE_NAME":
                    self.reverse_client_name, self.reverse_name_failed_for_now = value or UNKNOWN, temporary
                case "ADDR":
                    self.client_address = value or UNKNOWN
                case "PORT":
                    self.client_port = value or UNKNOWN
                case "HELO":
                    self.helo = value or ""
                case "PROTO":
                    self._extended = value == "ESMTP"
                case "LOGIN":
                    self._authentication.assume(value or "")
                case "DESTADDR":
                    self._server = (value or "", self._server[1])
                case "DESTPORT":
                    self._server = (self._server[0], value or "")

    async def _restart(self) -> None:
        """Greet the client that XCLIENT has made of this one."""
        self._drop_transaction()
        await self._trust()
        self._account.count("XCLIENT", True)
        self._engine.restart(await self._welcome())

    async def _welcome(self) -> Reply:
        """The greeting. A client that is not welcome is told so, and may only leave (RFC 5321 §3.1)."""
        settings = self._settings
        self._engine.denial = None
        self._engine.stays = False
        if not settings.delay_reject:
            reply = await self._judge((Phase.CLIENT,))
            if reply is not None:
                self._log_reject("reject", reply)
                name = f"{self.client_name}[{self.client_address}]"
                self._engine.denial = Reply(503, "5.7.0", f"Error: access denied for {name}")
                return reply
        if settings.milters is not None:
            greeting = await self._milter_connect()
            if greeting is not None:
                return greeting
        return Reply(220, "", settings.banner)


_RATE_NAMES = {
    Event.MESSAGE: "Message delivery request",
    Event.RECIPIENT: "Recipient address",
    Event.TLS: "New TLS session",
    Event.AUTH: "AUTH command",
}
