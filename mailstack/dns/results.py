"""What becomes of a message that is not answered at once by some octets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mailstack.config.named import Zone as ZoneConf
from mailstack.dns.authority import Answer
from mailstack.dns.forward import Server
from mailstack.dns.message import Query
from mailstack.dns.rights import View
from mailstack.dns.tsig import Signed

if TYPE_CHECKING:
    from mailstack.dns.relay import Chain


@dataclass(frozen=True, slots=True)
class Pending:
    """A question that somebody else has to answer; `Responder.complete` does it."""

    query: Query
    view: View
    limit: int
    question: bytes
    servers: Sequence[Server]
    so_far: Answer | None
    """The alias chain up to where it leaves our zones."""
    signed: Signed | None = None
    host: str = ""
    """Who asks."""
    chain: Chain | None = None
    """What is known of the answer."""


@dataclass(frozen=True, slots=True)
class Handed(Pending):
    """An update that a primary server has to answer (`allow-update-forwarding`): message and zone."""

    data: bytes = b""
    conf: ZoneConf | None = None


@dataclass(frozen=True, slots=True)
class Relayed:
    """An answer from the forwarder's cache: it ages, so it is never kept prepared."""

    wire: bytes


@dataclass(frozen=True, slots=True)
class Delayed:
    """An answer that is to be sent later."""

    wire: bytes
    seconds: float


@dataclass(frozen=True, slots=True)
class Transfer:
    """A zone transfer that is allowed: the messages to send, in order."""

    messages: Iterator[bytes]


Result = bytes | Pending | Delayed | Transfer | None
"""None: there is to be no answer."""
