"""Who a client is: SASL for smtpd, by the Dovecot authentication protocol or by saslauthd.

`smtpd_sasl_type = dovecot` hands each step to an authentication server over one connection per process, made
anew when it breaks. `cyrus` runs PLAIN and LOGIN here and asks saslauthd about the password, one connection
per question. Passwords never reach a log line.

Every wait has a deadline: `TIMEOUT` seconds. What goes wrong there is a temporary failure, never a success.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from mailstack.config.errors import ConfigError
from mailstack.config.postfix.main_cf import MainCf
from mailstack.config.sasl_conf import SaslConf, read_sasl_conf
from mailstack.net.log import Log
from mailstack.net.stream import Stream, connect, connect_unix
from mailstack.net.tasks import TaskSet, apart
from mailstack.wire import dovecot_auth, saslauthd
from mailstack.wire.sasl import MECHANISMS, Credentials, SASLError, server_mechanism
from mailstack.wire.sasl import Challenge as MechanismChallenge

TIMEOUT = 30.0
CONNECT_TIMEOUT = 2.0
RETRY_AFTER = 0.02
"""Seconds during which a server that could not be reached is not tried again."""


@dataclass(frozen=True, slots=True)
class Challenge:
    """The server asks for more."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Success:
    """The client is `user`."""

    user: str


@dataclass(frozen=True, slots=True)
class Failure:
    """It is not; with `temporary`, nobody could say. `user` is what it claimed, `""` when that is unknown."""

    reason: str
    temporary: bool = False
    user: str = ""


Outcome = Challenge | Success | Failure
HUNG_UP = Failure("Connection lost to authentication server", temporary=True)


@dataclass(frozen=True, slots=True)
class Peer:
    """The connection, as the authentication server wants to know it."""

    remote: str
    local: str
    secured: bool


class Exchange(Protocol):
    """One AUTH command's dialogue."""

    async def step(self, response: bytes | None) -> Outcome:
        """Take the client's response (None: no initial response) and answer. Raises nothing."""
        ...

    def cancel(self) -> None:
        """The client has given up."""
        ...


class Authenticator(Protocol):
    """Where exchanges come from; one per worker and configuration."""

    async def mechanisms(self) -> tuple[str, ...]:
        """Mechanisms on offer (upper case); none while the server cannot be reached."""
        ...

    def begin(self, mechanism: str, peer: Peer) -> Exchange: ...

    async def close(self) -> None: ...


def make_authenticator(conf: MainCf, config_dir: Path, log: Log) -> Authenticator:
    """The authenticator that main.cf asks for. Raises `ConfigError`."""
    path = conf.str("smtpd_sasl_path")
    service = conf.str("smtpd_sasl_service")
    if conf.str("smtpd_sasl_type") == "dovecot":
        if not path.startswith("inet:") and not path.startswith("/"):
            path = os.path.join(conf.str("queue_directory"), path)
        return DovecotAuthenticator(path, service, log)
    folder = conf.str("cyrus_sasl_config_path")
    folders = folder.split(":") if folder else ["/etc/postfix/sasl", "/usr/lib/sasl2"]
    candidates = [Path(config_dir, name, f"{path}.conf") for name in folders]
    found = next((candidate for candidate in candidates if candidate.is_file()), candidates[0])
    sasl_conf = read_sasl_conf(found)
    for warning in sasl_conf.warnings:
        log.warning(warning)
    unsupported = [name for name in sasl_conf.mech_list if name not in MECHANISMS]
    if unsupported and len(unsupported) == len(sasl_conf.mech_list):
        raise ConfigError(found, 0, f"mech_list: none of {' '.join(unsupported)} is supported")
    return SaslauthdAuthenticator(sasl_conf, service, conf.str("smtpd_sasl_local_domain"), log)


# ---- Dovecot


