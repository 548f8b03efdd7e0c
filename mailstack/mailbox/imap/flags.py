"""Telling clients of flags: `* 12 FETCH (FLAGS (…))`, and FLAGS with PERMANENTFLAGS."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mailstack.mailbox.imap import acl

if TYPE_CHECKING:
    from mailstack.mailbox.imap.session import Session

SYSTEM_FLAGS = ((3, "\\Answered"), (1, "\\Flagged"), (5, "\\Deleted"), (4, "\\Seen"), (0, "\\Draft"))
"""Bits of the flag integer with their names, in Dovecot's order."""


def tell_flags(session: Session, number: int, *, uid: bool = False) -> None:
    """`* 12 FETCH (FLAGS (…))`, unless the message is gone. `uid`: with its UID."""
    folder = session.selected.box.folder
    index = folder.index(session.selected.uid(number))
    if index < 0:
        return
    sequence = b"MODSEQ (%d) " % folder.modseqs[index] if session.condstore else b""
    session.send(b"%b%bFLAGS %b)\r\n" % (session.fetched(number, uid=uid), sequence, session.flags(index)))


def tell_keywords(session: Session) -> None:
    """FLAGS and PERMANENTFLAGS, when the mailbox has keywords that the client has not been told of."""
    view = session.selected
    keywords = view.box.folder.keywords
    system = " ".join(name for _, name in SYSTEM_FLAGS)
    names = " ".join([system, *filter(None, keywords.names)])
    if names == session.keywords_told:
        return
    session.keywords_told = names
    session.line(f"* FLAGS ({names})")
    if view.readonly:
        session.line("* OK [PERMANENTFLAGS ()] Read-only mailbox.")
    else:
        rights = acl.selected(session)
        mask = acl.flags_mask(rights)
        words = [name for bit, name in SYSTEM_FLAGS if mask >> bit & 1]
        if "w" in rights:
            words += [*filter(None, keywords.names), *(() if keywords.full else ("\\*",))]
        session.line(f"* OK [PERMANENTFLAGS ({' '.join(words)})] Flags permitted.")
