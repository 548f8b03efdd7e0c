"""What an IMAP URL names, read out of a mailbox in pieces (CATENATE RFC 4469, URL-PARTIAL RFC 5550 §4)."""

from __future__ import annotations

import asyncio
import mmap
from collections.abc import Iterator
from typing import TYPE_CHECKING

from mailstack.mailbox.imap.attributes import open_in
from mailstack.mailbox.views import SharedMailbox
from mailstack.storage.maildir import tree
from mailstack.wire.imap.fetch import Section
from mailstack.wire.imap.section import locate
from mailstack.wire.imap.urlauth import BadUrlError, ImapUrl, parse_url
from mailstack.wire.mime.lines import Data, wire, wire_pieces
from mailstack.wire.mime.structure import parse

if TYPE_CHECKING:
    from mailstack.mailbox.imap.session import Session


async def pieces_of_url(session: Session, text: str) -> Iterator[bytes]:
    """The octets that a URL of the user's own mailboxes names, with CRLF line ends.

    Raises `BadUrlError`, also when the message is not there.
    """
    url = parse_url(text)
    assert session.user is not None
    if url.access or (url.user and url.user != session.user.name):
        raise BadUrlError("not one of your own mailboxes")
    if url.host:
        raise BadUrlError("Relative URL required")  # who knows whether that is this server
    if url.mailbox:
        box = await opened(session, session.root, url)
        try:
            return await octets(box, url.uid, url.section)
        finally:
            session.service.store.unpin(box)
    if session.view is None:
        raise BadUrlError("no mailbox is selected")
    check_validity(session.view.box, url)
    return await octets(session.view.box, url.uid, url.section)


async def opened(session: Session, root: str, url: ImapUrl) -> SharedMailbox:
    """The URL's mailbox below `root`, pinned. Raises `BadUrlError`."""
    try:
        if "r" not in tree.rights(root, url.mailbox):
            raise BadUrlError("no such mailbox")
        box = await session.service.store.open(root, tree.canonical(url.mailbox, root))
    except (FileNotFoundError, tree.MailboxNameError):
        raise BadUrlError("no such mailbox") from None
    try:
        check_validity(box, url)
    except BadUrlError:
        session.service.store.unpin(box)
        raise
    return box


def check_validity(box: SharedMailbox, url: ImapUrl) -> None:
    """Raises `BadUrlError` when the URL is of an earlier mailbox of this name."""
    if url.uid_validity is not None and url.uid_validity != box.folder.uid_validity:
        raise BadUrlError("UIDVALIDITY has changed")


async def octets(box: SharedMailbox, uid: int, section: Section) -> Iterator[bytes]:
    """A section of a message, from the file piece by piece. Raises `BadUrlError` when there is none."""
    try:
        data = open_in(box, uid)
    except FileNotFoundError:
        raise BadUrlError("no such message") from None
    if isinstance(data, mmap.mmap):
        found = await asyncio.to_thread(locate_in, data, section)
    else:
        found = locate_in(data, section)
    if found == (0, 0):
        raise BadUrlError("no such section")
    first, count = section.partial or (0, None)
    if isinstance(found, bytes):
        text = wire(found)[first:]
        return iter([text if count is None else text[:count]])
    return wire_pieces(data, *found, first, count)


def locate_in(data: Data, section: Section) -> tuple[int, int] | bytes:
    """`locate` in a message that has not been read yet."""
    if not section.part and not section.kind:
        return (0, len(data))
    return locate(parse(data), data, section)
