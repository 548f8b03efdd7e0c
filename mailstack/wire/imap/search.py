"""What SEARCH asks for (RFC 3501 §6.4.4), as a tree, and in what form it wants the answer."""

from __future__ import annotations

from dataclasses import dataclass, field

from mailstack.wire.imap.dates import parse_date
from mailstack.wire.imap.sequence import SequenceSet
from mailstack.wire.imap.tokens import Cursor, ParseError

DEPTH_MAX = 100
KEYS_MAX = 10_000


@dataclass(frozen=True, slots=True)
class All:
    """Every message."""


@dataclass(frozen=True, slots=True)
class And:
    keys: tuple[Key, ...]


@dataclass(frozen=True, slots=True)
class Or:
    left: Key
    right: Key


@dataclass(frozen=True, slots=True)
class Not:
    key: Key


@dataclass(frozen=True, slots=True)
class Messages:
    """Sequence numbers, or UIDs; either may be `SAVED`."""

    messages: SequenceSet
    uid: bool


@dataclass(frozen=True, slots=True)
class Flag:
    """A system flag (`\\Seen`) or a keyword."""

    name: str


@dataclass(frozen=True, slots=True)
class Recent:
    """`\\Recent`."""


@dataclass(frozen=True, slots=True)
class Header:
    """A field that holds the text; an empty text asks for the field alone. `plain`, for FROM, SUBJECT and
    their kin: addresses are compared in one form however they are written, and blanks as one."""

    name: bytes
    text: bytes
    plain: bool = False


@dataclass(frozen=True, slots=True)
class Body:
    text: bytes


@dataclass(frozen=True, slots=True)
class Text:
    text: bytes


@dataclass(frozen=True, slots=True)
class Date:
    """`relation`: BEFORE ON SINCE; `of`: `SENT` by the Date: field, `SAVED` by the time the message came into
    the mailbox (RFC 8514), else empty, by arrival; `day`: days since 1970."""

    relation: str
    of: str
    day: int


@dataclass(frozen=True, slots=True)
class Within:
    """YOUNGER or OLDER than so many seconds (RFC 5032), by arrival."""

    younger: bool
    seconds: int


@dataclass(frozen=True, slots=True)
class Size:
    """LARGER (`larger`) or SMALLER than so many octets."""

    larger: bool
    octets: int


@dataclass(frozen=True, slots=True)
class Modseq:
    """A modification sequence of at least that (RFC 7162 §3.1.5; all entries of a message share one)."""

    value: int


@dataclass(frozen=True, slots=True)
class ObjectId:
    """EMAILID or THREADID (RFC 8474 §6)."""

    name: str
    value: str


Key = (
    All
    | And
    | Or
    | Not
    | Messages
    | Flag
    | Recent
    | Header
    | Body
    | Text
    | Date
    | Within
    | Size
    | Modseq
    | ObjectId
)


@dataclass(frozen=True, slots=True)
class Returns:
    """The return options of SEARCH and SORT: MIN MAX ALL COUNT (RFC 4731), SAVE (RFC 5182), UPDATE and
    CONTEXT (RFC 5267). `partial`: the first and last place that are wanted, negative ones from the end (RFC
    9394)."""

    options: frozenset[str] = field(default_factory=frozenset)
    partial: tuple[int, int] | None = None


def parse_returns(cursor: Cursor) -> Returns:
    """`MIN PARTIAL 1:10)`, opened already. Raises `ParseError`."""
    options: set[str] = set()
    partial = None
    while not cursor.take(b")"):
        name = cursor.word()
        if name not in RETURN_OPTIONS:
            raise ParseError("Unknown SEARCH return option.")
        if name == "PARTIAL":
            if partial is not None:
                raise ParseError("PARTIAL can be used only once.")
            cursor.space()
            partial = parse_partial(cursor)
        options.add(name)
        if not cursor.take(b" ") and cursor.peek() != b")":
            raise ParseError("Invalid arguments.")
    if "PARTIAL" in options and "ALL" in options:
        raise ParseError("PARTIAL and ALL cannot be used together.")
    if not options - {"UPDATE", "CONTEXT"}:
        options.add("ALL")
    return Returns(frozenset(options), partial)


def parse_partial(cursor: Cursor) -> tuple[int, int]:
    """`1:100` or `-1:-100` (RFC 9394 §3.1, §3.4): both ends on the same side of 0, in any order."""
    ends = []
    for index in range(2):
        if index:
            cursor.expect(b":", "Invalid PARTIAL range.")
        sign = -1 if cursor.take(b"-") else 1
        ends.append(sign * cursor.number())
    first, last = sorted(ends, key=abs)
    if not first or abs(last) >= 1 << 32 or (first < 0) != (last < 0):
        raise ParseError("Invalid PARTIAL range.")
    return first, last


