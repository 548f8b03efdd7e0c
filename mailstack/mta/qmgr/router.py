"""Which transport and nexthop a recipient goes to: rewriting's answer, with local's aliases applied."""

from __future__ import annotations

from typing import NamedTuple

from mailstack.mta.cleanup import FILTER
from mailstack.mta.deliver.local import EXPANDED, Direct, LocalRouter
from mailstack.mta.lookup import Pending
from mailstack.mta.qmgr.transports import Transports
from mailstack.mta.rewrite import AddressClass, Rewriter
from mailstack.mta.verify import MTA, PROBE
from mailstack.storage.queue import Envelope, Message, Queue, Recipient
from mailstack.storage.tables import TableError

_UNDELIVERABLE = "undeliverable postmaster notification discarded"


class Route(NamedTuple):
    """Where to: `address` is what the agent delivers to, `original` what the sender wrote if that differs."""

    transport: str
    nexthop: str
    address: str
    original: str


class Router:
    """Resolution under one configuration. `filter_nexthop`: default_filter_nexthop; `double_bounce`:
    double_bounce_sender."""

    def __init__(
        self,
        rewriter: Rewriter,
        transports: Transports,
        local: LocalRouter,
        queue: Queue,
        filter_nexthop: str = "",
        probing: Rewriter | None = None,
        double_bounce: str = "",
    ) -> None:
        self._queue = queue
        self._rewriter = rewriter
        self._transports = transports
        self._local = local
        self._filter_nexthop = filter_nexthop
        self._double_bounce = double_bounce
        self._probing = probing
        """Where probes go, if that is said apart (address_verify_…_transport and its like)."""

    def route(self, envelope: Envelope, recipient: Recipient, message: Message | None = None) -> Route:
        """The way of one recipient. A table that cannot be read defers it.

        With `message`, local mail that has been here before goes to local, which returns it.
        """
        original = recipient.original or recipient.address
        try:
            rewriter = self._rewriter
            if envelope.attributes:
                if FILTER in envelope.attributes:
                    return self._filtered(envelope.attributes[FILTER], recipient.address, original)
                if self._probing is not None and envelope.attributes.get(PROBE) == MTA:
                    rewriter = self._probing
            found = rewriter.resolve(recipient.address, envelope.sender)
            transport, nexthop, address = found.transport, found.nexthop, found.recipient
            if found.address_class is AddressClass.LOCAL and address.partition("@")[0] == self._double_bounce:
                # No answer is wanted to what nobody could be told.
                return Route("discard", _UNDELIVERABLE, address, original if original != address else "")
            if self._transports.command(transport) == "local":
                expanded = EXPANDED in envelope.attributes
                if envelope.attributes and envelope.attributes.get(PROBE) == MTA:
                    if self._local.alias(address) is not None:
                        return Route(transport, address, address, original if original != address else "")
                    expanded = True
                decision = self._local.route(address, expanded=expanded)
                if isinstance(decision, Direct) and not (
                    message is not None
                    and self._local.looped(decision.address, message, self._queue, expanded=expanded)
                ):
                    address, transport = decision.address, decision.transport
                    nexthop = decision.nexthop or address.rpartition("@")[2].lower()
                else:
                    nexthop = address
        except Pending:
            raise
        except (OSError, TableError) as error:
            return Route("retry", f"4.3.5 table lookup problem: {error}", recipient.address, original)
        return Route(transport, nexthop, address, original if original != address else "")

    def _filtered(self, destination: str, address: str, original: str) -> Route:
        """A content filter gets the message, whatever its recipients are (FILTER_README)."""
        transport, _, nexthop = destination.partition(":")
        nexthop = nexthop or self._filter_nexthop or address.rpartition("@")[2].lower()
        return Route(transport, nexthop, address, original if original != address else "")
