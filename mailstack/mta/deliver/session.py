"""One connection to an SMTP or LMTP server, and transactions over it (RFC 5321, RFC 2033).

`open_session` connects, greets and, where asked to, secures the connection; `Session.send` is one
transaction and says per recipient what became of it. A `SiteError` means that this host cannot be used (now,
or for good): the owner may try another. Every wait has the deadline that main.cf names for it.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import Enum

from mailstack.mta.deliver.request import Bounced, Deferred, Outcome, Request, Result, Sent, Target
from mailstack.mta.dsn import original_recipient
from mailstack.net.stream import Stream, connect, connect_unix
from mailstack.storage.queue import Message, Queue
from mailstack.wire.smtp import NEED_DATA, ClientConnection, Mode, RemoteError, Reply, Response
from mailstack.wire.smtp.content import stuff

CHUNK = 64 * 1024


@dataclass(frozen=True, slots=True)
class Host:
    """Where to connect: `name[address]:port`. With `port` 0 the address is a unix socket's path."""

    name: str
    address: str
    port: int

    def __str__(self) -> str:
        """As texts name it: `name[address]`."""
        return f"{self.name}[{self.address}]"

    @property
    def relay(self) -> str:
        """As `relay=` has it."""
        return f"{self.name}[{self.address}]:{self.port}" if self.port else f"{self.name}[{self.address}]"


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Deadlines in seconds, each for one step; main.cf's `lmtp_…_timeout` or `smtp_…_timeout`."""

    connect: float
    hello: float
    starttls: float
    mail: float
    rcpt: float
    data_init: float
    data_transfer: float
    data_done: float


class TLSLevel(Enum):
    """smtp_tls_security_level."""

    NONE = "none"
    MAY = "may"
    ENCRYPT = "encrypt"
    VERIFY = "verify"


class SiteError(Exception):
    """This host cannot be used. `outcome` is what it means for every recipient left."""

    def __init__(self, outcome: Outcome, *, unreachable: bool = False, tls: bool = False) -> None:
        super().__init__(outcome.text)
        self.outcome = outcome
        self.unreachable = unreachable
        """Nobody answered: another delivery would meet the same."""
        self.tls = tls
        """The handshake failed: plain text may work where it is allowed."""


class ConnectionLost(Exception):  # noqa: N818 - a condition
    """The connection broke during a transaction; `doing` says where."""

    def __init__(self, dsn: str, text: str) -> None:
        super().__init__(text)
        self.dsn = dsn
        self.text = text


