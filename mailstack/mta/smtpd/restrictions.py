"""Restriction lists: `smtpd_client_restrictions` and its kin, word by word (SMTPD_ACCESS_README).

A list is compiled once; an unknown word, or one that cannot be used, is a `ConfigError` that names the
parameter. Evaluated in order, the first word with an opinion decides: `PERMIT`, or the `Rejection` to send.
`warn_if_reject` makes the next word only warn. DNS words that get no answer for now defer.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum
from typing import Final, Protocol

from mailstack.config.postfix.main_cf import MainCf
from mailstack.mta.address_maps import AddressMaps, OpenTable, Table
from mailstack.mta.rewrite import AddressClass, Rewriter
from mailstack.mta.smtpd.networks import NetworkList
from mailstack.mta.smtpd.recipients import Recipients
from mailstack.net.resolver import NoSuchDomain, NullMX, Resolver, ResolveTemporary
from mailstack.wire.smtp.address import split_address, valid_hostname, valid_literal
from mailstack.wire.smtp.reply import Reply

DNS_TIMEOUT = 5.0
"""Seconds for one look-up on behalf of a restriction."""


class Phase(Enum):
    """The protocol stage a list belongs to; the value is the word for log lines."""

    CLIENT = "CONNECT"
    HELO = "HELO"
    SENDER = "MAIL"
    RELAY = "RCPT"
    RECIPIENT = "RCPT "
    DATA = "DATA"
    END_OF_DATA = "END-OF-MESSAGE"
    ETRN = "ETRN"


class Client(Protocol):
    """What a restriction may ask about the session."""

    client_name: str
    client_address: str
    helo: str
    recipient: str | None
    etrn_domain: str
    sasl_user: str

    @property
    def sender(self) -> str | None:
        """None before MAIL FROM."""
        ...

    @property
    def secured(self) -> bool: ...

    @property
    def pipelined(self) -> bool: ...

    @property
    def recipient_count(self) -> int: ...

    def warn_reject(self, reply: Reply) -> None:
        """Log what `warn_if_reject` has kept from being sent."""
        ...


class Permit(Enum):
    """The list is over, in the client's favour."""

    PERMIT = "permit"


PERMIT: Final = Permit.PERMIT


@dataclass(frozen=True, slots=True)
class Rejection:
    """The reply to send."""

    reply: Reply


Verdict = Permit | Rejection | None
Check = Callable[[Client], Verdict]
SlowCheck = Callable[[Client], Awaitable[Verdict]]


@dataclass(frozen=True, slots=True)
class _Step:
    check: Check | None = None
    slow: SlowCheck | None = None
    warn: bool = False


_SUBJECT: dict[Phase, tuple[str, Callable[[Client], str]]] = {
    Phase.CLIENT: ("Client host", lambda c: f"{c.client_name}[{c.client_address}]"),
    Phase.HELO: ("Helo command", lambda c: c.helo),
    Phase.SENDER: ("Sender address", lambda c: c.sender or ""),
    Phase.RELAY: ("Recipient address", lambda c: c.recipient or ""),
    Phase.RECIPIENT: ("Recipient address", lambda c: c.recipient or ""),
    Phase.DATA: ("Data command", lambda c: "DATA"),
    Phase.END_OF_DATA: ("End-of-data", lambda c: "END-OF-MESSAGE"),
    Phase.ETRN: ("Etrn command", lambda c: c.etrn_domain),
}


class Restrictions:
    """One compiled list."""

    __slots__ = ("_steps", "name")

    def __init__(self, name: str, steps: list[_Step]) -> None:
        self.name = name
        self._steps = tuple(steps)

    def __bool__(self) -> bool:
        return bool(self._steps)

    async def evaluate(self, client: Client) -> Verdict:
        """The first opinion, or None. Raises what a table raises."""
        for step in self._steps:
            if step.check is not None:
                verdict = step.check(client)
            else:
                assert step.slow is not None
                verdict = await step.slow(client)
            if verdict is None:
                continue
            if step.warn:
                if isinstance(verdict, Rejection):
                    client.warn_reject(verdict.reply)
                continue
            return verdict
        return None


def dsn_for(code: int, enhanced: str) -> str:
    """The enhanced code with the class of the reply code: a 5.7.1 sent as 450 is a 4.7.1."""
    return f"{code // 100}{enhanced[1:]}"


