"""Response-rate limiting, as BIND has it (`rate-limit`).

Each answer over UDP is charged to an account: the client's network, the kind of answer, and what it is about
(the name and type for records, the name for "no such type" and referrals, the zone for "no such name"). An
account earns its rate each second, holds no more than one second's worth, and owes no more than a window's.
An answer that its account cannot pay is dropped, and every `slip`-th of them is sent without records and with
TC, so that a client whose address is not forged asks by TCP. Clients that show a cookie of ours are not
limited.

The table has `max-table-size` accounts at the most; the one that was longest without use makes room for a
new one.
"""

from __future__ import annotations

import ipaddress
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto

from mailstack.config.named import Locality
from mailstack.config.named.answers import RateLimit
from mailstack.dns import names
from mailstack.dns.authority import Answer
from mailstack.dns.clients import ClientLog
from mailstack.dns.message import AA, AD, NOERROR, NXDOMAIN, TC, Query, parse, skip_name, without_question
from mailstack.dns.statistics import Statistics, rcode_name, type_name
from mailstack.dns.zone import DNAME
from mailstack.net.log import Log

OPT_SIZE = 11
"""Octets of an OPT record without options."""
QUIET = 60
"""Seconds after which a client that is no longer limited is said to be so."""
LOG_AGAIN = 1800
"""Seconds after which a client that is still limited is named again."""
FOREVER = 4000
"""Seconds without use that count as any longer time."""


class Kind(Enum):
    """What an answer is, to the limits."""

    RECORDS = ""
    REFERRAL = "referral "
    NODATA = "NODATA "
    NXDOMAIN = "NXDOMAIN "
    ERROR = "error "
    ALL = "all "


class Verdict(Enum):
    """What becomes of an answer."""

    SEND = auto()
    SLIP = auto()
    DROP = auto()


@dataclass(frozen=True, slots=True)
class Subject:
    """What an answer is about. `rcode` is an error's name."""

    kind: Kind
    name: bytes = b""
    rdtype: str = ""
    rcode: str = ""


_ALL = Subject(Kind.ALL)


@dataclass(slots=True)
class _Account:
    balance: int
    used: int
    slips: int = 0
    logged: int = 0
    """When the client was named last; 0: it is not limited."""


def subject(query: Query, found: Answer | None, wire: bytes) -> Subject | None:
    """What the answer `wire` to a query is about; `found` is None for errors, and for answers of forwarders,
    which are not limited."""
    rcode = wire[3] & 0xF
    if found is None or found.zone is None:
        return None if rcode in (NOERROR, NXDOMAIN) else Subject(Kind.ERROR, rcode=rcode_name(rcode))
    rdtype = type_name(query.rdtype)
    name = query.name.lower()
    if found.answer:
        owner, first = found.answer[0]
        if first.rdtype == DNAME:
            name = owner.lower()
        elif name not in found.zone.nodes:
            name = found.zone.origin  # out of a wildcard
        return Subject(Kind.RECORDS, name, rdtype)
    if found.rcode == NXDOMAIN:
        return Subject(Kind.NXDOMAIN, found.zone.origin)
    if found.authoritative:
        return Subject(Kind.NODATA, name)
    return Subject(Kind.REFERRAL, found.authority[0][0].lower() if found.authority else name)


