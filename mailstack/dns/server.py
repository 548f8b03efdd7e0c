"""Sockets: UDP read in batches straight from the socket, TCP with pipelining and idle limits.

UDP bypasses the event loop's datagram transports: a readable socket is drained by up to `BATCH` datagrams,
each a dictionary look-up or two, which come and go many at a time (`mailstack.net.datagrams`). An answer that
the socket does not take at once is dropped, as the network might have done.

A TCP connection is served in the order that answers become ready (RFC 7766 §6.2.1.1); it is closed when it is
idle, when it has too much under way, and when its peer does not read.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator
from typing import cast

from mailstack.dns.crowd import Crowd, is_crowded
from mailstack.dns.message import FORMERR, HEADER, NOTIMP, SERVFAIL, error
from mailstack.dns.ready import IPV6, Ready
from mailstack.dns.responder import Responder
from mailstack.dns.results import Delayed, Pending, Transfer
from mailstack.dns.statistics import Seen
from mailstack.net.datagrams import COUNT, SLOT, Batch, batch_of
from mailstack.net.listen import BACKLOG, bind_tcp
from mailstack.net.log import Log
from mailstack.net.tasks import TaskSet

BATCH = 64
"""Datagrams read before other events get their turn."""
CROWDED_BATCHES = 16
"""Batches of datagrams in one go while more come than can be answered; most of them are dropped."""
RECEIVE_BUFFER = 4 * 1024 * 1024
"""Octets that the kernel holds for a UDP socket while the process is busy, as far as it lets us."""
PIPELINE_LIMIT = 100
"""Answers under way on one connection before reading stops."""
TASK_LIMIT = 2000
"""Answers under way, over all clients, beside those that wait for forwarders; more are dropped."""
PREFERRED_TCP_WRITE = 256 * 1024
TURN_MESSAGES, TURN_OCTETS = 64, 32 * 1024
"""Messages of one connection that are read, and octets of answers to them that are written, before others get
their turn, and before it is known whether the client takes them."""
TELL_AGAIN = 60.0
"""Seconds between two lines of the log about too many connections."""
_KEEPALIVE = b"\0\x0b\0\0"
"""The option, as it stands in a query. Whoever has these octets elsewhere may be idle as long."""


class DnsServer:
    """The sockets of one process. `responder` may be replaced at any time (reload)."""

    def __init__(self, responder: Responder, log: Log) -> None:
        self.responder = responder
        self.log = log
        self.tasks = TaskSet(lambda name, fault: log.exception(name, fault))
        self.connections: dict[TcpConnection, None] = {}
        """In the order of their last message."""
        self._told = -TELL_AGAIN
        self._udp: dict[tuple[str, int], UdpSocket] = {}
        self._tcp: dict[tuple[str, int], asyncio.Server] = {}

    @property
    def bound(self) -> list[tuple[str, int]]:
        """Addresses and ports in use."""
        return list(self._udp)

    @property
    def task_limit(self) -> int:
        """Answers that may be under way."""
        return TASK_LIMIT + self.responder.options.resolving.recursive_clients

    async def listen(self, host: str, port: int) -> tuple[str, int]:
        """Answer on an address; port 0 picks one that is free for both transports. Raises `OSError`."""
        listener, datagrams = _bind(host, port)
        actual = (host, listener.getsockname()[1])
        loop = asyncio.get_running_loop()
        self._udp[actual] = UdpSocket(self, datagrams)
        backlog = self.responder.options.tcp_listen_queue or BACKLOG
        self._tcp[actual] = await loop.create_server(
            lambda: TcpConnection(self), sock=listener, backlog=backlog
        )
        return actual

    def forget(self, address: tuple[str, int]) -> None:
        """Answer there no more; connections go on."""
        self._udp.pop(address).close()
        self._tcp.pop(address).close()

    def replace(self, responder: Responder) -> None:
        """Answer from another configuration from the next question on; go on counting."""
        responder.statistics.take_over(self.responder.count())
        self.responder = responder
        for udp in self._udp.values():
            udp.refresh()

    def admit(self, new: TcpConnection) -> bool:
        """Whether there is room for another connection.

        Beyond `tcp-clients`, the one that has been idle for the longest time makes room (RFC 7766 §6.2.3):
        who holds connections and asks nothing keeps nobody out.
        """
        limit = self.responder.options.tcp_clients
        if len(self.connections) >= limit:
            now = asyncio.get_running_loop().time()
            if now - self._told >= TELL_AGAIN:
                self._told = now
                self.log.category("client").warning(f"more TCP connections than tcp-clients ({limit})")
            idle = next((one for one in self.connections if one.idle), None)
            if idle is None:
                return False
            del self.connections[idle]
            idle.abort()
        self.connections[new] = None
        return True

    async def close(self, grace: float) -> None:
        """Stop listening, let what is under way end for up to `grace` seconds, close connections."""
        for address in list(self._udp):
            self.forget(address)
        await self.tasks.drain(grace)
        for connection in list(self.connections):
            connection.abort()


def _bind(host: str, port: int) -> tuple[socket.socket, socket.socket]:
    """A TCP listener and a UDP socket on the same address and port."""
    last: OSError | None = None
    for _ in range(20 if port == 0 else 1):
        listener = bind_tcp(host, port)
        chosen = listener.getsockname()[1]
        datagrams = socket.socket(listener.family, socket.SOCK_DGRAM)
        try:
            datagrams.setblocking(False)
            datagrams.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
            if listener.family == socket.AF_INET6:
                datagrams.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            datagrams.bind((host, chosen))
        except OSError as failure:
            listener.close()
            datagrams.close()
            last = OSError(failure.errno, f"bind {host} port {chosen}: {failure.strerror}")
        else:
            return listener, datagrams
    assert last is not None
    raise last


class UdpSocket:
    """One UDP socket in the event loop."""

    def __init__(self, server: DnsServer, sock: socket.socket) -> None:
        self._server = server
        self._sock = sock
        self._local = str(sock.getsockname()[0])
        self._one = IPV6 if ":" in self._local else 1
        self._shared: dict[bytes, bytes] | None = None
        self._seen: Seen = {}
        self._direct: Callable[[bytes, Seen], bytes | None]
        self._ready: dict[bytes, Ready] | None = None
        self._now: Callable[[], int]
        self._at_once: Callable[..., bytes | None]
        self._batch = batch_of(sock)
        self._crowd: Crowd | None = None
        """There, while more questions come than can be answered."""
        self._peer = ("", 0)
        """Who has sent what is being answered, where datagrams come one by one."""
        self.refresh()
        asyncio.get_running_loop().add_reader(sock.fileno(), self._readable)

    def refresh(self) -> None:
        """The server's responder has been replaced."""
        self._shared = self._server.responder.shared
        self._seen = self._server.responder.seen(self._local)
        self._direct = self._server.responder.direct[False].answer
        self._ready = self._server.responder.ready
        self._now = self._server.responder.now
        self._at_once = self._answer if self._ready is None else self._answer_ready

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._sock.fileno())
        self._sock.close()

    def _readable(self) -> None:
        if self._batch is not None:
            if self._crowd is not None:
                self._sift(self._batch, self._crowd)
            elif self._batch.exchange(self._at_once) == COUNT and is_crowded(self._sock):
                self._crowd = Crowd()
            return
        try:
            for _ in range(BATCH):
                data, self._peer = self._sock.recvfrom(SLOT)
                answer = self._at_once(data)
                if answer is not None:
                    self._sock.sendto(answer, self._peer)
        except OSError:
            return  # nothing more to read, or the send buffer is full

    def _sift(self, batch: Batch, crowd: Crowd) -> None:
        """Read what waits, and answer everybody a little, until nothing waits any more."""

        def answer(data: bytes, index: int) -> bytes | None:
            is_query = len(data) >= HEADER.size and not data[2] & 0x80
            reply = self._at_once(data, index) if is_query else None
            if not is_query or (reply is not None and reply[3] & 0xF in (FORMERR, NOTIMP)):
                crowd.blame(batch.sender(index))
            return reply

        for _ in range(CROWDED_BATCHES):
            if batch.exchange(answer, crowd.chosen) < COUNT:
                self._crowd = None
                return

    def _answer_ready(self, data: bytes, index: int = -1) -> bytes | None:
        """The same where forwarders have a cache that all clients may use."""
        ready = self._ready.get(data[2:]) if self._ready is not None else None
        if ready is not None:
            tail = ready.take(self._now())
            if tail is not None:
                ready.hits += self._one
                return data[:2] + tail
        return self._answer(data, index)

    def _answer(self, data: bytes, index: int = -1) -> bytes | None:
        """The answer to a datagram (of the batch, with its number there), if there is one at once."""
        shared = self._shared
        if shared is not None:
            tail = shared.get(data[2:])
            if tail is not None:
                self._seen[tail] += 1
                return data[:2] + tail
            answer = self._direct(data, self._seen)
            if answer is not None:
                return answer
        peer = self._peer if self._batch is None else self._batch.peer(index)
        server = self._server
        result = server.responder.respond(data, peer[0], peer[1], tcp=False, local=self._local)
        if isinstance(result, bytes):
            return result
        if isinstance(result, Pending) and len(server.tasks) < server.task_limit:
            server.tasks.start(self._complete(server.responder, result, peer), "forward")
        elif isinstance(result, Delayed) and len(server.tasks) < server.task_limit:
            server.tasks.start(self._delay(result, peer), "delay")
        return None

    async def _complete(self, responder: Responder, pending: Pending, peer: tuple[str, int]) -> None:
        self._send(await responder.complete(pending, peer[1]), peer)

    async def _delay(self, answer: Delayed, peer: tuple[str, int]) -> None:
        await asyncio.sleep(answer.seconds)
        self._send(answer.wire, peer)

    def _send(self, data: bytes, peer: tuple[str, int]) -> None:
        try:
            self._sock.sendto(data, peer)
        except OSError:
            pass


