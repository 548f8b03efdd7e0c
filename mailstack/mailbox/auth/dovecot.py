"""The Dovecot authentication protocol on a socket: how Postfix and our own MTA ask.

One connection serves many exchanges at once; each waits for its own answer, so a slow one (a failure's delay)
holds up nobody. A client that breaks the protocol is dropped with one line in the log.
"""

from __future__ import annotations

import itertools
import os
import secrets
from base64 import b64encode

from mailstack.mailbox.auth.authenticator import Authenticator
from mailstack.mailbox.auth.exchange import Exchange
from mailstack.mailbox.auth.outcome import Client, Denied, NoLogin, Success
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
from mailstack.wire.sasl import Challenge, SASLError
from mailstack.wire.sasl_server import PROPERTIES

IDLE_TIMEOUT = 86400.0
"""Seconds; Postfix keeps its connection for the life of an smtpd process."""
HANDSHAKE_TIMEOUT = 30.0
WRITE_TIMEOUT = 30.0
EXCHANGES_LIMIT = 1000
"""Exchanges of one connection that wait for the client or for a check."""

_CODES = {Denied.DISABLED: "user_disabled", Denied.EXPIRED: "pass_expired"}
_connections = itertools.count(1)


class DovecotAuthSession:
    """One connected client."""

    def __init__(self, stream: Stream, authenticator: Authenticator, log: Log) -> None:
        self._stream = stream
        self._authenticator = authenticator
        self._log = log
        self._exchanges: dict[int, tuple[Exchange, AuthRequest]] = {}
        self._checks = TaskSet(lambda name, error: log.exception(name, error))
        mechs = [
            Mechanism(name, PROPERTIES[name])
            for name in authenticator.config.auth_mechanisms
            if name in PROPERTIES
        ]
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
                    self._begin(event)
            elif isinstance(event, ContinueRequest):
                exchange, request = self._exchanges.pop(event.id, (None, None))
                if exchange is None or request is None:
                    self._conn.fail(event.id, reason="Authentication request timed out")
                else:
                    self._step(request, exchange, event.data)
            elif isinstance(event, Cancelled):
                self._exchanges.pop(event.id, None)
        return True

    def _begin(self, request: AuthRequest) -> None:
        try:
            exchange = Exchange(
                self._authenticator,
                request.mech,
                self._client(request),
                final_data="final-resp-ok" in request.params,
            )
        except SASLError as error:
            self._conn.fail(request.id, reason=str(error))
            return
        self._step(request, exchange, request.resp)

    def _client(self, request: AuthRequest) -> Client:
        """The client's client, as far as it is described (auth-client-interface.h)."""
        params = request.params
        rip, valid = params.get("rip") or "", "valid-client-cert" in params
        return Client(
            request.service,
            rip,
            params.get("lip") or "",
            _port(params.get("rport")),
            _port(params.get("lport")),
            secured="secured" in params,
            session=params.get("session") or "",
            certificate=(params.get("cert_username") or "") if valid else "",
            verified=valid,
            counted="no-penalty" not in params and not self._authenticator.networks.trusted(rip),
        )

    def _step(self, request: AuthRequest, exchange: Exchange, response: bytes | None) -> None:
        self._checks.start(self._exchange(request, exchange, response), f"auth request {request.id}")

    async def _exchange(self, request: AuthRequest, exchange: Exchange, response: bytes | None) -> None:
        try:
            outcome = await exchange.step(response)
        except SASLError as error:
            self._conn.fail(request.id, reason=str(error))
        else:
            if isinstance(outcome, Challenge):
                self._exchanges[request.id] = (exchange, request)
                self._conn.challenge(request.id, outcome.data)
            elif isinstance(outcome, Success):
                fields = ["anonymous"] if exchange.name == "ANONYMOUS" else []
                if outcome.data:
                    fields.append("resp=" + b64encode(outcome.data).decode())
                self._conn.ok(request.id, outcome.user.name, fields)
            else:
                user = self._authenticator.directory.canonical(exchange.user) or ""
                code = "" if isinstance(outcome, NoLogin) else _CODES.get(outcome, "")
                self._conn.fail(request.id, user, temp=outcome is Denied.UNAVAILABLE, code=code)
        # No drain: the client's exchanges are bounded, and so is what they are answered.
        self._stream.write(self._conn.data_to_send())

    async def _flush(self) -> None:
        self._stream.write(self._conn.data_to_send())
        await self._stream.drain(WRITE_TIMEOUT)


def _port(text: str | None) -> int:
    return int(text) if text and text.isascii() and text.isdecimal() and len(text) < 6 else 0
