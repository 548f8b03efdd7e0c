"""STORE and UID STORE (state: selected; RFC 3501 §6.4.6)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from mailstack.mailbox.imap import acl, flags
from mailstack.mailbox.imap.errors import CommandError
from mailstack.mailbox.imap.messages import positions
from mailstack.storage.maildir.folder import Folder
from mailstack.storage.maildir.names import ANSWERED, DELETED, DRAFT, FLAGGED, SEEN
from mailstack.wire.imap import commands as c
from mailstack.wire.imap.sequence import format_set

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
    if command.unchanged_since is not None:
        session.use_condstore()
    found = positions(session, command.messages, command.uid, name)
    if view.readonly:
        return "OK Store ignored with read-only mailbox."
    box = view.box
    rights = acl.selected(session)
    if "w" not in rights:
        keywords = []
    if keywords and found and command.mode != "-":
        await box.add_keywords(keywords)
    bits |= keyword_bits(box.folder, keywords)
    refused: list[int] = []
    uids = [view.uids[at] for at in found]
    change = _change(command.mode, bits, acl.flags_mask(rights))
    fresh = _undeleted(box.folder, uids) if bits & DELETED and command.mode != "-" else set()
    changed = set(await box.store_flags(uids, change, view, command.unchanged_since, refused))
    session.tally.deleted += len(changed & fresh)
    flags.tell_keywords(session)
    for at in found:
        if view.uids[at] in changed and (session.condstore or not command.silent):
            await _tell(session, at + 1, command)
    if refused:
        numbers = refused if command.uid else [view.number(uid) for uid in refused]
        return f"OK [MODIFIED {format_set(sorted(numbers))}] Conditional store failed."
    if any(box.folder.index(view.uids[at]) < 0 for at in found):
        return "NO [EXPUNGEISSUED] Some of the messages no longer exist."
    return "OK Store completed."


def _undeleted(folder: Folder, uids: list[int]) -> set[int]:
    found = ((uid, folder.index(uid)) for uid in uids)
    return {uid for uid, index in found if index >= 0 and not folder.flags[index] & DELETED}


def _change(mode: str, bits: int, mask: int) -> Callable[[int], int]:
    """`mask`: the bits that the user may change."""
    bits &= mask
    if mode == "+":
        return lambda old: old | bits
    if mode == "-":
        return lambda old: old & ~bits
    return lambda old: bits | (old & ~mask)


async def _tell(session: Session, number: int, command: c.Store) -> None:
    """The new flags; of a silent change only its sequence (RFC 7162 §3.1.3)."""
    if not command.silent:
        flags.tell_flags(session, number, uid=command.uid)
    else:
        folder = session.selected.box.folder
        index = folder.index(session.selected.uid(number))
        if index >= 0:
            head = session.fetched(number, uid=command.uid)
            session.send(b"%bMODSEQ (%d))\r\n" % (head, folder.modseqs[index]))
    if session.full:
        await session.flush()