class Compiler:
    """Makes lists out of main.cf."""

    def __init__(
        self,
        conf: MainCf,
        rewriter: Rewriter,
        recipients: Recipients,
        resolver: Resolver,
        open_table: OpenTable,
    ) -> None:
        self._conf = conf
        self._rewriter = rewriter
        self._recipients = recipients
        self._resolver = resolver
        self._open_table = open_table
        try:
            self._networks = NetworkList(conf.list("mynetworks"))
        except (ValueError, OSError) as error:
            raise conf.error("mynetworks", str(error)) from None
        names = conf.list("smtpd_sender_login_maps")
        self._login_maps = AddressMaps(names, open_table, delimiters=rewriter.delimiters)
        self.networks = self._networks

    def compile(self, parameter: str, phase: Phase) -> Restrictions:
        """The list that main.cf gives as `parameter`. Raises `ConfigError`."""
        words = self._conf.list(parameter)
        steps: list[_Step] = []
        warn = False
        position = 0
        while position < len(words):
            word = words[position].lower()
            position += 1
            if word == "warn_if_reject":
                warn = True
                continue
            argument = ""
            if word in _WITH_TABLE:
                if position >= len(words):
                    raise self._conf.error(parameter, f"{word} needs a table, type:name")
                argument = words[position]
                position += 1
            step = self._step(parameter, phase, word, argument)
            steps.append(_Step(step.check, step.slow, warn))
            warn = False
        return Restrictions(parameter, steps)

    def _step(self, parameter: str, phase: Phase, word: str, argument: str) -> _Step:
        if word in _WITH_TABLE:
            return _Step(self._access(phase, word, self._open_table(argument)))
        if word in ("reject", "defer"):
            return _Step(self._generic(phase, word))
        if word == "reject_unauth_pipelining":
            return _Step(self._pipelining(phase))
        simple = getattr(self, f"_{word}", None) if word in _SIMPLE else None
        if simple is not None:
            return _Step(simple)
        if word in _SLOW:
            return _Step(slow=getattr(self, f"_{word}"))
        if ":" in word:
            raise self._conf.error(parameter, f"{word!r}: say which look-up is meant (check_…_access)")
        raise self._conf.error(parameter, f"unknown smtpd restriction: {word!r}")

    # ---- for every phase

    def _generic(self, phase: Phase, word: str) -> Check:
        label, subject = _SUBJECT[phase]
        code = self._conf.int("reject_code" if word == "reject" else "defer_code")
        enhanced, text = ("5.7.1", "Access denied") if word == "reject" else ("4.3.2", "Try again later")

        def check(client: Client) -> Verdict:
            return _rejection(code, enhanced, f"<{subject(client)}>: {label} rejected: {text}")

        return check

    def _pipelining(self, phase: Phase) -> Check:
        label, subject = _SUBJECT[phase]

        def check(client: Client) -> Verdict:
            if not client.pipelined:
                return None
            text = f"<{subject(client)}>: {label} rejected: Improper use of SMTP command pipelining"
            return _rejection(503, "5.5.0", text)

        return check

    def _access(self, phase: Phase, word: str, table: Table) -> Check:
        what = word.removeprefix("check_").removesuffix("_access")
        label, _ = _SUBJECT[_ACCESS_PHASE[what]]

        def check(client: Client) -> Verdict:
            subject, keys = self._access_keys(what, client)
            for key in keys:
                action = table.lookup(key)
                if action is not None:
                    return self._action(action, subject, label)
            return None

        return check

    def _access_keys(self, what: str, client: Client) -> tuple[str, list[str]]:
        if what == "client":
            subject = f"{client.client_name}[{client.client_address}]"
            keys = [] if client.client_name == "unknown" else _parents(client.client_name.lower())
            return subject, keys + _address_parents(client.client_address)
        if what == "helo":
            return client.helo, _parents(client.helo.lower())
        address = (client.sender if what == "sender" else client.recipient) or ""
        if not address:
            return "", ["<>"]
        lower = address.lower()
        local, domain = split_address(lower)
        return address, [lower, *_parents(domain), f"{local}@"]

    def _action(self, action: str, subject: str, label: str) -> Verdict:
        """An access(5) action. Those that change the message are not known and count as an error of ours."""
        head, _, rest = action.strip().partition(" ")
        rest = rest.strip()
        match head.upper():
            case "OK" | "PERMIT":
                return PERMIT
            case "DUNNO":
                return None
            case "REJECT":
                code = self._conf.int("access_map_reject_code")
                return _rejection(code, "5.7.1", f"<{subject}>: {label} rejected: {rest or 'Access denied'}")
            case "DEFER":
                code = self._conf.int("access_map_defer_code")
                return _rejection(code, "4.7.1", f"<{subject}>: {label} rejected: {rest or 'Access denied'}")
            case digits if digits.isdecimal() and len(digits) == 3 and digits[0] in "45":
                found = _DSN.match(rest)
                enhanced = found[1] if found else "5.7.1"
                text = rest[found.end() :] if found else rest
                return _rejection(
                    int(digits), enhanced, f"<{subject}>: {label} rejected: {text or 'Access denied'}"
                )
            case digits if digits.isdecimal():
                return PERMIT
        return Rejection(Reply(451, "4.3.5", "Server configuration error"))

    # ---- words without argument

    def _permit(self, client: Client) -> Verdict:
        return PERMIT

    def _permit_mynetworks(self, client: Client) -> Verdict:
        return PERMIT if self._networks.match(client.client_address) else None

    def _permit_sasl_authenticated(self, client: Client) -> Verdict:
        return PERMIT if client.sasl_user else None

    def _permit_inet_interfaces(self, client: Client) -> Verdict:
        own = ("127.0.0.1", "::1", *self._conf.list("inet_interfaces"))
        return PERMIT if client.client_address in own else None

    def _permit_auth_destination(self, client: Client) -> Verdict:
        return PERMIT if self._authorised(client) else None

    def _reject_unauth_destination(self, client: Client) -> Verdict:
        if self._authorised(client):
            return None
        code = self._conf.int("relay_domains_reject_code")
        return _rejection(code, "5.7.1", f"<{client.recipient}>: Relay access denied")

    def _defer_unauth_destination(self, client: Client) -> Verdict:
        if self._authorised(client):
            return None
        return _rejection(454, "4.7.1", f"<{client.recipient}>: Relay access denied")

    def _authorised(self, client: Client) -> bool:
        """Whether the recipient is ours, or of a domain we relay for, without routing through us."""
        if client.recipient is None:
            return True
        resolution = self._rewriter.resolve(self._rewriter.complete(client.recipient))
        return resolution.address_class is not AddressClass.REMOTE and not resolution.routed

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
        return _rejection(code, "5.5.2", f"<{address}>: {label} rejected: need fully-qualified address")

    def _reject_non_fqdn_helo_hostname(self, client: Client) -> Verdict:
        name = client.helo
        if not name or (name.startswith("[") and valid_literal(name)) or "." in name.strip("."):
            return None
        code = self._conf.int("non_fqdn_reject_code")
        return _rejection(code, "5.5.2", f"<{name}>: Helo command rejected: need fully-qualified hostname")

    def _reject_invalid_helo_hostname(self, client: Client) -> Verdict:
        name = client.helo
        if not name or valid_hostname(name.removesuffix(".")):
            return None
        if name.startswith("[") and name.endswith("]") and valid_literal(name):
            return None
        code = self._conf.int("invalid_hostname_reject_code")
        return _rejection(code, "5.5.2", f"<{name}>: Helo command rejected: Invalid name")

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
        enhanced = "5.1.0" if label.startswith("S") and found.enhanced == "5.1.1" else found.enhanced
        return _rejection(found.code, enhanced, f"<{address}>: {label} rejected: {found.text}")

    def _reject_plaintext_session(self, client: Client) -> Verdict:
        if client.secured:
            return None
        code = self._conf.int("plaintext_reject_code")
        return _rejection(code, "4.7.1", "Session encryption is required")

    def _reject_multi_recipient_bounce(self, client: Client) -> Verdict:
        if client.sender != "" or client.recipient_count < 2:
            return None
        code = self._conf.int("multi_recipient_bounce_reject_code")
        return _rejection(code, "5.5.3", "<DATA>: Data command rejected: Multi-recipient bounce")

    def _reject_sender_login_mismatch(self, client: Client) -> Verdict:
        return self._reject_authenticated_sender_login_mismatch(
            client
        ) or self._reject_unauthenticated_sender_login_mismatch(client)

    def _owners(self, client: Client) -> list[str]:
        found = self._login_maps.find(client.sender) if client.sender else None
        return found.value.replace(",", " ").lower().split() if found is not None else []

    def _reject_authenticated_sender_login_mismatch(self, client: Client) -> Verdict:
        if not client.sender or not client.sasl_user or client.sasl_user.lower() in self._owners(client):
            return None
        text = f"<{client.sender}>: Sender address rejected: not owned by user {client.sasl_user}"
        return _rejection(553, "5.7.1", text)

    def _reject_known_sender_login_mismatch(self, client: Client) -> Verdict:
        return self._reject_sender_login_mismatch(client) if self._owners(client) else None

    def _reject_unauthenticated_sender_login_mismatch(self, client: Client) -> Verdict:
        if client.sasl_user or not self._owners(client):
            return None
        return _rejection(553, "5.7.1", f"<{client.sender}>: Sender address rejected: not logged in")

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
            return _rejection(*null_mx, text)
        except ResolveTemporary:
            code = min(code, 450)
        except NoSuchDomain:
            pass
        else:
            return None
        return _rejection(code, enhanced, f"<{address}>: {label} rejected: Domain not found")

    async def _reject_unknown_client_hostname(self, client: Client) -> Verdict:
        if client.client_name != "unknown":
            return None
        code = self._conf.int("unknown_client_reject_code")
        text = f"Client host rejected: cannot find your hostname, [{client.client_address}]"
        return _rejection(code, "4.7.25", text)

    async def _reject_unknown_helo_hostname(self, client: Client) -> Verdict:
        if not client.helo or client.helo.startswith("["):
            return None
        code = self._conf.int("unknown_hostname_reject_code")
        try:
            if await self._resolver.addresses(client.helo, timeout=DNS_TIMEOUT):
                return None
        except NoSuchDomain:
            pass
        except ResolveTemporary:
            code = min(code, 450)
        return _rejection(code, "4.7.1", f"<{client.helo}>: Helo command rejected: Host not found")


