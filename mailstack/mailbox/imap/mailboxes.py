"""CREATE DELETE RENAME SUBSCRIBE UNSUBSCRIBE. State: authenticated. RFC 3501 §6.3.3 to §6.3.7.

CREATE with what the mailbox is for: RFC 6154 §3.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from mailstack.mailbox.imap.errors import CommandError
from mailstack.mailbox.imap.metadata import checked_uses
from mailstack.mailbox.imap.notify import send_list
from mailstack.mailbox.imap.objectid import mailbox_id
from mailstack.storage.maildir import metadata, quota, subscriptions, tree
from mailstack.storage.maildir.names import unique_name
from mailstack.wire.imap import commands as c

if TYPE_CHECKING:
    from mailstack.mailbox.imap.session import Session


async def create(session: Session, tag: str, command: c.Create) -> str:
    # A trailing separator only declares that children are wanted (RFC 3501 §6.3.3).
    name = command.mailbox
    if len(name) > 1 and name.endswith(tree.SEPARATOR) and not name.endswith(tree.SEPARATOR * 2):
        name = name[:-1]
    uses = checked_uses(command.uses)
    if tree.canonical(name) == tree.INBOX or not tree.create(session.root, name):
        raise CommandError("NO [ALREADYEXISTS] Mailbox already exists")
    if uses:
        try:
            metadata.change(tree.path_of(session.root, name), {metadata.SPECIAL_USE: " ".join(uses).encode()})
        except OSError:
            await _remove(session, name)
            raise
    box = await session.service.store.open(session.root, name)
    session.service.store.unpin(box)
    return f"OK [MAILBOXID ({mailbox_id(box.folder)})] Create completed."


async def delete(session: Session, tag: str, command: c.Delete) -> str:
    name = tree.canonical(command.mailbox)
    if name == tree.INBOX:
        raise CommandError("NO [CANNOT] INBOX can't be deleted.")
    root = session.root
    if not tree.exists(root, name):
        if any(other.startswith(name + tree.SEPARATOR) for other in tree.names(root)):
            raise CommandError("NO [HASCHILDREN] Mailbox has children, delete them first.")
        raise CommandError(f"NO [NONEXISTENT] Mailbox doesn't exist: {name}")
    path = tree.path_of(root, name)
    if session.view is not None and session.view.box.folder.path == path:
        session.leave()
    await _remove(session, name)
    if session.service.quotas.active:
        quota.forget(root)
    return "OK Delete completed."


async def _remove(session: Session, name: str) -> None:
    store = session.service.store
    path = tree.path_of(session.root, name)
    away = tree.delete(session.root, name, unique_name(store.clock.time(), store.hostname))
    store.deleted(path)
    await asyncio.to_thread(tree.purge, away)


async def rename(session: Session, tag: str, command: c.Rename) -> str:
    old, new = tree.canonical(command.mailbox), tree.canonical(command.new)
    root = session.root
    store = session.service.store
    if new == tree.INBOX or tree.exists(root, new):
        raise CommandError("NO [ALREADYEXISTS] Target mailbox already exists")
    tree.check_name(new)
    if old == tree.INBOX:
        return await _rename_inbox(session, new)
    if new.startswith(old + tree.SEPARATOR):
        raise CommandError("NO [CANNOT] Can't rename mailbox under itself.")
    try:
        pairs = tree.rename(root, old, new)
    except FileNotFoundError:
        raise CommandError(f"NO [NONEXISTENT] Mailbox doesn't exist: {old}") from None
    except FileExistsError:
        raise CommandError("NO [ALREADYEXISTS] Target mailbox already exists") from None
    store.renamed(pairs)
    if session.rev2 and session.notifying is None:
        send_list(session, new, "", old)
    return "OK Rename completed."


async def _rename_inbox(session: Session, new: str) -> str:
    """RFC 3501 §6.3.5: the messages move to the new mailbox, INBOX stays, empty; its children stay too."""
    root = session.root
    store = session.service.store
    tree.create(root, new)
    inbox = await store.open(root)
    try:
        target = await store.open(root, new)
        try:
            await inbox.transfer(list(inbox.folder.uids), target, move=True)
        finally:
            store.unpin(target)
    finally:
        store.unpin(inbox)
    return "OK Rename completed."


async def subscribe(session: Session, tag: str, command: c.Subscribe) -> str:
    name = tree.canonical(command.mailbox)
    root = session.root
    if not command.subscribed:
        subscriptions.change(root, name, subscribed=False)
        return "OK Unsubscribe completed."
    if not tree.exists(root, name):
        raise CommandError(f"NO [NONEXISTENT] Mailbox doesn't exist: {name}")
    subscriptions.change(root, name, subscribed=True)
    return "OK Subscribe completed."
