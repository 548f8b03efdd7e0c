"""From a command's text to a value of `commands`: one small function per command."""

from __future__ import annotations

from collections.abc import Callable

from mailstack.wire.imap import acl, metadata, quota, urlfetch
from mailstack.wire.imap import commands as c
from mailstack.wire.imap.notify import parse_notify
from mailstack.wire.imap.parse_messages import MESSAGES
from mailstack.wire.imap.tokens import Cursor, ParseError

STATUS_ITEMS = frozenset(
    {
        "MESSAGES",
        "RECENT",
        "UIDNEXT",
        "UIDVALIDITY",
        "UNSEEN",
        "SIZE",
        "DELETED",
        "DELETED-STORAGE",
        "HIGHESTMODSEQ",
        "MAILBOXID",
        "APPENDLIMIT",
    }
)
LIST_SELECTION = frozenset({"SUBSCRIBED", "REMOTE", "RECURSIVEMATCH", "SPECIAL-USE"})
LIST_RETURN = frozenset({"SUBSCRIBED", "CHILDREN", "SPECIAL-USE", "MYRIGHTS"})
PATTERNS_MAX = 100


def _login(cursor: Cursor) -> c.Command:
    cursor.space()
    user = cursor.astring()
    cursor.space()
    return c.Login(user, cursor.astring())


def _authenticate(cursor: Cursor) -> c.Command:
    cursor.space()
    mechanism = cursor.word()
    initial = None
    if cursor.take(b" "):
        initial = cursor.text[cursor.at :].strip(b" ")
        cursor.at = len(cursor.text)
    return c.Authenticate(mechanism, initial)


def _id(cursor: Cursor) -> c.Command:
    cursor.space()
    if not cursor.take(b"("):
        if cursor.nstring() is not None:
            raise ParseError("Invalid arguments.")
        return c.Id(None)
    fields: list[tuple[bytes, bytes | None]] = []
    while not cursor.take(b")"):
        name = cursor.string()
        cursor.space()
        fields.append((name, cursor.nstring()))
        cursor.take(b" ")
        if len(fields) > 30:
            raise ParseError("Too many ID fields.")
    return c.Id(tuple(fields))


def _compress(cursor: Cursor) -> c.Command:
    cursor.space()
    return c.Compress(cursor.word())


def _enable(cursor: Cursor) -> c.Command:
    names = []
    while cursor.at < len(cursor.text):
        cursor.space()
        names.append(cursor.word())
    if not names:
        raise ParseError("Missing arguments.")
    return c.Enable(tuple(names))


def _select(readonly: bool) -> Callable[[Cursor], c.Command]:
    def parse(cursor: Cursor) -> c.Command:
        cursor.space()
        mailbox = cursor.mailbox()
        condstore, qresync = _select_parameters(cursor) if cursor.take(b" (") else (False, None)
        return c.Select(mailbox, readonly, condstore, qresync)

    return parse


def _select_parameters(cursor: Cursor) -> tuple[bool, c.Qresync | None]:
    """`CONDSTORE` and `QRESYNC (…)` up to the closing parenthesis (RFC 4466 §2.4, RFC 7162)."""
    condstore, qresync = False, None
    while not cursor.take(b")"):
        name = cursor.word()
        if name == "CONDSTORE":
            condstore = True
        elif name == "QRESYNC":
            cursor.space()
            qresync = _qresync(cursor)
        else:
            raise ParseError(f"Unknown parameter {name}")
        cursor.take(b" ")
    return condstore, qresync


def _qresync(cursor: Cursor) -> c.Qresync:
    cursor.expect(b"(", "Invalid QRESYNC parameters.")
    uid_validity = cursor.number()
    cursor.space()
    modseq = cursor.number()
    if not uid_validity or not modseq:
        raise ParseError("Invalid QRESYNC parameters.")
    known = pairs = None
    if cursor.take(b" ") and cursor.peek() != b"(":
        known = cursor.sequence_set()
        cursor.take(b" ")
    if cursor.take(b"("):
        numbers = cursor.sequence_set()
        cursor.space()
        pairs = (numbers, cursor.sequence_set())
        cursor.expect(b")", "Invalid QRESYNC parameters.")
    cursor.expect(b")", "Invalid QRESYNC parameters.")
    return c.Qresync(uid_validity, modseq, known, pairs)


def _create(cursor: Cursor) -> c.Command:
    """With RFC 6154's `(USE (\\Sent))`."""
    cursor.space()
    mailbox = cursor.mailbox()
    uses: tuple[str, ...] = ()
    if cursor.take(b" ("):
        while not cursor.take(b")"):
            name = cursor.word()
            if name != "USE":
                raise ParseError(f"Unknown parameter {name}")
            cursor.space()
            uses = cursor.flag_list()
            cursor.take(b" ")
    return c.Create(mailbox, uses)


def _delete(cursor: Cursor) -> c.Command:
    cursor.space()
    return c.Delete(cursor.mailbox())


def _rename(cursor: Cursor) -> c.Command:
    cursor.space()
    old = cursor.mailbox()
    cursor.space()
    return c.Rename(old, cursor.mailbox())


