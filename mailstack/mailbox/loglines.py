"""Log lines of logins and sessions, as login_log_format, login_log_format_elements and mail_log_prefix say.

    imap-login: Login: user=<zs@mail.test>, method=PLAIN, rip=…, lip=…, mpid=17, TLS, session=<…>
    imap-login: Disconnected: Connection closed (auth failed, 1 attempts in 2 secs): user=<zs>, …
    imap(zs@mail.test)<17><…>: Disconnected: Logged out in=24 out=806 …

fail2ban's filters for Dovecot read them.
"""

from __future__ import annotations

import os

from mailstack.config.dovecot.templates import LogFormats
from mailstack.net.stream import Stream

_ALWAYS = frozenset(("user", "username"))
"""An element with one of these stands there even when it is empty."""


class LogLines:
    """Makes lines; for one configuration."""

    def __init__(self, formats: LogFormats) -> None:
        self._formats = formats
        self._pid = str(os.getpid())

    def login(
        self, service: str, text: str, stream: Stream, user: str, mech: str, session: str, *, ok: bool = False
    ) -> str:
        """A line of `service`-login. `text`: what has happened; `ok`: somebody is in."""
        name, _, domain = user.partition("@")
        values = {
            "user": user,
            "username": name,
            "domain": domain,
            "service": service,
            "mech": mech,
            "rip": stream.peer[0],
            "rport": stream.peer[1],
            "lip": stream.local[0],
            "lport": stream.local[1],
            "pid": self._pid,
            "mail_pid": self._pid if ok else "",
            "secured": "TLS" if stream.tls is not None else "",
            "ssl_security": _security(stream),
            "session": session,
        }
        told = [
            element.fill(values)
            for element in self._formats.elements
            if not element.names or element.names & _ALWAYS or any(values[name] for name in element.names)
        ]
        line = self._formats.login.format(text=text, elements=", ".join(filter(None, told)))
        return f"{service}-login: {line}"

    def left(self, service: str, stream: Stream, why: str, attempt: Attempt) -> str:
        """The line for a connection that ends before a login. `why`: `Connection closed`."""
        what = f"auth failed, {attempt.failures} attempts" if attempt.failures else "no auth attempts"
        text = f"Disconnected: {why} ({what} in {attempt.seconds} secs)"
        return self.login(service, text, stream, shown(attempt.user), attempt.mech, attempt.session)

    def logout(self, counts: object, received: int, sent: int, session: str) -> str:
        """imap_logout_format. `counts` has the numbers as attributes."""
        logout = self._formats.logout
        values: dict[str, object] = {"input": received, "output": sent, "session": session}
        return logout.fill({name: values.get(name) or getattr(counts, name, 0) for name in logout.names})

    def prefix(self, service: str, user: str, stream: Stream, session: str) -> str:
        """What lines of a user's session begin with."""
        name, _, domain = user.partition("@")
        return self._formats.prefix.fill(
            {
                "service": service,
                "user": user,
                "username": name,
                "domain": domain,
                "rip": stream.peer[0],
                "lip": stream.local[0],
                "pid": self._pid,
                "uid": os.getuid(),
                "session": session,
            }
        )


def _security(stream: Stream) -> str:
    """`TLSv1.3 with cipher TLS_AES_256_GCM_SHA384 (256/256 bits)`; empty without TLS."""
    cipher = stream.tls.cipher() if stream.tls is not None else None
    if stream.tls is None or cipher is None:
        return ""
    name, _, bits = cipher
    return f"{stream.tls.version()} with cipher {name} ({bits}/{bits} bits)"


class Attempt:
    """What is known of a connection on which nobody has logged in."""

    __slots__ = ("failures", "mech", "seconds", "session", "user")

    def __init__(self, user: str, mech: str, failures: int, seconds: int, session: str) -> None:
        self.user = user
        self.mech = mech
        self.failures = failures
        self.seconds = seconds
        self.session = session


def shown(name: str) -> str:
    """A name from a client, fit for a line."""
    return "".join(char if char.isprintable() and char not in "<>" else "?" for char in name[:100])
