"""How a session begins: connection, greeting, EHLO, STARTTLS, and authentication.

`open_session` raises a `SiteError` in Postfix's words when a host cannot be used. Standards: RFC 5321 §3.1,
RFC 3207, RFC 4954, RFC 8314 §3.3 (TLS from the first octet).
"""

from __future__ import annotations

import errno
import os
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from mailstack.mta.deliver.request import Bounced, Deferred
from mailstack.mta.deliver.session import (
    ConnectionLost,
    Host,
    Session,
    SiteError,
    Timeouts,
    Transcript,
    refusal_status,
    said,
)
from mailstack.mta.deliver.tls_policy import PLAIN, Policy, TLSLevel
from mailstack.mta.lookup import settled
from mailstack.net.log import Log
from mailstack.net.stream import Stream, connect, connect_unix
from mailstack.net.tls import describe
from mailstack.wire.smtp import ClientConnection, Mode

Login = Callable[[Session], Awaitable[None]]
"""Authenticates a session, where that is called for. Raises `SiteError` and `ConnectionLost`."""


@dataclass(frozen=True, slots=True)
class Manners:
    """How this client talks, whatever the host."""

    name: str
    """In EHLO and LHLO."""
    always_ehlo: bool = True
    """EHLO is tried although the greeting does not say ESMTP."""
    never_ehlo: bool = False
    skip_5xx_greeting: bool = True
    wait_for_goodbye: bool = False
    line_limit: int = 0
    xforward: bool = False
    note_starttls: bool = False
    """A line in the log where a host offers TLS that is not used."""
    log_tls: bool = False
    wrapped: bool = False
    """TLS from the first octet, without STARTTLS."""
    must_bind: bool = False
    """A host is out of reach where the address to come from cannot be had."""
    discard: Callable[[str], frozenset[str]] | None = None
    """EHLO keywords (upper case) that are not to be seen, by the host's address."""
    quote: bool = True
    """Local parts of addresses are quoted where RFC 5321 asks for it."""
    dummy_auth: bool = False
    """MAIL FROM says AUTH=<> where we have logged in."""
    no_early_reply: bool = False
    """A server that has more to say than its reply to STARTTLS is not talked to."""
    final: bool = False
    """What a server that does not know DSN has taken is delivered, not relayed (lmtp_assume_final)."""
    reply_filter: Callable[[bytes], bytes] | None = None
    """What each line of a reply is taken for."""


async def open_session(
    host: Host,
    mode: Mode,
    manners: Manners,
    timeouts: Timeouts,
    now: Callable[[], float],
    log: Log | None = None,
    *,
    policy: Policy = PLAIN,
    nexthop: str = "",
    local_address: str | None = None,
    login: Login | None = None,
    history: Transcript | None = None,
) -> Session:
    """Connect to a host and say hello. `nexthop`: the domain that certificates are compared with.

    Raises `SiteError`.
    """
    stream = await _connect(host, manners, timeouts, local_address, log)
    session = Session(host, stream, ClientConnection(mode), timeouts, now())
    session.line_limit, session.wait_for_goodbye = manners.line_limit, manners.wait_for_goodbye
    session.final, session.history = manners.final, history
    session.engine.quoting, session.engine.reply_filter = manners.quote, manners.reply_filter
    try:
        if manners.wrapped:
            await _handshake(session, manners, policy, nexthop, log)
        await _greet(session, manners)
        if not manners.wrapped:
            if policy.level is not TLSLevel.NONE:
                await _secure(session, manners, policy, nexthop, log)
            elif manners.note_starttls and "STARTTLS" in session.engine.extensions and log is not None:
                log.info(f"Host offered STARTTLS: [{host.name}]")
        if login is not None and "AUTH" in session.engine.extensions:
            await login(session)
            session.dummy_auth = manners.dummy_auth
    except ConnectionLost as lost:
        stream.abort()
        raise SiteError(Deferred(lost.text, lost.dsn), tls=session.secured and session.severed) from None
    except SiteError as error:
        if error.session is None:
            stream.abort()
        else:
            await session.leave()
        raise
    except BaseException:
        stream.abort()
        raise
    if manners.xforward:
        session.xforward = tuple(session.engine.extensions.get("XFORWARD", "").upper().split())
    return session


async def _connect(
    host: Host, manners: Manners, timeouts: Timeouts, local_address: str | None, log: Log | None
) -> Stream:
    seconds = timeouts.connect or 120.0
    try:
        if host.port:
            return await connect(host.address, host.port, seconds, local_address=local_address)
        return await connect_unix(host.address, seconds)
    except TimeoutError:
        reason = "Connection timed out"
    except OSError as error:
        if local_address and error.errno in (errno.EADDRNOTAVAIL, errno.EADDRINUSE) and not manners.must_bind:
            if log is not None:
                log.warning(f"smtp_connect_addr: bind {local_address}: {os.strerror(error.errno)}")
            return await _connect(host, manners, timeouts, None, log)
        reason = os.strerror(error.errno) if error.errno else str(error)
    raise SiteError(Deferred(f"connect to {host.relay}: {reason}", "4.4.1"), unreachable=True)


