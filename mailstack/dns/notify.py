"""NOTIFY (RFC 1996): telling other servers that a zone has changed, and being told.

Who is told: the zone's name servers but its primary one (MNAME), and `also-notify`, as `notify` says. A
server that does not answer is told again, each time twice as long after the last, five times in all. A zone
that changes again in the meantime begins anew.
"""

from __future__ import annotations

import asyncio
import ipaddress
import struct
from collections.abc import Awaitable, Callable, Iterable, Mapping

from dns.exception import DNSException

from mailstack.config.named import Locality, NamedConf
from mailstack.config.named import Zone as ZoneConf
from mailstack.config.named.peers import Remote, peer_of
from mailstack.dns import asking, names
from mailstack.dns.asking import Address, Trouble
from mailstack.dns.authority import Authority
from mailstack.dns.clients import who as client
from mailstack.dns.edit import flat
from mailstack.dns.message import FORMERR, NOERROR, NOTAUTH, REFUSED, Malformed, Query, skip_name
from mailstack.dns.zone import AAAA, NS, SOA, A, Zone
from mailstack.net.clock import Clock
from mailstack.net.log import Log
from mailstack.net.tasks import TaskSet

WAITS = (5.0, 10.0, 20.0, 40.0, 80.0)
"""Seconds that an answer is waited for, message by message."""
Resolve = Callable[[bytes], Awaitable[list[str]]]
"""The addresses of a host that is not in our zones."""


class Pace:
    """So many things a second: `turn` waits until it is one's turn."""

    def __init__(self, rate: int, clock: Clock) -> None:
        self._interval = 1 / rate
        self._clock = clock
        self._next = 0.0

    async def turn(self) -> None:
        now = self._clock.monotonic()
        self._next = max(self._next, now)
        wait, self._next = self._next - now, self._next + self._interval
        if wait > 0:
            await asyncio.sleep(wait)


class Notifier:
    """Tells other servers of one configuration's zones."""

    def __init__(
        self,
        conf: NamedConf,
        zones: Mapping[bytes, Zone],
        own: Callable[[], Iterable[tuple[str, int]]],
        resolve: Resolve,
        log: Log,
        clock: Clock,
    ) -> None:
        """`zones` are those in service; `own` says where we listen ourselves: nobody tells himself."""
        self._conf = conf
        self._zones = zones
        self._own = own
        self._resolve = resolve
        self._log = log.category("notify")
        self._clock = clock
        self._keys = {key.name: key for key in conf.keys}
        self._pace = Pace(conf.traffic.notify_rate, clock)
        self._startup = Pace(conf.traffic.startup_notify_rate, clock)
        self._tasks = TaskSet(lambda name, fault: log.exception(name, fault))
        self._underway: dict[str, asyncio.Task[None]] = {}
        self._due: dict[str, float] = {}

    def announce(self, conf: ZoneConf, zone: Zone, *, startup: bool = False) -> None:
        """Tell of a zone as it is now; not more often than each `notify-delay` seconds."""
        how = conf.transfers.notify
        if how == "no" or (how == "primary-only" and conf.kind != "primary"):
            return
        if how == "explicit" and not conf.transfers.also_notify:
            return
        before = self._underway.get(conf.name)
        if before is not None:
            before.cancel()
        now = self._clock.monotonic()
        due = max(now, self._due.get(conf.name, 0.0))
        self._underway[conf.name] = self._tasks.start(
            self._tell_all(conf, zone, due - now, startup=startup), "notify"
        )

    async def close(self) -> None:
        """Tell nobody any more."""
        await self._tasks.drain(0)

    async def _tell_all(self, conf: ZoneConf, zone: Zone, wait: float, *, startup: bool) -> None:
        if wait > 0:
            await asyncio.sleep(wait)
        self._due[conf.name] = self._clock.monotonic() + conf.transfers.notify_delay
        remotes = await self.remotes(conf, zone)
        if not remotes:
            return
        shown = f"zone {conf.name or '.'}/IN"
        self._log.info(f"{shown}: sending notifies (serial {zone.serial})")
        soa = flat(zone.soa.rdatas[0])
        pace = self._startup if startup else self._pace
        await asyncio.gather(*(self._tell(shown, conf, zone, soa, remote, pace) for remote in remotes))

    async def _tell(
        self, shown: str, conf: ZoneConf, zone: Zone, soa: bytes, remote: Remote, pace: Pace
    ) -> None:
        await pace.turn()
        wire = asking.notify(zone.origin, soa)
        try:
            answer = await asking.ask(self.address(conf, remote), wire, WAITS, tcp=False, patient=True)
        except Trouble as trouble:
            self._log.info(f"{shown}: notify to {remote} failed: {trouble}")
        else:
            if rcode := asking.rcode_of(answer):
                self._log.info(f"{shown}: notify response from {remote}: rcode {rcode}")

    def address(self, conf: ZoneConf, remote: Remote) -> Address:
        """A server with the key and the address of ours that it is spoken to with."""
        peer = peer_of(self._conf.peers, remote.host)
        ipv6 = ":" in remote.host
        source = conf.transfers.notify_source_v6 if ipv6 else conf.transfers.notify_source
        if peer is not None and peer.notify_source is not None:
            source = peer.notify_source
        key = remote.key or (peer.key if peer is not None else None)
        return Address(remote, source, self._keys[key] if key is not None else None)

    async def remotes(self, conf: ZoneConf, zone: Zone) -> list[Remote]:
        """Whom to tell, each once, ourselves left out."""
        found = list(conf.transfers.also_notify)
        if conf.transfers.notify != "explicit":
            rdata = zone.soa.rdatas[0]
            assert isinstance(rdata, tuple)
            mname = rdata[1][0].lower()
            for host in zone.apex.rrsets[NS].targets if NS in zone.apex.rrsets else ():
                if host.lower() == mname and not conf.transfers.notify_to_soa:
                    continue
                for address in await self._addresses(host.lower()):
                    remote = Remote(address, self._conf.options.port)
                    if not any((one.host, one.port) == (remote.host, remote.port) for one in found):
                        found.append(remote)
        own = set(self._own())
        return [remote for remote in found if (remote.host, remote.port) not in own]

    async def _addresses(self, host: bytes) -> list[str]:
        name = host
        while True:
            zone = self._zones.get(name)
            if zone is not None:
                break
            if name == names.ROOT:
                return await self._resolve(host)
            name = names.parent(name)
        node = zone.nodes.get(host)
        return [] if node is None else list(addresses(node.rrsets.get(kind) for kind in (A, AAAA)))


