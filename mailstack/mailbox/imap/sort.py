"""SORT and UID SORT (state: selected; RFC 5256 §3; SORT=DISPLAY RFC 5957; ESORT RFC 5267 §3).

What messages are sorted by is taken from the headers that the folder's cache keeps for searching, and kept
there too; the order of a whole mailbox stays in memory as long as no message comes or goes.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from mailstack.mailbox.imap.search import answer, matching
from mailstack.mailbox.imap.search_header import Headers
from mailstack.mailbox.imap.search_query import Progress
from mailstack.mailbox.imap.search_updates import watch
from mailstack.mailbox.views.shared import SharedMailbox
from mailstack.storage.maildir.cache import Kind
from mailstack.wire.imap import commands as c
from mailstack.wire.imap.sort import Criterion, base_subject
from mailstack.wire.mime.address import parse_addresses
from mailstack.wire.mime.dates import parse_date_time
from mailstack.wire.mime.text import field_lines

if TYPE_CHECKING:
    from mailstack.mailbox.imap.session import Session
    from mailstack.mailbox.views import View

FIELDS = ("DATE", "SUBJECT", "FROM", "TO", "CC", "DISPLAYFROM", "DISPLAYTO", "ANSWERED")
"""What is kept of a message, in this order, an LF between: see `keys_of`."""
ORDERS_MAX = 4
"""Orders of a mailbox that are remembered."""
RUN = 1 << 13
"""Messages that are sorted without a pause."""

_orders: WeakKeyDictionary[SharedMailbox, dict[tuple[Criterion, ...], tuple[array[int], array[int]]]] = (
    WeakKeyDictionary()
)
"""By mailbox and program: the array of UIDs that was sorted, and the positions in their order."""


async def sort(session: Session, tag: str, command: c.Sort) -> str:
    found = await matching(session, tag, command)
    ordered = await in_order(session, tag, command.program, found)
    answer(session, tag, command, ordered, "SORT", extended=False)
    if command.returns is not None and "UPDATE" in command.returns.options:
        watch(session, tag, command, found, 0)
    return "OK Sort completed."


async def in_order(session: Session, tag: str, program: tuple[Criterion, ...], found: list[int]) -> list[int]:
    """Positions (ascending) in the order of a program; equal ones stay as they are."""
    view = session.selected
    whole = len(found) == view.count and view.uids is view.box.folder.uids
    orders = _orders.setdefault(view.box, {})
    uids, order = orders.get(program, (None, ()))
    if uids is not view.uids or len(order) != view.count:
        keys = Keys(session, tag)
        await keys.fill(found)
        ordered = await keys.sorted(program, found)
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

    async def fill(self, found: Sequence[int]) -> None:
        """Keep the keys of these positions, as far as the cache takes them."""
        cache = await self._headers.cache()
        uids = self._view.uids
        missing = [at for at in found if not cache.has(Kind.SORT_KEYS, uids[at])]
        if not missing:
            return
        await self._headers.fill(missing)
        for count, at in enumerate(missing):
            if not count & 63:
                await self._progress.turn(count, len(found))
            try:
                cache.add(Kind.SORT_KEYS, uids[at], keys_of(self._headers.text(uids[at])))
            except FileNotFoundError:
                continue
        cache.flush()

    async def column(self, name: str, found: Sequence[int]) -> list[bytes]:
        """One of `FIELDS` of these positions."""
        cache = await self._headers.cache()
        uids, place = self._view.uids, FIELDS.index(name)
        values = []
        for count, at in enumerate(found):
            if not count & 1023:
                await self._progress.turn(count, len(found))
            payload = cache.get(Kind.SORT_KEYS, uids[at])
            if payload is None:
                payload = self._missing(uids[at])
            values.append(payload.split(b"\n", place + 1)[place])
        return values

    def _missing(self, uid: int) -> bytes:
        try:
            return keys_of(self._headers.text(uid))
        except FileNotFoundError:
            return b"\n" * len(FIELDS)

    async def dates(self, found: Sequence[int]) -> list[int]:
        """When the messages were sent, in seconds since 1970; when they came, where that is not known."""
        sent = await self.column("DATE", found)
        arrived = _arrived(self._view)
        return [int(date) if date else arrived(at) for date, at in zip(sent, found, strict=True)]

    async def sorted(self, program: tuple[Criterion, ...], found: list[int]) -> list[int]:
        """Positions in the order of a program."""
        order = found
        for name, reverse in reversed(program):
            values: Sequence[int] | Sequence[bytes]
            if name == "ARRIVAL":
                values = await self._each(_arrived(self._view), found)
            elif name == "SIZE":
                values = await self._each(_size(self._view), found)
            elif name == "DATE":
                values = await self.dates(found)
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


def keys_of(header: bytes) -> bytes:
    """What a message with this `searchable_header` is sorted by: `FIELDS`, an LF between."""
    date = parse_date_time(next(field_lines(header, b"DATE"), b""))
    base, answered = base_subject(next(field_lines(header, b"SUBJECT"), b"").decode("utf-8", "replace"))
    senders = _address(header, b"FROM")
    receivers = _address(header, b"TO")
    copied = _address(header, b"CC")
    fields = (
        b"%d" % date if date is not None else b"",
        base.encode("utf-8", "replace"),
        senders[0],
        receivers[0],
        copied[0],
        senders[1],
        receivers[1],
        b"1" if answered else b"",
    )
    return b"\n".join(field.replace(b"\n", b" ") for field in fields)


def _address(header: bytes, name: bytes) -> tuple[bytes, bytes]:
    """The mailbox of the first address (what FROM, TO and CC compare), and what a reader would see of it
    (RFC 5957 §3)."""
    value = next(field_lines(header, name), b"")
    addresses = parse_addresses(value) if value else []
    if not addresses:
        return b"", b""
    first = addresses[0]
    mailbox = first.mailbox or b""
    if first.name:
        return mailbox, first.name
    return mailbox, mailbox + b"@" + first.domain if mailbox and first.domain is not None else mailbox
