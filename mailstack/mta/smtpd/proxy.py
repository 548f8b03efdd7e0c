"""The before-queue content filter: smtpd_proxy_filter (SMTPD_PROXY_README).

What the restrictions let in goes on to another SMTP server, command by command, and that server's words are
the client's answer; nothing is queued here. The filter is told of the client by XFORWARD where it can;
it gets MAIL and RCPT as the client wrote them, and the message with our Received: header. With
`smtpd_proxy_options = speed_adjust` it is called only when the whole message is in, so that slow clients do
not keep it busy. The content is held back either way until the client has ended it: in memory, and beyond
`SPOOL_AT` octets in a file of the queue's folder that has no name.

A filter that cannot be reached, or that hangs up, is `451 4.3.0 Error: queue file write error`.
Logs `proxy-accept:` and `proxy-reject: END-OF-MESSAGE: REPLY; from=…`, and warnings for what it refuses.
Standards: RFC 5321; XFORWARD_README.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, NoReturn, Self

from mailstack.config.postfix.main_cf import MainCf
from mailstack.mta.smtpd.reception import (
    NO_STORAGE,
    TOO_BIG,
    WRITE_ERROR,
    Origin,
    Transaction,
)
from mailstack.net.resolver import ResolveError, Resolver
from mailstack.net.stream import Stream, connect, connect_unix
from mailstack.wire.smtp.command import encode_xtext
from mailstack.wire.smtp.content import stuff
from mailstack.wire.smtp.reply import Reply, parse_reply

if TYPE_CHECKING:
    from mailstack.mta.smtpd.commands import Commands
    from mailstack.mta.smtpd.milters import ContentFilter
    from mailstack.wire.smtp import events

TMP = "tmp"
_PIECE = 64 * 1024
_LINE = 512
"""Octets of an XFORWARD command."""
_LIMIT = 64 * 1024
"""Octets of a reply."""


class Broken(Exception):  # noqa: N818 - a condition
    """The filter is of no use any more; that has been logged."""


class Refused(Exception):  # noqa: N818 - a condition
    """The filter has said no; holds its words."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(str(reply))
        self.reply = reply


@dataclass(frozen=True, slots=True)
class ProxyFilter:
    """The filter of one service."""

    name: str
    """As main.cf has it, for the log."""
    host: str
    """`""`: `port` is the path of a unix socket."""
    port: str
    ehlo: str
    timeout: float
    """Seconds for the connection, and for each answer."""
    speed_adjust: bool
    resolver: Resolver

    @classmethod
    def load(cls, conf: MainCf, resolver: Resolver) -> Self | None:
        """None where there is none. Raises `ConfigError`."""
        name = conf.str("smtpd_proxy_filter").strip()
        if not name:
            return None
        options = {word.lower() for word in conf.list("smtpd_proxy_options")}
        if options - {"speed_adjust"}:
            unknown = ", ".join(sorted(options - {"speed_adjust"}))
            raise conf.error("smtpd_proxy_options", f"unknown option: {unknown}")
        if name.startswith("unix:"):
            host, port = "", os.path.join(conf.str("queue_directory"), name.removeprefix("unix:"))
        else:
            host, _, port = name.removeprefix("inet:").rpartition(":")
            host = host.strip("[]") or "127.0.0.1"
            if not port.isdecimal():
                raise conf.error("smtpd_proxy_filter", f"host:port or unix:path, not {name!r}")
        return cls(
            name,
            host,
            port,
            conf.str("smtpd_proxy_ehlo"),
            conf.time("smtpd_proxy_timeout"),
            "speed_adjust" in options,
            resolver,
        )

    def begin(self, session: Commands, event: events.Mail, command: str, now: float) -> ProxiedTransaction:
        """A transaction; `command`: MAIL FROM as the client wrote it."""
        return ProxiedTransaction(self, session, event, command, now)

    async def connect(self) -> Stream:
        """Raises `OSError`, `TimeoutError`."""
        if not self.host:
            return await connect_unix(self.port, self.timeout)
        try:
            addresses = await self.resolver.addresses(self.host, timeout=self.timeout)
        except ResolveError as error:
            raise OSError(str(error)) from None
        last = OSError(f"host {self.host} has no address")
        for address in addresses:
            try:
                return await connect(address, int(self.port), self.timeout)
            except OSError as error:
                last = error
        raise last