class DovecotAuthenticator:
    """A client of the authentication server at `path` (a unix socket, or `inet:host:port`)."""

    def __init__(self, path: str, service: str, log: Log) -> None:
        self.path = path
        self.service = service
        self._log = log
        self._tasks = TaskSet(lambda name, error: log.exception(name, error))
        self._connecting = asyncio.Lock()
        self._stream: Stream | None = None
        self._connection: dovecot_auth.AuthClientConnection | None = None
        self._mechanisms: tuple[str, ...] = ()
        self._waiting: dict[int, asyncio.Future[Outcome]] = {}
        self._retry_at = 0.0

    async def mechanisms(self) -> tuple[str, ...]:
        await self._connect()
        return self._mechanisms

    def begin(self, mechanism: str, peer: Peer) -> Exchange:
        return _DovecotExchange(self, mechanism, peer)

    async def close(self) -> None:
        if self._stream is not None:
            self._stream.close()
        await self._tasks.drain(0)

    async def _connect(self) -> bool:
        """Have a connection whose handshake is over; False when there is none to be had."""
        return self._connected() or await apart(self._make_connection())

    async def _make_connection(self) -> bool:
        async with self._connecting:
            loop = asyncio.get_running_loop()
            if self._connected():
                return True
            if loop.time() < self._retry_at:
                return False
            try:
                async with asyncio.timeout(CONNECT_TIMEOUT):
                    await self._open()
            except (OSError, TimeoutError, ValueError, dovecot_auth.AuthProtocolError) as error:
                self._retry_at = loop.time() + RETRY_AFTER
                self._log.warning(f"SASL: Connect to {self.path} failed: {str(error) or 'timed out'}")
                return False
        return True

    def _connected(self) -> bool:
        return self._connection is not None

    async def _open(self) -> None:
        if self.path.startswith("inet:"):
            host, _, port = self.path[5:].rpartition(":")
            stream = await connect(host.strip("[]") or "127.0.0.1", int(port), CONNECT_TIMEOUT)
        else:
            stream = await connect_unix(self.path, CONNECT_TIMEOUT)
        connection = dovecot_auth.AuthClientConnection(os.getpid())
        try:
            stream.write(connection.data_to_send())
            while not isinstance(event := connection.next_event(), dovecot_auth.Handshake):
                if event is dovecot_auth.CLOSED:
                    raise ConnectionResetError("it hung up")
                connection.receive_data(await stream.read(CONNECT_TIMEOUT))
        except BaseException:
            stream.abort()
            raise
        self._stream, self._connection, self._mechanisms = stream, connection, event.mechs
        self._tasks.start(self._listen(stream, connection), "SASL connection")

    async def _listen(self, stream: Stream, connection: dovecot_auth.AuthClientConnection) -> None:
        """Hand answers to whoever waits for them, until the connection breaks."""
        try:
            while True:
                event = connection.next_event()
                if event is dovecot_auth.CLOSED:
                    break
                if event is dovecot_auth.NEED_DATA:
                    try:
                        data = await stream.read(3600.0)
                    except TimeoutError:
                        continue
                    connection.receive_data(data)
                elif isinstance(event, (dovecot_auth.Continue, dovecot_auth.Ok, dovecot_auth.Fail)):
                    waiter = self._waiting.pop(event.id, None)
                    if waiter is not None and not waiter.done():
                        waiter.set_result(_outcome(event))
        except dovecot_auth.AuthProtocolError as error:
            self._log.warning(f"SASL: {self.path}: {error}")
        finally:
            self._connection = None
            stream.close()
            for waiter in self._waiting.values():
                if not waiter.done():
                    waiter.set_result(HUNG_UP)
            self._waiting.clear()

    async def ask(
        self, exchange_id: int, mechanism: str, peer: Peer, response: bytes | None
    ) -> tuple[int, Outcome]:
        """One step of an exchange (`exchange_id` 0: its first)."""
        if not exchange_id and not await self._connect():
            return 0, HUNG_UP
        connection, stream = self._connection, self._stream
        if connection is None or stream is None:
            return 0, HUNG_UP
        if exchange_id:
            connection.cont(exchange_id, response or b"")
        else:
            params: dict[str, str | None] = {"nologin": None, "lip": peer.local, "rip": peer.remote}
            if peer.secured:
                params["secured"] = None
            exchange_id = connection.authenticate(mechanism, self.service, params, response)
        waiter: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._waiting[exchange_id] = waiter
        stream.write(connection.data_to_send())
        try:
            await asyncio.wait((waiter,), timeout=TIMEOUT)
            if waiter.done():
                return exchange_id, waiter.result()
            return exchange_id, Failure("the authentication server is silent", temporary=True)
        finally:
            self._waiting.pop(exchange_id, None)

    def give_up(self, exchange_id: int) -> None:
        """Tell the server that an exchange is over."""
        if exchange_id and self._connection is not None and self._stream is not None:
            self._connection.cancel(exchange_id)
            self._stream.write(self._connection.data_to_send())


