"""Where mail for a nexthop goes: the look-up of hosts by smtp(8) and lmtp(8), with its preferences and words.

A nexthop is `domain` (its MX hosts in order of preference; without MX records the domain itself, RFC 5321
§5.1), `[host]` (that host, no MX look-up), each with an optional `:port`. Addresses of equal preference are
shuffled and then ordered by `smtp_address_preference`; where a destination has more addresses than
`smtp_mx_address_limit`, both families keep a share (`smtp_balance_inet_protocols`). LMTP knows no MX records;
for it every nexthop is a host, or `unix:` with the path of a socket.

With `smtp_dns_support_level = dnssec` the hosts say what of their names DNSSEC has validated (`Facts`), and
where an alias led (`smtp_cname_overrides_servername`). `smtp_dns_reply_filter` is shown every record, as
`name. ttl IN type data`.

Domains that take no mail (RFC 7505) bounce, and so does mail that would come back to ourselves: exchangers
that are no better than this host are left out. Every failure is a `SiteError` in Postfix's words.
"""

from __future__ import annotations

import asyncio
import ipaddress
import random
import socket
from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple

from mailstack.config.postfix.main_cf import MainCf
from mailstack.config.postfix.master_cf import port_number
from mailstack.mta.address_maps import OpenTable
from mailstack.mta.deliver.names import Daemon, Names
from mailstack.mta.deliver.request import Bounced, Deferred
from mailstack.mta.deliver.session import Facts, Host, SiteError
from mailstack.mta.lookup import settled
from mailstack.net.log import Log
from mailstack.net.resolver import Answer, NoSuchDomain, NullMX, Resolver, ResolveTemporary, mail_hosts
from mailstack.storage.tables import open_table

SMTP_PORT = 25
LOOP = "5.4.6"
"""The status of mail that would come back."""
NATIVE_TIMEOUT = 30.0
"""Seconds for a name by the system's own means."""


class Found(NamedTuple):
    """The hosts of a destination, best first."""

    hosts: list[Host]
    mail_exchanger: bool
    """We are one of its exchangers ourselves: there is nobody else to turn to."""


