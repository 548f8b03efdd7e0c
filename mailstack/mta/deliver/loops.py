"""Delivered-To: headers, by which local and pipe see that a message has been here before."""

from __future__ import annotations

import re

from mailstack.storage.queue import Message, Queue

HEAD = 128 * 1024
"""Octets of a message in which headers are looked for."""
_DELIVERED = re.compile(rb"^delivered-to:[ \t]*([^\r\n]*?)[ \t]*\r?$", re.I | re.M)


def delivered_to(message: Message, queue: Queue) -> list[bytes]:
    """The addresses in a message's Delivered-To: headers, lower case, first one first. Raises `OSError`."""
    content = message.content
    if content is None:
        content = queue.read_content(message, HEAD)
    end = content.find(b"\r\n\r\n")
    head = content[:end] if end >= 0 else content[:HEAD]
    return [name.lower() for name in _DELIVERED.findall(head)]