@dataclass(slots=True)
class Session:
    """An open connection that has said hello."""

    host: Host
    stream: Stream
    engine: ClientConnection
    timeouts: Timeouts
    opened: float
    """When it was connected (monotonic seconds)."""
    uses: int = 0
    idle_since: float = 0.0
    broken: bool = False
    greeted_as: str = ""
    """The name that the server gave in its reply to EHLO."""

    @property
    def action(self) -> str:
        """What a sender who wants to know is told of a delivery: nothing where the server will tell him."""
        return "" if "DSN" in self.engine.extensions else "relayed"

    # ---- one transaction

    async def send(self, request: Request, queue: Queue, *, connect: float) -> list[Result]:
        """Send the message to every target. Raises `ConnectionLost` only when nobody has a result yet."""
        self.uses += 1
        envelope = request.message.envelope
        engine = self.engine
        engine.mail(
            envelope.sender,
            size=envelope.size,
            body=_body(envelope.body),
            smtputf8=envelope.smtputf8 and "SMTPUTF8" in engine.extensions,
            ret=envelope.ret,
            envid=envelope.envid,
        )
        transaction = _Transaction(self, request, connect)
        content = self._small_content(request.message, queue)
        try:
            if engine.pipelining:
                for target in request.targets:
                    self._rcpt(request.message, target)
                if content is None:
                    engine.data()
                else:
                    engine.chunk(content)
                self._flush()
            await self._envelope(transaction, in_chunk=content is not None)
            if transaction.accepted and transaction.go_ahead:
                await self._content(transaction, queue)
        except ConnectionLost as lost:
            self.broken = True
            if not transaction.results and not transaction.sent_content:
                raise
            transaction.rest(Deferred(lost.text, lost.dsn))
        return transaction.results

    def _rcpt(self, message: Message, target: Target) -> None:
        """RCPT TO; a server that knows DSN is told what became of the sender's wishes (RFC 3461 §5.2.1)."""
        engine = self.engine
        if not engine.dsn:
            engine.rcpt(target.address)
            return
        recipient = message.envelope.recipients[target.index]
        orcpt = original_recipient(recipient.orcpt, recipient.original or recipient.address)
        engine.rcpt(target.address, notify=recipient.notify, orcpt=orcpt)

    def _small_content(self, message: Message, queue: Queue) -> bytes | None:
        """The content where it may go out with the envelope, in one BDAT chunk and one round trip.

        Only by LMTP: to strangers nothing is sent that nobody has asked for, and what is refused at RCPT
        would have gone over the wire for nothing.
        """
        engine = self.engine
        if engine.mode is not Mode.LMTP or not engine.chunking or not engine.pipelining:
            return None
        return queue.read_content(message) if message.envelope.size <= CHUNK else None

    async def _envelope(self, transaction: _Transaction, *, in_chunk: bool) -> None:
        engine, timeouts, host = self.engine, self.timeouts, self.host
        pipelined = engine.pipelining
        if not pipelined:
            self._flush()
        reply = await self._reply(timeouts.mail, "sending MAIL FROM")
        if reply.code == 421:
            # Said to the connection rather than to the message (RFC 5321 §3.8): a new one may do.
            raise ConnectionLost(_transient(reply), refusal(host, reply, "MAIL FROM").text)
        refused = None if reply.positive else refusal(host, reply, "MAIL FROM")
        if refused is not None:
            transaction.rest(refused, reply)
            if not pipelined:
                return
        for target in transaction.request.targets:
            if not pipelined:
                self._rcpt(transaction.request.message, target)
                self._flush()
            reply = await self._reply(timeouts.rcpt, "sending RCPT TO")
            if reply.code == 421:
                raise ConnectionLost(_transient(reply), refusal(host, reply, "RCPT TO").text)
            if reply.positive:
                transaction.accepted.append(target)
            elif refused is None:
                transaction.add(target, refusal(host, reply, "RCPT TO"), reply)
        if not pipelined:
            if not transaction.accepted:
                await self._reset()
                return
            engine.data()
            self._flush()
        if in_chunk:
            await self._chunk(transaction, wanted=refused is None)
            return
        reply = await self._reply(timeouts.data_init, "sending DATA command")
        if reply.code == 354:
            transaction.go_ahead = True
            if not transaction.accepted or refused is not None:
                # The server wants content although it has taken no recipient: an empty one, and be done.
                transaction.go_ahead = False
                engine.content(())
                self._flush()
                if engine.mode is Mode.SMTP:
                    await self._reply(
                        timeouts.data_done, "sending end of data -- message may be sent more than once"
                    )
        else:
            if transaction.accepted:
                transaction.rest(refusal(host, reply, "DATA"), reply)
            await self._reset()  # else the next message would come in the middle of this one

    async def _chunk(self, transaction: _Transaction, *, wanted: bool) -> None:
        """Take the replies to a chunk; not `wanted`: they are about a sender that was refused."""
        doing = "sending end of data -- message may be sent more than once"
        transaction.sent_content = bool(transaction.accepted)
        for target in transaction.accepted:
            reply = await self._reply(self.timeouts.data_done, doing)
            if wanted:
                transaction.finish(target, reply, self.host)
        if not transaction.accepted:
            await self._reply(self.timeouts.data_done, doing)
            await self._reset()

    async def _content(self, transaction: _Transaction, queue: Queue) -> None:
        request, engine, timeouts = transaction.request, self.engine, self.timeouts
        message = request.message
        transaction.sent_content = True
        if message.content is not None or message.envelope.size <= CHUNK:
            engine.content((queue.read_content(message),))
            self._flush()
        else:
            await self._stream_content(queue.open_content(message), message.envelope.size)
        doing = "sending end of data -- message may be sent more than once"
        if engine.mode is Mode.LMTP:
            for target in list(transaction.accepted):
                reply = await self._reply(timeouts.data_done, doing)
                transaction.finish(target, reply, self.host)
            return
        reply = await self._reply(timeouts.data_done, doing)
        for target in list(transaction.accepted):
            transaction.finish(target, reply, self.host)

    async def _stream_content(self, fd: int, size: int) -> None:
        """Send a large message piece by piece."""
        # The engine would hold every part until it is asked for them: it only gets to know that the content
        # is under way, and the parts go past it.
        self.engine.content(())
        self.engine.data_to_send()
        try:
            for part in stuff(_chunks(fd, size)):
                self.stream.write(part)
                try:
                    await self.stream.drain(self.timeouts.data_transfer)
                except TimeoutError:
                    raise self._timed_out("sending message body") from None
                except OSError:
                    raise self._lost("sending message body") from None
        finally:
            os.close(fd)

    async def _reset(self) -> None:
        """End the transaction, so that the next one may begin; a server that has said 421 hears no more."""
        if self.broken:
            return
        self.engine.rset()
        self._flush()
        await self._reply(self.timeouts.rcpt, "sending RSET")

    # ---- the end

    def say_goodbye(self) -> None:
        """Say QUIT and close, without waiting for the answer."""
        if not self.broken and not self.stream.closed:
            try:
                self.engine.quit()
                self._flush()
            except Exception:  # noqa: S110 - the connection is being given up
                pass
        self.stream.close()

    @property
    def usable(self) -> bool:
        """Whether another transaction can be tried: nothing is due, and the server has not said good-bye."""
        stream = self.stream
        return not self.broken and not stream.closed and not stream.readable and not self.engine.pending

    # ---- octets

    def _flush(self) -> None:
        parts = self.engine.data_to_send()
        if parts:
            self.stream.write(parts[0] if len(parts) == 1 else b"".join(parts))

    async def _reply(self, timeout: float, doing: str) -> Reply:
        """The reply to the oldest command. Raises `ConnectionLost`."""
        engine = self.engine
        while True:
            try:
                event = engine.next_event()
            except RemoteError as error:
                self.broken = True
                raise ConnectionLost(
                    "4.5.0", f"protocol error from {self.host} while {doing}: {error}"
                ) from None
            if isinstance(event, Response):
                if event.reply.code == 421:
                    self.broken = True
                return event.reply
            if event is not NEED_DATA:
                raise self._lost(doing)
            try:
                engine.receive_data(await self.stream.read(timeout))
            except TimeoutError:
                raise self._timed_out(doing) from None
            except OSError:
                raise self._lost(doing) from None

    def _lost(self, doing: str) -> ConnectionLost:
        self.broken = True
        return ConnectionLost("4.4.2", f"lost connection with {self.host} while {doing}")

    def _timed_out(self, doing: str) -> ConnectionLost:
        self.broken = True
        return ConnectionLost("4.4.2", f"conversation with {self.host} timed out while {doing}")


