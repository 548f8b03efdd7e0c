"""NOTIFY (state: authenticated; RFC 5465): what happens in the user's mailboxes is told without being asked.

What the selected mailbox has to tell goes the way of all news (`Session.sync`), between two commands too. Of
the others only places where something has happened are kept (`views.notices`); when the session has its turn,
how they stand is compared with what the client knows. So a client that reads nothing costs no more than what
it knows already. Of a mailbox that several groups mean, the first one counts. LIST and STATUS responses are
Dovecot's; a mailbox that the session itself has changed is told like any other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mailstack.mailbox.imap import fetch
from mailstack.mailbox.imap.errors import CommandError
from mailstack.mailbox.imap.metadata import is_annotated, is_own
from mailstack.mailbox.imap.notify_status import (
    EVERYTHING,
    Standing,
    changes_since,
    send_standing,
    standing_of,
)
from mailstack.mailbox.views.notices import Notice
from mailstack.mailbox.views.watched_account import NoticesFullError, is_another
from mailstack.storage.maildir import metadata, subscriptions, tree
from mailstack.wire.imap import commands as c
from mailstack.wire.imap.encode import astring
from mailstack.wire.imap.notify import (
    EVENTS,
    FLAG_CHANGE,
    MAILBOX_METADATA,
    MAILBOX_NAME,
    MESSAGE_EXPUNGE,
    MESSAGE_NEW,
    MESSAGES,
    SERVER_METADATA,
    SUBSCRIPTION_CHANGE,
    EventGroup,
    Notify,
)

if TYPE_CHECKING:
    from mailstack.mailbox.imap.session import Session

NAMES_MAX = 100
"""Mailboxes that one command may name, as in Dovecot."""
DIRECT = frozenset({"EXPUNGE", "UID EXPUNGE", "MOVE", "UID MOVE", "APPEND"})
"""Commands whose own effect is told in any case."""


@dataclass(slots=True)
class Notifying:
    """What a session wants to hear, and what it has heard. `notice` None: of no other mailbox."""

    root: str
    groups: tuple[EventGroup, ...]
    notice: Notice | None = None
    selected: EventGroup | None = None
    names: Mapping[str, str] = field(default_factory=dict)
    subscribed: frozenset[str] = frozenset()
    stands: dict[str, Standing] = field(default_factory=dict)
    entries: dict[str, dict[str, int]] = field(default_factory=dict)
    """Annotations by mailbox, each with a checksum of its value; the server's own by the empty name."""

    @property
    def hears(self) -> bool:
        """Whether the client wants to hear of the selected mailbox."""
        return self.selected is not None and MESSAGE_NEW in self.selected.events

    @property
    def hears_flags(self) -> bool:
        return self.selected is not None and FLAG_CHANGE in self.selected.events

    @property
    def at_once(self) -> bool:
        """Whether an EXPUNGE may come at any time."""
        return self.selected is not None and self.selected.filter == "SELECTED"

    def events(self, name: str, subscribed: Iterable[str]) -> frozenset[str]:
        """What is to be told of a mailbox."""
        for group in self.groups:
            if _means(self.root, group, name, subscribed):
                return group.events
        return frozenset()

    def wants(self, event: str) -> bool:
        """Whether any group has the event."""
        return any(event in group.events for group in self.groups)

    def close(self) -> None:
        if self.notice is not None:
            self.notice.close()


def _means(root: str, group: EventGroup, name: str, subscribed: Iterable[str]) -> bool:
    """Whether a mailbox is one of a group's (RFC 5465 §6)."""
    match group.filter:
        case "SUBSCRIBED":
            return name in subscribed
        case "SUBTREE":
            separator = tree.separator_of(root)
            tops = [tree.canonical(top, root) for top in group.mailboxes]
            return any(name == top or name.startswith(top + separator) for top in tops)
        case "MAILBOXES":
            return any(name == tree.canonical(other, root) for other in group.mailboxes)
        case _:
            # INBOXES as well: mail is delivered into any of them.
            try:
                return is_own(root, name)
            except (FileNotFoundError, tree.MailboxNameError):
                return False


def is_usable(session: Session) -> bool:
    """Whether the mailboxes can be watched."""
    return session.service.store.notices.usable


async def notify(session: Session, tag: str, command: Notify) -> str:
    groups = command.groups or ()
    unknown = {event for group in groups for event in group.events} - EVENTS.keys()
    if unknown:
        known = " ".join(EVENTS.values())
        raise CommandError(f"NO [BADEVENT ({known})] Unsupported NOTIFY events.")
    if any(len(group.mailboxes) > NAMES_MAX for group in groups):
        raise CommandError("NO [NOTIFICATIONOVERFLOW] Too many mailbox names")
    notifying = Notifying(session.root, tuple(group for group in groups if not group.is_selected))
    notifying.selected = next((group for group in groups if group.is_selected), None)
    if any(group.events for group in notifying.groups):
        try:
            notifying.notice = session.service.store.notices.open(session.root, session.awaken)
            await _begin(session, notifying, status=command.status)
        except NoticesFullError as error:
            notifying.close()
            raise CommandError(f"NO [NOTIFICATIONOVERFLOW] Cannot watch these mailboxes: {error}") from None
        except BaseException:
            notifying.close()
            raise
    leave(session)
    session.notifying = notifying
    return "OK NOTIFY completed."


