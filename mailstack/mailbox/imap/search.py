"""SEARCH and UID SEARCH (state: selected; RFC 3501 §6.4.4), ESEARCH's return options (RFC 4731).

A key is applied to the messages that are left, cheap keys first: flags and numbers cost nothing, sizes and
dates little, headers and bodies a look into the file.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, assert_never

from mailstack.mailbox.imap.attributes import header_of, open_found
from mailstack.mailbox.imap.errors import CommandError
from mailstack.mailbox.imap.fetch import TURN
from mailstack.mailbox.imap.objectid import email_id
from mailstack.mailbox.imap.store import SYSTEM_BITS
from mailstack.mailbox.views import View
from mailstack.wire.imap import commands as c
from mailstack.wire.imap import search as keys
from mailstack.wire.imap.sequence import STAR, format_set, positions_of_uids
from mailstack.wire.mime import headers
from mailstack.wire.mime.dates import parse_sent_date
from mailstack.wire.mime.lines import Data, release
from mailstack.wire.mime.structure import Part, parse
from mailstack.wire.mime.text import (
    ADDRESS_FIELDS,
    addresses_text,
    charset_text,
    field_text,
    fold_case,
    header_text,
    knows_charset,
    part_text,
)

if TYPE_CHECKING:
    from mailstack.mailbox.imap.session import Session


async def search(session: Session, tag: str, command: c.Search) -> str:
    view = session.selected
    if session.uidonly and (not command.uid or _names_numbers(command.key)):
        raise CommandError("BAD [UIDREQUIRED] Sequence numbers have been given up.")
    if not knows_charset(command.charset):
        raise CommandError("NO [BADCHARSET (UTF-8 US-ASCII)] Unknown charset.")
    found = await _Search(view, command.charset).apply(command.key, list(range(view.count)))
    numbers = [view.uids[at] if command.uid else at + 1 for at in found]
    modseq = _highest_modseq(view, found) if found and _asks_for_modseq(command.key) else 0
    if command.returns is None and not session.rev2:
        tail = f" (MODSEQ {modseq})" if modseq else ""
        session.line("* SEARCH" + "".join(f" {number}" for number in numbers) + tail)
    else:
        session.line(_esearch(tag, command, numbers, modseq))
    return "OK Search completed."


def _asks_for_modseq(key: keys.Key) -> bool:
    return any(isinstance(leaf, keys.Modseq) for leaf in _leaves(key))


def _names_numbers(key: keys.Key) -> bool:
    return any(isinstance(leaf, keys.Messages) and not leaf.uid for leaf in _leaves(key))


def _leaves(key: keys.Key) -> Iterator[keys.Key]:
    match key:
        case keys.And(parts):
            for part in parts:
                yield from _leaves(part)
        case keys.Or(first, second):
            yield from _leaves(first)
            yield from _leaves(second)
        case keys.Not(part):
            yield from _leaves(part)
        case _:
            yield key


def _highest_modseq(view: View, found: list[int]) -> int:
    """RFC 7162 §3.1.5: of all messages that are in the result."""
    folder = view.box.folder
    indexes = (folder.index(view.uids[at]) for at in found)
    return max((folder.modseqs[index] for index in indexes if index >= 0), default=0)


def _esearch(tag: str, command: c.Search, numbers: list[int], modseq: int) -> str:
    parts = [f'* ESEARCH (TAG "{tag}")']
    if command.uid:
        parts.append("UID")
    returns = command.returns or frozenset({"ALL"})
    if numbers and "MIN" in returns:
        parts.append(f"MIN {numbers[0]}")
    if numbers and "MAX" in returns:
        parts.append(f"MAX {numbers[-1]}")
    if numbers and "ALL" in returns:
        parts.append(f"ALL {format_set(numbers)}")
    if "COUNT" in returns:
        parts.append(f"COUNT {len(numbers)}")
    if modseq:
        parts.append(f"MODSEQ {modseq}")
    return " ".join(parts)


class _Search:
    """One query over one view. Positions are sequence numbers - 1."""

    def __init__(self, view: View, charset: str) -> None:
        self.view = view
        self.charset = charset

    async def apply(self, key: keys.Key, left: list[int]) -> list[int]:
        """Those of the positions that the key holds for, ascending."""
        match key:
            case keys.All():
                return left
            case keys.And(parts):
                for part in sorted(parts, key=_cost):
                    left = await self.apply(part, left)
                return left
            case keys.Or(first, second):
                if _cost(second) < _cost(first):
                    first, second = second, first
                yes = set(await self.apply(first, left))
                rest = [at for at in left if at not in yes]
                yes.update(await self.apply(second, rest))
                return [at for at in left if at in yes]
            case keys.Not(part):
                no = set(await self.apply(part, left))
                return [at for at in left if at not in no]
            case keys.Messages(messages, uid):
                return self.messages(messages, uid, left)
            case keys.Flag(name):
                return self.flag(name, left)
            case keys.Recent():
                uids = self.view.uids
                return [at for at in left if self.view.is_recent(uids[at])]
            case keys.Size(larger, octets):
                box = self.view.box
                if larger:
                    return await self.each(left, lambda at: box.wire_size(self.index(at)) > octets)
                return await self.each(left, lambda at: box.wire_size(self.index(at)) < octets)
            case keys.Date(relation, of, day):
                return await self.each(left, lambda at: _compare(self.day(at, of), relation, day))
            case keys.Modseq(value):
                modseqs = self.view.box.folder.modseqs
                return await self.each(left, lambda at: modseqs[self.index(at)] >= value)
            case keys.ObjectId(name, wanted_id):
                if name == "THREADID":
                    return []
                folder = self.view.box.folder
                return await self.each(left, lambda at: email_id(folder, self.index(at)) == wanted_id)
            case keys.Header(name, text):
                wanted = self.text(text)
                return await self.each(left, lambda at: self.in_header(at, name.lower(), wanted))
            case keys.Body(text):
                wanted = self.text(text)
                return await self.each(left, lambda at: self.in_message(at, wanted, with_header=False))
            case keys.Text(text):
                wanted = self.text(text)
                return await self.each(left, lambda at: self.in_message(at, wanted, with_header=True))
        assert_never(key)

    async def each(self, left: list[int], test: Callable[[int], bool]) -> list[int]:
        """The positions that pass a test which looks at files; messages that are gone do not."""
        found = []
        loop = asyncio.get_running_loop()
        turn = loop.time() + TURN
        for at in left:
            try:
                if test(at):
                    found.append(at)
            except FileNotFoundError:
                continue
            if loop.time() > turn:
                await asyncio.sleep(0)
                turn = loop.time() + TURN
        return found

    def index(self, at: int) -> int:
        index = self.view.box.folder.index(self.view.uids[at])
        if index < 0:
            raise FileNotFoundError
        return index

    def text(self, raw: bytes) -> str:
        return fold_case(charset_text(raw, self.charset))

    def messages(self, messages: tuple[tuple[int, int], ...], uid: bool, left: list[int]) -> list[int]:
        view = self.view
        if uid:
            wanted = set(positions_of_uids(messages, view.uids, view.count))
        else:
            wanted = set()
            for low, high in messages:
                # `n:*` holds for the last message even when n is higher (RFC 3501 §9).
                first = min(low, view.count) if high == STAR else low
                wanted.update(range(max(first, 1) - 1, min(high, view.count)))
        return [at for at in left if at in wanted]

    def flag(self, name: str, left: list[int]) -> list[int]:
        folder = self.view.box.folder
        bit = SYSTEM_BITS.get(name.lower()) if name.startswith("\\") else folder.keywords.bit(name)
        if not bit:
            return []
        flags = folder.flags
        if self.view.uids is folder.uids:
            return [at for at in left if flags[at] & bit]
        result = []
        for at in left:
            index = folder.index(self.view.uids[at])
            if index >= 0 and flags[index] & bit:
                result.append(at)
        return result

    def day(self, at: int, of: str) -> int:
        """The day of arrival, here or in all, or of the Date: field without regard to its zone; days since
        1970."""
        if of != "SENT":
            folder = self.view.box.folder
            seconds = (folder.saved_date if of else folder.date)(self.index(at))
            return (seconds + time.localtime(seconds).tm_gmtoff) // 86400
        values = headers.values(header_of(self.open(at)), b"date")
        # A date that is missing or cannot be read is the epoch, as in Dovecot.
        return (parse_sent_date(values[-1]) if values else None) or 0

    def open(self, at: int) -> Data:
        return open_found(self.view, self.view.uids[at])

    def in_header(self, at: int, name: bytes, wanted: str) -> bool:
        read = addresses_text if name in ADDRESS_FIELDS else field_text
        values = headers.values(header_of(self.open(at)), name)
        return any(not wanted or wanted in fold_case(read(value)) for value in values)

    def in_message(self, at: int, wanted: str, *, with_header: bool) -> bool:
        data = self.open(at)
        try:
            return self.in_part(parse(data), data, wanted, with_header)
        finally:
            release(data)

    def in_part(self, part: Part, data: Data, wanted: str, with_header: bool) -> bool:
        """TEXT looks into the headers of all parts, BODY into none; both into text and messages only."""
        if with_header and wanted in fold_case(header_text(data[part.start : part.body])):
            return True
        if part.children:
            return any(self.in_part(child, data, wanted, with_header) for child in part.children)
        kind = part.type.type.lower() if part.type is not None else b"text"
        return kind in (b"text", b"message") and wanted in fold_case(part_text(part, data))


def _compare(day: int, relation: str, wanted: int) -> bool:
    if relation == "BEFORE":
        return day < wanted
    return day == wanted if relation == "ON" else day >= wanted


def _cost(key: keys.Key) -> int:
    match key:
        case keys.All() | keys.Messages() | keys.Flag() | keys.Recent():
            return 0
        case keys.Size():
            return 1
        case keys.Modseq() | keys.ObjectId():
            return 1
        case keys.Date(of=of):
            return 10 if of == "SENT" else 2
        case keys.Header():
            return 10
        case keys.Body() | keys.Text():
            return 100
        case keys.Not(part):
            return _cost(part)
        case keys.Or(first, second):
            return _cost(first) + _cost(second)
        case keys.And(parts):
            return max(map(_cost, parts))
    assert_never(key)
