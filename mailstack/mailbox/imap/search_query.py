"""One query over one session's view: which messages the keys of SEARCH, SORT and THREAD hold for.

A key is applied to the messages that are left, cheap keys first: flags and numbers cost nothing, sizes and
dates little, headers a look into the cache, bodies one into the file. Positions are sequence numbers - 1.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sized
from typing import TYPE_CHECKING, Any, TypeVar, assert_never

from mailstack.mailbox.imap.fetch import TURN
from mailstack.mailbox.imap.messages import saved_positions
from mailstack.mailbox.imap.objectid import email_id
from mailstack.mailbox.imap.search_header import Directory, Headers
from mailstack.mailbox.imap.search_text import contains
from mailstack.mailbox.imap.store import SYSTEM_BITS
from mailstack.wire.imap import search as keys
from mailstack.wire.imap.sequence import SAVED, STAR, SequenceSet, positions_of_uids
from mailstack.wire.mime.dates import parse_sent_date
from mailstack.wire.mime.lines import release
from mailstack.wire.mime.text import charset_text, field_lines, fold_case

if TYPE_CHECKING:
    from mailstack.mailbox.imap.session import Session

T = TypeVar("T")
PROGRESS = 10.0
"""Seconds between two lines about how far a long command is (RFC 9585 §4)."""


class Progress:
    """A command that may take long: lets others have their turn, and tells the client how far it is."""

    __slots__ = ("_loop", "_next", "_session", "_tag", "_turn")

    def __init__(self, session: Session, tag: str) -> None:
        self._session = session
        self._tag = tag
        self._loop = asyncio.get_running_loop()
        self._turn = self._loop.time() + TURN
        self._next = session.service.clock.monotonic() + PROGRESS

    async def turn(self, done: int, goal: int) -> None:
        """Call it every now and then: `done` of `goal` steps."""
        if self._loop.time() < self._turn:
            return
        await asyncio.sleep(0)
        self._turn = self._loop.time() + TURN
        now = self._session.service.clock.monotonic()
        if now >= self._next:
            self._next = now + PROGRESS
            await self._tell(done, goal)

    async def during(self, work: Coroutine[Any, Any, T], done: Sized, goal: int) -> T:
        """The result of what is done elsewhere; `done` grows by one with each of `goal` steps."""
        task = asyncio.get_running_loop().create_task(work)
        try:
            while not (await asyncio.wait((task,), timeout=PROGRESS))[0]:
                await self._tell(len(done), goal)
        finally:
            if not task.done():
                # The client is gone; what has been begun is brought to its end.
                await asyncio.wait((task,))
                task.exception()
        return task.result()

    async def _tell(self, done: int, goal: int) -> None:
        self._session.line(f'* OK [INPROGRESS ("{self._tag}" {done} {goal})] Hang in there...')
        await self._session.flush()


def leaves(key: keys.Key) -> Iterator[keys.Key]:
    """The keys that a query is made of, without what joins them."""
    match key:
        case keys.And(parts):
            for part in parts:
                yield from leaves(part)
        case keys.Or(first, second):
            yield from leaves(first)
            yield from leaves(second)
        case keys.Not(part):
            yield from leaves(part)
        case _:
            yield key


class Query:
    """One query over one view."""

    def __init__(self, session: Session, tag: str, charset: str) -> None:
        self.session = session
        self.view = session.selected
        self.charset = charset
        self.progress = Progress(session, tag)
        self.headers = Headers(self.view, self.progress)

    async def run(self, key: keys.Key, left: list[int] | None = None) -> list[int]:
        """The positions, of those in `left` or of all, that the key holds for; ascending."""
        found = await self.apply(key, list(range(self.view.count)) if left is None else left)
        self.headers.flush()
        return found

    async def apply(self, key: keys.Key, left: list[int]) -> list[int]:
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
                size = self.view.box.wire_size
                if larger:
                    return await self.each(left, lambda index: size(index) > octets)
                return await self.each(left, lambda index: size(index) < octets)
            case keys.Within() | keys.Date(of="" | "SAVED"):
                return await self.each(left, self.arrived(key))
            case keys.Date(relation, _, day):
                await self.headers.fill(left)
                return await self.each(left, lambda index: _compare(self.sent(index), relation, day))
            case keys.Modseq(value):
                modseqs = self.view.box.folder.modseqs
                return await self.each(left, lambda index: modseqs[index] >= value)
            case keys.ObjectId("THREADID"):
                return []
            case keys.ObjectId(_, wanted):
                folder = self.view.box.folder
                return await self.each(left, lambda index: email_id(folder, index) == wanted)
            case keys.Header(name, text, plain):
                return await self.headers.holding(name, self.text(text), left, plain=plain)
            case keys.Body(text):
                return await self.containing(left, self.text(text), with_header=False)
            case keys.Text(text):
                return await self.containing(left, self.text(text), with_header=True)
        assert_never(key)

    async def each(self, left: list[int], test: Callable[[int], bool]) -> list[int]:
        """The positions whose message, by its place in the folder, passes a test; those that are gone do
        not."""
        found = []
        for count, (at, index) in enumerate(self.indexes(left)):
            if not count & 255:
                await self.progress.turn(count, len(left))
            try:
                if test(index):
                    found.append(at)
            except FileNotFoundError:
                continue
        return found

    def indexes(self, left: Iterable[int]) -> Iterator[tuple[int, int]]:
        """Each position with the message's place in the folder, where it still has one."""
        view, folder = self.view, self.view.box.folder
        for at in left:
            if view.uids is folder.uids:
                yield at, at
            elif (index := folder.index(view.uids[at])) >= 0:
                yield at, index

    def text(self, raw: bytes) -> str:
        return fold_case(charset_text(raw, self.charset))

    def messages(self, messages: SequenceSet, uid: bool, left: list[int]) -> list[int]:
        view = self.view
        if messages == SAVED:
            wanted = set(saved_positions(self.session))
        elif uid:
            wanted = set(positions_of_uids(messages, view.uids, view.count))
        else:
            wanted = set()
            for low, high in messages:
                # `n:*` holds for the last message even when n is higher (RFC 3501 §9).
                first = min(low, view.count) if high == STAR else low
                wanted.update(range(max(first, 1) - 1, min(high, view.count)))
        return left if len(wanted) == view.count else [at for at in left if at in wanted]

    def flag(self, name: str, left: list[int]) -> list[int]:
        folder = self.view.box.folder
        bit = SYSTEM_BITS.get(name.lower()) if name.startswith("\\") else folder.keywords.bit(name)
        if not bit:
            return []
        flags = folder.flags
        if self.view.uids is not folder.uids:
            return [at for at, index in self.indexes(left) if flags[index] & bit]
        if not bit >> 8:
            octets = folder.system_flags()
            return [at for at in left if octets[at] & bit]
        return [at for at in left if flags[at] & bit]

    def arrived(self, key: keys.Date | keys.Within) -> Callable[[int], bool]:
        """A test of when a message came, here or in all, by the server's days."""
        folder = self.view.box.folder
        if isinstance(key, keys.Within):
            limit = int(self.session.service.clock.time()) - key.seconds
            if key.younger:
                return lambda index: folder.date(index) >= limit
            return lambda index: folder.date(index) <= limit
        when = folder.saved_date if key.of else folder.date
        start, end = _start(key.day), _start(key.day + 1)
        match key.relation:
            case "BEFORE":
                return lambda index: when(index) < start
            case "ON":
                return lambda index: start <= when(index) < end
            case _:
                return lambda index: when(index) >= start

    def sent(self, index: int) -> int:
        """The day of the Date: field without regard to its zone; days since 1970."""
        values = list(field_lines(self.headers.text(self.view.box.folder.uids[index]), b"DATE"))
        # A date that is missing or cannot be read is the epoch, as in Dovecot.
        return (parse_sent_date(values[-1]) if values else None) or 0

    async def containing(self, left: list[int], wanted: str, *, with_header: bool) -> list[int]:
        """Messages with a text; each is looked at piece by piece."""
        found = []
        uids = self.view.uids
        directory = Directory(self.view)
        try:
            for count, at in enumerate(left):
                if not count & 7:
                    await self.progress.turn(count, len(left))
                try:
                    data = directory.message(uids[at])
                except FileNotFoundError:
                    continue
                for outcome in contains(data, wanted, with_header=with_header):
                    if outcome:
                        found.append(at)
                        break
                    if not isinstance(data, bytes):
                        await self.progress.turn(count, len(left))
                release(data)
        finally:
            directory.close()
        return found


def _compare(day: int, relation: str, wanted: int) -> bool:
    if relation == "BEFORE":
        return day < wanted
    return day == wanted if relation == "ON" else day >= wanted


def _start(day: int) -> float:
    """When a day (since 1970) begins here, in seconds since 1970."""
    return time.mktime((*time.gmtime(day * 86400)[:3], 0, 0, 0, 0, 0, -1))


def _cost(key: keys.Key) -> int:
    match key:
        case keys.All() | keys.Messages() | keys.Flag() | keys.Recent():
            return 0
        case keys.Size() | keys.Modseq() | keys.ObjectId():
            return 1
        case keys.Date(of="SENT") | keys.Header():
            return 10
        case keys.Date() | keys.Within():
            return 2
        case keys.Body() | keys.Text():
            return 100
        case keys.Not(part):
            return _cost(part)
        case keys.Or(first, second):
            return _cost(first) + _cost(second)
        case keys.And(parts):
            return max(map(_cost, parts))
    assert_never(key)
