"""One connection to an SMTP or LMTP server, and transactions over it (RFC 5321, RFC 2033).

`opening.open_session` makes it; `Session.send` is one transaction and says per recipient what became of it. A
`SiteError` means that this host cannot be used (now, or for good): the owner may try another. Every wait has
the deadline that main.cf names for it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from mailstack.mta.deliver.pieces import CHUNK, chunks, fold, forwarded
from mailstack.mta.deliver.request import Bounced, Deferred, Outcome, Request, Result, Sent, Target
from mailstack.mta.dsn import original_recipient
from mailstack.net.stream import Stream
from mailstack.storage.queue import Message, Queue
from mailstack.wire.smtp import NEED_DATA, ClientConnection, Mode, RemoteError, Reply, Response
from mailstack.wire.smtp.content import stuff

Convert = Callable[[Iterable[bytes]], Iterator[bytes]]


class Facts(NamedTuple):
    """What the DNS has said of a host: names in lower case, without a final dot."""

    asked: str
    """The name that was looked up,"""
    name: str
    """and the one that has the address, aliases followed."""
    secure: bool
    """DNSSEC has validated the address,"""
    domain: str
    """The domain whose exchanger it is; empty: it was named itself."""
    domain_name: str
    """The same, aliases followed."""
    domain_secure: bool
    """and the MX record."""


@dataclass(frozen=True, slots=True)
class Host:
    """Where to connect: `name[address]:port`. With `port` 0 the address is a unix socket's path."""

    name: str
    address: str
    port: int
    facts: Facts | None = field(default=None, compare=False)
    """Where they matter."""

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
    reset: float = 20.0
    quit: float = 300.0
    xforward: float = 300.0
    data_rate: int = 0
    """Octets per second that content has to make, each deadline being that of a whole request and its reply
    (smtp_per_request_deadline); 0: each is one of silence."""


class SiteError(Exception):
    """This host cannot be used. `outcome` is what it means for every recipient left."""

    def __init__(
        self,
        outcome: Outcome,
        *,
        unreachable: bool = False,
        tls: bool = False,
        session: Session | None = None,
        reply: Reply | None = None,
    ) -> None:
        super().__init__(outcome.text)
        self.outcome = outcome
        self.unreachable = unreachable
        """There was no connection."""
        self.tls = tls
        """The handshake failed, or the connection broke in TLS: plain text may work where it is allowed."""
        self.session = session
        """The connection, where it can still be closed with QUIT."""
        self.reply = reply
        """What the host said."""
        self.harmless = False
        """It does not count against the destination."""


class ConnectionLost(Exception):  # noqa: N818 - a condition
    """The connection broke during a transaction; `doing` says where."""

    def __init__(self, dsn: str, text: str) -> None:
        super().__init__(text)
        self.dsn = dsn
        self.text = text


@dataclass(slots=True)
class Transcript:
    """What was said: commands, in CRLF, and the lines of replies, without."""

    lines: list[bytes] = field(default_factory=list)
    wrong: bool = False
    """The server has not understood us, or the other way round (RFC 5321 §4.2.1: x0z)."""

    def said(self, parts: Sequence[bytes]) -> None:
        """Commands; content and what logs in are left out."""
        for line in b"".join(parts).split(b"\r\n")[:-1]:
            verb = line.split(b" ")[0].upper()
            if verb == b"AUTH":
                self.lines.append(b" ".join(line.split(b" ")[:2]) + b"\r\n")
            elif verb in _VERBS:
                self.lines.append(line + b"\r\n")

    def heard(self, reply: Reply) -> None:
        self.lines += reply.encode().rstrip().split(b"\r\n")
        self.wrong = self.wrong or reply.code == 555 or 500 <= reply.code < 510


