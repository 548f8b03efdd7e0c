"""A stub resolver for servers: MX, address and reverse look-ups with deadlines, and a small cache.

Invariants: no look-up takes longer than its `timeout` (seconds, over all servers, attempts and aliases); each
question goes out from a socket of its own (the kernel picks a random port) with a random id, and an answer
counts only when it comes from the server asked and carries that id and question (RFC 5452 §9); the same
question asked twice at once is sent once; the cache holds at most `cache_size` entries and none for longer
than its TTL or `max_ttl`, whichever is shorter.

dnspython builds and reads the messages. It is imported with the first look-up that needs the network, so
that a server listens before it has paid for the import.

Standards: RFC 1034 §5.3.1 (stub resolver), RFC 2308 (negative answers), RFC 5321 §5.1 (MX), RFC 6761 §6.3
(localhost), RFC 6840 §5.7 (AD in queries), RFC 6891 (EDNS), RFC 7505 (null MX), RFC 7766 (TCP).
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from mailstack.net.clock import Clock, SystemClock
from mailstack.net.dns_exchange import (
    ALIAS_LIMIT,
    TRY_TIMEOUT,
    Nameserver,
    Outcome,
    RecordType,
    Unusable,
    ask_server,
)
from mailstack.net.tasks import TaskSet

if TYPE_CHECKING:
    pass

TIMEOUT = 10.0
"""Seconds for one look-up, over everything it takes."""
SOCKET_LIMIT = 200
"""Questions under way at once; more wait their turn."""

_HOST = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?:\.[A-Za-z0-9_-]{1,63})*\Z")


class ResolveError(Exception):
    """A look-up without a usable result; `str()` is fit for a log line or a bounce."""


class NoSuchDomain(ResolveError):  # noqa: N818 - a condition, named as callers speak of it
    """The name does not exist (NXDOMAIN), or cannot exist. Permanent."""

    secure = False
    """DNSSEC has validated that."""


class NullMX(ResolveError):  # noqa: N818 - a condition, named as callers speak of it
    """The domain says that it takes no mail (RFC 7505). Permanent."""


class ResolveTemporary(ResolveError):  # noqa: N818 - a condition, named as callers speak of it
    """No server gave an answer in time, or they could not. Worth trying again later."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Records of one type, as `Resolver.ask` found them: (preference, text), preference 0 but for MX."""

    records: tuple[tuple[int, str], ...]
    name: str
    """Whose they are, aliases followed (lower case, no final dot)."""
    secure: bool
    """DNSSEC has validated the answer, as the configured server says."""
    ttl: int
    """Seconds."""


