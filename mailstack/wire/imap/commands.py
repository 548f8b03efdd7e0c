"""The commands of a client as values (RFC 3501 §6 and the extensions named beside each)."""

from __future__ import annotations

from dataclasses import dataclass, field

from mailstack.wire.imap.acl import DeleteAcl, GetAcl, ListRights, MyRights, SetAcl
from mailstack.wire.imap.fetch import FetchItem
from mailstack.wire.imap.metadata import GetMetadata, SetMetadata, Wanted
from mailstack.wire.imap.notify import Notify
from mailstack.wire.imap.quota import GetQuota, GetQuotaRoot, SetQuota
from mailstack.wire.imap.search import Key, Returns
from mailstack.wire.imap.sequence import SequenceSet
from mailstack.wire.imap.sort import Criterion
from mailstack.wire.imap.urlfetch import GenUrlAuth, ResetKey, UrlFetch


@dataclass(frozen=True, slots=True)
class Plain:
    """A command without arguments, such as NOOP; `name` says which."""

    name: str


@dataclass(frozen=True, slots=True)
class Login:
    user: bytes
    password: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Authenticate:
    """`initial`: the initial response still in base64 (RFC 4959), None without one."""

    mechanism: str
    initial: bytes | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class Id:
    """RFC 2971: the client's own fields, or None for NIL."""

    fields: tuple[tuple[bytes, bytes | None], ...] | None


@dataclass(frozen=True, slots=True)
class Compress:
    """RFC 4978."""

    mechanism: str


@dataclass(frozen=True, slots=True)
class Enable:
    """RFC 5161."""

    capabilities: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Qresync:
    """What a client knows of a mailbox already (RFC 7162 §3.2.5): it wants to hear what is otherwise now.

    `known`: the UIDs it has, None for all; `pairs`: sequence numbers and the UIDs they had then.
    """

    uid_validity: int
    modseq: int
    known: SequenceSet | None = None
    pairs: tuple[SequenceSet, SequenceSet] | None = None


@dataclass(frozen=True, slots=True)
class Select:
    mailbox: str
    readonly: bool
    condstore: bool = False
    qresync: Qresync | None = None


@dataclass(frozen=True, slots=True)
class Create:
    """`uses`: what the mailbox is for (RFC 6154 §3)."""

    mailbox: str
    uses: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Delete:
    mailbox: str


@dataclass(frozen=True, slots=True)
class Rename:
    mailbox: str
    new: str


@dataclass(frozen=True, slots=True)
class Subscribe:
    mailbox: str
    subscribed: bool


@dataclass(frozen=True, slots=True)
class List:
    """LIST with RFC 5258's selection and return options, RFC 5819's STATUS, RFC 6154's SPECIAL-USE,
    RFC 8440's MYRIGHTS, and RFC 9590's METADATA."""

    reference: str
    patterns: tuple[str, ...]
    selection: frozenset[str] = frozenset()
    returns: frozenset[str] = frozenset()
    status: tuple[str, ...] = ()
    extended: bool = False
    metadata: Wanted | None = None


@dataclass(frozen=True, slots=True)
class Lsub:
    reference: str
    pattern: str


@dataclass(frozen=True, slots=True)
class Status:
    mailbox: str
    items: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class UidExpunge:
    """RFC 4315 §2.1."""

    uids: SequenceSet


@dataclass(frozen=True, slots=True)
class Search:
    key: Key
    uid: bool
    charset: str
    returns: Returns | None = None
    """RFC 4731: what ESEARCH is to return; None for a plain SEARCH."""


@dataclass(frozen=True, slots=True)
class Sort:
    """RFC 5256 §3; with `returns` RFC 5267 §3."""

    program: tuple[Criterion, ...]
    key: Key
    uid: bool
    charset: str
    returns: Returns | None = None


@dataclass(frozen=True, slots=True)
class Thread:
    """RFC 5256 §3: `algorithm` is ORDEREDSUBJECT, REFERENCES or REFS."""

    algorithm: str
    key: Key
    uid: bool
    charset: str


@dataclass(frozen=True, slots=True)
class CancelUpdate:
    """RFC 5267 §4.4: the tags of the searches that are to be forgotten."""

    tags: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Fetch:
    """`changed_since`: only messages above that modification sequence, and with `vanished` also the UIDs of
    those that are gone (RFC 7162 §3.1.4.1, §3.2.6). `partial`: only those places of the set (RFC 9394)."""

    messages: SequenceSet
    items: tuple[FetchItem, ...]
    uid: bool
    changed_since: int | None = None
    vanished: bool = False
    partial: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Store:
    """`mode`: `+`, `-` or empty (replace). `unchanged_since`: not where the modification sequence is above it
    (RFC 7162 §3.1.3)."""

    messages: SequenceSet
    mode: str
    silent: bool
    flags: tuple[str, ...]
    uid: bool
    unchanged_since: int | None = None


@dataclass(frozen=True, slots=True)
class Copy:
    """COPY, or MOVE (RFC 6851)."""

    messages: SequenceSet
    mailbox: str
    move: bool
    uid: bool


Command = (
    Plain
    | Login
    | Authenticate
    | Id
    | Compress
    | Enable
    | Select
    | Create
    | Delete
    | Rename
    | Subscribe
    | List
    | Lsub
    | Status
    | UidExpunge
    | Search
    | Sort
    | Thread
    | CancelUpdate
    | Fetch
    | Store
    | Copy
    | SetAcl
    | DeleteAcl
    | GetAcl
    | ListRights
    | MyRights
    | GetMetadata
    | SetMetadata
    | GetQuota
    | GetQuotaRoot
    | SetQuota
    | Notify
    | ResetKey
    | GenUrlAuth
    | UrlFetch
)
