"""STARTTLS LOGIN AUTHENTICATE. State: not authenticated. RFC 3501 §6.2, RFC 4959 (SASL-IR).

A user whom the passdb does not want here (`nologin`) is told where to go instead (`host`): RFC 2221.
"""

from __future__ import annotations

import binascii
import ssl
from typing import TYPE_CHECKING

from mailstack.mailbox.auth import NoLogin, Refused, Success
from mailstack.mailbox.imap.capability import capabilities, plaintext_allowed
from mailstack.mailbox.imap.errors import CommandError, Disconnect
from mailstack.mailbox.imap.service import Refusal, User
from mailstack.storage.maildir import subscriptions, tree
from mailstack.wire.imap import commands as c
from mailstack.wire.imap.urlauth import escape
from mailstack.wire.sasl import Credentials, SASLError
from mailstack.wire.sasl_server import REVEALING

if TYPE_CHECKING:
    from mailstack.mailbox.imap.session import Session

HANDSHAKE_TIMEOUT = 30.0
_PRIVACY = "[PRIVACYREQUIRED] Plaintext authentication disallowed on non-secure (SSL/TLS) connections."


async def starttls(session: Session, tag: str, command: c.Plain) -> str:
    """RFC 3501 §6.2.1: what the client sent behind the command in plain text is thrown away."""
    context = session.service.tls
    if session.secured:
        raise CommandError("BAD TLS is already active.")
    if context is None:
        raise CommandError("BAD TLS support isn't enabled.")
    session.line(f"{tag} OK Begin TLS negotiation now.")
    await session.flush()
    session.connection.discard_input()
    try:
        await session.stream.start_tls(context, HANDSHAKE_TIMEOUT, server_side=True)
    except ssl.SSLError as error:
        raise ConnectionAbortedError(str(error)) from error
    return ""


async def login(session: Session, tag: str, command: c.Login) -> str:
    _check_allowed(session)
    try:
        credentials = Credentials("", command.user.decode(), command.password.decode())
    except UnicodeDecodeError:
        return _failed(session, Refusal.CREDENTIALS)
    session.tried = credentials.authcid, "PLAIN"
    return _logged_in(session, await session.service.authenticate(credentials, session.stream, session.id))


async def authenticate(session: Session, tag: str, command: c.Authenticate) -> str:
    try:
        return await _exchange(session, command)
    finally:
        session.connection.resume()


async def _exchange(session: Session, command: c.Authenticate) -> str:
    service = session.service
    if command.mechanism not in service.auth.config.auth_mechanisms:
        raise CommandError("NO Unsupported authentication mechanism.")
    if command.mechanism in REVEALING:
        _check_allowed(session)
    if command.mechanism not in service.auth.offered(session.stream):
        raise CommandError("NO [CANNOT] Authentication mechanism cannot be used on this connection.")
    exchange = service.exchange("imap", command.mechanism, session.stream, session.id)
    session.tried = "", command.mechanism
    response = None if command.initial is None else _decode(command.initial)
    while True:
        try:
            step = await exchange.step(response)
        except SASLError as error:
            raise CommandError(f"NO [AUTHENTICATIONFAILED] {error}") from None
        session.tried = exchange.user, command.mechanism
        if isinstance(step, Refused):
            return _failed(session, service.refusal(step), command.mechanism)
        if isinstance(step, Success):
            admitted = service.admit(
                "imap", step.user, session.stream, mechanism=command.mechanism, session=session.id
            )
            return _logged_in(session, service.refusal(admitted), command.mechanism)
        session.send(b"+ " + binascii.b2a_base64(step.data, newline=False) + b"\r\n")
        line = await session.client_line(session.service.settings.login_timeout)
        if line == b"*":
            raise CommandError("BAD Authentication aborted by client.")
        response = _decode(line)


def _decode(text: bytes) -> bytes:
    if text == b"=":
        return b""
    try:
        return binascii.a2b_base64(text, strict_mode=True) if text else b""
    except binascii.Error:
        raise CommandError("BAD Invalid base64 data in authentication response.") from None


def _check_allowed(session: Session) -> None:
    if not plaintext_allowed(session):
        session.line(
            "* BAD [ALERT] Plaintext authentication not allowed without SSL/TLS, but your client did it"
            " anyway. If anyone was listening, the password was exposed."
        )
        raise CommandError(f"NO {_PRIVACY}")


def _logged_in(session: Session, outcome: User | Refusal | NoLogin, mechanism: str = "PLAIN") -> str:
    if isinstance(outcome, Refusal | NoLogin):
        return _failed(session, outcome, mechanism)
    make_mailboxes(session, outcome.mail_root)
    session.logged_in(outcome)
    return f"OK [CAPABILITY {' '.join(capabilities(session))}] Logged in"


def _failed(session: Session, refusal: User | Refusal | NoLogin, mechanism: str = "PLAIN") -> str:
    assert isinstance(refusal, Refusal | NoLogin)
    session.failures += 1
    if session.failures >= session.service.settings.failures_limit:
        raise Disconnect("Too many authentication failures.")
    if isinstance(refusal, NoLogin):
        return f"NO {_no_login(refusal, mechanism)}"
    return f"NO {refusal.value}"


def _no_login(refusal: NoLogin, mechanism: str) -> str:
    """The code and the text, as in Dovecot (RFC 2221 §4.1)."""
    if not refusal.host:
        return f"[CONTACTADMIN] {refusal.reason or 'Login disabled for this user'}"
    port = f":{refusal.port}" if refusal.port not in ("", "143") else ""
    url = f"imap://{escape(refusal.user)};AUTH={mechanism}@{refusal.host}{port}/"
    return f"[REFERRAL {url}] {refusal.reason or 'Try this server instead.'}"


def make_mailboxes(session: Session, root: str) -> None:
    """INBOX, and the mailboxes that dovecot.conf says to make by themselves."""
    try:
        tree.create(root, tree.INBOX)
    except OSError as error:  # a full disk is no reason to keep anybody out
        session.service.log.error(f"imap: {root}: mailbox INBOX: {error}")
    for setting in session.service.settings.mailboxes:
        if setting.auto == "no" or tree.exists(root, setting.name):
            continue
        try:
            tree.create(root, setting.name)
            if setting.auto == "subscribe":
                subscriptions.change(root, setting.name, subscribed=True)
        except (OSError, tree.MailboxNameError) as error:
            session.service.log.error(f"imap: {root}: mailbox {setting.name}: {error}")