class Resolver:
    """Asks the given recursive (or simply knowing) servers, in order, for what a mail server needs.

    `attempts` is how often the list of servers is gone through; `max_ttl` and `max_negative_ttl` (seconds)
    cap the cache, so that a changed zone is seen soon.
    """

    def __init__(
        self,
        nameservers: Sequence[Nameserver],
        *,
        timeout: float = TIMEOUT,
        try_timeout: float = TRY_TIMEOUT,
        attempts: int = 2,
        cache_size: int = 2000,
        max_ttl: int = 60,
        max_negative_ttl: int = 5,
        clock: Clock | None = None,
    ) -> None:
        self.nameservers = tuple(nameservers) or (("127.0.0.1", 53),)
        self.timeout = timeout
        self._try_timeout = try_timeout
        self._attempts = attempts
        self._cache_size = cache_size
        self._max_ttl = max_ttl
        self._max_negative_ttl = max_negative_ttl
        self._clock: Clock = clock if clock is not None else SystemClock()
        self._cache: dict[tuple[str, str, bool], tuple[float, Outcome]] = {}
        self._flying: dict[tuple[str, str, bool], asyncio.Task[Outcome]] = {}
        self._tasks = TaskSet(_unexpected)
        self._slots: asyncio.Semaphore | None = None

    @classmethod
    def system(cls, path: Path = Path("/etc/resolv.conf"), *, timeout: float = TIMEOUT) -> Resolver:
        """The servers of resolv.conf(5): `nameserver` lines, `options timeout:N attempts:N`.

        Search lists do not apply: mail names are fully qualified. An absent file means 127.0.0.1.
        """
        servers: list[Nameserver] = []
        try_timeout, attempts = TRY_TIMEOUT, 2
        try:
            text = path.read_text("utf-8", "replace")
        except OSError:
            text = ""
        for line in text.splitlines():
            words = line.split()
            if len(words) >= 2 and words[0] == "nameserver":
                servers.append((words[1], 53))
            elif words and words[0] == "options":
                for option in words[1:]:
                    key, _, value = option.partition(":")
                    if key == "timeout" and value.isdecimal():
                        try_timeout = float(min(max(int(value), 1), 30))
                    elif key == "attempts" and value.isdecimal():
                        attempts = min(max(int(value), 1), 5)
        return cls(servers[:3], timeout=timeout, try_timeout=try_timeout, attempts=attempts)

    # ---- what a mail server asks

    async def mx(self, domain: str, *, timeout: float | None = None) -> list[tuple[int, str]]:
        """The mail hosts of `domain` as (preference, host), lowest preference first.

        Equal preferences keep the answer's order (the caller shuffles them). A domain that exists without
        MX is its own mail host: `[(0, domain)]` (RFC 5321 §5.1). Hosts are names without a final dot.

        Raises `NoSuchDomain`, `NullMX` or `ResolveTemporary`.
        """
        return mail_hosts(domain, (await self._lookup(domain, "MX", timeout)).records)

    async def addresses(self, host: str, *, timeout: float | None = None) -> list[str]:
        """The IPv4, then the IPv6 addresses of `host`; none when the name exists without any.

        An address literal is its own address, and `localhost` the loopback ones. Raises `NoSuchDomain` or
        `ResolveTemporary` (the latter only when neither family gave an address).
        """
        literal = _literal(host)
        if literal is not None:
            return [str(literal)]
        if host.rstrip(".").lower() == "localhost":
            return ["127.0.0.1", "::1"]
        results = await asyncio.gather(
            self._lookup(host, "A", timeout), self._lookup(host, "AAAA", timeout), return_exceptions=True
        )
        found: list[str] = []
        failure: BaseException | None = None
        for result in results:
            if isinstance(result, BaseException):
                # That one family does not exist says that neither does; a silent server says less.
                if failure is None or isinstance(result, NoSuchDomain):
                    failure = result
            else:
                found.extend(text for _, text in result.records)
        if not found and failure is not None:
            raise failure
        return found

    async def ptr(self, address: str, *, timeout: float | None = None) -> str | None:
        """The name that the reverse zone gives for an address literal, None when there is none.

        127.0.0.1 and ::1 are `localhost` without asking. A name that is not a host name counts as none.
        Raises `ResolveTemporary`, and `ValueError` when `address` is not an address.
        """
        ip = ipaddress.ip_address(address.partition("%")[0])
        if str(ip) in ("127.0.0.1", "::1"):
            return "localhost"
        try:
            outcome = await self._lookup(ip.reverse_pointer, "PTR", timeout)
        except NoSuchDomain:
            return None
        for _, name in outcome.records:
            if _HOST.match(name):
                return name
        return None

    async def verified_ptr(self, address: str, *, timeout: float | None = None) -> str | None:
        """The name of an address, confirmed: the name's own addresses hold the address again.

        None when there is no name or it is not confirmed ("unknown" in Postfix's words). Raises
        `ResolveTemporary` when either look-up failed for now, and `ValueError` for a non-address.
        """
        name = await self.ptr(address, timeout=timeout)
        if name is None:
            return None
        wanted = ipaddress.ip_address(address.partition("%")[0])
        try:
            found = await self.addresses(name, timeout=timeout)
        except NoSuchDomain:
            return None
        return name if any(ipaddress.ip_address(text) == wanted for text in found) else None

    async def name_servers(self, domain: str, *, timeout: float | None = None) -> list[str]:
        """The names of the zone's servers; none where `domain` is not the top of a zone.

        Raises `NoSuchDomain` or `ResolveTemporary`.
        """
        return [name for _, name in (await self._lookup(domain, "NS", timeout)).records]

    async def listed(self, name: str, *, timeout: float | None = None) -> list[str]:
        """The IPv4 addresses of a name in a DNS list (RFC 5782 §2.1); none: it is not listed.

        Raises `ResolveTemporary`.
        """
        try:
            return [text for _, text in (await self._lookup(name, "A", timeout)).records]
        except NoSuchDomain:
            return []

    async def texts(self, name: str, *, timeout: float | None = None) -> list[str]:
        """The TXT records of a name, their strings joined. Raises `NoSuchDomain` or `ResolveTemporary`."""
        return [text for _, text in (await self._lookup(name, "TXT", timeout)).records]

    async def ask(
        self, name: str, rdtype: RecordType, *, dnssec: bool = False, timeout: float | None = None
    ) -> Answer:
        """Any records, none where the name has none; with `dnssec` the server is asked to validate.

        TLSA records are `usage selector type hex`. Raises `NoSuchDomain` (whose `secure` says whether that
        has been validated) or `ResolveTemporary`.
        """
        outcome = await self._lookup(name, rdtype, timeout, dnssec=dnssec)
        return Answer(outcome.records, outcome.name or name.lower(), outcome.secure, outcome.ttl)

    def forget(self) -> None:
        """Empty the cache (on reload)."""
        self._cache.clear()

    async def close(self) -> None:
        """End the look-ups that are under way."""
        await self._tasks.drain(0)

    # ---- cache and sharing

    async def _lookup(
        self, name: str, rdtype: RecordType, timeout: float | None, *, dnssec: bool = False
    ) -> Outcome:
        """A found or nodata outcome. Raises `NoSuchDomain` or `ResolveTemporary`."""
        name = name.rstrip(".").lower()
        key = (name, rdtype, dnssec)
        held = self._cache.get(key)
        if held is not None and held[0] > self._clock.monotonic():
            outcome = held[1]
        else:
            flying = self._flying.get(key)
            if flying is None:
                flying = self._tasks.start(self._resolve(name, rdtype, dnssec), f"look up {name} {rdtype}")
                self._flying[key] = flying
            limit = self.timeout if timeout is None else min(timeout, self.timeout)
            done, _ = await asyncio.wait((flying,), timeout=limit)
            if not done or flying.cancelled():
                outcome = Outcome("temporary", reason="no answer in time")
            elif (fault := flying.exception()) is not None:
                raise ResolveTemporary(f"{name} {rdtype}: {type(fault).__name__}: {fault}") from fault
            else:
                outcome = flying.result()
        what = f"{name} type={rdtype}: {outcome.reason}"
        if outcome.status == "nxdomain":
            missing = NoSuchDomain(f"Host or domain name not found. Name service error for name={what}")
            missing.secure = outcome.secure
            raise missing
        if outcome.status == "temporary":
            raise ResolveTemporary(
                f"Host or domain name not found for now. Name service error for name={what}"
            )
        return outcome

    async def _resolve(self, name: str, rdtype: RecordType, dnssec: bool) -> Outcome:
        """Ask, follow aliases, remember; never raises for what a network or a server does."""
        key = (name, rdtype, dnssec)
        try:
            try:
                async with asyncio.timeout(self.timeout):
                    outcome = await self._chase(name, rdtype, dnssec)
            except TimeoutError:
                outcome = Outcome("temporary", reason="no answer in time")
            self._remember(key, outcome)
            return outcome
        finally:
            self._flying.pop(key, None)

    def _remember(self, key: tuple[str, str, bool], outcome: Outcome) -> None:
        if outcome.status == "temporary":
            return
        ttl = min(outcome.ttl, self._max_ttl if outcome.status == "found" else self._max_negative_ttl)
        if ttl <= 0:
            return
        self._cache.pop(key, None)
        while len(self._cache) >= self._cache_size:
            del self._cache[next(iter(self._cache))]  # the oldest entry: a dict keeps the order of insertion
        self._cache[key] = (self._clock.monotonic() + ttl, outcome)

    async def _chase(self, name: str, rdtype: RecordType, dnssec: bool) -> Outcome:
        ttl, secure = 1 << 31, dnssec
        for _ in range(ALIAS_LIMIT):
            outcome = await self._ask_all(name, rdtype, dnssec)
            ttl = min(ttl, outcome.ttl)
            secure = secure and outcome.secure
            if outcome.alias is None:
                return replace(outcome, ttl=ttl, secure=secure)
            name = outcome.alias
        return Outcome("temporary", reason="too many aliases")

    # ---- questions

    async def _ask_all(self, name: str, rdtype: RecordType, dnssec: bool) -> Outcome:
        """Go through the servers until one gives a definite answer."""
        import dns.exception
        import dns.name

        try:
            qname = dns.name.from_text(name)
        except (dns.exception.DNSException, UnicodeError):
            return Outcome("nxdomain", reason="not a domain name")
        reason = "no answer"
        if self._slots is None:
            self._slots = asyncio.Semaphore(SOCKET_LIMIT)
        for _ in range(self._attempts):
            for server in self.nameservers:
                async with self._slots:
                    try:
                        async with asyncio.timeout(self._try_timeout):
                            return await ask_server(server, qname, rdtype, dnssec)
                    except TimeoutError:
                        reason = f"no answer from {server[0]}"
                    except OSError as error:
                        reason = f"{server[0]}: {error.strerror or error}"
                    except Unusable as error:
                        reason = f"{server[0]} answered {error}"
        return Outcome("temporary", reason=reason)


def mail_hosts(domain: str, records: Sequence[tuple[int, str]]) -> list[tuple[int, str]]:
    """What `Resolver.mx` makes of MX records. Raises `NoSuchDomain` and `NullMX`."""
    if not records:
        return [(0, domain.rstrip("."))]
    if len(records) == 1 and records[0][1] == "":
        raise NullMX(f"Domain {domain} does not accept mail (nullMX)")
    usable = [(preference, host) for preference, host in records if _HOST.match(host)]
    if not usable:
        raise NoSuchDomain(f"MX record of {domain} names no valid host")
    usable.sort(key=lambda record: record[0])
    return usable


def _literal(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _unexpected(name: str, error: BaseException) -> None:
    """A look-up that broke is a temporary failure to whoever waits for it, which says so there."""
