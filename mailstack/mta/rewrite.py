"""Complete addresses and say where they go, as trivial-rewrite(8) does.

`complete` makes an address of the envelope canonical: `user` gets `@$myorigin`, `site!user` becomes
`user@site`, `user%domain` becomes `user@domain`, a trailing dot goes, a domain outside ASCII that is not
listed as it stands gets A-labels. `resolve` strips what routes through us
(`user%domain@us`), finds the address class of what is left and picks transport and nexthop, with
`transport_maps` and `relayhost` where they apply.

Deliberately not done here: recipients are not looked up (`smtpd.recipients`), MX hosts are not either (smtp).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from ipaddress import ip_address

from mailstack.config.postfix.main_cf import MainCf
from mailstack.mta.address_maps import AddressMaps, DomainList, OpenTable
from mailstack.wire.smtp.address import a_labels, split_address

_ROUTING = frozenset("@%!")


class AddressClass(Enum):
    """What a recipient's domain is to us (ADDRESS_CLASS_README)."""

    LOCAL = "local"
    ALIAS = "virtual alias"
    VIRTUAL = "virtual mailbox"
    RELAY = "relay"
    REMOTE = "default"


@dataclass(frozen=True, slots=True)
class Resolution:
    """Where an address goes.

    `transport` names a master.cf service, `nexthop` is what it is told (a domain, `[host]:port`,
    `inet:host:port`…). For the transport `error` the nexthop is a status code and a text. `routed`: the local
    part still holds routing characters after ours has been stripped.
    """

    transport: str
    nexthop: str
    recipient: str
    address_class: AddressClass
    routed: bool = False


