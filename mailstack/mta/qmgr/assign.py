"""From recipients to requests: those that go the same way go together, up to the transport's limit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from mailstack.mta.deliver.request import Request, Target
from mailstack.mta.qmgr.router import Route
from mailstack.mta.qmgr.scheduler import Transport
from mailstack.mta.qmgr.settings import Configuration
from mailstack.mta.verp import VERP, verp_sender
from mailstack.storage.queue import Message

Assigned = list[tuple[Transport, Request]]


def assign(
    configuration: Configuration, message: Message, pending: Sequence[int], entered: float, *, forced: bool
) -> Assigned:
    """The requests for some recipients of a message, given by their indexes.

    `entered` is when the message became active (monotonic seconds). `forced` delivers by `defer_transports`
    too.
    """
    attributes = message.envelope.attributes
    if attributes and VERP in attributes and message.envelope.sender:
        return _each(configuration, message, pending, entered, forced=forced)
    if len(pending) == 1:  # nearly all mail
        index = pending[0]
        route = _route(configuration, message, index, forced)
        transport = configuration.transports.get(route.transport)
        if transport.single:
            destination = transport.recipient(route.nexthop, route.address)
        else:
            destination = route.nexthop.lower()
        targets = [Target(index, route.address, route.original)]
        return [(transport, Request(message, route.nexthop, targets, entered, 0.0, destination))]
    groups: dict[tuple[str, str, str], list[Target]] = {}
    for index in pending:
        route = _route(configuration, message, index, forced)
        transport = configuration.transports.get(route.transport)
        destination = (
            transport.recipient(route.nexthop, route.address) if transport.single else route.nexthop.lower()
        )
        target = Target(index, route.address, route.original)
        groups.setdefault((route.transport, route.nexthop, destination), []).append(target)
    requests: Assigned = []
    for (name, nexthop, destination), targets in groups.items():
        transport = configuration.transports.get(name)
        limit = transport.recipient_limit or len(targets)
        requests += [
            (transport, Request(message, nexthop, targets[start : start + limit], entered, 0.0, destination))
            for start in range(0, len(targets), limit)
        ]
    return requests


def in_turns(requests: Assigned) -> Assigned:
    """The first request for each destination, then the second for each, and so on."""
    seen: Counter[tuple[str, str]] = Counter()
    turns = []
    for number, (transport, request) in enumerate(requests):
        site = (transport.name, request.destination)
        turns.append((seen[site], number))
        seen[site] += 1
    return [requests[number] for _, number in sorted(turns)]


def _each(
    configuration: Configuration, message: Message, pending: Sequence[int], entered: float, *, forced: bool
) -> Assigned:
    """A request for each recipient, with the message as it is for him: from a sender of his own."""
    envelope = message.envelope
    attributes = {name: value for name, value in envelope.attributes.items() if name != VERP}
    requests: Assigned = []
    for index in pending:
        route = _route(configuration, message, index, forced)
        transport = configuration.transports.get(route.transport)
        destination = (
            transport.recipient(route.nexthop, route.address) if transport.single else route.nexthop.lower()
        )
        recipient = envelope.recipients[index]
        sender = verp_sender(
            envelope.attributes[VERP], envelope.sender, recipient.original or recipient.address
        )
        own = replace(message, envelope=replace(envelope, sender=sender, attributes=attributes))
        targets = [Target(index, route.address, route.original)]
        requests.append((transport, Request(own, route.nexthop, targets, entered, 0.0, destination)))
    return requests


def _route(configuration: Configuration, message: Message, index: int, forced: bool) -> Route:
    route = configuration.router.route(message.envelope, message.envelope.recipients[index], message)
    if route.transport in configuration.limits.defer_transports and not forced:
        return route._replace(transport="retry", nexthop="4.3.2 deferred transport")
    return route
