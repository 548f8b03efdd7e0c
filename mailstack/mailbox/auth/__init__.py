"""Authentication: passdb and userdb, password schemes, and the sockets on which other servers ask.

`Authenticator` answers "may this be?"; IMAP and POP3 sessions call it, `dovecot` and `saslauthd` serve it to
the MTA over the Dovecot authentication protocol and the saslauthd protocol.
"""

from mailstack.mailbox.auth.authenticator import Authenticator, Denied
from mailstack.mailbox.auth.users import Directory, Unavailable, User

__all__ = ["Authenticator", "Denied", "Directory", "Unavailable", "User"]
