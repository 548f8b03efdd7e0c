"""Zones between servers, for one configuration: who is told of changes, what comes from elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from mailstack.config.named import NamedConf
from mailstack.config.named import Zone as ZoneConf
from mailstack.config.named.peers import Remote
from mailstack.dns import names
from mailstack.dns.message import RD, SERVFAIL, error
from mailstack.dns.responder import Responder
from mailstack.dns.results import Handed
from mailstack.dns.zone import AAAA, A, Zone
from mailstack.net.clock import Clock, SystemClock
from mailstack.net.log import Log

if TYPE_CHECKING:
    from mailstack.dns.notify import Notifier
    from mailstack.dns.secondary import Secondaries

WAITS = (3.0, 6.0)
"""Seconds that a forwarder gets for the address of a name server, message by message."""


class Exchange:
    """NOTIFY and secondary zones. Neither costs anything where named.conf does not ask for it."""

    def __init__(
        self,
        conf: NamedConf,
        log: Log,
        own: Callable[[], Iterable[tuple[str, int]]],
        previous: Exchange | None = None,
        clock: Clock | None = None,
    ) -> None:
        """`own` are the addresses and ports that we listen on; `previous` is what goes on (reload)."""
        self.conf = conf
        self._log = log
        self._own = own
        self._clock: Clock = clock if clock is not None else SystemClock()
        self._confs = {zone.name: zone for zone in conf.zones}
        self._notifier: Notifier | None = None
        self._responder: Responder
        self.secondaries: Secondaries | None = None
        if any(zone.kind == "secondary" for zone in conf.zones):
            from mailstack.dns.secondary import Secondaries

            before = previous.secondaries if previous is not None else None
            self.secondaries = Secondaries(conf, log, self._clock, before)

    def zones(self) -> list[Zone]:
        """The secondary zones that are there already."""
        held = self.secondaries.zones.values() if self.secondaries is not None else ()
        return [one.zone for one in held if one.zone is not None]

    def attach(self, responder: Responder) -> None:
        """Serve what comes, and hear what is told."""
        self._responder = responder
        if self.secondaries is None:
            return
        self.secondaries.service.put = self._arrived
        self.secondaries.service.give_up = self._withdraw
        responder.notifies.refresh = self.secondaries.notified
        responder.hand_on = self._hand_on
        responder.remaining = self.secondaries.remaining
        for zone in self.secondaries.zones.values():
            if zone.zone is None:
                self._withdraw(zone.conf)

    def start(self, before: Mapping[bytes, Zone]) -> None:
        """Begin. Secondary servers are told of every zone whose serial was another one `before`."""
        for conf in self.conf.zones:
            origin = names.from_text(conf.name)
            zone, old = self._responder.in_service.get(origin), before.get(origin)
            if (
                conf.kind not in ("primary", "secondary")
                or zone is None
                or self._responder.is_unloaded(origin)
            ):
                continue
            if old is None or old.serial != zone.serial:
                self.announce(conf.name, zone, startup=not before)
        if self.secondaries is not None:
            self.secondaries.start()

    def announce(self, name: str, zone: Zone, *, startup: bool = False) -> None:
        """A zone has changed: tell whom `notify` says."""
        conf = self._confs[name]
        if conf.transfers.notify == "no":
            return
        if self._notifier is None:
            from mailstack.dns.notify import Notifier

            zones = self._responder.in_service
            self._notifier = Notifier(self.conf, zones, self._own, self._resolve, self._log, self._clock)
        self._notifier.announce(conf, zone, startup=startup)

    async def close(self, *, stopping: bool = False) -> None:
        """Tell nobody, and fetch nothing, any more."""
        if self._notifier is not None:
            await self._notifier.close()
        if self.secondaries is not None:
            await self.secondaries.close(stopping=stopping)

    def _arrived(self, conf: ZoneConf, zone: Zone) -> None:
        self._responder.put(zone)
        self.announce(conf.name, zone)

    def _withdraw(self, conf: ZoneConf) -> None:
        from mailstack.dns.secondary import stand_in

        self._responder.withdraw(stand_in(names.from_text(conf.name)))

    async def _hand_on(self, handed: Handed) -> bytes:
        """The answer of the first primary that answers an update."""
        from mailstack.dns.asking import Address, Trouble, once

        conf = handed.conf
        assert conf is not None and self.secondaries is not None
        for remote in conf.transfers.primaries:
            whom = self.secondaries.service.address(conf, remote)
            try:
                # As it is, with the client's own signature.
                return await once(Address(whom.remote, whom.source), handed.data)
            except Trouble as trouble:
                shown = f"zone {conf.name or '.'}/IN"
                self._log.info(f"{shown}: could not forward dynamic update to {remote}: {trouble}")
        return error(handed.data, SERVFAIL)

    async def _resolve(self, host: bytes) -> list[str]:
        """The addresses of a name server elsewhere, by way of the forwarders; none without."""
        import dns.exception
        import dns.message

        from mailstack.dns.asking import Address, Trouble, ask, question

        found: list[str] = []
        for rdtype in (A, AAAA):
            for server in self.conf.options.forwarders:
                try:
                    wire = question(host, rdtype, flags=RD, edns=True)
                    data = await ask(Address(Remote(server[0], server[1])), wire, WAITS, tcp=False)
                    message = dns.message.from_wire(data)
                except (Trouble, dns.exception.DNSException, ValueError):
                    continue
                for rrset in message.answer:
                    if rrset.rdtype == rdtype:
                        found += [rdata.address for rdata in rrset]
                break
        return found
