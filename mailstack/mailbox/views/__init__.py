"""The process's open mailboxes, shared by IMAP sessions, POP3 and LMTP, and each session's own view of one.

`MailStore` is made once per process. It holds one `SharedMailbox` per folder, however many sessions use it,
and keeps some that nobody uses just now. `MailStore.deliver` is LMTP's entry: durable, and seen at once by
idling sessions.

Everything runs in the event loop's thread but the disk work handed to threads, which gets copies of what it
needs. `SharedMailbox.lock` orders changes; it is never held while waiting for a client.
"""

from mailstack.mailbox.views.shared import KeywordsFullError, SharedMailbox
from mailstack.mailbox.views.store import MailStore
from mailstack.mailbox.views.view import Updates, View

__all__ = ["KeywordsFullError", "MailStore", "SharedMailbox", "Updates", "View"]
