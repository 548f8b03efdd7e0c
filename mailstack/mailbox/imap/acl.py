"""SETACL DELETEACL GETACL LISTRIGHTS MYRIGHTS (RFC 4314 §3), and what the other commands need of it (§4).

State: authenticated. Without `mail_plugins = acl` everybody may do everything with what his namespaces show;
without `imap_acl` rights count, and these commands are none. A mailbox that the user may not see does not
exist for him. Words and orders are Dovecot's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mailstack.mailbox.imap.errors import CommandError
from mailstack.storage.maildir import acl, tree
from mailstack.storage.maildir.acl import Entry, Identifier, Kind
from mailstack.storage.maildir.names import DELETED, SEEN
from mailstack.storage.maildir.roots import Account
from mailstack.wire.imap.acl import DeleteAcl, GetAcl, ListRights, MyRights, SetAcl, shown
from mailstack.wire.imap.encode import astring

if TYPE_CHECKING:
    from mailstack.mailbox.imap.session import Session

CAPABILITIES = ("ACL", "RIGHTS=texk", "LIST-MYRIGHTS")
DENIED = "NO [NOPERM] Permission denied."
WRITING = frozenset("iwste")
"""Any of these makes a mailbox one that can be changed."""
_ALL_FLAGS = -1


def is_told(session: Session) -> bool:
    """Whether clients see and change ACLs."""
    return session.service.settings.acl_told and acl.guard_of(session.root) is not None


# ---- for other commands


def missing(session: Session, name: str, code: str = "NONEXISTENT") -> CommandError:
    return CommandError(f"NO [{code}] Mailbox doesn't exist: {name}")


def need(session: Session, name: str, right: str, code: str = "NONEXISTENT") -> str:
    """All rights on a mailbox, among which this one has to be; `code` for a mailbox that cannot be seen."""
    rights = tree.rights(session.root, name)
    if right not in rights:
        raise CommandError(DENIED) if "l" in rights else missing(session, name, code)
    return rights


def need_above(session: Session, name: str) -> None:
    """The right to make a mailbox below the one above."""
    if "k" not in tree.parent_rights(session.root, name):
        raise CommandError(DENIED)


def selected(session: Session) -> str:
    """The rights on the selected mailbox as they are now."""
    if not session.guarded:
        return acl.ALL
    return tree.rights(session.root, session.selected_name, session.selected.box.folder.path)


def flags_mask(rights: str) -> int:
    """The bits of flags and keywords that may be changed (RFC 4314 §4: s, t, w)."""
    mask = _ALL_FLAGS if "w" in rights else 0
    mask = mask | SEEN if "s" in rights else mask & ~SEEN
    return mask | DELETED if "t" in rights else mask & ~DELETED


def send_my_rights(session: Session, name: str) -> None:
    """The MYRIGHTS response."""
    rights = shown(tree.rights(session.root, name))
    session.send(b"* MYRIGHTS %b %b\r\n" % (session.mailbox(name), rights.encode()))


# ---- the commands


async def myrights(session: Session, tag: str, command: MyRights) -> str:
    _account(session, "MYRIGHTS")
    if not tree.rights(session.root, command.mailbox):
        raise missing(session, command.mailbox)
    send_my_rights(session, command.mailbox)
    return "OK Myrights completed."


async def listrights(session: Session, tag: str, command: ListRights) -> str:
    """Every right can be given to everybody (§3.7)."""
    _account(session, "LISTRIGHTS")
    if not tree.rights(session.root, command.mailbox):
        raise missing(session, command.mailbox)
    names = session.mailbox(command.mailbox), astring(command.identifier.encode())
    session.send(b'* LISTRIGHTS %b %b "" l r w s t p i e k x a c d\r\n' % names)
    return "OK Listrights completed."


async def getacl(session: Session, tag: str, command: GetAcl) -> str:
    account = _account(session, "GETACL")
    _administer(session, command.mailbox)
    entries, everywhere = _entries(account, command.mailbox), _everywhere(account, command.mailbox)
    place = account.resolve(command.mailbox)
    owner = account.user if place.space.type == "private" else place.owner
    parts = [session.mailbox(command.mailbox)]
    told = [("", identifier, entry) for identifier, entry in sorted(entries.items())]
    told += [("#", identifier, entry) for identifier, entry in sorted(everywhere.items())]
    both = sum(_is_owner(identifier, owner) for _, identifier, _ in told) > 1
    for mark, identifier, entry in told:
        is_his = identifier.kind is Kind.OWNER and owner and not both
        for sign, rights in ((mark, entry.rights), ("-" + mark, entry.negative)):
            if rights is not None:
                letters = shown(rights)
                parts += [
                    astring((sign + (owner if is_his else _written(identifier))).encode("utf-8", "replace")),
                    letters.encode() or b'""',
                ]
    if owner and not any(_is_owner(who, owner) and entry.rights is not None for _, who, entry in told):
        parts += [astring(owner.encode()), shown(acl.ALL).encode()]
    session.send(b"* ACL %b\r\n" % b" ".join(parts))
    return "OK Getacl completed."


async def setacl(session: Session, tag: str, command: SetAcl) -> str:
    account = _account(session, "SETACL")
    negative, identifier = _identifier(account, "SETACL", command.identifier)
    _administer(session, command.mailbox)
    entries = _entries(account, command.mailbox)
    entry = entries.get(identifier, Entry())
    before = entry.negative if negative else entry.rights
    is_own = account.resolve(command.mailbox).space.type == "private" and _is_owner(identifier, account.user)
    if is_own and command.mode and not any(_is_owner(who, account.user) for who in entries):
        before = None if negative else acl.ALL  # what holds without an entry
    letters, had = set(command.rights), set(before or "")
    new = had | letters if command.mode == "+" else had - letters if command.mode == "-" else letters
    if is_own:
        new = new - {"a"} if negative else new | {"a"}  # nobody locks himself out
    if new or before is not None:
        value = acl.ordered(new)
        entry = Entry(entry.rights, value) if negative else Entry(value, entry.negative)
        _change(session, account, command.mailbox, identifier, entry)
    return "OK Setacl complete."


async def deleteacl(session: Session, tag: str, command: DeleteAcl) -> str:
    account = _account(session, "DELETEACL")
    negative, identifier = _identifier(account, "DELETEACL", command.identifier, free=True)
    _administer(session, command.mailbox)
    entry = _entries(account, command.mailbox).get(identifier)
    if entry is not None:
        entry = Entry(entry.rights, None) if negative else Entry(None, entry.negative)
        _change(session, account, command.mailbox, identifier, entry)
    return "OK Deleteacl complete."


def _account(session: Session, name: str) -> Account:
    if not is_told(session):
        raise CommandError(f"BAD Error in IMAP command {name}: Unknown command.")
    assert isinstance(session.root, Account)
    return session.root


def _administer(session: Session, name: str) -> None:
    rights = tree.rights(session.root, name)
    if "l" not in rights or not tree.exists(session.root, name):
        raise missing(session, name)
    if "a" not in rights:
        raise CommandError("NO [NOPERM] You lack administrator privileges on this mailbox.")


def _entries(account: Account, name: str) -> acl.Acl:
    try:
        return tree.acl_of(account, name)
    except acl.AclError as error:
        raise CommandError(f"NO [UNAVAILABLE] The mailbox's ACL cannot be read: {error}") from None


def _everywhere(account: Account, name: str) -> acl.Acl:
    try:
        return tree.global_acl_of(account, name)
    except acl.AclError as error:
        raise CommandError(f"NO [UNAVAILABLE] The global ACLs cannot be read: {error}") from None


def _change(session: Session, account: Account, name: str, identifier: Identifier, entry: Entry) -> None:
    acl.change(tree.path_of(account, name), identifier, entry, _entries(account, name))
    tell_shared(account, name)


def tell_shared(account: Account, name: str) -> None:
    """Write down who may see something of the account (acl_shared_dict), after a change to a mailbox."""
    guard = acl.guard_of(account)
    if guard is None or not guard.shared:
        return
    place = account.resolve(name)
    owner = place.owner or account.user
    if place.space.type == "public":
        return
    acls = []
    for inner in tree.names(place.root):
        try:
            acls.append(acl.read(tree.path_of(place.root, inner)) or {})
            acls.append(tree.global_acl_of(account, place.space.shown(inner, place.owner)))
        except acl.AclError:
            continue
    acl.share(guard, owner, acls)


def _is_owner(identifier: Identifier, owner: str) -> bool:
    return identifier.kind is Kind.OWNER or (identifier.kind is Kind.USER and identifier.name == owner)


def _written(identifier: Identifier) -> str:
    match identifier.kind:
        case Kind.ANYONE | Kind.AUTHENTICATED | Kind.OWNER:
            return identifier.kind.name.lower()
        case Kind.GROUP:
            return f"${identifier.name}"
        case Kind.GROUP_OVERRIDE:
            return f"!${identifier.name}"
    return identifier.name


def _identifier(account: Account, command: str, text: str, *, free: bool = False) -> tuple[bool, Identifier]:
    """Whom an identifier means, and whether rights are taken away from him. `free`: anyone too."""

    def wrong(why: str) -> CommandError:
        return CommandError(f"BAD Error in IMAP command {command}: {why}.")

    guard = acl.guard_of(account)
    assert guard is not None
    negative = text.startswith("-")
    text = text[negative:]
    if text in ("anyone", "authenticated"):
        if not (guard.anyone or free):
            raise wrong(f"'{text}' identifier is disallowed")
        return negative, Identifier(Kind[text.upper()])
    if text == "owner":
        return negative, Identifier(Kind.OWNER)
    for sign, kind in (("!$", Kind.GROUP_OVERRIDE), ("$", Kind.GROUP)):
        if text.startswith(sign):
            return negative, Identifier(kind, text[len(sign) :])
    if text.startswith("#"):
        raise wrong(f"Global ACLs can't be modified: {text}")
    return negative, Identifier(Kind.USER, text)
