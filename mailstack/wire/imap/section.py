"""Finding what `BODY[1.2.HEADER]` means in a message (RFC 3501 §6.4.5)."""

from __future__ import annotations

from mailstack.wire.imap.fetch import Section
from mailstack.wire.mime import headers
from mailstack.wire.mime.lines import Data
from mailstack.wire.mime.structure import HEADER_MAX, Part

Span = tuple[int, int]
"""Offsets in the message on disk."""


def find_part(root: Part, numbers: tuple[int, ...]) -> Part | None:
    """The part with this number, None when there is none.

    A part that is no multipart has itself as its part 1, once; in a message/rfc822 part the numbers go on in
    the message it holds.
    """
    part = root
    itself = False
    for place, number in enumerate(numbers):
        if place and part.kind == "rfc822":
            part = part.children[0]
            itself = False
        if part.kind == "multipart":
            if number > len(part.children):
                return None
            part = part.children[number - 1]
            itself = False
        elif number != 1 or itself:
            return None
        else:
            itself = True
    return part


def locate(root: Part, data: Data, section: Section) -> Span | bytes:
    """Where the section stands, or its octets when they are put together from fields.

    What does not exist is empty, as Dovecot answers.
    """
    part = find_part(root, section.part)
    if part is None:
        return (0, 0)
    if section.kind == "MIME":
        return (part.start, part.body)
    if not section.part:
        message = root
        if not section.kind:
            return (0, len(data))
    elif not section.kind:
        return (part.body, part.end)
    elif part.kind == "rfc822":
        message = part.children[0]
    else:
        return (0, 0)
    if section.kind == "TEXT":
        return (message.body, message.end)
    if section.kind == "HEADER":
        return (message.start, message.body)
    header = data[message.start : min(message.body, message.start + HEADER_MAX)]
    return headers.select(header, section.fields, section.kind == "HEADER.FIELDS.NOT")
