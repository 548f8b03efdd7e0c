"""ENVELOPE, BODY and BODYSTRUCTURE (RFC 3501 §7.4.2), spelled as Dovecot spells them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from mailstack.wire.imap.encode import string
from mailstack.wire.mime.address import parse_addresses
from mailstack.wire.mime.headers import unfold
from mailstack.wire.mime.lines import Data, measure
from mailstack.wire.mime.params import (
    ContentType,
    Parameters,
    parse_disposition,
    parse_languages,
    parse_token,
)
from mailstack.wire.mime.structure import NamedValue, Part

_PLAIN_TEXT = re.compile(rb"[!#-\[\]-~]+(?: [!#-\[\]-~]+)*\Z")
_SPACES = re.compile(rb"[ \t\r\n]+")
REPEATED_MAX = 200
"""Octets of what is remembered because it comes again in the next messages."""
_EMPTY_PART = b'("text" "plain" ("charset" "us-ascii") NIL NIL "7bit" 0 0'
_ADDRESS_FIELDS = (b"from", b"sender", b"reply-to", b"to", b"cc", b"bcc")


def _one_line(value: bytes) -> bytes:
    """NUL becomes U+FFFD, as in every string that Dovecot takes from a header, and CR a blank."""
    if b"\r" in value:
        value = value.replace(b"\r", b" ")
    return value.replace(b"\0", b"\xef\xbf\xbd") if b"\0" in value else value


def _text(value: bytes, *, folded: bool = False) -> bytes:
    """Text for people: runs of blanks become one space; a literal unless it is quite plain."""
    if not folded and _PLAIN_TEXT.match(value):
        return b'"' + value + b'"'
    value = _SPACES.sub(b" ", _one_line(value)).strip(b" ")
    if not value:
        return b'""'
    return b"{%d}\r\n%b" % (len(value), value)


def _nstring(value: bytes | None) -> bytes:
    if value is None:
        return b"NIL"
    if len(value) < REPEATED_MAX and _PLAIN_TEXT.match(value):
        return b'"' + value + b'"'
    return string(_one_line(value))


def envelope(fields: Sequence[NamedValue]) -> bytes:
    """`(date subject from sender reply-to to cc bcc in-reply-to message-id)` of a header's fields.

    Of a text field that stands more than once the last one counts; addresses of all fields are listed.
    """
    texts: dict[bytes, bytes] = {}
    addresses: dict[bytes, list[bytes]] = {}
    folded = False
    for name, value in fields:
        if name in _ADDRESS_FIELDS:
            listed = _repeated_addresses(value) if len(value) < REPEATED_MAX else _addresses(value)
            if listed:
                addresses.setdefault(name, []).append(listed)
        elif name in (b"date", b"subject", b"in-reply-to", b"message-id"):
            texts[name] = unfold(value)
            folded = b"\n" in value if name == b"subject" else folded
    default = addresses.get(b"from")
    people = [
        addresses.get(name, default if name in (b"sender", b"reply-to") else None) for name in _ADDRESS_FIELDS
    ]
    subject = texts.get(b"subject")
    return b"(%b)" % b" ".join(
        (
            _nstring(texts.get(b"date")),
            b"NIL" if subject is None else _text(subject, folded=folded),
            *(b"NIL" if listed is None else b"(%b)" % b"".join(listed) for listed in people),
            _nstring(texts.get(b"in-reply-to")),
            _nstring(texts.get(b"message-id")),
        )
    )


def _addresses(value: bytes) -> bytes:
    """The addresses in a field's raw value."""
    return b"".join(
        b"(%b %b %b %b)"
        % (
            b"NIL" if item.name is None else _text(item.name),
            _nstring(item.route),
            _nstring(item.mailbox),
            _nstring(item.domain),
        )
        for item in parse_addresses(unfold(value))
    )


_repeated_addresses = lru_cache(4096)(_addresses)
"""The same people write and are written to."""


