"""What the queue manager hands to a delivery agent, and what it gets back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from mailstack.storage.queue import Message


@dataclass(frozen=True, slots=True)
class Sent:
    """Delivered, or handed to the next MTA. `text` is what the log has in parentheses.

    `action` is what a sender who asked for NOTIFY=SUCCESS is told (RFC 3464 §2.3.3), `report` in which words
    where those are not `text`; an `action` of `""`: nothing, for the next MTA will.
    """

    text: str
    dsn: str = "2.0.0"
    action: str = "delivered"
    report: str = ""


@dataclass(frozen=True, slots=True)
class Deferred:
    """Failed for now."""

    text: str
    dsn: str


@dataclass(frozen=True, slots=True)
class Bounced:
    """Failed for good."""

    text: str
    dsn: str


Outcome = Sent | Deferred | Bounced


@dataclass(frozen=True, slots=True)
class Target:
    """One recipient of a request: its index in the envelope, where to deliver, and as it was given if that
    differs."""

    index: int
    address: str
    original: str = ""


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one recipient.

    `relay` as the log has it (`host[address]:port`, `local`, `none`). `connect` are the seconds that setting
    up the connection took; `uses` counts the deliveries over it. `remote_mta` and `diagnostic` are for a
    delivery report: the host that refused, and its reply (RFC 3464 §2.3.5, §2.3.6).
    """

    target: Target
    outcome: Outcome
    relay: str = "none"
    connect: float = 0.0
    uses: int = 1
    remote_mta: str = ""
    diagnostic: str = ""


@dataclass(slots=True)
class Request:
    """Recipients of one message that go the same way together."""

    message: Message
    nexthop: str
    targets: list[Target]
    entered: float
    """When the message became active (monotonic seconds)."""
    started: float = 0.0
    """When the agent got it (monotonic seconds)."""
    destination: str = ""
    """Whose share of the deliveries it counts for: the nexthop, or the recipient where each has his own."""
    site_failure: Deferred | None = None
    """Set by the agent when the site itself was out of order, whoever the recipients are."""
    refused: Deferred | None = None
    """Set by the scheduler: the destination is dead, and the agent does not see the request."""

    many: bool = False
    """It is one of many of its message: those of small messages go first."""
    sender: str | None = None
    """The envelope sender, where the agent has rewritten it."""
    convert: Callable[[Iterable[bytes]], Iterator[bytes]] | None = None
    """What the agent makes of the content's parts before they go out; None: nothing."""

    def all(self, outcome: Outcome, relay: str = "none") -> list[Result]:
        """The same outcome for every recipient."""
        return [Result(target, outcome, relay) for target in self.targets]


class Agent(Protocol):
    """A delivery agent for one transport of master.cf."""

    daemon: str
    """The Postfix daemon's name: `lmtp`, `smtp`, `virtual`…"""

    async def deliver(self, request: Request) -> Sequence[Result]:
        """Deliver to every target; one `Result` each."""
        ...

    async def close(self) -> None:
        """Let go of connections."""
        ...
