"""LIST LSUB STATUS. State: authenticated. RFC 3501 §6.3.8 to §6.3.10; LIST as RFC 5258 extends it, with
SPECIAL-USE (RFC 6154) and STATUS (RFC 5819), whose SIZE is RFC 8438; METADATA (RFC 9590),
DELETED-STORAGE (RFC 9208 §5.2); CHILDREN (RFC 3348) always.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from mailstack.mailbox.imap import acl
from mailstack.mailbox.imap.errors import CommandError
from mailstack.mailbox.imap.metadata import is_annotated, send_metadata, special_uses
from mailstack.mailbox.imap.objectid import mailbox_id
from mailstack.mailbox.views import SharedMailbox
from mailstack.storage.maildir import subscriptions, tree
from mailstack.storage.maildir.names import DELETED, SEEN
from mailstack.storage.maildir.roots import Account, Namespace
from mailstack.wire.imap import commands as c

if TYPE_CHECKING:
    from mailstack.mailbox.imap.session import Session


async def list_mailboxes(session: Session, tag: str, command: c.List) -> str:
    root = session.root
    separator = tree.separator_of(root)
    if command.patterns == ("",) and not command.extended:
        prefix = _prefix(root, command.reference)
        shown = session.mailbox(prefix) if prefix else b'""'
        session.send(b'* LIST (\\Noselect) "%b" %b\r\n' % (separator.encode(), shown))
        return "OK List completed."
    if "MYRIGHTS" in command.returns and not acl.is_told(session):
        raise CommandError("BAD Error in IMAP command LIST: Unknown return option MYRIGHTS.")
    patterns = [command.reference + pattern for pattern in command.patterns]
    existing, tops = _existing(root, patterns)
    subscribed = _subscribed(root, patterns)
    names = set(existing)
    if "SUBSCRIBED" in command.selection:
        names = set(subscribed)
    recursive = "RECURSIVEMATCH" in command.selection
    special = special_uses(session, existing)
    # A parent that is no mailbox is listed too, when the pattern means it but not its children.
    parents = () if "SUBSCRIBED" in command.selection and not recursive else names
    if "SUBSCRIBED" not in command.selection:
        parents = {*names, *tops}
    everything = _with_parents([*existing, *tops], separator)

    def meant(name: str) -> bool:
        return any(matches(pattern, name, separator) for pattern in patterns)

    # Of those that are listed themselves nothing more need be said (RFC 5258 §3.5).
    unlisted = [name for name in subscribed if not meant(name)] if recursive else []
    for name in _sorted(names | _with_parents(parents, separator)):
        if not meant(name):
            continue
        if "SPECIAL-USE" in command.selection and name not in special:
            continue
        attributes = []
        if name not in existing:
            attributes.append("\\NonExistent" if command.extended else "\\Noselect")
        if name in subscribed and ({"SUBSCRIBED"} & (command.returns | command.selection)):
            attributes.append("\\Subscribed")
        below = any(other.startswith(name + separator) for other in everything)
        attributes.append("\\HasChildren" if below else "\\HasNoChildren")
        attributes += special.get(name, ())
        line = b'* LIST (%b) "%b" %b' % (
            " ".join(attributes).encode(),
            separator.encode(),
            session.mailbox(name),
        )
        if recursive and any(other.startswith(name + separator) for other in unlisted):
            line += b' ("CHILDINFO" ("SUBSCRIBED"))'
        elif recursive and name not in names:
            continue
        session.send(line + b"\r\n")
        if "MYRIGHTS" in command.returns and name in existing:
            acl.send_my_rights(session, name)
        if command.status and name in existing and "r" in tree.rights(root, name):
            await _send_status(session, name, command.status)
        if command.metadata is not None and name in existing and is_annotated(session, name):
            send_metadata(session, name, command.metadata)
        if session.full:
            await session.flush()
    return "OK List completed."


async def lsub(session: Session, tag: str, command: c.Lsub) -> str:
    root = session.root
    separator = tree.separator_of(root)
    pattern = command.reference + command.pattern
    names = _subscribed(root, [pattern])
    special = special_uses(session, [name for name in names if tree.exists(session.root, name)])
    for name in _sorted(names | _with_parents(names, separator)):
        if not matches(pattern, name, separator):
            continue
        if name in names:
            attributes = " ".join(special.get(name, ()))
        elif pattern.endswith("%"):
            attributes = "\\Noselect"
        else:
            continue
        session.send(
            b'* LSUB (%b) "%b" %b\r\n' % (attributes.encode(), separator.encode(), session.mailbox(name))
        )
    return "OK Lsub completed."


async def status(session: Session, tag: str, command: c.Status) -> str:
    acl.need(session, command.mailbox, "r")
    try:
        await _send_status(session, command.mailbox, command.items)
    except FileNotFoundError:
        raise acl.missing(session, command.mailbox) from None
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


def _existing(root: str, patterns: list[str]) -> tuple[list[str], list[str]]:
    """The mailboxes that may be listed, and the prefixes of namespaces that are. Those that are not listed
    are when a pattern begins with their prefix."""
    if not isinstance(root, Account):
        return tree.names(root), []
    spaces = [space for space in root.spaces if _is_listed(space, patterns)]
    tops = [space.fixed[:-1] for space in spaces if space.list == "yes" and space.fixed]
    return list(tree.visible(root, spaces)), [top for top in tops if top != tree.INBOX]


def _is_listed(space: Namespace, patterns: list[str]) -> bool:
    return space.list != "no" or any(pattern.startswith(space.fixed) for pattern in patterns)


def _subscribed(root: str, patterns: list[str]) -> set[str]:
    """The subscribed names, but those of namespaces that are not listed."""
    names = {tree.canonical(name, root) for name in subscriptions.read(root)}
    if not isinstance(root, Account):
        return names
    return {name for name in names if name == tree.INBOX or _is_listed(root.space_of(name)[0], patterns)}


def _prefix(root: str, reference: str) -> str:
    """The prefix of the namespace that a reference is in."""
    if not isinstance(root, Account):
        return ""
    return next((space.fixed for space in root.spaces if reference.startswith(space.fixed)), "")


def _with_parents(names: Iterable[str], separator: str) -> set[str]:
    """The names and every name above them."""
    result = set()
    for name in names:
        result.add(name)
        while (at := name.rfind(separator)) > 0:
            name = name[:at]
            result.add(name)
    return result


def _sorted(names: Iterable[str]) -> list[str]:
    return sorted(names, key=lambda name: (name != tree.INBOX, name))


def matches(pattern: str, name: str, separator: str = tree.SEPARATOR) -> bool:
    """`*` stands for anything, `%` for anything without a separator; INBOX in any case.

    Takes time in proportion to the product of the lengths, whatever the pattern.
    """
    if name == tree.INBOX and pattern.upper() == tree.INBOX:
        return True
    if pattern[:5].upper() == tree.INBOX and pattern[5:6] in (separator, "*", "%"):
        pattern = tree.INBOX + pattern[5:]
    reached = {0}
    for char in pattern:
        if char == "*":
            reached = set(range(min(reached), len(name) + 1))
        elif char == "%":
            spread: set[int] = set()
            for start in reached:
                end = name.find(separator, start)
                spread.update(range(start, (len(name) if end < 0 else end) + 1))
            reached = spread
        else:
            reached = {at + 1 for at in reached if at < len(name) and name[at] == char}
        if not reached:
            return False
    return len(name) in reached