class Destinations:
    """Look-ups under one configuration."""

    def __init__(
        self,
        conf: MainCf,
        resolver: Resolver,
        log: Log,
        *,
        is_own_address: Callable[[str], bool],
        shuffle: Callable[[list[str]], None] = random.shuffle,
        daemon: Daemon = "smtp",
        open_table: OpenTable = open_table,
    ) -> None:
        names = Names(conf, daemon)
        self._resolver = resolver
        self._log = log
        self._is_own_address = is_own_address
        self._shuffle = shuffle if names.bool("randomize_addresses") else lambda names: None
        self._own_name = conf.str("myhostname").lower()
        self._origin = names.origin("tcp_port")
        self._port = port_number(names.str("tcp_port"), self._origin)
        self._families = _families(conf)
        self._preferred = {"ipv4": 4, "ipv6": 6}.get(names.str("address_preference"), 0)
        self._limit = names.int("mx_address_limit")
        self._balance = names.bool("balance_inet_protocols")
        self._ignore_mx_errors = conf.bool("ignore_mx_lookup_error")
        self._defer_without_address = names.bool("defer_if_no_mx_address_found")
        self._mx, self._dns, self._native = _means(names)
        self._mx = self._mx and names.smtp
        self.dnssec = self._dns and names.str("dns_support_level") == "dnssec"
        """Names are looked up so that DNSSEC counts."""
        self._filter = names.tables("dns_reply_filter", open_table)
        self._aliases = names.bool("cname_overrides_servername")
        self._curious = self.dnssec or self._aliases or bool(self._filter)
        """Answers are looked at beyond the addresses in them."""

    async def find(self, nexthop: str) -> Found:
        """Addresses to try, in order. Raises `SiteError`."""
        if nexthop.startswith("unix:"):
            return Found([Host(self._own_name, nexthop[5:], 0)], mail_exchanger=False)
        name, port_text = split_host_port(nexthop.removeprefix("inet:"))
        try:
            port = port_number(port_text, self._origin) if port_text else self._port
        except Exception:
            raise SiteError(Deferred(f"unknown service: {port_text}", "4.3.5")) from None
        if not self._mx or nexthop.startswith(("[", "inet:")) or is_address(name):
            return Found(await self._host(name, port), mail_exchanger=False)
        return await self._exchangers(name, port)

    async def _host(self, name: str, port: int) -> list[Host]:
        hosts = await self._addresses(name, port)
        if port == SMTP_PORT and any(self._ourselves(host) for host in hosts):
            raise SiteError(Bounced(f"mail for {name} loops back to myself", LOOP))
        return self._arrange([(0, host) for host in hosts])

    async def _exchangers(self, domain: str, port: int) -> Found:
        """The hosts that take a domain's mail. Raises `SiteError`."""
        try:
            records, answer = await self._mail_hosts(domain)
        except NullMX as error:
            raise SiteError(Bounced(str(error), "5.1.0")) from None
        except NoSuchDomain:
            # Postfix asks for the address, and that look-up's failure is what is reported.
            return Found(await self._host(domain, port), mail_exchanger=False)
        except ResolveTemporary:
            if self._ignore_mx_errors:
                return Found(await self._host(domain, port), mail_exchanger=False)
            raise SiteError(
                Deferred(_name_error(domain, "MX", "Host not found, try again"), "4.4.3")
            ) from None
        if records == [(0, domain.rstrip("."))]:
            return Found(await self._host(domain, port), mail_exchanger=False)
        found: list[tuple[int, Host]] = []
        failure: SiteError | None = None
        for preference, name in records:
            try:
                found += [(preference, host) for host in await self._addresses(name, port, domain, answer)]
            except SiteError as error:
                failure = error
        if not found:
            self._log.warning(f"no MX host for {domain} has a valid address record")
            assert failure is not None  # an exchanger without an address has raised
            outcome = failure.outcome
            if self._defer_without_address and isinstance(outcome, Bounced):
                failure = SiteError(Deferred(outcome.text, "4" + outcome.dsn[1:]))
            raise failure
        return self._without_ourselves(domain, port, records[0][0], found)

    def _without_ourselves(self, domain: str, port: int, best: int, found: list[tuple[int, Host]]) -> Found:
        """Hosts that are no better than we are would send it back (RFC 5321 §5.1)."""
        ours = [preference for preference, host in found if self._ourselves(host)]
        if port != SMTP_PORT or not ours:
            return Found(self._arrange(found), mail_exchanger=False)
        better = [(preference, host) for preference, host in found if preference < min(ours)]
        if better:
            return Found(self._arrange(better), mail_exchanger=True)
        if best != min(preference for preference, _ in found):
            raise SiteError(Deferred(f"unable to find primary relay for {domain}", "4.4.4"))
        raise SiteError(Bounced(f"mail for {domain} loops back to myself", LOOP))

    def _ourselves(self, host: Host) -> bool:
        return host.name.lower() == self._own_name or self._is_own_address(host.address)

    # ---- order

    def _arrange(self, found: list[tuple[int, Host]]) -> list[Host]:
        """Best preference first; of equal ones the preferred family, else as they were shuffled."""
        hosts: list[tuple[int, int, Host]] = []
        for preference in sorted({preference for preference, _ in found}):
            # Whole hosts are shuffled first, then the addresses, so that a `shuffle` of names will do.
            places = {str(n): host for n, (p, host) in enumerate(found) if p == preference}
            order = list(places)
            self._shuffle(order)
            for place in order:
                host = places[place]
                hosts.append((preference, int(family(host.address) != self._preferred), host))
        if self._preferred:
            hosts.sort(key=lambda entry: entry[:2])
        arranged = [host for _, _, host in hosts]
        if self._balance and self._limit and len(arranged) > self._limit:
            return balanced(arranged, self._limit)
        return arranged

    # ---- addresses

    async def _addresses(
        self, name: str, port: int, domain: str = "", mx: Answer | None = None
    ) -> list[Host]:
        """The addresses that we can speak to, at least one; `domain`: whose exchanger it is, `mx`: as who
        says. Raises `SiteError`."""
        if is_address(name):
            return [Host(name, name, port)]
        failure: SiteError | None = None
        if self._dns:
            try:
                if self._curious:
                    return await self._inquire(name, port, domain, mx)
                return [Host(name, address, port) for address in await self._ask_dns(name)]
            except SiteError as error:
                failure = error
                if not self._native or error.outcome.dsn != "5.4.4":
                    raise
        soft = failure is not None and isinstance(failure.outcome, Deferred)
        return [Host(name, address, port) for address in await self._ask_system(name, soft=soft)]

    async def _mail_hosts(self, domain: str) -> tuple[list[tuple[int, str]], Answer | None]:
        """A domain's mail hosts, and where more is known the answer that they are from.

        Raises what `Resolver.mx` does, and `SiteError`.
        """
        if not self._curious:
            return await self._resolver.mx(domain), None
        answer = await self._resolver.ask(domain, "MX", dnssec=self.dnssec)
        records = await self._filtered("MX", answer)
        if answer.records and not records:
            raise _all_dropped(domain, "MX")
        return mail_hosts(domain, records), answer

    async def _inquire(self, name: str, port: int, domain: str, mx: Answer | None) -> list[Host]:
        """`_ask_dns`, with all that the answers tell."""
        asked: tuple[Literal["A", "AAAA"], ...] = ("A", "AAAA")
        kinds = [kind for kind, version in zip(asked, (4, 6), strict=True) if version in self._families]
        asking = (self._resolver.ask(name, kind, dnssec=self.dnssec) for kind in kinds)
        answers = await asyncio.gather(*asking, return_exceptions=True)
        hosts: list[Host] = []
        missing = dropped = False
        for kind, answer in zip(kinds, answers, strict=True):
            if isinstance(answer, NoSuchDomain):
                missing = True
            elif isinstance(answer, BaseException):
                if not isinstance(answer, ResolveTemporary):
                    raise answer
                raise SiteError(Deferred(_name_error(name, kind, "Host not found, try again"), "4.4.3"))
            else:
                records = await self._filtered(kind, answer)
                dropped = dropped or (bool(answer.records) and not records)
                facts = Facts(
                    name.rstrip(".").lower(),
                    answer.name,
                    answer.secure,
                    domain.rstrip(".").lower(),
                    mx.name if mx is not None else "",
                    mx is not None and mx.secure,
                )
                shown = answer.name if self._aliases else name
                hosts += [Host(shown, address, port, facts) for _, address in records]
        if not hosts and dropped:
            raise _all_dropped(name, kinds[-1])
        if not hosts:
            reason = "Host not found" if missing else "Host found but no data record of requested type"
            raise SiteError(Bounced(_name_error(name, kinds[-1], reason), "5.4.4"))
        return hosts

    async def _filtered(self, kind: str, answer: Answer) -> tuple[tuple[int, str], ...]:
        """The records that smtp_dns_reply_filter leaves. Raises `TableError`."""
        if not self._filter or not answer.records:
            return answer.records
        kept = []
        for preference, text in answer.records:
            data = f"{preference} {text}." if kind == "MX" else text
            line = f"{answer.name}. {answer.ttl} IN {kind} {data}"
            if await settled(partial(self._ignored, line)):
                self._log.info(f"ignoring DNS RR: {line}")
            else:
                kept.append((preference, text))
        return tuple(kept)

    def _ignored(self, line: str) -> bool:
        for table in self._filter:
            action = table.lookup(line)
            if action is not None:
                if action.upper() == "IGNORE":
                    return True
                self._log.warning(f"smtp_dns_reply_filter: unknown DNS filter action: {action!r}")
                return False
        return False

    async def _ask_dns(self, name: str) -> list[str]:
        kind = "AAAA" if 6 in self._families else "A"
        try:
            known = await self._resolver.addresses(name)
        except ResolveTemporary:
            raise SiteError(Deferred(_name_error(name, kind, "Host not found, try again"), "4.4.3")) from None
        except NoSuchDomain:
            raise SiteError(Bounced(_name_error(name, kind, "Host not found"), "5.4.4")) from None
        usable = [address for address in known if family(address) in self._families]
        if not usable:
            reason = "Host found but no data record of requested type"
            raise SiteError(Bounced(_name_error(name, kind, reason), "5.4.4"))
        return usable

    async def _ask_system(self, name: str, *, soft: bool) -> list[str]:
        """By getaddrinfo(3): /etc/hosts and what else nsswitch.conf names."""
        ask = partial(socket.getaddrinfo, name, None, type=socket.SOCK_STREAM)
        asking = asyncio.get_running_loop().run_in_executor(None, ask)
        done, _ = await asyncio.wait((asking,), timeout=NATIVE_TIMEOUT)
        text = f"unable to look up host {name}"
        if not done:
            asking.cancel()
            raise SiteError(Deferred(f"{text}: Temporary failure in name resolution", "4.4.3"))
        try:
            infos = asking.result()
        except socket.gaierror as error:
            reason = f"{text}: {error.strerror or error}"
            if soft or error.errno in (socket.EAI_AGAIN, socket.EAI_MEMORY, socket.EAI_SYSTEM):
                raise SiteError(Deferred(reason, "4.4.3")) from None
            raise SiteError(Bounced(reason, "5.4.4")) from None
        except UnicodeError:
            raise SiteError(Bounced(f"{text}: Name or service not known", "5.4.4")) from None
        known = list(dict.fromkeys(str(info[4][0]) for info in infos))
        usable = [address for address in known if family(address) in self._families]
        if not usable:
            raise SiteError(Bounced(f"{name}: host not found", "5.4.4"))
        return usable


