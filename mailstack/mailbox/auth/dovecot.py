"""The Dovecot authentication protocol on a socket: how Postfix and our own MTA ask.

One connection serves many exchanges at once; each waits for its own answer, so a slow one (a failure's delay)
holds up nobody. A client that breaks the protocol is dropped with one line in the log.
"""

from __future__ import annotations

import itertools
import os
import secrets

from mailstack.mailbox.auth.authenticator import Authenticator, Denied
from mailstack.net.log import Log
from mailstack.net.stream import Stream
from mailstack.net.tasks import TaskSet
from mailstack.wire.dovecot_auth import (
    CLOSED,
    NEED_DATA,
    AuthProtocolError,
    AuthRequest,
    AuthServerConnection,
    Cancelled,
    ContinueRequest,
    Mechanism,
)
from mailstack.wire.sasl import Challenge, Credentials, SASLError, ServerMechanism, server_mechanism

IDLE_TIMEOUT = 86400.0
"""Seconds; Postfix keeps its connection for the life of an smtpd process."""
HANDSHAKE_TIMEOUT = 30.0
WRITE_TIMEOUT = 30.0
EXCHANGES_LIMIT = 1000
"""Exchanges of one connection that wait for the client or for a check."""

_connections = itertools.count(1)


class DovecotAuthSession:
    """One connected client."""

    def __init__(self, stream: Stream, authenticator: Authenticator, log: Log) -> None:
        self._stream = stream
        self._authenticator = authenticator
        self._log = log
        self._exchanges: dict[int, tuple[ServerMechanism, AuthRequest]] = {}
        self._checks = TaskSet(lambda name, error: log.exception(name, error))
        mechs = [Mechanism(name, ("plaintext",)) for name in authenticator.config.auth_mechanisms]
        self._conn = AuthServerConnection(
            mechs, pid=os.getpid(), connection=next(_connections), cookie=secrets.token_hex(16)
        )

    async def run(self) -> None:
        """Serve until the client goes."""
        timeout = HANDSHAKE_TIMEOUT
        try:
            while True:
                await self._flush()
                data = await self._stream.read(timeout)
                timeout = IDLE_TIMEOUT
                self._conn.receive_data(data)
                if not self._events():
                    return
        except AuthProtocolError as error:
            self._log.warning(f"auth: client {self._stream.peer[0] or 'unix'}: {error}")
        except (OSError, TimeoutError):
            pass
        finally:
            self._stream.write(self._conn.data_to_send())
            await self._checks.drain(0)

    def _events(self) -> bool:
        """Handle what has come in; False once the client has closed."""
        while (event := self._conn.next_event()) is not NEED_DATA:
            if event is CLOSED:
                return False
            if isinstance(event, AuthRequest):
                if len(self._exchanges) + len(self._checks) >= EXCHANGES_LIMIT:
                    self._conn.fail(event.id, temp=True, reason="Too many requests")
                elif event.id in self._exchanges:
                    raise AuthProtocolError(f"request id {event.id} is in use")
                else:
                    self._step(event, server_mechanism(event.mech), event.resp)
            elif isinstance(event, ContinueRequest):
                mechanism, request = self._exchanges.pop(event.id, (None, None))
                if mechanism is None or request is None:
                    self._conn.fail(event.id, reason="Authentication request timed out")
                else:
                    self._step(request, mechanism, event.data)
            elif isinstance(event, Cancelled):
                self._exchanges.pop(event.id, None)
        return True

    def _step(self, request: AuthRequest, mechanism: ServerMechanism, response: bytes | None) -> None:
        try:
            outcome = mechanism.step(response)
        except SASLError as error:
            self._conn.fail(request.id, reason=str(error))
            return
        if isinstance(outcome, Challenge):
            self._exchanges[request.id] = (mechanism, request)
            self._conn.challenge(request.id, outcome.data)
        elif isinstance(outcome, Credentials):
            self._checks.start(self._check(request, outcome), f"auth request {request.id}")

    async def _check(self, request: AuthRequest, credentials: Credentials) -> None:
        rip = request.params.get("rip") or ""
        outcome = await self._authenticator.check(credentials, service=request.service, rip=rip)
        if isinstance(outcome, Denied):
            shown = self._authenticator.directory.canonical(credentials.authcid) or ""
            self._conn.fail(request.id, shown, temp=outcome is Denied.UNAVAILABLE)
        else:
            self._conn.ok(request.id, outcome.name)
        # No drain: the client's exchanges are bounded, and so is what they are answered.
        self._stream.write(self._conn.data_to_send())

    async def _flush(self) -> None:
        self._stream.write(self._conn.data_to_send())
        await self._stream.drain(WRITE_TIMEOUT)
