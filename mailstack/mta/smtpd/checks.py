"""The words of restriction lists that take no argument, one method each, under their own names."""

from __future__ import annotations

from ipaddress import ip_address

from mailstack.config.postfix.main_cf import MainCf
from mailstack.mta.address_maps import AddressMaps, OpenTable
from mailstack.mta.rewrite import AddressClass, Rewriter
from mailstack.mta.smtpd.networks import NetworkList, OwnAddresses
from mailstack.mta.smtpd.recipients import Recipients
from mailstack.mta.smtpd.verdicts import (
    PERMIT,
    Check,
    Client,
    Deferral,
    Rejection,
    SlowCheck,
    Subject,
    Verdict,
    rejection,
)
from mailstack.net.resolver import NoSuchDomain, NullMX, ResolveError, Resolver, ResolveTemporary
from mailstack.wire.smtp.address import split_address, valid_hostname, valid_literal
from mailstack.wire.smtp.reply import Reply

DNS_TIMEOUT = 5.0
"""Seconds for one look-up on behalf of a restriction."""


_OLD_NAMES = {
    "permit_sasl_auth": "permit_sasl_authenticated",
    "reject_invalid_hostname": "reject_invalid_helo_hostname",
    "reject_non_fqdn_hostname": "reject_non_fqdn_helo_hostname",
    "reject_unknown_address": "reject_unknown_sender_domain",
    "reject_unknown_client": "reject_unknown_client_hostname",
    "reject_unknown_hostname": "reject_unknown_helo_hostname",
    "check_recipient_maps": "reject_unlisted_recipient",
    "check_sender_maps": "reject_unlisted_sender",
}
"""Words of old main.cf files, as Postfix still takes them."""


def _ignored(word: str) -> Check:
    """A word about logins, where nobody can log in."""

    def check(client: Client) -> Verdict:
        client.warn(f"restriction `{word}' ignored: no SASL support")
        return None

    return check


