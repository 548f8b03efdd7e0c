"""CREATE DELETE RENAME SUBSCRIBE UNSUBSCRIBE. State: authenticated. RFC 3501 §6.3.3 to §6.3.7.

CREATE with what the mailbox is for: RFC 6154 §3.
"""

from __future__ import annotations

import asyncio
import errno
from typing import TYPE_CHECKING

from mailstack.mailbox.imap import acl
from mailstack.mailbox.imap.errors import CommandError
from mailstack.mailbox.imap.metadata import checked_uses, is_own
from mailstack.mailbox.imap.notify import send_list
from mailstack.mailbox.imap.objectid import mailbox_id
from mailstack.storage.maildir import metadata, quota, subscriptions, tree
from mailstack.storage.maildir.names import unique_name
from mailstack.storage.maildir.roots import Account
from mailstack.wire.imap import commands as c

if TYPE_CHECKING:
    from mailstack.mailbox.imap.session import Session


async def create(session: Session, tag: str, command: c.Create) -> str:
    # A trailing separator only declares that children are wanted (RFC 3501 §6.3.3).
    name = command.mailbox
    separator = tree.separator_of(session.root)
    if len(name) > 1 and name.endswith(separator) and not name.endswith(separator * 2):
        name = name[:-1]
    uses = checked_uses(command.uses)
    _check_create(session, name)
    if uses and not is_own(session.root, name):
        raise CommandError("NO [USEATTR] Several users share this mailbox.")
    if tree.canonical(name, session.root) == tree.INBOX or not tree.create(session.root, name):
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


def _check_namespace(root: str, name: str) -> None:
    """Raises `MailboxNameError` for a name that is in none."""
    try:
        tree.located(root, name)
    except FileNotFoundError:
        pass  # it is the namespace itself, or somebody's who does not exist


def _check_create(session: Session, name: str) -> None:
    root = session.root
    if isinstance(root, Account):
        try:
            place = root.resolve(name)
        except FileNotFoundError:
            raise CommandError(acl.DENIED) from None  # another user who does not exist
        if not (place.inner or place.root.inboxless):
            raise CommandError("NO [CANNOT] Mailbox can't be created.")
        acl.need_above(session, name)


async def delete(session: Session, tag: str, command: c.Delete) -> str:
    root = session.root
    name = tree.canonical(command.mailbox, root)
    if name == tree.INBOX:
        raise CommandError("NO [CANNOT] INBOX can't be deleted.")
    _check_namespace(root, name)
    rights = tree.rights(root, name)
    if not tree.exists(root, name) or "l" not in rights:
        if any(other.startswith(name + tree.separator_of(root)) for other in tree.names(root)):
            raise CommandError("NO [HASCHILDREN] Mailbox has children, delete them first.")
        raise acl.missing(session, name)
    path = tree.path_of(root, name)
    if "x" not in rights:
        raise CommandError(acl.DENIED)
    if path == tree.inbox_of(tree.located(root, name)[0]):
        raise CommandError("NO [CANNOT] Storage root can't be deleted.")
    if session.view is not None and session.view.box.folder.path == path:
        session.leave()
    await _remove(session, name)
    if session.service.quotas.active:
        quota.forget(root)
    _shared_otherwise(session, name)
    return "OK Delete completed."


def _shared_otherwise(session: Session, name: str) -> None:
    """The ACLs of a mailbox are gone, or elsewhere."""
    if isinstance(session.root, Account):
        acl.tell_shared(session.root, name)


async def _remove(session: Session, name: str) -> None:
    store = session.service.store
    path = tree.path_of(session.root, name)
    away = tree.delete(session.root, name, unique_name(store.clock.time(), store.hostname))
    store.deleted(path)
    await asyncio.to_thread(tree.purge, away)


async def rename(session: Session, tag: str, command: c.Rename) -> str:
    root = session.root
    old, new = tree.canonical(command.mailbox, root), tree.canonical(command.new, root)
    store = session.service.store
    _check_rename(session, old, new)
    if new == tree.INBOX or tree.exists(root, new):
        raise CommandError("NO [ALREADYEXISTS] Target mailbox already exists")
    if not isinstance(root, Account):
        tree.check_name(new)
    if old == tree.INBOX:
        return await _rename_inbox(session, new)
    if new.startswith(old + tree.separator_of(root)):
        raise CommandError("NO [CANNOT] Can't rename mailbox under itself.")
    try:
        pairs = tree.rename(root, old, new)
    except FileNotFoundError:
        raise CommandError(f"NO [NONEXISTENT] Mailbox doesn't exist: {old}") from None
    except FileExistsError:
        raise CommandError("NO [ALREADYEXISTS] Target mailbox already exists") from None
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        raise CommandError("NO [CANNOT] The namespaces lie on different file systems.") from None
    store.renamed(pairs, tree.located(root, new)[0])
    if session.service.quotas.active and isinstance(root, Account):
        quota.forget(root)
    _shared_otherwise(session, new)
    if session.rev2 and session.notifying is None:
        send_list(session, new, "", old)
    return "OK Rename completed."


def _check_rename(session: Session, old: str, new: str) -> None:
    """Renaming is for who may delete the one and create the other (RFC 4314 §4)."""
    root = session.root
    if not isinstance(root, Account):
        return
    try:
        source, target = root.resolve(old), root.resolve(new)
    except FileNotFoundError:
        raise acl.missing(session, old) from None
    if source.root != target.root and {source.space.type, target.space.type} != {"private"}:
        raise CommandError("NO [CANNOT] Renaming not supported across non-private namespaces.")
    rights = tree.rights(root, old)
    if old != tree.INBOX:
        if "l" not in rights:
            raise acl.missing(session, old)
        if "x" not in rights:
            raise CommandError(acl.DENIED)
    is_root = not source.inner or (source.inner == tree.INBOX and not source.root.inboxless)
    if not target.inner or (old != tree.INBOX and is_root):
        raise CommandError("NO [CANNOT] A namespace can't be renamed.")
    acl.need_above(session, new)


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
    if session.service.quotas.active and isinstance(root, Account):
        quota.forget(root)  # they may have left the namespace that is counted
    return "OK Rename completed."


async def subscribe(session: Session, tag: str, command: c.Subscribe) -> str:
    root = session.root
    name = tree.canonical(command.mailbox, root)
    _check_namespace(root, name)
    if not command.subscribed:
        subscriptions.change(root, name, subscribed=False)
        return "OK Unsubscribe completed."
    if not tree.rights(root, name) or not tree.exists(root, name):
        raise acl.missing(session, name)
    subscriptions.change(root, name, subscribed=True)
    return "OK Subscribe completed."
