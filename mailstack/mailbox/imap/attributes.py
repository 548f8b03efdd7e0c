"""What FETCH says of a message besides its octets (RFC 3501 §7.4.2 and the extensions named in `wire`).

ENVELOPE, BODY, BODYSTRUCTURE and PREVIEW are read out of a message once and kept in the folder's cache.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from mailstack.mailbox.imap.objectid import email_id
from mailstack.mailbox.imap.readers import Read
from mailstack.mailbox.views import SharedMailbox, View
from mailstack.storage.maildir.cache import Kind, MessageCache
from mailstack.storage.maildir.message import open_message
from mailstack.wire.imap.dates import format_date_time
from mailstack.wire.imap.encode import string
from mailstack.wire.imap.structure import body, envelope
from mailstack.wire.mime import headers
from mailstack.wire.mime.lines import Data, seek
from mailstack.wire.mime.preview import preview
from mailstack.wire.mime.structure import HEADER_MAX, Part, kept_fields, parse

if TYPE_CHECKING:
    from mailstack.mailbox.imap.session import Session

KINDS = {
    "ENVELOPE": Kind.ENVELOPE,
    "BODY": Kind.BODY,
    "BODYSTRUCTURE": Kind.BODYSTRUCTURE,
    "PREVIEW": Kind.PREVIEW,
}
"""The attributes that are kept, with the names of their records."""
PREVIEWS = {"PREVIEW FUZZY": b"PREVIEW (FUZZY %b)", "SNIPPET": b"SNIPPET (FUZZY %b)"}
"""Other forms of PREVIEW, of the drafts of RFC 8970."""
LAZY = {f"{name} LAZY": form for name, form in {"PREVIEW": b"PREVIEW %b", **PREVIEWS}.items()}
"""Those that a message is not read for."""

_GLOBAL = b'"message" "global"'

LARGE = 1 << 16
"""Octets from which a message's structure is read on another thread: it may be of thousands of parts."""

Reader = Callable[[int, int], bytes]
"""From a message's index in the folder and its UID to `NAME value`. Raises `FileNotFoundError`."""


class LargeMessageError(Exception):
    """The message has to be read by `Attributes.prepare` first."""


class Attributes:
    """Readers of attributes, for one command. The message that was looked at last stays at hand."""

    __slots__ = ("_cache", "_data", "_last", "_ready", "_root", "_whole", "folder", "session", "view")

    def __init__(self, session: Session, cache: MessageCache | None) -> None:
        """`cache` is needed for the attributes in `KINDS`."""
        self.session = session
        self.view = session.selected
        self.folder = self.view.box.folder
        self._cache = cache
        self._last = 0
        self._data: Data | None = None
        self._root: Part | None = None
        self._ready: dict[str, bytes] = {}
        self._whole = False

    def reader(self, name: str) -> Reader:
        """How to read an attribute."""
        if name in KINDS:
            self._whole = self._whole or name in ("BODY", "BODYSTRUCTURE")
            return self._kept(name)
        if name in PREVIEWS:
            return self._other_preview(PREVIEWS[name])
        if name in LAZY:
            return self._lazy_preview(LAZY[name])
        reader: Reader = getattr(self, _READERS[name])
        return reader

    def index(self, uid: int) -> int:
        """The message's place in the folder. Raises `FileNotFoundError`."""
        index = self.folder.index(uid)
        if index < 0:
            raise FileNotFoundError(uid)
        return index

    def data(self, uid: int) -> Data:
        """The message's octets. Raises `FileNotFoundError`, `OSError`."""
        if self._last != uid or self._data is None:
            self._data, self._root = open_found(self.view, uid), None
            self._last = uid
            self._ready.clear()
        return self._data

    def root(self, uid: int) -> Part:
        """The message's structure. Raises `FileNotFoundError`, `OSError`."""
        data = self.data(uid)
        if self._root is None:
            self._root = parse(data, world=self.session.rev2)
        return self._root

    async def prepare(self, uid: int, names: Iterable[str]) -> None:
        """Read a large message on another thread: its structure, and of these attributes those that are
        kept. Raises `FileNotFoundError`, `OSError`."""
        data = self.data(uid)
        wanted = [
            name for name in names if name in KINDS and self._cache and not self._cache.has(KINDS[name], uid)
        ]
        root, ready = await asyncio.to_thread(_read_large, data, wanted, self.session.rev2)
        if self._last == uid:
            self._root = root
            self._ready.update(ready)

    def is_large(self, uid: int) -> bool:
        """Whether the message is to be prepared before its structure is asked for."""
        return len(self.data(uid)) > LARGE and (self._root is None or self._last != uid)

    def _kept(self, name: str) -> Reader:
        cache, kind, label = self._cache, KINDS[name], name.encode("ascii") + b" "
        assert cache is not None
        # What is kept is what IMAP4rev1 says, where message/global is a leaf (RFC 9051 §7.5.2).
        world = self.session.rev2 and name.startswith("BODY")

        def read(index: int, uid: int) -> bytes:
            value = cache.get(kind, uid)
            if value is None or (world and _GLOBAL in value.lower()):
                if self.is_large(uid):
                    raise LargeMessageError(uid)
                value = self._ready.get(name)
                if value is None:
                    value = (
                        self._envelope(uid)
                        if name == "ENVELOPE"
                        else kept_value(name, self.root(uid), self.data(uid))
                    )
                if not world or _GLOBAL not in value.lower():
                    cache.add(kind, uid, value)
            return label + value

        return read

    def _envelope(self, uid: int) -> bytes:
        """Needs no structure: the header is enough, unless the structure is asked for as well."""
        data = self.data(uid)
        if self._root is None and not self._whole:
            return envelope(kept_fields(header_of(data)))
        return envelope(self.root(uid).fields)

    def _other_preview(self, form: bytes) -> Reader:
        read = self._kept("PREVIEW")
        return lambda index, uid: form % read(index, uid).removeprefix(b"PREVIEW ")

    def _lazy_preview(self, form: bytes) -> Reader:
        """What there is without reading the message (RFC 8970 §3.1)."""
        cache = self._cache

        def read(index: int, uid: int) -> bytes:
            value = cache.get(Kind.PREVIEW, uid) if cache is not None else None
            return form % value if value is not None else form.partition(b" ")[0] + b" NIL"

        return read

    def _uid(self, index: int, uid: int) -> bytes:
        return b"UID %d" % uid

    def _flags(self, index: int, uid: int) -> bytes:
        return b"FLAGS " + self.session.flags(index)

    def _internal_date(self, index: int, uid: int) -> bytes:
        return b'INTERNALDATE "%b"' % format_date_time(self.folder.date(index))

    def _size(self, index: int, uid: int) -> bytes:
        return b"RFC822.SIZE %d" % self.view.box.wire_size(index)

    def _modseq(self, index: int, uid: int) -> bytes:
        return b"MODSEQ (%d)" % self.folder.modseqs[index]

    def _save_date(self, index: int, uid: int) -> bytes:
        return b'SAVEDATE "%b"' % format_date_time(self.folder.saved_date(index))

    def _email_id(self, index: int, uid: int) -> bytes:
        return b"EMAILID (%b)" % email_id(self.folder, index).encode("ascii")

    def _thread_id(self, index: int, uid: int) -> bytes:
        return b"THREADID NIL"


