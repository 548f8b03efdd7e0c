"""LIST LSUB STATUS. State: authenticated. RFC 3501 §6.3.8 to §6.3.10; LIST as RFC 5258 extends it, with
SPECIAL-USE (RFC 6154) and STATUS (RFC 5819), whose SIZE is RFC 8438; METADATA (RFC 9590),
DELETED-STORAGE (RFC 9208 §5.2); CHILDREN (RFC 3348) always.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from mailstack.mailbox.imap.errors import CommandError
from mailstack.mailbox.imap.metadata import send_metadata, special_uses
from mailstack.mailbox.imap.objectid import mailbox_id
from mailstack.mailbox.views import SharedMailbox
from mailstack.storage.maildir import subscriptions, tree
from mailstack.storage.maildir.names import DELETED, SEEN
from mailstack.wire.imap import commands as c

if TYPE_CHECKING:
    from mailstack.mailbox.imap.session import Session


async def list_mailboxes(session: Session, tag: str, command: c.List) -> str:
    if command.patterns == ("",) and not command.extended:
        session.line('* LIST (\\Noselect) "." ""')
        return "OK List completed."
    root = session.root
    existing = tree.names(root)
    subscribed = set(subscriptions.read(root))
    names = set(existing)
    if "SUBSCRIBED" in command.selection:
        names = {tree.canonical(name) for name in subscribed}
    recursive = "RECURSIVEMATCH" in command.selection
    special = special_uses(session, existing)
    # A parent that is no mailbox is listed too, when the pattern means it but not its children.
    shown = _with_parents(names if "SUBSCRIBED" not in command.selection or recursive else ())
    patterns = [command.reference + pattern for pattern in command.patterns]
    everything = _with_parents(existing)
    for name in _sorted(names | shown):
        if not any(matches(pattern, name) for pattern in patterns):
            continue
        if "SPECIAL-USE" in command.selection and name not in special:
            continue
        attributes = []
        if name not in existing:
            attributes.append("\\NonExistent" if command.extended else "\\Noselect")
        if name in subscribed and ({"SUBSCRIBED"} & (command.returns | command.selection)):
            attributes.append("\\Subscribed")
        below = any(other.startswith(name + tree.SEPARATOR) for other in everything)
        attributes.append("\\HasChildren" if below else "\\HasNoChildren")
        attributes += special.get(name, ())
        line = b'* LIST (%b) "." %b' % (" ".join(attributes).encode(), session.mailbox(name))
        if recursive and any(other.startswith(name + tree.SEPARATOR) for other in subscribed):
            line += b' ("CHILDINFO" ("SUBSCRIBED"))'
        elif recursive and name not in names:
            continue
        session.send(line + b"\r\n")
        if command.status and name in existing:
            await _send_status(session, name, command.status)
        if command.metadata is not None and name in existing:
            send_metadata(session, name, command.metadata)
        if session.full:
            await session.flush()
    return "OK List completed."


async def lsub(session: Session, tag: str, command: c.Lsub) -> str:
    names = {tree.canonical(name) for name in subscriptions.read(session.root)}
    special = special_uses(session, [name for name in names if tree.exists(session.root, name)])
    pattern = command.reference + command.pattern
    for name in _sorted(names | _with_parents(names)):
        if not matches(pattern, name):
            continue
        if name in names:
            attributes = " ".join(special.get(name, ()))
        elif pattern.endswith("%"):
            attributes = "\\Noselect"
        else:
            continue
        session.send(b'* LSUB (%b) "." %b\r\n' % (attributes.encode(), session.mailbox(name)))
    return "OK Lsub completed."


async def status(session: Session, tag: str, command: c.Status) -> str:
    try:
        await _send_status(session, command.mailbox, command.items)
    except FileNotFoundError:
        raise CommandError(f"NO [NONEXISTENT] Mailbox doesn't exist: {command.mailbox}") from None
    return "OK Status completed."


async def _send_status(session: Session, name: str, items: Iterable[str]) -> None:
    store = session.service.store
    if "HIGHESTMODSEQ" in items:
        session.use_condstore()
    box = await store.open(session.root, name)
    try:
        limit = session.service.settings.message_limit
        values = " ".join(
            f"{item} {limit if item == 'APPENDLIMIT' else _status_value(box, item)}" for item in items
        )
    finally:
        store.unpin(box)
    session.send(b"* STATUS %b (%b)\r\n" % (session.mailbox(name), values.encode("ascii")))


def _status_value(box: SharedMailbox, item: str) -> int | str:
    folder = box.folder
    match item:
        case "MESSAGES":
            return len(folder.uids)
        case "RECENT":
            return sum(1 for uid in folder.uids if uid >= folder.recent_from)
        case "UIDNEXT":
            return folder.next_uid
        case "UIDVALIDITY":
            return folder.uid_validity
        case "UNSEEN":
            return sum(1 for flags in folder.flags if not flags & SEEN)
        case "DELETED":
            return sum(1 for flags in folder.flags if flags & DELETED)
        case "DELETED-STORAGE":
            return sum(box.wire_size(at) for at, flags in enumerate(folder.flags) if flags & DELETED)
        case "HIGHESTMODSEQ":
            return folder.highest_modseq
        case "MAILBOXID":
            return f"({mailbox_id(folder)})"
        case _:
            return sum(box.wire_size(index) for index in range(len(folder.uids)))


def _with_parents(names: Iterable[str]) -> set[str]:
    """The names and every name above them."""
    result = set()
    for name in names:
        result.add(name)
        while (at := name.rfind(tree.SEPARATOR)) > 0:
            name = name[:at]
            result.add(name)
    return result


def _sorted(names: Iterable[str]) -> list[str]:
    return sorted(names, key=lambda name: (name != tree.INBOX, name))


def matches(pattern: str, name: str) -> bool:
    """`*` stands for anything, `%` for anything without a separator; INBOX in any case.

    Takes time in proportion to the product of the lengths, whatever the pattern.
    """
    if name == tree.INBOX and pattern.upper() == tree.INBOX:
        return True
    reached = {0}
    for char in pattern:
        if char == "*":
            reached = set(range(min(reached), len(name) + 1))
        elif char == "%":
            spread: set[int] = set()
            for start in reached:
                end = name.find(tree.SEPARATOR, start)
                spread.update(range(start, (len(name) if end < 0 else end) + 1))
            reached = spread
        else:
            reached = {at + 1 for at in reached if at < len(name) and name[at] == char}
        if not reached:
            return False
    return len(name) in reached