async def _greet(session: Session, manners: Manners) -> None:
    host, timeouts = session.host, session.timeouts
    reply = await session.converse(timeouts.hello, "receiving the initial server greeting")
    if not reply.positive:
        text = f"host {host} refused to talk to me: {said(reply)}"
        if reply.code >= 500 and not manners.skip_5xx_greeting:
            raise SiteError(Bounced(text, reply.dsn), session=session, reply=reply)
        raise SiteError(Deferred(text, refusal_status(reply)), session=session, reply=reply)
    await _hello(session, manners, esmtp="ESMTP" in reply.text.upper().split())


async def _hello(session: Session, manners: Manners, *, esmtp: bool = True) -> None:
    """LHLO, or EHLO and where that is refused HELO."""
    engine, host, timeouts = session.engine, session.host, session.timeouts
    lmtp = engine.mode is Mode.LMTP
    extended = lmtp or ((esmtp or manners.always_ehlo) and not manners.never_ehlo)
    engine.hello(manners.name, helo=not extended)
    verb = "LHLO" if lmtp else "EHLO" if extended else "HELO"
    reply = await session.converse(timeouts.hello, f"performing the {verb} handshake")
    if not reply.positive and extended and not lmtp and reply.code != 421:
        engine.hello(manners.name, helo=True)
        reply = await session.converse(timeouts.hello, "performing the HELO handshake")
    if not reply.positive:
        text = f"host {host} refused to talk to me: {said(reply)}"
        if reply.code >= 500:
            raise SiteError(Bounced(text, reply.dsn), session=session, reply=reply)
        raise SiteError(Deferred(text, refusal_status(reply)), session=session, reply=reply)
    words = reply.text.split(None, 1)
    session.greeted_as = words[0] if words else ""
    if manners.discard is not None:
        discard = manners.discard
        for keyword in await settled(lambda: discard(host.address)):
            engine.extensions.pop(keyword, None)


async def _secure(session: Session, manners: Manners, policy: Policy, nexthop: str, log: Log | None) -> None:
    """STARTTLS where it is offered, or demanded."""
    engine, timeouts, host = session.engine, session.timeouts, session.host
    demanded = policy.level.mandatory
    if "STARTTLS" not in engine.extensions:
        if demanded:
            text = f"TLS is required, but was not offered by host {host}"
            raise SiteError(Deferred(text, "4.7.4"), session=session)
        return
    engine.starttls()
    reply = await session.converse(timeouts.starttls, "sending STARTTLS")
    if reply.code != 220:
        if not demanded:
            return
        text = f"TLS is required, but host {host} refused to start TLS: {said(reply)}"
        raise SiteError(Deferred(text, refusal_status(reply)), session=session, reply=reply)
    if manners.no_early_reply and session.stream.readable:
        # Said in plain text, by whoever sits in between.
        raise ConnectionLost("4.7.5", f"host {host} has sent data behind its reply to STARTTLS")
    await _handshake(session, manners, policy, nexthop, log)
    engine.tls_started()
    await _hello(session, manners)


async def _handshake(
    session: Session, manners: Manners, policy: Policy, nexthop: str, log: Log | None
) -> None:
    host, stream = session.host, session.stream
    assert policy.context is not None  # every level but none has one
    try:
        await stream.start_tls(
            policy.context,
            session.timeouts.starttls,
            server_side=False,
            server_hostname=policy.server_name(nexthop, host.name),
        )
    except ssl.SSLCertVerificationError as error:
        if log is not None:
            log.info(f"certificate verification failed for {host.relay}: {error.verify_message}")
        raise SiteError(Deferred("Server certificate not verified", "4.7.5")) from None
    except (OSError, TimeoutError) as error:
        if log is not None:
            reason = error.reason if isinstance(error, ssl.SSLError) else "lost connection"
            log.info(f"SSL_connect error to {host.relay}: {reason}")
        raise _no_handshake(policy) from None
    secured = stream.tls
    if secured is None:
        raise _no_handshake(policy)
    session.secured = True
    session.kept = policy.reuse
    named = policy.demanding
    session.verified = named and policy.matches(secured, nexthop, host.name)
    if manners.log_tls and log is not None:
        trust = "Verified" if session.verified else "Untrusted"
        if session.verified and policy.level is TLSLevel.HALF_DANE:
            trust = "Trusted"  # it is the host's certificate, but who says that the host is the domain's?
        log.info(f"{trust} TLS connection established to {host.relay}: {describe(secured)}")
    if named and not session.verified:
        session.broken = manners.wrapped  # there has been no greeting yet that QUIT could follow
        raise SiteError(Deferred("Server certificate not verified", "4.7.5"), session=session)


def _no_handshake(policy: Policy) -> SiteError:
    """With `may` it is no reason to think ill of the destination."""
    error = SiteError(Deferred("Cannot start TLS: handshake failure", "4.7.5"), tls=True)
    error.harmless = policy.level is TLSLevel.MAY
    return error