def read_kept(view: View, cache: MessageCache, names: Iterable[str]) -> Read:
    """What of these attributes is kept and not yet known, for readers; see `readers`."""
    kinds = [(name, KINDS[name]) for name in dict.fromkeys(names) if name in KINDS]
    whole = [name for name, _ in kinds] != ["ENVELOPE"]

    def read(uid: int, patient: bool) -> Iterable[tuple[Kind, bytes]]:
        missing = [(name, kind) for name, kind in kinds if not cache.has(kind, uid)]
        index = view.box.folder.index(uid)
        if not missing or index < 0:
            return ()
        data = open_message(view.box.folder.file(index))
        if not patient and len(data) > LARGE:
            return ()
        if not whole:
            return ((Kind.ENVELOPE, envelope(kept_fields(header_of(data)))),)
        root = parse(data)
        return [(kind, kept_value(name, root, data)) for name, kind in missing]

    return read


def kept_value(name: str, root: Part, data: Data) -> bytes:
    """The value of one of the attributes in `KINDS`."""
    match name:
        case "ENVELOPE":
            return envelope(root.fields)
        case "PREVIEW":
            return string(preview(root, data).encode())
        case _:
            return body(root, data, extended=name != "BODY")


def _read_large(data: Data, names: list[str], world: bool) -> tuple[Part, dict[str, bytes]]:
    root = parse(data, world=world)
    return root, {name: kept_value(name, root, data) for name in names}


_READERS = {
    "UID": "_uid",
    "FLAGS": "_flags",
    "INTERNALDATE": "_internal_date",
    "RFC822.SIZE": "_size",
    "MODSEQ": "_modseq",
    "SAVEDATE": "_save_date",
    "EMAILID": "_email_id",
    "THREADID": "_thread_id",
}
"""The attributes that are not kept, with their methods."""


def open_found(view: View, uid: int) -> Data:
    """`open_in` the mailbox of a view."""
    return open_in(view.box, uid)


def open_in(box: SharedMailbox, uid: int) -> Data:
    """Open a message's file; when it has been renamed by another program, where it is now.

    Raises `FileNotFoundError`, `OSError`.
    """
    folder = box.folder
    for _ in range(2):
        index = folder.index(uid)
        if index < 0:
            break
        try:
            return open_message(folder.file(index))
        except FileNotFoundError:
            box.look_again()
    raise FileNotFoundError(uid)


def header_of(data: Data) -> bytes:
    """The message's header with its empty line; of a header without end what is looked at for fields."""
    if isinstance(data, bytes):
        return data[: min(headers.header_end(data), HEADER_MAX)]
    size = 1 << 16
    while True:
        head = data[:size]
        end = headers.header_end(head)
        if end < len(head) or size >= min(len(data), HEADER_MAX):
            return head[: min(end, HEADER_MAX)]
        size *= 2


def header_size(data: Data) -> int:
    """Octets of all of the message's header, its empty line included."""
    if isinstance(data, bytes) or data[:1] == b"\n" or data[:2] == b"\r\n":
        return headers.header_end(data[:2] if not isinstance(data, bytes) else data)
    lf = seek(data, b"\n\n", 0)
    crlf = seek(data, b"\n\r\n", 0, lf + 1 if lf >= 0 else None)
    return crlf + 3 if crlf >= 0 else lf + 2 if lf >= 0 else len(data)
