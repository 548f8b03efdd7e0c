"""What FETCH says of a message besides its octets (RFC 3501 §7.4.2 and the extensions named in `wire`).

ENVELOPE, BODY and BODYSTRUCTURE are read out of a message once and kept in the folder's cache.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from mailstack.mailbox.imap.objectid import email_id
from mailstack.mailbox.views import View
from mailstack.storage.maildir.cache import Kind, MessageCache
from mailstack.storage.maildir.message import open_message
from mailstack.wire.imap.dates import format_date_time
from mailstack.wire.imap.structure import body, envelope
from mailstack.wire.mime import headers
from mailstack.wire.mime.lines import Data
from mailstack.wire.mime.structure import Part, parse

if TYPE_CHECKING:
    from mailstack.mailbox.imap.session import Session

KINDS = {"ENVELOPE": Kind.ENVELOPE, "BODY": Kind.BODY, "BODYSTRUCTURE": Kind.BODYSTRUCTURE}
"""The attributes that are kept, with the names of their records."""

Reader = Callable[[int, int], bytes]
"""From a message's index in the folder and its UID to `NAME value`. Raises `FileNotFoundError`."""


class Attributes:
    """Readers of attributes, for one command. The message that was looked at last stays at hand."""

    __slots__ = ("_cache", "_data", "_last", "_root", "folder", "session", "view")

    def __init__(self, session: Session, cache: MessageCache | None) -> None:
        """`cache` is needed for the attributes in `KINDS`."""
        self.session = session
        self.view = session.selected
        self.folder = self.view.box.folder
        self._cache = cache
        self._last = 0
        self._data: Data | None = None
        self._root: Part | None = None

    def reader(self, name: str) -> Reader:
        """How to read an attribute."""
        if name in KINDS:
            return self._kept(name)
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
        return self._data

    def root(self, uid: int) -> Part:
        """The message's structure. Raises `FileNotFoundError`, `OSError`."""
        data = self.data(uid)
        if self._root is None:
            self._root = parse(data)
        return self._root

    def _kept(self, name: str) -> Reader:
        cache, kind, label = self._cache, KINDS[name], name.encode("ascii") + b" "
        assert cache is not None

        def read(index: int, uid: int) -> bytes:
            value = cache.get(kind, uid)
            if value is None:
                value = self._envelope(uid) if name == "ENVELOPE" else self._body(uid, name != "BODY")
                cache.add(kind, uid, value)
            return label + value

        return read

    def _envelope(self, uid: int) -> bytes:
        data = self.data(uid)
        fields = self._root.fields if self._root else list(headers.fields(header_of(data)))
        return envelope(fields)

    def _body(self, uid: int, extended: bool) -> bytes:
        return body(self.root(uid), self.data(uid), extended=extended)

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
    """Open a message's file; when it has been renamed by another program, where it is now.

    Raises `FileNotFoundError`, `OSError`.
    """
    folder = view.box.folder
    for _ in range(2):
        index = folder.index(uid)
        if index < 0:
            break
        try:
            return open_message(folder.file(index))
        except FileNotFoundError:
            view.box.look_again()
    raise FileNotFoundError(uid)


def header_of(data: Data) -> bytes:
    """The message's header with its empty line."""
    if isinstance(data, bytes):
        return data[: headers.header_end(data)]
    size = 1 << 16
    while True:
        head = data[:size]
        end = headers.header_end(head)
        if end < len(head) or len(head) == len(data):
            return head[:end]
        size *= 4
