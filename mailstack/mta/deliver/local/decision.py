"""What becomes of mail for a local address."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from mailstack.mta.deliver.request import Bounced, Deferred, Sent
from mailstack.storage.queue import Message

EXPANDED = "alias_expanded"
"""Envelope attribute of a message that an alias has made: its local recipients are users."""


@dataclass(frozen=True, slots=True)
class Direct:
    """Hand the mail to this transport."""

    transport: str
    nexthop: str
    address: str


@dataclass(frozen=True, slots=True)
class Forward:
    """Make a new message of it. `sender` is None where the sender stays.

    `final`: aliases have been applied to the addresses already. `by`: who we are, for its Received: header.
    """

    addresses: tuple[str, ...]
    sender: str | None
    final: bool = True
    by: str = ""


@dataclass(frozen=True, slots=True)
class Action:
    """A `|command` or a `/file`, and whose rights it has: a user's name, or "" for default_privs.

    `source` is where it was written: `alias`, `forward` or `include`.
    """

    target: str
    user: str
    source: str


@dataclass(frozen=True, slots=True)
class Mailbox:
    """A user of this machine; his `.forward` counts unless the address was written with a backslash."""

    address: str
    forward: bool = True


@dataclass(frozen=True, slots=True)
class Deliver:
    """Do all of this here, and then forward the rest: a message for each sender."""

    steps: tuple[Action | Mailbox, ...]
    forwards: tuple[Forward, ...] = ()


Decision = Direct | Forward | Deliver | Sent | Bounced | Deferred
NOBODY = Sent("discarded: the list has no recipients")
"""An alias or forward file leads to empty lists only."""
ForwardMail = Callable[[Message, str, Forward], Awaitable[str]]
"""Puts the new message into the queue; returns its id. Raises `OSError`."""


class Problem(Exception):  # noqa: N818 - carries an outcome
    """Mail that cannot be delivered, or not now."""

    def __init__(self, outcome: Bounced | Deferred) -> None:
        super().__init__(outcome.text)
        self.outcome = outcome
