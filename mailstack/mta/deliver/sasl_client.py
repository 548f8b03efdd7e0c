"""smtp(8) and lmtp(8) as SASL clients: who we are to a server, and the exchange (RFC 4954).

Credentials (`user:password`) are looked up in `smtp_sasl_password_maps`: by the sender where
`smtp_sender_dependent_authentication` says so, then by the server's name, then by the nexthop as the
transport has it. A server that does not offer AUTH, or for which there are none, is talked to as a stranger;
any other has to let us in. A login that is refused is temporary, unless `smtp_sasl_auth_soft_bounce = no`.

Diagnostics: `SASL authentication failed; server HOST said: …` and `… cannot authenticate to server HOST: …`.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import secrets
from collections.abc import Callable, Sequence

from mailstack.config.postfix.main_cf import MainCf
from mailstack.mta.address_maps import AddressMaps, Table
from mailstack.mta.deliver.names import Daemon, Names
from mailstack.mta.deliver.request import Bounced, Deferred
from mailstack.mta.deliver.session import Session, SiteError, said
from mailstack.mta.lookup import settled
from mailstack.net.clock import Clock, SystemClock
from mailstack.storage.tables import TableError
from mailstack.wire.sasl import Credentials, SASLError
from mailstack.wire.sasl_client import OPTIONS, ScramClient, choose, mechanism


class SASLClient:
    """Authentication under one configuration."""

    def __init__(
        self,
        conf: MainCf,
        open_table: Callable[[str], Table],
        clock: Clock | None = None,
        daemon: Daemon = "smtp",
    ) -> None:
        names = Names(conf, daemon)
        if names.str("sasl_type") != "cyrus":
            raise names.error("sasl_type", "expected cyrus, the only kind of client there is")
        try:
            self._maps = AddressMaps(list(names.list("sasl_password_maps")), open_table)
            self._filter = _filter(names.list("sasl_mechanism_filter"), open_table)
        except TableError as error:
            raise names.error("sasl_password_maps", str(error)) from None
        if not self._maps:
            raise names.error("sasl_auth_enable", f"requires {names.full('sasl_password_maps')}")
        self.by_sender = names.bool("sender_dependent_authentication")
        self._options = [
            self._security(names, name)
            for name in (
                "sasl_security_options",
                "sasl_tls_security_options",
                "sasl_tls_verified_security_options",
            )
        ]
        self._soft = names.bool("sasl_auth_soft_bounce")
        self._refusals: Refusals | None = None
        if names.str("sasl_auth_cache_name"):
            self._refusals = Refusals(clock or SystemClock(), names.time("sasl_auth_cache_time"))

    def _security(self, names: Names, name: str) -> frozenset[str]:
        options = frozenset(names.list(name))
        unknown = sorted(options - OPTIONS)
        if unknown:
            raise names.error(name, f"unknown per-session SASL security options: {', '.join(unknown)}")
        return options

    def credentials(self, sender: str, nexthop: str, host: str) -> Credentials | None:
        """Who we are to a server. Raises `OSError` or `TableError`."""
        value: str | None = None
        if self.by_sender and sender:
            found = self._maps.find(sender)
            value = found.value if found is not None else None
        for key in (host, nexthop):
            if value is None:
                value = self._maps.get(key.lower())
        if value is None:
            return None
        user, _, password = value.partition(":")
        return Credentials("", user, password)

    async def authenticate(self, session: Session, credentials: Credentials, *, verified: bool) -> None:
        """Log in. `verified`: the server's certificate was the one asked for. Raises `SiteError`."""
        host = session.host
        if self._refusals is not None:
            known = self._refusals.find(host.name, credentials)
            if known is not None:
                text = f"SASL [CACHED] authentication failed; server {host.name} said: {known[1]}"
                if self._soft:
                    raise SiteError(Deferred(text, "4" + known[0][1:]), session=session)
                raise SiteError(Bounced(text, known[0]), session=session)
        names, wanted = session.engine.auth_mechanisms, self._filter
        offered = await settled(lambda: [name for name in names if wanted(name)])
        if not offered:
            raise SiteError(
                Deferred(
                    f"SASL authentication failed: server {host} offered no compatible authentication "
                    "mechanisms for this type of connection security",
                    "4.7.0",
                ),
                session=session,
            )
        options = self._options[0 if session.stream.tls is None else 2 if verified else 1]
        chosen = choose(offered, options)
        try:
            if chosen is None:
                raise SASLError("no mechanism available")
            await self._exchange(session, chosen, credentials)
        except SASLError as error:
            raise SiteError(
                Deferred(
                    f"SASL authentication failed; cannot authenticate to server {host}: {error}", "4.7.0"
                ),
                session=session,
            ) from None

    async def _exchange(self, session: Session, chosen: str, credentials: Credentials) -> None:
        """One exchange. Raises `SASLError` and `SiteError`."""
        client = mechanism(chosen, credentials.authcid, credentials.password, secrets.token_urlsafe(18))
        session.engine.auth(chosen, client.initial())
        while True:
            reply = await session.converse(session.timeouts.hello, "performing SASL authentication")
            if reply.code != 334:
                break
            try:
                answer = client.step(base64.b64decode(reply.text.strip(), validate=True))
            except binascii.Error:
                answer = None
            except SASLError:
                session.engine.auth_response(None)
                await session.converse(session.timeouts.hello, "performing SASL authentication")
                raise
            session.engine.auth_response(answer)
        if reply.positive:
            if isinstance(client, ScramClient) and not client.verified:
                raise SASLError("the server has not proved itself")
            return
        if self._refusals is not None and reply.code >= 500:
            self._refusals.add(session.host.name, credentials, (reply.dsn, said(reply)))
        text = f"SASL authentication failed; server {session.host} said: {said(reply)}"
        if reply.code >= 500 and not self._soft:
            raise SiteError(Bounced(text, reply.dsn), session=session, reply=reply)
        raise SiteError(Deferred(text, "4" + reply.dsn[1:]), session=session, reply=reply)


