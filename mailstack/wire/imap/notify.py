"""NOTIFY as a value, and how it is read (RFC 5465 §8). The replies to wrong ones are Dovecot's."""

from __future__ import annotations

from dataclasses import dataclass, replace

from mailstack.wire.imap.fetch import Binary, FetchItem, Section, parse_items
from mailstack.wire.imap.tokens import Cursor, ParseError

MESSAGE_NEW = "MESSAGENEW"
MESSAGE_EXPUNGE = "MESSAGEEXPUNGE"
FLAG_CHANGE = "FLAGCHANGE"
MAILBOX_NAME = "MAILBOXNAME"
SUBSCRIPTION_CHANGE = "SUBSCRIPTIONCHANGE"
MAILBOX_METADATA = "MAILBOXMETADATACHANGE"
SERVER_METADATA = "SERVERMETADATACHANGE"
EVENTS = {
    MESSAGE_NEW: "MessageNew",
    MESSAGE_EXPUNGE: "MessageExpunge",
    FLAG_CHANGE: "FlagChange",
    MAILBOX_NAME: "MailboxName",
    SUBSCRIPTION_CHANGE: "SubscriptionChange",
    MAILBOX_METADATA: "MailboxMetadataChange",
    SERVER_METADATA: "ServerMetadataChange",
}
"""The events that there are here, as they are spelled; AnnotationChange is none of them."""
MESSAGES = frozenset({MESSAGE_NEW, MESSAGE_EXPUNGE, FLAG_CHANGE})
GROUPS_MAX = 100
_SELECTED = ("SELECTED", "SELECTED-DELAYED")
_PLAIN = ("INBOXES", "PERSONAL", "SUBSCRIBED")
_NAMED = ("SUBTREE", "MAILBOXES")


@dataclass(frozen=True, slots=True)
class EventGroup:
    """Mailboxes and what is to be told of them; no events: nothing.

    `filter` is SELECTED, SELECTED-DELAYED, INBOXES, PERSONAL, SUBSCRIBED, SUBTREE or MAILBOXES, the last two
    with the names in `mailboxes`. `items`: what to fetch of new messages. `events` may hold names that are
    not in `EVENTS`.
    """

    filter: str
    mailboxes: tuple[str, ...]
    events: frozenset[str]
    items: tuple[FetchItem, ...] = ()

    @property
    def is_selected(self) -> bool:
        """Whether it is about the selected mailbox."""
        return self.filter in _SELECTED


@dataclass(frozen=True, slots=True)
class Notify:
    """`groups` None: NOTIFY NONE; `status`: say at once how the mailboxes stand."""

    groups: tuple[EventGroup, ...] | None
    status: bool = False


def parse_notify(cursor: Cursor) -> Notify:
    """Raises `ParseError`, `BadMailboxNameError`."""
    cursor.expect(b" ")
    word = cursor.word()
    if word == "NONE":
        return Notify(None)
    if word != "SET":
        raise ParseError("Invalid arguments.")
    status = cursor.text[cursor.at :].upper().startswith((b" STATUS ", b" STATUS")) and cursor.take(b" ")
    if status:
        cursor.word()
    groups: list[EventGroup] = []
    while cursor.at < len(cursor.text.rstrip(b" ")):
        cursor.space()
        groups.append(_group(cursor))
        if len(groups) > GROUPS_MAX:
            raise ParseError("Too many event groups.")
    if sum(group.is_selected for group in groups) > 1:
        raise ParseError("Duplicate selected filter")
    return Notify(tuple(groups), status)


def _group(cursor: Cursor) -> EventGroup:
    cursor.expect(b"(")
    name = cursor.word()
    if name not in (*_SELECTED, *_PLAIN, *_NAMED):
        raise ParseError("Invalid arguments.")
    cursor.space()
    mailboxes: tuple[str, ...] = ()
    if name in _NAMED:
        mailboxes = _mailboxes(cursor)
        cursor.space()
    if cursor.peek() != b"(":
        if cursor.word() != "NONE":
            raise ParseError("Invalid arguments.")
        cursor.expect(b")")
        return EventGroup(name, mailboxes, frozenset())
    events, items = _events(cursor, selected=name in _SELECTED)
    cursor.expect(b")")
    return EventGroup(name, mailboxes, events, items)


def _mailboxes(cursor: Cursor) -> tuple[str, ...]:
    if not cursor.take(b"("):
        return (cursor.mailbox(),)
    names = [cursor.mailbox()]
    while not cursor.take(b")"):
        cursor.space()
        names.append(cursor.mailbox())
    return tuple(names)


def _events(cursor: Cursor, *, selected: bool) -> tuple[frozenset[str], tuple[FetchItem, ...]]:
    """Which events belong together: RFC 5465 §5."""
    events: set[str] = set()
    items: tuple[FetchItem, ...] = ()
    cursor.expect(b"(")
    while not cursor.take(b")"):
        name = cursor.word()
        events.add(name)
        if name == MESSAGE_NEW and selected and cursor.take(b" ("):
            cursor.at -= 1
            items = tuple(_peek(item) for item in parse_items(cursor))
        if not cursor.take(b" ") and cursor.peek() != b")":
            raise ParseError("Invalid arguments.")
    if not events:
        raise ParseError("Invalid arguments.")
    both = (MESSAGE_NEW in events) + (MESSAGE_EXPUNGE in events)
    if selected and both == 1:
        raise ParseError("MessageNew and MessageExpunge must be together")
    if selected and FLAG_CHANGE in events and not both:
        raise ParseError("FlagChange requires MessageNew and MessageExpunge")
    return frozenset(events), items


def _peek(item: FetchItem) -> FetchItem:
    """What the server sends by itself makes no message seen (RFC 5465 §5.2)."""
    return replace(item, peek=True) if isinstance(item, Section | Binary) else item
