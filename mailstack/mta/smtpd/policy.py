"""check_policy_service: ask a policy server what to do (SMTPD_POLICY_README).

A request is `name=value` lines and an empty line; the answer is `action=…` and an empty line, and means what
it would mean in an access table. Connections are kept and used again, each for one request at a time:
`smtpd_policy_service_max_idle`, `_max_ttl` and `_request_limit` end them. A request that fails is made again
`_try_limit` times in all, `_retry_delay` apart; then a warning is logged and `_default_action` is the answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from mailstack.config.postfix.lines import words as split_words
from mailstack.config.postfix.main_cf import MainCf
from mailstack.mta.smtpd.verdicts import Client
from mailstack.net.resolver import ResolveError, Resolver
from mailstack.net.stream import Stream, connect, connect_unix
from mailstack.postfix_parameters import parse_time

ANSWER_LIMIT = 100_000
"""Octets of an answer."""
CONNECTIONS = 100
"""Requests under way at once to one server; more wait their turn."""
_OPTIONS = {
    "default_action": "smtpd_policy_service_default_action",
    "max_idle": "smtpd_policy_service_max_idle",
    "max_ttl": "smtpd_policy_service_max_ttl",
    "policy_context": "smtpd_policy_service_policy_context",
    "request_limit": "smtpd_policy_service_request_limit",
    "retry_delay": "smtpd_policy_service_retry_delay",
    "timeout": "smtpd_policy_service_timeout",
    "try_limit": "smtpd_policy_service_try_limit",
}


@dataclass(frozen=True, slots=True)
class _Terms:
    """How a server is to be treated; times in seconds."""

    default_action: str
    max_idle: float
    max_ttl: float
    policy_context: str
    request_limit: int
    retry_delay: float
    timeout: float
    try_limit: int


@dataclass(slots=True)
class _Connection:
    stream: Stream
    born: float
    used: float
    requests: int = 0


class PolicyServices:
    """The policy servers of one configuration, one `PolicyService` for each text that names one."""

    def __init__(self, conf: MainCf, resolver: Resolver) -> None:
        self._conf = conf
        self._resolver = resolver
        self._known: dict[str, PolicyService] = {}

    def get(self, parameter: str, text: str) -> PolicyService:
        """The server of `transport:endpoint` or `{ transport:endpoint, name=value… }`.

        Raises `ConfigError`.
        """
        if text not in self._known:
            self._known[text] = self._make(parameter, text)
        return self._known[text]

    def close(self) -> None:
        """Close what is idle (at shutdown, when nothing is asked any more)."""
        for service in self._known.values():
            service.close()

    def _make(self, parameter: str, text: str) -> PolicyService:
        name, options = text, dict[str, str]()
        if text.startswith("{"):
            name, *given = split_words(text.strip()[1:-1].strip(), ",\t\r\n") or [""]
            name = name.strip()
            for one in given:
                key, equals, value = one.strip().strip("{}").partition("=")
                if not equals or key.strip() not in _OPTIONS:
                    raise self._conf.error(parameter, f"policy service syntax error: {one.strip()!r}")
                options[key.strip()] = value.strip()
        kind, _, endpoint = name.partition(":")
        if kind not in ("inet", "unix") or not endpoint:
            raise self._conf.error(
                parameter, f"check_policy_service: unix:path or inet:host:port, not {name!r}"
            )
        if kind == "unix" and not endpoint.startswith("/"):
            endpoint = f"{self._conf.str('queue_directory')}/{endpoint}"
        if kind == "inet":
            host, _, port = endpoint.rpartition(":")
            if not port.isdecimal():
                raise self._conf.error(parameter, f"check_policy_service: {name!r} names no port number")
            endpoint = f"{host or '127.0.0.1'}:{port}"
        return PolicyService(
            name, kind, endpoint, self._terms(parameter, options), self._resolver, self._conf
        )

    def _terms(self, parameter: str, options: Mapping[str, str]) -> _Terms:
        conf = self._conf

        def seconds(key: str) -> float:
            if key not in options:
                return conf.time(_OPTIONS[key])
            value = parse_time(options[key])
            if value is None:
                raise conf.error(parameter, f"policy service: {key} is no time: {options[key]!r}")
            return value

        def number(key: str) -> int:
            if key not in options:
                return conf.int(_OPTIONS[key])
            if not options[key].isdecimal():
                raise conf.error(parameter, f"policy service: {key} is no number: {options[key]!r}")
            return int(options[key])

        def text(key: str) -> str:
            return options[key] if key in options else conf.str(_OPTIONS[key])

        return _Terms(
            text("default_action"),
            seconds("max_idle"),
            seconds("max_ttl"),
            text("policy_context"),
            number("request_limit"),
            seconds("retry_delay"),
            seconds("timeout"),
            max(1, number("try_limit")),
        )


class PolicyService:
    """One server."""

    def __init__(
        self, name: str, kind: str, endpoint: str, terms: _Terms, resolver: Resolver, conf: MainCf
    ) -> None:
        self.name = name
        self._kind = kind
        self._endpoint = endpoint
        self._terms = terms
        self._resolver = resolver
        self._stress = conf.str("stress")
        self._idle: list[_Connection] = []
        self._room: asyncio.Semaphore | None = None
        self._timer: asyncio.TimerHandle | None = None

    async def ask(self, client: Client) -> str:
        """The server's action, or the default one."""
        if self._room is None:
            self._room = asyncio.Semaphore(CONNECTIONS)
        async with self._room:
            return await self._ask(client)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._idle:
            self._idle.pop().stream.close()

    async def _ask(self, client: Client) -> str:
        request = encode(attributes(client, self._stress, self._terms.policy_context))
        attempts = 0
        while True:
            connection = self._take()
            reused = connection is not None
            try:
                if connection is None:
                    connection = await self._connect()
                action = await self._exchange(connection, request)
            except (OSError, TimeoutError, ResolveError, ValueError) as error:
                if connection is not None:
                    connection.stream.abort()
                if reused:
                    continue  # the server had closed it: that says nothing about a new one
                attempts += 1
                reason = "Connection timed out" if isinstance(error, TimeoutError) else _reason(error)
                client.warn(f"problem talking to server {self.name}: {reason}")
                if attempts >= self._terms.try_limit:
                    return self._terms.default_action
                await asyncio.sleep(self._terms.retry_delay)
                continue
            self._keep(connection)
            return action

    async def _connect(self) -> _Connection:
        timeout = self._terms.timeout
        if self._kind == "unix":
            stream = await connect_unix(self._endpoint, timeout)
        else:
            host, _, port = self._endpoint.rpartition(":")
            addresses = await self._resolver.addresses(host.strip("[]"))
            if not addresses:
                raise OSError(0, f"host {host} has no address")
            stream = await connect(addresses[0], int(port), timeout)
        now = asyncio.get_running_loop().time()
        return _Connection(stream, now, now)

    async def _exchange(self, connection: _Connection, request: bytes) -> str:
        """Send a request and read its answer. Raises `OSError`, `TimeoutError` or `ValueError`."""
        connection.stream.write(request)
        answer = b""
        while b"\n\n" not in answer:
            more = await connection.stream.read(self._terms.timeout)
            if not more:
                raise ConnectionResetError("connection closed before the answer")
            answer += more
            if len(answer) > ANSWER_LIMIT:
                raise ValueError("answer too long")
        connection.requests += 1
        for line in answer.decode("utf-8", "replace").split("\n"):
            name, equals, value = line.partition("=")
            if equals and name.strip() == "action":
                return value.partition("\0")[0].strip()  # the text may become a reply
        raise ValueError("answer without action")

    def _take(self) -> _Connection | None:
        """An idle connection that may still be used."""
        while self._idle:
            connection = self._idle.pop()
            if not connection.stream.closed and not connection.stream.readable:
                return connection
            connection.stream.abort()
        return None

    def _keep(self, connection: _Connection) -> None:
        terms = self._terms
        loop = asyncio.get_running_loop()
        connection.used = loop.time()
        worn = terms.request_limit and connection.requests >= terms.request_limit
        if worn or connection.used - connection.born >= terms.max_ttl or not terms.max_idle:
            connection.stream.close()
            return
        self._idle.append(connection)
        if self._timer is None:
            self._timer = loop.call_later(min(terms.max_idle, terms.max_ttl), self._expire)

    def _expire(self) -> None:
        """Close what has been idle, or has lived, too long."""
        self._timer = None
        loop = asyncio.get_running_loop()
        now, terms = loop.time(), self._terms
        kept = []
        for connection in self._idle:
            if now - connection.used >= terms.max_idle or now - connection.born >= terms.max_ttl:
                connection.stream.close()
            else:
                kept.append(connection)
        self._idle = kept
        if kept:
            self._timer = loop.call_later(min(terms.max_idle, terms.max_ttl), self._expire)