def addresses(rrsets: Iterable[object]) -> Iterable[str]:
    """The addresses in A and AAAA sets."""
    for rrset in rrsets:
        for rdata in getattr(rrset, "rdatas", ()):
            if isinstance(rdata, bytes) and len(rdata) in (4, 16):
                yield str(ipaddress.ip_address(rdata))


class NotifiesIn:
    """NOTIFY messages that come; for a secondary zone `refresh` is called: name, sender, serial if said."""

    def __init__(
        self, authority: Authority, zones: Mapping[bytes, ZoneConf], locality: Locality, log: Log
    ) -> None:
        self._authority = authority
        self._zones = zones
        self._locality = locality
        self._log = log.category("notify")
        self.refresh: Callable[[str, str, int | None], None] = lambda _name, _host, _serial: None

    def rcode(self, data: bytes, query: Query, host: str, port: int, key: str | None) -> int:
        """The response code to a message; `key` is the one it was signed with (RFC 1996 §3.10, §3.11)."""
        who = client(host, port, key)
        if query.rdtype != SOA:
            self._log.info(f"{who}: notify question section contains no SOA")
            return FORMERR
        origin = query.name.lower()
        conf = self._zones.get(origin)
        shown = names.to_text(origin)
        if conf is None or conf.kind not in ("primary", "secondary"):
            self._log.info(f"{who}: received notify for zone '{shown}': not authoritative")
            return NOTAUTH
        self._log.info(f"{who}: received notify for zone '{shown}'")
        if conf.kind == "primary":
            return NOERROR
        address = ipaddress.ip_address(host.partition("%")[0])
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        known = str(address) in [remote.host for remote in conf.transfers.primaries]
        if not known and not conf.transfers.allow_notify.matches(address, self._locality, key):
            self._log.info(f"zone {shown}/IN: refused notify from non-primary: {host}#{port}")
            return REFUSED
        self.refresh(conf.name, f"{host}#{port}", said_serial(data))
        return NOERROR


def said_serial(data: bytes) -> int | None:
    """The serial in a NOTIFY's answer section; None when there is none that can be read."""
    # Lazily: only a secondary looks at it.
    from mailstack.dns.incoming import BadTransfer, records

    try:
        origin = data[12 : skip_name(data, 12)].lower()
        found = [one for _, rdtype, _, one in records(data, origin) if rdtype == SOA]
    except (BadTransfer, Malformed, DNSException, struct.error, ValueError, IndexError):
        return None
    return int.from_bytes(found[0][-20:-16], "big") if found else None
