"""DNS block and allow lists: reject_rbl_client, reject_rhsbl_…, permit_dnswl_client, permit_rhswl_client.

A list is asked for `4.3.2.1.list.example` or `name.list.example` (RFC 5782 §2.1, §3.1; IPv6: nibbles, §2.4).
`list.example=127.0.0.[2..4;10]` takes only answers that match. What a refused client is told comes from
`rbl_reply_maps` or `default_rbl_reply`. A list that does not answer blocks nobody: that is logged, and a
client that an allow list may have permitted is deferred where it would be rejected.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable

from mailstack.config.errors import ConfigError
from mailstack.config.postfix.main_cf import MainCf
from mailstack.mta.address_maps import AddressMaps, OpenTable
from mailstack.mta.smtpd.templates import fill, session_names, unfit
from mailstack.mta.smtpd.verdicts import (
    PERMIT,
    Client,
    Deferral,
    Rejection,
    SlowCheck,
    Verdict,
    dsn_for,
    fitting_dsn,
)
from mailstack.net.resolver import ResolveError, Resolver, ResolveTemporary
from mailstack.wire.smtp.reply import Reply

DNS_TIMEOUT = 5.0
TEXT_LIMIT = 500
"""Characters of TXT records that a reply quotes."""

_LABEL = {
    "client": "Client host",
    "reverse_client": "Unverified Client host",
    "helo": "Helo command",
    "sender": "Sender address",
    "recipient": "Recipient address",
}
_STATUS = re.compile(r"([45]\d\d) (?:([245]\.\d{1,3}\.\d{1,3})(?:\s+|\Z))?(.*)\Z", re.DOTALL)
Pattern = tuple[frozenset[int], ...]
"""What each octet of an answer may be."""


class DnsLists:
    """Makes checks out of list names. Raises `ConfigError`."""

    WORDS = frozenset(
        (
            "reject_rbl_client",
            "reject_rbl",
            "permit_dnswl_client",
            "permit_rhswl_client",
            *(f"reject_rhsbl_{what}" for what in _LABEL),
        )
    )
    """Words that a list's name follows."""

    def __init__(
        self,
        conf: MainCf,
        resolver: Resolver,
        open_table: OpenTable,
        authorised: Callable[[Client], bool],
    ) -> None:
        self._conf = conf
        self._resolver = resolver
        self._authorised = authorised
        self._replies = AddressMaps(conf.list("rbl_reply_maps"), open_table)
        self._default = conf.raw("default_rbl_reply")
        self._unfit = unfit(conf)
        self._code = conf.int("maps_rbl_reject_code")

    def check(self, word: str, name: str) -> SlowCheck | None:
        """The check of `word`, or None when it is not one of ours. Raises `ConfigError`."""
        if word not in self.WORDS:
            return None
        domain, pattern = self._parse(word, name)
        if word.startswith("permit"):
            return self._allowing(word, domain, pattern)
        if word.startswith("reject_rhsbl_"):
            what = word.removeprefix("reject_rhsbl_")
            return self._blocking(_LABEL[what], _subject(what), domain, pattern)
        return self._blocking("Client host", _reversed_address, domain, pattern)

    def _parse(self, word: str, name: str) -> tuple[str, Pattern | None]:
        domain, equals, text = name.partition("=")
        pattern = parse_pattern(text) if equals else None
        if not domain or (equals and pattern is None):
            raise ConfigError(self._conf.path, 0, f"{word} {name}: bad DNS list or reply pattern")
        return domain.lower(), pattern

    def _blocking(
        self,
        label: str,
        subject: Callable[[Client], tuple[str, str]],
        domain: str,
        pattern: Pattern | None,
    ) -> SlowCheck:
        async def check(client: Client) -> Verdict:
            what, key = subject(client)
            if not key:
                return None
            query = f"{key}.{domain}".removesuffix(".")
            try:
                if not await self._is_listed(query, pattern):
                    return None
            except ResolveTemporary as error:
                client.warn(f"{query}: RBL lookup error: {error}")
                return None
            return await self._refusal(client, label, what, query, domain)

        return check

    def _allowing(self, word: str, domain: str, pattern: Pattern | None) -> SlowCheck:
        by_address = word == "permit_dnswl_client"

        async def check(client: Client) -> Verdict:
            # It must not open a relay: nothing but what reject_unauth_destination would let pass.
            if not self._authorised(client):
                return None
            what, key = _reversed_address(client) if by_address else _subject("client")(client)
            if not key:
                return None
            query = f"{key}.{domain}".removesuffix(".")
            try:
                return PERMIT if await self._is_listed(query, pattern) else None
            except ResolveTemporary as error:
                client.warn(f"{query}: RBL lookup error: {error}")
                text = f"<{what}>: Client host rejected: Service unavailable"
                return Deferral(Reply(450, "4.7.1", text), False)

        return check

    async def _is_listed(self, query: str, pattern: Pattern | None) -> bool:
        answers = await self._resolver.listed(query, timeout=DNS_TIMEOUT)
        return any(pattern is None or matches(pattern, answer) for answer in answers)

    async def _refusal(self, client: Client, label: str, what: str, query: str, name: str) -> Rejection:
        try:
            reason = " / ".join(await self._resolver.texts(query, timeout=DNS_TIMEOUT))[:TEXT_LIMIT]
        except ResolveError:
            reason = ""
        names = {
            "rbl_code": str(self._code),
            "rbl_domain": name,
            "rbl_reason": reason,
            "rbl_txt": reason,
            "rbl_what": what,
            "rbl_class": label,
            **session_names(client),
        }
        template = self._replies.get(name.lower()) if self._replies else None
        for one in (template, self._default):
            if one is None:
                continue
            text = fill(one, names, self._unfit)
            if text is None:
                client.warn(f"bad rbl reply template for domain {name}: {one}")
                continue
            found = _STATUS.match(text)
            if found is None:
                client.warn(f"rbl response code configuration error: {text}")
                return Rejection(Reply(450, "4.7.1", "Service unavailable"))
            code = int(found[1])
            enhanced = dsn_for(code, fitting_dsn(found[2] or "4.7.1", label))
            return Rejection(Reply(code, enhanced, found[3] or "Service unavailable"))
        return Rejection(Reply(450, "4.7.1", "Service unavailable"))


