"""What the server announces: exactly what works (RFC 3501 §6.1.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mailstack.mailbox.imap import acl, notify
from mailstack.mailbox.imap.quota import CAPABILITIES as QUOTA
from mailstack.mailbox.imap.urlauth import CAPABILITIES as URLAUTH

if TYPE_CHECKING:
    from mailstack.mailbox.imap.session import Session

BEFORE_LOGIN = ("IMAP4rev1", "IMAP4rev2", "SASL-IR", "LOGIN-REFERRALS", "ID", "ENABLE", "IDLE", "LITERAL+")
AFTER_LOGIN = (
    *BEFORE_LOGIN[:-1],
    "MULTIAPPEND",
    "UNSELECT",
    "CHILDREN",
    "NAMESPACE",
    "UIDPLUS",
    "LIST-EXTENDED",
    "ESEARCH",
    "SEARCHRES",
    "WITHIN",
    "SORT",
    "SORT=DISPLAY",
    "ESORT",
    "THREAD=ORDEREDSUBJECT",
    "THREAD=REFERENCES",
    "THREAD=REFS",
    "I18NLEVEL=1",
    "CONTEXT=SEARCH",
    "CONTEXT=SORT",
    "PARTIAL",
    "INPROGRESS",
    "BINARY",
    "CATENATE",
    "URL-PARTIAL",
    "REPLACE",
    "PREVIEW",
    "PREVIEW=FUZZY",
    "SNIPPET=FUZZY",
    "UTF8=ACCEPT",
    "LIST-STATUS",
    "MOVE",
    "STATUS=SIZE",
    "LITERAL+",
    "SPECIAL-USE",
    "CREATE-SPECIAL-USE",
    "METADATA",
    "LIST-METADATA",
    "CONDSTORE",
    "QRESYNC",
    "OBJECTID",
    "SAVEDATE",
    "UIDONLY",
    "COMPRESS=DEFLATE",
)


def capabilities(session: Session) -> list[str]:
    """The capabilities in the connection's present state; what dovecot.conf says of them counts."""
    set_to = session.service.settings.capability
    if not set_to:
        return _capabilities(session)
    if set_to.startswith("+"):
        names = _capabilities(session)
        return [*names, *(name for name in set_to[1:].split() if name not in names)]
    return set_to.split() + ([] if session.user is not None else _login_capabilities(session))


def _login_capabilities(session: Session) -> list[str]:
    names = []
    if session.service.tls is not None and not session.secured:
        names.append("STARTTLS")
    names += [f"AUTH={name}" for name in session.service.auth.offered(session.stream)]
    if not plaintext_allowed(session):
        names.append("LOGINDISABLED")
    return names


def _capabilities(session: Session) -> list[str]:
    if session.user is not None:
        # RFC 4978 §3: once is enough.
        names = [name for name in AFTER_LOGIN if session.deflate is None or name != "COMPRESS=DEFLATE"]
        if session.rev2:
            # RFC 9051 §6.3.1 has LITERAL- in it; RFC 7888 §5 forbids to announce both.
            names[names.index("LITERAL+")] = "LITERAL-"
        if notify.is_usable(session):
            names.append("NOTIFY")
        if session.service.settings.urlauth_host:
            names += URLAUTH
        if session.service.quotas.active:
            names += QUOTA
        if acl.is_told(session):
            names += acl.CAPABILITIES
        return [*names, f"APPENDLIMIT={session.service.settings.message_limit}"]
    return [*BEFORE_LOGIN, *_login_capabilities(session)]


def plaintext_allowed(session: Session) -> bool:
    """Whether a password may come over this connection (`disable_plaintext_auth`)."""
    return session.service.auth.plaintext_allowed(session.stream)
