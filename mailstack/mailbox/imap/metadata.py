"""GETMETADATA SETMETADATA (RFC 5464) and METADATA in LIST (RFC 9590). State: authenticated.

Entries below /private and /shared of a mailbox are the user's, who is alone with it. Of the server's, those
below /private can be set, and dovecot.conf says /shared/comment and /shared/admin. /private/specialuse is
what the mailbox is for (RFC 6154 §4).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mailstack.mailbox.imap import acl
from mailstack.mailbox.imap.errors import CommandError
from mailstack.storage.maildir import metadata, tree
from mailstack.storage.maildir.roots import Account
from mailstack.wire.imap.encode import astring, nstring8
from mailstack.wire.imap.metadata import GetMetadata, SetMetadata, Wanted

if TYPE_CHECKING:
    from mailstack.mailbox.imap.session import Session

USES = {name.lower(): name for name in ("\\Archive", "\\Drafts", "\\Junk", "\\Sent", "\\Trash")}
"""What a mailbox can be for, by the lower-case name; \\All and \\Flagged would be views of others."""


async def getmetadata(session: Session, tag: str, command: GetMetadata) -> str:
    wanted = command.wanted
    if command.mailbox:
        folder = _existing(session, command.mailbox)
        if not is_annotated(session, command.mailbox):
            raise CommandError(acl.DENIED)
        entries = _with_use(session, command.mailbox, metadata.read(folder))
    else:
        entries = metadata.read(session.root, metadata.SERVER_FILE)
        entries.update({name: text.encode() for name, text in session.service.settings.server_entries})
    longest = send_entries(session, command.mailbox, entries, wanted)
    code = f"[METADATA LONGENTRIES {longest}] " if longest else ""
    return f"OK {code}Getmetadata completed."


async def setmetadata(session: Session, tag: str, command: SetMetadata) -> str:
    values = dict(command.values)
    if command.mailbox:
        folder, file = _existing(session, command.mailbox), metadata.FILE
        _check_change(session, command.mailbox, values)
    else:
        folder, file = session.root, metadata.SERVER_FILE
        if any(name.startswith("/shared") for name in values):
            raise CommandError("NO [NOPERM] Only the administrator can change the server's shared entries.")
    if any(value is not None and len(value) > metadata.VALUE_MAX for value in values.values()):
        raise CommandError(f"NO [METADATA MAXSIZE {metadata.VALUE_MAX}] Value is too long.")
    use = values.get(metadata.SPECIAL_USE)
    if use is not None:
        words = use.decode("latin-1").split()
        values[metadata.SPECIAL_USE] = " ".join(checked_uses(words)).encode()
    try:
        metadata.change(folder, values, file)
    except metadata.TooManyError:
        raise CommandError("NO [METADATA TOOMANY] Too many entries.") from None
    return "OK Setmetadata completed."


def checked_uses(names: list[str] | tuple[str, ...]) -> tuple[str, ...]:
    """Special uses in their proper spelling (RFC 6154 §3)."""
    unknown = [name for name in names if name.lower() not in USES]
    if unknown:
        raise CommandError("NO [USEATTR] Special-use attribute is not supported.")
    return tuple(dict.fromkeys(USES[name.lower()] for name in names))


def special_uses(session: Session, names: list[str]) -> dict[str, tuple[str, ...]]:
    """What each of these mailboxes is for: as its owner says, else as dovecot.conf does."""
    settings = session.service.settings.mailboxes
    found = {item.name: item.special_use for item in settings if item.special_use}
    for name in names:
        value = metadata.read(tree.path_of(session.root, name)).get(metadata.SPECIAL_USE)
        if value is not None:
            found[name] = tuple(value.decode("latin-1").split())
    return found


def send_metadata(session: Session, name: str, wanted: Wanted) -> None:
    """The METADATA response of a mailbox in LIST."""
    entries = metadata.read(tree.path_of(session.root, name))
    send_entries(session, name, _with_use(session, name, entries), wanted)


def send_entries(session: Session, name: str, entries: dict[str, bytes], wanted: Wanted) -> int:
    """What is wanted of the entries; how long the longest is that is not sent for its size, 0 without one.

    An entry asked for by its name that is not there has the value NIL.
    """
    found: dict[str, bytes | None] = {}
    for entry in wanted.entries:
        found.update({other: value for other, value in entries.items() if _below(entry, other, wanted.depth)})
        if not wanted.depth and entry not in found:
            found[entry] = None
    limit = wanted.max_size
    longest = 0
    parts: list[bytes] = []
    for entry, value in found.items():
        if value is not None and limit is not None and len(value) > limit:
            longest = max(longest, len(value))
        else:
            parts += [astring(entry.encode()), nstring8(value)]
    if parts:
        shown = session.mailbox(name) if name else b'""'
        session.send(b"* METADATA %b (%b)\r\n" % (shown, b" ".join(parts)))
    return longest


def _below(entry: str, other: str, depth: int) -> bool:
    if other == entry:
        return True
    return bool(depth) and other.startswith(entry + "/") and (depth < 0 or "/" not in other[len(entry) + 1 :])


def _with_use(session: Session, name: str, entries: dict[str, bytes]) -> dict[str, bytes]:
    """With the use that dovecot.conf gives the mailbox, unless its owner has said another."""
    for item in session.service.settings.mailboxes:
        if item.name != tree.canonical(name, session.root):
            continue
        if item.special_use:
            entries.setdefault(metadata.SPECIAL_USE, " ".join(item.special_use).encode())
        if item.comment:
            entries.setdefault("/private/comment", item.comment.encode())
    if not is_own(session.root, name):
        entries = {entry: value for entry, value in entries.items() if not entry.startswith("/private")}
    return entries


def is_own(root: str, name: str) -> bool:
    """Whether the mailbox is the user's alone."""
    return not isinstance(root, Account) or root.resolve(name).space.type == "private"


def is_annotated(session: Session, name: str) -> bool:
    """Whether the user may read annotations of a mailbox (RFC 5464 §3.3: l, and one of r s w i p)."""
    rights = tree.rights(session.root, name)
    return "l" in rights and not {*"rswip"}.isdisjoint(rights)


def _check_change(session: Session, name: str, values: dict[str, bytes | None]) -> None:
    """RFC 5464 §3.3: shared entries need w. Mailboxes of several users have no private ones."""
    rights = tree.rights(session.root, name)
    if not is_annotated(session, name) or (
        "w" not in rights and any(each.startswith("/shared") for each in values)
    ):
        raise CommandError(acl.DENIED)
    if not is_own(session.root, name) and any(each.startswith("/private") for each in values):
        raise CommandError("NO [METADATA NOPRIVATE] Several users share this mailbox.")


def _existing(session: Session, name: str) -> str:
    """The folder of a mailbox that is there."""
    if "l" not in tree.rights(session.root, name) or not tree.exists(session.root, name):
        raise acl.missing(session, name)
    return tree.path_of(session.root, name)