def attributes(client: Client, stress: str, context: str) -> dict[str, str]:
    """What Postfix 3.7 tells a policy server, in its order."""
    certificate = client.certificate
    protocol, cipher, bits = client.tls_facts
    return {
        "request": "smtpd_access_policy",
        "protocol_state": client.where,
        "protocol_name": client.protocol_name,
        "client_address": client.client_address,
        "client_name": client.client_name,
        "client_port": client.client_port,
        "reverse_client_name": client.reverse_client_name,
        "server_address": client.server_address,
        "server_port": client.server_port,
        "helo_name": client.helo,
        "sender": client.sender or "",
        "recipient": client.recipient or "",
        "recipient_count": str(client.recipient_count if client.where in ("DATA", "END-OF-MESSAGE") else 0),
        "queue_id": client.queue_id,
        "instance": client.instance,
        "size": str(client.message_size),
        "etrn_domain": client.etrn_domain,
        "stress": stress,
        "sasl_method": client.sasl_method,
        "sasl_username": client.sasl_user,
        "sasl_sender": client.sasl_sender,
        "ccert_subject": certificate.subject if certificate else "",
        "ccert_issuer": certificate.issuer if certificate else "",
        "ccert_fingerprint": certificate.fingerprint if certificate else "",
        "ccert_pubkey_fingerprint": certificate.key_fingerprint if certificate else "",
        "encryption_protocol": protocol,
        "encryption_cipher": cipher,
        "encryption_keysize": str(bits),
        "policy_context": context,
    }


def encode(names: Mapping[str, str]) -> bytes:
    """A request on the wire; a newline in a value would be a forged attribute, so it becomes a space."""
    lines = (f"{name}={value.translate(_ONE_LINE)}\n" for name, value in names.items())
    return "".join(lines).encode("utf-8", "surrogateescape") + b"\n"


_ONE_LINE = {ord("\n"): " ", ord("\r"): " ", 0: " "}


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