class ProxiedTransaction(Transaction):
    """One message on its way through the filter."""

    __slots__ = ("_commands", "_content", "_dead", "_filter", "_link", "_received", "_session")

    def __init__(
        self, proxy: ProxyFilter, session: Commands, event: events.Mail, command: str, now: float
    ) -> None:
        super().__init__(session._shared, session._settings, event.sender, event.parameters, now)
        self._filter = proxy
        self._session = session
        self._commands = [command]
        """What the filter has yet to be told."""
        self._link: Stream | None = None
        self._dead = False
        """The connection was lost within this transaction: no further one is made."""
        self._content: IO[bytes] | None = None
        """Where the content is that is not in memory."""
        self._received = b""

    def name(self) -> str:
        return "NOQUEUE"

    def announce(self) -> None:
        """There is nobody to tell of the Message-ID: the filter's successor does."""

    def abort(self) -> None:
        super().abort()
        self._hang_up()
        if self._content is not None:
            self._content.close()
            self._content = None

    def _hang_up(self) -> None:
        if self._link is not None:
            self._link.write(b"QUIT\r\n")
            self._link.close()
            self._link = None

    # ---- the envelope

    async def pass_recipient(self, command: str) -> Reply | None:
        """Take RCPT TO as the client wrote it to the filter; what the client is told, None: welcome."""
        session, first = self._session, not self.recipients
        if self._filter.speed_adjust:
            self._commands.append(command)
            if first:
                session.announce_client("NOQUEUE")
            return None
        try:
            if self._link is None:
                if self._dead:
                    return WRITE_ERROR
                await self._open(self._commands[0])
                session.announce_client("NOQUEUE")
            await self._say(command)
        except Refused as refused:
            return refused.reply
        except Broken:
            return WRITE_ERROR
        return None

    async def pass_data(self) -> Reply | None:
        """The same for DATA."""
        if self._filter.speed_adjust:
            return None
        try:
            await self._say("DATA", 300)
        except Refused as refused:
            return refused.reply
        except Broken:
            return WRITE_ERROR
        return None

    # ---- the content

    async def unload(self, origin: Origin) -> None:
        """Write what is held to the nameless file."""
        try:
            if self._content is None:
                folder = os.path.join(self._settings.queue_directory, TMP)
                self._content = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - until the end
                self._received = self._header(origin)
            self._content.writelines(self._parts)
        except OSError as error:
            self._shared.log.warning(f"{self.name()}: {error.strerror or error}")
            self._failure = NO_STORAGE
        self._parts.clear()
        self.held = 0

    def _has_headers(self) -> bool:
        return True  # nobody looks at them here

    def _header(self, origin: Origin) -> bytes:
        received = self._received_field(origin, "")
        return received if self._changes is None else self._changes.prepended + received

    async def finish(self, origin: Origin, *, too_big: bool, milters: ContentFilter | None = None) -> Reply:
        """Give the message to the filter; its reply to the dot."""
        if too_big:
            self._shared.log.warning(f"{self.name()}: queue file size limit exceeded")
            reply = TOO_BIG
        elif self._failure is not None:
            reply = self._failure
        else:
            try:
                reply = await self._deliver(origin)
            except Refused as refused:
                reply = refused.reply
            except Broken:
                reply = WRITE_ERROR
        self._session.log_filter("proxy-accept" if reply.code // 100 == 2 else "proxy-reject", reply)
        return reply

    async def _deliver(self, origin: Origin) -> Reply:
        if self._filter.speed_adjust:
            first, *others = self._commands
            await self._open(first)
            for command in others:
                await self._say(command)
            await self._say("DATA", 300)
        if self._link is None:
            raise Broken
        for part in stuff(self._pieces(origin)):
            await self._send(part)
        return await self._answer()

    def _pieces(self, origin: Origin) -> Iterator[bytes]:
        yield self._received or self._header(origin)
        if self._content is not None:
            self._content.seek(0)
            while piece := self._content.read(_PIECE):
                yield piece
        yield from self._parts

    # ---- the filter

    async def _open(self, mail: str) -> None:
        """Make a connection on which MAIL FROM has been accepted. Raises `Broken`, `Refused`."""
        proxy = self._filter
        try:
            stream = await proxy.connect()
        except (OSError, TimeoutError) as error:
            reason = "Connection timed out" if isinstance(error, TimeoutError) else error.strerror or error
            self._session.warn(f"connect to proxy filter {proxy.name}: {reason}")
            raise Broken from None
        self._link = stream
        try:
            try:
                self._check("connection request", await self._answer())
                greeting = await self._say(f"EHLO {proxy.ehlo}")
                for command in self._forwarded(greeting):
                    await self._say(command)
            except Refused:
                raise Broken from None
            await self._say(mail)
        except (Broken, Refused):
            self._hang_up()
            self._dead = False  # the next recipient may find it in order
            raise

    def _forwarded(self, greeting: Reply) -> list[str]:
        """XFORWARD, with what is known of the client and may be said."""
        offered: list[str] = []
        for line in greeting.text.upper().split("\n"):
            if line.startswith("XFORWARD "):
                offered = line.split()[1:]
        lines: list[str] = []
        for name, value in self._session.facts_for_filter().items():
            if name not in offered:
                continue
            word = f"{name}={encode_xtext(value or '[UNAVAILABLE]')}"
            if lines and len(lines[-1]) + len(word) < _LINE:
                lines[-1] += f" {word}"
            else:
                lines.append(f"XFORWARD {word}")
        return lines

    async def _say(self, command: str, wanted: int = 200) -> Reply:
        """Say a command. Raises `Refused` (logged) for another class of reply than `wanted`, `Broken`."""
        if self._link is None:
            raise Broken
        await self._send(f"{command}\r\n".encode())
        return self._check(command, await self._answer(), wanted)

    def _check(self, command: str, reply: Reply, wanted: int = 200) -> Reply:
        if reply.code // 100 != wanted // 100:
            said = reply.encode().decode().removesuffix("\r\n").replace("\r\n", "??")
            self._session.warn(f'proxy {self._filter.name} rejected "{command}": "{said}"')
            raise Refused(reply)
        return reply

    async def _send(self, data: bytes) -> None:
        """Raises `Broken`, which has been logged."""
        assert self._link is not None
        try:
            self._link.write(data)
            await self._link.drain(self._filter.timeout)
        except (OSError, TimeoutError) as error:
            self._lost(error)

    async def _answer(self) -> Reply:
        """The next reply. Raises `Broken`, which has been logged."""
        assert self._link is not None
        try:
            return await _read_reply(self._link, self._filter.timeout)
        except (OSError, TimeoutError, ValueError) as error:
            self._lost(error)

    def _lost(self, error: Exception) -> NoReturn:
        name = self._filter.name
        if isinstance(error, TimeoutError):
            self._session.warn(f"timeout talking to proxy {name}")
        elif isinstance(error, ValueError):
            self._session.warn(f"proxy {name}: {error}")
        else:
            self._session.warn(f"lost connection with proxy {name}")
        if self._link is not None:
            self._link.abort()
            self._link = None
        self._dead = True
        raise Broken from None


async def _read_reply(stream: Stream, timeout: float) -> Reply:
    """Raises `ConnectionError`, `TimeoutError`, and `ValueError` for what is no reply."""
    data = b""
    while True:
        more = await stream.read(timeout)
        if not more:
            raise ConnectionResetError("connection closed")
        data += more
        if data[-1:] == b"\n":
            lines = data.replace(b"\r\n", b"\n").split(b"\n")[:-1]
            if lines[-1][3:4] != b"-":
                return parse_reply(lines)
        if len(data) > _LIMIT:
            raise ValueError("a reply is too long")
