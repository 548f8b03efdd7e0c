"""Mail that the queue manager makes of other mail: what an alias names gets a message of its own."""

from __future__ import annotations

import os

from mailstack.mta.cleanup import Cleanup
from mailstack.mta.deliver.local import EXPANDED, Forward
from mailstack.storage.durable import GroupCommit
from mailstack.storage.queue import Envelope, Message, Queue

COPY = 256 * 1024
"""Octets copied at once."""


async def forward(
    queue: Queue,
    commit: GroupCommit,
    cleanup: Cleanup,
    message: Message,
    address: str,
    forward: Forward,
    now: float,
) -> str:
    """An alias's addresses get a message of their own; return its id once it is durable. Raises `OSError`."""
    envelope = message.envelope
    copy = Envelope(
        envelope.sender if forward.sender is None else forward.sender,
        cleanup.recipients([(target, address) for target in forward.addresses]),
        now,
        queue_id=queue.new_id(now),
        client_name=envelope.client_name,
        client_address=envelope.client_address,
        helo_name=envelope.helo_name,
        protocol=envelope.protocol,
        sasl_method=envelope.sasl_method,
        sasl_username=envelope.sasl_username,
        body=envelope.body,
        smtputf8=envelope.smtputf8,
        ret=envelope.ret,
        envid=envelope.envid,
        attributes={**envelope.attributes, EXPANDED: "yes"},
    )
    head = f"Delivered-To: {address}\r\n".encode("utf-8", "surrogateescape")
    if message.content is not None:
        await queue.enqueue(copy, (head, message.content), commit)
    else:
        await _copy(queue, commit, message, copy, head)
    return copy.queue_id


async def _copy(queue: Queue, commit: GroupCommit, message: Message, envelope: Envelope, head: bytes) -> None:
    """Put a large message into the queue again, piece by piece. Raises `OSError`."""
    spool = queue.spool(envelope.arrival, queue_id=envelope.queue_id)
    try:
        spool.append((head,))
        with os.fdopen(queue.open_content(message), "rb") as file:
            left = message.envelope.size
            while left > 0 and (part := file.read(min(left, COPY))):
                spool.append((part,))
                left -= len(part)
    except OSError:
        spool.abort()
        raise
    await spool.commit(envelope, commit)