def leave(session: Session) -> None:
    """Hear of the selected mailbox only, and only when asked: the state before any NOTIFY."""
    if session.notifying is not None:
        session.notifying.close()
        session.notifying = None
        if session.view is not None:
            session.view.wake = None


def listen(session: Session) -> None:
    """Be woken by the selected mailbox, if the client wants that."""
    if session.view is not None and session.notifying is not None and session.notifying.hears:
        session.view.wake = session.awaken


# ---- the beginning


async def _begin(session: Session, notifying: Notifying, *, status: bool) -> None:
    notice = notifying.notice
    assert notice is not None
    notifying.names = notice.names()
    notifying.subscribed = _subscribed(session)
    _follow(session, notifying)
    for name, followed in sorted(notice.followed):
        if not followed:
            notifying.entries[name] = _entries(session.root, name)
        else:
            stands = await _look(session, notifying, name, None)
            if status and stands is not None:
                send_standing(session, name, stands, EVERYTHING, flags=notifying.wants(FLAG_CHANGE))
        if session.full:
            await session.flush()
    if notifying.wants(SERVER_METADATA):
        notifying.entries[""] = _server_entries(session)


def _follow(session: Session, notifying: Notifying) -> None:
    """Of whose messages and annotations the client wants to hear, and may."""
    assert notifying.notice is not None
    root = notifying.root
    wanted = [(name, notifying.events(name, notifying.subscribed)) for name in notifying.names]
    messages = [name for name, events in wanted if events & MESSAGES and "r" in tree.rights(root, name)]
    entries = [name for name, events in wanted if MAILBOX_METADATA in events and is_annotated(session, name)]
    notifying.notice.follow(messages, entries)


def _subscribed(session: Session) -> frozenset[str]:
    root = session.root
    return frozenset(tree.canonical(name, root) for name in subscriptions.read(root))


def _entries(root: str, name: str) -> dict[str, int]:
    """The annotations of a mailbox that the user may read, each with a checksum."""
    try:
        found = metadata.read(tree.path_of(root, name))
    except (FileNotFoundError, tree.MailboxNameError):
        return {}
    own = is_own(root, name)
    return {entry: hash(value) for entry, value in found.items() if own or not entry.startswith("/private")}


def _server_entries(session: Session) -> dict[str, int]:
    found = {name: hash(value) for name, value in metadata.read(session.root, metadata.SERVER_FILE).items()}
    found.update({name: hash(text) for name, text in session.service.settings.server_entries})
    return found


# ---- what has happened


async def push(session: Session) -> None:
    """Tell the client what has happened, between two of its commands."""
    notifying = session.notifying
    assert notifying is not None
    if session.view is not None and notifying.hears:
        await session.sync(expunge=notifying.at_once)
    await tell(session)


async def tell(session: Session) -> None:
    """Tell the client what has happened in other mailboxes than the selected one."""
    notifying = session.notifying
    if notifying is None or (notice := notifying.notice) is None:
        return
    session.service.store.notices.poll()
    if not notice.pending:
        return
    try:
        if notice.mailboxes:
            _tell_names(session, notifying, notice)
        if notice.subscriptions:
            _tell_subscriptions(session, notifying, notice)
        if notice.server:
            notice.server = False
            if notifying.wants(SERVER_METADATA):
                _tell_entries(session, notifying, "", _server_entries(session))
        while notice.entries:
            name = notice.entries.pop()
            _tell_entries(session, notifying, name, _entries(session.root, name))
        while notice.boxes:
            await _tell_standing(session, notifying, notice.boxes.pop())
            if session.full:
                await session.flush()
    except NoticesFullError as error:
        leave(session)
        session.notifying = Notifying(session.root, ())
        session.line(f"* OK [NOTIFICATIONOVERFLOW] No more notifications: {error}")
    except OSError as error:
        if isinstance(error, ConnectionError | TimeoutError):
            raise
        session.service.log.error(f"imap: NOTIFY: {error}")
        session.line("* NO NOTIFY error, some events may have got lost")


async def new_messages(session: Session, first: int, last: int) -> None:
    """What the client wants to know of messages that it has just heard of; sequence numbers."""
    notifying = session.notifying
    if notifying is None or notifying.selected is None or not notifying.selected.items:
        return
    view = session.selected
    uid = session.uidonly
    numbers = (view.uid(first), view.uid(last)) if uid else (first, last)
    await fetch.fetch(session, "*", c.Fetch((numbers,), notifying.selected.items, uid))