class TcpConnection(asyncio.Protocol):
    """One connection: messages of two octets of length and that many octets (RFC 1035 §4.2.2)."""

    def __init__(self, server: DnsServer) -> None:
        self._server = server
        self._transport: asyncio.Transport | None = None
        self._buffer = b""
        self._position = 0
        """How much of it has been answered."""
        self._peer = ("", 0)
        self._local = ""
        self._underway = 0
        self._blocked = False
        self._eof = False
        self._timer: asyncio.TimerHandle | None = None
        self._kept = False
        """The client has asked for keepalive (RFC 7828)."""
        self._waiting = False
        """It is the turn of others, before what has been read is answered."""
        self._transfers: list[Iterator[bytes]] = []

    # ---- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=PREFERRED_TCP_WRITE)
        options = self._server.responder.options
        peer = transport.get_extra_info("peername")
        if peer is None or not self._server.admit(self):
            self._transport.abort()
            return
        self._peer = (str(peer[0]), int(peer[1]))
        self._local = str(transport.get_extra_info("sockname")[0])
        self._restart_timer(options.tcp_initial_timeout)

    def data_received(self, data: bytes) -> None:
        self._buffer = self._buffer[self._position :] + data if self._buffer else data
        self._position = 0
        self._work()

    def eof_received(self) -> bool:
        self._eof = True
        self._close_when_done()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.connections.pop(self, None)
        self._transport = None
        self._transfers.clear()
        if self._timer is not None:
            self._timer.cancel()

    def pause_writing(self) -> None:
        self._blocked = True
        self._flow()

    def resume_writing(self) -> None:
        self._blocked = False
        self._continue_transfer()
        self._flow()
        self._work()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    # ---- messages

    def _work(self) -> None:
        """Answer the complete messages in the buffer, as far as the connection's limits let it."""
        if self._transport is None or self._waiting:
            return
        buffer, begun = self._buffer, self._position
        position = begun
        answers: list[bytes] = []
        octets = messages = 0
        while not self._busy() and len(buffer) - position >= 2:
            end = position + 2 + int.from_bytes(buffer[position : position + 2], "big")
            if len(buffer) < end:
                break
            if messages == TURN_MESSAGES or octets > TURN_OCTETS:
                self._waiting = True
                asyncio.get_running_loop().call_soon(self._go_on)
                break
            messages += 1
            answer = self._respond(buffer[position + 2 : end])
            if answer is not None:
                octets += len(answer)
                answers.append(len(answer).to_bytes(2, "big"))
                answers.append(answer)
            position = end
        if position > begun:
            self._buffer, self._position = (buffer, position) if position < len(buffer) else (b"", 0)
            if not self._kept and buffer.find(_KEEPALIVE, begun, position) >= 0:
                self._kept = True
            if answers:
                self._transport.write(b"".join(answers))
            connections = self._server.connections
            if len(connections) > 1 and self in connections:
                connections[self] = connections.pop(self)
            self._restart_timer(self._idle_timeout)
        self._flow()
        self._close_when_done()

    def _go_on(self) -> None:
        """It is this connection's turn again."""
        self._waiting = False
        self._work()

    def _respond(self, data: bytes) -> bytes | None:
        server = self._server
        host, port = self._peer
        result = server.responder.respond(data, host, port, tcp=True, local=self._local)
        if isinstance(result, Pending):
            if len(server.tasks) >= server.task_limit:
                return error(data, SERVFAIL)
            self._underway += 1
            server.tasks.start(self._complete(server.responder, result), "forward")
            return None
        if isinstance(result, Delayed):
            if len(server.tasks) >= server.task_limit:
                return result.wire
            self._underway += 1
            server.tasks.start(self._delay(result), "delay")
            return None
        if isinstance(result, Transfer):
            self._transfers.append(result.messages)
            asyncio.get_running_loop().call_soon(self._continue_transfer)
            return None
        return result

    async def _complete(self, responder: Responder, pending: Pending) -> None:
        try:
            self._send(await responder.complete(pending, self._peer[1]))
        finally:
            self._underway -= 1
            self._work()

    async def _delay(self, answer: Delayed) -> None:
        try:
            await asyncio.sleep(answer.seconds)
            self._send(answer.wire)
        finally:
            self._underway -= 1
            self._work()

    def _continue_transfer(self) -> None:
        """Send a transfer's messages while the peer takes them."""
        while self._transfers and not self._blocked and self._transport is not None:
            message = next(self._transfers[0], None)
            if message is None:
                self._transfers.pop(0)
            else:
                self._send(message)
                self._restart_timer(self._idle_timeout)
        if not self._transfers and self._buffer:
            self._work()
        self._flow()  # or nobody would hear that the client has closed the connection
        self._close_when_done()

    def _send(self, message: bytes) -> None:
        if self._transport is not None:
            self._transport.write(len(message).to_bytes(2, "big") + message)

    # ---- limits

    @property
    def idle(self) -> bool:
        """Nothing is under way for the client, or it does not read what it gets."""
        return not self._waiting and not self._underway and (not self._transfers or self._blocked)

    def _busy(self) -> bool:
        return self._blocked or self._underway >= PIPELINE_LIMIT or bool(self._transfers)

    def _flow(self) -> None:
        """Read only while there is room for another answer."""
        if self._transport is None or self._transport.is_closing():
            return
        if self._waiting or self._busy():
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    def _close_when_done(self) -> None:
        if (
            self._eof
            and not (self._underway or self._transfers or self._waiting)
            and self._transport is not None
        ):
            self._transport.close()

    @property
    def _idle_timeout(self) -> float:
        options = self._server.responder.options
        return options.tcp_keepalive_timeout if self._kept else options.tcp_idle_timeout

    def _restart_timer(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(seconds, self._expired)

    def _expired(self) -> None:
        if self._transport is None:
            return
        if self._underway and not self._blocked:
            self._restart_timer(self._idle_timeout)
        else:
            self._transport.abort()
