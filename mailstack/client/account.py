"""A user's mailboxes as a whole: copied out of, copied into, looked through. Over IMAP."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import tee
from types import TracebackType

from mailstack.client.conversation import Conversation, ToAppend
from mailstack.client.endpoints import Endpoints
from mailstack.client.stored import Key, Stored, key_of, known_flags, read_date, write_date
from mailstack.wire.imap.client import MessageData
from mailstack.wire.imap.encode import mailbox as encode_mailbox
from mailstack.wire.imap.sequence import format_set

SIZES = b"(UID FLAGS INTERNALDATE RFC822.SIZE)"
WHOLE = b"(UID FLAGS INTERNALDATE RFC822.SIZE BODY.PEEK[])"
HEADERS = b"(UID RFC822.SIZE BODY.PEEK[HEADER])"
BATCH, BATCH_OCTETS = 200, 8 << 20
"""Messages and octets that are asked for at once."""


class Account:
    """One logged-in user; use it as a context manager. Every method raises `ClientError`."""

    def __init__(self, conversation: Conversation, user: str) -> None:
        self.user = user
        self._conversation = conversation

    @classmethod
    def open(cls, endpoints: Endpoints, user: str) -> Account:
        """Log in."""
        return cls(Conversation.open(endpoints, user), user)

    def __enter__(self) -> Account:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._conversation.log_out()
        self._conversation.close()

    def mailboxes(self) -> tuple[list[str], str]:
        """The names of all mailboxes, INBOX first, and the separator of their levels."""
        return self._conversation.mailboxes()

    def sizes(self, mailbox: str) -> list[MessageData]:
        """Select a mailbox for reading: what is in it, by UID, without the messages themselves."""
        self._conversation.select(b"EXAMINE " + encode_mailbox(mailbox))
        return sorted(self._conversation.fetching(b"1:*", SIZES), key=lambda data: data.uid)

    def whole(self, there: Iterable[MessageData]) -> Iterator[MessageData]:
        """These messages of the selected mailbox with their octets, some at a time."""
        batch: list[int] = []
        octets = 0
        for data in there:
            if batch and (len(batch) >= BATCH or octets + data.size > BATCH_OCTETS):
                yield from self._conversation.fetching(format_set(batch).encode(), WHOLE)
                batch, octets = [], 0
            batch.append(data.uid)
            octets += data.size
        if batch:
            yield from self._conversation.fetching(format_set(batch).encode(), WHOLE)

    def headers(self, there: Iterable[MessageData]) -> dict[int, MessageData]:
        """Size and header of these messages of the selected mailbox, by UID."""
        uids = format_set([data.uid for data in there]).encode()
        return {data.uid: data for data in self._conversation.fetching(uids, HEADERS)}

    def structures(self, there: Iterable[MessageData]) -> dict[int, tuple[bytes, tuple[bytes, ...]]]:
        """BODYSTRUCTURE of these messages of the selected mailbox: text, a NUL for each literal; literals."""
        uids = format_set([data.uid for data in there]).encode()
        return {uid: (text, literals) for uid, text, literals in self._conversation.described(uids)}

    def read(self, mailbox: str) -> Iterator[Stored]:
        """Every message of a mailbox."""
        for data in self.whole(self.sizes(mailbox)):
            yield Stored(
                data.body,
                known_flags(data.flags),
                read_date(data.internal_date),
                source=mailbox,
                uid=data.uid,
            )

    def known(self, mailbox: str) -> set[Key]:
        """The keys of everything in a mailbox."""
        self._conversation.select(b"EXAMINE " + encode_mailbox(mailbox))
        return {key_of(data.size, data.body) for data in self._conversation.fetching(b"1:*", HEADERS)}

    def create(self, mailbox: str) -> None:
        """Make a mailbox and subscribe to it, unless it is there."""
        self._conversation.create(mailbox)

    def append(self, mailbox: str, messages: Iterable[Stored]) -> Iterator[tuple[Stored, str]]:
        """Put messages into a mailbox: each with why it was refused, or `""`."""
        mine, theirs = tee(messages)
        wanted = (ToAppend(one.raw, known_flags(one.flags), write_date(one.date)) for one in theirs)
        yield from zip(mine, self._conversation.append(mailbox, wanted), strict=False)
