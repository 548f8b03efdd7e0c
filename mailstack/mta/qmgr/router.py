"""Which transport and nexthop a recipient goes to: rewriting's answer, with local's aliases applied."""

from __future__ import annotations

from typing import NamedTuple

from mailstack.mta.deliver.local import EXPANDED, Direct, LocalRouter
from mailstack.mta.lookup import Pending
from mailstack.mta.qmgr.transports import Transports
from mailstack.mta.rewrite import Rewriter
from mailstack.storage.queue import Envelope, Recipient
from mailstack.storage.tables import TableError


class Route(NamedTuple):
    """Where to: `address` is what the agent delivers to, `original` what the sender wrote if that differs."""

    transport: str
    nexthop: str
    address: str
    original: str


class Router:
    """Resolution under one configuration."""

    def __init__(self, rewriter: Rewriter, transports: Transports, local: LocalRouter) -> None:
        self._rewriter = rewriter
        self._transports = transports
        self._local = local

    def route(self, envelope: Envelope, recipient: Recipient) -> Route:
        """The way of one recipient. A table that cannot be read defers it."""
        original = recipient.original or recipient.address
        try:
            found = self._rewriter.resolve(recipient.address)
            transport, nexthop, address = found.transport, found.nexthop, found.recipient
            if self._transports.command(transport) == "local":
                decision = self._local.route(address, expanded=EXPANDED in envelope.attributes)
                if isinstance(decision, Direct):
                    address, transport = decision.address, decision.transport
                    nexthop = decision.nexthop or address.rpartition("@")[2].lower()
                else:
                    nexthop = address
        except Pending:
            raise
        except (OSError, TableError) as error:
            return Route("retry", f"4.3.5 table lookup problem: {error}", recipient.address, original)
        return Route(transport, nexthop, address, original if original != address else "")
