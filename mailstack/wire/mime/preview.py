"""The beginning of a message's text, for lists of messages (RFC 8970)."""

from __future__ import annotations

import re

from mailstack.wire.mime.binary import encoding_of, leaves
from mailstack.wire.mime.lines import Data
from mailstack.wire.mime.params import find
from mailstack.wire.mime.structure import Part
from mailstack.wire.mime.text import charset_text, decode_base64, decode_quoted

CHARACTERS = 200
"""RFC 8970 §3.1 allows 256."""
_LOOKED_AT = 1 << 16
"""Octets of a part that are looked at."""
_HIDDEN = re.compile(r"(?is)<(script|style)\b.*?(?:</\1\s*>|\Z)|<!--.*?(?:-->|\Z)")
_TAG = re.compile(r"<[^<>]*(?:>|\Z)")
_QUOTED = re.compile(r"(?m)^>.*$")


def preview(root: Part, data: Data) -> str:
    """The first text that is written for people, on one line, without what it quotes; empty without any."""
    part = _chosen(root)
    if part is None:
        return ""
    text = _text(part, data)
    if part.type is not None and part.type.subtype.lower() == b"html":
        from html import unescape

        text = unescape(_TAG.sub(" ", _HIDDEN.sub(" ", text)))
    else:
        text = _QUOTED.sub("", text).strip() or text
    return " ".join(text[: CHARACTERS * 20].split())[:CHARACTERS].strip()


def _chosen(root: Part) -> Part | None:
    """Plain text before HTML before other text; what is in a message within does not count."""
    best: Part | None = None
    rank = 9
    inner = {id(leaf) for part in _messages(root) for leaf in leaves(part)}
    for leaf in leaves(root):
        if not leaf.is_text or id(leaf) in inner:
            continue
        subtype = leaf.type.subtype.lower() if leaf.type is not None else b"plain"
        mine = 0 if subtype == b"plain" else 1 if subtype == b"html" else 2
        if mine < rank:
            best, rank = leaf, mine
    return best


def _messages(part: Part) -> list[Part]:
    found: list[Part] = []
    stack = [part]
    while stack:
        item = stack.pop()
        if item.kind == "rfc822":
            found.append(item)
        else:
            stack.extend(item.children)
    return found


def _text(part: Part, data: Data) -> str:
    raw = data[part.body : min(part.end, part.body + _LOOKED_AT)]
    match encoding_of(part):
        case b"base64":
            raw = decode_base64(raw)
        case b"quoted-printable":
            raw = decode_quoted(raw)
    charset = find(part.type.parameters, b"charset") if part.type is not None else None
    return charset_text(raw, (charset or b"utf-8").decode("ascii", "replace")).replace("\0", "")
