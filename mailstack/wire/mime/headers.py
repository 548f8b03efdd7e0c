"""Header fields (RFC 5322 §2.2), where they stand and what they say."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

_FOLD = re.compile(rb"\r?\n(?=[ \t])")
_FIELD = re.compile(
    rb"(\r?\n)|(?:([^:\n]*+):([^\n]*+(?:\n[ \t][^\n]*+)*+)|([^\n]*+(?:\n[ \t][^\n]*+)*+))(?:\n|\Z)"
)
"""The empty line; or a field's name and value, or a line that is none; with the lines that continue it."""


class Field(NamedTuple):
    """One field: its name in lower case, its raw value with folds (no final line end), and where it stands.

    `start` and `end` are offsets in the header, line end included. A line that is no field has an empty name
    and stands in `value` whole.
    """

    name: bytes
    value: bytes
    start: int
    end: int


def fields(header: bytes) -> Iterator[Field]:
    """The fields of a header, in order; ends at the empty line or where the octets end."""
    carriage = b"\r" in header
    make = tuple.__new__
    for found in _FIELD.finditer(header):
        last, name, value, line = found.groups()
        start, end = found.span()
        if last is not None or start == end:
            return
        text = line if name is None else value
        if carriage and text.endswith(b"\r") and header.endswith(b"\n", start, end):
            text = text[:-1]
        if name is None:
            yield make(Field, (b"", text, start, end))
        else:
            yield make(Field, (name.rstrip(b" \t").lower(), text, start, end))


split = _FIELD.findall
"""A header without CR in pieces, each as (empty line, name, value, line that is no field); what is not there
is empty. What follows an empty line is the body's."""


def unfold(value: bytes) -> bytes:
    """The value on one line: line ends go, the blanks that follow them stay; so do blanks at the end, and all
    but one where there is nothing else on the first line."""
    text = value.lstrip(b" \t")
    if text and b"\n" not in text and text[0] != 13:
        return text
    value = text if text and text[0] not in b"\r\n" else value[1:] if value[:1] in (b" ", b"\t") else value
    if b"\n" in value:
        value = _FOLD.sub(b"", value).replace(b"\r\n", b"").replace(b"\n", b"")
    return value


def header_end(data: bytes, start: int = 0) -> int:
    """Where the body begins: behind the first empty line, or where the octets end."""
    if data[start : start + 1] == b"\n":
        return start + 1
    if data[start : start + 2] == b"\r\n":
        return start + 2
    at = start
    while True:
        at = data.find(b"\n", at)
        if at < 0:
            return len(data)
        after = data[at + 1 : at + 3]
        if after[:1] == b"\n":
            return at + 2
        if after == b"\r\n":
            return at + 3
        at += 1


def select(header: bytes, names: Sequence[bytes], without: bool = False) -> bytes:
    """The fields with one of these names (`without`: all the others), as they stand, and an empty line.

    Line ends stay as they are; the caller makes them CRLF. What `without` gives to a header that no empty
    line ends has none either.
    """
    wanted = {name.lower() for name in names}
    chosen = []
    start = end = 0
    for field in fields(header):
        if (field.name in wanted) != without and (field.name or without):
            if field.start != end:
                chosen.append(header[start:end])
                start = field.start
            end = field.end
    chosen.append(header[start:end])
    if not without or header.endswith((b"\n\n", b"\n\r\n")) or header in (b"\n", b"\r\n"):
        chosen.append(b"\n")
    return b"".join(chosen)


def values(header: bytes, name: bytes) -> list[bytes]:
    """The unfolded values of all fields of a name (lower case)."""
    return [unfold(field.value) for field in fields(header) if field.name == name]