_VERBS = frozenset((
    b"BDAT", b"DATA", b"EHLO", b"HELO", b"LHLO", b"MAIL", b"QUIT", b"RCPT", b"RSET", b"STARTTLS", b"XFORWARD",
))  # fmt: skip


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
    secured: bool = False
    """A TLS handshake has succeeded."""
    severed: bool = False
    """It broke, or the server fell silent, which it did not say."""
    greeted_as: str = ""
    """The name that the server gave in its reply to EHLO."""
    verified: bool = False
    """The server's certificate is the one that the TLS policy asks for."""
    line_limit: int = 0
    """Octets of a line of content, without its CRLF; longer ones are folded. 0: any."""
    xforward: tuple[str, ...] = ()
    """The XFORWARD attributes that the server is told."""
    wait_for_goodbye: bool = False
    """The reply to QUIT is waited for (smtp_skip_quit_response = no)."""
    kept: bool = True
    """It may be put aside for another delivery."""
    dummy_auth: bool = False
    """MAIL FROM says AUTH=<>."""
    final: bool = False
    """Delivered is what this server has taken (lmtp_assume_final)."""
    history: Transcript | None = None
    """What was said, for the postmaster."""

    @property
    def action(self) -> str:
        """What a sender who wants to know is told of a delivery: nothing where the server will tell him."""
        if "DSN" in self.engine.extensions:
            return ""
        return "delivered" if self.final else "relayed"

    # ---- one transaction

    async def send(self, request: Request, queue: Queue, *, connect: float) -> list[Result]:
        """Send the message to every target. Raises `ConnectionLost` only when nobody has a result yet."""
        self.uses += 1
        envelope = request.message.envelope
        engine = self.engine
        if self.xforward:
            await self._forward_client(request.message)
        sender = request.sender if request.sender is not None else envelope.sender
        engine.mail(
            sender,
            size=envelope.size,
            body=_body(envelope.body),
            smtputf8=envelope.smtputf8 and "SMTPUTF8" in engine.extensions,
            ret=envelope.ret,
            envid=envelope.envid,
            auth="<>" if self.dummy_auth else "",
        )
        transaction = _Transaction(self, request, connect)
        content = self._small_content(request.message, queue) if request.convert is None else None
        try:
            if engine.pipelining:
                for target in request.targets:
                    self._rcpt(request.message, target)
                if content is None:
                    engine.data()
                else:
                    if request.message.acceptance is not None:
                        await request.message.ours()
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

    async def _forward_client(self, message: Message) -> None:
        """Tell the server whose message it is, as Postfix does, in two commands (XFORWARD_README)."""
        for line in forwarded(message, self.xforward):
            self.engine.xforward(line)
            await self.converse(self.timeouts.xforward, "sending XFORWARD")

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
        return self._folded(queue.read_content(message)) if message.envelope.size <= CHUNK else None

    def _folded(self, content: bytes) -> bytes:
        limit = self.line_limit
        if not limit or len(content) <= limit or max(map(len, content.split(b"\n"))) <= limit + 1:
            return content
        return b"".join(fold((content,), limit))

    async def _envelope(self, transaction: _Transaction, *, in_chunk: bool) -> None:
        engine, timeouts, host = self.engine, self.timeouts, self.host
        pipelined = engine.pipelining
        if not pipelined:
            self._flush()
        reply = await self._reply(timeouts.mail, "sending MAIL FROM")
        if reply.code == 421:
            # Said to the connection rather than to the message (RFC 5321 §3.8): a new one may do.
            raise ConnectionLost(refusal_status(reply), refusal(host, reply, "MAIL FROM").text)
        refused = None if reply.positive else refusal(host, reply, "MAIL FROM")
        if refused is not None:
            transaction.rest(refused, reply)
            if not pipelined:
                await self._reset()
                return
        for target in transaction.request.targets:
            if not pipelined:
                self._rcpt(transaction.request.message, target)
                self._flush()
            reply = await self._reply(timeouts.rcpt, "sending RCPT TO")
            if reply.code == 421:
                raise ConnectionLost(refusal_status(reply), refusal(host, reply, "RCPT TO").text)
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
        if message.acceptance is not None:
            await message.ours()
        transaction.sent_content = True
        if request.convert is not None:
            await self._stream_content(queue.open_content(message), message.envelope.size, request.convert)
        elif message.content is not None or message.envelope.size <= CHUNK:
            engine.content((self._folded(queue.read_content(message)),))
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

    async def _stream_content(self, fd: int, size: int, convert: Convert | None = None) -> None:
        """Send a large message piece by piece."""
        # The engine would hold every part until it is asked for them: it only gets to know that the content
        # is under way, and the parts go past it.
        self.engine.content(())
        self.engine.data_to_send()
        try:
            parts: Iterator[bytes] = chunks(fd, size)
            if convert is not None:
                parts = convert(parts)
            if self.line_limit:
                parts = fold(parts, self.line_limit)
            # Each octet that the server takes buys time, where there is a least rate.
            rate, budget = self.timeouts.data_rate, self.timeouts.data_transfer
            for part in stuff(parts):
                self.stream.write(part)
                begun = self.now() if rate else 0.0
                try:
                    await self.stream.drain(budget)
                    if rate:
                        budget += len(part) / rate - (self.now() - begun)
                        if budget <= 0.0:
                            raise TimeoutError
                        budget = min(budget, self.timeouts.data_transfer)
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
        await self.converse(self.timeouts.reset, "sending RSET")

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

    async def leave(self) -> None:
        """Say QUIT, wait for the answer where that is wanted, and close."""
        if self.wait_for_goodbye and not self.broken and not self.stream.closed and not self.engine.pending:
            try:
                self.engine.quit()
                await self.converse(self.timeouts.quit, "sending QUIT command")
            except ConnectionLost:
                pass
            self.stream.close()
        else:
            self.say_goodbye()

    @property
    def usable(self) -> bool:
        """Whether another transaction can be tried: nothing is due, and the server has not said good-bye."""
        stream = self.stream
        return not self.broken and not stream.closed and not stream.readable and not self.engine.pending

    # ---- octets

    def now(self) -> float:
        """Of the event loop, as deadlines are."""
        return asyncio.get_running_loop().time()

    async def converse(self, timeout: float, doing: str) -> Reply:
        """Send what is queued, and take the next reply. Raises `ConnectionLost`."""
        self._flush()
        return await self._reply(timeout, doing)

    def _flush(self) -> None:
        parts = self.engine.data_to_send()
        if parts:
            self.stream.write(parts[0] if len(parts) == 1 else b"".join(parts))
            if self.history is not None:
                self.history.said(parts)

    async def _reply(self, timeout: float, doing: str) -> Reply:
        """The reply to the oldest command. Raises `ConnectionLost`."""
        engine = self.engine
        end = self.now() + timeout if self.timeouts.data_rate else 0.0
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
                if self.history is not None:
                    self.history.heard(event.reply)
                return event.reply
            if event is not NEED_DATA:
                raise self._lost(doing)
            try:
                engine.receive_data(await self.stream.read(max(0.0, end - self.now()) if end else timeout))
            except TimeoutError:
                raise self._timed_out(doing) from None
            except OSError:
                raise self._lost(doing) from None

    def _lost(self, doing: str) -> ConnectionLost:
        self.broken = self.severed = True
        return ConnectionLost("4.4.2", f"lost connection with {self.host} while {doing}")

    def _timed_out(self, doing: str) -> ConnectionLost:
        self.broken = self.severed = True
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
                f"smtp; {said(reply)}" if bad and reply is not None else "",
            )
        )

    def finish(self, target: Target, reply: Reply, host: Host) -> None:
        """The reply to the dot is in."""
        outcome: Outcome
        if reply.positive:
            outcome = Sent(said(reply), reply.dsn, self.session.action)
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
    text = f"host {host} said: {said(reply)} (in reply to {command} command)"
    return Bounced(text, reply.dsn) if reply.code >= 500 else Deferred(text, refusal_status(reply))


def said(reply: Reply) -> str:
    """A reply as Postfix quotes it: on one line, every line with its codes."""
    if "\n" not in reply.text:
        return str(reply)
    return reply.encode().decode().rstrip().replace("\r\n", " ")


def refusal_status(reply: Reply) -> str:
    """The status of a refusal that is taken for a temporary one."""
    return "4" + reply.dsn[1:]


def _body(body: str) -> str:
    return "8BITMIME" if body == "8bitmime" else ""
