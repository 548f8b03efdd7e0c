"""BIND's files: named.conf, the list of zones, a zone file per domain, and the reverse zone."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

from mailstack.render import templates
from mailstack.render.records import domain_groups
from mailstack.render.site import Listener, Site
from mailstack.render.tree import File, Serials, with_serial
from mailstack.spec.model import Stack

UPDATE_KEY = "mailstack"
"""The name of the key that `mailstack dns set` changes the running zones with."""
NEGATIVE_TTL = 3 * 3600
"""Longest time, in seconds, that "no such name" may be kept (RFC 2308 §4)."""


def files(stack: Stack, site: Site) -> tuple[list[tuple[str, File]], Serials]:
    """Path and content of everything below bind/, and the zones' serials to remember."""
    reverse = reverse_zone(site.network)
    names = {"project": stack.project}
    # named would write what changes into the zone files: it gets zones that nobody changes but mailstack.
    native = stack.dns.engine == "bind" and site.dns_directory is not None
    changeable = None if native else site.dns_directory
    named = templates.text(
        "bind/named.conf",
        directory=site.config_root / "bind",
        listeners=site.listening("dns"),
        forwarders=[_forwarder(text) for text in stack.dns.forward],
        recursion=[str(site.network), *(net for net in stack.mta.networks if ":" not in net)],
        zones_file=site.config_root / "bind" / "named.rfc1912.zones",
        key_file=site.config_root / "bind" / "update.key" if changeable is not None else None,
        native=native,
        signed=stack.dns.dnssec,
        writable=site.dns_directory,
        **names,
    )
    zones = templates.text(
        "bind/named.rfc1912.zones",
        zones=[*stack.domains, reverse],
        writable=changeable,
        keys=site.dns_directory,
        key=UPDATE_KEY,
        signed=stack.dns.dnssec,
        **names,
    )
    result = [("bind/named.conf", File(named.encode())), ("bind/named.rfc1912.zones", File(zones.encode()))]
    if changeable is not None:
        key = templates.text("bind/update.key", key=UPDATE_KEY, secret=site.update_secret, **names)
        result.append(("bind/update.key", File(key.encode(), 0o600)))
    if site.facts.faults is not None:
        result.append(("bind/faults.conf", File(site.facts.faults.encode())))
    serials: dict[str, tuple[int, str]] = {}
    for name in stack.domains:
        write = _DomainZone(stack, site, name).text
        text, serials[name] = with_serial(name, write, site.serials, site.today, site.served.get(name))
        result.append((f"bind/zones/{name}.zone", File(text.encode())))
    write = _ReverseZone(stack, site, reverse).text
    text, serials[reverse] = with_serial(reverse, write, site.serials, site.today, site.served.get(reverse))
    result.append((f"bind/zones/{reverse}.zone", File(text.encode())))
    return result, serials


def reverse_zone(network: IPv4Network) -> str:
    """The in-addr.arpa zone of the /24 that `network` lies in (RFC 1035 §3.5)."""
    first, second, third, _ = str(network.network_address).split(".")
    return f"{third}.{second}.{first}.in-addr.arpa"


def _forwarder(text: str) -> Listener:
    host, _, port = text.rpartition(":")
    return Listener(host.strip("[]"), int(port))


class _DomainZone:
    """A domain's zone file, but for its serial."""

    def __init__(self, stack: Stack, site: Site, name: str) -> None:
        self.context = {
            "project": stack.project,
            "zone": name,
            "ttl": stack.dns.ttl,
            "negative": min(stack.dns.ttl, NEGATIVE_TTL),
            "server": f"dns.{name}",
            "contact": f"postmaster.{name}",
            "groups": [(group.title, group.records) for group in domain_groups(stack, site, name)],
            "generate": [],
            "prefix": _prefix(site.network),
        }
        if name == stack.primary and names_hosts(stack, site):
            self.context["generate"] = ranges(site.network, set(pointers(stack, site)))

    def text(self, serial: int) -> str:
        """The file's text with that serial."""
        return templates.text("bind/zones/domain.zone", serial=serial, **self.context)


class _ReverseZone:
    """The reverse zone's file, but for its serial."""

    def __init__(self, stack: Stack, site: Site, zone: str) -> None:
        known = pointers(stack, site)
        self.context = {
            "project": stack.project,
            "zone": zone,
            "network": str(site.network),
            "ttl": stack.dns.ttl,
            "negative": min(stack.dns.ttl, NEGATIVE_TTL),
            "server": f"dns.{stack.primary}",
            "contact": f"postmaster.{stack.primary}",
            "domain": stack.primary,
            "pointers": sorted((int(address) & 0xFF, name) for address, name in known.items()),
            "generate": [] if site.kind == "host" else ranges(site.network, set(known)),
        }

    def text(self, serial: int) -> str:
        """The file's text with that serial."""
        return templates.text("bind/zones/reverse.zone", serial=serial, **self.context)


def names_hosts(stack: Stack, site: Site) -> bool:
    """Whether the first domain's zone names every address of the stack's own network.

    Not on an administrator's machine, and not in a zone that publishes a public address: the world has no use
    for private ones.
    """
    return site.kind != "host" and stack.domains[stack.primary].address is None


def pointers(stack: Stack, site: Site) -> dict[IPv4Address, str]:
    """The services' addresses in the stack's network, and the name of each; the MTA's name wins."""
    name = stack.primary
    hostname = stack.domains[name].hostname
    reader = next((word for word in ("imap", "pop3") if word in stack.mailbox.protocols), "imap")
    where = site.addresses
    known = {where.dns: f"dns.{name}", where.mailbox: f"{reader}.{name}", where.mta: hostname}
    return {address: host for address, host in known.items() if address in site.network}


def ranges(network: IPv4Network, named: set[IPv4Address]) -> list[tuple[int, int]]:
    """The last octets of the host addresses that have no name of their own, as runs for `$GENERATE`."""
    free = [int(address) & 0xFF for address in network.hosts() if address not in named]
    runs: list[tuple[int, int]] = []
    for octet in free:
        if runs and runs[-1][1] == octet - 1:
            runs[-1] = (runs[-1][0], octet)
        else:
            runs.append((octet, octet))
    return runs


def _prefix(network: IPv4Network) -> str:
    return str(network.network_address).rpartition(".")[0]