@dataclass(slots=True)
class _Transaction:
    """The state of one message on its way over a session."""

    session: Session
    request: Request
    connect: float
    results: list[Result] = field(default_factory=list)
    accepted: list[Target] = field(default_factory=list)
    go_ahead: bool = False
    sent_content: bool = False

    def add(self, target: Target, outcome: Outcome, reply: Reply | None = None) -> None:
        host = self.session.host
        bad = reply is not None and not reply.positive
        self.results.append(
            Result(
                target,
                outcome,
                host.relay,
                self.connect,
                self.session.uses,
                host.name if bad else "",
                f"smtp; {reply}" if bad else "",
            )
        )

    def finish(self, target: Target, reply: Reply, host: Host) -> None:
        """The reply to the dot is in."""
        outcome: Outcome
        if reply.positive:
            outcome = Sent(str(reply), reply.dsn, self.session.action)
        else:
            outcome = refusal(host, reply, "end of DATA")
        self.add(target, outcome, reply)

    def rest(self, outcome: Outcome, reply: Reply | None = None) -> None:
        """The same for every target that has no result yet."""
        done = {result.target.index for result in self.results}
        for target in self.request.targets:
            if target.index not in done:
                self.add(target, outcome, reply)


def refusal(host: Host, reply: Reply, command: str) -> Outcome:
    """A 4xx or 5xx reply as Postfix words it."""
    text = f"host {host} said: {reply} (in reply to {command} command)"
    return Bounced(text, reply.dsn) if reply.code >= 500 else Deferred(text, _transient(reply))