def parse_pattern(text: str) -> Pattern | None:
    """`127.0.0.[2..4;10]` as the sets of what each octet may be; None where it cannot be read."""
    octets = re.findall(r"\[[^\]]*\]|[^.\[\]]+", text)
    if re.sub(r"\[[^\]]*\]|[^.\[\]]+", "", text) != "..." or len(octets) != 4:
        return None
    found = []
    for octet in octets:
        values: set[int] = set()
        for part in octet.strip("[]").split(";") if octet.startswith("[") else [octet]:
            low, dots, high = part.partition("..")
            if not low.isdecimal() or (dots and not high.isdecimal()):
                return None
            first, last = int(low), int(high or low)
            if not 0 <= first <= last <= 255:
                return None
            values.update(range(first, last + 1))
        found.append(frozenset(values))
    return tuple(found)


def matches(pattern: Pattern, address: str) -> bool:
    """Whether a dotted IPv4 address is one that the pattern takes."""
    return all(int(octet) in wanted for octet, wanted in zip(address.split("."), pattern, strict=True))


def reversed_address(address: str) -> str:
    """`2.0.0.127` of 127.0.0.2, the nibbles of an IPv6 address, `""` of anything else."""
    try:
        pointer = ipaddress.ip_address(address).reverse_pointer
    except ValueError:
        return ""
    return pointer.removesuffix(".in-addr.arpa").removesuffix(".ip6.arpa")


def _reversed_address(client: Client) -> tuple[str, str]:
    return client.client_address, reversed_address(client.client_address)


def _subject(what: str) -> Callable[[Client], tuple[str, str]]:
    """What a reply names, and the domain to ask for; `""`: there is nothing to ask for."""

    def subject(client: Client) -> tuple[str, str]:
        match what:
            case "client" | "reverse_client":
                name = client.client_name if what == "client" else client.reverse_client_name
                return name, "" if name == "unknown" else name
            case "helo":
                return client.helo, _domain(client.helo)
        address = (client.sender if what == "sender" else client.recipient) or ""
        return address, _domain(address.rpartition("@")[2])

    return subject


def _domain(name: str) -> str:
    """A name that can be asked for: no literal, no address, not empty."""
    name = name.rstrip(".").lower()
    if not name or name.startswith("[") or ":" in name or name[-1].isdigit():
        return ""
    return name