def balanced(hosts: list[Host], limit: int) -> list[Host]:
    """At most `limit` hosts, their order kept, of both families where there are both."""
    newer = sum(family(host.address) == 6 for host in hosts)
    older = len(hosts) - newer
    if not newer or not older or len(hosts) <= limit:
        return hosts
    if newer <= limit // 2:
        keep = {6: newer, 4: limit - newer}
    elif older <= limit // 2:
        keep = {4: older, 6: limit - older}
    else:
        four = (limit + (family(hosts[0].address) == 4)) // 2
        keep = {4: four, 6: limit - four}
    kept: list[Host] = []
    for host in hosts:
        if keep[family(host.address)] > 0:
            keep[family(host.address)] -= 1
            kept.append(host)
    return kept


def split_host_port(text: str) -> tuple[str, str]:
    """(host without brackets, port or "") of `host`, `host:port`, `[host]`, `[host]:port`."""
    if text.startswith("["):
        host, _, rest = text[1:].partition("]")
        return host.removeprefix("ipv6:").removeprefix("IPv6:"), rest.removeprefix(":")
    if text.count(":") > 1:
        return text, ""
    host, _, port = text.partition(":")
    return host, port


def is_address(name: str) -> bool:
    """Whether a name is an address literal."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def family(address: str) -> int:
    """4 or 6."""
    return 6 if ":" in address else 4


def _all_dropped(name: str, kind: str) -> SiteError:
    reason = "DNS reply filter drops all results"
    return SiteError(Deferred(_name_error(name, kind, reason), "4.7.0"))


def _name_error(name: str, kind: str, reason: str) -> str:
    return f"Host or domain name not found. Name service error for name={name} type={kind}: {reason}"


def _families(conf: MainCf) -> frozenset[int]:
    """IP versions that are used at all."""
    protocols = conf.list("inet_protocols")
    return frozenset(v for v in (4, 6) if "all" in protocols or f"ipv{v}" in protocols)


def _means(names: Names) -> tuple[bool, bool, bool]:
    """(MX records, addresses by the DNS, by the system): smtp_host_lookup with smtp_dns_support_level.

    Raises `ConfigError`.
    """
    words = names.list("host_lookup")
    for word in words:
        if word not in ("dns", "native"):
            raise names.error("host_lookup", f"unknown host lookup method: {word}")
    level = names.str("dns_support_level")
    if level == "disabled" or (not level and names.conf.bool("disable_dns_lookups")):
        return False, False, True
    return True, "dns" in words, "native" in words or not words