def _subscribe(subscribed: bool) -> Callable[[Cursor], c.Command]:
    def parse(cursor: Cursor) -> c.Command:
        cursor.space()
        return c.Subscribe(cursor.mailbox(), subscribed)

    return parse


def _words(cursor: Cursor) -> list[str]:
    """`(A B)`, opened already."""
    words = []
    while not cursor.take(b")"):
        words.append(cursor.word())
        if not cursor.take(b" ") and cursor.peek() != b")":
            raise ParseError("Invalid arguments.")
    return words


def _list(cursor: Cursor) -> c.Command:
    cursor.space()
    selection: frozenset[str] = frozenset()
    returns: set[str] = set()
    status: tuple[str, ...] = ()
    wanted: metadata.Wanted | None = None
    extended = False
    if cursor.take(b"("):
        extended = True
        selection = frozenset(_words(cursor))
        if not selection <= LIST_SELECTION:
            raise ParseError("Unknown select option.")
        if "RECURSIVEMATCH" in selection and not selection - {"RECURSIVEMATCH", "REMOTE"}:
            raise ParseError("RECURSIVEMATCH must not be the only selection.")
        cursor.space()
    reference = cursor.mailbox() if cursor.peek() != b"(" else _invalid("Invalid reference.")
    cursor.space()
    patterns: list[str] = []
    if cursor.take(b"("):
        extended = True
        while not cursor.take(b")"):
            patterns.append(cursor.pattern())
            if len(patterns) > PATTERNS_MAX or not (cursor.take(b" ") or cursor.peek() == b")"):
                raise ParseError("Invalid pattern list.")
    else:
        patterns.append(cursor.pattern())
    if cursor.take(b" ") and cursor.peek():
        if cursor.word() != "RETURN":
            raise ParseError("Extra arguments.")
        extended = True
        cursor.space()
        cursor.expect(b"(", "Invalid return options.")
        while not cursor.take(b")"):
            option = cursor.word()
            if option == "STATUS":
                cursor.space()
                status = _status_items(cursor)
            elif option == "METADATA":
                cursor.space()
                wanted = metadata.parse_wanted(cursor)
            elif option not in LIST_RETURN:
                raise ParseError(f"Unknown return option {option}.")
            returns.add(option)
            cursor.take(b" ")
    return c.List(reference, tuple(patterns), selection, frozenset(returns), status, extended, wanted)


def _invalid(text: str) -> str:
    raise ParseError(text)


def _lsub(cursor: Cursor) -> c.Command:
    cursor.space()
    reference = cursor.mailbox()
    cursor.space()
    return c.Lsub(reference, cursor.pattern())


def _status(cursor: Cursor) -> c.Command:
    cursor.space()
    mailbox = cursor.mailbox()
    cursor.space()
    return c.Status(mailbox, _status_items(cursor))


def _status_items(cursor: Cursor) -> tuple[str, ...]:
    cursor.expect(b"(", "Status list is missing.")
    items = tuple(dict.fromkeys(_words(cursor)))
    if not items:
        raise ParseError("Empty status list.")
    for item in items:
        if item not in STATUS_ITEMS:
            raise ParseError(f"Invalid status item {item}")
    return items


def _plain(name: str) -> Callable[[Cursor], c.Command]:
    command = c.Plain(name)
    return lambda cursor: command


_PLAIN = (
    "CAPABILITY",
    "NOOP",
    "LOGOUT",
    "STARTTLS",
    "CHECK",
    "CLOSE",
    "UNSELECT",
    "EXPUNGE",
    "IDLE",
    "NAMESPACE",
)
PARSERS: dict[str, Callable[[Cursor], c.Command]] = {
    **{name: _plain(name) for name in _PLAIN},
    "LOGIN": _login,
    "AUTHENTICATE": _authenticate,
    "ID": _id,
    "COMPRESS": _compress,
    "ENABLE": _enable,
    "SELECT": _select(readonly=False),
    "EXAMINE": _select(readonly=True),
    "CREATE": _create,
    "DELETE": _delete,
    "RENAME": _rename,
    "SUBSCRIBE": _subscribe(subscribed=True),
    "UNSUBSCRIBE": _subscribe(subscribed=False),
    "LIST": _list,
    "LSUB": _lsub,
    "STATUS": _status,
    "GETMETADATA": metadata.parse_get,
    "SETMETADATA": metadata.parse_set,
    "SETACL": acl.parse_set,
    "DELETEACL": acl.parse_delete,
    "GETACL": acl.parse_get,
    "LISTRIGHTS": acl.parse_list_rights,
    "MYRIGHTS": acl.parse_my_rights,
    "GETQUOTA": quota.parse_get,
    "GETQUOTAROOT": quota.parse_get_root,
    "SETQUOTA": quota.parse_set,
    "NOTIFY": parse_notify,
    "RESETKEY": urlfetch.parse_reset,
    "GENURLAUTH": urlfetch.parse_generate,
    "URLFETCH": urlfetch.parse_fetch,
    **MESSAGES,
}
"""APPEND is not here: its literal is handed on piece by piece (see `server`)."""


def parse_command(name: str, cursor: Cursor) -> c.Command:
    """Read the arguments of `name` (upper case). Raises `ParseError`, `BadMailboxNameError`."""
    command = PARSERS[name](cursor)
    cursor.end()
    return command
