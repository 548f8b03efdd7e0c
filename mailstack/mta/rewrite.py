"""Complete addresses and say where they go, as trivial-rewrite(8) does.

`complete` makes an address of the envelope canonical: `user` gets `@$myorigin`, `site!user` becomes
`user@site`, `user%domain` becomes `user@domain`, a trailing dot goes, a domain outside ASCII that is not
listed as it stands gets A-labels. `resolve` strips what routes through us
(`user%domain@us`), finds the address class of what is left and picks transport and nexthop, with
`transport_maps`, `relayhost` and what depends on the sender where they apply.

Deliberately not done here: recipients are not looked up (`smtpd.recipients`), MX hosts are not either (smtp).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from ipaddress import ip_address

from mailstack.config.postfix.interfaces import own_interfaces
from mailstack.config.postfix.main_cf import MainCf
from mailstack.mta.address_maps import AddressMaps, DomainList, OpenTable, split_extension
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
        self._origin = conf.str("myorigin")
        self._own = self._origin.lower()
        self._mydomain = conf.str("mydomain")
        self._myhostname = conf.str("myhostname")
        self._null_name = conf.str("empty_address_recipient")
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
            conf.list("relocated_maps"), open_table, delimiters=self.delimiters, is_local=self.is_own
        )
        table_name = conf.bool("show_user_unknown_table_name")
        self.no_alias = f"5.1.1 User unknown{' in virtual alias table' if table_name else ''}"
        self._sender_relays = self._by_sender(
            conf, open_table, "sender_dependent_relayhost_maps", "empty_address_relayhost_maps_lookup_key"
        )
        self._sender_transports = self._by_sender(
            conf,
            open_table,
            "sender_dependent_default_transport_maps",
            "empty_address_default_transport_maps_lookup_key",
        )
        self._default = {
            AddressClass.LOCAL: _split_transport(conf.str("local_transport")),
            AddressClass.VIRTUAL: _split_transport(conf.str("virtual_transport")),
            AddressClass.RELAY: _split_transport(conf.str("relay_transport")),
            AddressClass.REMOTE: _split_transport(conf.str("default_transport")),
        }
        self._relayhost = conf.str("relayhost").strip()

    def _by_sender(
        self, conf: MainCf, open_table: OpenTable, parameter: str, null_key: str
    ) -> tuple[AddressMaps, str] | None:
        """The maps of a parameter and the key for `<>` that another one gives; None where there are none."""
        names = conf.list(parameter)
        if not names:
            return None
        maps = AddressMaps(names, open_table, delimiters=self.delimiters, is_local=self.is_own)
        return maps, conf.str(null_key)

    # ---- rewriting

    def complete(self, address: str) -> str:
        """The canonical form of an address in internal form; `""` stays what it is."""
        return self._completed(address, self._origin, self._mydomain)

    def complete_in(self, address: str, domain: str) -> str:
        """The same with another domain in place of $myorigin and $mydomain (remote_header_rewrite_domain)."""
        return self._completed(address, domain, domain)

    def _completed(self, address: str, origin: str, mydomain: str) -> str:
        if not address or address == "@":
            return ""
        if address[0] == "@" and ":" in address[:-1]:
            address = address.partition(":")[2]
        local, domain = split_address(address)
        if not domain:
            if address[-1] == "@":
                return address
            local, domain = self._complete_local(local, origin)
        if self._append_dot and mydomain and domain and "." not in domain and domain[0] != "[":
            domain = f"{domain}.{mydomain}"
        elif domain[-1:] == "." and domain[-2:] not in ("..", "."):
            domain = domain[:-1]
        if not domain.isascii() and self.address_class(domain.lower()) is AddressClass.REMOTE:
            # What is rendered, and the DNS, has A-labels; Postfix would not see that the two are one domain.
            domain = a_labels(domain)
        return f"{local}@{domain}" if domain else local

    def _complete_local(self, local: str, origin: str) -> tuple[str, str]:
        if self._bang and "!" in local.strip("!"):
            site, _, user = local.partition("!")
            if site and user:
                return user, site
        if self._percent and "%" in local.strip("%"):
            user, _, domain = local.rpartition("%")
            if user and domain:
                return user, domain
        return local, origin if self._append_at else ""

    # ---- resolving

    def is_local(self, domain: str) -> bool:
        """Whether $local_transport delivers `domain` (lower case): mydestination, or our own address."""
        if domain.startswith("["):
            return domain.lower() in self._literals
        return self.mydestination.match(domain)

    def is_own(self, domain: str) -> bool:
        """Whether tables may name the users of `domain` (lower case) without it."""
        return domain == self._own or self.is_local(domain)

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

    def resolve(self, address: str, sender: str | None = None) -> Resolution:
        """Where a completed address goes; `sender` (completed) where that may depend on it."""
        local, domain = self._strip(address)
        local = local or self._null_name
        lower = domain.lower()
        recipient = f"{local}@{domain or self._myhostname}"
        kind = self.address_class(lower) if lower else AddressClass.LOCAL
        routed = not _ROUTING.isdisjoint(local)
        if kind is AddressClass.ALIAS:
            transport, nexthop = "error", self.no_alias
        else:
            transport, nexthop = self._default[kind]
            if kind is AddressClass.REMOTE or kind is AddressClass.RELAY:
                if self._sender_transports is not None and kind is AddressClass.REMOTE:
                    transport, nexthop = _split_transport(
                        self._for_sender(self._sender_transports, sender) or f"{transport}:{nexthop}"
                    )
                nexthop = nexthop or self._relay(sender)
            nexthop = nexthop or lower or self._myhostname
            if self._transports:
                transport, nexthop = self._mapped(recipient, lower, transport, nexthop)
        if self.relocated:
            moved = self.relocated.find(recipient)
            if moved is not None:
                transport, nexthop = "error", f"5.1.6 User has moved to {moved.value}"
        return Resolution(transport, nexthop, recipient, kind, routed)

    def _relay(self, sender: str | None) -> str:
        """The relay host of mail for others: its sender's, or everybody's."""
        if self._sender_relays is not None:
            return self._for_sender(self._sender_relays, sender) or self._relayhost
        return self._relayhost

    @staticmethod
    def _for_sender(table: tuple[AddressMaps, str], sender: str | None) -> str:
        """What is said of a sender; `""` where that is nothing, or DUNNO."""
        if sender is None:
            return ""
        maps, null_key = table
        found = maps.find(sender or null_key)
        value = found.value.strip() if found is not None else ""
        return "" if value.upper() == "DUNNO" else value

    def _strip(self, address: str) -> tuple[str, str]:
        """Take off our own domain as long as the local part names another one behind it."""
        local, domain = split_address(address)
        for _ in range(20):
            if not domain or not self.is_local(domain.lower()):
                break
            if self._dequote and "@" in local:
                inner, _, next_domain = local.rpartition("@")
            elif self._bang and "!" in local:
                next_domain, _, inner = local.partition("!")
            elif self._percent and "%" in local:
                inner, _, next_domain = local.rpartition("%")
            else:
                break
            if not inner or not next_domain:
                break
            local, domain = inner, next_domain
        return local, domain

    def _mapped(self, recipient: str, domain: str, transport: str, nexthop: str) -> tuple[str, str]:
        """What transport_maps makes of them (transport(5))."""
        value = self._transport_value(recipient, domain)
        if value is None or value.strip() in ("", ":"):
            return transport, nexthop
        named, hop = _split_transport(value.strip())
        if named:
            return named, hop or (domain if named != "error" else "Address is undeliverable")
        return transport, hop or nexthop

    def _transport_value(self, recipient: str, domain: str) -> str | None:
        """user+ext@domain, user@domain, domain, its parents, `*`; patterns see the whole address only."""
        tables = self._transports
        local = recipient.rpartition("@")[0].lower()
        value = tables.get(f"{local}@{domain}", whole=True)
        user, extension = split_extension(local, self.delimiters)
        if value is None and extension:
            value = tables.get(f"{user}@{domain}")
        if value is None:
            value = tables.get(domain)
        parent = domain
        while value is None and "." in parent and parent[0] != "[":
            parent = parent.partition(".")[2]
            value = tables.get(f".{parent}" if self._transport_parents else parent)
        return tables.get("*") if value is None else value


def _split_transport(value: str) -> tuple[str, str]:
    transport, _, nexthop = value.partition(":")
    return transport.strip(), nexthop.strip()


def _own_literals(conf: MainCf) -> frozenset[str]:
    """`[192.0.2.1]` for each of our addresses, as mail may name them (RFC 5321 §4.1.3)."""
    protocols = conf.list("inet_protocols")
    addresses = {"127.0.0.1"}
    if "all" in protocols or "ipv6" in protocols:
        addresses.add("::1")
    addresses.update(conf.list("inet_interfaces"), conf.list("proxy_interfaces"))
    if "all" in conf.list("inet_interfaces"):
        addresses.update(str(own.ip) for own in own_interfaces(["all"], protocols))
    literals = set()
    for text in addresses:
        try:
            address = ip_address(text.strip("[]"))
        except ValueError:
            continue
        literals.add(f"[{address}]" if address.version == 4 else f"[ipv6:{address}]")
    return frozenset(literals)
