"""Secondary zones: looking after their serials, fetching them, keeping them, giving them up.

For each zone a task asks its primaries for their serial every `refresh` seconds (the SOA record's, within
`min-refresh-time` and `max-refresh-time`, a random part of up to a quarter earlier), or at once after NOTIFY;
every `retry` seconds when none of them answers. A newer zone is fetched, by IXFR where there is something to
begin from, else or when that fails by AXFR. What cannot be used leaves the zone as it was in service; a zone
that no primary has vouched for in `expire` seconds is given up, and questions about it get SERVFAIL until it
comes again.

Standards: RFC 1034 §4.3.5, RFC 1982, RFC 1995, RFC 1996, RFC 5936.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Final

from mailstack.config.named import NamedConf
from mailstack.config.named import Zone as ZoneConf
from mailstack.config.named.peers import Remote, Transfers, peer_of
from mailstack.dns import asking, names
from mailstack.dns.asking import Address, Trouble
from mailstack.dns.backup import Backup
from mailstack.dns.edit import flat, is_later, serial_of
from mailstack.dns.incoming import RCODES, BadTransfer, Incoming, records
from mailstack.dns.ixfr import differences
from mailstack.dns.journal import Entry
from mailstack.dns.message import Malformed
from mailstack.dns.notify import Pace
from mailstack.dns.tsig import Conversation, Untrusted
from mailstack.dns.zone import AXFR, IXFR, NS, SOA, Node, RRset, Zone
from mailstack.net.clock import Clock
from mailstack.net.log import Log
from mailstack.net.tasks import TaskSet

SOA_WAITS: Final = (3.0, 6.0)
"""Seconds that a primary gets to say its serial by UDP, message by message."""
FIRST_RETRY, LAST_RETRY = 60.0, 6 * 3600.0
"""Seconds between attempts to fetch a zone that has never been there: twice as many each time."""


def _chance() -> float:
    """A number from 0 to 1, so that not all zones are looked after at the same time."""
    return random.random()  # noqa: S311 - nothing is kept secret by it


class Timers:
    """When a zone is looked after, in seconds of a clock; `chance` is a number from 0 to 1."""

    def __init__(self, transfers: Transfers, now: float) -> None:
        self._transfers = transfers
        self._first = FIRST_RETRY / 2
        self._soa: tuple[int, int, int] | None = None
        self.refresh_at = now
        self.expire_at: float | None = None
        """None while there is nothing to give up."""

    def loaded(self, zone: Zone, since: float) -> None:
        """A zone is there that was current at a time, maybe long ago."""
        refresh, retry, expire = soa_times(zone)
        transfers = self._transfers
        refresh = min(max(refresh, transfers.min_refresh), transfers.max_refresh)
        retry = min(max(retry, transfers.min_retry), transfers.max_retry)
        self._soa = (refresh, retry, max(expire, refresh + retry))
        self.expire_at = since + self._soa[2]

    def refreshed(self, now: float, chance: float) -> None:
        """A primary has vouched for the zone that is there."""
        assert self._soa is not None
        self.refresh_at = now + self._soa[0] * (1 - chance / 4)
        self.expire_at = now + self._soa[2]
        self._first = FIRST_RETRY / 2

    def failed(self, now: float, chance: float) -> None:
        """No primary has."""
        if self._soa is None:
            self._first = min(self._first * 2, LAST_RETRY)
        wait = self._first if self._soa is None else self._soa[1]
        self.refresh_at = now + wait * (1 - chance / 4)

    def expired(self) -> None:
        """The zone has been given up."""
        self._soa = None
        self.expire_at = None

    def wait(self, now: float) -> float:
        """Seconds until something is due."""
        due = self.refresh_at if self.expire_at is None else min(self.refresh_at, self.expire_at)
        return max(due - now, 0.0)


def soa_times(zone: Zone) -> tuple[int, int, int]:
    """Refresh, retry and expire of a zone, seconds."""
    data = flat(zone.soa.rdatas[0])
    refresh, retry, expire = (int.from_bytes(data[at : at + 4], "big") for at in (-16, -12, -8))
    return refresh, retry, expire


def stand_in(origin: bytes) -> Zone:
    """What stands in the place of a zone that is not there, so that its names belong to nobody else."""
    apex = Node(origin)
    apex.rrsets[SOA] = RRset(SOA, 0, ((b"", (names.ROOT, names.ROOT), bytes(20)),))
    apex.rrsets[NS] = RRset(NS, 0, ((b"", (names.ROOT,), b""),))
    return Zone(origin, {origin: apex})


class Service:
    """What all secondary zones of a server share."""

    def __init__(self, conf: NamedConf, log: Log, clock: Clock) -> None:
        self.conf = conf
        self.log = log
        self.clock = clock
        self.keys = {key.name: key for key in conf.keys}
        self.queries = Pace(conf.traffic.serial_query_rate, clock)
        self.transfers = asyncio.Semaphore(conf.traffic.transfers_in)
        self._by_server: dict[str, asyncio.Semaphore] = {}
        self.put: Callable[[ZoneConf, Zone], None] = lambda _conf, _zone: None
        """Called with a zone that has come."""
        self.give_up: Callable[[ZoneConf], None] = lambda _conf: None
        """Called when a zone has expired."""

    def of_server(self, host: str) -> asyncio.Semaphore:
        """Transfers from one server at a time."""
        found = self._by_server.get(host)
        if found is None:
            peer = peer_of(self.conf.peers, host)
            own = peer.transfers if peer is not None else None
            found = asyncio.Semaphore(self.conf.traffic.transfers_per_ns if own is None else own)
            self._by_server[host] = found
        return found

    def address(self, conf: ZoneConf, remote: Remote) -> Address:
        """A primary with the key and the address of ours that it is spoken to with."""
        peer = peer_of(self.conf.peers, remote.host)
        ipv6 = ":" in remote.host
        source = conf.transfers.transfer_source_v6 if ipv6 else conf.transfers.transfer_source
        if peer is not None and peer.transfer_source is not None:
            source = peer.transfer_source
        key = remote.key or (peer.key if peer is not None else None)
        return Address(remote, source, self.keys[key] if key is not None else None)


class Secondary:
    """One secondary zone. `zone` is the one in service; None: there is none."""

    def __init__(self, conf: ZoneConf, service: Service) -> None:
        self.conf = conf
        self._service = service
        self._log = service.log
        self._notify_log = service.log.category("notify")
        self._transfer_log = service.log.category("xfer-in")
        self._shown = f"zone {conf.name or '.'}/IN"
        self._origin = names.from_text(conf.name)
        self.backup = Backup(conf, service.log)
        self._wanted = asyncio.Event()
        self._timers = Timers(conf.transfers, service.clock.time())
        self.zone: Zone | None = None

    def load(self) -> Zone | None:
        """The zone as it was last kept; None when it has expired, or was never there."""
        found = self.backup.load()
        if found is None:
            return None
        zone, since = found
        self._timers.loaded(zone, since)
        now = self._service.clock.time()
        if self._timers.expire_at is not None and now >= self._timers.expire_at:
            self._log.warning(f"{self._shown}: expired")
            self._timers.expired()
            return None
        self.zone = zone
        return zone

    def adopt(self, other: Secondary) -> None:
        """Go on with what another configuration has fetched, and look after it at once."""
        self.zone = other.zone
        if other.zone is not None and other._timers.expire_at is not None:
            self._timers.loaded(other.zone, 0.0)
            self._timers.expire_at = other._timers.expire_at

    @property
    def remaining(self) -> int:
        """Seconds until the zone expires (RFC 7314)."""
        at = self._timers.expire_at
        return 0 if at is None else max(int(at - self._service.clock.time()), 0)

    def notified(self, sender: str, serial: int | None) -> None:
        """A primary says that the zone has changed."""
        if serial is not None and self.zone is not None and not is_later(serial, self.zone.serial):
            self._notify_log.info(f"{self._shown}: notify from {sender}: zone is up to date")
            return
        said = "no serial" if serial is None else f"serial {serial}"
        self._notify_log.info(f"{self._shown}: notify from {sender}: {said}")
        self._wanted.set()

    async def run(self) -> None:
        """Look after the zone for ever."""
        clock = self._service.clock
        while True:
            try:
                async with asyncio.timeout(self._timers.wait(clock.time())):
                    await self._wanted.wait()
            except TimeoutError:
                pass
            now = clock.time()
            if self._timers.expire_at is not None and now >= self._timers.expire_at:
                self._log.warning(f"{self._shown}: expired")
                self.zone = None
                self._timers.expired()
                self._service.give_up(self.conf)
            if self._wanted.is_set() or now >= self._timers.refresh_at:
                self._wanted.clear()
                try:
                    await self.refresh()
                except Exception as fault:  # a bug of ours must not end the looking after
                    self._log.exception(f"{self._shown}: refresh failed", fault)
                    self._timers.failed(clock.time(), _chance())

    async def refresh(self) -> None:
        """Ask the primaries in turn, and fetch the zone from the first that has a newer one."""
        clock = self._service.clock
        for remote in self.conf.transfers.primaries:
            whom = self._service.address(self.conf, remote)
            try:
                await self._service.queries.turn()
                serial = await self._serial(whom)
                if self.zone is not None and serial == self.zone.serial:
                    await asyncio.to_thread(self.backup.current)
                elif self.zone is not None and not is_later(serial, self.zone.serial):
                    text = (
                        f"serial number ({serial}) received from primary {remote} < ours ({self.zone.serial})"
                    )
                    if not self.conf.transfers.multi_master:
                        self._log.warning(f"{self._shown}: {text}")
                    continue
                else:
                    await self._fetch(whom)
            except Trouble as trouble:
                self._log.info(f"{self._shown}: refresh: failure trying primary {remote}: {trouble}")
                continue
            self._timers.refreshed(clock.time(), _chance())
            return
        self._timers.failed(clock.time(), _chance())

    async def _serial(self, whom: Address) -> int:
        """The serial that a server has. Raises `Trouble`."""
        tcp = self.conf.transfers.try_tcp_refresh
        data = await asking.ask(whom, asking.question(self._origin, SOA, edns=True), SOA_WAITS, tcp=tcp)
        if asking.rcode_of(data) in (1, 4):  # FORMERR, NOTIMP: it does not know EDNS
            data = await asking.ask(whom, asking.question(self._origin, SOA), SOA_WAITS, tcp=tcp)
        if rcode := asking.rcode_of(data):
            raise Trouble(f"unexpected rcode ({RCODES.get(rcode, rcode)})")
        if not data[2] & 0x04:
            raise Trouble("non-authoritative answer")
        try:
            found = [serial_of(one) for _, kind, _, one in records(data, self._origin) if kind == SOA]
        except (BadTransfer, Malformed, ValueError, IndexError) as error:
            raise Trouble(f"an answer that cannot be read: {error}") from error
        if len(found) != 1:
            raise Trouble(f"answer with {len(found)} SOA records")
        return found[0]

    async def _fetch(self, whom: Address) -> None:
        """Fetch the zone, and put it into service. Raises `Trouble`."""
        service, transfers = self._service, self.conf.transfers
        peer = peer_of(service.conf.peers, whom.remote.host)
        wanted = transfers.request_ixfr
        if peer is not None and peer.request_ixfr is not None:
            wanted = peer.request_ixfr
        async with service.transfers, service.of_server(whom.remote.host):
            if wanted and self.zone is not None:
                try:
                    await self._transfer(whom, self.zone)
                    return
                except Trouble as trouble:
                    self._transfer_log.info(
                        f"{self._about(whom)}: IXFR failed: {trouble}; retrying with AXFR"
                    )
            await self._transfer(whom, None)

    def _about(self, whom: Address) -> str:
        return f"transfer of '{self.conf.name or '.'}/IN' from {whom.remote}"

    async def _transfer(self, whom: Address, base: Zone | None) -> None:
        """One transfer, incremental from `base` where that is given. Raises `Trouble`."""
        clock = self._service.clock
        begun = clock.monotonic()
        incoming = Incoming(self._origin, base, max_records=self.conf.transfers.max_records)
        try:
            async with asyncio.timeout(self.conf.transfers.max_time_in):
                await self._receive(whom, base, incoming)
            if incoming.current:
                return
            # Other questions get their turn while a large zone is put together.
            zone = await asyncio.to_thread(incoming.result)
        except TimeoutError as error:
            raise Trouble("maximum transfer time exceeded") from error
        except (BadTransfer, Untrusted) as error:
            raise Trouble(str(error)) from error
        before, self.zone = self.zone, zone
        self._timers.loaded(zone, clock.time())
        self._service.put(self.conf, zone)
        signed = f": TSIG '{whom.key.name}'" if whom.key is not None else ""
        self._transfer_log.info(f"{self._shown}: transferred serial {zone.serial}{signed}")
        took = f"{incoming.octets} bytes, {clock.monotonic() - begun:.3f} secs (serial {zone.serial})"
        count = f"{incoming.messages} messages, {incoming.records} records, {took}"
        self._transfer_log.info(f"{self._about(whom)}: Transfer completed: {count}")
        await asyncio.to_thread(self._keep, zone, before, incoming)

    async def _receive(self, whom: Address, base: Zone | None, incoming: Incoming) -> None:
        authority = b""
        if base is not None:
            authority = asking.soa_record(self._origin, flat(base.soa.rdatas[0]))
        wire = asking.question(self._origin, AXFR if base is None else IXFR, authority=authority)
        conversation = Conversation(whom.key)
        idle = float(self.conf.transfers.max_idle_in)
        async for message in asking.stream(whom, conversation.sign(wire), idle):
            if not asking.answers(wire, message):
                raise BadTransfer("a message that is no answer to the question")
            conversation.check(message, last=False)
            over = incoming.feed(message)
            if over:
                if not conversation.settled:
                    raise Untrusted("the last message is not signed")
                return
            await asyncio.sleep(0)

    def _keep(self, zone: Zone, before: Zone | None, incoming: Incoming) -> None:
        if incoming.incremental:
            self.backup.follow(zone, incoming.entries())
            return
        step: Entry | None = None
        if before is not None and self.conf.transfers.ixfr_from_differences:
            step = Entry(before.serial, zone.serial, differences(before, zone))
        self.backup.replace(zone, step)


class Secondaries:
    """The secondary zones of one configuration."""

    def __init__(self, conf: NamedConf, log: Log, clock: Clock, previous: Secondaries | None = None) -> None:
        """`previous` are those of the configuration before: what they have fetched goes on being served."""
        self.service = Service(conf, log, clock)
        self._tasks = TaskSet(lambda name, fault: log.exception(name, fault))
        self.zones = {
            zone.name: Secondary(zone, self.service) for zone in conf.zones if zone.kind == "secondary"
        }
        self._by_origin = {names.from_text(name): zone for name, zone in self.zones.items()}
        for name, zone in self.zones.items():
            held = previous.zones.get(name) if previous is not None else None
            if held is not None and held.conf.file == zone.conf.file and held.zone is not None:
                zone.adopt(held)
            else:
                zone.load()

    def start(self) -> None:
        """Begin to look after them."""
        for zone in self.zones.values():
            self._tasks.start(zone.run(), "secondary")

    def notified(self, name: str, sender: str, serial: int | None) -> None:
        """A primary says that a zone has changed."""
        self.zones[name].notified(sender, serial)

    def remaining(self, origin: bytes) -> int | None:
        """Seconds until the zone with that wire name expires; None when it is none of these."""
        zone = self._by_origin.get(origin)
        return None if zone is None else zone.remaining

    async def close(self, *, stopping: bool) -> None:
        """End what is under way. What is being written is written, but not when the server is `stopping`."""
        for zone in self.zones.values():
            zone.backup.abandoned = stopping
        await self._tasks.drain(0)