def _transient(reply: Reply) -> str:
    return reply.dsn if reply.dsn[0] == "4" else "4.0.0"


def _body(body: str) -> str:
    return "8BITMIME" if body == "8bitmime" else ""


def _chunks(fd: int, size: int) -> Iterator[bytes]:
    while size > 0:
        part = os.read(fd, min(CHUNK, size))
        if not part:
            raise OSError("the queue file has become shorter")
        size -= len(part)
        yield part


async def open_session(
    host: Host,
    mode: Mode,
    name: str,
    timeouts: Timeouts,
    now: Callable[[], float],
    *,
    tls: ssl.SSLContext | None = None,
    level: TLSLevel = TLSLevel.NONE,
    local_address: str | None = None,
    skip_5xx_greeting: bool = True,
) -> Session:
    """Connect to a host and say hello as `name`. Raises `SiteError`."""
    try:
        if host.port:
            stream = await connect(
                host.address, host.port, timeouts.connect or 120.0, local_address=local_address
            )
        else:
            stream = await connect_unix(host.address, timeouts.connect or 120.0)
    except TimeoutError:
        raise SiteError(
            Deferred(f"connect to {host.relay}: Connection timed out", "4.4.1"), unreachable=True
        ) from None
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise SiteError(Deferred(f"connect to {host.relay}: {reason}", "4.4.1"), unreachable=True) from None
    session = Session(host, stream, ClientConnection(mode), timeouts, now())
    try:
        await _greet(session, name, skip_5xx_greeting)
        if level is not TLSLevel.NONE and tls is not None:
            await _secure(session, name, tls, level)
    except ConnectionLost as lost:
        stream.abort()
        raise SiteError(Deferred(lost.text, lost.dsn), unreachable=True) from None
    except BaseException:
        stream.abort()
        raise
    return session


async def _greet(session: Session, name: str, skip_5xx: bool) -> None:
    host, timeouts = session.host, session.timeouts
    reply = await session._reply(timeouts.hello, "receiving the initial server greeting")
    if not reply.positive:
        text = f"host {host} refused to talk to me: {reply}"
        if reply.code >= 500 and not skip_5xx:
            raise SiteError(Bounced(text, reply.dsn))
        raise SiteError(Deferred(text, _transient(reply)))
    await _hello(session, name)


async def _hello(session: Session, name: str) -> None:
    engine, timeouts = session.engine, session.timeouts
    engine.hello(name)
    session._flush()
    reply = await session._reply(
        timeouts.hello, f"performing the {'L' if engine.mode is Mode.LMTP else 'E'}HLO handshake"
    )
    if reply.code >= 500 and engine.mode is Mode.SMTP:
        engine.hello(name, helo=True)
        session._flush()
        reply = await session._reply(timeouts.hello, "performing the HELO handshake")
    if not reply.positive:
        text = f"host {session.host} refused to talk to me: {reply}"
        raise SiteError(Deferred(text, _transient(reply)))
    words = reply.text.split(None, 1)
    session.greeted_as = words[0] if words else ""


async def _secure(session: Session, name: str, tls: ssl.SSLContext, level: TLSLevel) -> None:
    """STARTTLS where it is offered, or demanded."""
    engine, timeouts, host = session.engine, session.timeouts, session.host
    if "STARTTLS" not in engine.extensions:
        if level is not TLSLevel.MAY:
            raise SiteError(Deferred(f"TLS is required, but was not offered by host {host}", "4.7.4"))
        return
    engine.starttls()
    session._flush()
    reply = await session._reply(timeouts.starttls, "sending STARTTLS")
    if reply.code != 220:
        if level is TLSLevel.MAY:
            return
        raise SiteError(Deferred(f"TLS is required, but host {host} refused to start TLS: {reply}", "4.7.5"))
    try:
        await session.stream.start_tls(tls, timeouts.starttls, server_side=False, server_hostname=host.name)
    except ssl.SSLCertVerificationError as error:
        raise SiteError(
            Deferred(f"Server certificate not trusted: {error.verify_message}", "4.7.5")
        ) from None
    except (OSError, TimeoutError):
        raise SiteError(Deferred("Cannot start TLS: handshake failure", "4.7.5"), tls=True) from None
    engine.tls_started()
    await _hello(session, name)