def _outcome(event: dovecot_auth.Continue | dovecot_auth.Ok | dovecot_auth.Fail) -> Outcome:
    match event:
        case dovecot_auth.Continue():
            return Challenge(event.data)
        case dovecot_auth.Ok():
            return Success(event.user)
        case dovecot_auth.Fail():
            return Failure(event.reason or "(reason unavailable)", event.temp, event.user)


class _DovecotExchange:
    def __init__(self, owner: DovecotAuthenticator, mechanism: str, peer: Peer) -> None:
        self._owner = owner
        self._mechanism = mechanism
        self._peer = peer
        self._id = 0

    async def step(self, response: bytes | None) -> Outcome:
        first = not self._id
        self._id, outcome = await self._owner.ask(self._id, self._mechanism, self._peer, response)
        if first and outcome is HUNG_UP:
            # The server has been restarted since the last client: a new connection, once.
            self._id, outcome = await self._owner.ask(0, self._mechanism, self._peer, response)
        return outcome

    def cancel(self) -> None:
        self._owner.give_up(self._id)


# ---- Cyrus with saslauthd


class SaslauthdAuthenticator:
    """PLAIN and LOGIN checked by saslauthd."""

    def __init__(self, conf: SaslConf, service: str, realm: str, log: Log) -> None:
        wanted = conf.mech_list or MECHANISMS
        self._mechanisms = tuple(name for name in wanted if name in MECHANISMS)
        self._path = conf.saslauthd_path
        self._service = service
        self._realm = realm
        self._log = log

    async def mechanisms(self) -> tuple[str, ...]:
        return self._mechanisms

    def begin(self, mechanism: str, peer: Peer) -> Exchange:
        return _SaslauthdExchange(self, mechanism)

    async def close(self) -> None:
        pass

    async def check(self, credentials: Credentials) -> Outcome:
        """Ask saslauthd."""
        user = credentials.authcid
        if credentials.authzid and credentials.authzid != user:
            return Failure("not authorized", user=user)
        try:
            question = saslauthd.encode_request(user, credentials.password, self._service, self._realm)
            reply = await self._question(question)
        except saslauthd.SaslauthdError as error:
            return Failure(str(error), user=user)
        except (OSError, TimeoutError) as error:
            self._log.warning(
                f"SASL: cannot connect to saslauthd server {self._path}: {str(error) or 'timed out'}"
            )
            return Failure("cannot connect to saslauthd server", temporary=True, user=user)
        return Success(user) if reply.ok else Failure("authentication failure", user=user)

    async def _question(self, question: bytes) -> saslauthd.Reply:
        stream = await connect_unix(self._path, CONNECT_TIMEOUT)
        try:
            stream.write(question)
            buffer = b""
            while (reply := saslauthd.decode_reply(buffer)) is None:
                data = await stream.read(TIMEOUT)
                if not data:
                    raise ConnectionResetError("it hung up")
                buffer += data
            return reply
        finally:
            stream.close()


class _SaslauthdExchange:
    def __init__(self, owner: SaslauthdAuthenticator, mechanism: str) -> None:
        self._owner = owner
        self._mechanism = server_mechanism(mechanism)

    async def step(self, response: bytes | None) -> Outcome:
        try:
            result = self._mechanism.step(response)
        except SASLError as error:
            return Failure(str(error))
        if isinstance(result, MechanismChallenge):
            return Challenge(result.data)
        return await self._owner.check(result)

    def cancel(self) -> None:
        pass
