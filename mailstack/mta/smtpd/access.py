"""Access tables: `check_client_access` and its kin, with the actions of access(5).

A table is searched with the client's name and address, the HELO name, an address, a login name or a
certificate's fingerprint (`WORDS`), or with the hosts and addresses that the DNS gives for one of them
(`SERVER_WORDS`). An action that is no keyword is a list of restrictions (`Words`).

Actions that change the message (HOLD, PREPEND, REDIRECT, BCC, DISCARD) and those that only speak (INFO,
WARN) are told to the client (`Client.change`) and decide nothing.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

from mailstack.config.postfix.main_cf import MainCf
from mailstack.mta.address_maps import Table, split_extension
from mailstack.mta.rewrite import Rewriter
from mailstack.mta.smtpd.permits import Permits
from mailstack.mta.smtpd.verdicts import (
    CONFIGURATION_ERROR,
    PERMIT,
    SUBJECT,
    Client,
    Deferral,
    Permit,
    Phase,
    Rejection,
    Subject,
    Verdict,
    dsn_for,
    fitting_dsn,
)
from mailstack.net.resolver import ResolveError, Resolver
from mailstack.wire.smtp.address import split_address
from mailstack.wire.smtp.reply import Reply

_SUBJECTS: dict[str, Subject] = {
    "client": SUBJECT[Phase.CLIENT],
    "reverse_client_hostname": ("Unverified Client host", lambda c: c.reverse_client_name),
    "helo": SUBJECT[Phase.HELO],
    "sender": SUBJECT[Phase.SENDER],
    "recipient": SUBJECT[Phase.RECIPIENT],
    "etrn": SUBJECT[Phase.ETRN],
    "sasl": ("SASL login name", lambda c: c.sasl_user),
    "ccert": ("Client certificate", lambda c: c.certificate.subject if c.certificate is not None else ""),
}
WORDS = frozenset(f"check_{what}_access" for what in _SUBJECTS)
_SERVED = ("client", "reverse_client_hostname", "helo", "sender", "recipient")
_SERVER_WORD = {f"check_{what}_{kind}_access": (what, kind) for what in _SERVED for kind in ("a", "mx", "ns")}
SERVER_WORDS = frozenset(_SERVER_WORD)
DNS_TIMEOUT = 5.0

_PATTERNS = ("regexp:", "pcre:", "cidr:")
_DSN = re.compile(r"([245]\.\d{1,3}\.\d{1,3})(?:\s+|\Z)")
_HEADER = re.compile(r"[!-9;-~]+[ \t]*:")
_NOT_AT = {
    # Behind the content the headers are written; a filter, a redirection and so on are still possible.
    "prepend": frozenset({"END-OF-MESSAGE"}),
}
_NO_MESSAGE = frozenset({"VRFY", "ETRN"})
"""Commands that a message does not come of."""


@dataclass(frozen=True, slots=True)
class Words:
    """A table's result that is a list of restrictions. `never_permit`: it may not end in a permission."""

    text: str
    table: str
    about: Subject
    """What its replies are about."""
    never_permit: str = ""
    """The word whose look-up may not permit, `""`: any may."""
    subject: str = ""


Answer = Permit | Rejection | Deferral | Words | None
SlowLookup = Callable[[Client], Awaitable[Answer]]


