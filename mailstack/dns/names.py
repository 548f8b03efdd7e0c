"""Domain names in wire form: length-prefixed labels, ended by the root's zero octet (RFC 1035 §3.1).

`lower()` of such a name is safe: length octets are at most 63, below the letters.
"""

from __future__ import annotations

from collections.abc import Iterator

ROOT = b"\0"


def from_text(text: str) -> bytes:
    """Wire form of a plain name without escapes (`dgtlinux.com`, `''` for the root)."""
    text = text.rstrip(".")
    if not text:
        return ROOT
    labels = [label.encode("ascii") for label in text.split(".")]
    if not all(0 < len(label) < 64 for label in labels):
        raise ValueError(f"not a domain name: {text}")
    return b"".join(bytes((len(label),)) + label for label in labels) + ROOT


def to_text(name: bytes) -> str:
    """Master-file form without the final dot, special octets escaped; the root is `.`."""
    if name == ROOT:
        return "."
    return ".".join(_label(label) for label in labels(name))


def labels(name: bytes) -> Iterator[bytes]:
    """The labels, leftmost first, without the root."""
    position = 0
    while length := name[position]:
        yield name[position + 1 : position + 1 + length]
        position += 1 + length


def parent(name: bytes) -> bytes:
    """Without the leftmost label. `name` is not the root."""
    return name[1 + name[0] :]


def is_below(name: bytes, origin: bytes) -> bool:
    """`name` is `origin` or under it; both lower case."""
    while len(name) > len(origin):
        name = parent(name)
    return name == origin


def _label(label: bytes) -> str:
    if label.isalnum():  # ASCII, as octets go; most are, and every question's name is told
        return label.decode("ascii")
    text = ""
    for octet in label:
        if octet in b'."\\;()@$':
            text += "\\" + chr(octet)
        elif 0x21 <= octet <= 0x7E:
            text += chr(octet)
        else:
            text += f"\\{octet:03d}"
    return text
