"""A message in the active queue."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from mailstack.mta.deliver.request import Deferred, Request, Result
from mailstack.mta.dsn import REPLACED
from mailstack.mta.qmgr.scheduler import Transport
from mailstack.storage.queue import Message


@dataclass(slots=True)
class Active:
    """A message in the active queue."""

    message: Message
    entered: float
    recipients: int = 0
    """How many it counts for."""
    todo: list[int] = field(default_factory=list)
    """Recipients whose turn comes after those."""
    forced: bool = False
    """Somebody wants it to be tried now."""
    waiting: int = 0
    """Requests that have not come back."""
    backlog: deque[tuple[Transport, Request]] | None = None
    """Those of them that the scheduler has not been given yet, of a message with many."""
    few: int = 0
    """How many are left when the next recipients are taken."""
    done: list[int] = field(default_factory=list)
    """Recipients delivered and not yet crossed off on disk."""
    deferred: list[Result] = field(default_factory=list)
    bounced: list[Result] = field(default_factory=list)
    confirmed: list[Result] = field(default_factory=list)
    """Delivered, and the sender is to be told (NOTIFY=SUCCESS)."""
    own: list[Message] = field(default_factory=list)
    """The message as each recipient gets it, where they differ (VERP)."""
    finished: bool = False
    """Nothing is left to do but to remove the file."""


def mentions(message: Message, domain: str) -> bool:
    """Whether a pending recipient is of `domain` (ETRN)."""
    recipients = message.envelope.recipients
    return any(recipients[index].address.lower().endswith(f"@{domain}") for index in message.pending)


def expanded(message: Message) -> str:
    """The recipients that aliases have replaced and whose sender is to be told so, once: cleanup's record."""
    attributes = message.envelope.attributes
    return attributes.get(REPLACED, "") if attributes and not message.attempts else ""


def softened(result: Result) -> Result:
    """soft_bounce: what failed for good has failed for now."""
    outcome = Deferred(result.outcome.text, "4" + result.outcome.dsn[1:])
    return Result(
        result.target,
        outcome,
        result.relay,
        result.connect,
        result.uses,
        result.remote_mta,
        result.diagnostic,
    )