class AccessTables:
    """Makes look-ups out of tables."""

    def __init__(
        self, conf: MainCf, rewriter: Rewriter, resolver: Resolver, permits: Permits | None = None
    ) -> None:
        self._permits = permits
        self._reject_code = conf.int("access_map_reject_code")
        self._defer_code = conf.int("access_map_defer_code")
        self._untrusted_routing = conf.bool("allow_untrusted_routing")
        self._proxied = bool(conf.str("smtpd_proxy_filter"))
        self._null_key = conf.str("smtpd_null_access_lookup_key")
        self._parents = "smtpd_access_maps" in conf.list("parent_domain_matches_subdomains")
        self._rewriter = rewriter
        self._resolver = resolver

    # ---- words

    def check(self, word: str, table: Table, name: str, phase: Phase) -> Callable[[Client], Answer]:
        """The look-up that `word` (one of `WORDS`) makes with this table; `name` is the table's."""
        what = word.removeprefix("check_").removesuffix("_access")
        about = _SUBJECTS[what]
        never = word if what == "reverse_client_hostname" else ""
        get = table.lookup
        keys_of = self._whole_keys if name.removeprefix("proxy:").startswith(_PATTERNS) else self._keys

        def check(client: Client) -> Answer:
            subject, keys = keys_of(what, client)
            for key in keys:
                action = get(key)
                if action is not None:
                    answer = self._action(action, subject, about, client, name)
                    if answer is PERMIT and what == "recipient" and self._suspicious(client):
                        return None
                    return _guarded(
                        self._noted(answer, action, subject, about, client, name), never, subject, client
                    )
            return None

        return check

    def server_check(self, word: str, table: Table, name: str, phase: Phase) -> SlowLookup:
        """The look-up that `word` (one of `SERVER_WORDS`) makes: the hosts, then their addresses."""
        what, kind = _SERVER_WORD[word]
        about = _SUBJECTS[what]

        async def check(client: Client) -> Answer:
            subject, domain = self._server_subject(what, client)
            if not domain or domain == "unknown":
                return None
            found = await self._find_server(table, domain, kind, subject, about[0], client)
            if found is None:
                return None
            answer = self._action(found, subject, about, client, name)
            return _guarded(self._noted(answer, found, subject, about, client, name), word, subject, client)

        return check

    def policy_action(self, about: Subject, server: str) -> Callable[[Client, str], Answer]:
        """What a policy server's action means: as a table's."""

        def answer(client: Client, action: str) -> Answer:
            subject = about[1](client)
            found = self._action(action, subject, about, client, server)
            return self._noted(found, action, subject, about, client, server)

        return answer

    # ---- keys

    def _keys(self, what: str, client: Client) -> tuple[str, Iterable[str]]:
        """What a reply names, and the keys to look for, in order."""
        match what:
            case "client":
                return client.peer, [*self._domains(client.client_name), *_networks(client.client_address)]
            case "reverse_client_hostname":
                name = client.reverse_client_name
                return name, [*self._domains(name), *_networks(client.client_address)]
            case "helo":
                return client.helo, self._domains(client.helo)
            case "etrn":
                return client.etrn_domain, self._domains(client.etrn_domain)
            case "sasl":
                return client.sasl_user, [client.sasl_user.lower()] if client.sasl_user else []
            case "ccert":
                certificate = client.certificate
                if certificate is None:
                    return "", []
                keys = [certificate.fingerprint.lower(), certificate.key_fingerprint.lower()]
                return certificate.subject, keys
        address = client.sender if what == "sender" else client.recipient
        if address is None:
            return "", []
        if not address:
            return "", [self._null_key]
        return address, self._address_keys(address)

    def _whole_keys(self, what: str, client: Client) -> tuple[str, Iterable[str]]:
        """The same for a table of patterns, which sees nothing but whole names and addresses."""
        subject, keys = self._keys(what, client)
        if what in ("client", "reverse_client_hostname"):
            name = client.client_name if what == "client" else client.reverse_client_name
            return subject, [name.lower(), client.client_address]
        first = next(iter(keys), None)
        return subject, [] if first is None else [first]

    def _address_keys(self, address: str) -> Iterable[str]:
        """user+ext@domain, user@domain, the domain and those above it, user+ext@, user@."""
        local, domain = split_address(self._rewriter.complete(address).lower())
        bare, extension = split_extension(local, self._rewriter.delimiters)
        yield f"{local}@{domain}"
        if extension:
            yield f"{bare}@{domain}"
        yield from self._domains(domain)
        yield f"{local}@"
        if extension:
            yield f"{bare}@"

    def _domains(self, name: str) -> Iterable[str]:
        """The name and every name above it; with a dot in front where smtpd_access_maps says so."""
        name = name.lower().rstrip(".")
        if not name:
            return
        yield name
        if name[-1].isdigit() and _is_address(name):
            return
        labels = name.split(".")
        dot = "" if self._parents else "."
        for i in range(1, len(labels)):
            yield dot + ".".join(labels[i:])

    def _suspicious(self, client: Client) -> bool:
        """A recipient that is routed through us is not permitted by its name."""
        if not client.recipient or self._untrusted_routing:
            return False
        return self._rewriter.resolve(self._rewriter.complete(client.recipient)).routed

    # ---- servers

    def _server_subject(self, what: str, client: Client) -> tuple[str, str]:
        """What a reply names, and the domain whose servers are looked up; `""`: none."""
        match what:
            case "client":
                return client.peer, client.client_name
            case "reverse_client_hostname":
                return client.reverse_client_name, client.reverse_client_name
            case "helo":
                return client.helo, client.helo
        address = (client.sender if what == "sender" else client.recipient) or ""
        return address, split_address(self._rewriter.complete(address))[1] if address else ""

    async def _find_server(
        self, table: Table, domain: str, kind: str, subject: str, label: str, client: Client
    ) -> str | None:
        """The table's value for the first host or address that it knows."""
        domain = domain.lower()
        if domain.startswith("["):
            if kind == "ns" or not domain.endswith("]"):
                return None
            literal = domain[1:-1].removeprefix("ipv6:")
            return _first(table, _networks(literal)) if _is_address(literal) else None
        if _is_address(domain):
            return _first(table, _networks(domain)) if kind != "ns" else None
        try:
            hosts = await self._hosts(domain, kind)
        except ResolveError as error:
            client.warn(f"Unable to look up {kind.upper()} host for {domain}: {_reason(error)}")
            return None
        for host in hosts:
            found = _first(table, self._domains(host))
            if found is not None:
                return found
            try:
                addresses = await self._resolver.addresses(host, timeout=DNS_TIMEOUT)
            except ResolveError as error:
                client.warn(
                    f"Unable to look up {kind.upper()} host {host} for {label} {subject}: {_reason(error)}"
                )
                continue
            for address in addresses:
                found = _first(table, _networks(address))
                if found is not None:
                    return found
        return None

    async def _hosts(self, domain: str, kind: str) -> list[str]:
        """Mail hosts, name servers (of the closest domain above that has some), or the name itself."""
        if kind == "a":
            return [domain]
        if kind == "mx":
            return [host for _, host in await self._resolver.mx(domain, timeout=DNS_TIMEOUT)]
        while True:
            servers = await self._resolver.name_servers(domain, timeout=DNS_TIMEOUT)
            above = domain.partition(".")[2]
            if servers or not above:
                return servers
            domain = above

    # ---- actions

    def _noted(
        self, answer: Answer, action: str, subject: str, about: Subject, client: Client, table: str
    ) -> Answer:
        """The answer; where it permits, and that is to be logged, it is."""
        if answer is PERMIT and self._permits is not None and action.strip():
            self._permits.note(client, action.split(None, 1)[0], about[0], subject, table)
        return answer

    def _action(self, value: str, subject: str, about: Subject, client: Client, table: str) -> Answer:
        """An access(5) action."""
        label = about[0]
        value = value.strip()
        head, _, rest = value.partition(" ")
        rest = rest.strip()
        named = f"<{subject}>: {label}"
        match head.upper():
            case "OK" | "RELAY":
                return PERMIT
            case "DUNNO":
                return None
            case "REJECT":
                return _refusal(self._reject_code, "5.7.1", rest, named, "Access denied", label)
            case "DEFER":
                return _refusal(self._defer_code, "4.7.1", rest, named, "Access denied", label)
            case "DEFER_IF_PERMIT" | "DEFER_IF_REJECT" as word:
                found = _refusal(self._defer_code, "4.7.1", rest, named, "Service unavailable", label)
                return Deferral(found.reply, word == "DEFER_IF_PERMIT")
            case "INFO" | "WARN" as word:
                client.change(word.lower(), "", rest or f"{named} triggers {word} action")
                return None
            case "FILTER" | "HOLD" | "REDIRECT" | "BCC" | "DISCARD" as word if self._proxied:
                client.warn(
                    f"access table {table}: with smtpd_proxy_filter specified, action {word} is unavailable"
                )
                return None
            case "FILTER" | "HOLD" | "PREPEND" | "REDIRECT" | "BCC" | "DISCARD" as word:
                return self._change(word, rest, named, client, table, value)
        if value.isdecimal():
            return PERMIT
        if len(head) == 3 and head.isdecimal() and head[0] in "45":
            return _refusal(int(head), f"{head[0]}.7.1", rest, named, "Access denied", label)
        if not value:
            client.warn(f"access table {table} entry {value} has empty value")
            return PERMIT
        return Words(value, table, about, subject=subject)

    def _change(self, word: str, rest: str, named: str, client: Client, table: str, value: str) -> Answer:
        """Do something to the message."""
        action = word.lower()
        where = client.where
        if where in _NO_MESSAGE:
            client.warn(f"access table {table}: action {word} is always skipped in VRFY or ETRN restrictions")
            return None
        if where in _NOT_AT.get(action, ()):
            client.warn(f"access table {table}: action {word} must be used before {where}")
            return None
        wrong = ""
        if action == "filter" and (":" not in rest or rest.startswith(":")):
            wrong = "requires transport:destination" if rest else "has FILTER entry without value"
        elif action in ("redirect", "bcc") and "@" not in rest:
            wrong = "requires user@domain target"
        elif action == "prepend" and not _HEADER.match(rest):
            wrong = "requires header: text"
        if wrong:
            client.warn(f'access table {table} entry "{value}" {wrong}')
            return None
        said = (
            {
                "filter": f"triggers FILTER {rest}",
                "redirect": f"triggers REDIRECT {rest}",
                "bcc": f"triggers BCC {rest}",
                "prepend": f"triggers PREPEND {rest}",
            }.get(action)
            or rest
            or f"triggers {word} action"
        )
        client.change(action, rest, f"{named} {said}")
        return PERMIT if action == "discard" else None


