"""What a session needs no connection for: pieces of a queue file, folded lines, XFORWARD's words."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

from mailstack.storage.queue import Message
from mailstack.wire.smtp.command import encode_xtext

CHUNK = 64 * 1024
"""Octets that are read at once, and of a message that is small."""


def chunks(fd: int, size: int) -> Iterator[bytes]:
    """`size` octets of a file. Raises `OSError`."""
    while size > 0:
        part = os.read(fd, min(CHUNK, size))
        if not part:
            raise OSError("the queue file has become shorter")
        size -= len(part)
        yield part


def fold(parts: Iterable[bytes], limit: int) -> Iterator[bytes]:
    """Content with no line over `limit` octets: longer ones go on behind CRLF and a space, as in Postfix.

    `parts` hold lines that end in CRLF, cut anywhere.
    """
    column = 0
    """Octets of the line that the last part has begun."""
    for part in parts:
        lines = part.split(b"\n")
        if column + len(lines[0]) <= limit and max(map(len, lines)) <= limit:
            yield part
            column = len(lines[-1]) + (column if len(lines) == 1 else 0)
            continue
        folded: list[bytes] = []
        for number, line in enumerate(lines):
            last = number == len(lines) - 1
            # The CR belongs to the line's end, which may be cut between the parts.
            text, end = (line, b"") if last else (line + b"\n", b"")
            if not last:
                text, end = (text[:-2], b"\r\n") if text.endswith(b"\r\n") else (text[:-1], b"\n")
            elif text.endswith(b"\r"):
                text, end = text[:-1], b"\r"
            while column + len(text) > limit:
                room = limit - column
                folded += [text[:room], b"\r\n "]
                text, column = text[room:], 1
            folded += [text, end]
            column = column + len(text) if last else 0
        yield b"".join(folded)


def forwarded(message: Message, offered: tuple[str, ...]) -> list[str]:
    """The arguments of the XFORWARD commands for a message: what is known of its client."""
    envelope, known = message.envelope, message.envelope.attributes
    values = {
        "NAME": envelope.client_name,
        "ADDR": envelope.client_address,
        "PORT": known.get("client_port", ""),
        "PROTO": envelope.protocol,
        "HELO": envelope.helo_name,
        "IDENT": message.queue_id,
        "SOURCE": "REMOTE" if envelope.client_address and "rewrite_context" not in known else "LOCAL",
    }
    lines = []
    for group in (("NAME", "ADDR", "PORT"), ("PROTO", "HELO", "IDENT", "SOURCE")):
        words = [f"{n}={encode_xtext(values[n] or '[UNAVAILABLE]')}" for n in group if n in offered]
        if words:
            lines.append(" ".join(words))
    return lines