RETURN_OPTIONS = frozenset({"MIN", "MAX", "ALL", "COUNT", "SAVE", "PARTIAL", "UPDATE", "CONTEXT"})

_FLAGS: dict[str, Key] = {
    "ALL": All(),
    "ANSWERED": Flag("\\Answered"),
    "DELETED": Flag("\\Deleted"),
    "DRAFT": Flag("\\Draft"),
    "FLAGGED": Flag("\\Flagged"),
    "SEEN": Flag("\\Seen"),
    "UNANSWERED": Not(Flag("\\Answered")),
    "UNDELETED": Not(Flag("\\Deleted")),
    "UNDRAFT": Not(Flag("\\Draft")),
    "UNFLAGGED": Not(Flag("\\Flagged")),
    "UNSEEN": Not(Flag("\\Seen")),
    "RECENT": Recent(),
    "OLD": Not(Recent()),
    "NEW": And((Recent(), Not(Flag("\\Seen")))),
    "SAVEDATESUPPORTED": All(),
}
_HEADERS = {"FROM", "TO", "CC", "BCC", "SUBJECT"}
_DATES = {
    f"{prefix}{relation}": (relation, prefix)
    for prefix in ("", "SENT", "SAVED")
    for relation in ("BEFORE", "ON", "SINCE")
}


def parse_keys(cursor: Cursor) -> Key:
    """All keys up to the end of the command. Raises `ParseError`."""
    reader = _Reader(cursor)
    keys = [reader.key(0)]
    while cursor.take(b" "):
        if cursor.at >= len(cursor.text):
            break
        keys.append(reader.key(0))
    cursor.end()
    return keys[0] if len(keys) == 1 else And(tuple(keys))


class _Reader:
    def __init__(self, cursor: Cursor) -> None:
        self.cursor = cursor
        self.count = 0

    def key(self, depth: int) -> Key:
        cursor = self.cursor
        self.count += 1
        if depth > DEPTH_MAX or self.count > KEYS_MAX:
            raise ParseError("Too complex search query.")
        if cursor.take(b"("):
            keys = [self.key(depth + 1)]
            while not cursor.take(b")"):
                cursor.space()
                if cursor.peek() != b")":
                    keys.append(self.key(depth + 1))
            return keys[0] if len(keys) == 1 else And(tuple(keys))
        if cursor.peek().isdigit() or cursor.peek() in (b"*", b"$"):
            return Messages(cursor.message_set(), uid=False)
        if cursor.at >= len(cursor.text):
            raise ParseError("Missing argument.")
        name = cursor.word()
        simple = _FLAGS.get(name)
        return simple if simple is not None else self.with_argument(name, depth)

    def with_argument(self, name: str, depth: int) -> Key:
        cursor = self.cursor
        if name == "NOT":
            cursor.space()
            return Not(self.key(depth + 1))
        if name == "OR":
            cursor.space()
            left = self.key(depth + 1)
            cursor.space()
            return Or(left, self.key(depth + 1))
        if name in _HEADERS:
            return Header(name.encode("ascii"), self.argument(name), plain=True)
        if name == "HEADER":
            field = self.argument(name)
            return Header(field, self.argument(name))
        if name == "BODY":
            return Body(self.argument(name))
        if name == "TEXT":
            return Text(self.argument(name))
        if name in ("KEYWORD", "UNKEYWORD"):
            self.separator(name)
            flag = Flag(cursor.atom("Invalid keyword.").decode("ascii"))
            return flag if name == "KEYWORD" else Not(flag)
        if name in ("LARGER", "SMALLER"):
            self.separator(name)
            return Size(name == "LARGER", cursor.number())
        if name == "UID":
            self.separator(name)
            return Messages(cursor.message_set(), uid=True)
        if name in ("YOUNGER", "OLDER"):
            self.separator(name)
            seconds = cursor.number()
            if not 0 < seconds < 1 << 32:
                raise ParseError("Invalid search interval parameter.")
            return Within(name == "YOUNGER", seconds)
        if name in _DATES:
            try:
                day = parse_date(self.argument(name).decode("ascii"))
            except ValueError:
                raise ParseError("Invalid search date parameter.") from None
            return Date(*_DATES[name], day)
        if name in ("EMAILID", "THREADID"):
            return ObjectId(name, self.argument(name).decode("ascii", "replace"))
        if name == "MODSEQ":
            self.separator(name)
            if cursor.peek() == b'"':
                # An entry and the kind of its value: flags are all that has a sequence.
                cursor.string()
                cursor.space()
                cursor.word()
                cursor.space()
            return Modseq(cursor.number())
        raise ParseError(f"Unknown argument {name}")

    def separator(self, name: str) -> None:
        if not self.cursor.take(b" "):
            raise ParseError(f"Missing parameter for search key (for search key: {name})")

    def argument(self, name: str) -> bytes:
        self.separator(name)
        return self.cursor.astring()