def _tell_names(session: Session, notifying: Notifying, notice: Notice) -> None:
    old, new = notifying.names, notice.names()
    if old is new:
        return
    notifying.names = new
    come = [name for name, guid in new.items() if is_another(guid, old.get(name))]
    gone = {name: guid for name, guid in old.items() if is_another(guid, new.get(name))}
    before = {guid: name for name, guid in gone.items() if guid}
    renamed = {name: before[new[name]] for name in come if new[name] in before}
    for name in sorted(gone.keys() - renamed.values()):
        notifying.stands.pop(name, None)
        notifying.entries.pop(name, None)
        _tell_name(session, notifying, name, "\\NonExistent")
    for name in come:
        was = renamed.get(name, "")
        _tell_name(session, notifying, name, "", was)
        if was and was in notifying.stands:
            notifying.stands[name] = notifying.stands.pop(was)
        if was and was in notifying.entries:
            notifying.entries[name] = notifying.entries.pop(was)
    _follow(session, notifying)
    # What has come may have been filled before it was watched.
    for name, followed in notice.followed:
        if name in come:
            (notice.boxes if followed else notice.entries).add(name)


def _tell_name(session: Session, notifying: Notifying, name: str, attribute: str, was: str = "") -> None:
    """A mailbox has come, gone or got another name (RFC 5465 §5.4)."""
    subscribed = notifying.subscribed
    told = MAILBOX_NAME in notifying.events(name, subscribed)
    if told or (was and MAILBOX_NAME in notifying.events(was, subscribed)):
        send_list(session, name, attribute, was)


def send_list(session: Session, name: str, attribute: str, was: str = "") -> None:
    """LIST of one mailbox; `was`: the name it had before (RFC 9051 §6.3.9.7)."""
    old = b' ("OLDNAME" (%b))' % session.mailbox(was) if was else b""
    separator = tree.separator_of(session.root).encode()
    session.send(b'* LIST (%b) "%b" %b%b\r\n' % (attribute.encode(), separator, session.mailbox(name), old))


def _tell_subscriptions(session: Session, notifying: Notifying, notice: Notice) -> None:
    """RFC 5465 §5.5; other mailboxes may be meant from now on."""
    notice.subscriptions = False
    old, new = notifying.subscribed, _subscribed(session)
    if old == new:
        return
    either = old | new
    notifying.subscribed = new
    for name in sorted(old ^ new):
        if SUBSCRIPTION_CHANGE in notifying.events(name, either):
            there = () if name in notifying.names else ("\\NonExistent",)
            attributes = (*there, "\\Subscribed") if name in new else there
            send_list(session, name, " ".join(attributes))
    before = notice.followed
    _follow(session, notifying)
    for name, followed in notice.followed - before:
        if followed:
            notice.boxes.add(name)
        else:
            notifying.entries[name] = _entries(session.root, name)
    for name, followed in before - notice.followed:
        (notifying.stands if followed else notifying.entries).pop(name, None)


def _tell_entries(session: Session, notifying: Notifying, name: str, new: dict[str, int]) -> None:
    """Which annotations are others now, without their values (RFC 5464 §4.4.2)."""
    old = notifying.entries.get(name, {})
    notifying.entries[name] = new
    changed = sorted(entry for entry in old.keys() | new.keys() if old.get(entry) != new.get(entry))
    if changed:
        shown = session.mailbox(name) if name else b'""'
        names = b" ".join(astring(entry.encode()) for entry in changed)
        session.send(b"* METADATA %b %b\r\n" % (shown, names))


# ---- STATUS


async def _tell_standing(session: Session, notifying: Notifying, name: str) -> None:
    old = notifying.stands.get(name)
    events = notifying.events(name, notifying.subscribed)
    changed: set[str] = set()
    new = await _look(session, notifying, name, changed)
    if new is None or new == old or (old is None and not new.messages):
        return
    if old is None or new.uid_validity != old.uid_validity:
        items = EVERYTHING
    elif changed & events & {MESSAGE_NEW, MESSAGE_EXPUNGE}:
        items = frozenset({"messages", "next_uid", "unseen", "modseq"})
    elif changed & events:
        items = frozenset({"unseen", "modseq"} if new.unseen != old.unseen else {"modseq"})
    else:
        return
    send_standing(session, name, new, items, flags=notifying.wants(FLAG_CHANGE))


async def _look(
    session: Session, notifying: Notifying, name: str, changed: set[str] | None
) -> Standing | None:
    """How a mailbox stands, kept as what the client knows; None when it is not there, or is the selected one.

    What has happened since goes into `changed`.
    """
    store = session.service.store
    await asyncio.sleep(0)
    try:
        if "r" not in tree.rights(session.root, name):
            raise FileNotFoundError(name)
        box = await store.open(session.root, name)
    except (FileNotFoundError, tree.MailboxNameError):
        notifying.stands.pop(name, None)
        return None
    try:
        if notifying.notice is not None:
            notifying.notice.identify(name, box.folder.guid)
        new = standing_of(box)
        old = notifying.stands.get(name)
        if old is not None and changed is not None and new != old:
            changed.update(changes_since(box, old))
        notifying.stands[name] = new
        return None if session.view is not None and session.view.box is box else new
    finally:
        store.unpin(box)
