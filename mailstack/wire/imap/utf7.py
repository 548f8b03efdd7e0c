"""Modified UTF-7 of mailbox names (RFC 3501 §5.1.3)."""

from __future__ import annotations

import binascii


def encode(name: str) -> bytes:
    """A mailbox name as IMAP4rev1 writes it. Raises `ValueError` for a lone surrogate."""
    if name.isascii() and name.isprintable() and "&" not in name:
        return name.encode("ascii")
    out = bytearray()
    held: list[str] = []
    for char in name:
        if " " <= char <= "~":
            _flush(held, out)
            out += b"&-" if char == "&" else char.encode("ascii")
        else:
            held.append(char)
    _flush(held, out)
    return bytes(out)


def _flush(held: list[str], out: bytearray) -> None:
    if held:
        coded = binascii.b2a_base64("".join(held).encode("utf-16-be"), newline=False)
        out += b"&" + coded.rstrip(b"=").replace(b"/", b",") + b"-"
        held.clear()


def decode(name: bytes) -> str:
    """The name that `encode` would turn into these octets. Raises `ValueError` for anything else."""
    if b"&" not in name:
        text = name.decode("ascii")
        if not text.isprintable():
            raise ValueError("a mailbox name holds a control character")
        return text
    parts: list[str] = []
    at = 0
    while (start := name.find(b"&", at)) >= 0:
        parts.append(name[at:start].decode("ascii"))
        end = name.find(b"-", start)
        if end < 0:
            raise ValueError("unterminated '&' in a mailbox name")
        coded = name[start + 1 : end]
        if not coded:
            parts.append("&")
        elif b"/" in coded:
            raise ValueError("'/' in the base64 of a mailbox name")
        else:
            try:
                raw = binascii.a2b_base64(
                    coded.replace(b",", b"/") + b"=" * (-len(coded) % 4), strict_mode=True
                )
            except binascii.Error as error:
                raise ValueError(f"bad base64 in a mailbox name: {error}") from error
            parts.append(raw.decode("utf-16-be"))
        at = end + 1
    parts.append(name[at:].decode("ascii"))
    text = "".join(parts)
    if encode(text) != name:
        raise ValueError("not the shortest form of modified UTF-7")
    return text
