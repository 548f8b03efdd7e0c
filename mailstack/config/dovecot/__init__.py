"""dovecot.conf as administrators write it, read into one frozen `DovecotConfig`.

`load(directory)` reads `dovecot.conf` in a folder and what it includes, and `mailstack.toml` beside it for
what Dovecot's own syntax has no word for (the saslauthd socket).
"""

from mailstack.config.dovecot.load import load
from mailstack.config.dovecot.location import parse_location
from mailstack.config.dovecot.model import (
    AclSettings,
    Database,
    DovecotConfig,
    InetListener,
    Mailbox,
    MailLocation,
    NamespaceSettings,
    Saslauthd,
    UnixListener,
)
from mailstack.config.dovecot.values import expand, user_variables

__all__ = [
    "AclSettings",
    "Database",
    "DovecotConfig",
    "InetListener",
    "MailLocation",
    "Mailbox",
    "NamespaceSettings",
    "Saslauthd",
    "UnixListener",
    "expand",
    "load",
    "parse_location",
    "user_variables",
]
