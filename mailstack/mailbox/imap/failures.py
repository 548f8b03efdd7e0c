"""Errors that are not the client's fault, or not altogether, as replies."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from mailstack.mailbox.imap.errors import Disconnect
from mailstack.mailbox.views import KeywordsFullError
from mailstack.storage.maildir.listing import FolderGoneError
from mailstack.storage.maildir.roots import NoNamespaceError
from mailstack.storage.maildir.tree import MailboxNameError

if TYPE_CHECKING:
    from mailstack.mailbox.imap.session import Session

_STORING = frozenset(
    (
        "APPEND",
        "REPLACE",
        "COPY",
        "MOVE",
        "CREATE",
        "RENAME",
        "STORE",
        "SUBSCRIBE",
        "UNSUBSCRIBE",
        "SETMETADATA",
    )
)
"""Commands (with UID or without) that need room on the disk; others only fail there."""


def failure(session: Session, name: str, error: Exception) -> str:
    """The reply for an error that is not the client's fault, or not altogether."""
    match error:
        case NoNamespaceError():
            return f"NO {error}"
        case MailboxNameError():
            return f"NO [CANNOT] Invalid mailbox name: {error}"
        case KeywordsFullError():
            return f"NO [LIMIT] {error}"
        case FolderGoneError():
            raise Disconnect("Selected mailbox was deleted, have to disconnect.")
        case OSError() if error.errno == errno.EROFS:
            return "NO [NOPERM] Mailbox is read-only."
        case OSError() if (
            error.errno in (errno.ENOSPC, errno.EDQUOT) and name.removeprefix("UID ") in _STORING
        ):
            session.service.log.error(f"imap: {name}: {error}")
            return "NO [OVERQUOTA] Not enough disk space"
        case OSError():
            session.service.log.error(f"imap: {name}: {error}")
            return "NO [UNAVAILABLE] The mail storage failed, see the server's log"
    return f"NO {error}"
