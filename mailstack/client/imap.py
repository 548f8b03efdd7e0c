"""Read a mailbox over IMAP: list, fetch, wait, remove.

A wait is the server's: `IDLE` (RFC 2177) tells of new mail, nothing is asked in a loop. A `Cursor` is a place
in a mailbox; what arrives later has a higher UID (RFC 9051 §2.3.1.1), so nothing is seen twice or missed,
whatever else is deleted or arrives in between.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType

from mailstack.client.conversation import Conversation, Selected
from mailstack.client.endpoints import Endpoints
from mailstack.client.errors import ClientError
from mailstack.client.message import SUMMARY_FIELDS, Message, Summary, message, summary
from mailstack.wire.imap.client import MessageData
from mailstack.wire.imap.encode import mailbox as encode_mailbox
from mailstack.wire.imap.sequence import format_set

IDLE_LIMIT = 25 * 60.0
"""Seconds of one IDLE; a server may end it after 30 minutes (RFC 2177 §3)."""
HEADER_ITEM = f"BODY.PEEK[HEADER.FIELDS ({' '.join(SUMMARY_FIELDS)})]".encode()
SUMMARY_ITEMS = b"(UID FLAGS INTERNALDATE RFC822.SIZE " + HEADER_ITEM + b")"
WINDOW = 500
"""Messages that a wait asks for at once: a mailbox of any size is looked through in little memory."""
REMOVED_AT_ONCE = 1000
"""UIDs that one command names, at the most: a server takes lines of some length only."""
MESSAGE_ITEMS = b"(UID FLAGS INTERNALDATE RFC822.SIZE BODY.PEEK[])"


@dataclass(frozen=True, slots=True)
class Cursor:
    """The place behind the last message that is known: `UIDVALIDITY:UIDNEXT`."""

    uidvalidity: int
    uidnext: int

    @classmethod
    def parse(cls, text: str) -> Cursor:
        """Read what `str()` wrote. Raises `ValueError`."""
        match = re.fullmatch(r"([0-9]{1,10}):([0-9]{1,10})", text)
        if match is None:
            raise ValueError(f"'{text}' is not a cursor such as 1700000000:42")
        return cls(int(match[1]), int(match[2]))

    def after(self, uid: int) -> Cursor:
        """The place behind a message of this mailbox."""
        return Cursor(self.uidvalidity, uid + 1)

    def __str__(self) -> str:
        return f"{self.uidvalidity}:{self.uidnext}"


@dataclass(frozen=True, slots=True)
class Counts:
    """How many messages an INBOX has, and how many of them are unread."""

    messages: int
    unseen: int


class Session:
    """One selected mailbox of one user; use it as a context manager."""

    def __init__(self, conversation: Conversation, user: str, mailbox: str, found: Selected) -> None:
        self.user = user
        self.mailbox = mailbox
        self.cursor = Cursor(found.uidvalidity, found.uidnext)
        """Behind the last message that the server has told of."""
        self._many = found.messages > WINDOW
        self._conversation = conversation

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._conversation.log_out()
        self._conversation.close()

    def messages(self, first: int = 1) -> list[Summary]:
        """Messages with this UID or a higher one, by UID."""
        return self._summaries(b"%d:*" % first, first)

    def _windows(self, first: int) -> Iterator[list[Summary]]:
        """The same, so many at a time that a mailbox of any size fits."""
        if not self._many:
            yield self.messages(first)
            return
        uids = self._conversation.uids(first)
        self._many = len(uids) > WINDOW  # later ones come one by one
        for at in range(0, len(uids), WINDOW):
            part = uids[at : at + WINDOW]
            yield self._summaries(b"%d:%d" % (part[0], part[-1]), first)

    def _summaries(self, uids: bytes, first: int) -> list[Summary]:
        found = [
            _summary(data)
            for data in self._conversation.fetching(uids, SUMMARY_ITEMS)
            if data.uid >= first  # "5:*" is also the last message when that is 3 (RFC 9051 §9, seq-range)
        ]
        found.sort(key=lambda item: item.uid)
        if found and found[-1].uid >= self.cursor.uidnext:
            self.cursor = self.cursor.after(found[-1].uid)
        return found

    def fetch(self, uid: int | None = None) -> Message | None:
        """One message, the newest without a UID; None when it is not there."""
        wanted = b"*" if uid is None else b"%d" % uid
        for data in self._conversation.fetch(wanted, MESSAGE_ITEMS):
            if uid is None or data.uid == uid:
                return message(_summary(data), data.body)
        return None

    def wait(
        self,
        after: Cursor | None,
        timeout: float,
        *,
        subject: re.Pattern[str] | None = None,
        sender: re.Pattern[str] | None = None,
    ) -> Message | None:
        """The first message, by UID, that matches; None when there is none within `timeout` seconds.

        Without `after`, or with one of an earlier life of the mailbox, messages that are there count.
        """
        deadline = time.monotonic() + timeout
        first = after.uidnext if after is not None and after.uidvalidity == self.cursor.uidvalidity else 1
        while True:
            self._conversation.arrived = False
            for candidates in self._windows(first):
                for candidate in candidates:
                    first = candidate.uid + 1
                    if _matches(candidate, subject, sender):
                        whole = self.fetch(candidate.uid)
                        if whole is not None:  # somebody else may have removed it just now
                            return whole
            if self._conversation.arrived or self._conversation.idle(min(deadline, _soon())):
                continue
            if time.monotonic() >= deadline:
                return None

    def remove(self, uids: Sequence[int] | None) -> list[int]:
        """Remove these messages (None: all) for good; return the UIDs of those that were there."""
        present = {data.uid for data in self._conversation.fetch(b"1:*", b"(UID)")}
        gone = sorted(present if uids is None else present & set(uids))
        for at in range(0, len(gone), REMOVED_AT_ONCE):
            names = format_set(gone[at : at + REMOVED_AT_ONCE]).encode()
            self._conversation.run(b"UID STORE " + names + rb" +FLAGS.SILENT (\Deleted)")
            self._conversation.run(b"UID EXPUNGE " + names)
        return gone


def open_mailbox(
    endpoints: Endpoints, user: str, mailbox: str = "INBOX", *, writable: bool = False
) -> Session:
    """Log in as `user` and select a mailbox. Raises `ClientError`."""
    conversation = Conversation.open(endpoints, user)
    try:
        verb = b"SELECT " if writable else b"EXAMINE "
        return Session(conversation, user, mailbox, conversation.select(verb + encode_mailbox(mailbox)))
    except BaseException:
        conversation.close()
        raise


def counts(endpoints: Endpoints, users: Iterable[str]) -> Iterator[tuple[str, Counts]]:
    """The INBOX of each user. Raises `ClientError`."""
    for user in users:
        conversation = Conversation.open(endpoints, user)
        try:
            found = conversation.status(b"INBOX", ("MESSAGES", "UNSEEN"))
            conversation.log_out()
        finally:
            conversation.close()
        if len(found) != 2:
            raise ClientError("protocol", f"the server does not count the INBOX of {user}")
        yield user, Counts(found["MESSAGES"], found["UNSEEN"])


def _summary(data: MessageData) -> Summary:
    return summary(
        uid=data.uid,
        header=data.body,
        internal_date=data.internal_date,
        size=data.size,
        flags=data.flags,
    )


def _matches(candidate: Summary, subject: re.Pattern[str] | None, sender: re.Pattern[str] | None) -> bool:
    return (subject is None or subject.search(candidate.subject) is not None) and (
        sender is None or sender.search(candidate.sender) is not None
    )


def _soon() -> float:
    return time.monotonic() + IDLE_LIMIT
