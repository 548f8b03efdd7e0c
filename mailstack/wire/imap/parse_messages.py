"""The commands about messages: SEARCH SORT THREAD FETCH STORE COPY MOVE, and UID with each; see `parse`."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from mailstack.wire.imap import commands as c
from mailstack.wire.imap.fetch import parse_items
from mailstack.wire.imap.search import Key, Returns, parse_keys, parse_partial, parse_returns
from mailstack.wire.imap.sort import parse_program
from mailstack.wire.imap.tokens import Cursor, ParseError

THREAD_ALGORITHMS = frozenset({"ORDEREDSUBJECT", "REFERENCES", "REFS"})


def _uid_expunge(cursor: Cursor) -> c.Command:
    cursor.space()
    return c.UidExpunge(cursor.message_set())


def _returns(cursor: Cursor) -> Returns | None:
    """`RETURN (…) `, if it comes next."""
    if cursor.text[cursor.at : cursor.at + 8].upper() != b"RETURN (":
        return None
    cursor.at += 8
    returns = parse_returns(cursor)
    cursor.space()
    return returns


def _search(uid: bool) -> Callable[[Cursor], c.Command]:
    def parse(cursor: Cursor) -> c.Command:
        cursor.space()
        returns = _returns(cursor)
        charset = "UTF-8"
        if cursor.text[cursor.at : cursor.at + 8].upper() == b"CHARSET ":
            cursor.at += 8
            charset = _charset(cursor)
        return c.Search(parse_keys(cursor), uid, charset, returns)

    return parse


def _charset(cursor: Cursor) -> str:
    charset = cursor.astring().decode("ascii", "replace").upper()
    cursor.space()
    return charset


def _sort(uid: bool) -> Callable[[Cursor], c.Command]:
    def parse(cursor: Cursor) -> c.Command:
        cursor.space()
        returns = _returns(cursor)
        program = parse_program(cursor)
        cursor.space()
        charset = _charset(cursor)
        return c.Sort(program, parse_keys(cursor), uid, charset, returns)

    return parse


def _thread(uid: bool) -> Callable[[Cursor], c.Command]:
    def parse(cursor: Cursor) -> c.Command:
        cursor.space()
        algorithm = cursor.word()
        if algorithm not in THREAD_ALGORITHMS:
            raise ParseError("Unknown thread algorithm.")
        cursor.space()
        charset = _charset(cursor)
        key: Key = parse_keys(cursor)
        return c.Thread(algorithm, key, uid, charset)

    return parse


def _cancel_update(cursor: Cursor) -> c.Command:
    tags = []
    while cursor.at < len(cursor.text):
        cursor.space()
        tags.append(cursor.string().decode("ascii", "replace"))
    if not tags:
        raise ParseError("Missing arguments.")
    return c.CancelUpdate(tuple(tags))


def _fetch(uid: bool) -> Callable[[Cursor], c.Command]:
    def parse(cursor: Cursor) -> c.Command:
        cursor.space()
        messages = cursor.message_set()
        cursor.space()
        items = parse_items(cursor)
        changed_since, vanished, partial = None, False, None
        if cursor.take(b" ("):
            while not cursor.take(b")"):
                name = cursor.word()
                if name == "CHANGEDSINCE":
                    cursor.space()
                    changed_since = cursor.number()
                elif name == "VANISHED" and uid:
                    vanished = True
                elif name == "PARTIAL" and uid:
                    cursor.space()
                    partial = parse_partial(cursor)
                else:
                    raise ParseError(f"Unknown FETCH modifier {name}")
                cursor.take(b" ")
        if vanished and changed_since is None:
            raise ParseError("VANISHED needs CHANGEDSINCE")
        return c.Fetch(messages, items, uid, changed_since, vanished, partial)

    return parse


def _store(uid: bool) -> Callable[[Cursor], c.Command]:
    def parse(cursor: Cursor) -> c.Command:
        cursor.space()
        messages = cursor.message_set()
        cursor.space()
        unchanged_since = _unchanged_since(cursor) if cursor.take(b"(") else None
        start = cursor.at
        end = cursor.text.find(b" ", start)
        if end < 0:
            raise ParseError("Missing arguments.")
        item = cursor.text[start:end].decode("ascii", "replace").upper()
        cursor.at = end
        mode = item[:1] if item[:1] in ("+", "-") else ""
        if item[len(mode) :] not in ("FLAGS", "FLAGS.SILENT"):
            raise ParseError(f"Invalid STORE item {item}")
        cursor.space()
        if cursor.peek() == b"(":
            flags = cursor.flag_list()
        else:
            names = [cursor.flag()]
            while cursor.take(b" "):
                names.append(cursor.flag())
            flags = tuple(names)
        return c.Store(messages, mode, item.endswith(".SILENT"), flags, uid, unchanged_since)

    return parse


def _unchanged_since(cursor: Cursor) -> int:
    """`UNCHANGEDSINCE 12) ` (RFC 7162 §3.1.3)."""
    if cursor.word() != "UNCHANGEDSINCE":
        raise ParseError("Unknown STORE modifier.")
    cursor.space()
    value = cursor.number()
    cursor.expect(b")")
    cursor.space()
    return value


def _copy(move: bool, uid: bool) -> Callable[[Cursor], c.Command]:
    def parse(cursor: Cursor) -> c.Command:
        cursor.space()
        messages = cursor.message_set()
        cursor.space()
        return c.Copy(messages, cursor.mailbox(), move, uid)

    return parse


MESSAGES: Mapping[str, Callable[[Cursor], c.Command]] = {
    "SEARCH": _search(uid=False),
    "UID SEARCH": _search(uid=True),
    "SORT": _sort(uid=False),
    "UID SORT": _sort(uid=True),
    "THREAD": _thread(uid=False),
    "UID THREAD": _thread(uid=True),
    "CANCELUPDATE": _cancel_update,
    "FETCH": _fetch(uid=False),
    "UID FETCH": _fetch(uid=True),
    "STORE": _store(uid=False),
    "UID STORE": _store(uid=True),
    "COPY": _copy(move=False, uid=False),
    "UID COPY": _copy(move=False, uid=True),
    "MOVE": _copy(move=True, uid=False),
    "UID MOVE": _copy(move=True, uid=True),
    "UID EXPUNGE": _uid_expunge,
}