class Checks:
    """The words under one configuration. Raises `ConfigError` when `mynetworks` cannot be read."""

    def __init__(
        self,
        conf: MainCf,
        rewriter: Rewriter,
        recipients: Recipients,
        resolver: Resolver,
        open_table: OpenTable,
    ) -> None:
        self._conf = conf
        self._untrusted_routing = conf.bool("allow_untrusted_routing")
        self._rewriter = rewriter
        self._recipients = recipients
        self._resolver = resolver
        self.networks = _networks(conf, "mynetworks")
        self._backup_networks = _networks(conf, "permit_mx_backup_networks")
        self._own = OwnAddresses(conf)
        self._certificates = [open_table(name) for name in conf.list("relay_clientcerts")]
        names = conf.list("smtpd_sender_login_maps")
        self._login_maps = AddressMaps(names, open_table, delimiters=rewriter.delimiters)
        self.simple: dict[str, Check] = {
            "permit": self._permit,
            "permit_mynetworks": self._permit_mynetworks,
            "permit_sasl_authenticated": self._permit_sasl_authenticated,
            "permit_inet_interfaces": self._permit_inet_interfaces,
            "permit_auth_destination": self._permit_auth_destination,
            "reject_unauth_destination": self._reject_unauth_destination,
            "defer_unauth_destination": self._defer_unauth_destination,
            "reject_non_fqdn_sender": self._reject_non_fqdn_sender,
            "reject_non_fqdn_recipient": self._reject_non_fqdn_recipient,
            "reject_non_fqdn_helo_hostname": self._reject_non_fqdn_helo_hostname,
            "reject_invalid_helo_hostname": self._reject_invalid_helo_hostname,
            "reject_unlisted_recipient": self._reject_unlisted_recipient,
            "reject_unlisted_sender": self._reject_unlisted_sender,
            "reject_plaintext_session": self._reject_plaintext_session,
            "reject_unknown_client_hostname": self._reject_unknown_client_hostname,
            "reject_unknown_reverse_client_hostname": self._reject_unknown_reverse_client_hostname,
            "permit_naked_ip_address": self._permit_naked_ip_address,
            "permit_tls_clientcerts": self._permit_tls_clientcerts,
            "permit_tls_all_clientcerts": self._permit_tls_all_clientcerts,
            "reject_sender_login_mismatch": self._reject_sender_login_mismatch,
            "reject_authenticated_sender_login_mismatch": self._reject_authenticated_sender_login_mismatch,
            "reject_known_sender_login_mismatch": self._reject_known_sender_login_mismatch,
            "reject_unauthenticated_sender_login_mismatch": self._reject_stranger_sender_login_mismatch,
        }
        """Words that answer at once."""
        if not conf.bool("smtpd_sasl_auth_enable"):
            self.simple |= {word: _ignored(word) for word in self.simple if word.endswith("login_mismatch")}
        self.slow: dict[str, SlowCheck] = {
            "reject_unknown_sender_domain": self._reject_unknown_sender_domain,
            "reject_unknown_recipient_domain": self._reject_unknown_recipient_domain,
            "reject_unknown_helo_hostname": self._reject_unknown_helo_hostname,
            "permit_mx_backup": self._permit_mx_backup,
        }
        """Words that may ask the DNS."""
        for old, new in _OLD_NAMES.items():
            if new in self.simple:
                self.simple[old] = self.simple[new]
            else:
                self.slow[old] = self.slow[new]

    # ---- words without argument

    def _permit(self, client: Client) -> Verdict:
        return PERMIT

    def _permit_mynetworks(self, client: Client) -> Verdict:
        return PERMIT if self.networks.match(client.client_address) else None

    def _permit_sasl_authenticated(self, client: Client) -> Verdict:
        return PERMIT if client.sasl_user else None

    def _permit_inet_interfaces(self, client: Client) -> Verdict:
        return PERMIT if self._own.match(client.client_address, client.server_address) else None

    def _permit_tls_all_clientcerts(self, client: Client) -> Verdict:
        return PERMIT if client.certificate is not None else None

    def _permit_tls_clientcerts(self, client: Client) -> Verdict:
        certificate = client.certificate
        if certificate is None:
            return None
        keys = (certificate.fingerprint.lower(), certificate.key_fingerprint.lower())
        known = any(table.lookup(key) is not None for table in self._certificates for key in keys)
        return PERMIT if known else None

    def _permit_naked_ip_address(self, client: Client) -> Verdict:
        try:
            ip_address(client.helo)
        except ValueError:
            return None
        return PERMIT

    def _permit_auth_destination(self, client: Client) -> Verdict:
        return PERMIT if self.authorised(client) else None

    def _reject_unauth_destination(self, client: Client) -> Verdict:
        if self.authorised(client):
            return None
        code = self._conf.int("relay_domains_reject_code")
        return rejection(code, "5.7.1", f"<{client.recipient}>: Relay access denied")

    def _defer_unauth_destination(self, client: Client) -> Verdict:
        if self.authorised(client):
            return None
        return rejection(454, "4.7.1", f"<{client.recipient}>: Relay access denied")

    def authorised(self, client: Client) -> bool:
        """Whether the recipient is ours, or of a domain we relay for, without routing through us."""
        if client.recipient is None:
            return True
        resolution = self._rewriter.resolve(self._rewriter.complete(client.recipient))
        routed = resolution.routed and not self._untrusted_routing
        return resolution.address_class is not AddressClass.REMOTE and not routed

    def _reject_non_fqdn_sender(self, client: Client) -> Verdict:
        return self._non_fqdn(client.sender, "Sender address")

    def _reject_non_fqdn_recipient(self, client: Client) -> Verdict:
        return self._non_fqdn(client.recipient, "Recipient address")

    def _non_fqdn(self, address: str | None, label: str) -> Verdict:
        if not address or (label.startswith("R") and address.lower() == "postmaster"):
            return None
        domain = split_address(address)[1]
        if domain.startswith("[") or "." in domain.strip("."):
            return None
        code = self._conf.int("non_fqdn_reject_code")
        return rejection(code, "5.5.2", f"<{address}>: {label} rejected: need fully-qualified address")

    def _reject_non_fqdn_helo_hostname(self, client: Client) -> Verdict:
        name = client.helo
        if name.startswith("["):
            return self._invalid_literal(name)
        if not name or "." in name.strip("."):
            return None
        code = self._conf.int("non_fqdn_reject_code")
        return rejection(code, "5.5.2", f"<{name}>: Helo command rejected: need fully-qualified hostname")

    def _reject_invalid_helo_hostname(self, client: Client) -> Verdict:
        name = client.helo
        if name.startswith("["):
            return self._invalid_literal(name)
        if not name or valid_hostname(name.removesuffix(".")):
            return None
        code = self._conf.int("invalid_hostname_reject_code")
        return rejection(code, "5.5.2", f"<{name}>: Helo command rejected: Invalid name")

    def _invalid_literal(self, name: str) -> Verdict:
        """What every HELO word says of an address in brackets."""
        if name.endswith("]") and valid_literal(name):
            return None
        code = self._conf.int("invalid_hostname_reject_code")
        return rejection(code, "5.5.2", f"<{name}>: Helo command rejected: invalid ip address")

    def _reject_unlisted_recipient(self, client: Client) -> Verdict:
        return self._unlisted(client.recipient, "Recipient address")

    def _reject_unlisted_sender(self, client: Client) -> Verdict:
        return self._unlisted(client.sender, "Sender address")

    def _unlisted(self, address: str | None, label: str) -> Verdict:
        if not address:
            return None
        found = self._recipients.unlisted(self._rewriter.complete(address))
        if found is None:
            return None
        enhanced = found.sender_enhanced if label.startswith("S") else found.enhanced
        return rejection(found.code, enhanced, f"<{address}>: {label} rejected: {found.text}")

    def _reject_plaintext_session(self, client: Client) -> Verdict:
        if client.secured:
            return None
        code = self._conf.int("plaintext_reject_code")
        return rejection(code, "4.7.1", "Session encryption is required")

    def multi_recipient_bounce(self, about: Subject) -> Check:
        """reject_multi_recipient_bounce for a list: at RCPT TO the recipient itself is not counted yet."""
        label, subject = about
        code = self._conf.int("multi_recipient_bounce_reject_code")

        def check(client: Client) -> Verdict:
            if client.sender != "" or client.recipient_count <= (client.where == "DATA"):
                return None
            text = f"<{subject(client)}>: {label} rejected: Multi-recipient bounce"
            return rejection(code, "5.5.3", text)

        return check

    def _reject_sender_login_mismatch(self, client: Client) -> Verdict:
        return self._reject_authenticated_sender_login_mismatch(
            client
        ) or self._reject_stranger_sender_login_mismatch(client)

    def _owners(self, client: Client) -> list[str]:
        found = self._login_maps.find(client.sender) if client.sender else None
        return found.value.replace(",", " ").lower().split() if found is not None else []

    def _reject_authenticated_sender_login_mismatch(self, client: Client) -> Verdict:
        if not client.sender or not client.sasl_user or client.sasl_user.lower() in self._owners(client):
            return None
        text = f"<{client.sender}>: Sender address rejected: not owned by user {client.sasl_user}"
        return rejection(553, "5.7.1", text)

    def _reject_known_sender_login_mismatch(self, client: Client) -> Verdict:
        return self._reject_sender_login_mismatch(client) if self._owners(client) else None

    def _reject_stranger_sender_login_mismatch(self, client: Client) -> Verdict:
        if client.sasl_user or not self._owners(client):
            return None
        return rejection(553, "5.7.1", f"<{client.sender}>: Sender address rejected: not logged in")

    def _reject_unknown_client_hostname(self, client: Client) -> Verdict:
        if client.client_name != "unknown":
            return None
        code = 450 if client.name_failed_for_now else self._conf.int("unknown_client_reject_code")
        text = f"Client host rejected: cannot find your hostname, [{client.client_address}]"
        return rejection(code, "4.7.25", text)

    def _reject_unknown_reverse_client_hostname(self, client: Client) -> Verdict:
        if client.reverse_client_name != "unknown":
            return None
        code = 450 if client.reverse_name_failed_for_now else self._conf.int("unknown_client_reject_code")
        text = f"Client host rejected: cannot find your reverse hostname, [{client.client_address}]"
        return rejection(code, "4.7.1", text)

    # ---- words that ask the DNS

    async def _reject_unknown_sender_domain(self, client: Client) -> Verdict:
        return await self._unknown_domain(client.sender, "Sender address", "4.1.8", (550, "5.7.27"))

    async def _reject_unknown_recipient_domain(self, client: Client) -> Verdict:
        return await self._unknown_domain(client.recipient, "Recipient address", "4.1.2", (556, "5.1.10"))

    async def _unknown_domain(
        self, address: str | None, label: str, enhanced: str, null_mx: tuple[int, str]
    ) -> Verdict:
        if not address:
            return None
        domain = split_address(self._rewriter.complete(address))[1].lower()
        if domain.startswith("[") or self._rewriter.address_class(domain) is not AddressClass.REMOTE:
            return None
        code = self._conf.int("unknown_address_reject_code")
        try:
            hosts = await self._resolver.mx(domain, timeout=DNS_TIMEOUT)
            # An implicit MX (the domain itself) counts only when it has an address (RFC 5321 §5.1).
            if hosts[0][1] == domain and not await self._resolver.addresses(domain, timeout=DNS_TIMEOUT):
                raise NoSuchDomain(domain)
        except NullMX:
            text = f"<{address}>: {label} rejected: Domain {domain} does not accept mail (nullMX)"
            return rejection(*null_mx, text)
        except ResolveTemporary:
            reply = Reply(450, enhanced, f"<{address}>: {label} rejected: Domain not found")
            return self._for_now("unknown_address_tempfail_action", reply)
        except NoSuchDomain:
            return rejection(code, enhanced, f"<{address}>: {label} rejected: Domain not found")
        return None

    def _for_now(self, parameter: str, reply: Reply) -> Verdict:
        """The verdict of a word whose question has got no answer: `defer` at once, or if permitted."""
        action = self._conf.str(parameter)
        return (
            Rejection(reply)
            if action.startswith("defer") and action != "defer_if_permit"
            else Deferral(reply, True)
        )

    async def _reject_unknown_helo_hostname(self, client: Client) -> Verdict:
        if client.helo.startswith("["):
            return self._invalid_literal(client.helo)
        if not client.helo:
            return None
        code = self._conf.int("unknown_hostname_reject_code")
        try:
            if await self._resolver.addresses(client.helo, timeout=DNS_TIMEOUT):
                return None
            hosts = await self._resolver.mx(client.helo, timeout=DNS_TIMEOUT)
            if hosts != [(0, client.helo.rstrip("."))]:  # an MX record will do, and a name alone will not
                return None
        except NullMX:
            return None
        except NoSuchDomain:
            pass
        except ResolveTemporary:
            reply = Reply(450, "4.7.1", f"<{client.helo}>: Helo command rejected: Host not found")
            return self._for_now("unknown_helo_hostname_tempfail_action", reply)
        return rejection(code, "4.7.1", f"<{client.helo}>: Helo command rejected: Host not found")

    async def _permit_mx_backup(self, client: Client) -> Verdict:
        """We are one of the domain's mail hosts, but not its first one (RFC 5321 §5.1)."""
        if not client.recipient:
            return None
        resolution = self._rewriter.resolve(self._rewriter.complete(client.recipient))
        domain = split_address(resolution.recipient)[1].lower()
        if (resolution.routed and not self._untrusted_routing) or domain.startswith("["):
            return None
        if resolution.address_class is not AddressClass.REMOTE:
            return PERMIT
        try:
            hosts = await self._resolver.mx(domain, timeout=DNS_TIMEOUT)
            own = False
            for preference, host in hosts:
                addresses = await self._resolver.addresses(host, timeout=DNS_TIMEOUT)
                if any(self._own.match(address, client.server_address) for address in addresses):
                    own = preference > hosts[0][0] or own
                    if preference == hosts[0][0]:
                        return None  # the first one is us: the domain should be in mydestination or the like
                elif preference == hosts[0][0] and not self._is_backup_of(addresses):
                    return None
        except ResolveTemporary as error:
            reason = str(error).rpartition(": ")[2]
            text = (
                f"<{client.recipient}>: Recipient address rejected: "
                f"Unable to look up mail exchanger information: {reason}"
            )
            return Deferral(Reply(450, "4.4.4", text), False)
        except ResolveError:
            return None
        return PERMIT if own else None

    def _is_backup_of(self, addresses: list[str]) -> bool:
        """Whether permit_mx_backup_networks, where it is set, has a primary mail host's address."""
        if not self._backup_networks:
            return True
        return any(self._backup_networks.match(address) for address in addresses)


def _networks(conf: MainCf, name: str) -> NetworkList:
    try:
        return NetworkList(conf.list(name))
    except (ValueError, OSError) as error:
        raise conf.error(name, str(error)) from None
