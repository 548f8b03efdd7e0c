"""Authentication: passdb and userdb, password schemes, and the sockets on which other servers ask.

`Authenticator` answers "may this be?"; IMAP and POP3 sessions call it, `dovecot` and `saslauthd` serve it to
the MTA over the Dovecot authentication protocol and the saslauthd protocol.
"""

from mailstack.mailbox.auth.authenticator import Authenticator
from mailstack.mailbox.auth.exchange import Exchange
from mailstack.mailbox.auth.outcome import Client, Denied, NoLogin, Refused, Success
from mailstack.mailbox.auth.rows import Unavailable
from mailstack.mailbox.auth.users import Directory, User

__all__ = [
    "Authenticator",
    "Client",
    "Denied",
    "Directory",
    "Exchange",
    "NoLogin",
    "Refused",
    "Success",
    "Unavailable",
    "User",
]
