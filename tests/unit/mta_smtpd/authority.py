"""Authentication servers for tests: Dovecot's protocol and saslauthd's, each knowing zs/secret."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from mailstack.net.listen import Server, bind_unix
from mailstack.net.stream import Stream
from mailstack.net.tasks import TaskSet
from mailstack.wire import dovecot_auth, saslauthd
from mailstack.wire.sasl import Credentials, SASLError, ServerMechanism, server_mechanism

USER, PASSWORD = "zs@dgtlinux.com", "secret"


class Authority:
    """Counts what it was asked; `hang_up` breaks its connections."""

    def __init__(self) -> None:
        self.connections = 0
        self.requests: list[dovecot_auth.AuthRequest] = []
        self.streams: set[Stream] = set()

    def hang_up(self) -> None:
        for stream in self.streams:
            stream.abort()

    async def dovecot(self, stream: Stream) -> None:
        self.connections += 1
        self.streams.add(stream)
        connection = dovecot_auth.AuthServerConnection(
            dovecot_auth.PLAINTEXT_MECHANISMS, pid=1, connection=1, cookie="0" * 32
        )
        exchanges: dict[int, ServerMechanism] = {}
        while True:
            stream.write(connection.data_to_send())
            event = connection.next_event()
            match event:
                case dovecot_auth.AuthRequest():
                    self.requests.append(event)
                    exchanges[event.id] = server_mechanism(event.mech)
                    self._step(connection, exchanges, event.id, event.resp)
                case dovecot_auth.ContinueRequest():
                    self._step(connection, exchanges, event.id, event.data)
                case dovecot_auth.Cancelled():
                    exchanges.pop(event.id, None)
                case dovecot_auth.NEED_DATA:
                    connection.receive_data(await stream.read(30.0))
                case dovecot_auth.CLOSED:
                    return

    def _step(
        self,
        connection: dovecot_auth.AuthServerConnection,
        exchanges: dict[int, ServerMechanism],
        number: int,
        response: bytes | None,
    ) -> None:
        try:
            result = exchanges[number].step(response)
        except SASLError as error:
            connection.fail(number, reason=str(error))
            return
        if not isinstance(result, Credentials):
            connection.challenge(number, result.data)
        elif result.authcid == "slow":
            connection.fail(number, result.authcid, temp=True, reason="Internal login failure")
        elif (result.authcid, result.password) == (USER, PASSWORD):
            connection.ok(number, result.authcid)
        else:
            connection.fail(number, result.authcid)

    async def saslauthd(self, stream: Stream) -> None:
        self.connections += 1
        buffer = b""
        while (request := saslauthd.decode_request(buffer)) is None:
            buffer += await stream.read(30.0)
        good = (request.login, request.password) == (USER, PASSWORD)
        stream.write(saslauthd.encode_reply(good, "" if good else "wrong"))


@asynccontextmanager
async def answering(path: Path, kind: str) -> AsyncIterator[Authority]:
    """Serve `kind` (dovecot or saslauthd) on the unix socket `path` for the time of the block."""
    authority = Authority()
    tasks = TaskSet(lambda name, error: None)
    handler = authority.dovecot if kind == "dovecot" else authority.saslauthd
    server = Server(bind_unix(path), handler, tasks, name=kind)
    await server.start()
    try:
        yield authority
    finally:
        server.stop()
        authority.hang_up()
        await tasks.drain(0)
        await asyncio.sleep(0)