def body(part: Part, data: Data, *, extended: bool) -> bytes:
    """BODY, or with `extended` BODYSTRUCTURE, of a part and all in it."""
    if part.kind == "multipart":
        inner = b"".join(body(child, data, extended=extended) for child in part.children)
        if not part.children:
            inner = _EMPTY_PART + (b" NIL NIL NIL NIL)" if extended else b")")
        assert part.type is not None
        text = b"(%b %b" % (inner, string(part.type.subtype))
        if extended:
            text += (
                b" "
                + _parameters(part.type.parameters)
                + _common(_described(part.content if part.mime else ()))
            )
        return text + b")"
    return b"(" + _single(part, data, extended) + b")"


def _single(part: Part, data: Data, extended: bool) -> bytes:
    frame = (
        _repeated_frame
        if sum([len(name) + len(value) for name, value in part.content]) < REPEATED_MAX
        else _frame
    )
    before, after, counted = frame(part.content if part.mime else (), part.kind, part.type)
    size, lines = measure(data, part.body, part.end)
    text = b"%b %d" % (before, size)
    if part.kind == "rfc822":
        message = part.children[0]
        text += b" %b %b" % (envelope(message.fields), body(message, data, extended=extended))
    if counted:
        text += b" %d" % lines
    return text + after if extended else text


def _frame(
    content: tuple[NamedValue, ...], kind: str, type_: ContentType | None
) -> tuple[bytes, bytes, bool]:
    """Of a leaf or a message/rfc822 part what stands before its size, what stands behind everything in
    BODYSTRUCTURE, and whether its lines are counted."""
    is_text = not kind and (type_ is None or type_.type.lower() == b"text")
    # A multipart whose parts cannot be told of.
    hidden = type_ is not None and type_.type.lower() == b"multipart"
    if kind == "rfc822":
        is_global = type_ is not None and type_.subtype.lower() == b"global"
        names = b'"message" "global"' if is_global else b'"message" "rfc822"'
    elif type_ is None:
        names = b'"text" "plain"'
    elif hidden:
        names = b'"application" "octet-stream"'
    else:
        names = string(type_.type) + b" " + string(type_.subtype)
    parameters = type_.parameters if type_ is not None and not hidden else ()
    if is_text and not any(key.lower() == b"charset" for key, _ in parameters):
        parameters = (*parameters, (b"charset", b"us-ascii"))
    fields = _described(content)
    before = (
        names,
        _parameters(parameters),
        _nstring(fields.get(b"content-id")),
        _nstring(fields.get(b"content-description")),
        _encoding(fields.get(b"content-transfer-encoding", b"")),
    )
    after = b" " + _nstring(fields.get(b"content-md5")) + _common(fields)
    return b" ".join(before), after, is_text or kind == "rfc822"


_repeated_frame = lru_cache(1024)(_frame)
"""Most parts are described in the same words as others."""


def _described(content: tuple[NamedValue, ...]) -> dict[bytes, bytes]:
    """What a part says of its content, by the fields' names in lower case; the first of each name, but the
    last disposition and the first languages that can be read."""
    found: dict[bytes, bytes] = {}
    for name, value in content:
        unreadable = name == b"content-language" and name in found and not parse_languages(found[name])
        if name not in found or name == b"content-disposition" or unreadable:
            found[name] = unfold(value)
    return found


@lru_cache(256)
def _encoding(value: bytes) -> bytes:
    return string(parse_token(value) or b"7bit")


def _common(fields: dict[bytes, bytes]) -> bytes:
    """Disposition, languages and location, each behind a space."""
    value = fields.get(b"content-disposition")
    if value is None:
        disposition = b"NIL"
    else:
        name, parameters = parse_disposition(value)
        disposition = b"(%b %b)" % (string(name), _parameters(parameters))
    value = fields.get(b"content-language")
    tags = parse_languages(value) if value is not None else ()
    languages = b"(" + b" ".join(map(string, tags)) + b")" if tags else b"NIL"
    return b" " + disposition + b" " + languages + b" " + _nstring(fields.get(b"content-location"))


def _parameters(parameters: Parameters) -> bytes:
    if not parameters:
        return b"NIL"
    return b"(" + b" ".join(string(key) + b" " + string(value) for key, value in parameters) + b")"