class Refusals:
    """smtp_sasl_auth_cache_name: logins that a server has refused for good are not tried again for a while.

    They are kept in memory, by digest: nothing here could be used to log in.
    """

    def __init__(self, clock: Clock, keep: float) -> None:
        self._clock = clock
        self._keep = keep
        self._known: dict[bytes, tuple[float, tuple[str, str]]] = {}

    def add(self, host: str, credentials: Credentials, reply: tuple[str, str]) -> None:
        """`reply`: (status, text)."""
        if len(self._known) >= _REFUSALS:
            del self._known[next(iter(self._known))]
        self._known[_key(host, credentials)] = (self._clock.time() + self._keep, reply)

    def find(self, host: str, credentials: Credentials) -> tuple[str, str] | None:
        """The reply to a login that need not be tried."""
        found = self._known.get(_key(host, credentials))
        return found[1] if found is not None and self._clock.time() < found[0] else None


_REFUSALS = 1000
"""Logins that are remembered."""


def _key(host: str, credentials: Credentials) -> bytes:
    words = (host.lower(), credentials.authcid, credentials.password)
    return hashlib.sha256("\0".join(words).encode("utf-8", "surrogateescape")).digest()


def _filter(words: Sequence[str], open_table: Callable[[str], Table]) -> Callable[[str], bool]:
    """smtp_sasl_mechanism_filter: names, tables, and exceptions with `!`; empty: every one.

    Raises `TableError`.
    """
    if not words:
        return lambda name: True
    patterns: list[tuple[bool, str | Table]] = []
    for word in words:
        name = word.lstrip("!")
        patterns.append((not word.startswith("!"), open_table(name) if ":" in name else name.upper()))

    def matches(mechanism_name: str) -> bool:
        for wanted, pattern in patterns:
            if isinstance(pattern, str):
                hit = pattern == mechanism_name
            else:
                hit = pattern.lookup(mechanism_name.lower()) is not None
            if hit:
                return wanted
        return False

    return matches
