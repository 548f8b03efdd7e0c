"""Mail that the queue manager makes of other mail: what an alias names gets a message of its own."""

from __future__ import annotations

from mailstack.mta.cleanup import Cleanup, mail_date
from mailstack.mta.deliver.apart import copy
from mailstack.mta.deliver.local import EXPANDED, Forward
from mailstack.mta.dsn import forwarded, forwarded_attributes
from mailstack.mta.lookup import settled
from mailstack.storage.durable import GroupCommit
from mailstack.storage.queue import Envelope, Message, Queue


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
    owned = forward.sender is not None
    named = [(target, target if owned else address) for target in forward.addresses]
    recipients = await settled(lambda: cleanup.recipients(named))
    new = Envelope(
        envelope.sender if forward.sender is None else forward.sender,
        forwarded(envelope, address, recipients, owned=owned),
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
        attributes=_attributes(envelope, forward),
    )
    trace = f"Received: by {forward.by}\r\n\tid {new.queue_id}; {mail_date(now)}\r\n" if forward.by else ""
    head = f"{trace}Delivered-To: {address.lower()}\r\n".encode("utf-8", "surrogateescape")
    if message.content is not None:
        await queue.enqueue(new, (head, message.content), commit)
    else:
        await _copy(queue, commit, message, new, head)
    return new.queue_id


def _attributes(envelope: Envelope, forward: Forward) -> dict[str, str]:
    """The new message's attributes: whether aliases have been applied is its own business."""
    attributes = dict(forwarded_attributes(envelope.attributes))
    attributes.pop(EXPANDED, None)
    if forward.final:
        attributes[EXPANDED] = "yes"
    return attributes


async def _copy(queue: Queue, commit: GroupCommit, message: Message, envelope: Envelope, head: bytes) -> None:
    """Put a large message into the queue again, piece by piece. Raises `OSError`."""
    spool = queue.spool(envelope.arrival, queue_id=envelope.queue_id)
    try:
        spool.append((head,))
        await copy(queue, message, spool)
    except BaseException:
        spool.abort()
        raise
    await spool.commit(envelope, commit)
