"""Our answers to the FETCH items that are compared with Dovecot's."""

from __future__ import annotations

from mailstack.wire.imap.fetch import Section, parse_items
from mailstack.wire.imap.section import locate
from mailstack.wire.imap.structure import body, envelope
from mailstack.wire.imap.tokens import Cursor
from mailstack.wire.mime.lines import wire, wire_size
from mailstack.wire.mime.structure import parse

ITEMS = (
    "RFC822.SIZE",
    "ENVELOPE",
    "BODY",
    "BODYSTRUCTURE",
    "BODY.PEEK[HEADER]",
    "BODY.PEEK[TEXT]",
    "BODY.PEEK[1]",
    "BODY.PEEK[1.MIME]",
    "BODY.PEEK[1.HEADER]",
    "BODY.PEEK[1.TEXT]",
    "BODY.PEEK[2]",
    "BODY.PEEK[2.MIME]",
    "BODY.PEEK[1.1]",
    "BODY.PEEK[1.2]",
    "BODY.PEEK[2.1]",
    "BODY.PEEK[2.HEADER]",
    "BODY.PEEK[2.TEXT]",
    "BODY.PEEK[2.1.MIME]",
    "BODY.PEEK[1.1.1]",
    "BODY.PEEK[HEADER.FIELDS (SUBJECT FROM)]",
    "BODY.PEEK[HEADER.FIELDS.NOT (SUBJECT FROM)]",
    "BODY.PEEK[2.HEADER.FIELDS (SUBJECT)]",
    "BODY.PEEK[3]",
    "BODY.PEEK[4]",
    "BODY.PEEK[3.MIME]",
    "BODY.PEEK[3.HEADER]",
    "BODY.PEEK[1.1.1.1]",
)


def answer(message: bytes, item: str) -> bytes:
    """What FETCH of one item says about a message as it lies on disk, without the parentheses around it."""
    root = parse(message)
    match item:
        case "RFC822.SIZE":
            return b"RFC822.SIZE %d" % wire_size(message)
        case "ENVELOPE":
            return b"ENVELOPE " + envelope(root.fields)
        case "BODY" | "BODYSTRUCTURE":
            return item.encode() + b" " + body(root, message, extended=item != "BODY")
    section = parse_items(Cursor(item.encode()))[0]
    assert isinstance(section, Section)
    found = locate(root, message, section)
    text = wire(found if isinstance(found, bytes) else message[found[0] : found[1]])
    # No literal may hold a NUL; Dovecot sends 0x80 for it, and so does the session.
    return section.label + b" {%d}\r\n" % len(text) + text.replace(b"\0", b"\x80")
