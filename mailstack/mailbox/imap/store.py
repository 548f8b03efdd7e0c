"""STORE and UID STORE (state: selected; RFC 3501 §6.4.6)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mailstack.mailbox.imap.errors import CommandError
from mailstack.mailbox.imap.messages import positions
from mailstack.storage.maildir.folder import Folder
from mailstack.storage.maildir.names import ANSWERED, DELETED, DRAFT, FLAGGED, SEEN
from mailstack.wire.imap import commands as c

if TYPE_CHECKING:
    from mailstack.mailbox.imap.session import Session

SYSTEM_BITS = {
    "\\answered": ANSWERED,
    "\\flagged": FLAGGED,
    "\\deleted": DELETED,
    "\\seen": SEEN,
    "\\draft": DRAFT,
}


def split_flags(names: tuple[str, ...], name: str) -> tuple[int, list[str]]:
    """The bits of the system flags and the keywords. Raises `CommandError`."""
    bits = 0
    keywords = []
    for flag in names:
        if flag.startswith("\\"):
            bit = SYSTEM_BITS.get(flag.lower())
            if bit is None:
                raise CommandError(f"BAD Error in IMAP command {name}: Invalid system flag {flag.upper()}.")
            bits |= bit
        else:
            keywords.append(flag)
    return bits, keywords


def keyword_bits(folder: Folder, keywords: list[str]) -> int:
    """The bits of keywords that the folder has."""
    bits = 0
    for name in keywords:
        bits |= folder.keywords.bit(name) or 0
    return bits


async def store(session: Session, tag: str, command: c.Store) -> str:
    view = session.selected
    name = "UID STORE" if command.uid else "STORE"
    bits, keywords = split_flags(command.flags, name)
    found = positions(view, command.messages, command.uid, name)
    if view.readonly:
        return "OK Store ignored with read-only mailbox."
    box = view.box
    if keywords and found and command.mode != "-":
        await box.add_keywords(keywords)
    bits |= keyword_bits(box.folder, keywords)
    match command.mode:
        case "+":
            changed = await box.store_flags((view.uids[at] for at in found), lambda old: old | bits, view)
        case "-":
            changed = await box.store_flags((view.uids[at] for at in found), lambda old: old & ~bits, view)
        case _:
            changed = await box.store_flags((view.uids[at] for at in found), lambda old: bits, view)
    session.tell_keywords()
    if not command.silent:
        told = set(changed)
        for at in found:
            index = box.folder.index(view.uids[at])
            if index < 0 or view.uids[at] not in told:
                continue
            uid = b"UID %d " % view.uids[at] if command.uid else b""
            session.send(b"* %d FETCH (%bFLAGS %b)\r\n" % (at + 1, uid, session.flags(index)))
            if session.full:
                await session.flush()
    if any(box.folder.index(view.uids[at]) < 0 for at in found):
        return "NO [EXPUNGEISSUED] Some of the messages no longer exist."
    return "OK Store completed."
