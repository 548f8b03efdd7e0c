"""SORT and UID SORT (state: selected; RFC 5256 §3; SORT=DISPLAY RFC 5957; ESORT and CONTEXT=SORT RFC 5267).

What messages are sorted by is taken from the headers that the folder's cache keeps for searching, and kept
there too; the order of a whole mailbox stays in memory as long as no message comes or goes.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from mailstack.mailbox.imap.search import answer, matching
from mailstack.mailbox.imap.search_header import Headers, Made
from mailstack.mailbox.imap.search_query import Progress
from mailstack.mailbox.imap.search_updates import refuse_twice, watch
from mailstack.mailbox.views.shared import SharedMailbox
from mailstack.storage.maildir.cache import Kind
from mailstack.wire.imap import commands as c
from mailstack.wire.imap.sort import Criterion, base_subject
from mailstack.wire.mime.address import Address, parse_addresses
from mailstack.wire.mime.dates import parse_date_time
from mailstack.wire.mime.text import field_lines

if TYPE_CHECKING:
    from mailstack.mailbox.imap.session import Session
    from mailstack.mailbox.views import View

ORDERS_MAX = 4
"""Orders of a mailbox that are remembered."""
RUN = 1 << 13
"""Messages that are sorted without a pause."""

_orders: WeakKeyDictionary[SharedMailbox, dict[tuple[Criterion, ...], tuple[array[int], array[int]]]] = (
    WeakKeyDictionary()
)
"""By mailbox and program: the array of UIDs that was sorted, and the positions in their order."""


async def sort(session: Session, tag: str, command: c.Sort) -> str:
    refuse_twice(session, tag, command.returns)
    since = session.selected.box.folder.highest_modseq
    found = await matching(session, tag, command)
    ordered = await in_order(session, tag, command.program, found)
    answer(session, tag, command, ordered, "SORT", extended=False)
    if command.returns is not None and "UPDATE" in command.returns.options:

        async def arrange(positions: list[int]) -> list[int]:
            return await in_order(session, tag, command.program, positions)

        watch(session, tag, command, ordered, since, arrange)
    return "OK Sort completed."


async def in_order(session: Session, tag: str, program: tuple[Criterion, ...], found: list[int]) -> list[int]:
    """Positions (ascending) in the order of a program; equal ones stay as they are."""
    view = session.selected
    whole = len(found) == view.count and view.uids is view.box.folder.uids
    orders = _orders.setdefault(view.box, {})
    uids, order = orders.get(program, (None, ()))
    if uids is not view.uids or len(order) != view.count:
        ordered = await Keys(session, tag).sorted(program, found)
        if whole:
            orders.pop(program, None)
            orders[program] = (view.uids, array("I", ordered))
            if len(orders) > ORDERS_MAX:
                del orders[next(iter(orders))]
        return ordered
    if whole:
        return list(order)
    wanted = set(found)
    return [at for at in order if at in wanted]


class Keys:
    """What the messages of a view are sorted by, for one command."""

    __slots__ = ("_headers", "_progress", "_view")

    def __init__(self, session: Session, tag: str) -> None:
        self._view = session.selected
        self._progress = Progress(session, tag)
        self._headers = Headers(self._view, self._progress)

    async def ahead(self, names: Iterable[str], found: list[int], more: Sequence[Made] = ()) -> None:
        """Have what is sorted by read by everybody who can, where much of it is not known."""
        wanted = [_KEYS[name] for name in dict.fromkeys(names) if name in _KEYS]
        if wanted or more:
            await self._headers.ahead(found, [*(_made(*key) for key in wanted), *more])

    async def column(self, name: str, found: Sequence[int]) -> list[bytes]:
        """One of the keys in `_KEYS` of these positions; kept from then on, as far as the cache takes it."""
        kind, read = _KEYS[name]
        cache = await self._headers.cache()
        uids = self._view.uids
        missing = [at for at in found if not cache.has(kind, uids[at])]
        if missing:
            await self._headers.fill(missing)
        values = []
        for count, at in enumerate(found):
            if not count & 127:
                await self._progress.turn(count, len(found))
            value = cache.get(kind, uids[at])
            if value is None:
                try:
                    value = read(self._headers.text(uids[at]))
                except FileNotFoundError:
                    value = b""
                else:
                    cache.add(kind, uids[at], value)
            values.append(value)
        cache.flush()
        return values

    async def subjects(self, found: Sequence[int]) -> list[tuple[bytes, bool]]:
        """Base subjects, and whether each was a reply or was forwarded."""
        return [(value[1:], value[:1] == _ANSWERED) for value in await self.column("SUBJECT", found)]

    async def dates(self, found: Sequence[int]) -> list[int]:
        """When the messages were sent, in seconds since 1970; when they came, where that is not known."""
        sent = await self.column("DATE", found)
        arrived = _arrived(self._view)
        return [int(date) if date else arrived(at) for date, at in zip(sent, found, strict=True)]

    async def sorted(self, program: tuple[Criterion, ...], found: list[int]) -> list[int]:
        """Positions in the order of a program."""
        await self.ahead([name for name, _ in program], found)
        order = found
        for name, reverse in reversed(program):
            values: Sequence[int] | Sequence[bytes]
            if name == "ARRIVAL":
                values = await self._each(_arrived(self._view), found)
            elif name == "SIZE":
                values = await self._each(_size(self._view), found)
            elif name == "DATE":
                values = await self.dates(found)
            elif name == "SUBJECT":
                values = [value[1:] for value in await self.column(name, found)]
            else:
                values = await self.column(name, found)
            keys: dict[int, Any] = dict(zip(found, values, strict=True))
            order = await self._sort(order, keys.__getitem__, reverse)
        return order

    async def _each(self, value: Callable[[int], int], found: list[int]) -> list[int]:
        values = []
        for count, at in enumerate(found):
            if not count & 255:
                await self._progress.turn(count, len(found))
            values.append(value(at))
        return values

    async def _sort(self, order: list[int], key: Callable[[int], Any], reverse: bool) -> list[int]:
        """`sorted`, with pauses: runs first, then two of them to one, which takes little time."""
        runs = [order[at : at + RUN] for at in range(0, len(order), RUN)]
        for run in runs:
            run.sort(key=key, reverse=reverse)
            await self._progress.turn(0, len(order))
        while len(runs) > 1:
            pairs = []
            for at in range(0, len(runs), 2):
                pair = runs[at] + (runs[at + 1] if at + 1 < len(runs) else [])
                pair.sort(key=key, reverse=reverse)
                pairs.append(pair)
                await self._progress.turn(0, len(order))
            runs = pairs
        return runs[0] if runs else []


def _arrived(view: View) -> Callable[[int], int]:
    folder = view.box.folder

    def arrived(at: int) -> int:
        index = folder.index(view.uids[at])
        try:
            return folder.date(index) if index >= 0 else 0
        except FileNotFoundError:
            return 0

    return arrived


def _size(view: View) -> Callable[[int], int]:
    folder = view.box.folder

    def size(at: int) -> int:
        index = folder.index(view.uids[at])
        try:
            return view.box.wire_size(index) if index >= 0 else 0
        except FileNotFoundError:
            return 0

    return size


def _made(kind: Kind, read: Callable[[bytes], bytes]) -> Made:
    return kind, lambda header, text: read(text)


_ANSWERED = b"1"


def _date(header: bytes) -> bytes:
    """Seconds since 1970; empty when it cannot be read."""
    seconds = parse_date_time(next(field_lines(header, b"DATE"), b""))
    return b"" if seconds is None else b"%d" % seconds


def _subject(header: bytes) -> bytes:
    """The base subject behind one octet: `_ANSWERED`, or not."""
    base, answered = base_subject(next(field_lines(header, b"SUBJECT"), b"").decode("utf-8", "replace"))
    return (_ANSWERED if answered else b"0") + base.encode("utf-8", "replace").replace(b"\n", b" ")


def _first_address(header: bytes, name: bytes) -> Address | None:
    value = next(field_lines(header, name), b"")
    addresses = parse_addresses(value) if value else []
    return addresses[0] if addresses else None


def _mailbox(name: bytes) -> Callable[[bytes], bytes]:
    """The mailbox of the first address in a field, which is what FROM, TO and CC compare."""

    def read(header: bytes) -> bytes:
        first = _first_address(header, name)
        return (first.mailbox or b"").replace(b"\n", b" ") if first is not None else b""

    return read


def _display(name: bytes) -> Callable[[bytes], bytes]:
    """What a reader would see of the first address in a field (RFC 5957 §3)."""

    def read(header: bytes) -> bytes:
        first = _first_address(header, name)
        if first is None:
            return b""
        mailbox = first.mailbox or b""
        shown = first.name or (
            mailbox + b"@" + first.domain if mailbox and first.domain is not None else mailbox
        )
        return shown.replace(b"\n", b" ")

    return read


_KEYS: dict[str, tuple[Kind, Callable[[bytes], bytes]]] = {
    "SUBJECT": (Kind.SUBJECT_KEY, _subject),
    "DATE": (Kind.DATE_KEY, _date),
    "FROM": (Kind.FROM_KEY, _mailbox(b"FROM")),
    "TO": (Kind.TO_KEY, _mailbox(b"TO")),
    "CC": (Kind.CC_KEY, _mailbox(b"CC")),
    "DISPLAYFROM": (Kind.DISPLAYFROM_KEY, _display(b"FROM")),
    "DISPLAYTO": (Kind.DISPLAYTO_KEY, _display(b"TO")),
}
"""The keys that are read from `searchable_header`s, and where each is kept."""
