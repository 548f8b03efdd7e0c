"""Is every message of a mailbox readable, and does the server say the same of it each time? Over IMAP."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from mailstack.client.account import Account
from mailstack.client.errors import ClientError
from mailstack.client.stored import header_of, lf
from mailstack.wire.imap.client import ClientConnection, MessageData, Untagged
from mailstack.wire.imap.structure import body
from mailstack.wire.mime.structure import parse

AT_ONCE = 50
"""Messages that are read between two calls of `told`."""
Structure = tuple[bytes, tuple[bytes, ...]]


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong in a mailbox; `uid` None: with the mailbox as a whole."""

    mailbox: str
    uid: int | None
    text: str


def problems(
    account: Account,
    mailbox: str,
    *,
    structure: bool,
    told: Callable[[int, int], None] = lambda done, all: None,  # noqa: A006  (done of all)
) -> Iterator[Problem]:
    """Read every message of a mailbox; what is wrong.

    `structure`: BODYSTRUCTURE has to be what the message's octets say; only our own service counts them as we
    do. `told` gets the number of messages that have been read, and of all. Raises `ClientError` when the
    mailbox cannot be opened.
    """
    there = account.sizes(mailbox)
    for one, following in pairwise(there):
        if one.uid == following.uid:
            yield Problem(mailbox, one.uid, "two messages have this UID")
    for first in range(0, len(there), AT_ONCE):
        part = there[first : first + AT_ONCE]
        try:
            yield from _compared(account, mailbox, part, structure)
        except ClientError as error:
            if error.code != "refused":
                raise
            for data in part:
                yield from _alone(account, mailbox, data, structure)
        told(min(first + AT_ONCE, len(there)), len(there))


def _alone(account: Account, mailbox: str, data: MessageData, structure: bool) -> list[Problem]:
    """The server has refused to give one of several messages: which?"""
    try:
        return list(_compared(account, mailbox, [data], structure))
    except ClientError as error:
        if error.code != "refused":
            raise
        return [Problem(mailbox, data.uid, f"cannot be read: {error}")]


def _compared(
    account: Account, mailbox: str, part: Sequence[MessageData], structure: bool
) -> Iterator[Problem]:
    """What is wrong with some messages; those that are removed meanwhile are not."""
    got = {data.uid: data for data in account.whole(part)}
    headers = account.headers(part)
    structures = account.structures(part) if structure else {}
    for data in part:
        if data.uid in got and data.uid in headers:
            for text in _wrong(data, got[data.uid], headers[data.uid], structures.get(data.uid)):
                yield Problem(mailbox, data.uid, text)


def _wrong(
    listed: MessageData, whole: MessageData, header: MessageData, structure: Structure | None
) -> Iterator[str]:
    size = len(whole.body)
    if {listed.size, whole.size, header.size} != {size}:
        yield f"RFC822.SIZE is {listed.size}, but the message has {size} octets"
    if not whole.body.startswith(header.body) or (
        header.body.endswith(b"\r\n\r\n") and header.body != header_of(whole.body)
    ):
        yield f"BODY[HEADER] ({len(header.body)} octets) is not how the message begins"
    if listed.internal_date != whole.internal_date:
        yield f"INTERNALDATE is {listed.internal_date} at first and {whole.internal_date} then"
    if structure is not None and structure not in (_structure(lf(whole.body)), _structure(whole.body)):
        yield "BODYSTRUCTURE is not that of the message"


def _structure(data: bytes) -> Structure:
    """BODYSTRUCTURE of a message, cut up as a client reads it."""
    connection = ClientConnection()
    connection.receive_data(b"* BODYSTRUCTURE " + body(parse(data), data, extended=True) + b"\r\n")
    event = connection.next_event()
    assert isinstance(event, Untagged)
    return event.text, event.literals