class Rewriter:
    """Rewriting under one configuration."""

    def __init__(self, conf: MainCf, open_table: OpenTable) -> None:
        self._origin = conf.str("myorigin").lower()
        self._mydomain = conf.str("mydomain").lower()
        self._append_at = conf.bool("append_at_myorigin")
        self._append_dot = conf.bool("append_dot_mydomain")
        self._bang = conf.bool("swap_bangpath")
        self._percent = conf.bool("allow_percent_hack")
        self._dequote = conf.bool("resolve_dequoted_address")
        self.delimiters = conf.str("recipient_delimiter")
        parents = conf.list("parent_domain_matches_subdomains")
        self.mydestination = DomainList(conf.list("mydestination"), open_table)
        self.alias_domains = DomainList(conf.list("virtual_alias_domains"), open_table)
        self.virtual_domains = DomainList(conf.list("virtual_mailbox_domains"), open_table)
        self.relay_domains = DomainList(
            conf.list("relay_domains"), open_table, parents="relay_domains" in parents
        )
        self._literals = _own_literals(conf)
        self._transports = AddressMaps(conf.list("transport_maps"), open_table, delimiters=self.delimiters)
        self._transport_parents = "transport_maps" not in parents
        self.relocated = AddressMaps(
            conf.list("relocated_maps"), open_table, delimiters=self.delimiters, is_local=self.is_local
        )
        self._default = {
            AddressClass.LOCAL: _split_transport(conf.str("local_transport")),
            AddressClass.VIRTUAL: _split_transport(conf.str("virtual_transport")),
            AddressClass.RELAY: _split_transport(conf.str("relay_transport")),
            AddressClass.REMOTE: _split_transport(conf.str("default_transport")),
        }
        self._relayhost = conf.str("relayhost").strip()

    # ---- rewriting

    def complete(self, address: str) -> str:
        """The canonical form of an address in internal form; `""` stays what it is."""
        if not address:
            return ""
        local, domain = split_address(address)
        if not domain:
            local, domain = self._complete_local(local)
        domain = domain.removesuffix(".")
        if self._append_dot and domain and "." not in domain and domain[0] != "[":
            domain = f"{domain}.{self._mydomain}"
        if not domain.isascii() and self.address_class(domain.lower()) is AddressClass.REMOTE:
            # What is rendered, and the DNS, has A-labels; Postfix would not see that the two are one domain.
            domain = a_labels(domain)
        return f"{local}@{domain}" if domain else local

    def _complete_local(self, local: str) -> tuple[str, str]:
        if self._bang and "!" in local.strip("!"):
            site, _, user = local.partition("!")
            if site and user:
                return user, site
        if self._percent and "%" in local.strip("%"):
            user, _, domain = local.rpartition("%")
            if user and domain:
                return user, domain
        return local, self._origin if self._append_at else ""

    # ---- resolving

    def is_local(self, domain: str) -> bool:
        """Whether $local_transport delivers `domain` (lower case): mydestination, or our own address."""
        if domain.startswith("["):
            return domain.lower() in self._literals
        return self.mydestination.match(domain)

    def address_class(self, domain: str) -> AddressClass:
        """The class of a domain (lower case)."""
        if self.is_local(domain):
            return AddressClass.LOCAL
        if self.alias_domains.match(domain):
            return AddressClass.ALIAS
        if self.virtual_domains.match(domain):
            return AddressClass.VIRTUAL
        if self.relay_domains.match(domain):
            return AddressClass.RELAY
        return AddressClass.REMOTE

    def resolve(self, address: str) -> Resolution:
        """Where a completed address goes."""
        local, domain = self._strip(address)
        lower = domain.lower()
        recipient = f"{local}@{domain}" if domain else local
        kind = self.address_class(lower) if lower else AddressClass.LOCAL
        routed = not _ROUTING.isdisjoint(local)
        if kind is AddressClass.ALIAS:
            return Resolution("error", "5.1.1 User unknown in virtual alias table", recipient, kind, routed)
        moved = self.relocated.find(recipient) if self.relocated else None
        if moved is not None:
            return Resolution("error", f"5.1.6 User has moved to {moved.value}", recipient, kind, routed)
        transport, nexthop = self._default[kind]
        nexthop = nexthop or lower
        if kind is AddressClass.REMOTE and self._relayhost and not self._default[kind][1]:
            nexthop = self._relayhost
        if self._transports:
            transport, nexthop = self._mapped(recipient, lower, transport, nexthop)
        return Resolution(transport, nexthop, recipient, kind, routed)

    def _strip(self, address: str) -> tuple[str, str]:
        """Take off our own domain as long as the local part names another one behind it."""
        local, domain = split_address(address)
        for _ in range(20):
            if not domain or not self.is_local(domain.lower()):
                break
            if self._dequote and "@" in local:
                inner, _, next_domain = local.rpartition("@")
            elif self._percent and "%" in local:
                inner, _, next_domain = local.rpartition("%")
            elif self._bang and "!" in local:
                next_domain, _, inner = local.partition("!")
            else:
                break
            if not inner or not next_domain:
                break
            local, domain = inner, next_domain
        return local, domain

    def _mapped(self, recipient: str, domain: str, transport: str, nexthop: str) -> tuple[str, str]:
        """What transport_maps makes of them (transport(5))."""
        found = self._transports.find(recipient)
        value = found.value if found is not None else None
        if value is None:
            value = self._transports.get(domain)
        parent = domain
        while value is None and "." in parent:
            parent = parent.partition(".")[2]
            value = self._transports.get(f".{parent}" if self._transport_parents else parent)
        if value is None:
            value = self._transports.get("*")
        if value is None or value.strip() in ("", ":"):
            return transport, nexthop
        named, hop = _split_transport(value.strip())
        if named:
            return named, hop or domain
        return transport, hop or nexthop


def _split_transport(value: str) -> tuple[str, str]:
    transport, _, nexthop = value.partition(":")
    return transport.strip(), nexthop.strip()


def _own_literals(conf: MainCf) -> frozenset[str]:
    """`[192.0.2.1]` for each of our addresses, as mail may name them (RFC 5321 §4.1.3)."""
    addresses = {"127.0.0.1", "::1"}
    addresses.update(conf.list("inet_interfaces"), conf.list("proxy_interfaces"))
    literals = set()
    for text in addresses:
        try:
            address = ip_address(text.strip("[]"))
        except ValueError:
            continue
        literals.add(f"[{address}]" if address.version == 4 else f"[ipv6:{address}]")
    return frozenset(literals)
