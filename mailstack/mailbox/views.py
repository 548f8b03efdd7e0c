"""The process's open mailboxes, shared by IMAP sessions, POP3 and LMTP.

`MailStore` is made once per process. `deliver` is LMTP's entry: durable, and seen at once by idling sessions.
"""

from __future__ import annotations

from collections.abc import Sequence

from mailstack.net.clock import Clock
from mailstack.storage.durable import GroupCommit
from mailstack.storage.maildir import prepare_delivery


class MailStore:
    """All mailboxes of the process."""

    def __init__(self, commit: GroupCommit, clock: Clock, hostname: str) -> None:
        self.commit = commit
        self.clock = clock
        self.hostname = hostname

    async def deliver(self, root: str, data: Sequence[bytes | memoryview]) -> None:
        """Put a message into the INBOX of the Maildir at `root`. Durable on return. Raises `OSError`."""
        await self.commit.publish(prepare_delivery(root, data, self.clock.time(), self.hostname))
