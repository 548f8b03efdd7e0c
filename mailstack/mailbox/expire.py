"""`autoexpunge` and `autoexpunge_max_mails`: what is too old or too much goes when a user leaves.

As in Dovecot, a message's age counts from when it came into the mailbox, and the oldest go first.
"""

from __future__ import annotations

from collections.abc import Iterable

from mailstack.config.dovecot import Mailbox
from mailstack.mailbox.views import MailStore
from mailstack.storage.maildir import tree
from mailstack.storage.maildir.folder import Folder

_LIMIT = 10_000
"""Messages of one mailbox that are removed at a time; the rest goes next time."""


async def expunge_old(store: MailStore, root: str, mailboxes: Iterable[Mailbox]) -> None:
    """Remove what the settings say from the mailboxes of the account at `root`. Raises `OSError`."""
    for setting in mailboxes:
        name = tree.canonical(setting.name, root)
        if not (setting.autoexpunge or setting.autoexpunge_max_mails) or not tree.exists(root, name):
            continue
        box = await store.open(root, name)
        try:
            uids = expired(box.folder, setting, store.clock.time())
            if uids:
                await box.expunge(uids)
        finally:
            store.unpin(box)


def expired(folder: Folder, setting: Mailbox, now: float) -> list[int]:
    """The UIDs of messages that have to go. Raises `OSError`."""
    most = setting.autoexpunge_max_mails
    over = len(folder.uids) - most if most else 0
    oldest = now - setting.autoexpunge if setting.autoexpunge else 0
    uids: list[int] = []
    for index, uid in enumerate(folder.uids):
        if len(uids) >= _LIMIT or (index >= over and folder.saved_date(index) >= oldest):
            break
        uids.append(uid)
    return uids