_SIMPLE = frozenset(
    {
        "permit",
        "permit_mynetworks",
        "permit_sasl_authenticated",
        "permit_inet_interfaces",
        "permit_auth_destination",
        "reject_unauth_destination",
        "defer_unauth_destination",
        "reject_non_fqdn_sender",
        "reject_non_fqdn_recipient",
        "reject_non_fqdn_helo_hostname",
        "reject_invalid_helo_hostname",
        "reject_unlisted_recipient",
        "reject_unlisted_sender",
        "reject_plaintext_session",
        "reject_multi_recipient_bounce",
        "reject_sender_login_mismatch",
        "reject_authenticated_sender_login_mismatch",
        "reject_known_sender_login_mismatch",
        "reject_unauthenticated_sender_login_mismatch",
    }
)
_SLOW = frozenset(
    {
        "reject_unknown_sender_domain",
        "reject_unknown_recipient_domain",
        "reject_unknown_client_hostname",
        "reject_unknown_helo_hostname",
    }
)
_ACCESS_PHASE = {
    "client": Phase.CLIENT,
    "helo": Phase.HELO,
    "sender": Phase.SENDER,
    "recipient": Phase.RECIPIENT,
}
_WITH_TABLE = frozenset(f"check_{what}_access" for what in _ACCESS_PHASE)
_DSN = re.compile(r"([45]\.\d{1,3}\.\d{1,3})\s*")


def _rejection(code: int, enhanced: str, text: str) -> Rejection:
    return Rejection(Reply(code, dsn_for(code, enhanced), text))


def _parents(domain: str) -> list[str]:
    """The domain and every domain above it (smtpd_access_maps match subdomains)."""
    labels = domain.split(".")
    return [".".join(labels[i:]) for i in range(len(labels))]


def _address_parents(address: str) -> list[str]:
    """`192.0.2.1`, `192.0.2`, `192.0`, `192`; an IPv6 address by its colons."""
    separator = ":" if ":" in address else "."
    parts = address.split(separator)
    return [separator.join(parts[:i]) for i in range(len(parts), 0, -1)]
