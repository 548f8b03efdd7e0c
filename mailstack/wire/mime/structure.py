"""The tree of a message's MIME parts (RFC 2045, RFC 2046), as offsets into the message on disk.

One pass over the octets, with `find` from boundary to boundary; text is never copied. Limits as Dovecot's:
parts nested deeper than `DEPTH_MAX` are leaves, and after `PARTS_MAX` parts no more are made. Fields are
looked for in the first octets of a header and of all headers (`HEADER_MAX`, `HEADERS_MAX`).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

from mailstack.wire.mime import headers
from mailstack.wire.mime.lines import WINDOW, Data, release, seek
from mailstack.wire.mime.params import ContentType, parse_content_type, parse_token

NamedValue = tuple[bytes, bytes]
"""A field: its name in lower case and its raw value."""
DEPTH_MAX = 100
PARTS_MAX = 10_000
BOUNDARY_MAX = 80
HEADER_MAX = 1 << 19
"""Octets of one header that are looked at for its fields."""
HEADERS_MAX = 1 << 20
"""Octets of all headers of a message that are."""
FIELDS_MAX = 10_000
"""Fields of one header that are told of."""
VALUE_MAX = 1 << 16
"""Octets of a field that are told of where the header is a large one."""
_LARGE_HEADER = 1 << 14
_DESCRIBING = frozenset(
    b"mime-version date subject from sender reply-to to cc bcc in-reply-to message-id".split()
)
"""Fields, beside `Content-…`, that are kept."""
_SPELLINGS = {
    spelled: name
    for name in (
        *_DESCRIBING,
        *b"content-type content-transfer-encoding content-disposition content-id content-description".split(),
    )
    for spelled in (name, name.title(), name.upper())
}
_SPELLINGS.update(
    {b"MIME-Version": b"mime-version", b"Message-ID": b"message-id", b"Content-ID": b"content-id"}
)
_SPELLINGS.update(
    dict.fromkeys(
        b"Received Return-Path Delivered-To Received-SPF DKIM-Signature Authentication-Results List-Id "
        b"List-Unsubscribe References User-Agent X-Mailer X-Originating-IP X-Spam-Status".split(),
        b"",
    )
)
"""How names are mostly written, with what is made of them: lower case, or nothing where they are not kept."""


class Part:
    """A part: its header is `data[start:body]`, its content `data[body:end]`.

    `kind` is `multipart`, `rfc822` or empty. A multipart's children are its parts; an rfc822 part has one
    child, the message in it. `fields` is what the header says that is told of (see `kept_fields`), `content`
    those fields of it that describe the content. Without `mime` they are a message's that does not say it has
    MIME's.
    """

    __slots__ = ("body", "children", "content", "end", "fields", "kind", "mime", "start", "type")

    def __init__(self, start: int) -> None:
        self.start = start
        self.body = start
        self.end = start
        self.kind = ""
        self.mime = True
        self.type: ContentType | None = None
        # There may be thousands of parts: none has a list that stays empty.
        self.fields: Sequence[NamedValue] = ()
        self.content: tuple[NamedValue, ...] = ()
        self.children: Sequence[Part] = ()

    @property
    def is_text(self) -> bool:
        """No Content-Type, or `text/…`."""
        return not self.kind and (self.type is None or self.type.type.lower() == b"text")

    def field(self, name: bytes, *, first: bool = False) -> bytes | None:
        """The last (or first) field of a name (lower case), unfolded; None when there is none."""
        fields = self.content if name[:8] == b"content-" else self.fields
        for known, value in fields if first else reversed(fields):
            if known == name:
                return headers.unfold(value)
        return None


def parse(data: Data, *, world: bool = False) -> Part:
    """The whole message as a part. With `world` a message/global part (RFC 6532 §3.7) is one as
    message/rfc822 is, unless its content is encoded; else it is a leaf, as in Dovecot."""
    return _Scanner(data, world).message()


def kept_fields(header: bytes, *, few: bool = False) -> list[NamedValue]:
    """The fields of a header that describe the message or its parts: names in lower case, raw values; the
    beginnings of values where the header is a large one (or with `few`)."""
    large = few or len(header) > _LARGE_HEADER
    if large or b"\r" in header:
        return [
            (field.name, field.value[:VALUE_MAX] if large else field.value)
            for field in islice(headers.fields(header), FIELDS_MAX if large else None)
            if field.name[:8] == b"content-" or field.name in _DESCRIBING
        ]
    kept: list[NamedValue] = []
    spellings = _SPELLINGS
    for last, spelled, value, _ in headers.split(header):
        name = spellings.get(spelled)
        if name is None:
            if last:
                break
            name = spelled.rstrip(b" \t").lower()
            if name[:8] != b"content-" and name not in _DESCRIBING:
                continue
        if name:
            kept.append((name, value))
    return kept


def _is_encoded(part: Part) -> bool:
    """Whether Content-Transfer-Encoding says that the content is base64 or quoted-printable."""
    value = part.field(b"content-transfer-encoding", first=True) or b""
    return (parse_token(value) or b"").lower() in (b"base64", b"quoted-printable")


class _Scanner:
    def __init__(self, data: Data, world: bool) -> None:
        self.data = data
        self.world = world
        self.size = len(data)
        # Looking for one octet is quick: most messages have LF for line ends.
        self.in_memory = isinstance(data, bytes)
        self.carriage = not self.in_memory or data.find(b"\r") >= 0
        self.parts = 1
        self.reached = 0
        self.headers_left = HEADERS_MAX
        # Behind the next empty line, and from where on it is that.
        self.empty: int | None = 0
        self.empty_from = 0
        # The boundaries that are open, the innermost last.
        self.boundaries: list[bytes] = []

    def message(self) -> Part:
        root = Part(0)
        self.part(root, 0, message=True)
        root.end = self.size
        return root

    def part(
        self, part: Part, depth: int, digest: bool = False, message: bool = False
    ) -> tuple[int, int, int] | None:
        """Read one part from `part.start` on. Returns the boundary that ended it (see `boundary`), or None at
        the message's end."""
        stop, cut = self.header(part)
        # Without one of these BODYSTRUCTURE tells nothing of what a message's header says of its content.
        names = dict(part.fields)
        part.mime = not message or b"mime-version" in names or b"content-type" in names
        self.classify(part, depth, digest)
        if stop is not None and cut and not self.opens(part, stop):
            # A boundary within the header, or at once behind the empty line, whose line end belongs to the
            # boundary then; it counts as content of an rfc822 part around this message all the same.
            self.reached = stop[0] + (2 if self.data[stop[0] : stop[0] + 2] == b"\r\n" else 1)
            part.body = part.end = max(stop[0], part.start)
            if part.kind == "rfc822":
                part.children = (Part(part.end),)
            if part.kind != "multipart":
                return stop
        if part.kind == "multipart":
            stop = self.multipart(part, depth)
        elif part.kind == "rfc822":
            child = Part(part.body)
            part.children = (child,)
            self.parts += 1
            stop = self.part(child, depth + 1, message=True)
        else:
            stop = self.boundary(part.body)
        part.end = self.size if stop is None else max(stop[0], part.body)
        if part.kind == "rfc822" and stop is not None:
            part.end = max(part.end, self.reached)
        return stop

    def header(self, part: Part) -> tuple[tuple[int, int, int] | None, bool]:
        """Read the header. Returns the next boundary and whether it comes before the header is over."""
        end = self.header_end(part.start)
        # Not looked for behind the header: its content may be looked through for one that is its own first.
        stop = self.boundary(part.start, end) if self.boundaries else None
        limit = self.size if stop is None else max(stop[0], part.start)
        if stop is not None and end is not None and end > stop[2]:
            end = None
        cut = end is None or end > limit
        part.body = limit if end is None else end
        size = min(part.body - part.start, HEADER_MAX, self.headers_left)
        self.headers_left -= size
        many = self.headers_left < HEADERS_MAX // 2
        fields = kept_fields(self.data[part.start : part.start + size], few=many)
        if fields:
            part.fields = fields
            part.content = tuple([field for field in fields if field[0][:8] == b"content-"])
        return stop, cut

    def header_end(self, start: int) -> int | None:
        """Behind the empty line that ends the header, None when there is none."""
        data = self.data
        head = data[start : start + 2]
        if head[:1] == b"\n":
            return start + 1
        if head == b"\r\n":
            return start + 2
        if start < self.empty_from or (self.empty is not None and self.empty < start + 2):
            self.empty_from = start
            lf = seek(data, b"\n\n", start)
            crlf = -1
            if self.carriage:
                crlf = seek(data, b"\n\r\n", start, lf + 1 if lf >= 0 else None)
            self.empty = crlf + 3 if crlf >= 0 else lf + 2 if lf >= 0 else None
        return self.empty

    def classify(self, part: Part, depth: int, digest: bool) -> None:
        value = part.field(b"content-type", first=True)
        if value is not None:
            part.type = parse_content_type(value)
        if depth >= DEPTH_MAX or self.parts >= PARTS_MAX:
            return
        if part.type is None:
            if digest:
                part.kind = "rfc822"
            return
        main, sub = part.type.type.lower(), part.type.subtype.lower()
        if main == b"multipart" and sub:
            part.kind = "multipart"
        elif main == b"message" and (
            sub == b"rfc822" or (sub == b"global" and self.world and not _is_encoded(part))
        ):
            part.kind = "rfc822"

    def multipart(self, part: Part, depth: int) -> tuple[int, int, int] | None:
        assert part.type is not None
        given = self.boundary_of(part)
        if given is None:
            return self.boundary(part.body)
        boundary = given[:BOUNDARY_MAX]
        digest = part.type.subtype.lower() == b"digest"
        mine = len(self.boundaries)
        self.boundaries.append(boundary)
        stop = self.boundary(part.body)
        part.children = children = []
        while stop is not None and stop[1] == mine and not self.closed(stop):
            if self.parts >= PARTS_MAX:
                break
            child = Part(stop[2])
            children.append(child)
            self.parts += 1
            stop = self.part(child, depth + 1, digest)
        del self.boundaries[mine:]
        if stop is not None and stop[1] >= mine:
            # The closing line: the epilogue reaches to a boundary of a part around this one.
            stop = self.boundary(stop[2])
        return stop

    def boundary_of(self, part: Part) -> bytes | None:
        """What Content-Type says separates the parts."""
        parameters = part.type.parameters if part.type is not None else ()
        return next((value for key, value in parameters if key.lower() == b"boundary"), None)

    def opens(self, part: Part, stop: tuple[int, int, int]) -> bool:
        """Whether a boundary behind a multipart's header is its own as well as one around it."""
        own = self.boundary_of(part) if part.kind == "multipart" else None
        return own is not None and self.data.find(b"\n--" + own[:BOUNDARY_MAX], stop[0], stop[2]) >= 0

    def closed(self, stop: tuple[int, int, int]) -> bool:
        line_end = stop[2]
        boundary = self.boundaries[stop[1]]
        start = self.data.find(b"--" + boundary, stop[0], line_end)
        after = start + 2 + len(boundary)
        return self.data[after : after + 2] == b"--"

    def boundary(self, at: int, last: int | None = None) -> tuple[int, int, int] | None:
        """The next boundary line from the line start `at` on, beginning at `last` at the latest: where the
        content before it ends, the index of its boundary, and where the next line starts."""
        if not self.boundaries:
            return None
        data = self.data
        first = seen = at
        known = tuple(self.boundaries)
        while True:
            if data[at : at + 2] != b"--":
                limit = self.size if last is None else last + 2
                if self.in_memory:
                    # A single octet is found much faster than three, and base64 has no hyphen.
                    hyphen = data.find(b"-", at, limit)
                    if hyphen < 0:
                        return None
                    at = hyphen - 1 if hyphen > at else at
                at = seek(data, b"\n--", at, limit)
                if at < 0:
                    return None
                at += 1
            end = data.find(b"\n", at) + 1 or self.size
            line = data[at + 2 : min(end, at + 2 + BOUNDARY_MAX + 2)]
            best = -1
            for index in range(len(known) - 1, -1, -1) if line.startswith(known) else ():
                if line.startswith(known[index]) and (best < 0 or len(known[index]) > len(known[best])):
                    best = index
            if best >= 0:
                before = at
                if data[before - 1 : before] == b"\n":
                    before -= 2 if data[before - 2 : before - 1] == b"\r" else 1
                return max(before, first), best, end
            at = end - 1 if end > at + 1 else end
            if at >= self.size:
                return None
            if at - seen > WINDOW:
                release(data)
                seen = at