def forbid(client: Client, words: Words) -> Verdict:
    """The answer to a permission that a look-up by foreign data may not give."""
    return _forbid(client, words.never_permit, words.subject)


def _forbid(client: Client, word: str, subject: str) -> Rejection:
    client.warn(f"restriction {word} returns OK for {subject}")
    client.warn("this is not allowed for security reasons")
    client.warn("use DUNNO instead of OK if you want to make an exception")
    return CONFIGURATION_ERROR


def _guarded(answer: Answer, never: str, subject: str, client: Client) -> Answer:
    if not never:
        return answer
    if answer is PERMIT and not client.discarding:
        return _forbid(client, never, subject)
    if isinstance(answer, Words):
        return Words(answer.text, answer.table, answer.about, never, subject)
    return answer


def _refusal(code: int, enhanced: str, rest: str, named: str, default: str, label: str) -> Rejection:
    """The reply of REJECT, DEFER or a code; `rest` may begin with an enhanced status code."""
    found = _DSN.match(rest)
    if found is not None:
        enhanced, rest = found[1], rest[found.end() :]
    enhanced = dsn_for(code, fitting_dsn(enhanced, label))
    return Rejection(Reply(code, enhanced, f"{named} rejected: {rest or default}"))


def _first(table: Table, keys: Iterable[str]) -> str | None:
    return next((value for key in keys if (value := table.lookup(key)) is not None), None)


def _networks(address: str) -> Iterable[str]:
    """`192.0.2.1`, `192.0.2`, `192.0`, `192`; an IPv6 address by its colons."""
    separator = ":" if ":" in address else "."
    parts = address.split(separator)
    for length in range(len(parts), 0, -1):
        yield separator.join(parts[:length])


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _reason(error: ResolveError) -> str:
    return str(error).rpartition(": ")[2]