class RateLimiter:
    """The accounts of one server. Times are whole seconds of any clock."""

    def __init__(self, conf: RateLimit, locality: Locality, log: Log) -> None:
        self.conf = conf
        self._locality = locality
        self._log = log.category("rate-limit")
        self._accounts: dict[tuple[str, Subject], _Account] = {}
        self._networks: dict[str, str | None] = {}
        self._rates = {
            Kind.RECORDS: conf.responses,
            Kind.REFERRAL: conf.referrals,
            Kind.NODATA: conf.nodata,
            Kind.NXDOMAIN: conf.nxdomains,
            Kind.ERROR: conf.errors,
            Kind.ALL: conf.everything,
        }
        self._since = self._counted = self._looked = 0
        self._qps = 0.0

    def judge(self, host: str, about: Subject, now: int) -> tuple[Verdict, str]:
        """Charge an answer over UDP; what becomes of it, and what to say of it in the log of queries."""
        network = self._network(host)
        if network is None:
            return Verdict.SEND, ""
        scale = self._scale(now)
        if now - self._looked >= QUIET:
            self._looked = now
            self._forgive(now)
        verdict, account = self._charge(network, about, now, scale)
        if self.conf.everything:
            general, account_of_all = self._charge(network, _ALL, now, scale)
            if general is not Verdict.SEND:
                verdict, about, account = general, _ALL, account_of_all
        if verdict is Verdict.SEND or account is None:
            return Verdict.SEND, ""
        would = "would " if self.conf.log_only else ""
        if not account.logged or now - account.logged >= LOG_AGAIN:
            how = "continue limiting" if account.logged else "limit"
            self._log.info(f"{would}{how} {_described(network, about, several=True)}")
            account.logged = now
        word = "drop" if verdict is Verdict.DROP else "slip"
        text = f"{would}rate limit {word} {_described(network, about, several=False)}"
        if self.conf.log_only:
            return Verdict.SEND, text
        # Errors have no form that could be slipped.
        if about.kind is Kind.ERROR or verdict is Verdict.DROP:
            return Verdict.DROP, text
        return Verdict.SLIP, text

    def _network(self, host: str) -> str | None:
        """The client's network; None for a client that is not limited."""
        if host in self._networks:
            return self._networks[host]
        if len(self._networks) >= self.conf.max_table_size:
            self._networks.clear()
        address = ipaddress.ip_address(host.partition("%")[0])
        found: str | None = None
        if not self.conf.exempt.matches(address, self._locality):
            prefix = self.conf.ipv4_prefix if address.version == 4 else self.conf.ipv6_prefix
            found = str(ipaddress.ip_network((address, prefix), strict=False))
        self._networks[host] = found
        return found

    def _scale(self, now: int) -> float:
        """How much less each client gets because of the load of all (`qps-scale`)."""
        if not self.conf.qps_scale:
            return 1.0
        self._counted += 1
        seconds = now - self._since
        if seconds > 0:
            qps = self._counted / seconds
            if seconds >= self.conf.window:
                self._since, self._qps, self._counted = now, qps, 0
            self._qps = max(self._qps, qps)
        return min(1.0, self.conf.qps_scale / self._qps) if self._qps else 1.0

    def _charge(
        self, network: str, about: Subject, now: int, scale: float
    ) -> tuple[Verdict, _Account | None]:
        rate = self._rates[about.kind]
        if not rate:
            return Verdict.SEND, None
        slip = self.conf.slip
        if scale < 1.0:
            rate, slip = max(1, int(rate * scale)), max(min(slip, 1), int(slip * scale))
        # The order of the table is that of its use.
        account = self._accounts.pop((network, about), None)
        if account is None:
            if len(self._accounts) >= self.conf.max_table_size:
                self._evict()
            account = _Account(rate, now)
        self._accounts[network, about] = account
        age = min(now - account.used, FOREVER)
        if age > 0:
            earned = rate if age > self.conf.window else account.balance + rate * age
            account.balance = min(earned, rate)
            if account.balance == rate:
                account.slips = 0
        account.used = max(now, account.used)
        account.balance -= 1
        if account.balance >= 0:
            return Verdict.SEND, account
        account.balance = max(account.balance, -self.conf.window * rate)
        if slip and about.kind is not Kind.ALL:
            account.slips += 1
            first = account.slips == 1
            if account.slips >= slip:
                account.slips = 0
            if first:
                return Verdict.SLIP, account
        return Verdict.DROP, account

    def _evict(self) -> None:
        key = next(iter(self._accounts))
        account = self._accounts.pop(key)
        if account.logged:
            self._stopped(key, "*")

    def _forgive(self, now: int) -> None:
        """Say who is no longer limited."""
        for key, account in self._accounts.items():
            if account.logged and now - account.used >= QUIET:
                account.logged = 0
                self._stopped(key, "")

    def _stopped(self, key: tuple[str, Subject], mark: str) -> None:
        would = "would " if self.conf.log_only else ""
        self._log.info(f"{mark}{would}stop limiting {_described(*key, several=True)}")


class Limits:
    """Limits what is sent, says so in the log, and counts it. `clock` gives seconds."""

    def __init__(
        self,
        conf: RateLimit,
        locality: Locality,
        log: Log,
        clients: ClientLog,
        statistics: Statistics,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._limiter = RateLimiter(conf, locality, log)
        self._clients = clients
        self._statistics = statistics
        self.clock = clock

    def passed(self, wire: bytes, about: Subject, host: str, port: int, data: bytes) -> bytes | None:
        """An answer by UDP to the query `data`; another one or none when its client has had too many."""
        verdict, text = self._limiter.judge(host, about, int(self.clock()))
        if text:
            who = self._clients.who(host, port, without_question(data) or parse(data))
            self._clients.limited(who, text, error=about.kind is Kind.ERROR)
        if verdict is Verdict.SEND:
            return wire
        if verdict is Verdict.DROP:
            self._statistics.add("responses dropped for rate limits")
            return None
        self._statistics.add("responses truncated for rate limits")
        return slipped(wire, about)


def _described(network: str, about: Subject, *, several: bool) -> str:
    """`NXDOMAIN responses to 192.0.2.0/24 for example.com  (c4fc4901)`, as named says it."""
    what = f"{about.rcode} error " if about.rcode else about.kind.value
    text = f"{what}{'responses' if several else 'response'} to {network}"
    if about.kind in (Kind.ERROR, Kind.ALL):
        return text
    kind = {Kind.RECORDS: f"IN {about.rdtype} ", Kind.NXDOMAIN: ""}.get(about.kind, "IN ")
    return f"{text} for {names.to_text(about.name)} {kind} ({zlib.crc32(about.name):08x})"


def slipped(wire: bytes, about: Subject) -> bytes:
    """What is sent in the place of an answer that slips: its question, TC, and the OPT record it had."""
    end = skip_name(wire, 12) + 4
    opt = wire[-OPT_SIZE:] if wire[-OPT_SIZE : 3 - OPT_SIZE] == b"\0\0\x29" else b""
    flags = int.from_bytes(wire[2:4], "big") & ~(AA | AD | 0xF) | TC
    flags |= NXDOMAIN if about.kind is Kind.NXDOMAIN else 0
    counts = b"\0\1\0\0\0\0" + (b"\0\1" if opt else b"\0\0")
    return wire[:2] + flags.to_bytes(2, "big") + counts + wire[12:end] + opt
